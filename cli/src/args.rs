//! The command line, as text that has been checked and not yet acted on.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves one of the small services of the RFCs 862 to 868, or a greeting
    #[command(after_help = "\
Examples:
  socketserver serve hello
  socketserver serve echo --listen tcp://[::]:7 --listen udp://[::]:7 --listen unix:///run/echo.sock
  socketserver serve daytime --model prefork:pool --workers 4 --max-connections 1000

URLs:
  tcp://HOST:PORT  udp://HOST:PORT     port 0 picks a free one; a name binds every address it has
  unix:///PATH     unixgram:///PATH    a socket file
  unix:@NAME       unixgram:@NAME      a name in the abstract namespace
  fd://N                               a bound socket inherited as descriptor N

Signals:
  SIGTERM and SIGINT drain and stop; a second one cuts what is left.

Exit status:
  0 everything was served, 1 failure, 2 wrong usage, 3 the drain deadline cut something")]
    Serve(Serve),
}

/// What `serve` is to do.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// What is served
    pub(crate) service: Service,
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
    /// How many requests may be live at once; further ones wait [default: 10240, or what the
    /// descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_connections: Option<u64>,
    /// How long a stop waits for live requests
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
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
pub(crate) fn parse() -> Result<Serve, ExitCode> {
    parse_from(std::env::args_os()).map_err(|err| {
        if err.exit_code() == 0 {
            // Help and version. A closed pipe is the reader's business.
            let _ = err.print();
            return ExitCode::SUCCESS;
        }
        crate::say(format_args!("socketserver: {}", one_line(&err)));
        ExitCode::from(2)
    })
}

fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Serve, clap::Error> {
    let Command::Serve(serve) = Cli::try_parse_from(args)?.command;
    let sized = matches!(
        serve.model,
        Model::Prefork(_) | Model::One(Inner::Pool | Inner::Coroutines)
    );
    if serve.workers.is_some() && !sized {
        return Err(conflict(
            "--workers sizes the models pool, prefork and coroutines; the others have no fixed number of workers",
        ));
    }
    if serve.driver != Driver::Auto && serve.model.inner() != Inner::Coroutines {
        return Err(conflict(
            "--driver is for the models coroutines and prefork:coroutines",
        ));
    }
    Ok(serve)
}

fn conflict(what: &str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, what)
}

/// What clap says in a paragraph, in a line.
fn one_line(err: &clap::Error) -> String {
    if err.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: serve (see socketserver --help)".to_owned();
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
        match name {
        "sequential" => Ok(Inner::Sequential),
        "threading" => Ok(Inner::Threading),
        "pool" => Ok(Inner::Pool),
        "forking" => Ok(Inner::Forking),
        "coroutines" => Ok(Inner::Coroutines),
        _ => Err(
            "a model is one of sequential, threading, pool, forking, coroutines, prefork, prefork:MODEL"
                .to_owned(),
        ),
    }
    };
    match text.split_once(':') {
        None if text == "prefork" => Ok(Model::Prefork(Inner::Threading)),
        Some(("prefork", name)) => Ok(Model::Prefork(inner(name)?)),
        _ => Ok(Model::One(inner(text)?)),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is needed, such as 25 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Serve, String> {
        let args = ["socketserver"]
            .into_iter()
            .chain(line.split_whitespace())
            .map(OsString::from);
        parse_from(args).map_err(|err| one_line(&err))
    }

    #[test]
    fn models_and_their_workers() {
        let model = |line: &str| parsed(line).map(|serve| serve.model);
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
    fn usage_errors_are_one_line() {
        for line in [
            "",
            "serve",
            "serve nothing",
            "serve echo --listen ftp://x",
            "serve echo --drain-timeout -1",
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
