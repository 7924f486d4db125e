//! Exhausting a resource of a server that runs, and giving it back.
//!
//! Where a limit of the process can do it, it is the kernel's own. Else strace(1) is attached to
//! all processes of the server and injects the error into every call until it is detached.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Process, command};
use crate::table::Resource;
use crate::tree;

/// How a resource is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    Limit(rustix::process::Resource),
    /// Calls that fail, and how.
    Inject(&'static str, &'static str),
}

/// While it lives, the resource is exhausted.
pub(crate) enum Scarcity {
    Limited {
        pid: u32,
        user: Option<u32>,
        resource: rustix::process::Resource,
    },
    Traced {
        pid: u32,
        strace: Process,
        directory: TempDir,
    },
}

/// System calls of each thread, while they were traced.
pub(crate) struct Calls(String);

impl Means {
    pub(crate) fn of(resource: Resource) -> Self {
        match resource {
            Resource::Descriptors => Self::Limit(rustix::process::Resource::Nofile),
            Resource::Files => Self::Inject(
                "accept4,open,openat,socket,dup,dup3,eventfd2,epoll_create1,pipe2,memfd_create,pidfd_open,\
                 pidfd_getfd,io_uring_setup",
                "ENFILE",
            ),
            Resource::Processes if has_users() => Self::Limit(rustix::process::Resource::Nproc),
            Resource::Processes => Self::Inject("clone,fork,vfork", "EAGAIN"),
            Resource::Threads => Self::Inject("clone3", "EAGAIN"),
            Resource::Mappings => Self::Inject("mmap", "ENOMEM"),
            Resource::Pidfds => Self::Inject("pidfd_open", "EMFILE"),
            Resource::Epolls => Self::Inject("epoll_create1", "EMFILE"),
            Resource::Watches | Resource::Parked => Self::Inject("epoll_ctl", "ENOSPC"),
        }
    }

    /// The user that the server has to be: the limit on processes is that of a user, who must be
    /// nobody else, and not root.
    pub(crate) fn user(self) -> Option<u32> {
        let needed = self == Self::Limit(rustix::process::Resource::Nproc);
        needed.then(new_user)
    }

    /// Exhausts the resource, but for `left` descriptors in each process.
    #[track_caller]
    pub(crate) fn begin(self, pid: u32, left: usize, user: Option<u32>) -> Scarcity {
        match self {
            Self::Limit(resource) => {
                for pid in tree::descendants(pid) {
                    let soft = match resource {
                        rustix::process::Resource::Nofile => next_descriptor(pid, left),
                        _ => 1,
                    };
                    tree::limit(pid, resource, Some(soft), user);
                }
                Scarcity::Limited {
                    pid,
                    user,
                    resource,
                }
            }
            Self::Inject(calls, error) => {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let mut strace = Command::new("strace");
                strace.args(["-f", "-ttt", "-s", "80", "-e", "trace=all", "-e"]);
                strace.arg(format!("inject={calls}:error={error}"));
                strace.arg("-o").arg(directory.path().join("calls"));
                let mut missing: BTreeSet<_> = tree::descendants(pid).into_iter().collect();
                for pid in &missing {
                    strace.arg("-p").arg(pid.to_string());
                }
                let strace = Process::start(strace);
                // It says so once all their threads are stopped: no call goes unseen after that.
                while !missing.is_empty() {
                    let line = strace.next_line();
                    let pid = line.strip_prefix("strace: Process ").and_then(|line| {
                        let (pid, _) = line.split_once(" attached")?;
                        pid.parse().ok()
                    });
                    missing.remove(&pid.unwrap_or_else(|| panic!("cannot trace: {line}")));
                }
                Scarcity::Traced {
                    pid,
                    strace,
                    directory,
                }
            }
        }
    }
}

impl Scarcity {
    /// Gives the resource back.
    #[track_caller]
    pub(crate) fn end(self) -> Option<Calls> {
        match self {
            Self::Limited {
                pid,
                user,
                resource,
            } => {
                for pid in tree::descendants(pid) {
                    tree::limit(pid, resource, None, user);
                }
                None
            }
            Self::Traced {
                pid,
                mut strace,
                directory,
            } => {
                // A call that strace leaves halfway, with its number replaced, would fail with ENOSYS.
                tree::stop(pid);
                strace.signal(Signal::TERM);
                strace.exit();
                tree::go_on(pid);
                let calls = fs::read(directory.path().join("calls")).expect("a log");
                Some(Calls(String::from_utf8_lossy(&calls).into_owned()))
            }
        }
    }
}

impl Calls {
    pub(crate) fn injected(&self) -> usize {
        self.0.matches("(INJECTED)").count()
    }

    /// The calls that each thread has begun between two points of time, but for looks at children,
    /// which are one for each whenever their parent wakes up.
    pub(crate) fn between(&self, start: SystemTime, end: SystemTime) -> HashMap<&str, Vec<&str>> {
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.as_ref().map_or(0.0, Duration::as_secs_f64)
        };
        let (start, end) = (seconds(start), seconds(end));
        let mut calls = HashMap::<_, Vec<_>>::new();
        for line in self.0.lines() {
            let mut words = line.split_whitespace();
            let (thread, time) = (words.next(), words.next());
            let time = time.and_then(|time| time.parse::<f64>().ok());
            let is_call = words
                .next()
                .is_some_and(|word| word.starts_with(|first: char| first.is_ascii_lowercase()))
                && !line.contains(" waitid(");
            if let (Some(thread), Some(time), true) = (thread, time, is_call) {
                if time >= start && time < end {
                    calls.entry(thread).or_default().push(line);
                }
            }
        }
        calls
    }
}

/// The limit that leaves a process so many descriptors.
fn next_descriptor(pid: u32, left: usize) -> u64 {
    let open = tree::descriptors(pid);
    let mut free = (0..).filter(|number| !open.contains(number));
    free.nth(left).expect("numbers have no end")
}

const FIRST_USER: u32 = 40_000;

/// A user who has no other process.
pub(crate) fn new_user() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(FIRST_USER);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// Whether servers can run as users of their own.
pub(crate) fn has_users() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg("--version");
        let commands = [command("--version", &[]), prlimit];
        commands.into_iter().all(|mut command| {
            let output = command.uid(FIRST_USER - 1).output();
            output.is_ok_and(|output| output.status.success())
        })
    })
}

/// Why strace cannot be used here.
pub(crate) fn cannot_trace() -> Option<String> {
    static WHY_NOT: OnceLock<Option<String>> = OnceLock::new();
    let why_not = WHY_NOT.get_or_init(|| {
        let mut sleeper = Command::new("sleep").arg("10").spawn().ok()?;
        let traced = Command::new("strace")
            .args(["-o", "/dev/null", "-e", "inject=accept4:error=EPERM", "-p"])
            .arg(sleeper.id().to_string())
            .stderr(std::process::Stdio::piped())
            .spawn();
        let why_not = match traced {
            Err(err) => Some(format!("strace 5.8 or later is needed ({err}): apt-get install strace")),
            Ok(mut strace) => {
                use std::io::{BufRead, BufReader};
                let mut line = String::new();
                if let Some(stderr) = strace.stderr.take() {
                    let _ = BufReader::new(stderr).read_line(&mut line);
                }
                let _ = strace.kill();
                let _ = strace.wait();
                (!line.contains(" attached")).then(|| {
                    format!("strace must not attach here; in a container it may need --cap-add=SYS_PTRACE: {line}")
                })
            }
        };
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        why_not
    });
    why_not.clone()
}
