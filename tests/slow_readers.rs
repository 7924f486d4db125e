//! A write deadline is about progress: a client that reads slowly receives all of a long reply or file,
//! under every model, although the whole reply, and each wait for room, takes longer than the
//! deadline. So does a close over input that was not read, or that comes later: it ends once the client takes nothing.

mod support;

use std::io::Read;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use socket2::SockRef;
use support::models::NAMES;
use support::{DEADLINE, ServerProcess, Target, arguments, is_available, poll_until};

#[path = "support/server.rs"]
mod server;

/// The write timeout.
const WRITE: Duration = Duration::from_secs(2);

/// The reply is written in one piece, and is larger than the buffers of both ends.
const REPLY: usize = 16 << 20;

/// A reply that the server's buffer holds, so that the connection is closed while the client reads.
const HELD: usize = 1 << 20;

/// How often a client reads a little before it reads all the rest, and how long it waits between.
const SIPS: usize = 25;
const PAUSE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let replies = [
        ("tcp", "big"),
        ("unix", "big"),
        ("tcp", "file"),
        ("unix", "file"),
        ("tcp", "unread"),
        ("tcp", "late"),
    ];
    let trials = replies.map(|(transport, reply)| {
        Trial::test(format!("{transport}::{reply}"), move || {
            // Where a close would hold up other clients, it does not wait for late input.
            let closes_at_once =
                |model: &str| model.ends_with("sequential") || model.ends_with("pool");
            let models = NAMES
                .into_iter()
                .filter(|model| is_available(model) && !(reply == "late" && closes_at_once(model)));
            // The trials wait most of the time, so all run at once.
            let clients: Vec<_> = models
                .map(|model| (model, thread::spawn(move || sip(transport, reply, model))))
                .collect();
            // All trials are joined, so that each has ended its server.
            let taken = clients
                .into_iter()
                .map(|(model, client)| (model, client.join().unwrap_or(0)));
            let taken: Vec<_> = taken.collect();
            let length = length(reply);
            let short: Vec<_> = taken.iter().filter(|(_, taken)| *taken != length).collect();
            if short.is_empty() {
                Ok(())
            } else {
                Err(format!("of {length} bytes: {short:?}").into())
            }
        })
    });
    libtest_mimic::run(&arguments(), trials.into()).exit_code()
}

const fn length(reply: &str) -> usize {
    match reply.as_bytes() {
        b"unread" | b"late" => HELD,
        _ => REPLY,
    }
}

/// Reads a reply slowly at first, and returns its length.
fn sip(transport: &str, reply: &str, model: &str) -> usize {
    poll_until("a client that reads in time", DEADLINE, || {
        sip_once(transport, reply, model)
    })
}

/// `None` where the connection has ended, and the machine has kept the client from reading for as long as the write
/// timeout.
fn sip_once(transport: &str, reply: &str, model: &str) -> Option<usize> {
    let timeout = format!("write_ms={}", WRITE.as_millis());
    let mut server = ServerProcess::start(transport, model, &[&timeout]);
    let (mut client, sip) = connect(server.target());
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let command = match reply {
        "file" => {
            // The lines around the file belong to the reply.
            let length = REPLY - format!("file\n\nsent {REPLY}\n\n").len();
            file.as_file_mut().set_len(length as u64).expect("a length");
            format!("file {} 0 {length}\n\n", file.path().display())
        }
        "unread" => format!("big {HELD}\n{}", "x".repeat(1000)),
        _ => format!("big {}\n", length(reply)),
    };
    std::io::Write::write_all(&mut client, command.as_bytes()).expect("send");
    let (mut taken, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
    let mut buffer = vec![0; sip];
    for _ in 0..SIPS {
        // A timed pause, because the client is slow.
        thread::park_timeout(PAUSE);
        if taken + sip > length(reply) {
            break;
        }
        if length(reply) == HELD {
            // What comes after the close resets the connection.
            let _ = std::io::Write::write_all(&mut client, b"x");
        }
        let read = client.read_exact(&mut buffer);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if read.is_err() {
            return (longest < WRITE).then_some(taken);
        }
        taken += sip;
    }
    let rest = std::io::copy(&mut client, &mut std::io::sink());
    taken += rest.map_or(0, |rest| rest as usize);
    longest = longest.max(last.elapsed());
    if taken != length(reply) && longest >= WRITE {
        return None;
    }
    server.target().ask("shutdown");
    server.wait_for("ended ");
    Some(taken)
}

/// A client, and how much it reads at once: the sender sees each read as progress, but has room for
/// more only after several.
fn connect(target: &Target) -> (socket2::Socket, usize) {
    let (domain, address, sip) = match target {
        Target::Tcp(addr) => (
            socket2::Domain::for_address(*addr),
            socket2::SockAddr::from(*addr),
            64 * 1024,
        ),
        Target::Unix(path) => (
            socket2::Domain::UNIX,
            socket2::SockAddr::unix(path).expect("a short path"),
            8 * 1024,
        ),
        other => panic!("not a stream: {other:?}"),
    };
    let client = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    // A small window is opened each time that it was read empty.
    let small = SockRef::from(&client).set_recv_buffer_size(64 * 1024);
    small.expect("set the buffer's size");
    client.connect(&address).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    (client, sip)
}
