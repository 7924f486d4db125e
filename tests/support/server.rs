//! The server in the test processes: any transport, any model, and one handler that obeys commands.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socketserver::access::Access;
use socketserver::limits::{AtLimit, Rate};
use socketserver::model::Model;
use socketserver::net::{Accepted, Bind, SeqpacketConnection, Transport};
use socketserver::observe::Event;
use socketserver::proxied::ProxyConfig;
use socketserver::task::offload;
use socketserver::{
    Builder, Connection, Datagram, Forking, Next, Outcome, Report, Server, ServerHandle, Tcp,
    ThreadPool, Threading, Udp, UnixDatagram, UnixSeqpacket, UnixStream,
};

use crate::support::models::{Models, UnderModel};
use crate::support::{hold_at, say};

/// A wrapping transport.
#[path = "../../examples/counting.rs"]
#[expect(dead_code, reason = "its server is not used here")]
mod counting;

/// A connection or datagram whose first line is a command.
pub(crate) trait Command: Accepted {
    fn command(&mut self) -> io::Result<String>;

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.write_all(text.to_string().as_bytes())
    }

    /// Waits for the next message. A datagram has none.
    fn next_message(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Buffers writes.
    fn buffer(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sends a part of a file.
    fn send_file(&mut self, _: &File, _: u64, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

macro_rules! commands {
    ($($stream:ty),*; $($datagram:ty),*) => {
        $(impl Command for $stream {
            fn command(&mut self) -> io::Result<String> {
                let mut line = String::new();
                self.read_line_max(&mut line, 4096)?;
                Ok(line.trim_end().to_owned())
            }
            fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
                Write::write_all(self, bytes)
            }
            fn next_message(&mut self) -> io::Result<bool> {
                Connection::next_message(self)
            }
            fn buffer(&mut self) -> io::Result<()> {
                self.set_write_buffer(4096)
            }
            fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
                Connection::send_file(self, file, offset, length)
            }
        })*
        $(impl Command for $datagram {
            fn command(&mut self) -> io::Result<String> {
                Ok(String::from_utf8_lossy(self.packet()).into_owned())
            }
            fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
                Write::write_all(self, bytes)
            }
        })*
    };
}

commands!(socketserver::net::TcpConnection, socketserver::net::UnixConnection, socketserver::proxied::ProxiedConnection<socketserver::net::TcpConnection>, counting::CountedConnection; socketserver::net::UdpPacket, socketserver::net::UnixPacket);

/// Each message is a line.
impl Command for SeqpacketConnection {
    fn command(&mut self) -> io::Result<String> {
        let mut buf = [0; 4096];
        let message = self.recv(&mut buf)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(message).trim_end().to_owned())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(4096)
            .try_for_each(|message| self.send(message))
    }

    fn next_message(&mut self) -> io::Result<bool> {
        Self::next_message(self)
    }
}

#[cfg(feature = "tls")]
commands!(
    socketserver::tls::TlsConnection<socketserver::net::TcpConnection>,
    socketserver::tls::TlsConnection<socketserver::net::UnixConnection>,
    socketserver::tls::TlsConnection<
        socketserver::proxied::ProxiedConnection<socketserver::net::TcpConnection>,
    >;
);

/// Puts TLS on listeners, with the certificate in the current directory.
#[cfg(feature = "tls")]
fn with_tls<T: Transport<Accepted: Connection>>(
    listeners: impl IntoIterator<Item = T>,
) -> Vec<socketserver::tls::Tls<T>> {
    let tls = socketserver::tls::TlsConfig::builder()
        .certificate("server.pem", "server.key")
        .build();
    tls.expect("a certificate").listen(listeners)
}

/// State that handlers share, unless each has a process of its own.
#[derive(Debug)]
struct Shared {
    handle: ServerHandle,
    count: AtomicU64,
}

/// Obeys the first line.
fn obey<R: Command>(accepted: &mut R, shared: &Shared) -> Outcome {
    let line = accepted.command()?;
    let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
    match command {
        "echo" => accepted.write_all(argument.as_bytes())?,
        "keep" => {
            writeln!(accepted, "{argument}")?;
            return Ok(Next::Park);
        }
        // The end of a connection that was parked.
        "" => {}
        "count" => write!(
            accepted,
            "{}",
            shared.count.fetch_add(1, Ordering::SeqCst) + 1
        )?,
        "id" => write!(accepted, "{}", accepted.id())?,
        "pid" => write!(accepted, "{}", process::id())?,
        "live" => write!(accepted, "{}", shared.handle.live())?,
        "stopping" => write!(accepted, "{}", accepted.stopping())?,
        "fail" => {
            accepted.write_all(b"part")?;
            return Err("failed as asked".into());
        }
        "panic" => {
            accepted.write_all(b"part")?;
            panic!("panicked as asked");
        }
        "crash" => process::abort(),
        "overflow" => write!(accepted, "{}", recurse(1))?,
        "exit" => process::exit(argument.parse()?),
        "shutdown" => {
            shared.handle.shutdown();
            accepted.write_all(b"ok")?;
        }
        "stop" => {
            accepted.write_all(b"ok")?;
            return Ok(Next::Stop);
        }
        // Reports to the gate, and waits until the test releases it.
        "hold" => {
            let gate = argument.to_owned();
            offload(move || hold_at(&gate))?;
            write!(accepted, "held, stopping {}", accepted.stopping())?;
        }
        // As `hold`, and keeps its thread from other coroutines.
        "block" => hold_at(argument)?,
        // Reads until the peer or the server ends the connection.
        "wait" => {
            while !accepted.command()?.is_empty() {}
            accepted.write_all(b"ended")?;
        }
        // Asks the server to stop, and runs past its deadline if the server lets it.
        "outlive" => {
            if argument.is_empty() {
                shared.handle.shutdown();
                while !accepted.command()?.is_empty() {}
            } else {
                let (gate, handle) = (argument.to_owned(), shared.handle.clone());
                offload(move || {
                    // Before the stop, whose deadline may end this process at once.
                    let mut gate = TcpStream::connect(gate)?;
                    handle.shutdown();
                    gate.read(&mut [0])
                })?;
            }
        }
        "talk" => talk(accepted, &shared.handle)?,
        "file" => send_file(accepted, argument)?,
        "big" => accepted.write_all(&vec![b'x'; argument.parse()?])?,
        _ => return manage(accepted, &shared.handle, command, argument),
    }
    Ok(Next::Close)
}

/// Sends a part of a file, `PATH OFFSET LENGTH`, between two lines, and answers a line after it.
fn send_file<R: Command>(accepted: &mut R, argument: &str) -> io::Result<()> {
    let mut words = argument.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let file = File::open(word())?;
    let (offset, length) = (word().parse(), word().parse());
    let (Ok(offset), Ok(length)) = (offset, length) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    writeln!(accepted, "file")?;
    let sent = accepted.send_file(&file, offset, length)?;
    writeln!(accepted, "\nsent {sent}")?;
    let line = accepted.command()?;
    writeln!(accepted, "{line}")
}

/// Answers each message with a line, until there are no more.
fn talk<R: Command>(accepted: &mut R, handle: &ServerHandle) -> io::Result<()> {
    while accepted.next_message()? {
        let line = accepted.command()?;
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "halt" => {
                handle.shutdown();
                writeln!(accepted, "ok")?;
            }
            "stopping" => writeln!(accepted, "{}", accepted.stopping())?,
            // A message of two lines.
            "more" => {
                let more = accepted.command()?;
                writeln!(accepted, "{more}")?;
            }
            _ => writeln!(accepted, "{argument}")?,
        }
    }
    Ok(())
}

/// Obeys a command that is about the server.
fn manage<R: Command>(
    accepted: &mut R,
    handle: &ServerHandle,
    command: &str,
    argument: &str,
) -> Outcome {
    match command {
        // The connections, a line each.
        "list" => {
            for connection in handle.connections() {
                writeln!(accepted, "{connection}")?;
            }
        }
        "abort" => write!(accepted, "{}", handle.abort(argument.parse()?))?,
        "halt" => {
            handle.shutdown();
            writeln!(accepted, "ok")?;
        }
        "pause" => handle.pause(),
        "errors" => write!(accepted, "{}", handle.totals().accept_errors)?,
        // Asks to stop without a lame duck time.
        "drain" => handle.shutdown_within(Duration::from_secs(3600)),
        // Asks to stop twice.
        "twice" => {
            handle.shutdown();
            handle.shutdown_within(Duration::ZERO);
            while !accepted.command()?.is_empty() {}
        }
        "max" => {
            let mut limits = handle.limits();
            limits.max_connections = argument.parse()?;
            handle.set_limits(&limits)?;
            return Ok(Next::Park);
        }
        "resume" => {
            handle.resume();
            return Ok(Next::Park);
        }
        "reload" => {
            handle.request_reload();
            return Ok(Next::Park);
        }
        // Closes the server to new peers, and opens it again.
        "shut" | "open" => {
            handle.set_access(&if command == "shut" {
                nobody()
            } else {
                Access::new()
            })?;
            writeln!(accepted, "{command}")?;
            return Ok(Next::Park);
        }
        _ => return Err(format!("unknown command {command:?}").into()),
    }
    Ok(Next::Close)
}

fn nobody() -> Access {
    Access::new().allow([]).allow_users([])
}

fn reload(server: &ServerHandle) {
    server.set_access(&nobody()).expect("set the rules");
    say("reloaded");
}

/// Recurses until the stack overflows.
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1) + frame[0]
    }
}

/// Options of the server process, each `name=value`.
#[derive(Debug)]
struct Options(Vec<String>);

impl Options {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).map(|value| value.parse().expect("a number"))
    }
}

/// Runs a server process: `--server TRANSPORT MODEL [NAME=VALUE]...`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [transport, model, options @ ..] = args else {
        panic!("--server TRANSPORT MODEL")
    };
    let options = Options(options.to_vec());
    match transport.as_str() {
        "tcp" => with_model(
            model,
            &options,
            Tcp::options().bind("127.0.0.1:0").expect("bind"),
        ),
        "tcp6" => with_model(
            model,
            &options,
            Tcp::options().bind("[::1]:0").expect("bind"),
        ),
        "counted" => with_model(
            model,
            &options,
            counting::CountedTcp::bind("127.0.0.1:0").expect("bind"),
        ),
        "udp" => with_model(
            model,
            &options,
            Udp::options().bind("127.0.0.1:0").expect("bind"),
        ),
        "proxied" => with_model(
            model,
            &options,
            trusting().listen(Tcp::options().bind("127.0.0.1:0").expect("bind")),
        ),
        "proxied_udp" => with_model(
            model,
            &options,
            trusting().listen(Udp::options().bind("127.0.0.1:0").expect("bind")),
        ),
        "unix" => with_model(
            model,
            &options,
            [UnixStream::options().bind(here("s")).expect("bind")],
        ),
        "unixgram" => with_model(
            model,
            &options,
            [UnixDatagram::options().bind(here("g")).expect("bind")],
        ),
        "seqpacket" => with_model(
            model,
            &options,
            [UnixSeqpacket::options().bind(here("q")).expect("bind")],
        ),
        #[cfg(feature = "tls")]
        "tls" => with_model(
            model,
            &options,
            with_tls(Tcp::options().bind("127.0.0.1:0").expect("bind")),
        ),
        #[cfg(feature = "tls")]
        "tls_proxied" => with_model(
            model,
            &options,
            with_tls(trusting().listen(Tcp::options().bind("127.0.0.1:0").expect("bind"))),
        ),
        #[cfg(feature = "tls")]
        "tls_unix" => with_model(
            model,
            &options,
            with_tls([UnixStream::options().bind(here("s")).expect("bind")]),
        ),
        _ => panic!("unknown transport {transport}"),
    }
}

/// Trusts the clients of tests.
fn trusting() -> ProxyConfig {
    ProxyConfig::trust(["127.0.0.1"]).expect("a network")
}

fn here(name: &str) -> std::path::PathBuf {
    std::env::current_dir().expect("a directory").join(name)
}

fn with_model<T>(model: &str, options: &Options, listeners: impl IntoIterator<Item = T>) -> ExitCode
where
    T: Transport<Accepted: Command>,
{
    let models = Models {
        threading: Threading::default()
            .max_threads(options.number("max_threads").unwrap_or(100) as usize),
        pool: ThreadPool::new(options.number("threads").unwrap_or(3) as usize)
            .queue(options.number("queue").unwrap_or(3) as usize),
        forking: Forking::default()
            .max_children(options.number("max_children").unwrap_or(40) as usize),
        workers: options.number("workers").unwrap_or(2) as usize,
        breaker: options.number("breaker").unwrap_or(10) as u32,
    };
    let builder = Server::<T>::builder().listen(listeners);
    models.run(model, Obeying { options, builder })
}

/// A server without its model.
struct Obeying<'a, T: Transport> {
    options: &'a Options,
    builder: Builder<T>,
}

impl<T: Transport<Accepted: Command>> UnderModel for Obeying<'_, T> {
    fn run<M: Model>(self, model: M) -> ExitCode {
        serve(self.options, self.builder.model(model))
    }
}

/// Sets the times and limits of the options.
fn limits<T: Transport, M: Model>(options: &Options, mut builder: Builder<T, M>) -> Builder<T, M> {
    let time = |name| options.number(name).map(Duration::from_millis);
    type Set<T, M> = fn(Builder<T, M>, Duration) -> Builder<T, M>;
    let times: [(&str, Set<T, M>); 9] = [
        ("drain_ms", |builder, time| builder.drain_timeout(time)),
        ("lame_ms", |builder, time| builder.lame_duck(time)),
        ("grace_ms", |builder, time| builder.idle_grace(time)),
        ("first_byte_ms", |builder, time| {
            builder.first_byte_timeout(time)
        }),
        ("idle_ms", |builder, time| builder.idle_timeout(time)),
        ("request_ms", |builder, time| builder.request_timeout(time)),
        ("write_ms", |builder, time| builder.write_timeout(time)),
        ("lifetime_ms", |builder, time| builder.lifetime(time)),
        ("slow_ms", |builder, time| builder.min_rate(1000, time)),
    ];
    for (name, set) in times {
        if let Some(time) = time(name) {
            builder = set(builder, time);
        }
    }
    if let Some(connections) = options.number("per_address") {
        builder = builder.max_per_address(connections);
    }
    if let Some(connections) = options.number("per_user") {
        builder = builder.max_per_user(connections);
    }
    if let Some(millis) = options.number("interval_ms") {
        builder = builder.rate(Rate::per(1, Duration::from_millis(millis)));
    }
    match options.number("at_limit") {
        Some(1) => builder.at_limit(AtLimit::Refuse),
        Some(2) => builder.at_limit(AtLimit::RefuseWith(b"busy".to_vec())),
        Some(3) => builder.at_limit(AtLimit::ShedOldestIdle),
        _ => builder,
    }
}

/// Prints the totals.
fn say_totals(report: Report, handle: &ServerHandle) {
    let totals = handle.totals();
    say(format!(
        "ended aborted={} live={} accepted={} refused={} completed={} failed={}",
        report.aborted,
        handle.live(),
        totals.accepted,
        totals.refused,
        totals.completed,
        totals.failed
    ));
    say(format!(
        "limits timed_out={} over_limit={} over_address={} over_user={} over_rate={} shed={} not_allowed={}",
        totals.timed_out,
        totals.over_limit,
        totals.over_address,
        totals.over_user,
        totals.over_rate,
        totals.shed,
        totals.not_allowed
    ));
}

fn serve<T, M: Model>(options: &Options, mut builder: Builder<T, M>) -> ExitCode
where
    T: Transport<Accepted: Command>,
{
    // Handlers panic on request; the messages would hide those of the tests.
    std::panic::set_hook(Box::new(|_| {}));
    builder = builder
        .on_ready(|| say("ready"))
        .on_reload(reload)
        .on_error(|failure| {
            say(format!(
                "error {} panic={}",
                failure.error(),
                failure.is_panic()
            ));
        })
        .on_accept_error(|err| say(format!("accept error {err}")))
        .on_stall(|stall| say(format!("stall {stall}")));
    builder = limits(options, builder);
    if options.number("whole") == Some(1) {
        builder = builder.whole_request(|input| input.contains(&b'\n'));
    }
    if options.number("log") == Some(1) {
        builder = builder.observer(|event: &Event<'_>| say(format!("event {event}")));
    }
    if options.number("client_speaks_first") == Some(1) {
        builder = builder.client_speaks_first(true);
    }
    if let Some(max) = options.number("max_connections") {
        builder = builder.max_connections(max);
    }
    if let Some(refused) = options.number("refuse_id") {
        builder = builder.verify(move |accepted| accepted.id() != refused);
    }
    let server = match builder.build() {
        Ok(server) => server,
        Err(err) => {
            say(format!("build error {err}"));
            return ExitCode::FAILURE;
        }
    };
    for url in server.urls() {
        say(format!("listening on {url}"));
    }
    let handle = server.handle();
    let shared = Arc::new(Shared {
        handle: handle.clone(),
        count: AtomicU64::new(0),
    });
    // A child of the process that is not the server's, and ends before it serves or soon after.
    let foreign = options.number("foreign").map(|status| {
        let exit = format!("exit {status}");
        let child = process::Command::new("/bin/sh").args(["-c", &exit]).spawn();
        child.expect("start a child")
    });
    let buffers = options.number("write_buffer") == Some(1);
    let handler = move |accepted: &mut T::Accepted| {
        if buffers {
            accepted.buffer()?;
        }
        obey(accepted, &shared)
    };
    match server.serve_forever(handler) {
        Ok(report) => {
            if let Some(mut foreign) = foreign {
                let status = foreign.wait().expect("no other code has waited for it");
                say(format!("foreign {status}"));
            }
            say_totals(report, &handle);
            ExitCode::SUCCESS
        }
        Err(err) => {
            say(format!("serve error {err}"));
            ExitCode::FAILURE
        }
    }
}
