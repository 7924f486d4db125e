//! What the peers have in common: where they listen and how they say so, and what they do with a connection.

mod cost;
mod tls;
mod trips;

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

pub use cost::{Cost, MESSAGE, WAIT, compute};
pub use tls::{echo, tls_config};
pub use trips::{BATCH, End, Trips, ends, stay_on};

/// Serves messages as [`Handler::Mixed`] does, and computes in a way of its own.
pub fn serve_mixed(stream: &mut (impl Read + Write), compute: fn()) -> io::Result<()> {
    cost::serve(stream, compute)
}

/// As much as Linux allows by default.
const BACKLOG: i32 = 4096;

/// What is done with a connection. The runner names it in the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Reads once, answers, ends.
    Once,
    /// Sends back what it receives until the client ends: what `socketserver serve echo` does.
    Echo,
    /// Sends back messages of 64 bytes until the client ends. What each costs before, it says itself.
    Mixed,
}

impl Handler {
    /// Takes the handler from the first argument.
    pub fn from_args() -> Result<Self> {
        match env::args().nth(1).as_deref() {
            Some("once") => Ok(Self::Once),
            Some("echo") => Ok(Self::Echo),
            Some("mixed") => Ok(Self::Mixed),
            _ => bail!("the first argument is the handler: once, echo or mixed"),
        }
    }

    /// Serves a connection.
    pub fn serve(self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        match self {
            Self::Once => {
                let mut buf = [0; 1024];
                let count = stream.read(&mut buf)?;
                stream.write_all(&buf[..count])
            }
            Self::Echo => {
                let mut buf = [0; 16 * 1024];
                loop {
                    let count = stream.read(&mut buf)?;
                    if count == 0 {
                        return Ok(());
                    }
                    stream.write_all(&buf[..count])?;
                }
            }
            Self::Mixed => cost::serve(stream, compute),
        }
    }
}

/// What a peer listens on. The runner names it in the arguments.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on what the second argument says, TCP without it, and tells the runner where that is.
    pub fn from_args() -> Result<Self> {
        match env::args().nth(2).as_deref() {
            Some("tcp") | None => Ok(Self::Tcp(listen_tcp()?)),
            Some("unix") => Ok(Self::Unix(listen_unix()?)),
            _ => bail!("the second argument is the transport: tcp or unix"),
        }
    }
}

/// The number in the third argument: the size of the buffer of each connection, if the peer has one.
pub fn size_from_args() -> Result<usize> {
    let size = env::args().nth(3);
    let size = size.context("the third argument is the size of the buffers")?;
    size.parse().context("the size of the buffers")
}

/// Listens on loopback, and tells the runner where.
pub fn listen_tcp() -> Result<TcpListener> {
    listen("tcp")
}

/// The same for a server over TLS.
pub fn listen_tls() -> Result<TcpListener> {
    listen("tls")
}

fn listen(scheme: &str) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    announce(scheme, listener.local_addr()?);
    Ok(listener)
}

/// Listens on an abstract name, and tells the runner which.
fn listen_unix() -> Result<UnixListener> {
    let name = format!("bench-peer-{}", std::process::id());
    let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name)?)?;
    // Linux takes another call as a new size of the queue.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    eprintln!("listening on unix:@{name}");
    Ok(listener)
}

/// Tells the runner where to connect to.
pub fn announce(scheme: &str, addr: SocketAddr) {
    eprintln!("listening on {scheme}://{addr}");
}
