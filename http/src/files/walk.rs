//! A walk from directory to directory that holds the rules of `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS` (openat2(2)).
//!
//! Each part of a path is opened in the directory before, links are not followed by the kernel but read, and `..` is
//! the directory before in the walk: no lookup of the kernel ever climbs, and so no renaming can lead out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use crate::files::beneath::LOOK;

/// How many links are followed, as in the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// How long a path may be, links included: PATH_MAX.
const PATH_MAX: usize = 4096;

/// Opens what a path stands for below a directory.
///
/// # Errors
///
/// - `XDEV`: the path is absolute or climbs out, or a link does.
/// - `LOOP`: too many links.
/// - else as openat(2).
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut walk = Walk {
        root,
        above: Vec::new(),
        parts: Vec::new(),
        links: 0,
    };
    walk.push(path)?;
    while let Some(part) = walk.parts.pop() {
        let is_last = walk.parts.is_empty();
        match &*part {
            b"." => {}
            b".." => {
                walk.above.pop().ok_or(Errno::XDEV)?;
            }
            name => {
                let found = openat(walk.here(), name, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
                match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                    FileType::Symlink => walk.follow(&found)?,
                    FileType::Directory => walk.above.push(found),
                    // Parts behind a file, or a slash: `push` leaves a dot there.
                    _ if !is_last => return Err(Errno::NOTDIR),
                    _ if flags.contains(OFlags::PATH) => return Ok(found),
                    _ => return openat(walk.here(), name, flags | OFlags::NOFOLLOW, Mode::empty()),
                }
            }
        }
    }
    // A directory, which is open without its content.
    openat(walk.here(), c".", flags, Mode::empty())
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// The directories from the first below the root to the current one.
    above: Vec<OwnedFd>,
    /// What is left of the path, the last part first.
    parts: Vec<Box<[u8]>>,
    links: usize,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.above.last().map_or(self.root, AsFd::as_fd)
    }

    /// Puts a path before what is left.
    fn push(&mut self, path: &[u8]) -> rustix::io::Result<()> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.starts_with(b"/") {
            return Err(Errno::XDEV);
        }
        let left: usize = self.parts.iter().map(|part| part.len() + 1).sum();
        if left + path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let parts = path.split(|byte| *byte == b'/').rev();
        let parts = parts.map(|part| if part.is_empty() { b"." } else { part });
        self.parts.extend(parts.map(Box::from));
        Ok(())
    }

    /// Goes on with the text of a link.
    fn follow(&mut self, link: &OwnedFd) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let text = readlinkat(link, c"", Vec::new())?;
        self.push(text.as_bytes())
    }
}
