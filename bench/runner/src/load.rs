//! A run of one load: started on its processor, connected, told to begin, told to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use bench_load::Summary;

use crate::os;

pub(crate) struct Load {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
}

impl Load {
    /// Starts a load. It is not connected yet.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process =
            os::on_cpu(os::LOAD_CPU, || Ok(command.spawn()?)).context("start the load")?;
        let errors = process.stderr.take().context("no standard error")?;
        Ok(Self {
            input: process.stdin.take(),
            output: BufReader::new(process.stdout.take().context("no standard output")?),
            errors: Some(thread::spawn(move || one_line(errors))),
            process,
        })
    }

    /// Waits until it is connected.
    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        match self.line()?.as_str() {
            "ready" => Ok(()),
            other => bail!("the load is not ready: {other}"),
        }
    }

    /// Lets it begin.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let mut input = self.input.as_ref().context("the load has been ended")?;
        input.write_all(b"begin\n").context("begin the load")
    }

    /// What it has measured. The connections stay until it is ended.
    pub(crate) fn summary(&mut self) -> Result<Summary> {
        serde_json::from_str(&self.line()?).context("what the load said")
    }

    /// Lets it end. All that were asked to do so end at the same time.
    pub(crate) fn ask_to_end(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended well.
    pub(crate) fn end(mut self) -> Result<()> {
        self.ask_to_end();
        self.output.read_to_end(&mut Vec::new())?;
        if !self.process.wait()?.success() {
            bail!(self.failure());
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            self.process.wait()?;
            bail!(self.failure());
        }
        Ok(line.trim_end().to_owned())
    }

    fn failure(&mut self) -> String {
        let said = self.errors.take().and_then(|thread| thread.join().ok());
        format!("the load: {}", said.unwrap_or_default())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After an error: nobody has waited for it. One that has been waited for cannot be killed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The text of an error, whose causes stand on lines of their own.
fn one_line(errors: ChildStderr) -> String {
    let lines = BufReader::new(errors).lines().map_while(Result::ok);
    let told = lines.filter(|line| !line.trim().is_empty() && line != "Caused by:");
    told.map(|line| line.trim().to_owned())
        .collect::<Vec<_>>()
        .join(": ")
}
