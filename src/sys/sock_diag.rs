//! The kernel's list of TCP sockets (sock_diag(7)).

use std::io;
use std::net::SocketAddr;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` is the type of the request and of each answer; `NLMSG_ERROR` and
/// `NLMSG_DONE` end the answers (netlink(7)).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;

/// A handshake is in the state `TCP_SYN_RECV`, and in the kernel in `TCP_NEW_SYN_RECV`
/// (include/net/tcp_states.h).
const STATES: u32 = 1 << 3 | 1 << 12;

/// The length of a `struct nlmsghdr`.
const HEADER: usize = 16;

/// Returns whether a handshake with a local port is under way; an IPv6 socket may accept IPv4 too.
///
/// # Errors
///
/// As socket(2), if the kernel has no sock_diag, or if a filter forbids it.
pub(crate) fn in_handshake(local: SocketAddr) -> io::Result<bool> {
    let port = local.port();
    Ok(dump(libc::AF_INET, port)? || local.is_ipv6() && dump(libc::AF_INET6, port)?)
}

fn dump(family: i32, port: u16) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    send(&socket, &request(family as u8, port), SendFlags::empty())?;
    let mut buffer = [0; 8192];
    // The first message decides: a socket, or the end of the list.
    let (count, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
    let kind = buffer[..count].get(4..6).map(|kind| [kind[0], kind[1]]);
    match kind.map(u16::from_ne_bytes) {
        Some(SOCK_DIAG_BY_FAMILY) => Ok(true),
        Some(NLMSG_DONE) => Ok(false),
        Some(NLMSG_ERROR) => {
            let errno = buffer[HEADER..HEADER + 4].first_chunk().copied();
            let errno = i32::from_ne_bytes(errno.unwrap_or_default());
            Err(io::Error::from_raw_os_error(-errno))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2` (include/uapi/linux/inet_diag.h).
fn request(family: u8, port: u16) -> Vec<u8> {
    const LEN: usize = HEADER + 56;
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend((LEN as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    // The sequence number and the port of the sender: the kernel's choice.
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(STATES.to_ne_bytes());
    // The local port; any peer, any interface, any cookie.
    bytes.extend(port.to_be_bytes());
    bytes.resize(LEN, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockopt;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_handshake_is_seen_until_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(!in_handshake(addr).expect("sock_diag"));
        // Only data completes a deferred handshake (tcp(7)).
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
        sockopt::set(listener.as_fd(), level, option, 60).unwrap();
        let mut client = TcpStream::connect(addr).unwrap();
        assert!(in_handshake(addr).unwrap());
        client.write_all(b"data").unwrap();
        let _accepted = listener.accept().unwrap();
        assert!(!in_handshake(addr).unwrap());
    }

    #[test]
    fn no_handshake_is_under_way_where_nobody_listens() {
        assert!(!in_handshake("[::1]:1".parse().unwrap()).expect("sock_diag"));
    }
}
