//! Listeners that the parent process has passed on as open descriptors, without the variables of a service manager.
#![expect(unsafe_code, reason = "taking over a descriptor by its number")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{anyhow, bail};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socketserver::net::Adopt;

use crate::bind::Bound;

/// Takes ownership of the bound socket that was inherited as descriptor `number`.
pub(crate) fn adopt(number: i32) -> anyhow::Result<Bound> {
    if number < 3 {
        bail!(
            "descriptors 0 to 2 are the standard streams; pass the socket on as descriptor 3 or higher"
        );
    }
    // SAFETY: the number is not -1, and the borrow ends with the call, which fails for a descriptor
    // that is not open.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
    let flags = flags.map_err(|err| {
        anyhow!("the descriptor is not open: {err}; pass it on without close-on-exec")
    })?;
    if flags.contains(FdFlags::CLOEXEC) {
        bail!(
            "this program has opened the descriptor itself; pass a socket on as a descriptor of that number"
        );
    }
    // SAFETY: the descriptor is open, and nothing else in this program owns it: it came through exec, and descriptors
    // are adopted once each.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    let is_socket = socket2::SockRef::from(&fd).domain();
    is_socket
        .map_err(|err| anyhow!("the descriptor is not a socket: {err}; pass on a bound socket"))?;
    Ok(Bound::adopt(fd)?)
}
