//! Threads beside those of the model, which start at the first use, in the process that needs them.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// A thread that runs for as long as its process lives.
#[derive(Debug, Default)]
pub(crate) struct Background(Mutex<bool>);

impl Background {
    /// Starts the thread, unless it runs.
    pub(crate) fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.unless_started(|| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(run).map(drop)
        })
    }

    fn unless_started(&self, start: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut has_started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_started {
            start()?;
            *has_started = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_could_not_start_is_started_later() {
        let thread = Background::default();
        let mut starts = 0;
        for _ in 0..3 {
            let started = thread.unless_started(|| {
                starts += 1;
                if starts == 1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            assert_eq!(started.is_err(), starts == 1);
        }
        assert_eq!(starts, 2);
    }
}
