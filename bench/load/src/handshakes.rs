//! A TLS connection for each request: the handshake, 64 bytes and close_notify, the same 64 bytes and close_notify, close.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::{ClientConnection, HandshakeKind};
use socket2::Socket;

use crate::meter::Meter;
use crate::target::Target;
use crate::tls::Tls;
use crate::{EVENTS, payload, report, wait_for_start};

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
        let mut handshake = Handshake::begin(target, tls, first, number)?;
        while !handshake.progress()? {}
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    wait_for_start()?;
    meter.start()?;
    let begin = |index: usize, number| {
        target.settle()?;
        let begun = Handshake::begin(target, tls, kind, number)?;
        epoll.add(
            &begun.socket,
            EpollEvent::new(EpollFlags::EPOLLIN, index as u64),
        )?;
        Ok::<_, anyhow::Error>(Some(begun))
    };
    let most = meter.most().unwrap_or(u64::MAX);
    let mut begun = most.min(in_flight as u64);
    let mut handshakes = (0..begun)
        .map(|number| begin(number as usize, number))
        .collect::<Result<Vec<_>>>()?;
    let mut events = [EpollEvent::empty(); EVENTS];
    while !meter.is_over() {
        let count = epoll.wait(&mut events, EpollTimeout::from(100_u16))?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let handshake = handshakes[index]
                .as_mut()
                .context("an event of no handshake")?;
            if !handshake.progress()? {
                continue;
            }
            meter.ended(handshake.began);
            // Closes the one that has ended, and so takes it out of the epoll instance.
            handshakes[index] = None;
            if begun < most {
                handshakes[index] = begin(index, begun)?;
                begun += 1;
            }
        }
    }
    report(&meter.summary()?)
}

impl Handshake {
    fn begin(target: &Target, tls: &Tls, kind: HandshakeKind, number: u64) -> Result<Self> {
        let began = Instant::now();
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

    /// Reads what is there, and sends what is due. Returns whether answer and end have come.
    fn progress(&mut self) -> Result<bool> {
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

    fn send(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tls
                .write_tls(&mut self.socket)
                .context("send a request")?;
        }
        Ok(())
    }
}
