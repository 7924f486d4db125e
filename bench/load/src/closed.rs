//! A closed loop: each operation that ends is followed by the next one.

use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::meter::Meter;
use crate::{EVENTS, report, wait_for_start};

/// An operation on a socket of its own.
pub(crate) trait Operation {
    fn began(&self) -> Instant;

    /// Goes on with what can be done now. Returns whether the operation has ended.
    fn progress(&mut self, ready: EpollFlags) -> Result<bool>;
}

/// Keeps `in_flight` operations going. `begin` makes one of an index in the epoll instance, to which it adds the socket,
/// and of its number.
pub(crate) fn run<O: Operation>(
    in_flight: usize,
    meter: &mut Meter,
    begin: impl Fn(&Epoll, usize, u64) -> Result<O>,
) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    wait_for_start()?;
    meter.start()?;
    let most = meter.most().unwrap_or(u64::MAX);
    let mut begun = most.min(in_flight as u64);
    let mut operations = (0..begun)
        .map(|number| begin(&epoll, number as usize, number).map(Some))
        .collect::<Result<Vec<_>>>()?;
    let mut events = [EpollEvent::empty(); EVENTS];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(100_u16))?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let operation = operations[index]
                .as_mut()
                .context("an event of no operation")?;
            if !operation.progress(event.events())? {
                continue;
            }
            meter.ended(operation.began());
            // Closes the one that has ended, and so takes it out of the epoll instance.
            operations[index] = None;
            if begun < most {
                operations[index] = Some(begin(&epoll, index, begun)?);
                begun += 1;
            }
        }
    }
    report(&meter.summary()?)
}
