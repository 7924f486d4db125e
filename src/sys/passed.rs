//! Descriptors that a service manager has passed to this process (sd_listen_fds(3)).
//!
//! What makes it sound to own them: the variables are those of the program's start, as /proc/self/environ has
//! them, so the manager opened the descriptors before this program ran any code; and they are taken once, because
//! the variables are removed, in a process with one thread.
#![expect(
    unsafe_code,
    reason = "owning descriptors by their numbers, and changing the environment"
)]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{fstat, fstatfs};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::sys::fork::thread_count;

const PID: &str = "LISTEN_PID";
const PIDFD_ID: &str = "LISTEN_PIDFDID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// The number of the first descriptor.
const FIRST: i32 = 3;

/// A descriptor that was passed.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) number: i32,
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

/// Takes the descriptors, and removes the variables. Each becomes close-on-exec.
///
/// # Errors
///
/// - `Unsupported`: the process has several threads. The variables stay.
/// - `InvalidData`: a variable is malformed, or a descriptor is not open. The variables are removed.
/// - The files in /proc cannot be read.
pub(crate) fn take() -> io::Result<Vec<Passed>> {
    let variables = [PID, PIDFD_ID, COUNT, NAMES];
    if variables
        .iter()
        .all(|name| std::env::var_os(name).is_none())
    {
        return Ok(Vec::new());
    }
    let threads = thread_count()?;
    if threads != 1 {
        let why = format!(
            "this process has {threads} threads, which may read the environment while LISTEN_FDS is removed from it; \
             take the sockets first in main"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let found = of_start().and_then(|start| {
        let of_start = |name: &str| {
            start
                .iter()
                .find_map(|(key, value)| (key == name).then_some(value.as_str()))
        };
        let passed = Announced::find(of_start, getpid().as_raw_pid(), own_pidfd_id())?;
        // The program may have removed them, because it has taken the descriptors.
        let is_left = |announced: &Announced| {
            let count = std::env::var(COUNT);
            count.is_ok_and(|count| count.parse() == Ok(announced.names.len()))
        };
        Ok(passed.filter(is_left))
    });
    for name in variables {
        // SAFETY: this thread is the only one of the process.
        unsafe { std::env::remove_var(name) };
    }
    let names = found?.map(|announced| announced.names).unwrap_or_default();
    (FIRST..)
        .zip(names)
        .map(|(number, name)| own(number, name))
        .collect()
}

/// What the variables announce.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    /// The name of each descriptor.
    names: Vec<String>,
}

impl Announced {
    /// Reads the variables. `None` if they are for another process, or announce nothing.
    fn find<'a>(
        variable: impl Fn(&str) -> Option<&'a str>,
        pid: i32,
        pidfd_id: Option<u64>,
    ) -> io::Result<Option<Self>> {
        let (Some(owner), Some(count)) = (variable(PID), variable(COUNT)) else {
            return Ok(None);
        };
        if number::<i32>(PID, owner)? != pid {
            return Ok(None);
        }
        if let Some(owner) = variable(PIDFD_ID) {
            let owner = number::<u64>(PIDFD_ID, owner)?;
            if pidfd_id.is_some_and(|own| own != owner) {
                return Ok(None);
            }
        }
        let count = number::<u16>(COUNT, count)?.into();
        if count == 0 {
            return Ok(None);
        }
        let names: Vec<_> = match variable(NAMES) {
            Some(names) => names.split(':').map(str::to_owned).collect(),
            None => vec!["unknown".to_owned(); count],
        };
        if names.len() != count {
            return Err(malformed(format!(
                "{NAMES} has {} names for {count} descriptors",
                names.len()
            )));
        }
        Ok(Some(Self { names }))
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> io::Result<T> {
    let number = text.parse();
    number.map_err(|_| malformed(format!("{name}={text:?} is no number in its range")))
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The environment at the program's start.
fn of_start() -> io::Result<Vec<(String, String)>> {
    let block = fs::read("/proc/self/environ")?;
    let variables = block.split(|byte| *byte == 0);
    let pair = |variable: &[u8]| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec()).into_string().ok();
        Some((text(&variable[..at])?, text(&variable[at + 1..])?))
    };
    Ok(variables.filter_map(pair).collect())
}

/// The inode of this process's pidfd, which no later process has; `None` before Linux 6.9, where all pidfds have the
/// same.
fn own_pidfd_id() -> Option<u64> {
    const PIDFS: i64 = 0x5049_4446;
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let is_pidfs = fstatfs(&pidfd).is_ok_and(|system| system.f_type == PIDFS);
    is_pidfs
        .then(|| fstat(&pidfd).ok())
        .flatten()
        .map(|status| status.st_ino)
}

/// Owns a descriptor.
fn own(number: i32, name: String) -> io::Result<Passed> {
    // SAFETY: the number is not -1, and the borrow ends with the call, which fails for a descriptor that is not
    // open.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
    let flags = flags.map_err(|err| {
        malformed(format!(
            "descriptor {number}, which {COUNT} announces, is not open: {err}"
        ))
    })?;
    // Every descriptor that Rust opens is closed on exec, and one that came through exec is not.
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(malformed(format!(
            "descriptor {number}, which {COUNT} announces, was opened or taken by this program"
        )));
    }
    // SAFETY: it is open, and nothing else owns it: see the module's documentation.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)?;
    Ok(Passed { number, name, fd })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn find(variables: &[(&str, &str)]) -> Result<Option<Vec<String>>, String> {
        let variable = |name: &str| {
            variables
                .iter()
                .find_map(|(key, value)| (*key == name).then_some(*value))
        };
        let found = Announced::find(variable, 77, Some(5));
        found
            .map(|found| found.map(|found| found.names))
            .map_err(|err| err.to_string())
    }

    #[test]
    fn the_variables_are_for_one_process() {
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(find(&[(COUNT, "1")]), Ok(None));
        assert_eq!(find(&[(COUNT, "1"), (PID, "78")]), Ok(None));
        assert_eq!(find(&[(COUNT, "0"), (PID, "77"), (NAMES, "")]), Ok(None));
        let ours = [(COUNT, "2"), (PID, "77")];
        let two = |name: &str| Ok(Some(vec![name.to_owned(); 2]));
        assert_eq!(find(&ours), two("unknown"));
        let named = |names, id| find(&[ours[0], ours[1], (NAMES, names), (PIDFD_ID, id)]);
        assert_eq!(named("web:web", "5"), two("web"));
        assert_eq!(named("web:web", "6"), Ok(None));
        assert_eq!(named(":", "5"), two(""));
    }

    #[test]
    fn a_malformed_variable_is_an_error() {
        let pid = (PID, "77");
        for (variables, what) in [
            ([(PID, "x"), (COUNT, "1")], "LISTEN_PID=\"x\" is no number"),
            ([pid, (COUNT, "-1")], "LISTEN_FDS=\"-1\" is no number"),
            ([pid, (COUNT, "65536")], "LISTEN_FDS=\"65536\" is no number"),
        ] {
            let err = find(&variables).unwrap_err();
            assert!(err.contains(what), "{err}");
        }
        let err = find(&[pid, (COUNT, "1"), (NAMES, "a:b")]).unwrap_err();
        assert!(err.contains("2 names for 1 descriptors"), "{err}");
        let err = find(&[pid, (COUNT, "1"), (PIDFD_ID, "")]).unwrap_err();
        assert!(err.contains("LISTEN_PIDFDID=\"\" is no number"), "{err}");
    }

    #[test]
    fn a_process_has_an_id_of_its_own_where_the_kernel_has_them() {
        assert_eq!(own_pidfd_id(), own_pidfd_id());
    }
}
