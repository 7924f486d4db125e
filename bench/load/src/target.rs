//! Where a load goes, and sockets that are connected to it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc::MSG_MORE;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::tls::{Stream, Tls};

/// Connections come from 127.0.0.1 to 127.0.0.20, so that ports in TIME_WAIT do not run out.
const SOURCES: u64 = 20;

pub(crate) struct Target {
    domain: Domain,
    kind: Type,
    addr: SockAddr,
    /// What the connections have, if they are over TLS.
    tls: Option<Tls>,
    /// The process that each operation must find asleep, if it must.
    sleeper: Option<u32>,
    /// Whether a connection begins as those of a proxy do.
    proxied: bool,
}

/// The header of the PROXY protocol for a client, and for the address that it has connected to.
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n";

/// How often a process is looked at that is still awake.
const LOOK_EVERY: Duration = Duration::from_micros(20);

impl Target {
    /// Takes `tcp://ADDRESS:PORT`, `tls://ADDRESS:PORT`, `udp://ADDRESS:PORT`, `unix:///PATH`, `unix:@NAME` or `unixgram:@NAME`.
    pub(crate) fn parse(url: &str, sleeper: Option<u32>) -> Result<Self> {
        for (scheme, kind) in [("unix:@", Type::STREAM), ("unixgram:@", Type::DGRAM)] {
            if let Some(name) = url.strip_prefix(scheme) {
                return Ok(Self {
                    domain: Domain::UNIX,
                    kind,
                    addr: SockAddr::unix(format!("\0{name}"))?,
                    tls: None,
                    sleeper,
                    proxied: false,
                });
            }
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            bail!("{url} is no URL");
        };
        let inet = || {
            let addr: SocketAddr = rest.parse().with_context(|| format!("address in {url}"))?;
            if !addr.ip().is_loopback() {
                bail!("{url}: a load goes to loopback only");
            }
            Ok((Domain::for_address(addr), SockAddr::from(addr)))
        };
        let (kind, (domain, addr)) = match scheme {
            "tcp" | "tls" => (Type::STREAM, inet()?),
            "udp" => (Type::DGRAM, inet()?),
            "unix" => (Type::STREAM, (Domain::UNIX, SockAddr::unix(rest)?)),
            _ => bail!("{url}: tcp, tls, udp, unix and unixgram are known"),
        };
        Ok(Self {
            domain,
            kind,
            addr,
            tls: (scheme == "tls").then(Tls::new).transpose()?,
            sleeper,
            proxied: false,
        })
    }

    /// The same, through a proxy if `proxied`.
    pub(crate) fn proxied(self, proxied: bool) -> Self {
        Self { proxied, ..self }
    }

    /// Connects the socket of operation or connection `number`. It blocks, and calls on it must say when they may not.
    pub(crate) fn connect(&self, number: u64) -> Result<Socket> {
        let socket = Socket::new(self.domain, self.kind, None)?;
        if self.domain == Domain::IPV4 && self.kind == Type::STREAM {
            // The port is chosen by connect(2), which need only make the pair of addresses unique.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            let source = IpAddr::from(Ipv4Addr::new(127, 0, 0, 1 + (number % SOURCES) as u8));
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        if self.domain == Domain::UNIX && self.kind == Type::DGRAM {
            // Without a name it cannot be answered.
            let name = format!("\0bench-load-{}-{number}", std::process::id());
            socket.bind(&SockAddr::unix(name)?)?;
        }
        socket.connect(&self.addr).context("connect")?;
        Ok(socket)
    }

    /// What has to be sent first on a connection.
    pub(crate) const fn header(&self) -> &'static [u8] {
        if self.proxied { HEADER } else { &[] }
    }

    /// As [`connect`](Self::connect), a stream: with its header and its handshake, if it is over TLS.
    pub(crate) fn open(&self, number: u64) -> Result<Stream> {
        let socket = self.connect(number)?;
        if self.proxied {
            // It travels with the data.
            socket.send_with_flags(HEADER, MSG_MORE)?;
        }
        match &self.tls {
            Some(tls) => Stream::secure(tls, socket),
            None => Ok(Stream::Plain(socket)),
        }
    }

    pub(crate) const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Before an operation: waits until the server sleeps, if it must, so that it has to be woken for each.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some(pid) = self.sleeper else {
            return Ok(());
        };
        while !sleeps(pid).with_context(|| format!("look at process {pid}"))? {
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.domain != Domain::UNIX && self.kind == Type::STREAM
    }
}

/// Whether all threads of a process, and of its children, wait in the kernel (proc_pid_stat(5)).
fn sleeps(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread, or a child, may end meanwhile, and sleeps then.
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, None | Some('S' | 'Z')) {
            return Ok(false);
        }
        let children = fs::read_to_string(task.join("children")).unwrap_or_default();
        let mut children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        if !children.all(|pid| sleeps(pid).unwrap_or(true)) {
            return Ok(false);
        }
    }
    Ok(true)
}
