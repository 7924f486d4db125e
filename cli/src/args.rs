//! The command line: its options, and the checks that need nothing but the arguments.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::Access;
use crate::exec::Exec;
use crate::limits::Limits;
use crate::listen::Url;
use crate::privileges::Privileges;
use crate::proxied::Proxied;
use crate::proxy::Proxy;
use crate::tls::Tls;
use crate::web::Web;

/// Serves files and small services over TCP, UDP and Unix sockets, and compares concurrency models.
#[derive(Debug, Parser)]
#[command(
    name = "socketserver",
    version,
    after_help = "Examples:\n  socketserver serve http .\n  socketserver serve hello --listen tcp://127.0.0.1:7007\n  socketserver compare --connections 64 --cpu 50 --wait 1000"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the files below a directory over HTTP, or one of the small services of RFC 862 to 868
    #[command(after_help = "\
Examples:
  socketserver serve http .
  socketserver serve http /srv/www --listen 'tcp://[::]:8443' --tls-cert cert.pem --tls-key key.pem --access-log -
  socketserver serve http dist --spa index.html --precompressed --header 'Cache-Control: max-age=60'
  socketserver serve http /srv/reports --basic-auth /etc/reports.htpasswd --cgi-bin cgi-bin
  socketserver serve hello
  socketserver serve echo --listen 'tcp://[::]:7007' --listen 'udp://[::]:7007' --listen unix:///tmp/echo.sock
  socketserver serve daytime --model prefork:pool --workers 4 --max-connections 1000
  socketserver serve echo --max-per-address 20 --rate 500 --at-limit 'refuse:busy\\n'
  socketserver serve hello --listen 'tcp://[::]:7443' --tls-cert cert.pem --tls-key key.pem
  socketserver serve echo --listen tcp://0.0.0.0:7 --allow 192.168.0.0/16 --deny @spammers --user nobody
  socketserver serve hello --listen 'tcp://[::]:7007' --proxy-protocol any --proxy-trust 10.0.0.0/8

URLs:
  tcp://HOST:PORT  udp://HOST:PORT     port 0 picks a free port; a host name binds all its addresses
  unix:///PATH     unixgram:///PATH    a socket file
  unix:@NAME       unixgram:@NAME      a name in the abstract namespace
  seqpacket:///PATH  seqpacket:@NAME   connections of messages: SOCK_SEQPACKET
  fd://N                               a bound socket, inherited as descriptor N
  fd://NAME                            the sockets of this name from a service manager
  A link-local address needs its interface: tcp://[fe80::1%eth0]:7007

Options of one listener, the query of its URL: 'tcp://[::]:7007?v6only&backlog=128'
  v6only      tcp, udp         [::] takes no IPv4, so 0.0.0.0 can have the same port
  backlog=N   tcp, unix, seqpacket       how many connections the kernel holds until they are accepted
  mode=OCTAL  unix, unixgram, seqpacket  the permissions of the socket file, whatever the umask: mode=660
  owner=NAME  unix, unixgram, seqpacket  the owner of the socket file, by name or number
  group=NAME  unix, unixgram, seqpacket  the group of the socket file
  tls=off     tcp, unix, fd    no TLS on this listener, for a server with --tls-cert
  proxy=off   all              no header on this listener, for a server with --proxy-protocol

Signals:
  SIGTERM and SIGINT stop the server: it drains, and exits. A second one aborts the connections that
  are left. Idle connections are served during --idle-grace, and then get the end of the stream.
  SIGHUP ends no server. It makes one read the certificates of --tls-cert again, and the files and
  names of --allow, --deny, --allow-user, --allow-group and --basic-auth, and open the
  file of --access-log again.

Exit status:
  0 everything was served, 1 failure, 2 wrong usage,
  3 connections were aborted, at the drain deadline or by a second signal")]
    Serve(Box<Serve>),
    /// Runs a program for each connection: its standard input and output are the connection
    #[command(after_help = crate::exec::HELP)]
    Exec(Exec),
    /// Forwards connections and datagrams to other servers
    #[command(after_help = crate::proxy::HELP)]
    Proxy(Box<Proxy>),
    /// Runs a workload under each model, measures, and recommends a model
    #[command(after_help = "\
Examples:
  socketserver compare
  socketserver compare --connections 1000 --cpu 20 --wait 5000 --chart models.svg
  socketserver compare --models threading,pool,coroutines --workers 4 --json

Each model runs in a server process of its own, as serve runs it. Every client sends a request,
waits for the answer, checks it, and sends the next request. The columns of the table:
  req/s        answered requests a second
  p50 to p99.9 how long a client waited; with --new-connections from connecting to the end
  CPU/req      processor time of all processes of the server, for each request, system time included
  mem/conn     memory of all processes of the server with all clients connected, less that of the idle
               server, for each client served; shared pages count once, kernel memory does not count
  served       how many clients were answered at least once: some models leave other clients waiting

The recommendation: of the models that served every client, the one with the most requests a second;
of those within 5 % of that, the one with the least CPU time, and then the one with the lowest p99.")]
    Compare(Compare),
    /// Serves the workload of compare
    #[command(hide = true)]
    Workload(Work),
}

/// The arguments of `serve`.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The service
    pub(crate) service: Served,
    /// The directory whose files http serves; no other service has one
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Answer a UDP datagram from outside loopback even with more bytes than it has: a forged sender
    /// turns such answers into an attack on the address that it names
    #[arg(long)]
    pub(crate) allow_amplification: bool,
    #[command(flatten)]
    pub(crate) options: Options,
    // Behind the others, which would have its heading.
    #[command(flatten)]
    pub(crate) web: Web,
}

impl Serve {
    /// The first error among arguments that do not go together.
    fn conflict(&self) -> Option<String> {
        let name = self.service.to_possible_value()?.get_name().to_owned();
        let Served::BuiltIn(service) = self.service else {
            let conflict = self.web.conflict(self.directory.is_some(), &self.options);
            return conflict.map(str::to_owned);
        };
        if self.directory.is_some() {
            return Some(format!(
                "{name} has no directory: DIR is for serve http DIR; leave it out"
            ));
        }
        if let Some(option) = self.web.first_given() {
            return Some(format!(
                "{option} is for serve http DIR; {name} has no such option"
            ));
        }
        let silent = self.options.limits.client_speaks_first && service.speaks_first();
        silent.then(|| {
            "--client-speaks-first is for the services echo, discard and http; every other service speaks first"
                .to_owned()
        })
    }
}

/// The options of a server.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen; give it once for each listener
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:7007")]
    pub(crate) listen: Vec<Url>,
    /// Where each request runs: sequential, threading, pool, forking, coroutines, prefork or
    /// prefork:MODEL
    #[arg(long, value_name = "MODEL", default_value = "threading", value_parser = model)]
    pub(crate) model: Model,
    /// How many threads pool and coroutines have, or how many processes prefork has [default: by the
    /// number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    /// How coroutines wait for the kernel; auto is io_uring where the kernel allows it, else epoll
    #[arg(long, value_enum, default_value_t)]
    pub(crate) driver: Driver,
    /// How long a stop waits for live connections before it aborts them
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
    /// Write a line for each event to standard error
    #[arg(long)]
    pub(crate) log: bool,
    #[command(flatten)]
    pub(crate) tls: Tls,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) privileges: Privileges,
    #[command(flatten)]
    pub(crate) proxied: Proxied,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// The arguments of `compare`.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// How many clients connect; each has one request at a time
    #[arg(long, value_name = "N", default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// How long each model is measured, after a warm-up of a quarter of this time
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = measured_seconds)]
    pub(crate) seconds: Duration,
    /// The models, separated by commas
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = model,
        default_value = "sequential,threading,pool,forking,prefork,coroutines,prefork:coroutines")]
    pub(crate) models: Vec<Model>,
    /// How many threads pool and coroutines have, or how many processes prefork has [default: by the
    /// number of processors, as for serve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    /// The file of the chart, an SVG; an existing file is replaced
    #[arg(long, value_name = "FILE", default_value = "compare.svg")]
    pub(crate) chart: PathBuf,
    /// Print a JSON array instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// A request of `compare`: its size, and what the server does to answer it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// The size of a request and of its answer
    #[arg(long, value_name = "BYTES", default_value = "128",
        value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub(crate) request_size: u32,
    /// How much processor time a request takes, whatever else runs
    #[arg(long, value_name = "MICROSECONDS", default_value = "50", value_parser = microseconds)]
    pub(crate) cpu: Duration,
    /// How long a request waits, as for a database
    #[arg(long, value_name = "MICROSECONDS", default_value = "1000", value_parser = microseconds)]
    pub(crate) wait: Duration,
    /// Connect anew for each request; the server closes the connection
    #[arg(long)]
    pub(crate) new_connections: bool,
}

/// The arguments of a server that `compare` starts.
#[derive(Args, Debug)]
pub(crate) struct Work {
    #[command(flatten)]
    pub(crate) workload: Workload,
    #[command(flatten)]
    pub(crate) options: Options,
    /// The process that measures; the server ends with it
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) parent: i32,
}

/// A built-in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Sends back what it receives (RFC 862)
    Echo,
    /// Throws away what it receives (RFC 863)
    Discard,
    /// Sends lines of characters until the client closes the connection (RFC 864)
    Chargen,
    /// Sends the date and the time in UTC, as text (RFC 867)
    Daytime,
    /// Sends the seconds since 1900, in four bytes (RFC 868)
    Time,
    /// Sends "hello world"
    Hello,
}

/// What `serve` serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    BuiltIn(Service),
    Http,
}

impl ValueEnum for Served {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Http,
            Self::BuiltIn(Service::Echo),
            Self::BuiltIn(Service::Discard),
            Self::BuiltIn(Service::Chargen),
            Self::BuiltIn(Service::Daytime),
            Self::BuiltIn(Service::Time),
            Self::BuiltIn(Service::Hello),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::BuiltIn(service) => service.to_possible_value(),
            Self::Http => Some(PossibleValue::new("http").help(
                "Serves the files below DIR (HTTP/1.1, and HTTP/2 with TLS or with prior knowledge)",
            )),
        }
    }
}

impl Service {
    /// Whether the service sends before its client does.
    const fn speaks_first(self) -> bool {
        !matches!(self, Self::Echo | Self::Discard)
    }
}

/// The name of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    One(Inner),
    Prefork(Inner),
}

/// The name of a model that can run in a worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    Sequential,
    Threading,
    Pool,
    Forking,
    Coroutines,
}

/// The name of a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    #[default]
    Auto,
    Epoll,
    Uring,
}

impl Model {
    pub(crate) const fn inner(self) -> Inner {
        match self {
            Self::One(inner) | Self::Prefork(inner) => inner,
        }
    }
}

/// Parses the command line. An error is the exit status; its text is printed already.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    let args: Vec<_> = std::env::args_os().collect();
    parse_from(args.iter().cloned()).map_err(|err| {
        if err.exit_code() == 0 {
            // Help or the version. A reader that has closed the pipe wants no error.
            let _ = err.print();
            return ExitCode::SUCCESS;
        }
        crate::log::say(format_args!("socketserver: {}", one_line(&err, &args)));
        ExitCode::from(2)
    })
}

fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let command = Cli::try_parse_from(args)?.command;
    let conflict: Option<String> = match &command {
        Command::Serve(serve) => serve
            .conflict()
            .or_else(|| serve.options.conflict().map(str::to_owned)),
        Command::Exec(exec) => {
            let conflict = exec.options.conflict().or_else(|| exec.conflict());
            conflict.map(str::to_owned)
        }
        Command::Proxy(proxy) => proxy.conflict().map(str::to_owned),
        Command::Workload(Work { options, .. }) => options.conflict().map(str::to_owned),
        Command::Compare(compare) => {
            let Workload { cpu, wait, .. } = compare.workload;
            (compare.seconds <= cpu + wait)
                .then(|| "--seconds is too short: one request takes longer, by its --cpu and --wait; raise --seconds".to_owned())
        }
    };
    match conflict {
        Some(what) => Err(clap::Error::raw(
            clap::error::ErrorKind::ArgumentConflict,
            what,
        )),
        None => Ok(command),
    }
}

/// The library's own limit.
const WORKER_PROCESSES_MAX: u32 = 10_000;

impl Options {
    /// The first error among options that do not go together.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        if self.workers.is_some() && !self.model.is_sized() {
            return Some(
                "--workers is for the models pool, prefork and coroutines; leave it out with any other model",
            );
        }
        let workers = self.workers.unwrap_or(0);
        if matches!(self.model, Model::Prefork(_)) && workers > WORKER_PROCESSES_MAX {
            return Some(
                "--workers is too large: prefork has at most 10000 worker processes; give fewer",
            );
        }
        if self.driver != Driver::Auto && self.model.inner() != Inner::Coroutines {
            return Some(
                "--driver is for the models coroutines and prefork:coroutines; leave it out with any other model",
            );
        }
        let per_user = self.limits.max_per_user.is_some();
        self.tls
            .conflict()
            .or_else(|| self.proxied.conflict(&self.listen))
            .or_else(|| {
                self.access
                    .conflict(&self.listen, per_user, self.proxied.is_on())
            })
            .or_else(|| self.privileges.conflict())
    }
}

/// The text of clap's error, in one line, with the help that these arguments need.
fn one_line(err: &clap::Error, args: &[OsString]) -> String {
    if err.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a subcommand is missing: serve, exec, proxy or compare (see socketserver --help)"
            .to_owned();
    }
    let help = match args.get(1).and_then(|name| name.to_str()) {
        Some(name @ ("serve" | "exec" | "proxy" | "compare")) => {
            format!("socketserver {name} --help")
        }
        _ => "socketserver --help".to_owned(),
    };
    let text = err.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"));
    // The tip "to pass … as a value" is for values that begin with a dash, of which there are none.
    let noise = |line: &str| {
        line.is_empty() || line.starts_with("For more") || line.starts_with("tip: to pass")
    };
    let lines: Vec<_> = lines.filter(|line| !noise(line)).collect();
    let text = lines.join(" ").replace(" tip: ", "; ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{text} (see {help})")
}

fn model(text: &str) -> Result<Model, String> {
    let inner = |name: &str| {
        let all = [
            Inner::Sequential,
            Inner::Threading,
            Inner::Pool,
            Inner::Forking,
            Inner::Coroutines,
        ];
        let found = all.into_iter().find(|inner| inner.name() == name);
        found.ok_or("a model is one of sequential, threading, pool, forking, coroutines, prefork, prefork:MODEL")
    };
    match text.split_once(':') {
        None if text == "prefork" => Ok(Model::Prefork(Inner::Threading)),
        Some(("prefork", name)) => Ok(Model::Prefork(inner(name)?)),
        _ => Ok(Model::One(inner(text)?)),
    }
}

impl Model {
    /// Whether `--workers` sets its size.
    pub(crate) const fn is_sized(self) -> bool {
        matches!(
            self,
            Self::Prefork(_) | Self::One(Inner::Pool | Inner::Coroutines)
        )
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Prefork(Inner::Threading) => return f.pad("prefork"),
            Self::One(inner) => inner.name().to_owned(),
            Self::Prefork(inner) => format!("prefork:{}", inner.name()),
        };
        f.pad(&name)
    }
}

impl Inner {
    const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Threading => "threading",
            Self::Pool => "pool",
            Self::Forking => "forking",
            Self::Coroutines => "coroutines",
        }
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| "a number of seconds is needed, 0 or more, such as 25 or 0.5".to_owned())
}

fn measured_seconds(text: &str) -> Result<Duration, String> {
    let measured = Duration::from_millis(50)..=Duration::from_secs(3600);
    let seconds = seconds(text)?;
    if measured.contains(&seconds) {
        Ok(seconds)
    } else {
        Err("a number of seconds from 0.05 to 3600 is needed".to_owned())
    }
}

fn microseconds(text: &str) -> Result<Duration, String> {
    // Ten minutes: a longer time is a mistake.
    let count = text.parse().ok().filter(|count| *count <= 600_000_000);
    count.map(Duration::from_micros).ok_or_else(|| {
        "a whole number of microseconds is needed, at most 600000000 (ten minutes)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words = ["socketserver"].into_iter().chain(line.split_whitespace());
        let args: Vec<_> = words.map(OsString::from).collect();
        parse_from(args.clone()).map_err(|err| one_line(&err, &args))
    }

    #[test]
    fn models_and_their_workers() {
        let model = |line: &str| {
            parsed(line).map(|command| match command {
                Command::Serve(serve) => serve.options.model,
                other => panic!("not serve: {other:?}"),
            })
        };
        assert_eq!(model("serve echo"), Ok(Model::One(Inner::Threading)));
        assert_eq!(
            model("serve echo --model prefork"),
            Ok(Model::Prefork(Inner::Threading))
        );
        assert_eq!(
            model("serve echo --model prefork:pool --workers 3"),
            Ok(Model::Prefork(Inner::Pool))
        );
        assert_eq!(
            model("serve echo --model pool --workers 3"),
            Ok(Model::One(Inner::Pool))
        );
        assert!(
            model("serve echo --model forking --workers 3")
                .unwrap_err()
                .contains("--workers is for")
        );
        assert!(
            model("serve echo --model prefork:prefork")
                .unwrap_err()
                .contains("a model is one of")
        );
        assert!(model("serve echo --model pool --workers 0").is_err());
        assert!(model("serve echo --model prefork:coroutines --driver uring").is_ok());
        assert!(
            model("serve echo --model pool --driver uring")
                .unwrap_err()
                .contains("--driver is for")
        );
    }

    #[test]
    fn the_names_of_models_are_parsed_as_they_are_shown() {
        for name in [
            "sequential",
            "pool",
            "prefork",
            "prefork:coroutines",
            "prefork:forking",
        ] {
            assert_eq!(
                model(name).map(|model| model.to_string()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for line in [
            "",
            "serve",
            "serve nothing",
            "serve echo --listen ftp://x",
            "serve echo --drain-timeout -1",
            "serve echo --idle-timeout 0",
            "serve echo --at-limit never",
            "serve echo --rate-burst 3",
            "serve hello --client-speaks-first",
            "compare --connections 0",
            "compare --models pool,nothing",
            "compare --seconds 1 --wait 1000000",
        ] {
            let err = parsed(line).unwrap_err();
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }

    #[test]
    fn a_usage_error_names_the_help_of_its_subcommand() {
        let help = |line: &str| {
            let err = parsed(line).unwrap_err();
            err.split_once("(see ").expect("a pointer").1.to_owned()
        };
        assert_eq!(help("serve nothing"), "socketserver serve --help)");
        assert_eq!(help("compare --cpu x"), "socketserver compare --help)");
        assert_eq!(help("srve"), "socketserver --help)");
        let err = parsed("serve echo --lisen x").unwrap_err();
        assert!(err.contains("found; a similar argument exists"), "{err}");
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
