//! The server of one model, in a process of its own: this program once more.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::args::{Compare, Model};
use crate::compare::proc;
use crate::compare::watch::{Interrupts, Progress, readable};

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for requests: their clients are gone.
const DRAIN_SECONDS: &str = "1";
/// How long a server may take until it has ended, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many lines of what a server says are kept.
const LINES_KEPT: usize = 16;

/// A server that serves the workload. Dropping it ends it, with every process that it forked.
#[derive(Debug)]
pub(super) struct Server {
    model: Model,
    /// The leader of a process group of its own: a signal from the terminal is not for it.
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    stderr: Option<ChildStderr>,
    /// What it has said and nobody has read, at most a line that is not yet complete.
    partial: Vec<u8>,
    lines: Vec<String>,
    ended: bool,
}

impl Server {
    /// Starts a server, and returns it when it listens.
    pub(super) fn start(
        args: &Compare,
        model: Model,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<(Self, SocketAddr)> {
        let program = std::env::current_exe().context("find this program to run it again")?;
        let mut child = command(&program, args, model)
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        });
        let mut server = Self {
            model,
            pid,
            pidfd: pidfd.context("watch a server with a pidfd")?,
            stderr: child.stderr.take(),
            child,
            partial: Vec::new(),
            lines: Vec::new(),
            ended: false,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        let addr = loop {
            if let Some(addr) = server.announced()? {
                break addr;
            }
            if Instant::now() >= deadline {
                bail!(
                    "the server of {model} does not listen after {} s",
                    START_TIMEOUT.as_secs()
                );
            }
            server.look(None, deadline, progress, interrupts)?;
        };
        server.lines.clear();
        Ok((server, addr))
    }

    /// Where it listens, if it has said so.
    fn announced(&self) -> Result<Option<SocketAddr>> {
        let Some(line) = self.lines.first() else {
            return Ok(None);
        };
        let url = line.strip_prefix("listening on tcp://");
        let addr = url.and_then(|addr| addr.parse().ok());
        addr.map(Some)
            .with_context(|| line.trim_start_matches("socketserver: ").to_owned())
    }

    /// Waits until `until`. An error says that the server has ended, or that a signal came.
    pub(super) fn wait(
        &mut self,
        until: Instant,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<()> {
        while Instant::now() < until {
            self.look(None, until, progress, interrupts)?;
        }
        Ok(())
    }

    /// As [`wait`](Self::wait), but only until `fd` is readable.
    pub(super) fn wait_for(
        &mut self,
        fd: BorrowedFd<'_>,
        until: Instant,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<()> {
        while !self.look(Some(fd), until, progress, interrupts)? {
            if Instant::now() >= until {
                bail!(
                    "the server of {} does not answer its first request",
                    self.model
                );
            }
        }
        Ok(())
    }

    /// Waits until `until` at most, or until the server says something, or `fd` is readable, which
    /// it returns.
    fn look(
        &mut self,
        fd: Option<BorrowedFd<'_>>,
        until: Instant,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<bool> {
        let (server, interrupts) = (self.pidfd.as_fd(), interrupts.as_fd());
        // In the place of a descriptor that is not there, one that is waited for anyway.
        let said = self.stderr.as_ref().map_or(server, AsFd::as_fd);
        let fds = [server, said, interrupts, fd.unwrap_or(interrupts)];
        let [ended, said, interrupted, readable] = progress.wait(fds, until)?;
        if interrupted {
            bail!("stopped by a signal");
        }
        if said {
            self.hear();
        }
        if ended {
            bail!("{}", self.obituary());
        }
        Ok(readable)
    }

    /// Takes what the server has said.
    fn hear(&mut self) {
        let mut buf = [0; 4096];
        let Some(stderr) = &mut self.stderr else {
            return;
        };
        match stderr.read(&mut buf) {
            Ok(count) if count > 0 => self.partial.extend_from_slice(&buf[..count]),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            _ => self.stderr = None,
        }
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            if self.lines.len() < LINES_KEPT {
                let line = String::from_utf8_lossy(&line);
                self.lines.push(line.trim_end().to_owned());
            }
        }
    }

    /// What the server has said since it listens: what went wrong.
    pub(super) fn complaints(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .map(|line| line.trim_start_matches("socketserver: "))
    }

    pub(super) fn memory(&self) -> Result<u64> {
        proc::memory(self.pid)
    }

    pub(super) fn cpu_time(&self) -> Result<Duration> {
        proc::cpu_time(self.pid)
    }

    /// Stops the server, and returns the processor time that all its processes have taken.
    pub(super) fn stop(mut self) -> Result<Duration> {
        self.ask_to_end()?;
        // A process that has ended keeps its account until it is waited for.
        let cpu = self.cpu_time()?;
        let status = self.reap();
        match status.code() {
            // 3: a request was aborted, as its client was gone.
            Some(0 | 3) => Ok(cpu),
            _ => bail!("{}", self.died(status)),
        }
    }

    /// Sends SIGTERM, and SIGKILL where that does not help.
    fn ask_to_end(&self) -> Result<()> {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if readable([self.pidfd.as_fd()], left)? == [true] {
                return Ok(());
            }
            if left.is_zero() {
                break;
            }
        }
        self.kill();
        readable([self.pidfd.as_fd()], STOP_TIMEOUT).map(|_| ())
    }

    /// Kills what is left of the server. Until its leader is waited for, the number of the group is
    /// its own.
    fn kill(&self) {
        // The group has ended where this fails.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Waits for the end of a server that has been asked to end, and of all its processes.
    fn reap(&mut self) -> ExitStatus {
        self.kill();
        self.ended = true;
        // Each of its processes has the pipe until it ends.
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Some(stderr) = &self.stderr {
            let left = deadline.saturating_duration_since(Instant::now());
            match readable([stderr.as_fd()], left) {
                Ok([true]) => self.hear(),
                Ok(_) if !left.is_zero() => {}
                _ => break,
            }
        }
        // A child that has not been waited for can be waited for.
        self.child.wait().unwrap_or_default()
    }

    fn obituary(&mut self) -> String {
        let status = self.reap();
        self.died(status)
    }

    fn died(&self, status: ExitStatus) -> String {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown status".to_owned(),
        };
        let last = self.complaints().last();
        let last = last.map_or_else(String::new, |line| format!(": {line}"));
        format!("the server of {} ended early with {how}{last}", self.model)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended {
            // Where even waiting fails, it is killed.
            let _ = self.ask_to_end();
            self.reap();
        }
    }
}

fn command(program: &std::path::Path, args: &Compare, model: Model) -> Command {
    let mut command = Command::new(program);
    let workload = args.workload;
    let mut option = |name: &str, value: String| {
        command.arg(name).arg(value);
    };
    option("workload", "--listen=tcp://127.0.0.1:0".to_owned());
    option("--parent", std::process::id().to_string());
    option("--model", model.to_string());
    option("--drain-timeout", DRAIN_SECONDS.to_owned());
    // No limit: a connection that is being closed has its place while the next one comes.
    let max_connections = 2 * u64::from(args.connections) + 16;
    option("--max-connections", max_connections.to_string());
    option("--request-size", workload.request_size.to_string());
    option("--cpu", workload.cpu.as_micros().to_string());
    option("--wait", workload.wait.as_micros().to_string());
    if let Some(workers) = args.workers.filter(|_| model.is_sized()) {
        option("--workers", workers.to_string());
    }
    if workload.new_connections {
        command.arg("--new-connections");
    }
    command
        .process_group(0)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}
