//! Servers with nothing to do: how often they wake up, what an idle connection takes, and what idle connections leave to
//! active ones.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::load::Load as Client;
use crate::measure::{Bench, CALM, Driven, PATIENCE, Round, Row};
use crate::os;
use crate::scenarios::{Hostile, Http, Load, Metric, Offer, Subject};
use crate::server::Server;

const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long a server is left alone before its silence, or its memory, counts.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// How long connecting, and the exchanges at the end, may take beside the time for which connections are held.
const HOLD_SLACK: f64 = 120.0;

/// How many bytes `peers/c/ballast.c` takes.
const BALLAST: u64 = 1 << 30;

/// Lets all servers sleep at the same time, and counts how often they wake up.
pub(crate) fn wake_ups(bench: &Bench<'_>, present: &mut [(&mut Row, &Subject)]) {
    let mut servers: Vec<_> = present
        .iter()
        .map(|(_, subject)| bench.start(subject))
        .collect();
    let count = |server: &Result<Server>| match server {
        Ok(server) => os::context_switches(server.pid()),
        Err(_) => Ok(0),
    };
    thread::sleep(SETTLE_TIME);
    let before: Vec<_> = servers.iter().map(count).collect();
    thread::sleep(IDLE_TIME);
    let after: Vec<_> = servers.iter().map(count).collect();
    let counts = before.into_iter().zip(after);
    for (((row, _), server), (before, after)) in
        present.iter_mut().zip(servers.drain(..)).zip(counts)
    {
        let woken = || -> Result<f64> {
            let server = server?;
            let woken = after?.saturating_sub(before?) as f64 / IDLE_TIME.as_secs_f64();
            server.stop()?;
            Ok(woken)
        };
        match woken() {
            Ok(woken) => row.figures.push((Metric::WakeUps, woken)),
            Err(err) => row.failure = Some(format!("{err:#}")),
        }
        bench.progress.done();
    }
}

/// What a server's memory grows by for each of `count` idle connections, or of as many as the subject is tried with, which
/// the load `kind` holds.
pub(crate) fn memory(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    count: u32,
    kind: &str,
) -> Result<()> {
    memory_of(bench, row, subject, bench.start(subject)?, count, kind)
}

/// The same of a server that runs.
pub(crate) fn memory_of(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    server: Server,
    count: u32,
    kind: &str,
) -> Result<()> {
    let count = count.min(subject.connections_max);
    thread::sleep(SETTLE_TIME);
    let before = Sizes::of(&server)?;
    let held = Held::open(bench, &server, kind, count, 1, HOLD_SLACK)?;
    thread::sleep(SETTLE_TIME);
    let after = Sizes::of(&server)?;
    held.end()?;
    server.stop()?;
    row.figures.extend(after.grown(&before, count));
    Ok(())
}

/// A load on a server that holds nothing else, and on the same one while it holds idle connections.
pub(crate) fn beside(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    busy: Load,
    processes: u32,
) -> Result<()> {
    let server = bench.start(subject)?;
    let alone = rate(bench, &server, busy).context("alone")?;
    let beside = Beside::measure(bench, subject, &server, busy, processes)?;
    server.stop()?;
    let (rate, base) = (beside.round.throughput(), alone.throughput());
    let count = beside.idle;
    row.notes.push(format!(
        "{rate:.0} per s beside {count} idle connections, {base:.0} without them"
    ));
    if alone.is_disturbed() {
        row.notes.push("disturbed while without them".to_owned());
    }
    row.figures.extend(beside.grown);
    row.figures.extend([
        (Metric::Idle, f64::from(count)),
        (Metric::Alone, base),
        (Metric::Beside, rate / base),
    ]);
    row.rounds.push(beside.round);
    Ok(())
}

/// The same, and then beside as many idle connections on a server that has [`BALLAST`] too.
pub(crate) fn beside_laden(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    busy: Load,
) -> Result<()> {
    beside(bench, row, subject, busy, 1)?;
    let server = Server::start(bench.programs.laden(&subject.program)?, bench.progress)?;
    ensure!(
        os::resident(server.pid())? >= BALLAST,
        "the server has not loaded the ballast"
    );
    let laden = Beside::measure(bench, subject, &server, busy, 1).context("with ballast")?;
    server.stop()?;
    let rate = laden.round.throughput();
    row.notes.push(format!("{rate:.0} per s with 1 GiB more"));
    if laden.round.is_disturbed() {
        row.notes.push("disturbed with it".to_owned());
    }
    let alone = row.figure(Metric::Alone).context("not measured alone")?;
    row.figures.push((Metric::Laden, rate / alone));
    Ok(())
}

/// What a load was answered on a server that runs, for the time for which connections are held.
fn rate(bench: &Bench<'_>, server: &Server, busy: Load) -> Result<Round> {
    calm_round(|| bench.drive(server, busy, bench.effort.hold_seconds))
}

/// Drives a load once the machine is calm.
fn calm_round(drive: impl FnOnce() -> Result<Driven>) -> Result<Round> {
    os::wait_for_calm(CALM, PATIENCE)?;
    let driven = drive()?;
    let cpu = driven.cpu;
    Ok(driven.round(cpu))
}

/// What was measured while a server held idle connections.
struct Beside {
    round: Round,
    idle: u32,
    grown: [(Metric, f64); 2],
}

impl Beside {
    fn measure(
        bench: &Bench<'_>,
        subject: &Subject,
        server: &Server,
        busy: Load,
        processes: u32,
    ) -> Result<Self> {
        let idle = bench.effort.idle.min(subject.connections_max);
        ensure!(idle >= processes, "fewer idle connections than processes");
        thread::sleep(SETTLE_TIME);
        let before = Sizes::of(server)?;
        let at_most = bench.effort.hold_seconds * 1.2 + HOLD_SLACK;
        let held = Held::open(bench, server, "hold", idle, processes, at_most)?;
        thread::sleep(SETTLE_TIME);
        let after = Sizes::of(server)?;
        let idle = held.connections;
        let round =
            rate(bench, server, busy).with_context(|| format!("beside {idle} idle connections"))?;
        held.end()?;
        Ok(Self {
            round,
            idle,
            grown: after.grown(&before, idle),
        })
    }
}

/// A load of HTTP on a server beside idle and slow clients.
pub(crate) fn beside_http(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    http: Http,
    idle: u32,
    dripping: u32,
) -> Result<()> {
    let drive = |server: &Server| http::drive(bench, server, http);
    let others = Others {
        kind: "hold-http",
        count: idle,
        dripping,
        misbehaving: 0,
    };
    beside_others(bench, row, subject, drive, others)
}

/// Operations by a timetable on a server over TLS beside hostile clients.
pub(crate) fn beside_hostile(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    offer: Offer,
    hostile: Hostile,
) -> Result<()> {
    let drive = |server: &Server| bench.drive(server, Load::Offered(offer), bench.effort.seconds);
    let others = Others {
        kind: "hostile-tls",
        count: hostile.silent,
        dripping: hostile.dripping,
        misbehaving: hostile.misbehaving,
    };
    beside_others(bench, row, subject, drive, others)
}

/// A load on a server while others hold connections, and on the same one before and after that.
fn beside_others(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    drive: impl Fn(&Server) -> Result<Driven>,
    others: Others,
) -> Result<()> {
    let server = bench.start(subject)?;
    let measure = || calm_round(|| drive(&server));
    let before = measure().context("alone")?;
    let at_most = bench.effort.seconds * 1.2 + HOLD_SLACK;
    let idle = others.count;
    let held = Held::open_others(bench, &server, others, at_most)?;
    thread::sleep(SETTLE_TIME);
    let mut beside = measure().context("beside others")?;
    // The load has waited for its processor while the slow clients sent.
    beside.others_share = 0.0;
    held.end()?;
    thread::sleep(SETTLE_TIME);
    let after = measure().context("alone again")?;
    server.stop()?;
    let rate = f64::midpoint(before.throughput(), after.throughput());
    let p99 = f64::midpoint(before.load.p99_us, after.load.p99_us);
    row.notes
        .push(format!("alone: {rate:.0} per s, p99 {p99:.0} us"));
    if before.is_disturbed() || after.is_disturbed() {
        row.notes.push("disturbed while alone".to_owned());
    }
    row.figures.extend([
        (Metric::Idle, f64::from(idle)),
        (Metric::Alone, rate),
        (Metric::Beside, beside.throughput() / rate),
        (Metric::P99Beside, beside.load.p99_us / p99),
    ]);
    row.rounds.push(beside);
    Ok(())
}

/// The memory of a server and its workers.
struct Sizes {
    private: u64,
    resident: u64,
}

impl Sizes {
    fn of(server: &Server) -> Result<Self> {
        Ok(Self {
            private: os::private(server.pid())?,
            resident: os::resident(server.pid())?,
        })
    }

    /// By how much it has grown for each connection.
    fn grown(&self, before: &Self, connections: u32) -> [(Metric, f64); 2] {
        let each =
            |after: u64, before: u64| after.saturating_sub(before) as f64 / f64::from(connections);
        [
            (Metric::Memory, each(self.private, before.private)),
            (Metric::Resident, each(self.resident, before.resident)),
        ]
    }
}

/// Clients that a load holds beside the one that is measured.
struct Others {
    /// The load.
    kind: &'static str,
    count: u32,
    dripping: u32,
    misbehaving: u32,
}

/// Idle connections, each of which has made an exchange.
struct Held {
    clients: Vec<Client>,
    connections: u32,
}

impl Held {
    /// Opens connections from several processes at the same time, the same number from each.
    fn open(
        bench: &Bench<'_>,
        server: &Server,
        kind: &str,
        count: u32,
        processes: u32,
        at_most: f64,
    ) -> Result<Self> {
        let each = count / processes;
        let mut clients = Vec::new();
        for process in 0..processes {
            let mut command = bench.programs.load();
            command.args([kind, &server.url]);
            command.args(["--in-flight", &each.to_string()]);
            command.args(["--first", &(process * each).to_string()]);
            command.args(["--at-most", &at_most.to_string()]);
            clients.push(Client::start(command)?);
        }
        for client in &mut clients {
            client.wait_until_ready().context("open idle connections")?;
        }
        Ok(Self {
            clients,
            connections: each * processes,
        })
    }

    /// Opens connections of several kinds from one process.
    fn open_others(
        bench: &Bench<'_>,
        server: &Server,
        others: Others,
        at_most: f64,
    ) -> Result<Self> {
        let mut command = bench.programs.load();
        command.args([others.kind, &server.url]);
        command.args(["--in-flight", &others.count.to_string()]);
        command.args(["--dripping", &others.dripping.to_string()]);
        command.args(["--misbehaving", &others.misbehaving.to_string()]);
        command.args(["--at-most", &at_most.to_string()]);
        let mut client = Client::start(command)?;
        client.wait_until_ready().context("open connections")?;
        Ok(Self {
            clients: vec![client],
            connections: others.count,
        })
    }

    /// Every connection must still answer.
    fn end(mut self) -> Result<()> {
        for client in &mut self.clients {
            client.ask_to_end();
        }
        for client in self.clients {
            client.end().context("end idle connections")?;
        }
        Ok(())
    }
}
