//! Requests that the server could not answer, as lines on standard error.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use socketserver_http::Access;

use crate::log::say;

/// Reports failures, at most one a second: a client can repeat its request without end.
#[derive(Debug)]
pub(super) struct Failures {
    began: Instant,
    /// The second of the last report, counted from 1.
    last: AtomicU64,
    unreported: AtomicU64,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
        }
    }
}

impl Failures {
    /// Reports a request that the server could not answer, or not to the end, and why.
    pub(super) fn report(&self, access: &Access<'_>) {
        let is_ours = |error: &(dyn Error + 'static)| {
            access.status().is_server_error()
                || !access.status().is_client_error() && !is_the_clients(error)
        };
        let Some(error) = access.error().filter(|error| is_ours(*error)) else {
            return;
        };
        let second = self.began.elapsed().as_secs() + 1;
        if self.last.swap(second, Relaxed) == second {
            self.unreported.fetch_add(1, Relaxed);
            return;
        }
        let id = access.connection_id();
        let status = access.status().as_u16();
        let path = access.request().map_or("-", |request| request.uri.path());
        match self.unreported.swap(0, Relaxed) {
            0 => say(format_args!(
                "socketserver: connection {id}: {path}: {status}: {error}"
            )),
            more => say(format_args!(
                "socketserver: connection {id}: {path}: {status}: {error} ({more} more since the last report)"
            )),
        }
    }
}

/// Whether an error says that the client has gone, or takes nothing.
fn is_the_clients(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref().map(io::Error::kind);
    kind.is_some_and(|kind| {
        matches!(
            kind,
            ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::NotConnected
                | ErrorKind::TimedOut
        )
    })
}
