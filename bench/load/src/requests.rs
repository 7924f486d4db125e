//! A connection for each request: connect, send 64 bytes and the end, read the same 64 bytes and the end, close.

use std::io::Read;
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::libc::MSG_MORE;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;

use crate::closed::{self, Operation};
use crate::meter::Meter;
use crate::target::Target;
use crate::{SIZE, offered_requests, payload};

struct Request {
    socket: Socket,
    number: u64,
    began: Instant,
    answered: bool,
}

pub(crate) fn run(target: &Target, in_flight: usize, meter: &mut Meter) -> Result<()> {
    closed::run(in_flight, meter, |epoll, index, number| {
        Request::begin(target, epoll, index, number, Instant::now())
    })
}

/// The same by a timetable.
pub(crate) fn offer(target: &Target, most: usize, rate: f64, meter: &mut Meter) -> Result<()> {
    offered_requests::run(most, rate, meter, |epoll, index, number, due| {
        Request::begin(target, epoll, index, number, due)
    })
}

impl Request {
    fn begin(
        target: &Target,
        epoll: &Epoll,
        index: usize,
        number: u64,
        began: Instant,
    ) -> Result<Self> {
        target.settle()?;
        let socket = target.connect(number)?;
        // The end travels with the data: one segment. A header is part of the same call, so that it costs the load no other.
        let request = [target.header(), &payload(number)].concat();
        let sent = socket.send_with_flags(&request, MSG_MORE)?;
        ensure!(sent == request.len(), "{sent} bytes of a request were sent");
        socket.shutdown(Shutdown::Write)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        epoll.add(&socket, EpollEvent::new(interest, index as u64))?;
        Ok(Self {
            socket,
            number,
            began,
            answered: false,
        })
    }
}

impl Operation for Request {
    fn began(&self) -> Instant {
        self.began
    }

    /// Reads what is there. Says whether answer and end have come.
    fn progress(&mut self, ready: EpollFlags) -> Result<bool> {
        if !self.answered {
            let mut buf = [0; 2 * SIZE];
            let count = (&self.socket).read(&mut buf).context("read an answer")?;
            // A segment is not split on its way over loopback.
            ensure!(
                buf[..count] == payload(self.number),
                "wrong answer of {count} bytes"
            );
            self.answered = true;
        }
        Ok(ready.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP))
    }
}
