//! Listening stream sockets, bound by the server or adopted from another program.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use socket2::{SockAddr, Socket};

/// A listening socket in non-blocking mode: accept(2) must not block if the connection that poll(2)
/// reported is gone.
///
/// The mode belongs to the open file description (open(2)), which an adopted listener shares with
/// the program that passed it on. That program may accept from the listener after this one has
/// ended, so the drop restores the mode.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    adopted: Option<Adopted>,
}

#[derive(Debug)]
struct Adopted {
    /// The process that adopted the listener. Its forked children share the open file description
    /// and leave the mode alone.
    process: u32,
    was_blocking: AtomicBool,
}

impl Listener {
    /// Takes a listener that no other program shares.
    pub(crate) fn own(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            adopted: None,
        })
    }

    /// Takes a listener that another program may share.
    pub(crate) fn adopted(socket: Socket) -> io::Result<Self> {
        let adopted = Adopted {
            process: std::process::id(),
            was_blocking: AtomicBool::new(false),
        };
        adopted.make_nonblocking(&socket)?;
        Ok(Self {
            socket,
            adopted: Some(adopted),
        })
    }

    pub(crate) const fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        if let Some(adopted) = &self.adopted {
            // Another program that adopted the listener too may have ended and restored the mode.
            adopted.make_nonblocking(&self.socket)?;
        }
        self.socket.accept()
    }

    pub(crate) fn shutdown_reading(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Read)
    }
}

impl Adopted {
    fn make_nonblocking(&self, socket: &Socket) -> io::Result<()> {
        if !socket.nonblocking()? {
            self.was_blocking.store(true, Relaxed);
            socket.set_nonblocking(true)?;
        }
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(adopted) = &self.adopted else {
            return;
        };
        if adopted.was_blocking.load(Relaxed) && adopted.process == std::process::id() {
            // fcntl(2) does not fail for an open socket, and a drop has no way to report an error.
            let _ = self.socket.set_nonblocking(false);
        }
    }
}
