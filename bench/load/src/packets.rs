//! Packets: four sockets, but no more than packets in flight, each with a window of packets that are sent again as they are
//! answered. A packet that is not answered in time counts as lost, and a new one takes its place.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use socket2::Socket;

use crate::meter::Meter;
use crate::target::Target;
use crate::{SIZE, payload, report, wait_for_start};

const SOCKETS: usize = 4;
const LOST_AFTER: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One client socket and its window. The low bits of a packet's number say which place it has in the window.
struct Window {
    socket: Socket,
    headers: MultiHeaders<()>,
    buffers: Vec<[u8; 2 * SIZE]>,
    places: Vec<Place>,
    /// The places whose packets are to be sent.
    due: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Place {
    number: u64,
    sent: Instant,
}

pub(crate) fn run(target: &Target, in_flight: usize, meter: &mut Meter) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let sockets = SOCKETS.min(in_flight);
    let mut windows = (0..sockets)
        .map(|index| Window::connect(target, &epoll, index, in_flight.div_ceil(sockets)))
        .collect::<Result<Vec<_>>>()?;
    wait_for_start()?;
    meter.start()?;
    for window in &mut windows {
        target.settle()?;
        window.send()?;
    }
    let mut look = Instant::now() + LOOK_EVERY;
    let mut events = [EpollEvent::empty(); SOCKETS];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(50_u16))?;
        for event in &events[..count] {
            let window = &mut windows[event.data() as usize];
            window.receive(meter)?;
            if !meter.is_over() {
                target.settle()?;
                window.send()?;
            }
        }
        if Instant::now() >= look {
            look = Instant::now() + LOOK_EVERY;
            for window in &mut windows {
                window.replace_lost(meter);
                window.send()?;
            }
        }
    }
    report(&meter.summary()?)
}

impl Window {
    fn connect(target: &Target, epoll: &Epoll, index: usize, size: usize) -> Result<Self> {
        let socket = target.connect(index as u64)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        let place = |place: usize| Place {
            // Numbers of different sockets never meet.
            number: ((index as u64) << 48) + place as u64,
            sent: Instant::now(),
        };
        Ok(Self {
            socket,
            headers: MultiHeaders::preallocate(size, None),
            buffers: vec![[0; 2 * SIZE]; size],
            places: (0..size).map(place).collect(),
            due: (0..size).collect(),
        })
    }

    /// Sends the packets that are due.
    fn send(&mut self) -> Result<()> {
        let now = Instant::now();
        let packets: Vec<_> = self
            .due
            .iter()
            .map(|&place| payload(self.places[place].number))
            .collect();
        for place in self.due.drain(..) {
            self.places[place].sent = now;
        }
        let mut sent = 0;
        while sent < packets.len() {
            let slices: Vec<_> = packets[sent..].iter().map(|p| [IoSlice::new(p)]).collect();
            let none = vec![None; slices.len()];
            let fd = self.socket.as_raw_fd();
            let flags = MsgFlags::empty();
            sent += sendmmsg(fd, &mut self.headers, &slices, none, [], flags)
                .context("send packets")?
                .count();
        }
        Ok(())
    }

    /// Takes the answers that are there, and makes their places due again.
    fn receive(&mut self, meter: &mut Meter) -> Result<()> {
        let mut slices: Vec<_> = self
            .buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let sizes: Vec<_> = match recvmmsg(fd, &mut self.headers, &mut slices, flags, None) {
            Ok(received) => received.map(|message| message.bytes).collect(),
            Err(Errno::EAGAIN) => return Ok(()),
            Err(err) => return Err(err).context("receive packets"),
        };
        let window = self.places.len() as u64;
        for (buffer, size) in self.buffers.iter().zip(sizes) {
            let answer = &buffer[..size];
            let number = answer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let number = number.context("an answer has less than 8 bytes")?;
            ensure!(answer == payload(number), "wrong answer of {size} bytes");
            let index = ((number & 0xffff_ffff) % window) as usize;
            let place = &mut self.places[index];
            if place.number != number {
                ensure!(number < place.number, "an answer that nobody asked for");
                // It was given up as lost.
                continue;
            }
            meter.ended(place.sent);
            place.number += window;
            self.due.push(index);
        }
        Ok(())
    }

    fn replace_lost(&mut self, meter: &mut Meter) {
        let size = self.places.len() as u64;
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.sent.elapsed() > LOST_AFTER {
                meter.lost();
                place.number += size;
                self.due.push(index);
            }
        }
    }
}
