//! Every model of the command side by side, in what it fits.

use super::models::{FORKING, POOL, PREFORK, SEQUENTIAL, TCP, THREADING, UDP, served};
use super::{Echo, Load, Scenario, Subject, coroutines, subject};
use crate::programs::Program::Server;

const PREFORK_COROUTINES: &str = "socketserver/prefork:coroutines+epoll";

pub(super) fn scenarios() -> Vec<Scenario> {
    let all = [SEQUENTIAL, THREADING, POOL, FORKING, PREFORK];
    let echo = Load::Echo(Echo {
        connections: 32,
        size: 64,
        depth: 1,
    });
    vec![
        table(
            "models-requests",
            "every model, a TCP connection for each request, 32 at once",
            Load::Requests(32),
            TCP,
            &all,
        ),
        // One connection at a time is all that `Sequential` has.
        table(
            "models-echo",
            "every model, TCP echo of 64 bytes, connections: 32",
            echo,
            TCP,
            &all[1..],
        ),
        table(
            "models-udp",
            "every model, UDP echo, 128 packets of 64 bytes in flight",
            Load::Packets(128),
            UDP,
            &all,
        ),
    ]
}

fn table(
    name: &'static str,
    about: &'static str,
    load: Load,
    url: &'static str,
    models: &[&'static str],
) -> Scenario {
    // A pool has a thread for each connection.
    let served = |&name: &&'static str| served(url, name, "32");
    let mut subjects: Vec<Subject> = models.iter().map(served).collect();
    let prefork = "prefork:coroutines --workers 1 --driver epoll";
    subjects.extend([
        subject(coroutines::EPOLL, Server(url, coroutines::model("epoll"))),
        subject(coroutines::URING, Server(url, coroutines::model("uring"))),
        subject(
            PREFORK_COROUTINES,
            Server(url, prefork.split(' ').collect()),
        ),
    ]);
    Scenario {
        group: "models",
        baseline: THREADING,
        subjects,
        ..Scenario::new(name, about, load)
    }
}
