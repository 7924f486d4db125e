//! The layer that puts TLS on a connection: it moves bytes between the connection below and the
//! session.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::task::{self, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::buffers::BUFFER;
use crate::net::{Connection, Layer, Layered, LayeredConnection, Managed, ReadHalf, WriteHalf};
use crate::tls::certificate::Certificate;
use crate::tls::config::{Loaded, Version};
use crate::tls::halves::halves;
use crate::tls::reload::TlsConfig;
use crate::tls::session::{Session, encrypt, failure, poll_input, unless_gone, unless_late};

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
/// `UnexpectedEof` if the stream ends without it: the peer has been lost, or a third party has cut
/// the stream short. [`next_message`](Connection::next_message), which waits where no message is
/// cut, returns `false` at either end. When the handler has returned, and on
/// [`shutdown`](Connection::shutdown), the server sends close_notify itself.
///
/// # Writes
///
/// Each write is a record of at most 16 KiB, or several, with some 22 bytes of overhead each, and is
/// sent at once. With a [write buffer](Connection::set_write_buffer) several records leave together.
///
/// A [`poll_write`](Connection::poll_write) that is pending may have encrypted its bytes, so the next one continues
/// with the same bytes, which the caller passes again.
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
            None => Box::new(Session::new(self.role.connection().map_err(failure)?)),
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
            if session.has_ended() && session.rustls.is_handshaking() {
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
        // What is not sent in time is kept, and the next write continues with it.
        unless_late(session.send(below))?;
        Ok(count)
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
            session.gather()?;
            let gathered = &session.gathered;
            if session.has_ended() || gathered.len() >= BUFFER {
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
        // The output before it has been sent.
        unless_gone(session.send(below))
    }

    fn halves<'a>(
        &'a mut self,
        below: (ReadHalf<'a>, WriteHalf<'a>),
    ) -> io::Result<(ReadHalf<'a>, WriteHalf<'a>)> {
        Ok(halves(self.session()?, below))
    }

    fn poll_read(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let session = self.session()?;
        loop {
            if let Some(taken) = session.take(buf) {
                return Poll::Ready(taken);
            }
            session.seal()?;
            ready!(
                session
                    .outgoing
                    .poll_send(|bytes| below.poll_write(cx, bytes))
            )?;
            ready!(poll_input(
                cx,
                |cx, raw| below.poll_read(cx, raw),
                |raw| session.digest(raw)
            ))?;
        }
    }

    fn poll_write(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let session = self.session()?;
        let Session {
            rustls, outgoing, ..
        } = session;
        outgoing.poll_write(
            buf,
            |buf, bytes| encrypt(rustls, buf, bytes),
            |bytes| below.poll_write(cx, bytes),
        )
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
