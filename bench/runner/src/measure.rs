//! Rounds: each starts every server of a scenario in turn, puts the load on it, and stops it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_load::Summary;

use crate::counts;
use crate::endurance;
use crate::http;
use crate::idle;
use crate::load::Load as Client;
use crate::os;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::scenarios::{Echo, Heavy, Http, HttpClient, Load, Metric, Offer, Scenario, Subject};
use crate::server::Server;
use crate::stop;
use crate::tasks;

/// For how long the processors must have nothing to do before a disturbed measurement is repeated, and how long that is
/// waited for.
pub(crate) const CALM: Duration = Duration::from_millis(500);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// From how many connections on the memory of a server is divided by them.
const MANY: u32 = 64;

/// The part of a latency for which the load may be late by itself, and how many microseconds it may be in any case.
const LATE: f64 = 0.25;
const LATE_US: f64 = 50.0;

/// The most requests by a timetable that may be in flight.
const REQUESTS_MAX: u32 = 1024;

pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// How often a measurement that others have disturbed is repeated.
    pub(crate) repeats: usize,
    /// How many idle connections are held beside active ones, and for how long.
    pub(crate) idle: u32,
    pub(crate) hold_seconds: f64,
}

/// What a measurement needs beside its subject.
pub(crate) struct Bench<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) effort: &'a Effort,
    pub(crate) progress: &'a Progress,
}

/// What was measured of one subject.
pub(crate) struct Row {
    pub(crate) subject: &'static str,
    /// The tool that this machine lacks to run it.
    pub(crate) missing: Option<&'static str>,
    /// Why it was given up.
    pub(crate) failure: Option<String>,
    pub(crate) rounds: Vec<Round>,
    /// What is measured beside what a round has: once, or in each round.
    pub(crate) figures: Vec<(Metric, f64)>,
    /// What should be known of them.
    pub(crate) notes: Vec<String>,
}

/// What was measured of one subject in one round.
pub(crate) struct Round {
    pub(crate) load: Summary,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) rss_bytes_per_conn: Option<f64>,
    /// The share of its processor that the server has used.
    pub(crate) server_share: f64,
    /// The share of the time that others ran on one of the two processors: on that of the server only what they did
    /// outside of the kernel, which is what can be told apart.
    pub(crate) others_share: f64,
}

impl Round {
    pub(crate) fn throughput(&self) -> f64 {
        self.load.measured as f64 / self.load.seconds
    }

    /// Whether the load, and not the server, has set the pace. One with a timetable does so on purpose.
    pub(crate) fn is_bound_by_load(&self) -> bool {
        self.load.offered.is_none() && self.load.cpu_share > 0.95 && self.server_share < 0.9
    }

    /// What has become of the heavy requests.
    pub(crate) fn heavy(&self) -> Option<&bench_load::Heavy> {
        self.load.offered.as_ref()?.heavy.as_ref()
    }

    /// Whether the load was so late by itself that its percentile of 99 says little of the server.
    fn is_late(&self) -> bool {
        let offered = self.load.offered.as_ref();
        offered.is_some_and(|offered| is_too_late(offered.late_p99_us, self.load.p99_us))
    }

    /// Takes back a percentile of 99.9 that says little of the server.
    fn without_what_is_the_loads(mut self) -> Self {
        if let (Some(offered), Some(p999)) = (&self.load.offered, self.load.p999_us)
            && is_too_late(offered.late_p999_us, p999)
        {
            self.load.p999_us = None;
        }
        self
    }

    /// Whether others have taken a noticeable part of a processor.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.others_share > 0.05
    }
}

/// Whether a load was late, at some percentile, for more than a small part of the latency at the same percentile.
fn is_too_late(late_us: f64, latency_us: f64) -> bool {
    late_us > (latency_us * LATE).max(LATE_US)
}

impl Bench<'_> {
    /// How many steps a scenario takes.
    pub(crate) fn steps(&self, scenario: &Scenario) -> u64 {
        let subjects = scenario.subjects.iter();
        let present = subjects.filter(|subject| self.missing(scenario.load, subject).is_none());
        (present.count() * self.rounds(scenario.load)) as u64
    }

    fn rounds(&self, load: Load) -> usize {
        match load {
            Load::Requests(_)
            | Load::Echo(_)
            | Load::Packets(_)
            | Load::Http(_)
            | Load::HttpBeside { .. }
            | Load::TlsBeside { .. }
            | Load::Offered(_)
            | Load::Counts(_)
            | Load::Proxy(_)
            | Load::Bulk(_)
            | Load::Handshakes { .. }
            | Load::ProxyRequests(_)
            | Load::Tasks { .. } => self.effort.rounds,
            Load::Idle
            | Load::Memory(_)
            | Load::HttpMemory(_)
            | Load::Stop(_)
            | Load::Growth(_)
            | Load::ProxyMemory(_)
            | Load::Beside { .. }
            | Load::BesidePrograms(_) => 1,
        }
    }

    fn missing(&self, load: Load, subject: &Subject) -> Option<&'static str> {
        let tool = load
            .tools()
            .iter()
            .find_map(|tool| self.programs.lacks(tool));
        tool.or_else(|| self.programs.missing(&subject.program))
    }

    /// Measures all subjects of a scenario. One that fails is given up, and the others go on.
    pub(crate) fn scenario(&self, scenario: &Scenario) -> Vec<Row> {
        let row = |subject: &Subject| Row {
            subject: subject.name,
            missing: self.missing(scenario.load, subject),
            failure: None,
            rounds: Vec::new(),
            figures: Vec::new(),
            notes: Vec::new(),
        };
        let mut rows: Vec<_> = scenario.subjects.iter().map(row).collect();
        let mut present: Vec<_> = rows
            .iter_mut()
            .zip(&scenario.subjects)
            .filter(|(row, _)| row.missing.is_none())
            .collect();
        match scenario.load {
            Load::Idle => {
                self.progress.step(&scenario.name);
                idle::wake_ups(self, &mut present);
            }
            load => self.each(scenario, &mut present, |row, subject| match load {
                Load::Memory(count) => idle::memory(self, row, subject, count, "hold"),
                Load::HttpMemory(count) => idle::memory(self, row, subject, count, "hold-http"),
                Load::HttpBeside {
                    http,
                    idle,
                    dripping,
                } => idle::beside_http(self, row, subject, http, idle, dripping),
                Load::TlsBeside { offer, hostile } => {
                    idle::beside_hostile(self, row, subject, offer, hostile)
                }
                Load::ProxyMemory(count) => {
                    let (proxy, upstream) = self.start_proxy(subject, load)?;
                    idle::memory_of(self, row, subject, proxy, count, "hold")?;
                    upstream.stop().map(drop)
                }
                Load::Beside { echo, processes } => {
                    idle::beside(self, row, subject, Load::Echo(echo), processes)
                }
                Load::BesidePrograms(count) => {
                    idle::beside_laden(self, row, subject, Load::Requests(count))
                }
                Load::Stop(stop) => stop::measure(self, row, subject, stop),
                Load::Growth(count) => endurance::growth(self, row, subject, count),
                Load::Counts(operation) => counts::measure(self, row, subject, operation),
                load => {
                    row.rounds.push(self.undisturbed(subject, load)?);
                    Ok(())
                }
            }),
        }
        rows
    }

    /// Measures each subject in each round.
    fn each(
        &self,
        scenario: &Scenario,
        present: &mut [(&mut Row, &Subject)],
        measure: impl Fn(&mut Row, &Subject) -> Result<()>,
    ) {
        let rounds = self.rounds(scenario.load);
        for number in 1..=rounds {
            for (row, subject) in &mut *present {
                if row.failure.is_none() {
                    let name = &scenario.name;
                    let step = format!("{name}, round {number} of {rounds}: {}", subject.name);
                    self.progress.step(step);
                    row.failure = measure(row, subject).err().map(|err| format!("{err:#}"));
                }
                self.progress.done();
            }
        }
    }

    pub(crate) fn start(&self, subject: &Subject) -> Result<Server> {
        Server::start(self.programs.command(&subject.program)?, self.progress)
    }

    /// Measures one subject, again when others have disturbed it.
    fn undisturbed(&self, subject: &Subject, load: Load) -> Result<Round> {
        let measure = || self.attempt(subject, load);
        let mut best = measure()?;
        for _ in 0..self.effort.repeats {
            if !best.is_disturbed() && !best.is_late() {
                break;
            }
            let again = format!("{}: disturbed, once more", subject.name);
            self.progress.say(again);
            os::wait_for_calm(CALM, PATIENCE)?;
            let next = measure()?;
            let flaw = |round: &Round| (round.is_late(), round.others_share);
            if flaw(&next) < flaw(&best) {
                best = next;
            }
        }
        if let (true, Some(offered)) = (best.is_late(), &best.load.offered) {
            bail!(
                "refused: by itself the load was {:.0} us late at p99, where the latency was {:.0} us",
                offered.late_p99_us,
                best.load.p99_us
            );
        }
        Ok(best.without_what_is_the_loads())
    }

    fn attempt(&self, subject: &Subject, load: Load) -> Result<Round> {
        if let Load::Tasks { processors } = load {
            return tasks::round(self, subject, processors);
        }
        if load.upstream().is_none() {
            return self.round(self.start(subject)?, load);
        }
        let (proxy, upstream) = self.start_proxy(subject, load)?;
        let round = self.round(proxy, load)?;
        upstream.stop()?;
        Ok(round)
    }

    /// Starts a proxy, and before it the server that it passes everything on to.
    fn start_proxy(&self, subject: &Subject, load: Load) -> Result<(Server, Server)> {
        let upstream = load.upstream().context("a load without a proxy")?;
        // On the processor of the load, and no part of what the proxy uses.
        let upstream = self.programs.command(&upstream)?;
        let upstream = Server::start_on(os::LOAD_CPU, upstream, self.progress)?;
        let proxy = self.programs.relay(&subject.program, &upstream.url)?;
        Ok((Server::start(proxy, self.progress)?, upstream))
    }

    fn round(&self, server: Server, load: Load) -> Result<Round> {
        let cpus = [os::SERVER_CPU, os::LOAD_CPU];
        let before = cpus.map(os::user_ticks);
        let start = Instant::now();
        let driven = match load {
            Load::Http(page) => http::drive(self, &server, page)?,
            _ => self.drive(&server, load, self.effort.seconds)?,
        };
        let took = start.elapsed().as_secs_f64();
        let after = cpus.map(os::user_ticks);

        let used = server.stop()?;
        // The clock of a process leaves out its children that have ended, which only short connections have.
        let cpu = match load {
            Load::Echo(_)
            | Load::Http(_)
            | Load::Offered(Offer::Echo { .. })
            | Load::Proxy(_)
            | Load::Bulk(_) => driven.cpu,
            _ => used.total,
        };
        let mut round = driven.round(cpu);
        if load.upstream().is_some() {
            // The load has waited for its processor while the upstream ran.
            round.others_share = 0.0;
        }
        let load = &round.load;
        let ours = [
            used.user.as_secs_f64() / took,
            load.user_share * load.total_seconds / took,
        ];
        for ((before, after), ours) in before.into_iter().zip(after).zip(ours) {
            // Each end is off by up to a tick.
            let all = (after? - before?).saturating_sub(2) as f64 / 100.0 / took;
            round.others_share = round.others_share.max(all - ours);
        }
        Ok(round)
    }

    /// Puts a load on a server.
    pub(crate) fn drive(&self, server: &Server, load: Load, seconds: f64) -> Result<Driven> {
        // The size of a bulk load is its end.
        let seconds = if matches!(load, Load::Bulk(_)) {
            0.0
        } else {
            seconds
        };
        let warm_up = seconds / 10.0;
        let (mut command, connections) = self.command(server, load);
        command.args(["--warm-up", &warm_up.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);

        let empty = os::resident(server.pid())?;
        let mut client = Client::start(command)?;
        client.wait_until_ready()?;
        let cpu_time = match load {
            Load::Requests(_) => os::cpu_time_with_ended,
            _ => os::cpu_time,
        };
        let before = cpu_time(server.pid())?;
        let by_timetable = matches!(load, Load::Offered(_) | Load::Http(_));
        let mut full = os::resident(server.pid())?;
        client.begin()?;
        // To look at the server takes time of a processor, which a load with a timetable would miss.
        if !by_timetable {
            thread::sleep(Duration::from_secs_f64(warm_up + seconds / 2.0));
            full = os::resident(server.pid())?;
        }
        let load = client.summary()?;
        let cpu = cpu_time(server.pid())?.saturating_sub(before);
        client.end()?;
        let grown = full.saturating_sub(empty) as f64;
        Ok(Driven {
            load,
            cpu,
            rss_bytes_per_conn: connections.map(|count| grown / f64::from(count)),
        })
    }

    /// A load, and by how many connections memory can be divided.
    fn command(&self, server: &Server, load: Load) -> (Command, Option<u32>) {
        let mut command = self.programs.load();
        let (kind, in_flight) = match load {
            Load::Echo(Echo { connections, .. }) | Load::Proxy(Echo { connections, .. }) => {
                ("echo", connections)
            }
            Load::Bulk(_) => ("bulk", 1),
            Load::Packets(count) => ("packets", count),
            Load::Requests(count) | Load::ProxyRequests(count) => ("requests", count),
            Load::Handshakes { in_flight, .. } => ("handshakes", in_flight),
            Load::Offered(Offer::Echo { connections, .. }) => ("offered-echo", connections),
            Load::Offered(Offer::Requests { .. }) => ("offered-requests", REQUESTS_MAX),
            Load::Http(Http { connections, .. }) => ("offered-http", connections),
            // They are not driven by this.
            Load::HttpBeside { .. }
            | Load::TlsBeside { .. }
            | Load::HttpMemory(_)
            | Load::Idle
            | Load::Memory(_)
            | Load::Stop(_)
            | Load::Growth(_)
            | Load::Counts(_)
            | Load::Tasks { .. }
            | Load::ProxyMemory(_)
            | Load::Beside { .. }
            | Load::BesidePrograms(_) => ("none", 0),
        };
        command.args([kind, &server.url]);
        command.args(["--in-flight", &in_flight.to_string()]);
        command.args(server.demands_header.then_some("--proxied"));
        match load {
            Load::Echo(Echo { size, depth, .. }) | Load::Proxy(Echo { size, depth, .. }) => {
                command.args(["--size", &size.to_string(), "--depth", &depth.to_string()]);
                return (command, (in_flight >= MANY).then_some(in_flight));
            }
            Load::Offered(Offer::Echo { rate, heavy, .. }) => {
                command.args(["--rate", &rate.to_string()]);
                if let Some(heavy) = heavy {
                    beside(&mut command, heavy);
                }
            }
            Load::Offered(Offer::Requests { rate })
            | Load::Http(Http {
                client: HttpClient::Offered { rate },
                ..
            }) => {
                command.args(["--rate", &rate.to_string()]);
            }
            Load::Handshakes { resumed: true, .. } => {
                command.arg("--resumed");
            }
            Load::Bulk(count) => {
                command.args(["--count", &count.to_string()]);
            }
            _ => {}
        }
        (command, None)
    }
}

/// Tells a load of heavy requests.
fn beside(command: &mut Command, heavy: Heavy) {
    command.args(["--heavy", heavy.kind]);
    command.args(["--heavy-in-flight", &heavy.connections.to_string()]);
    command.args(["--heavy-rate", &heavy.rate.to_string()]);
}

/// What a load has done to a server.
pub(crate) struct Driven {
    pub(crate) load: Summary,
    /// The processor time of the server from the beginning of the load to its end: connecting is no part of it.
    pub(crate) cpu: Duration,
    pub(crate) rss_bytes_per_conn: Option<f64>,
}

impl Driven {
    pub(crate) fn new(load: Summary, cpu: Duration) -> Self {
        Self {
            load,
            cpu,
            rss_bytes_per_conn: None,
        }
    }

    pub(crate) fn round(self, cpu: Duration) -> Round {
        let cpu = cpu.as_secs_f64();
        Round {
            cpu_us_per_op: cpu * 1e6 / self.load.total.max(1) as f64,
            rss_bytes_per_conn: self.rss_bytes_per_conn,
            server_share: cpu / self.load.total_seconds,
            others_share: self.load.delay_share,
            load: self.load,
        }
    }
}
