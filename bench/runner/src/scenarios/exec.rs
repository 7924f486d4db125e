//! A program for each connection, as inetd and its successors run it.

use super::Bound::AtLeast;
use super::Metric::{Beside, Laden, Throughput};
use super::{Load, Promise, Scenario, Subject, Versus, When, absolute, subject};
use crate::programs::Program::{Exec, SuperServer};

/// How many connections the load makes at once: more than the backlogs of all rivals take would be lost for a second.
const AT_ONCE: u32 = 8;

/// How many programs live meanwhile: of each model as many as 20,000 descriptors are enough for, and as there may be threads.
const IDLE: u32 = 3000;
const IDLE_THREADS: u32 = 1000;
const IDLE_WORKERS: u32 = 10_000;

const THREADING: &str = "socketserver exec/threading";
const COROUTINES: &str = "socketserver exec/coroutines+epoll";
const PREFORK: &str = "socketserver exec/prefork:coroutines";
const TCPSERVER: &str = "tcpserver";
const RIVALS: [&str; 3] = [TCPSERVER, "xinetd", "socat"];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![requests(), beside()]
}

fn exec(name: &'static str, model: &'static str) -> Subject {
    subject(name, Exec(model.split(' ').collect()))
}

fn requests() -> Scenario {
    let mut subjects: Vec<_> = RIVALS
        .iter()
        .map(|&name| subject(name, SuperServer(name)))
        .collect();
    subjects.extend([
        exec(THREADING, "threading"),
        exec(COROUTINES, "coroutines --workers 1 --driver epoll"),
        exec(
            "socketserver exec/coroutines+uring",
            "coroutines --workers 1 --driver uring",
        ),
        exec("socketserver exec/forking", "forking"),
        exec(PREFORK, "prefork:coroutines --workers 2 --driver epoll"),
    ]);
    Scenario {
        group: "exec-requests",
        baseline: TCPSERVER,
        subjects,
        promises: [THREADING, COROUTINES]
            .map(|ours| Promise {
                subject: ours,
                metric: Throughput,
                versus: Versus::Best(&RIVALS),
                bound: AtLeast(1.3),
            })
            .into(),
        when: When::Always,
        ..Scenario::new(
            "exec-requests",
            "a small static program for each TCP connection, 8 at once, as inetd and socat run it",
            Load::Requests(AT_ONCE),
        )
    }
}

fn beside() -> Scenario {
    let subjects = vec![
        exec(THREADING, "threading --idle-timeout none").up_to(IDLE_THREADS),
        exec(
            COROUTINES,
            "coroutines --workers 1 --driver epoll --idle-timeout none",
        )
        .up_to(IDLE),
        exec(
            PREFORK,
            "prefork:coroutines --workers 4 --driver epoll --idle-timeout none --max-connections 12000",
        )
        .up_to(IDLE_WORKERS),
    ];
    let promises = subjects
        .iter()
        .flat_map(|subject| {
            [Beside, Laden].map(|metric| absolute(subject.name, metric, AtLeast(0.9)))
        })
        .collect();
    Scenario {
        group: "exec-requests",
        baseline: THREADING,
        subjects,
        promises,
        when: When::Named,
        ..Scenario::new(
            "exec-beside",
            "a program for each TCP connection, alone, beside 3,000 (1,000 with threads, 10,000 with workers) idle connections \
             with their programs, and beside those with 1 GiB of memory in the server",
            Load::BesidePrograms(AT_ONCE),
        )
    }
}
