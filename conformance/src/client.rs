//! The clients: sockets of every family, some of them over TLS, each wait with a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::tls::{End, Plain};

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
    is_tls: bool,
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    is_stream: bool,
    is_tls: bool,
    /// Over TLS, once the client has something to say or to hear.
    plain: Option<Plain>,
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
        let kind = if matches!(transport, "tcp" | "unix" | "tls") {
            Type::STREAM
        } else {
            Type::DGRAM
        };
        Ok(Self {
            domain: address.domain(),
            address,
            kind,
            is_tls: transport == "tls",
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
            is_tls: self.is_tls,
            plain: None,
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
        let sent = match self.plain() {
            Ok(Some(plain)) => plain.write(data),
            Ok(None) => self.socket.write_all(data),
            Err(err) => Err(err),
        };
        match sent {
            Ok(()) => "sent".to_owned(),
            Err(err) => outcome(&err),
        }
    }

    /// Waits until what was sent has left this process: over TLS a thread encrypts it. Returns whether it has.
    pub(crate) fn await_sent(&mut self) -> bool {
        self.plain
            .as_mut()
            .is_none_or(|plain| plain.await_sent(DEADLINE))
    }

    /// Says that no more will be sent.
    pub(crate) fn end(&mut self) {
        let _ = match self.plain() {
            Ok(Some(plain)) => plain.stream.shutdown(Shutdown::Write),
            _ => self.socket.shutdown(Shutdown::Write),
        };
    }

    /// The plain end of a client over TLS; begins the handshake.
    fn plain(&mut self) -> io::Result<Option<&mut Plain>> {
        if self.is_tls && self.plain.is_none() {
            let plain = Plain::begin(self.socket.try_clone()?)?;
            plain.stream.set_read_timeout(Some(DEADLINE))?;
            plain.stream.set_write_timeout(Some(DEADLINE))?;
            self.plain = Some(plain);
        }
        Ok(self.plain.as_mut())
    }

    /// Whether the server has said that its stream ends, where there is such a thing.
    pub(crate) fn farewell(&mut self) -> &'static str {
        self.answer();
        match self.plain.as_ref().map(Plain::end) {
            Some(End::Closed) => "said",
            _ => "unsaid",
        }
    }

    /// As many bytes as that.
    pub(crate) fn read(&mut self, count: usize) -> String {
        let mut data = vec![0; count];
        match self.read_exact(&mut data) {
            Ok(()) => shown(&data),
            Err(err) => outcome(&err),
        }
    }

    /// The whole answer: all up to the end of a stream, or one datagram.
    pub(crate) fn answer(&mut self) -> String {
        let mut data = Vec::new();
        let mut chunk = vec![0; 65_536];
        loop {
            match Read::read(self, &mut chunk) {
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
        self.set_read_timeout(limit).expect("a deadline");
        let mut data = vec![0; 65_536];
        let text = match Read::read(self, &mut data) {
            Ok(0) if self.is_stream => "end".to_owned(),
            Ok(count) => shown(&data[..count]),
            Err(err) => outcome(&err),
        };
        self.set_read_timeout(DEADLINE).expect("a deadline");
        text
    }

    fn set_read_timeout(&mut self, limit: Duration) -> io::Result<()> {
        match self.plain()? {
            Some(plain) => plain.stream.set_read_timeout(Some(limit)),
            None => self.socket.set_read_timeout(Some(limit)),
        }
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

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(plain) = self.plain()? else {
            return self.socket.read(buf);
        };
        let count = plain.stream.read(buf)?;
        if count > 0 {
            return Ok(count);
        }
        match plain.end() {
            End::Closed | End::Cut => Ok(0),
            End::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            End::NoHandshake => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// What an error of a client is called in a trace.
pub(crate) fn outcome(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => "refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "end".to_owned(),
        // Whether the end or a reset comes first is a matter of time.
        io::ErrorKind::ConnectionAborted => "no handshake".to_owned(),
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
