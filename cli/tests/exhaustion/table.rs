//! The table: models down, policies across, and a page for each resource; and the rules that leave
//! cells out.

use std::collections::HashSet;
use std::fmt;

/// A model with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) model: &'static str,
    pub(crate) workers: Option<usize>,
    pub(crate) driver: Option<&'static str>,
}

/// What becomes of those beyond the limit on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    Wait,
    Refuse,
    RefuseText,
    Shed,
}

/// What is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// Descriptors of the process.
    Descriptors,
    /// Descriptors of the system.
    Files,
    Processes,
    Threads,
    Mappings,
    Pidfds,
    Epolls,
    /// Descriptors in epoll instances.
    Watches,
    /// Those of connections that are parked until their first byte.
    Parked,
}

/// When a model needs a resource while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// For a connection.
    Connection,
    /// For a worker process that replaces another: one is killed.
    Worker,
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) policy: Policy,
    pub(crate) resource: Resource,
    pub(crate) need: Need,
    /// Whether the server is asked to stop while the resource is exhausted, or when there is room
    /// again.
    pub(crate) stops_meanwhile: bool,
}

const SIZES: [usize; 4] = [1, 2, 3, 8];
const POLICIES: [Policy; 4] = [
    Policy::Wait,
    Policy::Refuse,
    Policy::RefuseText,
    Policy::Shed,
];
const RESOURCES: [Resource; 9] = [
    Resource::Descriptors,
    Resource::Files,
    Resource::Processes,
    Resource::Threads,
    Resource::Mappings,
    Resource::Pidfds,
    Resource::Epolls,
    Resource::Watches,
    Resource::Parked,
];

pub(crate) fn rows() -> Vec<Row> {
    let row = |model, workers, driver| Row {
        model,
        workers,
        driver,
    };
    let sized = |model, driver| SIZES.map(|size| row(model, Some(size), driver));
    let mut rows = vec![
        row("sequential", None, None),
        row("threading", None, None),
        row("forking", None, None),
    ];
    rows.extend(sized("pool", None));
    rows.extend(sized("coroutines", Some("epoll")));
    rows.extend(sized("coroutines", Some("uring")));
    for model in [
        "prefork:sequential",
        "prefork:threading",
        "prefork:pool",
        "prefork:forking",
    ] {
        rows.extend(sized(model, None));
    }
    rows.extend(sized("prefork:coroutines", Some("epoll")));
    rows
}

/// Every cell that the rules leave, and how many rows of each page they leave out, with the reason.
pub(crate) fn cells() -> (Vec<Cell>, Vec<(Resource, &'static str, usize)>) {
    let (mut cells, mut left_out) = (Vec::new(), Vec::new());
    for resource in RESOURCES {
        for row in rows() {
            match row.need(resource) {
                Ok(need) => {
                    let cell = |policy, stops_meanwhile| Cell {
                        row: row.clone(),
                        policy,
                        resource,
                        need,
                        stops_meanwhile,
                    };
                    cells.extend(POLICIES.map(|policy| cell(policy, false)));
                    // What is beyond the limit makes no difference to a stop.
                    cells.push(cell(Policy::Wait, true));
                }
                Err(why) => match left_out
                    .iter_mut()
                    .find(|(page, reason, _)| (*page, *reason) == (resource, why))
                {
                    Some((_, _, count)) => *count += 1,
                    None => left_out.push((resource, why, 1)),
                },
            }
        }
    }
    (cells, left_out)
}

/// A part of the cells in which every two of a model, a policy (or a stop) and a resource that go
/// together come together at least once.
pub(crate) fn pairwise(cells: &[Cell]) -> Vec<Cell> {
    let mut seen = HashSet::new();
    let rows = rows();
    let mut chosen = Vec::new();
    let mut choose = |cell: &Cell, least: usize| {
        let row = cell.row.to_string();
        let column = (cell.policy, cell.stops_meanwhile);
        let pairs = [
            format!("{row} {:?}", cell.resource),
            format!("{row} {column:?}"),
            format!("{:?} {column:?}", cell.resource),
        ];
        let new = pairs.iter().filter(|pair| !seen.contains(*pair)).count();
        if new >= least {
            seen.extend(pairs);
            chosen.push(cell.clone());
        }
    };
    // First a diagonal of the table, then what is missing.
    for cell in cells {
        let row = rows.iter().position(|row| *row == cell.row).unwrap_or(0);
        let turn = (row + cell.resource as usize) % 5;
        if turn == cell.column() {
            choose(cell, 1);
        }
    }
    for least in [3, 2, 1] {
        cells.iter().for_each(|cell| choose(cell, least));
    }
    chosen
}

impl Row {
    pub(crate) fn is_prefork(&self) -> bool {
        self.model.starts_with("prefork")
    }

    pub(crate) fn words(&self) -> String {
        let mut words = format!("--model {}", self.model);
        if let Some(workers) = self.workers {
            words += &format!(" --workers {workers}");
        }
        if let Some(driver) = self.driver {
            words += &format!(" --driver {driver}");
        }
        words
    }

    /// What each connection is served by.
    fn inner(&self) -> &'static str {
        self.model.strip_prefix("prefork:").unwrap_or(self.model)
    }

    /// How many processes accept.
    pub(crate) fn processes(&self) -> usize {
        self.workers.filter(|_| self.is_prefork()).unwrap_or(1)
    }

    /// When it needs a resource, or why never.
    fn need(&self, resource: Resource) -> Result<Need, &'static str> {
        let inner = self.inner();
        let for_worker = |otherwise| {
            if self.is_prefork() {
                Ok(Need::Worker)
            } else {
                Err(otherwise)
            }
        };
        match (resource, inner) {
            (Resource::Parked, "sequential") if self.is_prefork() => {
                Err("the client that has the thread of a worker holds up those that it has parked")
            }
            (Resource::Descriptors | Resource::Files, _)
            | (Resource::Processes | Resource::Pidfds, "forking")
            | (Resource::Threads | Resource::Mappings, "threading")
            | (Resource::Parked, "sequential" | "threading" | "pool" | "forking") => {
                Ok(Need::Connection)
            }
            (Resource::Mappings, "coroutines") if !self.is_prefork() => Ok(Need::Connection),
            (Resource::Watches, "coroutines") if self.driver == Some("epoll") => {
                Ok(Need::Connection)
            }
            (Resource::Processes | Resource::Pidfds, _) => {
                for_worker("it forks nothing while it serves")
            }
            (Resource::Threads, "forking") => Err("it has no other threads"),
            (Resource::Threads, _) => for_worker("all its threads start before it serves"),
            (Resource::Mappings, "forking") => {
                Err("it maps nothing while it serves; fork(2) is on the page of processes")
            }
            (Resource::Mappings, _) => for_worker("it maps nothing while it serves"),
            (Resource::Epolls, _) => for_worker("its epoll instances are there before it serves"),
            (Resource::Parked, _) => Err("its coroutines wait themselves"),
            (Resource::Watches, _) => for_worker("it watches nothing anew while it serves"),
        }
    }
}

impl Cell {
    fn column(&self) -> usize {
        match self.policy {
            _ if self.stops_meanwhile => 4,
            policy => policy as usize,
        }
    }

    /// The limit on connections: small, so that its policy acts, and as many as the model can have
    /// besides those that it turns away.
    pub(crate) fn max_connections(&self) -> usize {
        let row = &self.row;
        match (row.model, row.workers) {
            ("sequential", _) => 1,
            ("pool", Some(threads)) => threads,
            ("prefork:sequential", Some(workers)) => (workers - 1).max(1),
            // More than the first mapping of stacks of each worker is for.
            ("coroutines", Some(workers)) if self.resource == Resource::Mappings => {
                64 * workers + 4
            }
            // As many as the threads of one worker, which may have got all of them.
            ("prefork:pool", _) => 4,
            _ => row.workers.unwrap_or(1) + 3,
        }
    }

    /// Whether connections beyond the limit are met by its policy: whoever serves on the thread that
    /// accepts does not see them.
    pub(crate) fn policy_acts(&self) -> bool {
        !matches!(
            (self.row.model, self.row.workers),
            ("sequential", _) | ("prefork:sequential", Some(1))
        )
    }

    pub(crate) fn words(&self) -> String {
        let policy = match self.policy {
            Policy::Wait => "wait",
            Policy::Refuse => "refuse",
            Policy::RefuseText => "refuse:busy",
            Policy::Shed => "shed",
        };
        let parks = match self.resource {
            Resource::Parked => "--client-speaks-first ",
            _ => "",
        };
        format!(
            "serve echo {parks}{} --max-connections {} --at-limit {policy} --first-byte-timeout none --idle-timeout none \
             --drain-timeout 2",
            self.row.words(),
            self.max_connections()
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model.replace(':', "_"))?;
        if let Some(driver) = self.driver.filter(|_| !self.is_prefork()) {
            write!(f, "_{driver}")?;
        }
        self.workers
            .map_or(Ok(()), |workers| write!(f, "_{workers}"))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Refuse => "refuse",
            Self::RefuseText => "refuse_text",
            Self::Shed => "shed",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptors",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Threads => "threads",
            Self::Mappings => "mappings",
            Self::Pidfds => "pidfds",
            Self::Epolls => "epolls",
            Self::Watches => "watches",
            Self::Parked => "parked",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            row,
            policy,
            resource,
            ..
        } = self;
        if self.stops_meanwhile {
            write!(f, "{row}::stop::{resource}")
        } else {
            write!(f, "{row}::{policy}::{resource}")
        }
    }
}
