//! A connection for each request: connect, send 64 bytes and the end, read the same 64 bytes and the end, close.

use std::io::Read;
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::libc::MSG_MORE;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use crate::meter::Meter;
use crate::target::Target;
use crate::{EVENTS, SIZE, payload, report, wait_for_start};

pub(crate) struct Request {
    socket: Socket,
    number: u64,
    pub(crate) began: Instant,
    answered: bool,
}

pub(crate) fn run(target: &Target, in_flight: usize, meter: &mut Meter) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    wait_for_start()?;
    meter.start()?;
    let most = meter.most().unwrap_or(u64::MAX);
    let mut begun = most.min(in_flight as u64);
    let mut requests = (0..begun)
        .map(|number| {
            let begin = Request::begin(target, &epoll, number as usize, number, Instant::now());
            begin.map(Some)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut events = [EpollEvent::empty(); EVENTS];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(100_u16))?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let request = requests[index].as_mut().context("an event of no request")?;
            if !request.progress(event.events())? {
                continue;
            }
            meter.ended(request.began);
            // Closes the one that has ended, and so takes it out of the epoll instance.
            requests[index] = None;
            if begun < most {
                let now = Instant::now();
                requests[index] = Some(Request::begin(target, &epoll, index, begun, now)?);
                begun += 1;
            }
        }
    }
    report(&meter.summary()?)
}

impl Request {
    pub(crate) fn begin(
        target: &Target,
        epoll: &Epoll,
        index: usize,
        number: u64,
        began: Instant,
    ) -> Result<Self> {
        target.settle()?;
        let socket = target.connect(number)?;
        // The end travels with the data: one segment.
        let sent = socket.send_with_flags(&payload(number), MSG_MORE)?;
        ensure!(sent == SIZE, "{sent} bytes of a request were sent");
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

    /// Reads what is there. Says whether answer and end have come.
    pub(crate) fn progress(&mut self, ready: EpollFlags) -> Result<bool> {
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
