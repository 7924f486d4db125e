//! Socket options that `rustix` and `socket2` do not offer.
//!
//! `SO_PEERCRED` (unix(7)): in rustix its process id cannot be zero, but the kernel reports zero
//! for a peer in another PID namespace.
#![expect(unsafe_code, reason = "options that have no safe binding that fits")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns the process, user and group at the other end of a Unix connection.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    // SAFETY: any bytes are a valid `ucred`.
    unsafe { get(socket, libc::SOL_SOCKET, libc::SO_PEERCRED) }
}

/// Returns the supplementary groups of the process at the other end of a Unix connection
/// (`SO_PEERGROUPS`, Linux 4.13, sk_getsockopt in net/core/sock.c).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut len = size_of_val(&*groups) as libc::socklen_t;
        let target = groups.as_mut_ptr().cast();
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
        // SAFETY: `target` is writable for `len` bytes.
        let result =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, target, &raw mut len) };
        let count = len as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let err = io::Error::last_os_error();
        // The kernel has stored how many bytes it needs.
        if err.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(err);
        }
        groups.resize(count, 0);
    }
}

/// Returns the length of a TCP listener's backlog: `tcpi_unacked` of a listening socket
/// (tcp_get_info in net/ipv4/tcp.c).
pub(crate) fn backlog_len(listener: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: any bytes are a valid `tcp_info`.
    let info: libc::tcp_info = unsafe { get(listener, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
    Ok(info.tcpi_unacked as usize)
}

/// Returns how many sent bytes the peer has not taken: not acknowledged (tcp(7), `SIOCOUTQ`), or
/// not received (unix(7)).
pub(crate) fn unsent(socket: BorrowedFd<'_>) -> io::Result<u64> {
    output(socket, libc::TIOCOUTQ)
}

/// Returns how many of the [`unsent`] bytes of a TCP socket were not sent even once, because the peer
/// or the network has no room for them (`SIOCOUTQNSD` in include/uapi/linux/sockios.h).
pub(crate) fn waiting(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    output(socket, SIOCOUTQNSD)
}

/// Makes one of the requests about output.
fn output(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
    // Room for the `struct ifreq` that is read for requests that a socket does not know (net/socket.c).
    let mut count = [0_i32; size_of::<libc::ifreq>() / size_of::<i32>()];
    // SAFETY: both requests (`TIOCOUTQ` has the number of `SIOCOUTQ`) write an int to their argument.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request, count.as_mut_ptr()) } {
        0 => Ok(u64::try_from(count[0]).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops packets with a smaller TTL (ip(7), `IP_MINTTL`) or hop limit (`IPV6_MINHOPCOUNT` in
/// include/uapi/linux/in6.h). Sets both on an IPv6 socket, which may accept IPv4 too.
pub(crate) fn least_hops(socket: BorrowedFd<'_>, ipv6: bool, hops: u8) -> io::Result<()> {
    const IPV6_MINHOPCOUNT: i32 = 73;
    let hops = i32::from(hops);
    if ipv6 {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops)?;
    }
    set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, hops)
}

/// Sets an option that is an int.
pub(crate) fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    let source = std::ptr::from_ref(&value).cast();
    // SAFETY: `source` is readable for `len` bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, source, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option. Bytes that the kernel does not write are zero.
///
/// # Safety
///
/// Any bytes must be a valid `T`.
unsafe fn get<T>(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    let target = value.as_mut_ptr().cast();
    // SAFETY: `target` is writable for `len` bytes.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, target, &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the bytes are zero or written by the kernel, and the caller promises that any bytes
    // are valid.
    Ok(unsafe { value.assume_init() })
}
