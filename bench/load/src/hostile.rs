//! Clients that a server over TLS has to endure: silent ones, ones that send their first message byte by byte, and ones that
//! send what is no handshake, or stop in one. When the server has closed one of them, it comes again.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::ClientConnection;
use socket2::Socket;

use crate::drips::take_turns;
use crate::hold::Until;
use crate::target::Target;
use crate::tls::Tls;
use crate::{EVENTS, end_in_any_case};

/// How long a client takes at least from a byte to the next one. The load has the processor of the one that is measured, and
/// should use little of it.
const DRIP: Duration = Duration::from_millis(500);

/// What a client does that is not silent and does not drip. They are as many of each kind.
const MISCONDUCT: [Conduct; 12] = [
    Conduct::Sends(&[0xa5; 4096]),
    Conduct::Sends(&OVERSIZED),
    Conduct::Sends(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    Conduct::Stops { percent: 1 },
    Conduct::Stops { percent: 3 },
    Conduct::Stops { percent: 50 },
    Conduct::Stops { percent: 99 },
    Conduct::Stops { percent: 100 },
    Conduct::StopsAfterAnswer { sent: 0 },
    Conduct::StopsAfterAnswer { sent: 1 },
    Conduct::StopsAfterAnswer { sent: 10 },
    Conduct::StopsAfterAnswer { sent: 40 },
];

/// A record that is larger than records may be.
const OVERSIZED: [u8; 4096] = {
    let mut bytes = [0; 4096];
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]] = [0x16, 3, 1, 0xff, 0xff];
    bytes
};

#[derive(Clone, Copy)]
enum Conduct {
    Silent,
    /// Sends its first message byte by byte, and then nothing.
    Drips,
    /// Sends this in each turn.
    Sends(&'static [u8]),
    /// Stops within its first message, or after it.
    Stops {
        percent: usize,
    },
    /// Stops after the server's messages and so many bytes of its last one.
    StopsAfterAnswer {
        sent: usize,
    },
}

/// What all clients share.
struct Crowd<'a> {
    target: &'a Target,
    tls: &'a Tls,
    /// The first message.
    hello: Vec<u8>,
    epoll: Epoll,
    /// How many have come: the number of the next.
    come: u64,
}

struct Client {
    socket: Socket,
    conduct: Conduct,
    /// How much of its first message has been sent.
    sent: usize,
    /// Its handshake, while it waits for the server's messages.
    tls: Option<ClientConnection>,
}

/// Keeps so many of them at the server.
pub(crate) fn run(
    target: &Target,
    silent: usize,
    dripping: usize,
    misbehaving: usize,
    at_most: Duration,
) -> Result<()> {
    let end = Until::blocked()?;
    end_in_any_case(at_most);
    let mut crowd = Crowd::new(target)?;
    let conducts = std::iter::repeat_n(Conduct::Silent, silent)
        .chain(std::iter::repeat_n(Conduct::Drips, dripping))
        .chain(MISCONDUCT.into_iter().cycle().take(misbehaving));
    let mut clients = Vec::new();
    for (index, conduct) in conducts.enumerate() {
        clients.push(crowd.arrive(index, conduct)?);
    }
    println!("ready");
    let mut gone = VecDeque::new();
    take_turns(&end, clients.len(), DRIP, |indices| {
        for index in indices {
            clients[index].go_on(&crowd.hello);
        }
        crowd.note_closed(&mut gone)?;
        // One in each turn: what coming again costs does not depend on how fast the server closes.
        if let Some(index) = gone.pop_front() {
            clients[index] = crowd.arrive(index, clients[index].conduct)?;
        }
        Ok(())
    })?;
    println!("{} have come", crowd.come);
    Ok(())
}

impl<'a> Crowd<'a> {
    fn new(target: &'a Target) -> Result<Self> {
        let tls = target.tls().context("the URL is not one of TLS")?;
        let mut hello = Vec::new();
        tls.connection()?.write_tls(&mut hello)?;
        Ok(Self {
            target,
            tls,
            hello,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            come: 0,
        })
    }

    /// Connects, and does what the client begins with.
    fn arrive(&mut self, index: usize, conduct: Conduct) -> Result<Client> {
        let number = self.come;
        self.come += 1;
        let socket = self.target.connect(number)?;
        socket.set_nonblocking(true)?;
        let closed = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        self.epoll
            .add(&socket, EpollEvent::new(closed, index as u64))?;
        let mut client = Client {
            socket,
            conduct,
            sent: 0,
            tls: None,
        };
        match conduct {
            Conduct::Silent | Conduct::Sends(_) => {}
            // Messages are whole at different times: some before the server's patience ends.
            Conduct::Drips => client.send_hello(&self.hello, number as usize % self.hello.len()),
            Conduct::Stops { percent } => {
                client.send_hello(&self.hello, self.hello.len() * percent / 100);
            }
            Conduct::StopsAfterAnswer { .. } => {
                let mut tls = self.tls.connection()?;
                let mut hello = Vec::new();
                tls.write_tls(&mut hello)?;
                client.send(&hello);
                client.tls = Some(tls);
            }
        }
        Ok(client)
    }

    /// Adds those that the server has closed.
    fn note_closed(&self, gone: &mut VecDeque<usize>) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        gone.extend(events[..count].iter().map(|event| event.data() as usize));
        Ok(())
    }
}

impl Client {
    /// Does what is due in its turn.
    fn go_on(&mut self, hello: &[u8]) {
        match self.conduct {
            Conduct::Silent | Conduct::Stops { .. } => {}
            Conduct::Drips => self.send_hello(hello, 1),
            Conduct::Sends(bytes) => self.send(bytes),
            Conduct::StopsAfterAnswer { sent } => self.answer(sent),
        }
    }

    /// Sends so much more of its first message.
    fn send_hello(&mut self, hello: &[u8], count: usize) {
        let rest = &hello[self.sent..];
        let part = &rest[..count.min(rest.len())];
        self.sent += part.len();
        if !part.is_empty() {
            self.send(part);
        }
    }

    fn send(&self, bytes: &[u8]) {
        // The server may have closed the connection, or take nothing: that is its right.
        let _ = (&self.socket).write(bytes);
    }

    /// Sends a part of its last message, once the server's messages are there.
    fn answer(&mut self, count: usize) {
        let Some(tls) = &mut self.tls else {
            return;
        };
        match tls.read_tls(&mut &self.socket) {
            Ok(1..) if tls.process_new_packets().is_ok() => {}
            Err(err) if err.kind() == ErrorKind::WouldBlock => return,
            _ => {
                self.tls = None;
                return;
            }
        }
        if !tls.is_handshaking() {
            let mut last = Vec::new();
            while tls.wants_write() && tls.write_tls(&mut last).is_ok() {}
            self.tls = None;
            self.send(&last[..count.min(last.len())]);
        }
    }
}
