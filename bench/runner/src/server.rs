//! One run of one server: started on its processor, stopped by a signal, ended in any case.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::os::{self, CpuTime};

/// How long a server may take to stop.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    /// The processor time that the process has used before it was ready.
    started_for: Duration,
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().display().to_string();
        let mut process = os::on_cpu(os::SERVER_CPU, || Ok(command.spawn()?))
            .with_context(|| format!("start {program}"))?;
        let mut lines = BufReader::new(process.stderr.take().context("no standard error")?).lines();
        let mut server = Self {
            process,
            url: String::new(),
            started_for: Duration::ZERO,
        };
        server.url = loop {
            let Some(line) = lines.next() else {
                bail!("{program} has ended before it was ready");
            };
            let line = line?;
            match line.strip_prefix("listening on ") {
                Some(url) => break url.to_owned(),
                None => eprintln!("{program}: {line}"),
            }
        };
        server.started_for = os::cpu_time(server.pid())?;
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{program}: {line}");
            }
        });
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

    fn end(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM).context("stop a server")?;
        let deadline = Instant::now() + PATIENCE;
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
