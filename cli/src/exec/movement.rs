//! How long nothing has moved on a TCP connection that another process reads and writes.
#![expect(unsafe_code, reason = "TCP_INFO has no safe binding")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Returns how long no data has come or gone (tcp(7), `TCP_INFO`); `None` if the socket is no TCP one.
pub(super) fn idle_time(socket: BorrowedFd<'_>) -> Option<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let target = info.as_mut_ptr().cast();
    // SAFETY: `target` is writable for `len` bytes.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, target, &raw mut len) };
    if result != 0 {
        return None;
    }
    // SAFETY: integers, for which zero is a value; an older kernel fills in fewer.
    let info = unsafe { info.assume_init() };
    let idle = info.tcpi_last_data_recv.min(info.tcpi_last_data_sent);
    Some(Duration::from_millis(idle.into()))
}
