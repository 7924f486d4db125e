//! Ping-pong: each connection sends 64 bytes, waits for the same 64 bytes, and goes on.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use crate::meter::Meter;
use crate::target::Target;
use crate::{SIZE, payload};

struct Pinger {
    socket: Socket,
    number: u64,
    began: Instant,
    received: usize,
    answer: [u8; SIZE],
}

pub(crate) fn run(target: &Target, connections: usize, meter: &mut Meter) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut pingers = (0..connections)
        .map(|index| Pinger::connect(target, &epoll, index))
        .collect::<Result<Vec<_>>>()?;
    for pinger in &mut pingers {
        pinger.ping()?;
    }
    let mut events = [EpollEvent::empty(); 64];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(100_u16))?;
        for event in &events[..count] {
            let pinger = &mut pingers[event.data() as usize];
            if pinger.progress()? && !meter.ended(pinger.began) {
                pinger.ping()?;
            }
        }
    }
    Ok(())
}

impl Pinger {
    fn connect(target: &Target, epoll: &Epoll, index: usize) -> Result<Self> {
        let socket = target.connect(index as u64)?;
        if target.is_tcp() {
            socket.set_tcp_nodelay(true)?;
        }
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        Ok(Self {
            socket,
            // Numbers of different connections never meet.
            number: (index as u64) << 32,
            began: Instant::now(),
            received: 0,
            answer: [0; SIZE],
        })
    }

    fn ping(&mut self) -> Result<()> {
        self.number += 1;
        self.received = 0;
        self.began = Instant::now();
        (&self.socket)
            .write_all(&payload(self.number))
            .context("send a ping")
    }

    /// Reads what is there. Says whether the answer is whole.
    fn progress(&mut self) -> Result<bool> {
        let count = (&self.socket)
            .read(&mut self.answer[self.received..])
            .context("read an answer")?;
        ensure!(count > 0, "the server has closed a connection");
        self.received += count;
        if self.received < SIZE {
            return Ok(false);
        }
        ensure!(self.answer == payload(self.number), "wrong answer");
        Ok(true)
    }
}
