//! Which program a path means: below one directory, and nothing that lies outside, by names or by links.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use percent_encoding::percent_decode_str;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, accessat, fstat, openat, openat2,
};
use rustix::io::Errno;
use socketserver_http::http::StatusCode;

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// How often a name is looked up again while directories are renamed.
const ATTEMPTS: usize = 16;

/// The directory of the programs.
#[derive(Debug)]
pub(super) struct Scripts {
    root: OwnedFd,
    /// What `root` was called at the start.
    root_path: PathBuf,
    /// The names of the directory, below the root.
    own: Vec<Vec<u8>>,
    hidden: bool,
}

/// A program, and the path that belongs to it.
#[derive(Debug)]
pub(super) struct Script {
    /// The path of the program, as in an URL, decoded.
    pub(super) name: String,
    /// The path behind it, which begins with a slash, decoded; empty without one.
    pub(super) info: Vec<u8>,
    /// The directory of the program, in which it runs.
    pub(super) folder: OwnedFd,
    /// Its file, seen from there.
    pub(super) program: OsString,
    /// Its file, as it was called at the start.
    pub(super) file: PathBuf,
    /// The directory of the site, as it was called at the start.
    pub(super) root: PathBuf,
}

/// What a path means.
#[derive(Debug)]
pub(super) enum Found {
    Script(Script),
    /// It is not below the directory of the programs.
    NotOurs,
    Refused(StatusCode),
}

impl Scripts {
    /// # Errors
    ///
    /// There is no such directory below the root.
    pub(super) fn open(root: &Path, path: &str, hidden: bool) -> anyhow::Result<Self> {
        let scripts = Self {
            root: openat(CWD, root, LOOK | OFlags::DIRECTORY, Mode::empty())?,
            root_path: root.to_owned(),
            own: path
                .split('/')
                .map(|name| name.as_bytes().to_vec())
                .collect(),
            hidden,
        };
        let kind = scripts
            .kind(path.as_bytes())
            .map_err(std::io::Error::from)?;
        ensure!(
            kind == FileType::Directory,
            "{} is no directory",
            root.join(path).display()
        );
        Ok(scripts)
    }

    /// Finds the program of a request's path: the first name that is a file.
    pub(super) fn find(&self, path: &str) -> Found {
        let decoded = path.split('/').filter(|name| !name.is_empty());
        let names: Vec<Vec<u8>> = decoded
            .map(|name| percent_decode_str(name).collect())
            .collect();
        if !names.starts_with(&self.own) {
            return Found::NotOurs;
        }
        let is_wrong = |name: &Vec<u8>| {
            matches!(&name[..], b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        };
        if names.iter().any(is_wrong) {
            return Found::Refused(StatusCode::NOT_FOUND);
        }
        for end in self.own.len() + 1..=names.len() {
            let (own, rest) = names.split_at(end);
            if !self.hidden && own[end - 1].starts_with(b".") {
                break;
            }
            match self.kind(&own.join(&b'/')) {
                Ok(FileType::Directory) => {}
                Ok(FileType::RegularFile) => return self.script(own, rest, path.ends_with('/')),
                Err(Errno::ACCESS) => return Found::Refused(StatusCode::FORBIDDEN),
                Ok(_) | Err(_) => break,
            }
        }
        Found::Refused(StatusCode::NOT_FOUND)
    }

    fn script(&self, own: &[Vec<u8>], rest: &[Vec<u8>], slash: bool) -> Found {
        let Some((last, folders)) = own.split_last() else {
            return Found::Refused(StatusCode::NOT_FOUND);
        };
        let folder = match folders {
            [] => self.open_beneath(b"."),
            folders => self.open_beneath(&folders.join(&b'/')),
        };
        let Ok(folder) = folder else {
            return Found::Refused(StatusCode::NOT_FOUND);
        };
        let may_execute = accessat(
            &folder,
            OsStr::from_bytes(last),
            Access::EXEC_OK,
            AtFlags::EACCESS,
        );
        // Its text must not be sent either.
        if may_execute.is_err() {
            return Found::Refused(StatusCode::FORBIDDEN);
        }
        let Ok(name) = String::from_utf8([b"/", &own.join(&b'/')[..]].concat()) else {
            return Found::Refused(StatusCode::NOT_FOUND);
        };
        let mut info: Vec<u8> = rest
            .iter()
            .flat_map(|name| [b"/", &name[..]].concat())
            .collect();
        if slash {
            info.push(b'/');
        }
        Found::Script(Script {
            file: self.root_path.join(&name[1..]),
            name,
            info,
            folder,
            program: OsString::from_vec([b"./", &last[..]].concat()),
            root: self.root_path.clone(),
        })
    }

    fn kind(&self, path: &[u8]) -> rustix::io::Result<FileType> {
        let stat = fstat(self.open_beneath(path)?)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// Opens what no name and no link leads out to. Where a sandbox refuses openat2(2), no link is followed.
    fn open_beneath(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            match openat2(&self.root, path, LOOK, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(path),
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    fn walk(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut folder = openat(&self.root, ".", LOOK | OFlags::DIRECTORY, Mode::empty())?;
        for name in path.split(|byte| *byte == b'/') {
            // A link is opened itself, so what lies behind it is no directory.
            folder = openat(&folder, name, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(folder)
    }
}
