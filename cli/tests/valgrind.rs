//! The binary under valgrind(1), as people run servers to look for errors of memory: it starts, serves and stops, and
//! valgrind has nothing to report.

#[allow(dead_code, reason = "what only other servers need is not used here")]
mod support;

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use support::{Client, Process, command_under};

/// How long a server may take to be ready: all that it runs is translated first.
const START: Duration = Duration::from_secs(120);

/// The transports and models that valgrind 3.19 can run. It keeps its one lock while a thread waits in io_uring_enter(2), so
/// that no other runs, and it knows no pidfd_open(2), which forking needs.
const ROWS: [(&str, &str); 7] = [
    ("tcp", "sequential"),
    ("tcp", "threading"),
    ("tcp", "pool --workers 2"),
    ("tcp", "coroutines --driver epoll --workers 1"),
    ("tcp", "coroutines --driver epoll --workers 2"),
    ("udp", "sequential"),
    ("udp", "coroutines --driver epoll --workers 2"),
];

/// More than run at a time, so that coroutines have stacks beside each other.
const CLIENTS: usize = 10;

/// One after the other, as each takes a processor for seconds.
#[test]
fn valgrind_has_nothing_to_report() {
    let known = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !known.is_ok_and(|status| status.success()) {
        // Past what the harness keeps to itself.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: valgrind is missing, so nothing was run under it: apt-get install valgrind"
        );
        return;
    }
    for (scheme, model) in ROWS {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--quiet", "--error-exitcode=99"]);
        let words = format!("serve echo --model {model}");
        let url = format!("{scheme}://127.0.0.1:0");
        let mut process = Process::start(command_under(valgrind, &words, &[&url]));
        let line = process.line_within(START).unwrap_or_default();
        let url = line.strip_prefix("listening on ");
        let url = url.unwrap_or_else(|| panic!("{scheme}, {model}: {line}"));
        let count = if model.starts_with("coroutines") {
            CLIENTS
        } else {
            1
        };
        let mut clients: Vec<_> = (0..count).map(|_| Client::connect(url)).collect();
        for client in &mut clients {
            client.echo("under valgrind");
        }
        drop(clients);
        process.signal(Signal::TERM);
        process.stopped();
    }
}
