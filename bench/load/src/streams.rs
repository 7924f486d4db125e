//! Echo: each connection keeps some messages in flight, one or several, and sends as many new ones as were answered.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::meter::Meter;
use crate::target::Target;
use crate::tls::Stream;
use crate::{EVENTS, fill, report, wait_for_start};

/// As much as the buffers of a connection hold, so that a client which sends first and reads then is never stuck.
const IN_FLIGHT_BYTES: usize = 64 * 1024;

/// What is in flight on a connection.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// The size of a message.
    size: usize,
    /// How many of them there are.
    depth: usize,
}

impl Shape {
    pub(crate) fn new(size: usize, depth: usize) -> Result<Self> {
        ensure!(
            size > 0 && size.is_multiple_of(8),
            "the size is no multiple of 8"
        );
        ensure!(depth > 0, "the depth is 0");
        ensure!(
            size * depth <= IN_FLIGHT_BYTES,
            "more than {IN_FLIGHT_BYTES} bytes would be in flight on a connection"
        );
        Ok(Self { size, depth })
    }
}

/// One connection. Its messages are numbered, so every byte of the stream is known.
pub(crate) struct Pinger {
    stream: Stream,
    /// The message whose answer is expected next, and how much of it has come.
    expected: u64,
    received: usize,
    /// When the messages in flight were sent.
    began: VecDeque<Instant>,
}

/// What the connections share: room for what is read, for what is expected and for what is sent.
pub(crate) struct Buffers {
    shape: Shape,
    input: Vec<u8>,
    message: Vec<u8>,
    output: Vec<u8>,
}

pub(crate) fn run(
    target: &Target,
    connections: usize,
    shape: Shape,
    meter: &mut Meter,
) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut buffers = Buffers::new(shape);
    let mut pingers = Vec::with_capacity(connections);
    for index in 0..connections {
        pingers.push(Pinger::connect(target, &epoll, index, 0, &mut buffers)?);
    }
    wait_for_start()?;
    meter.start()?;
    for pinger in &mut pingers {
        target.settle()?;
        pinger.send(shape.depth, Instant::now(), &mut buffers)?;
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(100_u16))?;
        for event in &events[..count] {
            let pinger = &mut pingers[event.data() as usize];
            let mut is_over = false;
            let answered = pinger.receive(&mut buffers, |began| is_over |= meter.ended(began))?;
            if answered > 0 && !is_over {
                target.settle()?;
                pinger.send(answered, Instant::now(), &mut buffers)?;
            }
        }
    }
    report(&meter.summary()?)?;
    // A connection that is closed before its answers are read is reset, which servers complain about.
    for pinger in &mut pingers {
        pinger.drain(&mut buffers)?;
    }
    Ok(())
}

impl Buffers {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            input: vec![0; shape.size * shape.depth],
            message: vec![0; shape.size],
            output: Vec::new(),
        }
    }
}

impl Pinger {
    /// Connects, and makes one exchange: the server has accepted it and set it up before anything is measured.
    /// The numbers of its messages have the bits of `kind`.
    pub(crate) fn connect(
        target: &Target,
        epoll: &Epoll,
        index: usize,
        kind: u64,
        buffers: &mut Buffers,
    ) -> Result<Self> {
        let stream = target.open(index as u64)?;
        if target.is_tcp() {
            stream.socket().set_tcp_nodelay(true)?;
        }
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        let mut this = Self {
            stream,
            // Numbers of different connections never meet.
            expected: kind | (index as u64) << 32,
            received: 0,
            began: VecDeque::new(),
        };
        this.send(1, Instant::now(), buffers)?;
        this.drain(buffers)?;
        Ok(this)
    }

    /// Reads all answers that are still to come.
    fn drain(&mut self, buffers: &mut Buffers) -> Result<()> {
        while !self.began.is_empty() {
            self.receive(buffers, |_| {})?;
        }
        Ok(())
    }

    /// Whether as much is in flight as the buffers of a connection are sure to hold.
    pub(crate) fn is_full(&self, buffers: &Buffers) -> bool {
        (self.began.len() + 1) * buffers.shape.size > IN_FLIGHT_BYTES
    }

    /// Sends the next messages with one call. Their time counts from `began`.
    pub(crate) fn send(
        &mut self,
        count: usize,
        began: Instant,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let size = buffers.shape.size;
        buffers.output.resize(count * size, 0);
        let next = self.expected + self.began.len() as u64;
        for (number, message) in (next..).zip(buffers.output.chunks_exact_mut(size)) {
            fill(number, message);
        }
        self.began.extend((0..count).map(|_| began));
        self.stream
            .write_all(&buffers.output)
            .context("send messages")
    }

    /// Reads what is there and compares it. Reports each answer that is whole, and says how many there were.
    pub(crate) fn receive(
        &mut self,
        buffers: &mut Buffers,
        mut ended: impl FnMut(Instant),
    ) -> Result<usize> {
        let count = self
            .stream
            .read(&mut buffers.input)
            .context("read an answer")?;
        ensure!(count > 0, "the server has closed a connection");
        let (mut input, mut answered) = (&buffers.input[..count], 0);
        while !input.is_empty() {
            fill(self.expected, &mut buffers.message);
            let rest = &buffers.message[self.received..];
            let (part, next) = input.split_at(rest.len().min(input.len()));
            ensure!(part == &rest[..part.len()], "wrong answer");
            self.received += part.len();
            input = next;
            if self.received == buffers.shape.size {
                ended(self.began.pop_front().context("more than was asked for")?);
                self.expected += 1;
                self.received = 0;
                answered += 1;
            }
        }
        Ok(answered)
    }
}
