//! Socket options that the crates beneath do not offer.
//!
//! `SO_PEERCRED` (unix(7)): rustix has it too, but its process id cannot be zero, and the kernel
//! says zero of a peer in another PID namespace.
#![expect(unsafe_code, reason = "options that have no safe binding that fits")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who is at the other end of a Unix connection.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    // SAFETY: any bytes are a valid `ucred`.
    unsafe { get(socket, libc::SOL_SOCKET, libc::SO_PEERCRED) }
}

/// How many connections wait to be accepted from a TCP listener: `tcpi_unacked` of a socket that
/// listens (tcp_get_info in net/ipv4/tcp.c).
pub(crate) fn backlog_len(listener: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: any bytes are a valid `tcp_info`.
    let info: libc::tcp_info = unsafe { get(listener, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
    Ok(info.tcpi_unacked as usize)
}

/// How many bytes were sent that the peer has not taken: it has not acknowledged them (tcp(7),
/// `SIOCOUTQ`), or not received them (unix(7)).
pub(crate) fn unsent(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request, which has the number of `SIOCOUTQ`, writes an int to its argument.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) } {
        0 => Ok(u64::try_from(count).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops packets that come with a smaller TTL (ip(7), `IP_MINTTL`), or hop limit
/// (`IPV6_MINHOPCOUNT` in include/uapi/linux/in6.h). An IPv6 socket has both: it may take IPv4 too.
pub(crate) fn least_hops(socket: BorrowedFd<'_>, ipv6: bool, hops: u8) -> io::Result<()> {
    const IPV6_MINHOPCOUNT: i32 = 73;
    let hops = i32::from(hops);
    if ipv6 {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops)?;
    }
    set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, hops)
}

/// Writes an option that is an int.
pub(crate) fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    let source = std::ptr::from_ref(&value).cast();
    // SAFETY: `source` is readable for `len` bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, source, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option; what the kernel does not write is zero.
///
/// # Safety
///
/// Any bytes are a valid `T`.
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
    // SAFETY: zeroed, then perhaps written, and the caller says that any bytes will do.
    Ok(unsafe { value.assume_init() })
}
