//! Files that a connection sends, under every model: whole, in part, truncated, to a client that takes nothing, and over
//! connections that send them in other ways.

mod support;

use std::io::{Read, Write};
use std::process::ExitCode;

use libtest_mimic::Trial;
use support::models::NAMES;
use support::{ServerProcess, arguments, is_available};

#[path = "support/server.rs"]
mod server;

type Check = fn(&str, &str);

const SCENARIOS: [(&str, Check); 3] = [
    ("a_part_arrives_in_order", a_part_arrives_in_order),
    ("a_short_file_ends_early", a_short_file_ends_early),
    ("a_client_that_takes_nothing", a_client_that_takes_nothing),
];

/// A stream of each kind: by sendfile(2), and by copying.
const TRANSPORTS: &[&str] = &[
    "tcp",
    "unix",
    "proxied",
    #[cfg(feature = "tls")]
    "tls",
];

/// More than the buffers of both ends, and than one call of sendfile(2) sends.
const LENGTH: usize = 12 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let mut trials = Vec::new();
    for transport in TRANSPORTS {
        for model in NAMES {
            for (name, check) in SCENARIOS {
                let trial = Trial::test(format!("{transport}::{model}::{name}"), move || {
                    check(transport, model);
                    Ok(())
                });
                trials.push(trial.with_ignored_flag(!is_available(model)));
            }
        }
    }
    libtest_mimic::run(&arguments(), trials).exit_code()
}

/// A file of `LENGTH` bytes, which repeat after a prime number of them.
fn file() -> (tempfile::NamedTempFile, Vec<u8>) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    file.write_all(&bytes).expect("write");
    (file, bytes)
}

/// Asks for a part of the file, and compares what comes with `expected`. Then the connection answers again.
fn ask(transport: &str, model: &str, options: &[&str], [offset, length]: [usize; 2]) {
    let (file, bytes) = file();
    let mut server = ServerProcess::start(transport, model, options);
    let mut client = server.target().connect();
    let path = file.path().display();
    writeln!(client, "file {path} {offset} {length}").expect("send");
    let part = &bytes[offset.min(LENGTH)..LENGTH.min(offset + length)];
    let end = format!("\nsent {}\n", part.len());
    let expected = [b"file\n", part, end.as_bytes()].concat();
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).expect("receive");
    assert!(received == expected, "other bytes than those of the file");
    // The server waits for this line in the way of its model.
    writeln!(client, "again").expect("send");
    let mut line = String::new();
    client.read_to_string(&mut line).expect("receive");
    assert_eq!(line, "again\n");
    server.target().ask("shutdown");
    server.wait_for("ended ");
}

fn a_part_arrives_in_order(transport: &str, model: &str) {
    ask(transport, model, &[], [1, LENGTH - 2]);
    ask(transport, model, &["write_buffer=1"], [LENGTH / 2, 10]);
}

fn a_short_file_ends_early(transport: &str, model: &str) {
    ask(
        transport,
        model,
        &["write_buffer=1"],
        [LENGTH - 1000, LENGTH],
    );
    ask(transport, model, &[], [LENGTH + 1, 1]);
}

fn a_client_that_takes_nothing(transport: &str, model: &str) {
    // A client of TLS in these tests receives in the background.
    if transport == "tls" {
        return;
    }
    let (file, _) = file();
    let mut server = ServerProcess::start(transport, model, &["write_ms=300"]);
    let mut client = server.target().connect();
    writeln!(client, "file {} 0 {LENGTH}", file.path().display()).expect("send");
    let error = server.wait_for("error ");
    assert!(error.contains("within the write timeout"), "{error}");
    drop(client);
    server.target().ask("shutdown");
    server.wait_for("ended ");
}
