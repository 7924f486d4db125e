//! Both directions of a connection at once, under every model: halves in a scope, polls in one future, writers
//! beside the handler. In each test one direction stands still until the other is over, so a handler that does
//! one after the other never ends.

mod support;

use std::future::poll_fn;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use libtest_mimic::Trial;
use socketserver::model::{Forking, Model, ThreadPool, Threading};
use socketserver::net::{Bind, Transport, UnixAddress, Writer};
use socketserver::task::{block_on, scope};
use socketserver::{Builder, Connection, Server, ServerHandle, Tcp, UnixStream};
use support::models::{Models, NAMES, UnderModel};
use support::{Client, DEADLINE, ServerProcess, arguments, is_available, say};

/// More than the buffers of both ends hold.
const MANY: usize = 12 << 20;

/// The bytes of one write.
const BLOCK: usize = 16 << 10;

const TRANSPORTS: &[&str] = &[
    "tcp",
    "unix",
    #[cfg(feature = "tls")]
    "tls",
];

type Check = fn(&str, &str);

const CHECKS: [(&str, Check); 8] = [
    ("halves_read_while_they_cannot_write", |transport, model| {
        client_writes_first(transport, model, "halves");
    }),
    ("halves_write_while_nothing_comes", |transport, model| {
        client_reads_first(transport, model, "halves");
    }),
    ("polls_read_while_they_cannot_write", |transport, model| {
        client_writes_first(transport, model, "polls");
    }),
    ("polls_write_while_nothing_comes", |transport, model| {
        client_reads_first(transport, model, "polls");
    }),
    ("a_reader_is_idle_between_messages", a_reader_is_idle),
    ("bytes_are_read_again", bytes_are_read_again),
    ("a_peer_that_left_is_noticed", a_peer_that_left_is_noticed),
    ("whole_writes_take_turns", whole_writes_take_turns),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, transport, model, options @ ..] = &args[..]
        && mode == "--server"
    {
        return serve(transport, model, options);
    }
    let mut trials = Vec::new();
    for transport in TRANSPORTS {
        for model in NAMES {
            for (name, check) in CHECKS {
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

/// The bytes of the stream from `position` to the end of its block: all are the number of the block.
fn block_at(position: usize) -> Vec<u8> {
    vec![(position / BLOCK) as u8; BLOCK - position % BLOCK]
}

/// Sends the bytes of a stream.
fn send_many(out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let starts = (0..MANY).step_by(BLOCK);
    starts
        .into_iter()
        .try_for_each(|start| out.write_all(&block_at(start)))
}

/// Reads the bytes of a stream, and checks each.
fn read_many(input: &mut (impl Read + ?Sized)) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    for start in (0..MANY).step_by(BLOCK) {
        input.read_exact(&mut block)?;
        check_block(&block, start)?;
    }
    Ok(())
}

fn check_block(mut bytes: &[u8], mut start: usize) -> io::Result<()> {
    while !bytes.is_empty() {
        let expected = block_at(start);
        let count = expected.len().min(bytes.len());
        if bytes[..count] != expected[..count] {
            return Err(io::Error::other(format!("a wrong byte after {start}")));
        }
        (bytes, start) = (&bytes[count..], start + count);
    }
    Ok(())
}

/// Both directions, each in a closure.
fn by_halves(conn: &mut impl Connection) -> io::Result<()> {
    let (mut input, mut output) = conn.halves()?;
    scope(|scope| {
        let sends = scope.spawn(|| {
            send_many(&mut output)?;
            output.flush()
        })?;
        read_many(&mut input)?;
        let rest = input.read(&mut [0])?;
        assert_eq!(rest, 0, "the client has ended its side");
        sends.join().expect("no panic")
    })
}

/// Both directions, in one future.
fn by_polls(conn: &mut impl Connection) -> io::Result<()> {
    let (mut input, mut output) = conn.halves()?;
    let (mut received, mut sent) = (0, 0);
    let mut block = vec![0; BLOCK];
    block_on(poll_fn(|cx| {
        let mut moved = true;
        while moved {
            moved = false;
            if sent < MANY {
                if let Poll::Ready(count) = output.poll_write(cx, &block_at(sent))? {
                    (sent, moved) = (sent + count, true);
                }
            }
            if received < MANY {
                if let Poll::Ready(count) = input.poll_read(cx, &mut block)? {
                    check_block(&block[..count], received)?;
                    (received, moved) = (received + count, count > 0);
                }
            }
        }
        if received == MANY && sent == MANY {
            Poll::Ready(io::Result::Ok(()))
        } else {
            Poll::Pending
        }
    }))??;
    // Over TLS the end is a message too, which would reset a connection that is closed.
    assert_eq!(input.read(&mut [0])?, 0, "the client has ended its side");
    Ok(())
}

/// Answers each message; another closure writes the answers.
fn converse(conn: &mut impl Connection) -> io::Result<()> {
    let (mut input, mut output) = conn.halves()?;
    let (answers, queue) = async_channel::bounded::<String>(4);
    scope(|scope| {
        let writes = scope.spawn(move || {
            while let Ok(answer) = block_on(queue.recv())? {
                output.write_all(answer.as_bytes())?;
            }
            output.flush()
        })?;
        while input.next_message()? {
            let mut line = String::new();
            input.read_line(&mut line)?;
            block_on(answers.send(line.to_uppercase()))?.expect("the writer lives");
        }
        answers.close();
        writes.join().expect("no panic")
    })
}

/// Runs the command in the first line.
fn obey<C: Connection>(conn: &mut C, handle: &ServerHandle) -> io::Result<()> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 1024)?;
    match line.trim_end() {
        "halves" => by_halves(conn)?,
        "polls" => by_polls(conn)?,
        "converse" => converse(conn)?,
        "unread" => {
            let mut half = [0; 6];
            conn.read_exact(&mut half)?;
            conn.unread(&half[3..])?;
            conn.unread(b"again: ")?;
            let mut rest = String::new();
            conn.read_line_max(&mut rest, 1024)?;
            conn.write_all(rest.as_bytes())?;
        }
        "gone" => {
            assert!(!conn.peer_gone(), "the client is there");
            say("computes");
            while !conn.peer_gone() {
                socketserver::task::yield_now();
            }
            say("gone");
        }
        "turns" => take_turns(conn)?,
        "halt" => handle.shutdown(),
        other => panic!("unknown: {other:?}"),
    }
    conn.write_all(b"over")
}

/// Three writers and the handler write whole lines at the same time.
fn take_turns(conn: &mut impl Connection) -> io::Result<()> {
    let writers: Vec<Writer> = (0..3).map(|_| conn.writer()).collect::<io::Result<_>>()?;
    // A write that is larger than the buffer is sent whole.
    conn.set_write_buffer(8192)?;
    scope(|scope| {
        let lines = ["a", "b", "c"].map(|letter| letter.repeat(100_000) + "\n");
        let spawned: Vec<_> = writers
            .into_iter()
            .zip(lines)
            .map(|(mut writer, line)| {
                scope.spawn(move || (0..8).try_for_each(|_| writer.write_all(line.as_bytes())))
            })
            .collect::<io::Result<_>>()?;
        let line = "d".repeat(100_000) + "\n";
        (0..8).try_for_each(|_| conn.write_all(line.as_bytes()))?;
        for writes in spawned {
            writes.join().expect("no panic")?;
        }
        Ok(())
    })
}

/// The server: `--server TRANSPORT MODEL [OPTION]...`.
fn serve(transport: &str, model: &str, options: &[String]) -> ExitCode {
    match transport {
        "tcp" => run(Tcp::bind("127.0.0.1:0").expect("bind"), model, options),
        #[cfg(feature = "tls")]
        "tls" => {
            let tls =
                socketserver::tls::TlsConfig::builder().certificate("server.pem", "server.key");
            let tls = tls.build().expect("a certificate");
            let listeners = tls.listen(Tcp::bind("127.0.0.1:0").expect("bind"));
            run(listeners, model, options)
        }
        _ => {
            let path = std::env::current_dir().expect("a directory").join("socket");
            let listeners = UnixStream::bind(UnixAddress::from(path)).expect("bind");
            run(listeners, model, options)
        }
    }
}

fn run<T>(listeners: Vec<T>, model: &str, options: &[String]) -> ExitCode
where
    T: Transport<Accepted: Connection>,
{
    let mut builder = Server::<T>::builder()
        .listen(listeners)
        .on_ready(|| say("ready"))
        .on_error(|failure| say(format!("error {}", failure.error())))
        .drain_timeout(DEADLINE);
    if options.iter().any(|option| option == "graceless") {
        builder = builder.idle_grace(Duration::ZERO);
    }
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(3),
        forking: Forking::default(),
        workers: 2,
        breaker: 10,
    };
    models.run(model, Serves(builder))
}

struct Serves<T: Transport>(Builder<T>);

impl<T: Transport<Accepted: Connection>> UnderModel for Serves<T> {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = self.0.model(model).build().expect("build a server");
        for url in server.urls() {
            say(format!("listening on {url}"));
        }
        let handle = server.handle();
        let report = server.serve_forever(move |conn: &mut T::Accepted| obey(conn, &handle));
        say(format!("done aborted={}", report.expect("serve").aborted));
        ExitCode::SUCCESS
    }
}

fn begin(transport: &str, model: &str, command: &str) -> (ServerProcess, Box<dyn Client>) {
    let server = ServerProcess::start(transport, model, &[]);
    let mut client = server.target().connect();
    client
        .write_all(format!("{command}\n").as_bytes())
        .expect("send");
    (server, client)
}

/// The connection ends well, and so does the server.
fn end(mut server: ServerProcess, mut client: Box<dyn Client>) {
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "over");
    drop(client);
    halt(&mut server);
}

fn halt(server: &mut ServerProcess) {
    let mut client = server.target().connect();
    client.write_all(b"halt\n").expect("send");
    assert_eq!(server.wait_for("done "), "aborted=0");
    assert!(server.exit_status().success());
    assert!(!server.has_said("error "), "a handler has failed");
}

/// The client reads nothing before it has sent everything.
fn client_writes_first(transport: &str, model: &str, how: &str) {
    let (server, mut client) = begin(transport, model, how);
    send_many(&mut client).expect("send");
    client.end_of_input();
    read_many(&mut client).expect("receive");
    end(server, client);
}

/// The client sends nothing before it has received everything.
fn client_reads_first(transport: &str, model: &str, how: &str) {
    let (server, mut client) = begin(transport, model, how);
    read_many(&mut client).expect("receive");
    send_many(&mut client).expect("send");
    client.end_of_input();
    end(server, client);
}

/// The reading half is idle between messages, so a stop ends it in good order.
fn a_reader_is_idle(transport: &str, model: &str) {
    let mut server = ServerProcess::start(transport, model, &["graceless"]);
    let mut client = server.target().connect();
    client.write_all(b"converse\n").expect("send");
    for message in ["one\n", "two\n"] {
        client.write_all(message.as_bytes()).expect("send");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..], *message.to_uppercase().as_bytes());
    }
    if model.ends_with("sequential") {
        client.end_of_input();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("the end");
        return halt(&mut server);
    }
    let mut other = server.target().connect();
    other.write_all(b"halt\n").expect("send");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the end");
    assert_eq!(server.wait_for("done "), "aborted=0");
}

fn bytes_are_read_again(transport: &str, model: &str) {
    let (mut server, mut client) = begin(transport, model, "unread");
    client.write_all(b"abcdef\n").expect("send");
    let mut all = String::new();
    client.read_to_string(&mut all).expect("receive");
    assert_eq!(all, "again: def\nover");
    halt(&mut server);
}

fn a_peer_that_left_is_noticed(transport: &str, model: &str) {
    let (mut server, client) = begin(transport, model, "gone");
    server.wait_for("computes");
    drop(client);
    server.wait_for("gone");
}

fn whole_writes_take_turns(transport: &str, model: &str) {
    let (mut server, mut client) = begin(transport, model, "turns");
    let mut all = String::new();
    client.read_to_string(&mut all).expect("receive");
    let mut counts = std::collections::BTreeMap::new();
    for line in all.strip_suffix("over").expect("the end").lines() {
        let first = line.chars().next().expect("a letter");
        let is_whole = line == first.to_string().repeat(100_000);
        assert!(is_whole, "a line of several writers");
        *counts.entry(first).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [8, 8, 8, 8]);
    halt(&mut server);
}
