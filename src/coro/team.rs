//! What the workers of one runtime share.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::coro::driver;
use crate::coro::inbox::{Inbox, Message, Start};
use crate::coro::stack::{self, StackGauge};
use crate::coro::watchdog::Kennel;
use crate::coro::worker::current;
use crate::threads::{Limits, Threads};

/// The most threads that the coroutines of one runtime offload to. Further calls wait for one.
const HELPERS: usize = 64;

/// The workers of one runtime, as seen from other threads.
#[derive(Debug)]
pub(crate) struct Team {
    /// One for each worker.
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) kennel: Arc<Kennel>,
    /// The threads for `offload`. None is started before it is needed.
    pub(crate) helpers: Threads,
    pub(crate) stack_size: usize,
    pub(crate) gauge: Option<StackGauge>,
    /// How many coroutines there can be, if that is known.
    capacity: Option<usize>,
    pub(crate) driver: driver::Kind,
}

impl Team {
    pub(crate) fn new(
        workers: usize,
        stack_size: usize,
        gauge: Option<StackGauge>,
        driver: driver::Kind,
    ) -> io::Result<Arc<Self>> {
        let inboxes = (0..workers)
            .map(|_| Inbox::new())
            .collect::<io::Result<_>>()?;
        let keep_alive = Some(Duration::from_secs(10));
        let limits = Limits {
            threads: HELPERS,
            queue: 0,
            keep_alive,
            stack_size: None,
        };
        let (kennel, helpers) = (Arc::new(Kennel::new(workers)), Threads::new(limits, || {}));
        Ok(Arc::new(Self {
            inboxes,
            kennel,
            helpers,
            stack_size,
            gauge,
            capacity: stack::capacity(),
            driver,
        }))
    }

    /// Runs `start` in a coroutine of the worker that has the fewest. `label` is what the watchdog
    /// calls it.
    pub(crate) fn start(&self, start: Start, label: u64) {
        let inboxes = self.inboxes.iter().enumerate();
        let Some((place, inbox)) = inboxes.min_by_key(|(_, inbox)| inbox.load()) else {
            return;
        };
        let here = match current() {
            Some(current) => current.start(self, place, start, label),
            None => Err(start),
        };
        if let Err(start) = here {
            inbox.send(Message::Start(start, label));
        }
    }

    /// Lets what was started run before the coroutine that calls goes on, where no other worker has
    /// to wait for that.
    pub(crate) fn hand_over(&self) {
        if let (Some(current), [_]) = (current(), &self.inboxes[..]) {
            current.hand_over();
        }
    }

    /// How many more coroutines there can be.
    pub(crate) fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| {
            let load: usize = self.inboxes.iter().map(Inbox::load).sum();
            capacity.saturating_sub(load)
        })
    }

    /// Ends what is left: parking fails from now on.
    pub(crate) fn cancel(&self) {
        self.inboxes
            .iter()
            .for_each(|inbox| inbox.send(Message::Cancel));
    }

    /// Ends each worker when its last coroutine has.
    pub(crate) fn close(&self) {
        self.inboxes
            .iter()
            .for_each(|inbox| inbox.send(Message::Close));
    }
}
