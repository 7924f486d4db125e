//! Programs of every bad sort, many times: nothing is left.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;

use crate::exec;
use crate::support::{DEADLINE, children, poll_until};

/// What the program does with the word that its client sends; each prints the process ids of what it starts.
const SCRIPT: &str = r#"
read word
case $word in
    exit) exit 3;;
    hang) exec sleep 1000;;
    ignore) trap '' TERM; echo; while :; do sleep 1000 & wait; done;;
    fork) (setsid sleep 1000 >/dev/null 2>&1 &); (env -i /usr/bin/setsid /bin/sleep 1000 &); exit 0;;
    group) sleep 1000 & sleep 1000 & exit 0;;
    deaf) exec 0<&- 1>&- 3>&-; exec sleep 1000;;
    flood) exec 1>&-; while :; do echo flood; done >&2;;
    die) kill -KILL $$;;
    stop) kill -STOP $$;;
    cat) exec cat;;
esac"#;

const WORDS: [&str; 10] = [
    "exit", "hang", "ignore", "fork", "group", "deaf", "flood", "die", "stop", "cat",
];

/// One client: sends its word, and leaves in one of several ways.
fn client(address: &str, number: usize) {
    let word = WORDS[number % WORDS.len()];
    let Ok(mut stream) = TcpStream::connect(address) else {
        return;
    };
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let _ = writeln!(stream, "{word}");
    match number / WORDS.len() % 3 {
        0 => {
            // Until the program's output ends, or the server ends the program.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        1 => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        _ => {}
    }
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// All processes below one.
fn below(pid: u32) -> Vec<u32> {
    let own = children(pid);
    let more: Vec<_> = own.iter().flat_map(|child| below(*child)).collect();
    [own, more].concat()
}

/// `EXEC_CHAOS` is how many programs are started, for each of the models.
fn chaos(options: &str) {
    let count = std::env::var("EXEC_CHAOS").map_or(200, |count| count.parse().expect("a number"));
    let options =
        format!("--half-close-timeout 0.05 --kill-timeout 0.05 --max-connections 40 {options}");
    let server = exec(&options, SCRIPT);
    let pid = server.process.id();
    let before = (below(pid).len(), descriptors(pid));
    let address = server.urls[0].strip_prefix("tcp://").expect("a URL of TCP");
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    client(address, number);
                }
            });
        }
    });
    poll_until("nothing is left", DEADLINE * 2, || {
        let after = (below(pid).len(), descriptors(pid));
        (after.0 <= before.0 && after.1 <= before.1).then_some(())
    });
    // The server has served, and a stop leaves nothing.
    let starter_and_workers = below(pid);
    let mut server = server;
    server.process.signal(Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(0), "{options}: {:?}", exit.stderr.last());
    crate::await_end_of(&starter_and_workers);
}

#[test]
fn programs_of_every_sort_leave_nothing_under_threads() {
    chaos("--model threading");
}

#[test]
fn programs_of_every_sort_leave_nothing_under_coroutines() {
    chaos("--model coroutines");
}

#[test]
fn programs_of_every_sort_leave_nothing_under_prefork() {
    chaos("--model prefork:forking --workers 2");
}
