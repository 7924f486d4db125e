//! The layer that puts TLS on a connection: it holds the state of rustls, and moves bytes between
//! that and the connection below.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::buffers::BUFFER;
use crate::net::{Connection, Layer, Layered, LayeredConnection, Managed};
use crate::tls::certificate::Certificate;
use crate::tls::config::{Loaded, Version};
use crate::tls::files::invalid;
use crate::tls::reload::TlsConfig;

/// TLS over another transport: `Tls<Tcp>`, `Tls<UnixStream>`.
///
/// [`TlsConfig::listen`] makes it from listeners. Its connections are [`TlsConnection`]s.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::net::Bind;
/// use socketserver::tls::{Tls, TlsConfig};
/// use socketserver::{Server, Tcp, Threading};
///
/// let tls = TlsConfig::builder().certificate("cert.pem", "key.pem").build()?;
/// let server = Server::<Tls<Tcp>, Threading>::builder()
///     .listen(tls.listen(Tcp::bind("127.0.0.1:4433")?))
///     .build()?;
/// server.serve_forever(|conn| conn.write_all(b"hello world\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type Tls<T> = Layered<T, TlsLayer>;

/// A connection over TLS, of a server or [dialed](crate::tls::Connector).
///
/// `C` is the connection below: `TlsConnection<TcpConnection>`. Its
/// [`layer`](LayeredConnection::layer) knows what the handshake has agreed on.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::TcpConnection;
/// use socketserver::tls::TlsConnection;
///
/// fn describe(conn: &mut TlsConnection<TcpConnection>) -> io::Result<()> {
///     let name = conn.layer().server_name().unwrap_or("no name").to_owned();
///     writeln!(conn, "you have asked for {name}")
/// }
/// ```
pub type TlsConnection<C> = LayeredConnection<C, TlsLayer>;

/// The TLS of one connection: a [`Layer`].
///
/// The server does the handshake before it calls the handler, within the
/// [handshake timeout](crate::Builder::handshake_timeout). The methods here tell the handler what
/// it has agreed on.
///
/// # The end of a stream
///
/// A peer ends its stream with the alert *close_notify*; then a read returns 0. A read fails with
/// `UnexpectedEof` if the stream ends without it: the peer has been lost, or somebody else has cut
/// the stream short. [`next_message`](Connection::next_message), which waits where no message is
/// cut, returns `false` at either end. When the handler has returned, and on
/// [`shutdown`](Connection::shutdown), the server sends close_notify itself.
///
/// # Writes
///
/// Each write is a record of at most 16 KiB, or several, with some 22 bytes of overhead each, and is
/// sent at once. With a [write buffer](Connection::set_write_buffer) several records leave together.
///
/// # Examples
///
/// A handler that greets each client by the name in its certificate.
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::TcpConnection;
/// use socketserver::tls::TlsConnection;
///
/// fn greet(conn: &mut TlsConnection<TcpConnection>) -> io::Result<()> {
///     let client = conn.layer().peer_certificates().into_iter().next();
///     let name = client.as_ref().and_then(|client| client.common_name());
///     writeln!(conn, "hello {}", name.unwrap_or("stranger"))
/// }
/// ```
pub struct TlsLayer {
    role: Role,
    session: Option<Box<Session>>,
}

/// Which side of the connection this is.
enum Role {
    Server(Loaded),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// The state of rustls, and what it has told. No method waits.
struct Session {
    rustls: rustls::Connection,
    /// How many bytes of plain text rustls holds.
    unread: usize,
    /// Plain text that was received while the connection was parked, for the hook that judges it.
    gathered: Vec<u8>,
    end: End,
    /// The peer has sent something.
    begun: bool,
}

/// Whether, and how, the peer has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// With close_notify.
    Closed,
    /// Without.
    Truncated,
}

impl TlsLayer {
    pub(super) fn server(config: &TlsConfig) -> Self {
        Self {
            role: Role::Server(config.current()),
            session: None,
        }
    }

    pub(super) const fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self {
            role: Role::Client(config, name),
            session: None,
        }
    }

    /// Returns the version of TLS; `None` before the handshake.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self.rustls()?.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some(Version::Tls12),
            ProtocolVersion::TLSv1_3 => Some(Version::Tls13),
            _ => None,
        }
    }

    /// Returns the cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn cipher_suite(&self) -> Option<&'static str> {
        self.rustls()?.negotiated_cipher_suite()?.suite().as_str()
    }

    /// Returns the host name that the client has asked for (SNI, RFC 6066), in lower case.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match (self.rustls()?, &self.role) {
            (rustls::Connection::Server(server), _) => server.server_name(),
            (_, Role::Client(_, ServerName::DnsName(name))) => Some(name.as_ref()),
            _ => None,
        }
    }

    /// Returns the protocol that both sides have agreed on (ALPN, RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.rustls()?.alpn_protocol()
    }

    /// Returns the peer's certificate chain, its own first; empty without one. Each call reads the
    /// certificates anew.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<Certificate> {
        let chain = self.rustls().and_then(|rustls| rustls.peer_certificates());
        let read = |der: &rustls::pki_types::CertificateDer<'_>| Certificate::from_der(der).ok();
        chain.unwrap_or_default().iter().filter_map(read).collect()
    }

    /// Returns whether the handshake has resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        let kind = self.rustls().and_then(|rustls| rustls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    fn rustls(&self) -> Option<&rustls::Connection> {
        self.session.as_ref().map(|session| &session.rustls)
    }

    /// Begins the handshake, unless it has begun.
    fn begin(&mut self) -> io::Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Box::new(Session {
                rustls: self.role.connection().map_err(failure)?,
                unread: 0,
                gathered: Vec::new(),
                end: End::Open,
                begun: false,
            }),
        };
        Ok(self.session.insert(session))
    }

    fn session(&mut self) -> io::Result<&mut Session> {
        let none = || io::Error::new(io::ErrorKind::NotConnected, "the TLS handshake is missing");
        self.session.as_deref_mut().ok_or_else(none)
    }

    /// Advances the handshake with the input for which `more` waits; stops when `more` returns
    /// `false`. Returns whether the handshake is complete.
    fn advance<C: Connection>(
        &mut self,
        below: &mut C,
        mut more: impl FnMut(&mut C) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let session = self.begin()?;
        loop {
            session.send_flight(below)?;
            if !session.rustls.is_handshaking() {
                self.check_resumed()?;
                return Ok(true);
            }
            if !more(below)? {
                return Ok(false);
            }
            if let Err(err) = session.receive(below) {
                return Err(io::Error::new(err.kind(), format!("TLS handshake: {err}")));
            }
            // A client may send all that it has, and the end, with its last handshake message.
            if session.end != End::Open && session.rustls.is_handshaking() {
                let text = "the peer has ended the stream amid the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
    }

    /// Judges the client of a resumed session again.
    fn check_resumed(&self) -> io::Result<()> {
        let Role::Server(Loaded {
            clients: Some(clients),
            ..
        }) = &self.role
        else {
            return Ok(());
        };
        let chain = self.rustls().and_then(|rustls| rustls.peer_certificates());
        match chain.and_then(<[_]>::first).filter(|_| self.is_resumed()) {
            Some(certificate) => clients.check_again(certificate),
            None => Ok(()),
        }
    }
}

impl Role {
    fn connection(&self) -> Result<rustls::Connection, rustls::Error> {
        Ok(match self {
            Self::Server(loaded) => ServerConnection::new(Arc::clone(&loaded.config))?.into(),
            Self::Client(config, name) => {
                ClientConnection::new(Arc::clone(config), name.clone())?.into()
            }
        })
    }
}

impl Session {
    /// Whether a read returns at once.
    const fn has_input(&self) -> bool {
        self.unread > 0 || !self.gathered.is_empty() || !matches!(self.end, End::Open)
    }

    /// Takes plain text, or the end of the stream; `None` if more must be received first.
    fn take(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.gathered.is_empty() {
            let count = self.gathered.len().min(buf.len());
            buf[..count].copy_from_slice(&self.gathered[..count]);
            self.gathered.drain(..count);
            return Some(Ok(count));
        }
        if self.unread > 0 {
            let taken = self.rustls.reader().read(buf);
            self.unread -= taken.as_ref().map_or(self.unread, |count| *count);
            return Some(taken);
        }
        match self.end {
            End::Open => None,
            End::Closed => Some(Ok(0)),
            End::Truncated => Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer has ended the stream without close_notify",
            ))),
        }
    }

    /// Decrypts input of the connection below, until there is plain text. Waits for input if there
    /// is none.
    fn receive<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        let input = below.fill_buf()?;
        let is_first = !std::mem::replace(&mut self.begun, true);
        let result = if is_first && input.first().is_some_and(|kind| !is_record(*kind)) {
            Err((input.len(), not_tls(input)))
        } else {
            self.feed(input)
        };
        match result {
            Ok(count) => {
                below.consume(count);
                Ok(())
            }
            Err((count, err)) => {
                below.consume(count);
                // The alert that says why. The peer may have gone.
                let _ = self.send(below).and_then(|()| below.flush());
                Err(err)
            }
        }
    }

    /// Decrypts `input`, until there is plain text. Returns how many bytes that took, also with an
    /// error. Empty input is the end of the stream.
    fn feed(&mut self, input: &[u8]) -> Result<usize, (usize, io::Error)> {
        let mut rest = input;
        loop {
            let taken = |rest: &[u8]| input.len() - rest.len();
            let read = self.rustls.read_tls(&mut rest);
            let count = read.map_err(|err| (taken(rest), err))?;
            let state = self.rustls.process_new_packets();
            let state = state.map_err(|err| (input.len(), failure(err)))?;
            self.unread = state.plaintext_bytes_to_read();
            if state.peer_has_closed() {
                self.end = End::Closed;
            } else if input.is_empty() {
                self.end = End::Truncated;
            }
            if rest.is_empty() || count == 0 || self.unread > 0 {
                return Ok(taken(rest));
            }
        }
    }

    /// Sends what rustls has encrypted, a record at a time.
    fn send<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        while self.rustls.wants_write() {
            self.rustls.write_tls(below)?;
        }
        Ok(())
    }

    /// Sends the messages of a handshake together.
    fn send_flight<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        let mut flight = Vec::new();
        while self.rustls.wants_write() {
            self.rustls.write_tls(&mut flight)?;
        }
        if flight.is_empty() {
            return Ok(());
        }
        below.write_all(&flight)?;
        below.flush()
    }
}

/// The error of a connection, from one of rustls.
fn failure(err: rustls::Error) -> io::Error {
    invalid(err.to_string())
}

/// Whether a byte begins a record (RFC 8446, section 5.1).
const fn is_record(kind: u8) -> bool {
    matches!(kind, 0x14..=0x18)
}

/// The error about a peer that does not speak TLS at all, such as a browser with an http URL.
fn not_tls(input: &[u8]) -> io::Error {
    let start = String::from_utf8_lossy(&input[..input.len().min(16)]);
    let start = start.escape_debug();
    invalid(format!(
        "the peer does not speak TLS: its first bytes are \"{start}\""
    ))
}

/// Whether a write failed because the peer is gone.
fn is_gone(err: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(err.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

impl<C: Connection> Layer<C> for TlsLayer {
    fn open(&mut self, below: &mut C) -> io::Result<()> {
        self.advance(below, |_| Ok(true)).map(drop)
    }

    fn try_open(&mut self, below: &mut C) -> io::Result<bool>
    where
        C: Managed,
    {
        self.advance(below, |below| below.gather(&|input| !input.is_empty()))
    }

    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let session = self.session()?;
        loop {
            if let Some(taken) = session.take(buf) {
                return taken;
            }
            session.receive(below)?;
            // An answer that the protocol demands.
            session.send(below)?;
        }
    }

    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        let session = self.session()?;
        // A write that has timed out has left a part of its records.
        session.send(below)?;
        let count = session.rustls.writer().write(buf)?;
        match session.send(below) {
            // The records are kept, and the next write continues with them.
            Err(err) if err.kind() != io::ErrorKind::TimedOut => Err(err),
            _ => Ok(count),
        }
    }

    fn flush(&mut self, below: &mut C) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            session.send(below)?;
        }
        below.flush()
    }

    fn has_input(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.has_input())
    }

    fn gather(&mut self, below: &mut C, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool>
    where
        C: Managed,
    {
        let any = |input: &[u8]| !input.is_empty();
        let Some(session) = self
            .session
            .as_deref_mut()
            .filter(|it| !it.rustls.is_handshaking())
        else {
            return below.gather(&any);
        };
        loop {
            let held = session.gathered.len();
            session.gathered.resize(held + session.unread, 0);
            session
                .rustls
                .reader()
                .read_exact(&mut session.gathered[held..])?;
            session.unread = 0;
            let gathered = &session.gathered;
            if session.end != End::Open || gathered.len() >= BUFFER {
                return Ok(true);
            }
            if any(gathered) && is_whole(gathered) {
                return Ok(true);
            }
            if !below.gather(&any)? {
                return Ok(false);
            }
            session.receive(below)?;
        }
    }

    fn finish(&mut self, below: &mut C) -> io::Result<()> {
        let session = self.session()?;
        session.send(below)?;
        session.rustls.send_close_notify();
        match session.send(below) {
            // The output before it has been sent.
            Err(err) if is_gone(&err) => Ok(()),
            sent => sent,
        }
    }

    /// Sends no message, which the client could not read before the handshake.
    fn refuse_with(&mut self, below: &mut C, _message: &[u8])
    where
        C: Managed,
    {
        below.refuse_with(&[]);
    }
}

impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer")
            .field("version", &self.version())
            .field("cipher_suite", &self.cipher_suite())
            .field("server_name", &self.server_name())
            .finish_non_exhaustive()
    }
}
