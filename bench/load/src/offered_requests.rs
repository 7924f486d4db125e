//! A connection for each request, by a timetable.

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use crate::closed::Operation;
use crate::meter::Meter;
use crate::offered::{EVENTS, Timetable};
use crate::requests::Request;
use crate::target::Target;
use crate::{report, wait_for_start};

/// The requests in flight, and their timetable.
struct Requests<'a> {
    target: &'a Target,
    epoll: Epoll,
    places: Vec<Option<Request>>,
    /// Places that have no request.
    free: Vec<usize>,
    timetable: Timetable,
}

pub(crate) fn run(target: &Target, most: usize, rate: f64, meter: &mut Meter) -> Result<()> {
    wait_for_start()?;
    meter.start()?;
    let mut requests = Requests {
        target,
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

impl Requests<'_> {
    /// Begins what is due.
    fn begin(&mut self) -> Result<()> {
        while let Some(due) = self.timetable.due() {
            let Some(index) = self.free.pop() else {
                self.timetable.hold();
                break;
            };
            let number = self.timetable.sent();
            self.timetable.send(due);
            let request = Request::begin(self.target, &self.epoll, index, number, due)?;
            self.places[index] = Some(request);
        }
        Ok(())
    }

    fn progress(&mut self, event: &EpollEvent, meter: &mut Meter) -> Result<()> {
        let index = event.data() as usize;
        let place = &mut self.places[index];
        let request = place.as_mut().context("an event of no request")?;
        if request.progress(event.events())? {
            meter.answered(request.began);
            self.timetable.answered();
            // Closes it, and so takes it out of the epoll instance.
            *place = None;
            self.free.push(index);
        }
        Ok(())
    }
}
