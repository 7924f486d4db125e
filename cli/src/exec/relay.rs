//! Both directions between a client and the socket of a program, for a connection whose bytes are not those of its
//! descriptor: with TLS, or with input that the server has received before.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use socketserver::Connection;
use socketserver::task::Descriptor;

/// What each direction holds at most, beside the buffers of the kernel.
const ROOM: usize = 16 * 1024;

/// How often a direction reads or writes before others have their turn.
const TURN: usize = 16;

/// A client's connection, and the socket whose other end the program has.
pub(super) struct Relay<'a> {
    client: &'a mut dyn Client,
    program: Descriptor<OwnedFd>,
    to_program: Flow,
    to_client: Flow,
}

/// What a relay needs of a connection.
pub(super) trait Client {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
    fn write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;
    fn end(&mut self) -> io::Result<()>;
}

impl<C: Connection> Client for C {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buf)
    }

    fn write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, buf)
    }

    fn end(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One direction: bytes that were read and not yet written.
#[derive(Default)]
struct Flow {
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Its input has ended.
    is_ended: bool,
    /// Its receiver takes no more: the rest is dropped.
    is_refused: bool,
}

impl Flow {
    fn room(&mut self) -> &mut [u8] {
        self.buffer.resize(ROOM, 0);
        &mut self.buffer
    }

    fn fill(&mut self, count: usize) {
        (self.begin, self.end) = (0, count);
        self.is_ended = count == 0;
        if self.is_ended {
            self.buffer = Vec::new();
        }
    }

    fn held(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    fn drop_held(&mut self) {
        self.begin = self.end;
    }
}

/// What has happened, once, in a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The client has ended its stream.
    ClientEnded,
    /// The program has ended its output, or closed it.
    ProgramEnded,
}

impl<'a> Relay<'a> {
    /// Makes the socket, and returns the program's end.
    pub(super) fn new(client: &'a mut dyn Client) -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let relay = Self {
            client,
            program: Descriptor::new(ours),
            to_program: Flow::default(),
            to_client: Flow::default(),
        };
        Ok((relay, theirs))
    }

    /// Moves what can be moved, within bounds. Ready when a direction has ended, or after an error of the client's connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Change>> {
        if let Poll::Ready(change) = self.poll_to_program(cx) {
            return Poll::Ready(change);
        }
        self.poll_to_client(cx)
    }

    fn poll_to_program(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Change>> {
        let flow = &mut self.to_program;
        for _ in 0..TURN {
            if flow.is_ended {
                return Poll::Pending;
            }
            if flow.is_empty() {
                let count = match self.client.read(cx, flow.room()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(read) => read?,
                };
                flow.fill(count);
                if flow.is_ended {
                    let _ = shutdown(self.program.get_ref(), rustix::net::Shutdown::Write);
                    return Poll::Ready(Ok(Change::ClientEnded));
                }
            }
            if flow.is_refused {
                flow.drop_held();
                continue;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let attempt = |program: &OwnedFd| Ok(send(program, flow.held(), flags)?);
            match self.program.poll_write_with(cx, attempt) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => flow.begin += count,
                // The program has closed its input. The client's bytes are read all the same: its end counts.
                Poll::Ready(Err(_)) => flow.is_refused = true,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Change>> {
        for _ in 0..TURN {
            if self.to_client.is_ended {
                return Poll::Pending;
            }
            if self.to_client.is_empty() {
                let buffer = self.to_client.room();
                let attempt =
                    |program: &OwnedFd| Ok(recv(program, &mut *buffer, RecvFlags::DONTWAIT)?.0);
                let count = match self.program.poll_read_with(cx, attempt) {
                    Poll::Pending => return Poll::Pending,
                    // A program that ends with unread input resets its socket.
                    Poll::Ready(read) => read.unwrap_or(0),
                };
                self.to_client.fill(count);
                if self.to_client.is_ended {
                    self.client.end()?;
                    return Poll::Ready(Ok(Change::ProgramEnded));
                }
            }
            match self.client.write(cx, self.to_client.held()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(written) => self.to_client.begin += written?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what the program has left in its socket, once it has ended. Ready when nothing is left.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.to_client.is_empty() {
                match self.client.write(cx, self.to_client.held()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(written) => self.to_client.begin += written?,
                }
            }
            if self.to_client.is_ended {
                return Poll::Ready(Ok(()));
            }
            // Processes that the program has left may hold its socket open: its end is not waited for.
            let buffer = self.to_client.room();
            let received = recv(self.program.get_ref(), &mut *buffer, RecvFlags::DONTWAIT);
            self.to_client.fill(received.map_or(0, |(count, _)| count));
        }
    }
}
