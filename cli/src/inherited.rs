//! Listeners that the parent process has passed on as open descriptors, without the variables of a service manager.
#![expect(
    unsafe_code,
    reason = "looking at a descriptor, and taking it over, by its number"
)]

use std::env;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{anyhow, bail};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::{Domain, SockRef, Type};
use socketserver::net::Adopt;

use crate::bind::Bound;
use crate::listen::SocketKind;

/// The number of the first inherited descriptor that is no standard stream.
const FIRST: i32 = 3;

/// What the socket is that was inherited as descriptor `number`, which stays as it is; `None` for anything else.
pub(crate) fn kind(number: i32) -> Option<SocketKind> {
    if number < FIRST {
        return None;
    }
    // SAFETY: the number is not -1, and the borrow ends with this function, whose calls fail for a descriptor that is
    // not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = SockRef::from(&fd);
    match (socket.domain().ok()?, socket.r#type().ok()?) {
        (Domain::IPV4 | Domain::IPV6, Type::STREAM) => Some(SocketKind::Tcp),
        (Domain::IPV4 | Domain::IPV6, Type::DGRAM) => Some(SocketKind::Udp),
        (Domain::UNIX, Type::STREAM) => Some(SocketKind::Unix),
        (Domain::UNIX, Type::DGRAM) => Some(SocketKind::UnixGram),
        (Domain::UNIX, Type::SEQPACKET) => Some(SocketKind::Seqpacket),
        _ => None,
    }
}

/// What the sockets are that a service manager has passed under a name (sd_listen_fds(3)). They and the variables stay
/// as they are: whether they are for this process is known when they are adopted.
pub(crate) fn kinds(name: &str) -> Vec<SocketKind> {
    let count = env::var("LISTEN_FDS").ok();
    let count = count.and_then(|count| count.parse::<u16>().ok());
    let names = env::var("LISTEN_FDNAMES").ok();
    let mut names = names.as_deref().map(|names| names.split(':'));
    let mut next = || names.as_mut().map_or(Some("unknown"), Iterator::next);
    (FIRST..)
        .take(count.unwrap_or(0).into())
        .filter(|_| next() == Some(name))
        .filter_map(kind)
        .collect()
}

/// Takes ownership of the bound socket that was inherited as descriptor `number`.
pub(crate) fn adopt(number: i32) -> anyhow::Result<Bound> {
    if number < FIRST {
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
    let is_socket = SockRef::from(&fd).domain();
    is_socket
        .map_err(|err| anyhow!("the descriptor is not a socket: {err}; pass on a bound socket"))?;
    Ok(Bound::adopt(fd)?)
}
