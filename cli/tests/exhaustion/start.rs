//! A server that is started with too little: it fails, and says why; or it serves, and has lost
//! nothing for good once there is enough.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::Failed;
use rustix::process::{Resource, Signal};

use crate::cell::panic_text;
use crate::clients::Clients;
use crate::scarcity::{has_users, new_user};
use crate::support::{DEADLINE, Process, command_after};
use crate::table::{Row, rows};
use crate::tree::{self, Family};

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Descriptors,
    Threads,
    Memory,
}

/// A model that is started with every limit from one with which nothing goes to one with which all
/// does.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    row: Row,
    lack: Lack,
}

pub(crate) fn starts() -> Vec<Start> {
    let mut starts = Vec::new();
    for lack in [Lack::Descriptors, Lack::Threads, Lack::Memory] {
        for row in rows() {
            // One size of worker processes has it all, and forking starts no more than its loop.
            let another = row.is_prefork() && row.workers != Some(3);
            let all = row.model == "forking" && lack != Lack::Descriptors;
            if !another && !all {
                starts.push(Start { row, lack });
            }
        }
    }
    starts
}

impl Start {
    pub(crate) const fn row(&self) -> &Row {
        &self.row
    }

    pub(crate) fn why_not(&self) -> Option<String> {
        let needs_users = self.lack == Lack::Threads && !has_users();
        needs_users.then(|| "servers cannot run as users of their own here".to_owned())
    }

    pub(crate) fn check(&self) -> Result<(), Failed> {
        let workers = self.row.workers.unwrap_or(1);
        let limits: Vec<_> = match self.lack {
            Lack::Descriptors => (4..20 + 3 * workers).collect(),
            Lack::Threads => (1..6 + 2 * workers).collect(),
            // In KiB. A thread has 2 MiB, a worker's stacks 5 MiB.
            Lack::Memory => (0..14 + 7 * workers)
                .map(|step| 4096 + 1024 * step)
                .collect(),
        };
        for limit in limits {
            let checked = catch_unwind(AssertUnwindSafe(|| self.check_limit(limit)));
            let fault = match checked {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(panic) => panic_text(&*panic),
            };
            return Err(format!("{} of {limit}, {}: {fault}", self.ulimit(), self.words()).into());
        }
        Ok(())
    }

    const fn ulimit(&self) -> &'static str {
        match self.lack {
            Lack::Descriptors => "ulimit -Sn",
            Lack::Threads => "ulimit -Su",
            Lack::Memory => "ulimit -Sv",
        }
    }

    const fn resource(&self) -> Resource {
        match self.lack {
            Lack::Descriptors => Resource::Nofile,
            Lack::Threads => Resource::Nproc,
            Lack::Memory => Resource::As,
        }
    }

    fn words(&self) -> String {
        format!("serve echo --drain-timeout 2 {}", self.row.words())
    }

    /// One for each worker, and one more.
    fn clients(&self) -> usize {
        self.row.workers.unwrap_or(1) + 1
    }

    fn check_limit(&self, limit: usize) -> Result<(), String> {
        // Whoever runs the tests may have left some open.
        let inherited = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";
        let shell = format!("{inherited}; {} {limit}", self.ulimit());
        let mut command = command_after(&shell, &self.words(), &["tcp://127.0.0.1:0"]);
        let user = (self.lack == Lack::Threads).then(new_user);
        user.map(|user| command.uid(user));
        let mut process = Process::start(command);
        let pid = process.id();
        let mut family = Family::of(pid);
        let mut said = Vec::new();
        let address = loop {
            match process.line_or_end() {
                None => {
                    let exit = process.exit();
                    family.parent_ended();
                    // Without memory the loader and the allocator end the process in their own way.
                    let fails =
                        exit.code == Some(1) && said.len() == 1 || self.lack == Lack::Memory;
                    return if fails && exit.code != Some(0) {
                        Ok(())
                    } else {
                        Err(format!("{exit:?} after {said:?}"))
                    };
                }
                Some(line) => match line.strip_prefix("listening on tcp://") {
                    Some(address) => break address.to_owned(),
                    // A note on the limit comes before the failure.
                    None if line.contains("LimitNOFILE=") => {}
                    // Worker processes are tried again, for a minute: now there is enough.
                    None => {
                        tree::limit(pid, self.resource(), None, user);
                        said.push(line);
                    }
                },
            }
        };
        let all = tree::descendants(pid).into_iter();
        all.for_each(|pid| tree::limit(pid, self.resource(), None, user));
        let came = catch_unwind(|| Clients::come(&address, self.clients()));
        let Ok(mut clients) = came else {
            // An allocation that fails, here in a thread, ends the process.
            let fails = self.lack == Lack::Memory && process.exit().code != Some(0);
            let why = "it listens, and nobody can connect".to_owned();
            return if fails { Ok(()) } else { Err(why) };
        };
        clients.wait_until(DEADLINE, |clients| {
            clients.served_leave();
            clients.all_resolved()
        });
        // An allocation that fails in a thread ends the process a little later.
        let has_died = self.lack == Lack::Memory && !tree::is_alive(pid);
        let (count, of) = (clients.served(), self.clients());
        drop(clients);
        said.extend(process.lines());
        family.see();
        process.signal(Signal::TERM);
        let stopped = catch_unwind(AssertUnwindSafe(|| process.exit()));
        if stopped.is_ok() {
            family.parent_ended();
        }
        if has_died {
            return Ok(());
        }
        if count < of {
            return Err(format!(
                "it listens, and {count} of {of} clients are served; it has said {said:?}"
            ));
        }
        match stopped {
            Ok(exit) if exit.code == Some(0) => Ok(()),
            Ok(exit) => Err(format!("it is stopped with {exit:?}")),
            Err(_) => Err(format!(
                "it does not stop, after {count} of {of} clients were served"
            )),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lack = match self.lack {
            Lack::Descriptors => "descriptors",
            Lack::Threads => "threads",
            Lack::Memory => "memory",
        };
        write!(f, "{}::start::{lack}", self.row)
    }
}
