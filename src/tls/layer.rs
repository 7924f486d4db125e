//! The layer that puts TLS on a connection: it moves bytes between the connection below and the
//! session.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::buffers::BUFFER;
use crate::net::{Connection, Layer, Layered, LayeredConnection, Managed};
use crate::net::{ReadHalf, WriteHalf, Writer};
use crate::task::wait::on_deep_stack;
use crate::tls::certificate::Certificate;
use crate::tls::config::{Loaded, Version};
use crate::tls::halves::halves;
use crate::tls::reload::TlsConfig;
use crate::tls::session::{Session, encrypt, failure, poll_input, unless_gone, unless_late};
use crate::tls::shared::{Shared, TlsWriter};

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
    session: Option<Arc<Shared>>,
    /// What the handshake has agreed on.
    server_name: Option<Box<str>>,
    alpn: Option<Box<[u8]>>,
    /// How long a write waits for its turn, if there are writers.
    limit: Option<Duration>,
}

/// Which side of the connection this is.
enum Role {
    Server(Loaded),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

impl TlsLayer {
    pub(super) fn server(config: &TlsConfig) -> Self {
        Self::new(Role::Server(config.current()))
    }

    pub(super) const fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self::new(Role::Client(config, name))
    }

    const fn new(role: Role) -> Self {
        Self {
            role,
            session: None,
            server_name: None,
            alpn: None,
            limit: None,
        }
    }

    /// Returns the version of TLS; `None` before the handshake.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self.of_rustls(|rustls| rustls.protocol_version())? {
            ProtocolVersion::TLSv1_2 => Some(Version::Tls12),
            ProtocolVersion::TLSv1_3 => Some(Version::Tls13),
            _ => None,
        }
    }

    /// Returns the cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn cipher_suite(&self) -> Option<&'static str> {
        let suite = self.of_rustls(|rustls| rustls.negotiated_cipher_suite())?;
        suite.suite().as_str()
    }

    /// Returns the host name that the client has asked for (SNI, RFC 6066), in lower case.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Returns the protocol that both sides have agreed on (ALPN, RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Returns the peer's certificate chain, its own first; empty without one. Each call reads the
    /// certificates anew.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<Certificate> {
        let read = |der: &CertificateDer<'_>| Certificate::from_der(der).ok();
        let read_all = |chain: &[CertificateDer<'_>]| chain.iter().filter_map(read).collect();
        self.of_rustls(|rustls| rustls.peer_certificates().map(read_all))
            .unwrap_or_default()
    }

    /// Returns whether the handshake has resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.of_rustls(|rustls| rustls.handshake_kind()) == Some(HandshakeKind::Resumed)
    }

    fn of_rustls<R>(&self, get: impl FnOnce(&rustls::Connection) -> Option<R>) -> Option<R> {
        get(&self.session.as_ref()?.lock().rustls)
    }

    /// Begins the handshake, unless it has begun.
    fn begin(&mut self) -> io::Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) => session,
            None => on_deep_stack(|| self.role.begin()).map_err(failure)?,
        };
        Shared::sole(self.session.insert(session)).ok_or_else(missing)
    }

    fn session(&mut self) -> io::Result<&mut Arc<Shared>> {
        self.session.as_mut().ok_or_else(missing)
    }

    /// Keeps what the handshake has agreed on.
    fn agree(&mut self) {
        let Some(session) = self.session.as_ref().map(|session| session.lock()) else {
            return;
        };
        self.alpn = session.rustls.alpn_protocol().map(Into::into);
        self.server_name = match (&session.rustls, &self.role) {
            (rustls::Connection::Server(server), _) => server.server_name().map(Into::into),
            (_, Role::Client(_, ServerName::DnsName(name))) => Some(name.as_ref().into()),
            _ => None,
        };
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
                self.agree();
                return self.check_resumed().map(|()| true);
            }
            if !more(below)? {
                return Ok(false);
            }
            if let Err(err) = session.receive_or_alert(below) {
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
        if !self.is_resumed() {
            return Ok(());
        }
        let certificate =
            self.of_rustls(|rustls| Some(rustls.peer_certificates()?.first()?.clone()));
        certificate.map_or(Ok(()), |certificate| clients.check_again(&certificate))
    }
}

/// The error of a connection that was not opened.
fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TLS handshake is missing")
}

impl Role {
    fn begin(&self) -> Result<Arc<Shared>, rustls::Error> {
        let connection = match self {
            Self::Server(loaded) => ServerConnection::new(Arc::clone(&loaded.config))?.into(),
            Self::Client(config, name) => {
                ClientConnection::new(Arc::clone(config), name.clone())?.into()
            }
        };
        Ok(Shared::new(Session::new(connection)))
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
        let shared = self.session()?;
        let Some(session) = Shared::sole(shared) else {
            return shared.read(below, buf);
        };
        loop {
            if let Some(taken) = session.take(buf) {
                return taken;
            }
            session.receive_or_alert(below)?;
            // An answer that the protocol demands.
            session.send(below)?;
        }
    }

    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        let limit = self.limit;
        let shared = self.session()?;
        let Some(session) = Shared::sole(shared) else {
            return shared.write(below, buf, limit);
        };
        // A write that has timed out has left a part of its records.
        session.send(below)?;
        session.outgoing.accepted = 0;
        let count = session.rustls.writer().write(buf)?;
        // What is not sent in time is kept, and the next write continues with it.
        unless_late(session.send(below))?;
        Ok(count)
    }

    fn flush(&mut self, below: &mut C) -> io::Result<()> {
        let Some(shared) = &mut self.session else {
            return below.flush();
        };
        if let Some(session) = Shared::sole(shared) {
            session.send(below)?;
        } else if let Some(sending) = shared.unsent() {
            sending.send(below)?;
        }
        below.flush()
    }

    fn has_input(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.lock().has_input())
    }

    fn gather(&mut self, below: &mut C, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool>
    where
        C: Managed,
    {
        let any = |input: &[u8]| !input.is_empty();
        // Nothing here waits.
        let session = self.session.as_ref().map(|session| session.lock());
        let Some(mut session) = session.filter(|it| !it.rustls.is_handshaking()) else {
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
        let limit = self.limit;
        let shared = self.session()?;
        let Some(session) = Shared::sole(shared) else {
            return shared.finish(below, limit);
        };
        session.send(below)?;
        session.output_ends = true;
        session.rustls.send_close_notify();
        // The output before it has been sent.
        unless_gone(session.send(below))
    }

    fn halves<'a>(
        &'a mut self,
        below: (ReadHalf<'a>, WriteHalf<'a>),
    ) -> io::Result<(ReadHalf<'a>, WriteHalf<'a>)> {
        let limit = self.limit;
        Ok(halves(self.session()?, below, limit))
    }

    fn writer(&mut self, below: Writer) -> io::Result<Writer> {
        Ok(Writer::new(TlsWriter {
            shared: Arc::clone(self.session()?),
            below,
            limit: None,
        }))
    }

    fn set_write_timeout(&mut self, below: &mut C, timeout: Option<Duration>) -> io::Result<()> {
        below.set_write_timeout(timeout)?;
        self.limit = timeout;
        Ok(())
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
        let shared = self.session()?;
        let Some(session) = Shared::sole(shared) else {
            return shared.poll_read(below, cx, buf);
        };
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
        let shared = self.session()?;
        let Some(session) = Shared::sole(shared) else {
            let sending = ready!(shared.poll_begin(cx));
            return sending.poll_write(buf, |bytes| below.poll_write(cx, bytes));
        };
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
