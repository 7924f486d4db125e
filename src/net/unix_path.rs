//! Binding Unix sockets: the file is created with its final mode and owner, the file of a dead
//! server is replaced, and a drop removes only the file that this process bound.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, fchmod, fstat};
use socket2::{Domain, Socket, Type};

use crate::address::UnixAddress;
use crate::error::Error;
use crate::net::datagram::MAX_DATAGRAM;
use crate::net::options::Buffers;
use crate::net::unix_lock::PathLock;

/// Options of a Unix socket, set before clients can reach it.
///
/// # Examples
///
/// ```
/// use socketserver::UnixStream;
///
/// let directory = std::env::temp_dir();
/// let path = directory.join(format!("socketserver-doc-options-{}", std::process::id()));
/// let listener = UnixStream::options().mode(0o660).backlog(128).bind(&path)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UnixOptions<T> {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    pub(crate) backlog: i32,
    pub(crate) max_datagram: usize,
    pub(crate) buffers: Buffers,
    transport: PhantomData<fn() -> T>,
}

impl<T> UnixOptions<T> {
    pub(crate) const fn new() -> Self {
        let buffers = Buffers {
            receive: None,
            send: None,
        };
        // The kernel caps the backlog at net.core.somaxconn (listen(2)).
        let (backlog, max_datagram) = (i32::MAX, MAX_DATAGRAM);
        Self {
            mode: None,
            uid: None,
            gid: None,
            backlog,
            max_datagram,
            buffers,
            transport: PhantomData,
        }
    }

    /// Sets the permission bits of the socket's file, whatever the umask. Connecting needs the
    /// permission to write. Default: 0777 less the umask; with the usual umask of 022, only the
    /// owner can connect.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the owner and the group of the socket's file (chown(2)). Default: the user and group of
    /// the process.
    pub const fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// `SO_RCVBUF`, in bytes. Default: the system's (`net.core.rmem_default`).
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.buffers.receive = Some(bytes);
        self
    }

    /// `SO_SNDBUF`, in bytes, also of each connection that is accepted; it limits the length of a message of
    /// [`UnixSeqpacket`](crate::UnixSeqpacket). Default: the system's (`net.core.wmem_default`). The kernel doubles it,
    /// and takes at most `net.core.wmem_max`.
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.buffers.send = Some(bytes);
        self
    }

    /// Binds. The path stays locked until [`UnixBinding::unlock`]: a socket that does not listen
    /// yet looks to another server like the file of a dead one.
    pub(crate) fn bind_socket(
        &self,
        kind: Type,
        addr: &UnixAddress,
    ) -> Result<(Socket, Option<UnixBinding>), Error> {
        self.try_bind(kind, addr).map_err(|err| {
            let remedy = match err.kind() {
                io::ErrorKind::AddrInUse => {
                    "stop the server that has it, or choose another address"
                }
                io::ErrorKind::AlreadyExists => "move that file away, or choose another path",
                io::ErrorKind::NotFound => "create the directory first",
                io::ErrorKind::InvalidInput => {
                    "a path or name has at most 107 bytes, and at least one"
                }
                _ => return Error::new(format!("bind {addr}"), err),
            };
            Error::new(format!("bind {addr}"), err).with_remedy(remedy)
        })
    }

    fn try_bind(
        &self,
        kind: Type,
        addr: &UnixAddress,
    ) -> io::Result<(Socket, Option<UnixBinding>)> {
        let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "an unnamed address");
        let target = addr.to_sock_addr().ok_or_else(unnamed)??;
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        self.buffers.apply(&socket)?;
        let Some(path) = addr.path() else {
            socket.bind(&target)?;
            return Ok((socket, None));
        };
        if path.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty path"));
        }
        let lock = PathLock::take(path)?;
        // The kernel gives the new file the mode of the socket's own inode, less the umask
        // (unix_bind_bsd in net/unix/af_unix.c): no client can connect before the owner is set and
        // the mode is final.
        let first_mode = if self.uid.or(self.gid).is_some() {
            0
        } else {
            self.mode.unwrap_or(0o777)
        };
        fchmod(&socket, Mode::from_raw_mode(first_mode))?;
        match socket.bind(&target) {
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(kind, path)?;
                socket.bind(&target)?;
            }
            result => result?,
        }
        // If a later step fails, the drop removes the file.
        let binding = UnixBinding::of(path, lock)?;
        let mode = match self.mode {
            None if first_mode == 0 => Some(0o777 & !umask()?),
            mode => mode,
        };
        if self.uid.or(self.gid).is_some() || mode.is_some() {
            self.set_owner_and_mode(&binding, mode)?;
        }
        Ok((socket, Some(binding)))
    }

    /// Sets owner and mode through a descriptor of the file: a process that may write to the
    /// directory could put a link in its place.
    fn set_owner_and_mode(&self, binding: &UnixBinding, mode: Option<u32>) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&binding.path, flags, Mode::empty())?;
        let status = fstat(&file)?;
        if (status.st_dev, status.st_ino) != binding.file {
            return Err(io::Error::other(
                "another file has taken the place of the new socket",
            ));
        }
        if self.uid.or(self.gid).is_some() {
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        mode.map_or(Ok(()), |mode| {
            // fchmod(2) refuses an O_PATH descriptor; its name below /proc leads to the file.
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(name, fs::Permissions::from_mode(mode))
        })
    }
}

/// Returns the umask of this process. umask(2) would have to change it to read it.
fn umask() -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .ok_or_else(|| io::Error::other("no Umask line in /proc/self/status"))
}

/// Removes the file that a dead server left at `path`. A live server accepts the
/// probe, or refuses it with EPROTOTYPE if its socket type differs. The path is locked.
fn remove_stale(kind: Type, path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is not a socket",
            ));
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    }
    let probe = Socket::new(Domain::UNIX, kind, None)?;
    // A live server whose backlog is full answers EAGAIN instead of blocking.
    probe.set_nonblocking(true)?;
    let alive = match probe.connect(&socket2::SockAddr::unix(path)?) {
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
            return fs::remove_file(path);
        }
        Ok(()) => "a server answers there".to_owned(),
        Err(err) => format!("a socket is there, and connecting to it failed: {err}"),
    };
    Err(io::Error::new(io::ErrorKind::AddrInUse, alive))
}

/// A socket file that this process bound. The drop removes it if it is still the same file, which it can tell while
/// the socket is open.
#[derive(Debug)]
pub(crate) struct UnixBinding {
    path: PathBuf,
    file: (u64, u64),
    owner: u32,
    /// Held until the socket answers probes of other servers.
    lock: Option<PathLock>,
}

impl UnixBinding {
    fn of(path: &Path, lock: PathLock) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        if !file.file_type().is_socket() {
            return Err(io::Error::other(
                "another file has taken the place of the new socket",
            ));
        }
        Ok(Self {
            path: std::path::absolute(path)?,
            file: (file.dev(), file.ino()),
            owner: std::process::id(),
            lock: Some(lock),
        })
    }

    /// Unlocks the path: the socket listens, or receives datagrams, so other servers can probe it.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }
}

impl Drop for UnixBinding {
    fn drop(&mut self) {
        // A forked child drops its copy of the listener too.
        if self.owner != std::process::id() {
            return;
        }
        let ours = || {
            fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file)
        };
        if !ours() {
            return;
        }
        // A server that binds the path now may replace the file between the check and the removal.
        let lock = match self.lock {
            Some(_) => None,
            None => match PathLock::take(&self.path) {
                // The next server replaces the file if it is still ours.
                Err(err) if err.kind() == io::ErrorKind::AddrInUse => return,
                // Without a descriptor for the lock, the removal goes on unlocked.
                taken => taken.ok(),
            },
        };
        if ours() {
            // A drop has no way to report an error; the next bind replaces a file that stays.
            let _ = fs::remove_file(&self.path);
        }
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;
    use std::thread;

    use super::*;
    use crate::{UnixDatagram, UnixStream};

    /// Whether a socket is open until its file is removed. `is_open` connects to the file.
    fn outlives_its_file<T: Send + 'static>(
        bind: impl Fn(&Path) -> T,
        is_open: impl Fn(&Path) -> bool,
    ) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (bound, lock) = (bind(&path), PathLock::take(&path).unwrap());
        let dropping = thread::spawn(move || drop(bound));
        lock.await_waiter();
        let is_open = is_open(&path);
        drop(lock);
        dropping.join().unwrap();
        is_open
    }

    /// The inode number of a socket that is closed may be that of the file of another server.
    #[test]
    fn a_file_is_removed_before_its_socket_is_closed() {
        // The removal waits for a second: a machine may be too slow for that once, not always.
        assert!((0..5).any(|_| outlives_its_file(
            |path| UnixStream::options().bind(path).unwrap(),
            |path| net::UnixStream::connect(path).is_ok(),
        )));
        assert!((0..5).any(|_| outlives_its_file(
            |path| UnixDatagram::options().bind(path).unwrap(),
            |path| {
                let client = net::UnixDatagram::unbound().unwrap();
                client.connect(path).is_ok()
            },
        )));
    }

    /// The other server may have replaced the file already, or be about to.
    #[test]
    fn a_file_whose_path_another_server_is_binding_is_left_to_that_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixStream::options().bind(&path).unwrap();
        let other = PathLock::take(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
        drop(UnixStream::options().bind(&path).unwrap());
        assert!(!path.exists());
    }
}
