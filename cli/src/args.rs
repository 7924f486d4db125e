//! The command line, as text that has been checked and not yet acted on.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::limits::Limits;
use crate::listen::Url;

/// Puts any service on a socket: TCP, UDP and Unix, under threads, pools or processes.
#[derive(Debug, Parser)]
#[command(
    name = "socketserver",
    version,
    after_help = "Example:\n  socketserver serve hello --listen tcp://127.0.0.1:7007\n  socketserver serve --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves one of the small services of the RFCs 862 to 868, or a greeting
    #[command(after_help = "\
Examples:
  socketserver serve hello
  socketserver serve echo --listen tcp://[::]:7 --listen udp://[::]:7 --listen unix:///run/echo.sock
  socketserver serve daytime --model prefork:pool --workers 4 --max-connections 1000
  socketserver serve echo --max-per-address 20 --rate 500 --at-limit 'refuse:busy\\n'

URLs:
  tcp://HOST:PORT  udp://HOST:PORT     port 0 picks a free one; a name binds every address it has
  unix:///PATH     unixgram:///PATH    a socket file
  unix:@NAME       unixgram:@NAME      a name in the abstract namespace
  fd://N                               a bound socket inherited as descriptor N
  A link-local address has its interface: tcp://[fe80::1%eth0]:7

Options of one listener, the query of its URL: tcp://[::]:7?v6only&backlog=128
  v6only      tcp, udp         [::] leaves IPv4 alone, so that 0.0.0.0 can have the same port
  backlog=N   tcp, unix        how many connections wait in the kernel to be accepted
  mode=OCTAL  unix, unixgram   the permissions of the socket file, whatever the umask: mode=660

Signals:
  SIGTERM and SIGINT drain and stop; a second one aborts what is left. What idle connections send
  within --idle-grace is answered, and then they get the end of the stream.

Exit status:
  0 everything was served, 1 failure, 2 wrong usage, 3 the drain deadline aborted something")]
    Serve(Serve),
    /// Tells which model suits a workload: runs it under each and measures
    #[command(after_help = "\
Examples:
  socketserver compare
  socketserver compare --connections 1000 --cpu 20 --wait 5000 --chart models.svg
  socketserver compare --models threading,pool,coroutines --workers 4 --json

Each model is what serve has under that name, in a process of its own. Every client sends a request,
waits for the answer, checks it, and sends the next. The table has:
  req/s        requests that were answered, a second
  p50 to p99.9 what a client waited; with --new-connections from connecting to the end
  CPU/req      processor time of the server and all its processes; the system's part is included
  mem/conn     memory of all its processes with all clients there, less that of the idle server,
               for each client served; shared pages count once, the kernel's memory does not
  served       how many clients were ever answered: some models leave the others waiting

It recommends, among the models that have served everyone, the one with the most requests a second;
among those within 5 % of it the one with the least CPU time, and then with the lowest p99.")]
    Compare(Compare),
    /// Serves a workload of compare
    #[command(hide = true)]
    Workload(Work),
}

/// What `serve` is to do.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// What is served
    pub(crate) service: Service,
    /// Answer a datagram from elsewhere with more bytes than it had: who forges its sender has the
    /// others of the answer sent there
    #[arg(long)]
    pub(crate) allow_amplification: bool,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// How a server is to serve.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen; may be given several times
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:7007")]
    pub(crate) listen: Vec<Url>,
    /// Where each request runs: sequential, threading, pool, forking, coroutines, prefork or
    /// prefork:MODEL
    #[arg(long, value_name = "MODEL", default_value = "threading", value_parser = model)]
    pub(crate) model: Model,
    /// How many threads a pool or coroutines have, how many processes prefork has [default: by the
    /// number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    /// What coroutines wait with; auto is io_uring where the kernel allows it, else epoll
    #[arg(long, value_enum, default_value_t)]
    pub(crate) driver: Driver,
    /// How long a stop waits for live requests
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
    /// Say on standard error what happens, a line for each event
    #[arg(long)]
    pub(crate) log: bool,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// What `compare` is to do.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// How many clients there are; each has one request at a time
    #[arg(long, value_name = "N", default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// How long each model is measured, after a warm-up of a quarter of that
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = measured_seconds)]
    pub(crate) seconds: Duration,
    /// Which models, separated by commas
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = model,
        default_value = "sequential,threading,pool,forking,prefork,coroutines,prefork:coroutines")]
    pub(crate) models: Vec<Model>,
    /// How many threads a pool or coroutines have, how many processes prefork has [default: by the
    /// number of processors, as for serve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    /// Where the chart is written; an existing file is replaced
    #[arg(long, value_name = "FILE", default_value = "compare.svg")]
    pub(crate) chart: PathBuf,
    /// Print an array of JSON objects in place of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a request of `compare` is, and what it takes to answer it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// The size of a request, and of its answer
    #[arg(long, value_name = "BYTES", default_value = "128",
        value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub(crate) request_size: u32,
    /// How long a request computes: processor time, whatever else runs
    #[arg(long, value_name = "MICROSECONDS", default_value = "50", value_parser = microseconds)]
    pub(crate) cpu: Duration,
    /// How long a request waits for something else, such as a database
    #[arg(long, value_name = "MICROSECONDS", default_value = "1000", value_parser = microseconds)]
    pub(crate) wait: Duration,
    /// Make a new connection for each request, which the server closes
    #[arg(long)]
    pub(crate) new_connections: bool,
}

/// What a server that `compare` has started is to do.
#[derive(Args, Debug)]
pub(crate) struct Work {
    #[command(flatten)]
    pub(crate) workload: Workload,
    #[command(flatten)]
    pub(crate) options: Options,
    /// The process without which the server is of no use
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) parent: i32,
}

/// A built-in service.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Service {
    /// Sends back what it receives (RFC 862)
    Echo,
    /// Throws away what it receives (RFC 863)
    Discard,
    /// Sends lines of characters until the client has enough (RFC 864)
    Chargen,
    /// Says the date and the time, in UTC (RFC 867)
    Daytime,
    /// Sends the seconds since 1900 in four bytes (RFC 868)
    Time,
    /// Says "hello world"
    Hello,
}

impl Service {
    /// Whether its clients wait for it to say something.
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

/// Parses the command line. An error has been printed, and is the exit status.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    parse_from(std::env::args_os()).map_err(|err| {
        if err.exit_code() == 0 {
            // Help and version. A closed pipe is the reader's business.
            let _ = err.print();
            return ExitCode::SUCCESS;
        }
        crate::log::say(format_args!("socketserver: {}", one_line(&err)));
        ExitCode::from(2)
    })
}

fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let command = Cli::try_parse_from(args)?.command;
    let conflict = match &command {
        Command::Serve(Serve {
            options, service, ..
        }) => {
            let silent = options.limits.client_speaks_first && service.speaks_first();
            silent
                .then_some(
                    "--client-speaks-first is not for a service that speaks first: nobody would",
                )
                .or_else(|| options.conflict())
        }
        Command::Workload(Work { options, .. }) => options.conflict(),
        Command::Compare(compare) => {
            let Workload { cpu, wait, .. } = compare.workload;
            (compare.seconds <= cpu + wait)
                .then_some("--seconds is too short: a request takes longer by its --cpu and --wait")
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

/// As many as the library has at most.
const WORKER_PROCESSES_MAX: u32 = 10_000;

impl Options {
    /// Which options do not go together.
    fn conflict(&self) -> Option<&'static str> {
        if self.workers.is_some() && !self.model.is_sized() {
            return Some(
                "--workers sizes the models pool, prefork and coroutines; the others have no fixed number of workers",
            );
        }
        let workers = self.workers.unwrap_or(0);
        if matches!(self.model, Model::Prefork(_)) && workers > WORKER_PROCESSES_MAX {
            return Some("--workers is too large: prefork has at most 10000 worker processes");
        }
        if self.driver != Driver::Auto && self.model.inner() != Inner::Coroutines {
            return Some("--driver is for the models coroutines and prefork:coroutines");
        }
        None
    }
}

/// What clap says in a paragraph, in a line.
fn one_line(err: &clap::Error) -> String {
    if err.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: serve or compare (see socketserver --help)".to_owned();
    }
    let text = err.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    let text = lines.join(" ");
    format!(
        "{} (see socketserver --help)",
        text.strip_prefix("error: ").unwrap_or(&text)
    )
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
    /// Whether `--workers` says how large it is.
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
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is needed, such as 25 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|err| err.to_string())
}

fn measured_seconds(text: &str) -> Result<Duration, String> {
    let measured = Duration::from_millis(50)..=Duration::from_secs(3600);
    let seconds = seconds(text)?;
    if measured.contains(&seconds) {
        Ok(seconds)
    } else {
        Err("0.05 to 3600 seconds are measured".to_owned())
    }
}

fn microseconds(text: &str) -> Result<Duration, String> {
    // Ten minutes: more is a mistake.
    let count = text.parse().ok().filter(|count| *count <= 600_000_000);
    count
        .map(Duration::from_micros)
        .ok_or_else(|| "a whole number of microseconds is needed, at most 600000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let args = ["socketserver"]
            .into_iter()
            .chain(line.split_whitespace())
            .map(OsString::from);
        parse_from(args).map_err(|err| one_line(&err))
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
                .contains("--workers sizes")
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
    fn the_definition_of_the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
