//! Plays a cell: starts a driver, gives it its commands, runs the clients, and writes down what was
//! seen.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::client::{Client, DEADLINE, QUIET, Target, outcome};
use crate::scenario::Cell;
use crate::tls;

/// What was seen: how each step came out, then what each lane of the server's trace has.
pub(crate) type Seen = Vec<String>;

/// How far a time may be off before it is another class: this machine may be busy. What waits for a
/// poll interval of four seconds, which has begun when it is asked to stop, is later than that.
const SLACK: u128 = 3000;

/// How long a step waits before it says that something does not end, or does not come, where that is what was
/// recorded; elsewhere it waits for [`DEADLINE`], as this machine may be busy.
const STILL: Duration = Duration::from_millis(350);

/// A driver, its clients, and what has been seen so far.
struct Stage<'a> {
    cell: &'a Cell,
    /// What was recorded of this cell; empty if nothing was.
    expected: &'a [String],
    directory: tempfile::TempDir,
    child: Child,
    input: UnixStream,
    /// How long each command took, and how it ended, as the driver said.
    done: BTreeMap<String, (u128, String)>,
    lines: Receiver<String>,
    target: Option<Target>,
    clients: BTreeMap<String, Client>,
    gates: Receiver<(String, UnixStream)>,
    held: Vec<(String, UnixStream)>,
    seen: Seen,
    is_closed: bool,
    running: Option<&'static str>,
    pub(crate) version: String,
}

/// Plays a cell with a driver of which the command line begins like this. Also says what version it
/// said it has. What was recorded decides how long a step waits, not what it says.
pub(crate) fn play(
    driver: &[String],
    model: &str,
    cell: &Cell,
    expected: &[String],
) -> io::Result<(Seen, String)> {
    let mut stage = Stage::set(driver, model, cell, expected)?;
    let steps = &cell.scenario.steps;
    if !steps.iter().any(|step| step.starts_with("bind")) {
        stage.step("bind");
    }
    for step in steps {
        stage.step(step);
    }
    if steps.last().is_none_or(|step| step != "kill") {
        stage.finish();
    }
    stage.end()
}

impl<'a> Stage<'a> {
    fn set(
        driver: &[String],
        model: &str,
        cell: &'a Cell,
        expected: &'a [String],
    ) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        if cell.transport == "tls" {
            tls::write_certificate(directory.path())?;
        }
        let gates = gates(UnixListener::bind(directory.path().join("gate"))?);
        let options = cell.scenario.options.iter();
        let options = options.map(|(key, value)| format!("{key}={value}"));
        // The suite may run in the background of a shell, which has SIGINT ignored there (sh(1),
        // "Asynchronous Lists").
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT")
            .args(driver)
            .args([cell.transport, model])
            .args(options);
        // A socket, of which a driver can see what the next command is before it takes it.
        let (input, theirs) = UnixStream::pair()?;
        command
            .current_dir(directory.path())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped());
        // Errors of the interpreter itself are worth seeing; tracebacks that a scenario asks for are
        // not.
        if std::env::var_os("CONFORMANCE_STDERR").is_none() {
            command.stderr(Stdio::null());
        }
        command.process_group(0);
        let mut child = command.spawn()?;
        // The command holds the other end of the input.
        drop(command);
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self {
            cell,
            expected,
            directory,
            child,
            input,
            done: BTreeMap::new(),
            lines,
            target: None,
            clients: BTreeMap::new(),
            gates,
            held: Vec::new(),
            seen: Vec::new(),
            is_closed: false,
            running: None,
            version: String::new(),
        })
    }

    /// Returns how long a step waits for what may not come: `short` where that was recorded.
    fn patience(&self, what: &str, text: &str, short: Duration) -> Duration {
        let line = format!("{what}: {text}");
        if self.expected.is_empty() || self.expected.contains(&line) {
            short
        } else {
            DEADLINE
        }
    }

    fn see(&mut self, what: &str, text: &str) {
        self.seen.push(format!("{what}: {text}"));
    }

    fn step(&mut self, step: &str) {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "kill" => {}
            // The driver may have ended.
            "signal" => drop(kill_process(Pid::from_child(&self.child), Signal::USR1)),
            "serve" | "request" => {
                self.running = Some(if verb == "serve" { "serve" } else { "request" });
                self.command(step);
            }
            "shutdown" | "interrupt" | "close_now" | "fds" => self.command(step),
            "closing" => {
                self.is_closed = true;
                self.command("close");
            }
            "await" => {
                let (name, limit) = rest.split_once(' ').unwrap_or((rest, ""));
                self.await_end(name, limit.parse().ok());
            }
            "still" => {
                let (name, limit) = rest.split_once(' ').unwrap_or((rest, ""));
                let limit = limit.parse().map_or(STILL, Duration::from_millis);
                let limit = self.patience(name, "still runs", limit);
                let end = self.done_within(name, limit);
                let text = end.map_or_else(|| "still runs".to_owned(), |(_, end)| end);
                self.see(name, &text);
            }
            "stop" => self.stop(rest.parse().ok()),
            "gate" => self.await_gate(rest, DEADLINE, "nobody came"),
            "nobody" => self.await_gate(rest, STILL, "nobody"),
            "open" => self.held.retain_mut(|(name, gate)| {
                let is_it = name == rest;
                if is_it {
                    let _ = gate.write_all(b"!");
                }
                !is_it
            }),
            "fill" => {
                let text = self.target.as_ref().map(Target::fill).unwrap_or_default();
                self.see("fill", &text);
            }
            _ if verb.len() == 1 => self.client_step(verb, rest),
            _ => {
                self.is_closed |= matches!(verb, "close" | "leave");
                self.command(step);
                self.await_end(verb, None);
            }
        }
    }

    fn command(&mut self, line: &str) {
        let name = line.split(' ').next().unwrap_or_default();
        self.done.remove(name);
        // A driver that has ended is noticed when its answer is waited for.
        let _ = self.input.write_all(format!("{line}\n").as_bytes());
    }

    /// Waits for the end of a command, and writes it down; with a limit, also whether it took about
    /// that long.
    fn await_end(&mut self, name: &str, millis: Option<u128>) {
        let (took, text) = self
            .done_within(name, DEADLINE)
            .unwrap_or_else(|| (0, "hangs".to_owned()));
        if self.running == Some(name) {
            self.running = None;
        }
        let timing = millis.map(|expected| class(took, expected));
        self.see(name, &(text + &timing.unwrap_or_default()));
    }

    fn stop(&mut self, limit: Option<u128>) {
        let start = Instant::now();
        self.command("shutdown");
        let end = self.done_within("serve", DEADLINE);
        self.running = None;
        let (_, text) = end.unwrap_or_else(|| (0, "hangs".to_owned()));
        let timing = limit.map(|limit| class(start.elapsed().as_millis(), limit));
        self.see("serve", &(text + &timing.unwrap_or_default()));
    }

    fn done_within(&mut self, name: &str, limit: Duration) -> Option<(u128, String)> {
        let deadline = Instant::now() + limit;
        while !self.done.contains_key(name) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.hear(&line),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return None,
                Err(_) => return Some((0, "the process has ended".to_owned())),
            }
        }
        self.done.get(name).cloned()
    }

    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "done" => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().unwrap_or_default().to_owned();
                let (name, took, text) = (word(), word(), word());
                self.done.insert(name, (took.parse().unwrap_or(0), text));
            }
            "address" => {
                let target = Target::parse(rest, self.cell.transport, self.directory.path());
                self.target = target.ok();
            }
            _ => rest.clone_into(&mut self.version),
        }
    }

    fn await_gate(&mut self, name: &str, limit: Duration, otherwise: &str) {
        let deadline = Instant::now() + limit;
        while let Ok(came) = self
            .gates
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            let is_it = came.0 == name;
            self.held.push(came);
            if is_it {
                return self.see("gate", name);
            }
        }
        self.see("gate", otherwise);
    }

    fn client_step(&mut self, name: &str, rest: &str) {
        let (verb, argument) = rest.split_once(' ').unwrap_or((rest, ""));
        if !self.clients.contains_key(name) {
            let own = self.directory.path().join(format!("client-{name}"));
            let is_stream = self.target.as_ref().is_some_and(Target::is_stream);
            let is_bound = if is_stream {
                verb == "bound"
            } else {
                verb != "unbound"
            };
            let target = self
                .target
                .as_ref()
                .ok_or_else(|| io::ErrorKind::NotFound.into());
            let connected = target.and_then(|target| target.connect(is_bound.then_some(&own)));
            match connected {
                Ok(client) => self.clients.insert(name.to_owned(), client),
                Err(err) => return self.see(name, &outcome(&err)),
            };
        }
        let patience = self.patience(name, "nothing", QUIET);
        let client = self.clients.get_mut(name).expect("connected above");
        let data = argument.replace("\\n", "\n");
        let text = match verb {
            "connect" => "connected".to_owned(),
            "bound" | "unbound" => return,
            "come" if client.is_stream() => return,
            "come" => return drop(client.send(b"hello\n")),
            "send" => return drop(client.send(data.as_bytes())),
            "send_bytes" => {
                let count = argument.parse().unwrap_or(0);
                return drop(client.send(&vec![b'x'; count]));
            }
            "sent" if client.await_sent() => return,
            "sent" => "not sent".to_owned(),
            "empty" => return drop(client.send(b"")),
            "ask" => {
                client.send(data.as_bytes());
                client.answer()
            }
            "ask_address" => {
                client.send(b"hello\n");
                let answer = client.answer();
                let own = client.own_address();
                match answer.strip_prefix(&own) {
                    Some(rest) if !own.is_empty() => format!("its own{rest}"),
                    _ => answer,
                }
            }
            "answer" => client.answer(),
            "farewell" => client.farewell().to_owned(),
            // The end of a connection; that nothing comes, of a datagram.
            "over" if client.is_stream() => client.answer(),
            "read" => client.read(argument.parse().unwrap_or(1)),
            "over" | "quiet" => client.within(patience),
            "end" => return client.end(),
            "close" | "reset" => {
                let client = self.clients.remove(name).expect("connected above");
                let _ = std::fs::remove_file(self.directory.path().join(format!("client-{name}")));
                if verb == "reset" {
                    client.reset();
                }
                return;
            }
            _ => panic!("scenarios.txt: {}: no step {rest:?}", self.cell.name()),
        };
        self.see(name, &text);
    }

    /// What every scenario ends with, unless it says otherwise.
    fn finish(&mut self) {
        match self.running {
            Some("serve") => self.stop(None),
            Some(name) => self.await_end(name, None),
            None => {}
        }
        if !self.is_closed {
            self.step("close");
        }
    }

    /// Ends the driver and all that it has started, and reads its trace.
    fn end(mut self) -> io::Result<(Seen, String)> {
        if self.version.is_empty() {
            while let Ok(line) = self.lines.try_recv() {
                self.hear(&line);
            }
        }
        let group = Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
        self.child.wait()?;
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(lanes(&self.directory.path().join("trace"))?);
        Ok((seen, std::mem::take(&mut self.version)))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a time compares with what it should be.
fn class(took: u128, expected: u128) -> String {
    if took * 10 + 50 < expected * 8 {
        format!(", before {expected} ms")
    } else if took > expected + SLACK {
        format!(", long after {expected} ms")
    } else {
        format!(", after {expected} ms")
    }
}

/// Whoever comes to a gate, with its name.
fn gates(listener: UnixListener) -> Receiver<(String, UnixStream)> {
    let (sender, gates) = channel();
    std::thread::spawn(move || {
        for gate in listener.incoming().map_while(Result::ok) {
            let mut name = String::new();
            let mut reader = BufReader::new(match gate.try_clone() {
                Ok(gate) => gate.take(64),
                Err(_) => return,
            });
            let _ = reader.read_line(&mut name);
            // The empty name ends it: the scenario is over.
            if name.trim().is_empty() || sender.send((name.trim().to_owned(), gate)).is_err() {
                return;
            }
        }
    });
    gates
}

/// The trace, one line for each lane.
fn lanes(path: &Path) -> io::Result<Seen> {
    let mut lanes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let (lane, event): (String, String) = serde_json::from_str(line)?;
        let events = lanes.entry(lane).or_default();
        // How often, and whether before the first request, depends on the time.
        if events.last().is_some_and(|last| last == "service_actions") {
            if event == "service_actions" {
                continue;
            }
            if events.len() == 1 {
                events.clear();
            }
        }
        events.push(event);
    }
    let line = |(lane, events): (String, Vec<String>)| format!("{lane} | {}", events.join(" "));
    Ok(lanes.into_iter().map(line).collect())
}
