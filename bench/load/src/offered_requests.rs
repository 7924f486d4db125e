//! A connection for each request, by a timetable.

use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use crate::closed::Operation;
use crate::meter::Meter;
use crate::offered::{EVENTS, Timetable};
use crate::{report, wait_for_start};

/// The requests in flight, and their timetable.
struct Requests<O, B> {
    begin: B,
    epoll: Epoll,
    places: Vec<Option<O>>,
    /// Places that have no request.
    free: Vec<usize>,
    timetable: Timetable,
}

/// Has at most so many in flight. `begin` makes one of an index in the epoll instance, to which it adds the socket, of its
/// number, and of when it was due.
pub(crate) fn run<O: Operation>(
    most: usize,
    rate: f64,
    meter: &mut Meter,
    begin: impl Fn(&Epoll, usize, u64, Instant) -> Result<O>,
) -> Result<()> {
    wait_for_start()?;
    meter.start()?;
    let mut requests = Requests {
        begin,
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        places: (0..most).map(|_| None).collect(),
        free: (0..most).collect(),
        timetable: Timetable::new(rate, meter)?,
    };
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        requests.begin()?;
        if requests.timetable.is_over()? {
            break;
        }
        let count = requests.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            requests.progress(event, meter)?;
            requests.begin()?;
        }
    }
    let mut summary = meter.summary()?;
    summary.offered = Some(requests.timetable.summary());
    report(&summary)
}

impl<O: Operation, B: Fn(&Epoll, usize, u64, Instant) -> Result<O>> Requests<O, B> {
    /// Begins what is due.
    fn begin(&mut self) -> Result<()> {
        while let Some(due) = self.timetable.due() {
            let Some(index) = self.free.pop() else {
                self.timetable.hold();
                break;
            };
            let number = self.timetable.sent();
            self.timetable.send(due);
            let request = (self.begin)(&self.epoll, index, number, due)?;
            self.places[index] = Some(request);
        }
        Ok(())
    }

    fn progress(&mut self, event: &EpollEvent, meter: &mut Meter) -> Result<()> {
        let index = event.data() as usize;
        let place = &mut self.places[index];
        let request = place.as_mut().context("an event of no request")?;
        if request.progress(event.events())? {
            meter.answered(request.began());
            self.timetable.answered();
            // Closes it, and so takes it out of the epoll instance.
            *place = None;
            self.free.push(index);
        }
        Ok(())
    }
}
