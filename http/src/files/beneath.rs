//! Opening what lies below a directory, and nothing else: by openat2(2), or by a walk where that is refused.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;

use crate::files::walk;

/// No name leads out, not by a link either, and `/proc/self/root` and its like lead nowhere.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Opening for the metadata alone: this has no effect on a device, a FIFO or a socket.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opening to read. The name was that of a regular file before; if something else has taken its place, the call does
/// not block, and the descriptor is closed.
pub(crate) const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// How often a name is looked up again that openat2(2) could not follow because a directory was renamed meanwhile.
const ATTEMPTS: usize = 16;

/// A directory that was opened once, whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
    /// openat2(2) does not exist, or a sandbox refuses it.
    walks: AtomicBool,
    known: Known,
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file, to be read.
    File(File, Stat),
    Directory,
}

impl Beneath {
    /// Opens the directory.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let root = openat(CWD, path, LOOK | OFlags::DIRECTORY, Mode::empty())?;
        let probe = openat2(&root, c".", LOOK, Mode::empty(), RESOLVE);
        Ok(Self {
            root,
            walks: AtomicBool::new(probe.is_err_and(is_refused)),
            known: Known::default(),
        })
    }

    /// Opens a file to read it, or finds a directory. Parts of `path` are separated by `/`; the path is not empty.
    ///
    /// # Errors
    ///
    /// - `NOENT`: it is neither a regular file nor a directory.
    /// - `XDEV`, `LOOP`: it leads out, or in a circle.
    /// - else as openat2(2).
    pub(crate) fn find(&self, path: &[u8]) -> rustix::io::Result<Found> {
        let known = self.known.place(path);
        if !known.is_taken() {
            let looked = fstat(self.look(path)?)?;
            match FileType::from_raw_mode(looked.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => return Ok(Found::Directory),
                _ => return Err(Errno::NOENT),
            }
        }
        let file = self.resolve(path, READ)?;
        let stat = fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                known.take();
                Ok(Found::File(file.into(), stat))
            }
            other => {
                known.leave();
                match other {
                    FileType::Directory => Ok(Found::Directory),
                    _ => Err(Errno::NOENT),
                }
            }
        }
    }

    /// Opens what a path stands for, links followed, for its metadata alone.
    ///
    /// # Errors
    ///
    /// As openat2(2).
    pub(crate) fn look(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, LOOK)
    }

    /// Opens a directory to list it.
    ///
    /// # Errors
    ///
    /// As openat2(2).
    pub(crate) fn list(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, LIST)
    }

    /// Opens anything.
    fn resolve(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if self.walks.load(Ordering::Relaxed) {
            return self.walk(path, flags);
        }
        let mut attempts = 0..ATTEMPTS;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), RESOLVE) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if attempts.next().is_some() => {}
                // A sandbox that the program has entered since.
                Err(err) if is_refused(err) => {
                    let found = self.walk(path, flags);
                    if found.is_ok() {
                        self.walks.store(true, Ordering::Relaxed);
                    }
                    return found;
                }
                done => return done,
            }
        }
    }

    fn walk(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        walk::open(self.root(), path, flags)
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// From now on every path is walked, as where openat2(2) is refused.
    #[cfg(test)]
    pub(crate) fn walking(self) -> Self {
        self.walks.store(true, Ordering::Relaxed);
        self
    }
}

/// The errors of a system call that is unknown, or that a sandbox refuses.
fn is_refused(err: Errno) -> bool {
    matches!(err, Errno::NOSYS | Errno::PERM)
}

/// Paths that were regular files when they were opened last, so that these are opened without a look before: hashes,
/// each in a place of its own, with keys that no client knows.
#[derive(Debug)]
struct Known {
    hashes: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            hashes: (0..1024).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Known {
    fn place(&self, path: &[u8]) -> Place<'_> {
        // Zero stands for a free place.
        let hash = self.hasher.hash_one(path).max(1);
        let place = &self.hashes[hash as usize % self.hashes.len()];
        Place { place, hash }
    }
}

/// The place of one path.
struct Place<'a> {
    place: &'a AtomicU64,
    hash: u64,
}

impl Place<'_> {
    fn is_taken(&self) -> bool {
        self.place.load(Ordering::Relaxed) == self.hash
    }

    fn take(&self) {
        if !self.is_taken() {
            self.place.store(self.hash, Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        let _ = self
            .place
            .compare_exchange(self.hash, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
