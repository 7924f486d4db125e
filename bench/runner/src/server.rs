//! One run of one server: started on its processor, stopped by a signal, ended in any case.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::os::{self, CpuTime};
use crate::progress::Progress;

/// How long a server may take to start, and to stop.
const START_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    /// Whether each connection has to begin with a header of the PROXY protocol.
    pub(crate) demands_header: bool,
    /// The processor time that the process has used before it was ready.
    started_for: Duration,
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub(crate) fn start(command: Command, progress: &Progress) -> Result<Self> {
        Self::start_on(os::SERVER_CPU, command, progress)
    }

    /// Starts a server on a processor.
    pub(crate) fn start_on(cpu: usize, mut command: Command, progress: &Progress) -> Result<Self> {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().display().to_string();
        let demands_header = command.get_args().any(|arg| arg == "--proxy-protocol");
        let mut process =
            os::on_cpu(cpu, || Ok(command.spawn()?)).with_context(|| format!("start {program}"))?;
        let stderr = process.stderr.take().context("no standard error")?;
        let mut server = Self {
            process,
            url: String::new(),
            demands_header,
            started_for: Duration::ZERO,
        };
        let (send, lines) = mpsc::channel();
        let (name, progress) = (program.clone(), progress.clone());
        thread::spawn(move || pass_on(stderr, &name, &send, &progress));
        server.url = wait_for_url(&lines).context(program)?;
        server.started_for = os::cpu_time(server.pid())?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops the server, and says how much processor time it and the children that it reaped have used since it was
    /// ready. No other child of this process may be waited for meanwhile.
    pub(crate) fn stop(mut self) -> Result<CpuTime> {
        let before = CpuTime::of_children()?;
        self.end()?;
        let after = CpuTime::of_children()?;
        let start = self.started_for;
        Ok(CpuTime {
            total: (after.total - before.total).saturating_sub(start),
            user: after.user - before.user,
        })
    }

    /// Asks the server to stop, and goes on at once.
    pub(crate) fn ask_to_stop(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM).context("stop a server")
    }

    /// Waits until a server that was asked to stop has ended, and says when that was, to a tenth of a millisecond.
    pub(crate) fn wait_for_end(mut self) -> Result<Instant> {
        let deadline = Instant::now() + STOP_TIME;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "not stopped after {STOP_TIME:?}");
            thread::sleep(Duration::from_micros(100));
        }
        Ok(Instant::now())
    }

    fn end(&mut self) -> Result<()> {
        self.ask_to_stop()?;
        let deadline = Instant::now() + STOP_TIME;
        while self.process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                eprintln!("process {} ignores SIGTERM, killed", self.pid());
                self.process.kill()?;
                self.process.wait()?;
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error: it has not been stopped yet.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

/// What a server says before it is ready goes to who waits for that, and everything after it to the user.
fn pass_on(stderr: ChildStderr, name: &str, waiting: &Sender<String>, progress: &Progress) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Err(line) = waiting.send(line) {
            progress.say(format_args!("{name}: {}", line.0));
        }
    }
}

/// The URL that a server announces; if it ends before, the last that it has said is why.
fn wait_for_url(lines: &Receiver<String>) -> Result<String> {
    let deadline = Instant::now() + START_TIME;
    let mut last = None;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => match line.strip_prefix("listening on ") {
                Some(url) => return Ok(url.to_owned()),
                None => last = Some(line),
            },
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("not ready after {START_TIME:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => match last {
                Some(why) => bail!("{why}"),
                None => bail!("it has ended before it was ready, and has said nothing"),
            },
        }
    }
}
