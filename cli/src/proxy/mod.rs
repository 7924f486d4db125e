//! `socketserver proxy`: its options, and what it does with each connection and datagram.

mod background;
mod checks;
mod header;
mod idle;
mod sessions;
mod to;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use socketserver::net::{Accepted as _, Either, Relay, Relayed, SeqpacketConnection, Transport};
use socketserver::proxied::{ClientTls, Version};
use socketserver::{Connection, Next, Outcome, Report, ServerHandle};

use crate::args::{Inner, Model, Options, seconds};
use crate::bind::{Accepted, Any, Listener};
use crate::limits::positive_seconds;
use crate::listen::Url;
use crate::log::say;
use crate::serve::{self, STACK_KIB, TLS_STACK_KIB, Task};
use checks::Checks;
use header::Headers;
use sessions::{AtMax, Sessions};
use to::{Dial, Kind, To};
use upstreams::{Balance, Taken, Upstreams};

/// What the help of `proxy` ends with.
pub(crate) const HELP: &str = "\
Examples:
  socketserver proxy --listen tcp://0.0.0.0:8080 --to tcp://127.0.0.1:9090
  socketserver proxy --listen 'tcp://[::]:443' --tls-cert cert.pem --tls-key key.pem --to unix:///run/web.sock
  socketserver proxy --listen tcp://127.0.0.1:5432 --to tls://db1.internal:5432 --to tls://db2.internal:5432 --to-ca ca.pem
  socketserver proxy --model coroutines --listen tcp://0.0.0.0:80 --to tcp://10.0.0.5:80 --to tcp://10.0.0.6:80 --balance least-connections --send-proxy v2

The URLs of listeners and their options, signals and exit status are those of serve.";

/// The arguments of `proxy`.
#[derive(Args, Debug)]
pub(crate) struct Proxy {
    /// Where to forward to: tcp://HOST:PORT, tls://HOST:PORT, unix:///PATH, unix:@NAME; seqpacket: for
    /// seqpacket listeners, udp:// and unixgram: for datagrams; once for each upstream
    #[arg(long, value_name = "URL", required = true)]
    to: Vec<To>,
    /// Which upstream a connection goes to; the counts are those of all processes of the server
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    balance: Balance,
    /// How long connecting to an address of an upstream may take, and the TLS handshake with it
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    connect_timeout: Duration,
    /// How long an upstream that could not be reached gets no connections, if another one can be
    /// tried
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    retry_after: Duration,
    /// Send a header of the PROXY protocol to the upstream, with the client's address, before the
    /// client's bytes; for datagrams, in each
    #[arg(long, value_name = "VERSION", value_enum)]
    send_proxy: Option<SendProxy>,
    /// Connect to each upstream so often, and set aside those that cannot be reached; from the first
    /// connection on, without datagrams and forking [default: no checks]
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    check_interval: Option<Duration>,
    /// How long a client of datagrams may be silent, and its upstream, before its session ends
    /// [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    session_timeout: Option<Duration>,
    /// How many clients of datagrams may have sessions; each has a socket of its own [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions: Option<u32>,
    /// What happens to further clients of datagrams [default: drop]
    #[arg(long, value_name = "POLICY", value_enum)]
    at_max_sessions: Option<AtMax>,
    /// Probe TCP connections to clients and upstreams that are silent for so long, and end those whose
    /// peer is lost; in whole seconds [default: no probes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=32_767))]
    keep_alive: Option<u32>,
    /// Stop once there was no connection and no session for so long; for services that a service manager
    /// starts when a client comes
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    exit_when_idle: Option<Duration>,
    #[command(flatten)]
    to_tls: ToTls,
    #[command(flatten)]
    options: Options,
}

/// The options about TLS with upstreams.
#[derive(Args, Debug)]
#[command(next_help_heading = "TLS with upstreams")]
pub(crate) struct ToTls {
    /// Trust the authorities in this PEM file, and no others, for tls:// upstreams [default: those of
    /// the system]
    #[arg(long, value_name = "FILE")]
    to_ca: Option<PathBuf>,
    /// The name that the certificate of tls:// upstreams must have [default: the host of the URL]
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// Send this certificate to tls:// upstreams that ask for one: a PEM file
    #[arg(long, value_name = "FILE", requires = "to_key")]
    to_cert: Option<PathBuf>,
    /// The private key of --to-cert: a PEM file
    #[arg(long, value_name = "FILE", requires = "to_cert")]
    to_key: Option<PathBuf>,
}

impl ToTls {
    const fn is_given(&self) -> bool {
        self.to_ca.is_some() || self.to_name.is_some() || self.to_cert.is_some()
    }
}

/// The version of the headers that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendProxy {
    /// A line of text
    V1,
    /// Binary; with what is known of the client's TLS
    V2,
}

impl Proxy {
    /// The first error among options that do not go together.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        self.conflict_of_kinds().or_else(|| self.options.conflict())
    }

    fn conflict_of_kinds(&self) -> Option<&'static str> {
        let kind = self.kind();
        if self.to.iter().any(|to| to.kind() != kind) {
            return Some(
                "the upstreams are of several kinds; give --to with streams (tcp, tls, unix), with seqpacket, or with datagrams (udp, unixgram)",
            );
        }
        let of_another = |url: &Url| url.has(|socket| Kind::of_socket(socket) != kind);
        if self.options.listen.iter().any(of_another) {
            return Some(
                "a listener and an upstream are of different kinds; streams (tcp, tls, unix) go to streams, seqpacket to seqpacket, datagrams (udp, unixgram) to datagrams",
            );
        }
        if self.to_tls.is_given() && !self.to.iter().any(To::is_tls) {
            return Some(
                "--to-ca, --to-name, --to-cert and --to-key are for tls:// upstreams; give --to tls://HOST:PORT, or leave them out",
            );
        }
        self.conflict_of_datagrams(kind)
            .or(match (self.send_proxy, kind) {
                (Some(_), Kind::Seqpacket) => {
                    Some("--send-proxy is not for seqpacket upstreams; leave it out")
                }
                (Some(SendProxy::V1), Kind::Datagram) => {
                    Some("--send-proxy v1 has no datagrams; give v2")
                }
                _ => None,
            })
    }

    fn conflict_of_datagrams(&self, kind: Kind) -> Option<&'static str> {
        let model = self.options.model;
        let forks = model.inner() == Inner::Forking;
        if kind == Kind::Datagram {
            if forks || matches!(model, Model::Prefork(_)) {
                return Some(
                    "datagrams are not forwarded by several processes, which would not find a client's session; give --model threading, pool, coroutines or sequential",
                );
            }
            return self.check_interval.map(|_| "--check-interval is not for datagrams, which have no connections; leave it out");
        }
        if self.session_timeout.is_some()
            || self.max_sessions.is_some()
            || self.at_max_sessions.is_some()
        {
            return Some(
                "--session-timeout, --max-sessions and --at-max-sessions are for datagrams; leave them out",
            );
        }
        self.check_interval.filter(|_| forks).map(|_| "--check-interval is not for the model forking, whose process has no threads; give another model")
    }

    /// The kind of the upstreams.
    fn kind(&self) -> Kind {
        self.to.first().map_or(Kind::Stream, To::kind)
    }
}

/// How many descriptors of a process a relay takes: one for each side, and where it has a thread, an epoll instance and
/// an eventfd, by which that waits for both sides and for an abort.
const fn descriptors(model: Model) -> u64 {
    match model.inner() {
        Inner::Coroutines => 2,
        _ => 4,
    }
}

/// Forwards until a signal stops it.
pub(crate) fn run(mut proxy: Proxy) -> anyhow::Result<Report> {
    let kind = proxy.kind();
    let descriptors = descriptors(proxy.options.model);
    let note =
        (kind != Kind::Datagram).then(|| serve::bound_connections(&mut proxy.options, descriptors));
    let dial = Arc::new(Dial::new(&proxy)?);
    let options = &proxy.options;
    let headers = proxy.send_proxy.map(|version| match version {
        SendProxy::V1 => Headers(Version::V1),
        SendProxy::V2 => Headers(Version::V2),
    });
    let upstreams = Upstreams::new(proxy.to, proxy.balance, proxy.retry_after)?;
    let limits = sessions::Limits {
        timeout: proxy.session_timeout.unwrap_or(Duration::from_secs(60)),
        max: proxy.max_sessions.unwrap_or(1000) as usize,
        at_max: proxy.at_max_sessions.unwrap_or_default(),
    };
    let sessions = (kind == Kind::Datagram)
        .then(|| Sessions::new(limits, &upstreams, headers.is_some(), options.log));
    let checks = proxy
        .check_interval
        .map(|interval| Checks::new(interval, &upstreams, &dial, headers));
    let forward = Forward {
        kind,
        sessions: sessions.transpose()?,
        checks: checks.transpose()?,
        upstreams,
        dial,
        headers,
        relay: Relay::new().write_timeout(options.limits.write_timeout()),
        exit_when_idle: proxy.exit_when_idle,
        grace: options.limits.idle_grace(),
        logs: options.log,
        note: note.flatten(),
    };
    serve::run(forward, proxy.options)
}

/// Forwards connections and datagrams to upstreams.
struct Forward {
    kind: Kind,
    upstreams: Arc<Upstreams>,
    dial: Arc<Dial>,
    headers: Option<Headers>,
    relay: Relay,
    /// Present for datagrams.
    sessions: Option<Arc<Sessions>>,
    checks: Option<Arc<Checks>>,
    exit_when_idle: Option<Duration>,
    /// How long clients of datagrams have for their last replies.
    grace: Duration,
    /// Whether there is a line for the end of each relay.
    logs: bool,
    /// What the operator should know.
    note: Option<String>,
}

impl Task for Forward {
    fn start(&mut self, listeners: Vec<Any>) -> anyhow::Result<Vec<Listener>> {
        for listener in &listeners {
            if self.upstreams.all().iter().any(|to| to.is(&listener.url())) {
                anyhow::bail!(
                    "forward {}: the upstream is the listener itself; give another --to",
                    listener.url()
                );
            }
            if listener.local_addr().socket_addr().is_some() && self.kind == Kind::Stream {
                // Accepted connections inherit it (net/core/sock.c, `sk_clone`).
                to::keep_alive(listener, self.dial.keep_alive())?;
            }
        }
        serve::raise_descriptor_limit(self.note.as_deref())?;
        Ok(serve::lend_none(listeners))
    }

    fn serving(&self, server: &ServerHandle) -> anyhow::Result<()> {
        let Some(time) = self.exit_when_idle else {
            return Ok(());
        };
        let sessions = self.sessions.as_ref().map(|it| Arc::clone(it.count()));
        idle::stop_after(time, server.clone(), sessions)
    }

    fn stack_kib(&self) -> usize {
        if self.dial.uses_tls() {
            TLS_STACK_KIB
        } else {
            STACK_KIB
        }
    }

    fn serve(&self, accepted: &mut Accepted) -> Outcome {
        if let Some(checks) = &self.checks {
            checks.start()?;
        }
        match accepted {
            Either::Left(Either::Left(client)) => self.stream(client, None)?,
            Either::Left(Either::Right(client)) => {
                let tls = self.headers.map(|_| header::tls(client.layer()));
                self.stream(client, tls)?;
            }
            Either::Right(Either::Left(client)) => self.messages(client)?,
            Either::Right(Either::Right(datagram)) => {
                if let Some(sessions) = &self.sessions {
                    sessions.forward(datagram, &self.dial)?;
                }
            }
        }
        Ok(Next::Close)
    }

    fn finish(&self, server: &ServerHandle) -> u64 {
        let sessions = self.sessions.as_ref();
        sessions.map_or(0, |sessions| sessions.settle(self.grace, server))
    }
}

impl Forward {
    fn stream(&self, client: &mut impl Connection, tls: Option<ClientTls>) -> anyhow::Result<()> {
        let header = self.headers.map(|it| it.of(client, tls)).transpose()?;
        let dial = |to: &To| self.dial.stream(to, header.as_deref());
        let (upstream, mut server) = self.upstreams.connect(client.context(), true, dial)?;
        let relayed = self.relay.run(client, &mut server);
        self.end(client.id(), upstream, relayed)
    }

    fn messages(&self, client: &mut SeqpacketConnection) -> anyhow::Result<()> {
        let dial = |to: &To| self.dial.messages(to);
        let (upstream, mut server) = self.upstreams.connect(client.context(), true, dial)?;
        let relayed = self.relay.run_messages(client, &mut server);
        self.end(client.id(), upstream, relayed)
    }

    /// Reports the end of a relay.
    fn end(&self, id: u64, upstream: Taken, relayed: Relayed) -> anyhow::Result<()> {
        let (there, back) = (relayed.there(), relayed.back());
        let result = relayed.result();
        let to = self.logs.then(|| upstream.to().clone());
        // It has one connection less before the line says so.
        drop(upstream);
        if let Some(to) = to {
            let end = match &result {
                Ok(()) => String::new(),
                Err(err) => format!(": {err}"),
            };
            say(format_args!(
                "socketserver: connection {id} was forwarded to {to}, {there} bytes there, {back} bytes back{end}"
            ));
        }
        Ok(result?)
    }
}
