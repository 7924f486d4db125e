//! Descriptors that handlers wait for.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use rustix::io::Errno;

use crate::sys::poll::Interest;
use crate::task::wait::Source;

/// A descriptor that a handler waits for, in every model: that of a pipe, a timer, a process, an epoll instance.
///
/// Each method takes an attempt: a call that does not block, such as a read from a descriptor in non-blocking mode.
/// While the attempt fails with `WouldBlock`, the method waits until the descriptor is ready, and repeats it. The
/// wait suspends a coroutine, and blocks a thread; it ends at the deadline of a
/// [`timeout`](crate::task::timeout()), and at an [abort](crate::task#aborts) of the handler.
///
/// The attempt must fail with `WouldBlock` only if the descriptor is not ready: a coroutine waits for the next change
/// after that (epoll(7), `EPOLLET`). Several tasks may use one `Descriptor`, but a coroutine must not wait for another
/// `Descriptor` of the same number: wrap a duplicate instead.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::os::unix::net::UnixStream;
/// use socketserver::task::Descriptor;
///
/// let (ours, mut theirs) = UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// let ours = Descriptor::new(ours);
/// theirs.write_all(b"!")?;
///
/// let mut byte = [0];
/// ours.read_with(|mut ours| ours.read(&mut byte))?;
/// assert_eq!(&byte, b"!");
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Debug)]
pub struct Descriptor<F: AsFd> {
    fd: F,
    source: Source,
}

impl<F: AsFd> Descriptor<F> {
    /// Wraps a descriptor. A socket should be in non-blocking mode, or the attempts pass `MSG_DONTWAIT`.
    pub fn new(fd: F) -> Self {
        let source = Source::watching_abort();
        Self { fd, source }
    }

    /// Returns the value that was wrapped.
    pub const fn get_ref(&self) -> &F {
        &self.fd
    }

    /// Repeats an attempt to read until it succeeds, or fails for another reason than `WouldBlock`.
    ///
    /// # Errors
    ///
    /// - `TimedOut`: the deadline of a [`timeout`](crate::task::timeout()) has passed.
    /// - `ConnectionAborted`: the handler was aborted.
    /// - else the error of `attempt`; `Interrupted` repeats the attempt.
    pub fn read_with<R>(&self, attempt: impl FnMut(&F) -> io::Result<R>) -> io::Result<R> {
        self.complete(Interest::Read, attempt)
    }

    /// Repeats an attempt to write until it succeeds, or fails for another reason than `WouldBlock`.
    ///
    /// # Errors
    ///
    /// As [`read_with`](Self::read_with).
    pub fn write_with<R>(&self, attempt: impl FnMut(&F) -> io::Result<R>) -> io::Result<R> {
        self.complete(Interest::Write, attempt)
    }

    /// Polls for what [`read_with`](Self::read_with) waits for, in a future that
    /// [`block_on`](crate::task::block_on()) waits for.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the caller is not within `block_on`.
    /// - else the error of `attempt`; `Interrupted` repeats the attempt.
    ///
    /// # Examples
    ///
    /// Reads, or stops when a channel is closed.
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::io::{self, Read};
    /// use std::os::unix::net::UnixStream;
    /// use futures_lite::future::or;
    /// use socketserver::task::{self, Descriptor};
    ///
    /// fn read(pipe: &Descriptor<UnixStream>, stop: &async_channel::Receiver<()>, buf: &mut [u8]) -> io::Result<usize> {
    ///     let input = poll_fn(|cx| pipe.poll_read_with(cx, |mut pipe| pipe.read(buf)));
    ///     let stopped = async {
    ///         let _ = stop.recv().await;
    ///         Ok(0)
    ///     };
    ///     task::block_on(or(input, stopped))?
    /// }
    /// ```
    pub fn poll_read_with<R>(
        &self,
        cx: &Context<'_>,
        attempt: impl FnMut(&F) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll(cx, Interest::Read, attempt)
    }

    /// Polls for what [`write_with`](Self::write_with) waits for: the counterpart of
    /// [`poll_read_with`](Self::poll_read_with).
    ///
    /// # Errors
    ///
    /// As [`poll_read_with`](Self::poll_read_with).
    pub fn poll_write_with<R>(
        &self,
        cx: &Context<'_>,
        attempt: impl FnMut(&F) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll(cx, Interest::Write, attempt)
    }

    fn complete<R>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut(&F) -> io::Result<R>,
    ) -> io::Result<R> {
        let fd = self.fd.as_fd();
        let attempt = || result(attempt(&self.fd));
        self.source.complete(fd, interest, || None, attempt)?
    }

    fn poll<R>(
        &self,
        cx: &Context<'_>,
        interest: Interest,
        mut attempt: impl FnMut(&F) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let fd = self.fd.as_fd();
        let attempt = || result(attempt(&self.fd));
        let polled = self.source.poll_complete(cx.waker(), fd, interest, attempt);
        polled.map(|done| done?)
    }
}

impl<F: AsFd> Drop for Descriptor<F> {
    fn drop(&mut self) {
        self.source.release(self.fd.as_fd());
    }
}

/// The result of an attempt, as waits take it: they wait after `AGAIN`, and repeat after `INTR`.
fn result<R>(attempted: io::Result<R>) -> rustix::io::Result<(io::Result<R>, bool)> {
    match attempted {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Err(Errno::AGAIN),
        Err(err) if err.kind() == io::ErrorKind::Interrupted => Err(Errno::INTR),
        done => Ok((done, false)),
    }
}
