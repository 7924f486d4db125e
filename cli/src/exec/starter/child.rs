//! Between fork(2) and execve(2): a process becomes a program.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit,
    setsid,
};

use super::notice::Notice;
use super::process::notify;
use super::request::{DESCRIPTORS_MAX, Request};
use super::{MARK, Prepare, sys};

/// What every program of a starter has.
pub(super) struct Base {
    /// The variables, as `NAME=VALUE`, before those of a request.
    pub(super) env: Vec<CString>,
    /// The limit on descriptors that the server was started with.
    pub(super) nofile: Rlimit,
    /// Called last before execve(2).
    pub(super) prepare: Prepare,
    /// Has the number of a program's last descriptor.
    pub(super) _last: OwnedFd,
}

/// Becomes the program, or reports through `control` why it cannot, and exits.
pub(super) fn run(
    base: &Base,
    request: &Request,
    mark: u64,
    starter: Pid,
    control: &OwnedFd,
    fds: &[OwnedFd],
) -> ! {
    let failed = become_program(base, request, mark, starter, control, fds);
    // The type has no value of success.
    if let Err(err) = failed {
        notify(control, &Notice::Failed(format!("{err:#}")));
    }
    sys::exit(127)
}

fn become_program(
    base: &Base,
    request: &Request,
    mark: u64,
    starter: Pid,
    control: &OwnedFd,
    fds: &[OwnedFd],
) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(2)")?;
    if getppid() != Some(starter) {
        sys::exit(127);
    }
    setsid().context("setsid(2)")?;
    let pid = getpid().as_raw_nonzero().get();
    // Before the program runs: the server ends its group if the starter is killed.
    notify(control, &Notice::Started { pid });
    // Above the numbers that the program's descriptors get.
    let above = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, DESCRIPTORS_MAX as i32);
    let fds = fds.iter().map(above).collect::<Result<Vec<_>, _>>();
    let fds = fds.context("duplicate a descriptor")?;
    // The report needs its descriptor until execve(2).
    let control = above(control).context("duplicate a descriptor")?;
    for (target, index) in (0..).zip(&request.layout) {
        let fd = fds
            .get(usize::from(*index))
            .context("a descriptor is missing")?;
        sys::place(fd.as_fd(), target).context("dup2(2)")?;
    }
    // A descriptor behind those of the layout is the working directory.
    if let Some(directory) = fds.get(request.descriptors()) {
        rustix::process::fchdir(directory).context("fchdir(2)")?;
    }
    // The starter's own are close-on-exec; a library that looks up users may have opened another one.
    sys::keep_below(request.layout.len() as i32).context("close_range(2)")?;
    setrlimit(Resource::Nofile, base.nofile).context("restore the limit on descriptors")?;
    let env = environment(&base.env, &request.env, mark);
    sys::unblock_signals();
    (base.prepare)()?;
    let path = request.path.as_c_str();
    let Err(err) = sys::execute(path, &request.args, &env);
    drop(control);
    Err(err).with_context(|| format!("execute {}", path.to_string_lossy()))
}

/// The variables of a program: those of the request replace those of the same name before.
fn environment(base: &[CString], own: &[CString], mark: u64) -> Vec<CString> {
    let name = |variable: &CString| -> Vec<u8> {
        let bytes = variable.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=');
        bytes[..end.unwrap_or(bytes.len())].to_vec()
    };
    let mut own = own.to_vec();
    let mut numbers = vec![format!("{MARK}={mark}")];
    if own.iter().any(|variable| name(variable) == b"LISTEN_FDS") {
        let pid = getpid().as_raw_nonzero();
        numbers.push(format!("LISTEN_PID={pid}"));
    }
    // Digits have no zero byte.
    own.extend(
        numbers
            .into_iter()
            .filter_map(|text| CString::new(text).ok()),
    );
    let names: Vec<_> = own.iter().map(name).collect();
    let kept = base
        .iter()
        .filter(|variable| !names.contains(&name(variable)));
    kept.cloned().chain(own).collect()
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
        let base = [c"A=1", c"AB=2", c"C=3"].map(CString::from);
        let own = [c"A=x=y", c"LISTEN_FDS=1"].map(CString::from);
        let env = environment(&base, &own, 7);
        let env: Vec<_> = env.iter().map(|text| text.to_str().unwrap()).collect();
        let pid = format!("LISTEN_PID={}", std::process::id());
        let mark = format!("{MARK}=7");
        assert_eq!(env, ["AB=2", "C=3", "A=x=y", "LISTEN_FDS=1", &mark, &pid]);
    }
}
