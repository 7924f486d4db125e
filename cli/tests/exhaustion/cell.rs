//! One cell: a server whose resource is exhausted while clients come, and what becomes of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Failed;
use rustix::process::Signal;

use crate::clients::Clients;
use crate::scarcity::{Calls, Means};
use crate::support::{DEADLINE, Process, command};
use crate::table::{Cell, Need, Policy, Resource};
use crate::tree::{self, Family, Work, within_deadline};

/// How long a server is watched that can do nothing.
const WINDOW: Duration = Duration::from_secs(2);

/// How long nothing must have come of what can still be done, before that.
const SETTLE: Duration = Duration::from_millis(300);

/// Clients beyond the limit on connections.
const BEYOND: usize = 3;

/// System calls that a thread may make in the window: pauses of 5 ms that double up to a second are
/// nine or ten tries, each of a few calls. A worker that is started anew makes more, once.
const CALLS_MAX: usize = 120;

/// How often a thread may begin to wait in the window, for the same reason: a try, or a look for a
/// connection to shed, is followed by one wait.
const WAITS_MAX: u64 = 60;

/// Processor time that a server may take in the window. A few waits take a hundredth of it, a loop
/// that does not wait takes all that it gets; the debug build is slow, and the machine may be busy.
const CPU_MAX: Duration = Duration::from_millis(400);

/// Threads that may be new in the window: workers that cannot start are tried again after pauses
/// that double from 100 ms.
const NEW_THREADS_MAX: usize = 64;

/// How long the first client had to wait once there was room again, at most.
static WAITED: Mutex<BTreeMap<Resource, (Duration, String)>> = Mutex::new(BTreeMap::new());

struct Stage<'a> {
    cell: &'a Cell,
    /// Before the process, whose end is waited for when it is dropped.
    family: Family,
    process: Process,
    address: String,
    faults: Vec<String>,
}

/// What was noted while nothing could be done.
struct Window {
    start: SystemTime,
    end: SystemTime,
    cpu: Duration,
    waits: u64,
}

/// Plays a cell and says all that was wrong.
pub(crate) fn check(cell: &Cell) -> Result<(), Failed> {
    let means = Means::of(cell.resource);
    let mut command = command(&cell.words(), &["tcp://127.0.0.1:0"]);
    let user = means.user();
    user.map(|user| command.uid(user));
    let process = Process::start(command);
    let url = process.next_url();
    let mut stage = Stage {
        cell,
        family: Family::of(process.id()),
        process,
        address: url.trim_start_matches("tcp://").to_owned(),
        faults: Vec::new(),
    };
    let played = catch_unwind(AssertUnwindSafe(|| stage.play(means, user)));
    let mut faults = std::mem::take(&mut stage.faults);
    drop(stage);
    if let Err(panic) = played {
        faults.push(panic_text(&*panic));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let words = cell.words();
    Err(format!("socketserver {words}\n- {}", faults.join("\n- ")).into())
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}

/// Says how long the first client had to wait at most, for each resource.
#[expect(clippy::print_stdout, reason = "figures to read")]
pub(crate) fn print_waits() {
    for (resource, (time, cell)) in &*WAITED.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{resource}: the first client was served within {time:.1?} of room, in {cell}");
    }
}

impl Stage<'_> {
    fn play(&mut self, means: Means, user: Option<u32>) {
        let pid = self.process.id();
        let resource = self.cell.resource;
        // What serves them stays for the next ones, where it is a thread or a mapping.
        let first = match resource {
            Resource::Threads | Resource::Mappings => 1,
            _ => self.cell.max_connections(),
        };
        self.serve_well(first);
        let idle = self.held();
        self.process.lines();

        let began = Instant::now();
        let left = match resource {
            Resource::Descriptors => (self.cell.max_connections() - 1) / self.cell.row.processes(),
            _ => 0,
        };
        let scarcity = means.begin(pid, left, user);
        if self.cell.need == Need::Worker {
            self.lose_a_worker();
        }
        let mut clients = Clients::come(&self.address, self.cell.max_connections() + BEYOND);
        let window = self.watch(&mut clients);
        let said = self.said();
        self.check_lines(&said, began.elapsed());
        self.check_work(&window, means);

        if self.cell.stops_meanwhile {
            self.stop(&mut clients);
            self.check_scarce(scarcity.end().as_ref(), &window, &said);
            return;
        }
        if resource == Resource::Descriptors && self.cell.policy == Policy::Wait {
            self.one_leaves(&mut clients);
        }
        let calls = scarcity.end();
        let resolved = self.resolve(&mut clients);
        self.check_scarce(calls.as_ref(), &window, &said);
        if resolved {
            self.check_clients(&mut clients);
        }
        drop(clients);
        self.check_recovered(idle);
        self.stop(&mut Clients::default());
    }

    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// Serves so many clients at once, and waits until nothing is left of them.
    #[track_caller]
    fn serve_well(&self, count: usize) {
        let before = self.held();
        let mut clients = Clients::come(&self.address, count);
        let served = clients.wait_until(DEADLINE, |clients| clients.served() == count);
        assert!(
            served,
            "all is well, and {} of {count} are served",
            clients.served()
        );
        drop(clients);
        let gone = within_deadline(|| self.held() == before);
        assert!(gone, "nothing is left of them");
    }

    /// How many descriptors the server has; of coroutines only the sockets, because their threads open
    /// others at a time of their own.
    fn held(&self) -> usize {
        match self.cell.row.model {
            "coroutines" => sockets(self.process.id()),
            _ => tree::open_descriptors(self.process.id()),
        }
    }

    #[track_caller]
    fn lose_a_worker(&mut self) {
        self.family.see();
        let worker = tree::children(self.process.id())[0];
        tree::kill(worker);
        assert!(
            within_deadline(|| !tree::is_alive(worker)),
            "a worker is killed"
        );
    }

    /// Watches a server that can do nothing.
    fn watch(&mut self, clients: &mut Clients) -> Window {
        let pid = self.process.id();
        let leave = !self.cell.policy_acts();
        let mut watch = |time| {
            let mut news = false;
            let end = Instant::now() + time;
            while Instant::now() < end {
                news |= clients.wait(end);
                if leave {
                    clients.served_leave();
                }
            }
            news
        };
        // Hundreds take their time, and a busy machine holds up a server for longer than the server
        // takes to settle: a window in which there was news says nothing.
        let last = Instant::now() + DEADLINE;
        let (start, before) = loop {
            while watch(SETTLE) && Instant::now() < last {}
            let window = (SystemTime::now(), Work::of(pid));
            if !watch(WINDOW) || Instant::now() >= last {
                break window;
            }
        };
        let work = Work::of(pid);
        self.family.see();
        Window {
            start,
            end: SystemTime::now(),
            cpu: work.cpu_since(&before),
            waits: work.waits_since(&before),
        }
    }

    /// The lines since the last call. The first one may be on its way.
    fn said(&self) -> Vec<String> {
        let first = self.process.line_within(DEADLINE);
        first.into_iter().chain(self.process.lines()).collect()
    }

    /// A line each second, of all processes together, and one for the worker that was killed.
    fn check_lines(&mut self, said: &[String], time: Duration) {
        let killed = u64::from(self.cell.need == Need::Worker);
        let most = killed + time.as_secs() + 1;
        if said.len() as u64 > most {
            let count = said.len();
            self.fault(format!("{count} lines in {time:.1?}: {said:#?}"));
        }
    }

    /// Tracing takes time of its own, and makes threads wait: there calls are counted.
    fn check_work(&mut self, window: &Window, means: Means) {
        if !matches!(means, Means::Limit(_)) {
            return;
        }
        if window.cpu > CPU_MAX {
            let cpu = window.cpu;
            self.fault(format!("{cpu:.1?} of processor time in {WINDOW:?}"));
        }
        if window.waits > WAITS_MAX {
            let waits = window.waits;
            self.fault(format!("a thread began {waits} waits in {WINDOW:?}"));
        }
    }

    /// The resource was exhausted, the operator knows, and trying again has cost little.
    fn check_scarce(&mut self, calls: Option<&Calls>, window: &Window, said: &[String]) {
        if said.is_empty() {
            self.fault("nothing is said of the exhaustion");
        }
        let Some(calls) = calls else { return };
        if calls.injected() == 0 {
            self.fault("the test: nothing met the exhaustion");
        }
        let threads = calls.between(window.start, window.end);
        let busiest = threads.iter().max_by_key(|(_, calls)| calls.len());
        if let Some((thread, calls)) = busiest.filter(|(_, calls)| calls.len() > CALLS_MAX) {
            let last = &calls[calls.len() - 12..];
            self.fault(format!(
                "{} system calls of thread {thread} in {WINDOW:?}, at last {last:#?}",
                calls.len()
            ));
        }
        let new = threads
            .keys()
            .filter(|thread| !self.family.has(thread))
            .count();
        if new > NEW_THREADS_MAX {
            self.fault(format!("{new} new threads in {WINDOW:?}"));
        }
    }

    /// A client that leaves makes room for one that waits.
    fn one_leaves(&mut self, clients: &mut Clients) {
        let leaves = clients
            .0
            .iter_mut()
            .find(|client| client.is_served() && client.is_open());
        let Some(leaves) = leaves else { return };
        leaves.leave();
        let before = clients.resolved();
        if before < clients.0.len()
            && !clients.wait_until(DEADLINE, |clients| clients.resolved() > before)
        {
            self.fault("a client has left, and nobody is served instead");
        }
    }

    /// Waits until every client is served, or its connection ended. Says whether it has come to that.
    fn resolve(&mut self, clients: &mut Clients) -> bool {
        let (start, before) = (Instant::now(), clients.resolved());
        let mut first = None;
        let leave = !self.cell.policy_acts() || self.cell.policy == Policy::Wait;
        let resolved = clients.wait_until(DEADLINE, |clients| {
            if clients.resolved() > before && first.is_none() {
                first = Some(start.elapsed());
            }
            if leave {
                clients.served_leave();
            }
            clients.all_resolved()
        });
        if let Some(time) = first {
            let mut waited = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
            let longest = waited.entry(self.cell.resource).or_default();
            if time > longest.0 {
                *longest = (time, self.cell.to_string());
            }
        }
        if !resolved {
            let (all, open) = (clients.0.len(), clients.0.len() - clients.resolved());
            let queued = queued(&self.address);
            self.fault(format!(
                "there is room, and {open} of {all} clients are neither served nor sent away: {} are accepted \
                 and forgotten, {queued} in the backlog",
                open.saturating_sub(queued)
            ));
        }
        resolved
    }

    fn check_clients(&mut self, clients: &mut Clients) {
        let (all, served) = (clients.0.len(), clients.served());
        let max = self.cell.max_connections();
        let turned_away: Vec<_> = clients
            .0
            .iter()
            .filter(|client| client.ended && !client.is_served())
            .collect();
        let may_fail = match self.cell.resource {
            // The handler of a connection that cannot be watched fails.
            Resource::Watches => true,
            // A parked one counts as idle until the server sees its input.
            Resource::Parked => self.cell.policy == Policy::Shed,
            _ => false,
        };
        let acts = self.cell.policy_acts();
        let count = turned_away.len();
        match self.cell.policy {
            Policy::Refuse | Policy::RefuseText if acts => {
                let text: &[u8] = match self.cell.policy {
                    Policy::RefuseText => b"busy",
                    _ => b"",
                };
                let other = turned_away.iter().find(|client| client.received != text);
                let other = other
                    .filter(|_| !may_fail)
                    .map(|client| client.received.clone());
                if let Some(other) = other {
                    self.fault(format!(
                        "a refused client got {:?}",
                        String::from_utf8_lossy(&other)
                    ));
                }
                if count < BEYOND && !may_fail {
                    self.fault(format!(
                        "{served} of {all} clients stay, {count} were refused, {max} may stay"
                    ));
                }
                if served == 0 && !may_fail {
                    self.fault("nobody is served");
                }
            }
            policy => {
                if count > 0 && !may_fail {
                    self.fault(format!("{count} of {all} clients are sent away"));
                }
                if policy == Policy::Shed && acts {
                    let few = clients.wait_until(DEADLINE, |clients| clients.open() <= max);
                    if !few {
                        let open = clients.open();
                        self.fault(format!("{open} connections where {max} may be"));
                    }
                }
            }
        }
    }

    /// Nothing is left of the clients and of the exhaustion.
    fn check_recovered(&mut self, idle: usize) {
        let (pid, row) = (self.process.id(), &self.cell.row);
        let workers = row.workers.filter(|_| row.is_prefork());
        if let Some(workers) = workers {
            if !within_deadline(|| tree::children(pid).len() == workers) {
                let count = tree::children(pid).len();
                self.fault(format!("{count} of {workers} workers are there"));
                return;
            }
        }
        if !within_deadline(|| self.held() == idle) {
            let now = self.held();
            self.fault(format!(
                "{now} descriptors are open, before there were {idle}"
            ));
        }
        // The place of one that has left is free a moment later.
        let again = matches!(self.cell.policy, Policy::Refuse | Policy::RefuseText);
        let served = within_deadline(|| {
            let mut clients = Clients::come(&self.address, 1);
            clients.wait_until(DEADLINE, Clients::is_over);
            clients.served() == 1 || !again
        });
        if !served {
            self.fault("nobody is served once all is well");
        }
    }

    /// Has the server stop.
    fn stop(&mut self, clients: &mut Clients) {
        self.family.see();
        self.process.signal(Signal::TERM);
        let exit = self.process.exit();
        self.family.parent_ended();
        let expected: &[_] = if clients.0.is_empty() { &[0] } else { &[0, 3] };
        if !exit.code.is_some_and(|code| expected.contains(&code)) {
            self.fault(format!("it ends with {exit:?}"));
        }
        if !clients.wait_until(DEADLINE, |clients| clients.all_resolved()) {
            self.fault("a client was not sent away at the end");
        }
        let mut left = Vec::new();
        let all_gone = within_deadline(|| {
            left = self.family.left();
            left.is_empty()
        });
        if !all_gone {
            self.fault(format!("processes are left: {left:?}"));
        }
    }
}

impl Clients {
    fn is_over(&mut self) -> bool {
        self.all_resolved()
    }
}

/// How many sockets a server has, in all its processes.
fn sockets(pid: u32) -> usize {
    let is_socket = |pid: u32, fd: u64| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    let all = tree::descendants(pid).into_iter();
    let sockets = all.map(|pid| {
        let open = tree::descriptors(pid);
        open.into_iter().filter(|&fd| is_socket(pid, fd)).count()
    });
    sockets.sum()
}

/// How many connections wait to be accepted (the receive queue of a listener, proc_pid_net(5)).
fn queued(address: &str) -> usize {
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let local = format!(":{:04X}", port.unwrap_or_default());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let listener = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&local) && *fields.get(3)? == "0A";
        is_it.then(|| usize::from_str_radix(fields[4].split_once(':')?.1, 16).ok())
    });
    listener.flatten().unwrap_or(0)
}
