//! Calls that a signal interrupts.

use std::io::{self, ErrorKind};

/// Goes on with a call on a socket that has a timeout: it returns early when a signal comes, also when the process was
/// stopped and goes on (signal(7)).
pub(crate) fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
