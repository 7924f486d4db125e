//! Echo by a timetable: messages go round the connections, and one is sent when it is due, also while others are in flight
//! on its connection. Heavy requests have a timetable and connections of their own.

use anyhow::{Result, bail};
use bench_load::{Heavy, Summary};
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

/// Connections, the timetable of their messages, and how long those took.
struct Sender {
    /// What the first of them is called in the epoll instance.
    first: usize,
    pingers: Vec<Pinger>,
    timetable: Timetable,
    meter: Meter,
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
    let (mut first, mut connected) = (0, Vec::new());
    for (kind, flow) in [Some((0, light)), heavy].into_iter().flatten() {
        let next = first + flow.connections;
        let pingers = (first..next)
            .map(|index| Pinger::connect(target, &epoll, index, kind, &mut buffers))
            .collect::<Result<Vec<_>>>()?;
        connected.push((first, pingers, flow.rate));
        first = next;
    }
    wait_for_start()?;
    meter.start()?;
    let mut senders = Vec::new();
    for (first, pingers, rate) in connected {
        senders.push(Sender {
            first,
            pingers,
            timetable: Timetable::new(rate, meter)?,
            meter: meter.clone(),
        });
    }
    send_and_receive(&epoll, &mut senders, &mut buffers)?;
    report(&summary(&senders)?)
}

/// Keeps to the timetables until all answers have come.
fn send_and_receive(epoll: &Epoll, senders: &mut [Sender], buffers: &mut Buffers) -> Result<()> {
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let mut is_over = true;
        for sender in &mut *senders {
            sender.send(buffers)?;
            is_over &= sender.timetable.is_over()?;
        }
        if is_over {
            return Ok(());
        }
        // The load never sleeps: it has a processor of its own, and being woken takes longer than it may be late.
        let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let of_this = |sender: &&mut Sender| index >= sender.first;
            if let Some(sender) = senders.iter_mut().rev().find(of_this) {
                sender.receive(index - sender.first, buffers)?;
            }
            for sender in &mut *senders {
                sender.send(buffers)?;
            }
        }
    }
}

/// Of the light messages, and some of the heavy ones.
fn summary(senders: &[Sender]) -> Result<Summary> {
    let light = &senders[0];
    let mut offered = light.timetable.summary();
    if let Some(heavy) = senders.get(1) {
        let Summary {
            measured,
            p50_us,
            p99_us,
            ..
        } = heavy.meter.summary()?;
        offered.heavy = Some(Heavy {
            measured,
            p50_us,
            p99_us,
        });
    }
    Ok(Summary {
        offered: Some(offered),
        ..light.meter.summary()?
    })
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
    fn receive(&mut self, index: usize, buffers: &mut Buffers) -> Result<()> {
        let (timetable, meter) = (&mut self.timetable, &mut self.meter);
        self.pingers[index].receive(buffers, |due| {
            timetable.answered();
            meter.answered(due);
        })?;
        Ok(())
    }
}
