//! The servers: the handler of each example under a model that the example was not written for.
//! Each is a process with the arguments and the output of the example.
#![expect(clippy::print_stderr, reason = "as the examples do")]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::net::{Bind, Either, Transport};
use socketserver::{
    Builder, Forking, Handler, IntoOutcome, Server, ServerHandle, Tcp, ThreadPool, Threading, Udp,
    UnixDatagram, UnixStream, per_connection, per_request,
};

use crate::examples;
use crate::models::{Models, UnderModel};

/// A closure of an example, word for word.
macro_rules! quote {
    ($example:literal, $closure:expr) => {{
        let source = include_str!(concat!("../../examples/", $example, ".rs"));
        let closure = stringify!($closure);
        assert!(source.contains(closure), "{} has no {closure}", $example);
        $closure
    }};
}

/// Serves an example: `--serve EXAMPLE MODEL [ARGUMENT]...`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [example, model, args @ ..] = args else {
        panic!("--serve EXAMPLE MODEL [ARGUMENT]...")
    };
    let (first, others) = args
        .split_first()
        .map_or(("", &[][..]), |(first, others)| (first, others));
    streams(example, model, first, others)
        .or_else(|| listeners(example, model, first))
        .or_else(|| datagrams(example, model, first, others))
        .or_else(|| whole_servers(example, model, first))
        .unwrap_or_else(|| panic!("there is nothing of {example} to serve"))
}

fn streams(example: &str, model: &str, addr: &str, others: &[String]) -> Option<ExitCode> {
    let second = others.first().cloned().unwrap_or_default();
    let others = others.to_vec();
    let tcp = || on::<Tcp>(addr);
    Some(match example {
        "hello" => serve(
            model,
            tcp(),
            quote!("hello", |conn| conn.write_all(b"hello world\n")),
        ),
        "http_hello" => serve(model, tcp(), examples::http_hello::hello),
        "key_value" => {
            let store = examples::key_value::Store::default();
            serve(model, tcp(), move |conn| store.handle(conn))
        }
        "login" => {
            let new = examples::login::Session::default;
            serve(model, tcp(), per_connection(new, examples::login::answer))
        }
        "request_handler" => {
            let session = per_request(examples::request_handler::Session::default);
            serve(model, on::<UnixStream>(addr), session)
        }
        "two_transports" => {
            let tcp = Tcp::bind(addr).expect("bind").into_iter();
            let unix = UnixStream::bind(&*second).expect("bind").into_iter();
            let builder = Server::builder()
                .listen(tcp.map(Either::Left))
                .listen(unix.map(Either::Right));
            serve(model, builder, examples::two_transports::reverse)
        }
        "hooks" => {
            let builder = examples::hooks::hooks(others);
            let builder = builder.listen(Tcp::bind(addr).expect("bind"));
            serve(model, builder, examples::hooks::double)
        }
        "inetd" => {
            let builder = tcp().on_error(|failure| eprintln!("{failure}"));
            serve(model, builder, move |conn| {
                examples::inetd::become_program(conn, &second, &others[1..])
            })
        }
        "prefork" => {
            let builder = tcp().on_accept_error(|err| eprintln!("{err}"));
            let builder = builder.on_ready(|| eprintln!("all workers accept"));
            serve(model, builder, examples::prefork::answer)
        }
        "proxy" => serve(model, tcp(), move |client| {
            examples::proxy::relay(client, &others)
        }),
        "pool" => {
            let pool = examples::pool::Pool::new(second);
            serve(model, tcp(), move |conn| pool.serve(conn))
        }
        "websocket" => {
            let pause = Duration::from_millis(second.parse().expect("milliseconds"));
            serve(model, tcp(), move |conn| {
                examples::websocket::talk(conn, pause)
            })
        }
        #[cfg(feature = "coroutines")]
        "resolver" => serve(model, tcp(), examples::resolver::resolve),
        _ => return None,
    })
}

fn listeners(example: &str, model: &str, addr: &str) -> Option<ExitCode> {
    Some(match example {
        "adopted_socket" => {
            let addr = (!addr.is_empty()).then(|| addr.to_owned());
            let listeners = examples::adopted_socket::listeners(addr).expect("a listener");
            let builder = Server::builder().listen(listeners);
            serve(
                model,
                builder,
                quote!("adopted_socket", |conn| conn.write_all(b"hello world\n")),
            )
        }
        "messages" => {
            let listener = examples::messages::listener(addr).expect("bind");
            let builder = Server::builder().client_speaks_first(true);
            serve(model, builder.listen([listener]), examples::messages::echo)
        }
        "own_transport" => {
            let listener = examples::own_transport::listener(addr.to_owned()).expect("bind");
            let builder = Server::builder().client_speaks_first(true);
            let builder = builder.listen([listener]);
            serve(model, builder, examples::own_transport::echo)
        }
        "counting" => serve(
            model,
            on::<examples::counting::CountedTcp>(addr),
            examples::counting::echo,
        ),
        _ => return None,
    })
}

fn datagrams(example: &str, model: &str, addr: &str, others: &[String]) -> Option<ExitCode> {
    Some(match example {
        "udp_echo" => serve(model, on::<Udp>(addr), examples::udp_echo::echo),
        "unix_datagram_log" => {
            let socket = UnixDatagram::options().mode(0o666).bind(addr);
            let builder = Server::builder().listen([socket.expect("bind")]);
            serve(model, builder, examples::unix_datagram_log::log)
        }
        // The handler's own socket blocks a worker of coroutines, so there are as many workers as
        // transfers.
        "tftp" => {
            let directory = others[0].clone();
            serve(model, on::<Udp>(addr), move |datagram| {
                examples::tftp::transfer(datagram, Path::new(&directory))
            })
        }
        _ => return None,
    })
}

/// Examples about the server, not its handler.
fn whole_servers(example: &str, model: &str, addr: &str) -> Option<ExitCode> {
    let tcp = || on::<Tcp>(addr);
    Some(match example {
        "background" => models().run(model, Background(tcp())),
        "graceful_stop" => models().run(model, GracefulStop(tcp())),
        #[cfg(feature = "coroutines")]
        "chat" => models().run(model, Chat(tcp())),
        #[cfg(feature = "coroutines")]
        "pubsub" => models().run(model, PubSub(tcp())),
        "poll_loop" => models().run(model, PollLoop(tcp(), on(addr))),
        _ => return None,
    })
}

/// In the sizes that the examples use.
fn models() -> Models {
    Models {
        threading: Threading::default(),
        pool: ThreadPool::new(8),
        forking: Forking::default(),
        workers: 4,
        breaker: 10,
    }
}

fn on<'a, T: Bind<&'a str>>(addr: &'a str) -> Builder<T> {
    Server::builder().listen(T::bind(addr).expect("bind"))
}

/// Builds a server, and prints where it listens.
fn build<T: Transport, M: Model>(builder: Builder<T>, model: M) -> Server<T, M> {
    let server = builder.model(model).build().expect("build a server");
    if std::env::var_os("ABORTS").is_some() {
        let handle = server.handle();
        thread::spawn(move || obey(&handle));
    }
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server
}

/// Aborts connections as the lines of standard input ask, and prints what is left after each line.
fn obey(server: &ServerHandle) {
    for line in io::stdin().lines().map_while(Result::ok) {
        let connections = server.connections();
        if line == "all" {
            connections.iter().for_each(|it| _ = server.abort(it.id));
        } else if let (Ok(number), false) = (line.parse::<usize>(), connections.is_empty()) {
            server.abort(connections[number % connections.len()].id);
        }
        let count = |folder: &str| fs::read_dir(folder).expect("/proc").count();
        let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
        let (live, listed) = (server.live(), connections.len());
        let left = format!("left {listed} {live} {threads} {descriptors}\n");
        io::stdout().write_all(left.as_bytes()).expect("a pipe");
    }
}

fn serve<T, F, O>(model: &str, builder: Builder<T>, handler: F) -> ExitCode
where
    T: Transport,
    F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
    O: IntoOutcome,
{
    models().run(model, Serve(builder, handler))
}

struct Serve<T: Transport, F>(Builder<T>, F);

impl<T, F, O> UnderModel for Serve<T, F>
where
    T: Transport,
    F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
    O: IntoOutcome,
{
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = build(self.0, model);
        server.serve_forever(self.1).expect("serve");
        ExitCode::SUCCESS
    }
}

struct Background(Builder<Tcp>);

impl UnderModel for Background {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = build(self.0, model);
        examples::background::serve_until_end_of_input(server).expect("serve");
        ExitCode::SUCCESS
    }
}

struct GracefulStop(Builder<Tcp>);

impl UnderModel for GracefulStop {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let builder = self.0.drain_timeout(Duration::from_secs(2));
        examples::graceful_stop::serve(build(builder, model)).expect("serve");
        ExitCode::SUCCESS
    }
}

#[cfg(feature = "coroutines")]
struct Chat(Builder<Tcp>);

#[cfg(feature = "coroutines")]
impl UnderModel for Chat {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = build(self.0, model);
        examples::chat::serve(server).expect("serve");
        ExitCode::SUCCESS
    }
}

#[cfg(feature = "coroutines")]
struct PubSub(Builder<Tcp>);

#[cfg(feature = "coroutines")]
impl UnderModel for PubSub {
    fn run<M: Model>(self, model: M) -> ExitCode {
        examples::pubsub::serve(build(self.0, model)).expect("serve");
        ExitCode::SUCCESS
    }
}

/// The two servers of the example, without its loop: not every model has `handle_request`.
struct PollLoop(Builder<Tcp>, Builder<Udp>);

impl UnderModel for PollLoop {
    fn run<M: Model + Clone>(self, model: M) -> ExitCode {
        let (greeter, control) = (build(self.0, model.clone()), build(self.1, model));
        let greeter = greeter
            .spawn(quote!("poll_loop", |conn| conn.write_all(b"hello world\n")))
            .expect("serve");
        let handle = greeter.handle().clone();
        control
            .serve_forever(move |datagram| examples::poll_loop::answer(datagram, &handle))
            .expect("serve");
        greeter.stop().expect("stop");
        ExitCode::SUCCESS
    }
}
