//! Listeners that the parent process has passed on as open descriptors.
#![expect(unsafe_code, reason = "taking over a descriptor by its number")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{anyhow, bail};
use socketserver::net::Either;
use socketserver::{Tcp, Udp, UnixDatagram, UnixStream};

use crate::listen::Bound;

/// Takes ownership of the bound socket that was inherited as descriptor `number`.
pub(crate) fn adopt(number: i32) -> anyhow::Result<Bound> {
    if number < 3 {
        bail!(
            "descriptors 0 to 2 are the standard streams; pass the socket on as descriptor 3 or higher"
        );
    }
    // SAFETY: the number is not -1, and the borrow ends with the call, which fails for a descriptor
    // that is not open.
    let open = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
    let copy = open.map_err(|err| {
        anyhow!("the descriptor is not open: {err}; pass it on without close-on-exec")
    })?;
    // SAFETY: the descriptor is open, since it was duplicated, and nothing else in this program owns it:
    // descriptors are adopted, once each, before this program opens any.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    drop(copy);
    let socket = socket2::SockRef::from(&fd);
    let domain = socket
        .domain()
        .map_err(|err| anyhow!("the descriptor is not a socket: {err}; pass on a bound socket"))?;
    let kind = (domain, socket.r#type()?);
    Ok(match kind {
        (socket2::Domain::UNIX, socket2::Type::STREAM) => {
            Either::Left(Either::Right(UnixStream::from_fd(fd)?))
        }
        (socket2::Domain::UNIX, _) => Either::Right(Either::Right(UnixDatagram::from_fd(fd)?)),
        (_, socket2::Type::STREAM) => Either::Left(Either::Left(Tcp::from_fd(fd)?)),
        _ => Either::Right(Either::Left(Udp::from_fd(fd)?)),
    })
}
