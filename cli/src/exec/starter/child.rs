//! From clone(2) to execve(2): a process becomes a program.
//!
//! It shares the memory and the descriptors of the starter, which waits: nothing is copied, and a start costs the same however
//! many programs live. So it allocates nothing that it does not free, and it has its own descriptors before it changes any.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use anyhow::Context;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit,
    setsid,
};

use super::notice::Notice;
use super::process::notify;
use super::request::Request;
use super::sys::{self, Number, Stack, Strings};
use super::{MARK, Prepare};

/// What every program of a starter has.
pub(super) struct Base {
    /// The variables, before those of a request.
    pub(super) env: Vec<Variable>,
    /// The limit on descriptors that the server was started with.
    pub(super) nofile: Rlimit,
    /// Called last before execve(2).
    pub(super) prepare: Prepare,
    /// What the numbers of a program's descriptors refer to while none is started.
    pub(super) idle: OwnedFd,
    /// The number behind those of the descriptors that `prepare` uses.
    pub(super) first: RawFd,
}

/// A variable, as `NAME=VALUE`.
pub(super) struct Variable {
    text: CString,
    /// The length of the name.
    name: usize,
}

impl Variable {
    pub(super) fn new(text: CString) -> Self {
        let name = name(&text).len();
        Self { text, name }
    }
}

/// A program to start.
pub(super) struct Start<'a> {
    pub(super) base: &'a Base,
    pub(super) request: &'a Request<'a>,
    pub(super) mark: u64,
    pub(super) starter: Pid,
    /// Where it is reported that the process exists, or cannot become the program.
    pub(super) control: &'a OwnedFd,
    pub(super) fds: &'a [OwnedFd],
}

impl Start<'_> {
    /// Starts the program, and returns its process and the pidfd. The process exits if it cannot become the program.
    ///
    /// # Errors
    ///
    /// There is no process.
    pub(super) fn run(&self, stack: &mut Stack) -> anyhow::Result<(Pid, OwnedFd)> {
        let mark = CString::new(format!("{MARK}={}", self.mark))?;
        let listen_pid = Number::new();
        let args: Strings<'_> = self.request.args.iter().copied().collect();
        let own = &self.request.env;
        let env = environment(&self.base.env, own);
        let mut env: Strings<'_> = env.chain([mark.as_c_str()]).collect();
        if own.iter().any(|variable| name(variable) == b"LISTEN_FDS") {
            env.push(&listen_pid);
        }
        let mut failure = None;
        let mut child = || failure = self.become_program(&args, &env, &listen_pid).err();
        let started = self
            .place()
            .and_then(|()| sys::spawn(stack, &mut child).context("clone(2)"));
        self.take_back()?;
        if let Some(err) = failure {
            notify(self.control, &Notice::Failed(format!("{err:#}")));
        }
        started
    }

    /// Gives the program's descriptors their numbers, in this process: a new one takes them over.
    fn place(&self) -> anyhow::Result<()> {
        for (target, index) in (0..).zip(self.request.layout) {
            let fd = self.fds.get(usize::from(*index));
            let fd = fd.context("a descriptor is missing")?;
            sys::place(fd.as_fd(), target).context("dup2(2)")?;
        }
        Ok(())
    }

    fn take_back(&self) -> anyhow::Result<()> {
        let mut targets = 0..self.request.layout.len() as RawFd;
        let idle = self.base.idle.as_fd();
        let taken = targets.try_for_each(|target| sys::place_until_exec(idle, target));
        taken.context("dup3(2)")
    }

    /// The life of the process until it is the program.
    fn become_program(
        &self,
        args: &Strings<'_>,
        env: &Strings<'_>,
        listen_pid: &Number,
    ) -> anyhow::Result<Infallible> {
        set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(2)")?;
        if getppid() != Some(self.starter) {
            sys::exit(127);
        }
        setsid().context("setsid(2)")?;
        let pid = getpid().as_raw_nonzero().get();
        // Before the program runs: the server ends its group if the starter is killed.
        notify(self.control, &Notice::Started { pid });
        listen_pid.set("LISTEN_PID", pid);
        // A descriptor behind those of the layout is the working directory.
        if let Some(directory) = self.fds.get(self.request.descriptors()) {
            rustix::process::fchdir(directory).context("fchdir(2)")?;
        }
        sys::leave_descriptors(self.base.first).context("close_range(2)")?;
        setrlimit(Resource::Nofile, self.base.nofile)
            .context("restore the limit on descriptors")?;
        (self.base.prepare)()?;
        let path = self.request.path;
        // A signal must not end this process amid a change of the memory that it shares: between the two calls it changes
        // none.
        sys::unblock_signals();
        let failed = sys::execute(path, args, env);
        sys::block_signals();
        failed.with_context(|| format!("execute {}", path.to_string_lossy()))
    }
}

/// The variables of a program, without those that only the new process knows: those of the request replace those of the same
/// name before.
fn environment<'a>(base: &'a [Variable], own: &'a [&'a CStr]) -> impl Iterator<Item = &'a CStr> {
    let names: Vec<_> = own.iter().map(|variable| name(variable)).collect();
    let is_kept = move |variable: &&Variable| {
        let name = &variable.text.as_bytes()[..variable.name];
        !names.contains(&name)
    };
    let kept = base.iter().filter(is_kept);
    kept.map(|variable| variable.text.as_c_str())
        .chain(own.iter().copied())
}

fn name(variable: &CStr) -> &[u8] {
    let bytes = variable.to_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=');
    &bytes[..end.unwrap_or(bytes.len())]
}

/// The mark in the environment of a process: that of the program to which it belongs.
pub(super) fn mark_of(pid: Pid) -> Option<u64> {
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let mut variables = environ.split(|byte| *byte == 0);
    let value =
        variables.find_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
    std::str::from_utf8(value?).ok()?.parse().ok()
}

/// The children of this process, which has one thread (proc_tid_children(5)).
pub(super) fn children() -> io::Result<Vec<Pid>> {
    let text = fs::read_to_string("/proc/thread-self/children")?;
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    Ok(pids.filter_map(Pid::from_raw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_request_replace_those_of_all_programs() {
        let base = [c"A=1", c"AB=2", c"C=3"].map(|text| Variable::new(text.into()));
        let own = [c"A=x=y", c"LISTEN_FDS=1"];
        let env: Vec<_> = environment(&base, &own).collect();
        assert_eq!(env, [c"AB=2", c"C=3", c"A=x=y", c"LISTEN_FDS=1"]);
    }
}
