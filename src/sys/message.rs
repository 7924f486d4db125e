//! Messages of a connection that keeps their boundaries: `SOCK_SEQPACKET` (unix(7)).
//!
//! recvmsg(2) returns zero for an empty message and at the end of the stream, and Linux sets `MSG_EOR` for
//! neither. With `SO_TIMESTAMP` (socket(7)) each message has control data, and the end has none. There is no room
//! for control data here, so `MSG_CTRUNC` marks a message. The kernel closes the descriptors that a message
//! carries (`scm_detach_fds` in net/core/scm.c).

use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};

use crate::sys::sockopt;

/// Makes messages recognisable, those too that have arrived.
///
/// # Errors
///
/// As setsockopt(2).
pub(crate) fn mark(socket: BorrowedFd<'_>) -> io::Result<()> {
    sockopt::set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1)
}

/// Receives a message without blocking. Returns its length, which may be more than `buf` has; `None` at the end of
/// the stream. The socket is [marked](mark).
///
/// # Errors
///
/// As recvmsg(2).
pub(crate) fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> rustix::io::Result<Option<usize>> {
    receive_with(socket, buf, RecvFlags::empty())
}

/// As [`receive`], and leaves the message in the socket.
///
/// # Errors
///
/// As recvmsg(2).
pub(crate) fn peek(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<usize>> {
    receive_with(socket, &mut [], RecvFlags::PEEK)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    more: RecvFlags,
) -> rustix::io::Result<Option<usize>> {
    let mut control = RecvAncillaryBuffer::default();
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC | more;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags)?;
    let is_message = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(is_message.then_some(received.bytes))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    use rustix::io::Errno;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_message_is_told_from_the_end_and_from_another() {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let fd = ours.as_fd();
        // Before the socket is marked.
        theirs.send(b"").unwrap();
        mark(fd).unwrap();
        for message in ["whole", "", "too long", "last"] {
            theirs.send(message.as_bytes()).unwrap();
        }
        let mut buf = [0; 6];
        let mut receive = || {
            let peeked = peek(fd);
            let received = receive(fd, &mut buf);
            assert_eq!(peeked, received);
            received.map(|length| length.map(|length| (length, buf[..length.min(6)].to_vec())))
        };
        assert_eq!(receive(), Ok(Some((0, Vec::new()))));
        assert_eq!(receive(), Ok(Some((5, b"whole".to_vec()))));
        assert_eq!(receive(), Ok(Some((0, Vec::new()))));
        assert_eq!(receive(), Ok(Some((8, b"too lo".to_vec()))));
        assert_eq!(receive(), Ok(Some((4, b"last".to_vec()))));
        assert_eq!(receive(), Err(Errno::AGAIN));
        theirs.send(b"").unwrap();
        drop(theirs);
        assert_eq!(receive(), Ok(Some((0, Vec::new()))));
        assert_eq!([receive(), receive()], [Ok(None), Ok(None)]);
    }

    #[test]
    fn a_descriptor_in_a_message_is_closed() {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        mark(ours.as_fd()).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [writer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let message = [IoSlice::new(b"message")];
        sendmsg(&theirs, &message, &mut control, SendFlags::empty()).unwrap();
        drop(writer);
        assert_eq!(receive(ours.as_fd(), &mut [0; 10]), Ok(Some(7)));
        // The pipe has no writer left.
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    }
}
