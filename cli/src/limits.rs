//! The options for limits and deadlines, with the library's names and defaults.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::Builder;
use socketserver::limits::{AtLimit, Rate};
use socketserver::model::Model;
use socketserver::net::Transport;

use crate::args::seconds;
use crate::signals::StopTimes;

/// The limits and deadlines of a server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// How many connections and datagrams may be live at once [default: 10240, or what the descriptor
    /// limit allows]; the soft limit on descriptors is raised for it, up to the hard limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_connections: Option<u64>,
    /// How many connections an IPv4 address, or an IPv6 /64 network, may have; further ones are
    /// refused [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_per_address: Option<u64>,
    /// How many connections a user may have on unix listeners; further ones are refused [default: no
    /// limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_per_user: Option<u64>,
    /// How many new connections or datagrams are accepted a second [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How many connections or datagrams are accepted at once after a quiet time [default: a second's worth]
    #[arg(long, value_name = "N", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    rate_burst: Option<u32>,
    /// What happens to connections beyond --max-connections or --rate: wait (in the backlog), refuse,
    /// refuse:TEXT (sends TEXT first; \n \r \t \\ are understood), or shed (closes the connection that
    /// is idle for longest)
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = policy)]
    at_limit: AtLimit,
    /// How long a new connection may send nothing; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = timeout)]
    first_byte_timeout: Timeout,
    /// How long the TLS handshake of a connection may take; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = timeout)]
    handshake_timeout: Timeout,
    /// How long a connection may be silent after its first byte; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = timeout)]
    pub(crate) idle_timeout: Timeout,
    /// How long a request may take; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "none", value_parser = timeout)]
    request_timeout: Timeout,
    /// How long a write may wait while the peer takes nothing; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = timeout)]
    write_timeout: Timeout,
    /// How long a connection may be open; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "none", value_parser = timeout)]
    lifetime: Timeout,
    /// How many bytes a second a client must send while the server waits for input [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    min_rate: Option<u64>,
    /// How long a request may wait for input before --min-rate applies
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds, requires = "min_rate")]
    min_rate_grace: Duration,
    /// Start the handler of a connection at its first byte; for echo and discard
    #[arg(long)]
    pub(crate) client_speaks_first: bool,
    /// How long a server still accepts after it was asked to stop
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    lame_duck: Duration,
    /// How long idle connections stay in a stop, before they get the end of the stream; seconds, or
    /// none: as long as the drain
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = grace)]
    idle_grace: Timeout,
}

/// A time limit, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl Limits {
    /// How long a peer may take nothing.
    pub(crate) const fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout.0
    }

    /// How long idle connections stay in a stop; a day stands for no limit.
    pub(crate) fn idle_grace(&self) -> Duration {
        self.idle_grace.0.unwrap_or(Duration::from_secs(86_400))
    }

    /// How long a stop may take, with this drain timeout.
    pub(crate) fn stop_times(&self, drain: Duration) -> StopTimes {
        let after = |time: Duration| self.lame_duck.saturating_add(time);
        StopTimes {
            all: after(drain),
            idle: self.idle_grace.0.map(after),
        }
    }

    /// Sets all limits and deadlines of a builder.
    pub(crate) fn apply<T: Transport, M: Model>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        let rate = self.rate.map(|connections| {
            let rate = Rate::per_second(connections);
            self.rate_burst.map_or(rate, |burst| rate.burst(burst))
        });
        let mut builder = builder
            .max_per_address(self.max_per_address)
            .max_per_user(self.max_per_user)
            .rate(rate)
            .at_limit(self.at_limit.clone())
            .first_byte_timeout(self.first_byte_timeout.0)
            .handshake_timeout(self.handshake_timeout.0)
            .idle_timeout(self.idle_timeout.0)
            .request_timeout(self.request_timeout.0)
            .write_timeout(self.write_timeout.0)
            .lifetime(self.lifetime.0)
            .client_speaks_first(self.client_speaks_first)
            .lame_duck(self.lame_duck)
            .idle_grace(self.idle_grace.0);
        if let Some(max) = self.max_connections {
            builder = builder.max_connections(max).raise_descriptor_limit(true);
        }
        match self.min_rate {
            Some(bytes) => builder.min_rate(bytes, self.min_rate_grace),
            None => builder,
        }
    }
}

pub(crate) fn timeout(text: &str) -> Result<Timeout, String> {
    if text == "none" {
        return Ok(Timeout(None));
    }
    let time = seconds(text)?;
    if time.is_zero() {
        return Err("0 would end every connection at once; write none for no limit".to_owned());
    }
    Ok(Timeout(Some(time)))
}

/// Parses a number of seconds that is not 0.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    if time.is_zero() {
        return Err("a number of seconds above 0 is needed".to_owned());
    }
    Ok(time)
}

/// Parses a timeout that may also be 0.
fn grace(text: &str) -> Result<Timeout, String> {
    if seconds(text).is_ok_and(|time| time.is_zero()) {
        return Ok(Timeout(Some(Duration::ZERO)));
    }
    timeout(text)
}

fn policy(text: &str) -> Result<AtLimit, String> {
    match text.split_once(':') {
        None if text == "wait" => Ok(AtLimit::Wait),
        None if text == "refuse" => Ok(AtLimit::Refuse),
        None if text == "shed" => Ok(AtLimit::ShedOldestIdle),
        Some(("refuse", message)) => unescape(message).map(AtLimit::RefuseWith),
        _ => Err("a policy is one of wait, refuse, refuse:TEXT, shed".to_owned()),
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut message = String::new();
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        message.push(match char {
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('\\') => '\\',
                _ => {
                    return Err("after a backslash, one of n, r, t and \\ is needed".to_owned());
                }
            },
            char => char,
        });
    }
    if message.len() > AtLimit::MESSAGE_MAX {
        return Err(format!(
            "the text has {} bytes; at most {} are possible",
            message.len(),
            AtLimit::MESSAGE_MAX
        ));
    }
    Ok(message.into_bytes())
}

/// Raises the soft limit on descriptors to the hard one, and returns what it was.
pub(crate) fn raise_descriptors() -> anyhow::Result<Rlimit> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit on descriptors")?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!(policy("wait"), Ok(AtLimit::Wait));
        assert_eq!(policy("shed"), Ok(AtLimit::ShedOldestIdle));
        assert_eq!(
            policy(r"refuse:busy: a\\b\r\n"),
            Ok(AtLimit::RefuseWith(b"busy: a\\b\r\n".to_vec()))
        );
        for wrong in ["", "refuse!", "shed:", r"refuse:\x", r"refuse:\"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
        assert!(policy(&format!("refuse:{}", "x".repeat(257))).is_err());
    }

    #[test]
    fn timeouts() {
        assert_eq!(
            timeout("0.5").map(|time| time.0),
            Ok(Some(Duration::from_millis(500)))
        );
        assert_eq!(timeout("none").map(|time| time.0), Ok(None));
        assert!(timeout("0").is_err() && timeout("-1").is_err() && timeout("").is_err());
        for (text, time) in [("0", Some(0)), ("2", Some(2)), ("none", None)] {
            let time = time.map(Duration::from_secs);
            assert_eq!(grace(text).map(|grace| grace.0), Ok(time), "{text}");
        }
        assert!(grace("-1").is_err() && grace("").is_err());
    }
}
