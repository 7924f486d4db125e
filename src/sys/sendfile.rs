//! sendfile(2) to a stream socket in blocking mode, without blocking.
#![expect(unsafe_code, reason = "the action of a signal has no safe binding")]

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::sendfile;
use rustix::io::{Errno, ioctl_fionbio};

/// How many bytes one call sends at most: a fast peer must not hold up what else the thread does, nor the counts of
/// what was sent.
const AT_ONCE: usize = 512 * 1024;

/// A socket in non-blocking mode, and in blocking mode again when dropped: sendfile(2) takes no flags.
pub(crate) struct Unblocked<'a>(BorrowedFd<'a>);

impl<'a> Unblocked<'a> {
    /// Begins to send files.
    ///
    /// # Errors
    ///
    /// `NOSYS`: sendfile(2) would end the process if the peer were gone, because the action of `SIGPIPE` is the default
    /// one; send(2) has a flag against that. The runtime of Rust ignores the signal, unless a program sets another
    /// action.
    pub(crate) fn begin(socket: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        if is_sigpipe_fatal() {
            return Err(Errno::NOSYS);
        }
        ioctl_fionbio(socket, true)?;
        Ok(Self(socket))
    }

    /// Sends a part of a file that begins at `offset`, `left` bytes at most. Returns 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// `INVAL`, `NOSYS`: the file cannot be sent so. `AGAIN`: the socket has no room.
    pub(crate) fn send(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        left: u64,
    ) -> rustix::io::Result<usize> {
        let count = usize::try_from(left).map_or(AT_ONCE, |left| left.min(AT_ONCE));
        let mut offset = offset;
        sendfile(self.0, file, Some(&mut offset), count)
    }
}

impl Drop for Unblocked<'_> {
    fn drop(&mut self) {
        // It fails for no valid descriptor.
        let _ = ioctl_fionbio(self.0, false);
    }
}

fn is_sigpipe_fatal() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the new action is null, so nothing is set; the old one is written to memory of its type.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: any bytes, zero ones too, are a valid `sigaction`.
    let action = unsafe { action.assume_init() };
    asked != 0 || action.sa_sigaction == libc::SIG_DFL
}
