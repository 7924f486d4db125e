//! Echo by a timetable: messages go round the connections, and one is sent when it is due, also while others are in flight
//! on its connection. Heavy requests have a timetable and connections of their own.

use std::time::Instant;

use anyhow::{Result, bail};
use bench_load::Heavy;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use crate::meter::Meter;
use crate::offered::{EVENTS, Timetable};
use crate::streams::{Buffers, Pinger, Shape};
use crate::target::Target;
use crate::{SIZE, report, wait_for_start};

/// How many answers are read at once.
const ANSWERS: usize = 64;

#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) connections: usize,
    /// Messages a second, over all connections.
    pub(crate) rate: f64,
}

/// Connections, and the timetable of their messages.
struct Sender {
    pingers: Vec<Pinger>,
    timetable: Timetable,
}

/// The bit that tells a server what a request costs it: the highest of its first byte, or the next one.
pub(crate) fn kind(name: &str) -> Result<u64> {
    match name {
        "cpu" => Ok(1 << 63),
        "wait" => Ok(1 << 62),
        _ => bail!("heavy requests are cpu or wait, not {name}"),
    }
}

pub(crate) fn run(
    target: &Target,
    light: Flow,
    heavy: Option<(u64, Flow)>,
    meter: &mut Meter,
) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut buffers = Buffers::new(Shape::new(SIZE, ANSWERS)?);
    let mut connect = |first: usize, count: usize, kind: u64| {
        (first..first + count)
            .map(|index| Pinger::connect(target, &epoll, index, kind, &mut buffers))
            .collect::<Result<Vec<_>>>()
    };
    let lights = connect(0, light.connections, 0)?;
    let heavies = match heavy {
        Some((kind, flow)) => connect(light.connections, flow.connections, kind)?,
        None => Vec::new(),
    };
    wait_for_start()?;
    meter.start()?;
    let mut heavy_meter = meter.clone();
    let mut light = Sender {
        pingers: lights,
        timetable: Timetable::new(light.rate, meter)?,
    };
    let mut heavy = match heavy {
        Some((_, flow)) => Some(Sender {
            pingers: heavies,
            timetable: Timetable::new(flow.rate, meter)?,
        }),
        None => None,
    };
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        light.send(&mut buffers)?;
        if let Some(heavy) = &mut heavy {
            heavy.send(&mut buffers)?;
        }
        // There is no end before both have come to theirs.
        let is_over = [Some(&light), heavy.as_ref()].into_iter().flatten();
        let is_over = is_over.map(|sender| sender.timetable.is_over());
        if is_over
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|over| *over)
        {
            break;
        }
        // The load never sleeps: it has a processor of its own, and being woken takes longer than it may be late.
        let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            let index = event.data() as usize;
            match (index.checked_sub(light.pingers.len()), &mut heavy) {
                (Some(index), Some(heavy)) => {
                    heavy.receive(index, &mut buffers, |due| heavy_meter.answered(due))?;
                }
                _ => light.receive(index, &mut buffers, |due| meter.answered(due))?,
            }
            light.send(&mut buffers)?;
        }
    }
    let mut summary = meter.summary()?;
    let mut offered = light.timetable.summary();
    if heavy.is_some() {
        let of_heavy = heavy_meter.summary()?;
        offered.heavy = Some(Heavy {
            measured: of_heavy.measured,
            p50_us: of_heavy.p50_us,
            p99_us: of_heavy.p99_us,
        });
    }
    summary.offered = Some(offered);
    report(&summary)
}

impl Sender {
    /// Sends what is due.
    fn send(&mut self, buffers: &mut Buffers) -> Result<()> {
        while let Some(due) = self.timetable.due() {
            let index = self.timetable.sent() as usize % self.pingers.len();
            let pinger = &mut self.pingers[index];
            if pinger.is_full(buffers) {
                self.timetable.hold();
                break;
            }
            self.timetable.send(due);
            pinger.send(1, due, buffers)?;
        }
        Ok(())
    }

    /// Reads the answers that are there on one connection.
    fn receive(
        &mut self,
        index: usize,
        buffers: &mut Buffers,
        mut answered: impl FnMut(Instant),
    ) -> Result<()> {
        let timetable = &mut self.timetable;
        self.pingers[index].receive(buffers, |due| {
            timetable.answered();
            answered(due);
        })?;
        Ok(())
    }
}
