//! Clients behind a proxy: their header comes first.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::proxied::Header;

use crate::support::Client;

/// The client that the header names. Its numbers are text in version 2.
pub(crate) const CLIENT: &str = "50.51.52.53:12851";

/// The header of a client, in version 1, or in version 2 for a datagram.
pub(crate) fn header(is_datagram: bool) -> Vec<u8> {
    let client: SocketAddr = CLIENT.parse().expect("an address");
    let header = Header::new(&client.into(), &client.into());
    let bytes = if is_datagram {
        header.datagram().to_v2()
    } else {
        header.to_v1()
    };
    bytes.expect("a header")
}

/// A client whose proxy sends the header with the first bytes, or when the client waits for an answer.
pub(crate) struct Behind {
    below: TcpStream,
    /// What is not sent yet.
    header: Cell<Vec<u8>>,
}

impl Behind {
    pub(crate) fn new(below: TcpStream) -> Self {
        let header = Cell::new(header(false));
        Self { below, header }
    }

    /// Whether the server has sent something, or has ended the connection.
    fn has_input(&self) -> bool {
        let mut polled = [PollFd::new(&self.below, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Behind {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.below.as_fd()
    }
}

impl Read for Behind {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.has_input() {
            self.below.write_all(&self.header.take())?;
        }
        self.below.read(buf)
    }
}

impl Write for Behind {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let header = self.header.take();
        if header.is_empty() {
            return self.below.write(buf);
        }
        self.below.write_all(&[&header, buf].concat())?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
}

impl Client for Behind {
    fn half_close(&self) -> io::Result<()> {
        (&self.below).write_all(&self.header.take())?;
        self.below.half_close()
    }
}
