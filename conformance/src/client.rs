//! The clients: sockets of every family, each wait with a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// How long a client waits for what has to come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// How long it waits to say that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// Where the server is, as its driver says.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    address: SockAddr,
    domain: Domain,
    kind: Type,
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    is_stream: bool,
}

impl Target {
    /// `inet 127.0.0.1:80`, `path s`, `abstract name`.
    pub(crate) fn parse(text: &str, transport: &str, directory: &Path) -> io::Result<Self> {
        let (family, name) = text.split_once(' ').unwrap_or((text, ""));
        let address = match family {
            "inet" => {
                let address: SocketAddr = name.parse().map_err(io::Error::other)?;
                SockAddr::from(address)
            }
            "path" => SockAddr::unix(directory.join(name))?,
            _ => SockAddr::unix(format!("\0{name}"))?,
        };
        let kind = if matches!(transport, "tcp" | "unix") {
            Type::STREAM
        } else {
            Type::DGRAM
        };
        Ok(Self {
            domain: address.domain(),
            address,
            kind,
        })
    }

    /// A client that is connected, and, on request or to be answered, bound to a path.
    pub(crate) fn connect(&self, own: Option<&Path>) -> io::Result<Client> {
        let socket = Socket::new(self.domain, self.kind, None)?;
        if let Some(path) = own.filter(|_| self.domain == Domain::UNIX) {
            socket.bind(&SockAddr::unix(path)?)?;
        }
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.connect(&self.address)?;
        Ok(Client {
            socket,
            is_stream: self.kind == Type::STREAM,
        })
    }

    /// How many clients connect at once before one would have to wait.
    pub(crate) fn fill(&self) -> String {
        let mut clients = Vec::new();
        for count in 0..20 {
            let socket = Socket::new(self.domain, self.kind, None).expect("a socket");
            socket.set_nonblocking(true).expect("non-blocking");
            if socket.connect(&self.address).is_err() {
                return count.to_string();
            }
            clients.push(socket);
        }
        "20 or more".to_owned()
    }

    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self.kind, Type::STREAM)
    }
}

impl Client {
    pub(crate) fn send(&mut self, data: &[u8]) -> String {
        match self.socket.write_all(data) {
            Ok(()) => "sent".to_owned(),
            Err(err) => outcome(&err),
        }
    }

    /// Says that no more will be sent.
    pub(crate) fn end(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// As many bytes as that.
    pub(crate) fn read(&mut self, count: usize) -> String {
        let mut data = vec![0; count];
        match self.socket.read_exact(&mut data) {
            Ok(()) => shown(&data),
            Err(err) => outcome(&err),
        }
    }

    /// The whole answer: all up to the end of a stream, or one datagram.
    pub(crate) fn answer(&mut self) -> String {
        let mut data = Vec::new();
        let mut chunk = vec![0; 65_536];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(count) if !self.is_stream => return shown(&chunk[..count]),
                Ok(0) => return shown(&data) + ", end",
                Ok(count) => data.extend_from_slice(&chunk[..count]),
                Err(err) if data.len() > 60 => return format!("part, {}", outcome(&err)),
                Err(err) if data.is_empty() => return outcome(&err),
                Err(err) => return format!("{}, {}", shown(&data), outcome(&err)),
            }
        }
    }

    /// What comes within that time.
    pub(crate) fn within(&mut self, limit: Duration) -> String {
        self.socket
            .set_read_timeout(Some(limit))
            .expect("a deadline");
        let mut data = vec![0; 65_536];
        let text = match self.socket.read(&mut data) {
            Ok(0) if self.is_stream => "end".to_owned(),
            Ok(count) => shown(&data[..count]),
            Err(err) => outcome(&err),
        };
        self.socket
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        text
    }

    pub(crate) const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Goes away at once, with a reset where there is such a thing. Closing alone would not do: a
    /// process that is being started holds a copy of every descriptor for a moment.
    pub(crate) fn reset(self) {
        if rustix::net::connect_unspec(&self.socket).is_err() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// `ip:port` of this client.
    pub(crate) fn own_address(&self) -> String {
        let address = self.socket.local_addr().ok();
        let inet = address.and_then(|address| address.as_socket());
        inet.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// What an error of a client is called in a trace.
pub(crate) fn outcome(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => "refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "end".to_owned(),
        kind => format!("{kind:?}"),
    }
}

fn shown(data: &[u8]) -> String {
    if data.len() > 60 {
        format!("<{} bytes>", data.len())
    } else if data.is_empty() {
        "(empty)".to_owned()
    } else {
        data.escape_ascii().to_string()
    }
}
