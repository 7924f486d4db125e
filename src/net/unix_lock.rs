//! The lock of a Unix socket's path. A server holds it while it binds or removes the file.
//!
//! The lock is an abstract Unix datagram socket (unix(7)), named `socketserver-path-` and 16
//! hexadecimal digits: the 64-bit FNV-1a hash of the directory's device and inode, 8 bytes each in
//! little-endian order, and of the file name. Servers of other paths in the directory take other
//! locks; one system call takes it; it leaves no file behind; and the kernel frees it when its
//! holder ends. It works between servers in one network namespace.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a server waits for another one that binds the same path: bind(2) and listen(2) take
/// microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lock of a path. The drop unlocks the path.
#[derive(Debug)]
pub(crate) struct PathLock {
    /// `None` if the system forbids abstract names: a sandbox that does must not keep a server from
    /// binding its file.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the socket is held, and never read")
    )]
    socket: Option<UnixDatagram>,
}

impl PathLock {
    /// Takes the lock. Waits for at most a second.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: another server is binding the path, and has not finished.
    /// - else as stat(2) of the directory, or socket(2) or bind(2) of the lock.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        Self::take_within(path, PATIENCE)
    }

    fn take_within(path: &Path, patience: Duration) -> io::Result<Self> {
        let name = name(path)?;
        let lock = SocketAddr::from_abstract_name(&name)?;
        let deadline = Instant::now() + patience;
        loop {
            let socket = match UnixDatagram::bind_addr(&lock) {
                Ok(socket) => Some(socket),
                Err(err) if err.kind() == ErrorKind::PermissionDenied => None,
                Err(err) if err.kind() == ErrorKind::AddrInUse => {
                    wait_for_holder(&lock, deadline).map_err(|err| held(&name, &err))?;
                    continue;
                }
                Err(err) => return Err(err),
            };
            return Ok(Self { socket });
        }
    }

    /// Returns once another thread or process waits for the lock.
    #[cfg(test)]
    pub(super) fn await_waiter(&self) {
        let holder = self.socket.as_ref().unwrap();
        holder
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // Its first byte.
        assert_eq!(holder.recv(&mut [0]).unwrap(), 1);
    }
}

/// Returns the error that names the lock and its state.
fn held(name: &str, why: &io::Error) -> io::Error {
    let why = match why.kind() {
        ErrorKind::TimedOut => "has not finished within a second".to_owned(),
        _ => format!("cannot be waited for: {why}"),
    };
    let what = format!(
        "another server is binding a socket there (ss -xap shows who holds the lock @{name}) and {why}"
    );
    io::Error::new(ErrorKind::AddrInUse, what)
}

/// Returns the name of the lock of `path`; the module's documentation defines it.
fn name(path: &Path) -> io::Result<String> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    // stat(2) needs no permission for the directory itself.
    let directory = fs::metadata(directory)?;
    let file = path.file_name().unwrap_or(path.as_os_str());
    let (device, inode) = (directory.dev().to_le_bytes(), directory.ino().to_le_bytes());
    let bytes = device.iter().chain(&inode).chain(file.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    Ok(format!("socketserver-path-{hash:016x}"))
}

/// Waits until the holder of the lock is gone. `TimedOut`: it still exists at the deadline.
fn wait_for_holder(lock: &SocketAddr, deadline: Instant) -> io::Result<()> {
    let gone = |err: &io::Error| {
        matches!(
            err.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotConnected
        )
    };
    let waiter = UnixDatagram::unbound()?;
    match waiter.connect_addr(lock) {
        Err(err) if gone(&err) => return Ok(()),
        connected => connected?,
    }
    // The holder receives nothing. Once its queue is full, send(2) blocks until the holder's socket
    // is closed, or until the send timeout (unix_dgram_sendmsg in net/unix/af_unix.c).
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        waiter.set_write_timeout(Some(left))?;
        match waiter.send(&[0]) {
            Ok(_) => {}
            Err(err) if gone(&err) => return Ok(()),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(err) => return Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn each_path_has_a_lock_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let lock = PathLock::take(&one).unwrap();
        let _other = PathLock::take(&other).unwrap();
        // The same file by another name.
        let same = directory.path().join(".").join("one");
        let err = PathLock::take_within(&same, Duration::from_millis(1)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AddrInUse);
        let held = name(&one).unwrap();
        assert!(err.to_string().contains(&format!("@{held})")), "{err}");
        drop(lock);
        drop(PathLock::take(&one).unwrap());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn a_waiter_gets_the_lock_when_its_holder_drops_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let lock = PathLock::take(&path).unwrap();
        let (taken, wait) = channel();
        let waiter =
            thread::spawn(move || taken.send(PathLock::take_within(&path, DEADLINE).map(drop)));
        lock.await_waiter();
        assert!(wait.try_recv().is_err(), "the lock was taken twice");
        drop(lock);
        wait.recv_timeout(DEADLINE).unwrap().unwrap();
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn a_lock_that_cannot_be_waited_for_says_why() {
        let forbidden = io::Error::from_raw_os_error(libc::EPERM);
        let text = held("name", &forbidden).to_string();
        assert!(
            text.contains("@name) and cannot be waited for: Operation not"),
            "{text}"
        );
    }
}
