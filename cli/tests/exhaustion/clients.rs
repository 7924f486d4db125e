//! Clients that come while there is no room, and wait for what becomes of them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One that has said `x`.
pub(crate) struct Client {
    /// Absent once the client has left.
    stream: Option<TcpStream>,
    pub(crate) received: Vec<u8>,
    /// The server has ended the connection.
    pub(crate) ended: bool,
}

#[derive(Default)]
pub(crate) struct Clients(pub(crate) Vec<Client>);

impl Client {
    #[track_caller]
    fn come(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("connect");
        // A server that refuses may be faster.
        let _ = stream.write_all(b"x");
        stream.set_nonblocking(true).expect("a mode");
        Self {
            stream: Some(stream),
            received: Vec::new(),
            ended: false,
        }
    }

    pub(crate) fn is_served(&self) -> bool {
        self.received == b"x"
    }

    pub(crate) fn is_resolved(&self) -> bool {
        self.is_served() || self.ended
    }

    /// Served, and still there.
    pub(crate) const fn is_open(&self) -> bool {
        self.stream.is_some() && !self.ended
    }

    pub(crate) fn leave(&mut self) {
        self.stream = None;
    }

    fn read(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut buf = [0; 64];
        loop {
            match stream.read(&mut buf) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.received.extend(&buf[..count]);
                    continue;
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.ended = true,
            }
            return;
        }
    }
}

impl Clients {
    #[track_caller]
    pub(crate) fn come(address: &str, count: usize) -> Self {
        Self((0..count).map(|_| Client::come(address)).collect())
    }

    pub(crate) fn served(&self) -> usize {
        self.0.iter().filter(|client| client.is_served()).count()
    }

    pub(crate) fn resolved(&self) -> usize {
        self.0.iter().filter(|client| client.is_resolved()).count()
    }

    pub(crate) fn open(&self) -> usize {
        self.0.iter().filter(|client| client.is_open()).count()
    }

    pub(crate) fn all_resolved(&self) -> bool {
        self.0.iter().all(Client::is_resolved)
    }

    /// Those who have been served leave.
    pub(crate) fn served_leave(&mut self) {
        let served = self.0.iter_mut().filter(|client| client.is_served());
        served.for_each(Client::leave);
    }

    /// Waits for news of any of them, at most until `end`. Says whether there was some.
    pub(crate) fn wait(&mut self, end: Instant) -> bool {
        let mut open: Vec<_> = self
            .0
            .iter_mut()
            .filter(|client| client.is_open())
            .collect();
        let mut fds: Vec<_> = open
            .iter()
            .filter_map(|client| client.stream.as_ref())
            .map(|stream| PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(stream), PollFlags::IN))
            .collect();
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a short time");
        let count = poll(&mut fds, Some(&timeout)).unwrap_or(0);
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (client, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            client.read();
        }
        count > 0
    }

    /// Waits until something is so, as long as there is news within `patience`. Says whether it has
    /// become so.
    pub(crate) fn wait_until(
        &mut self,
        patience: Duration,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let mut last = Instant::now();
        while !is_so(self) {
            let before = (self.resolved(), self.open());
            self.wait(Instant::now() + Duration::from_millis(100));
            if (self.resolved(), self.open()) != before {
                last = Instant::now();
            } else if last.elapsed() > patience {
                return false;
            }
        }
        true
    }
}
