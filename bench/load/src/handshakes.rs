//! A TLS connection for each request: the handshake, 64 bytes and close_notify, the same 64 bytes and close_notify, close.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustls::{ClientConnection, HandshakeKind};
use socket2::Socket;

use crate::closed::{self, Operation};
use crate::meter::Meter;
use crate::target::Target;
use crate::tls::Tls;
use crate::{offered_requests, payload};

struct Handshake {
    socket: Socket,
    tls: ClientConnection,
    kind: HandshakeKind,
    number: u64,
    began: Instant,
    /// The request has been sent.
    asked: bool,
    answer: Vec<u8>,
}

/// All of them are full, or all are resumed.
pub(crate) fn run(
    target: &Target,
    in_flight: usize,
    is_resumed: bool,
    meter: &mut Meter,
) -> Result<()> {
    let full = target.tls().context("the URL is not one of TLS")?;
    let resuming = full.resuming();
    let (tls, kind) = match is_resumed {
        true => (&resuming, HandshakeKind::Resumed),
        false => (full, HandshakeKind::Full),
    };
    // Each brings one ticket more than it takes.
    for number in 0..in_flight as u64 {
        let first = if number == 0 {
            HandshakeKind::Full
        } else {
            kind
        };
        let mut handshake = Handshake::begin(target, tls, first, number, Instant::now())?;
        while !handshake.progress(EpollFlags::empty())? {}
    }
    closed::run(in_flight, meter, |epoll, index, number| {
        target.settle()?;
        Handshake::begin(target, tls, kind, number, Instant::now())?.added_to(epoll, index)
    })
}

/// The same by a timetable: all are full.
pub(crate) fn offer(target: &Target, most: usize, rate: f64, meter: &mut Meter) -> Result<()> {
    let tls = target.tls().context("the URL is not one of TLS")?;
    offered_requests::run(most, rate, meter, |epoll, index, number, due| {
        Handshake::begin(target, tls, HandshakeKind::Full, number, due)?.added_to(epoll, index)
    })
}

impl Handshake {
    fn begin(
        target: &Target,
        tls: &Tls,
        kind: HandshakeKind,
        number: u64,
        began: Instant,
    ) -> Result<Self> {
        let mut this = Self {
            socket: target.connect(number)?,
            tls: tls.connection()?,
            kind,
            number,
            began,
            asked: false,
            answer: Vec::new(),
        };
        this.send()?;
        Ok(this)
    }

    fn added_to(self, epoll: &Epoll, index: usize) -> Result<Self> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&self.socket, event)?;
        Ok(self)
    }

    fn send(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tls
                .write_tls(&mut self.socket)
                .context("send a request")?;
        }
        Ok(())
    }
}

impl Operation for Handshake {
    fn began(&self) -> Instant {
        self.began
    }

    /// Reads what is there, and sends what is due. Returns whether answer and end have come.
    fn progress(&mut self, _: EpollFlags) -> Result<bool> {
        let count = self
            .tls
            .read_tls(&mut self.socket)
            .context("read an answer")?;
        self.tls.process_new_packets()?;
        match self.tls.reader().read_to_end(&mut self.answer) {
            Err(err) if err.kind() != ErrorKind::WouldBlock => return Err(err.into()),
            _ => {}
        }
        if !self.tls.is_handshaking() && !self.asked {
            self.asked = true;
            let kind = self.tls.handshake_kind();
            ensure!(kind == Some(self.kind), "the handshake was {kind:?}");
            // With the last message of the handshake, and one call.
            self.tls.writer().write_all(&payload(self.number))?;
            self.tls.send_close_notify();
            self.send()?;
            self.socket.shutdown(Shutdown::Write)?;
        }
        if count == 0 {
            ensure!(self.answer == payload(self.number), "wrong answer");
        }
        Ok(count == 0)
    }
}
