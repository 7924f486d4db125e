//! TLS connections to other servers.

use std::fmt::{self, Debug};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Tried};
use crate::net::{Connection, Dialed, LayeredConnection, Managed, TcpConnection};
use crate::task::timeout;
use crate::tls::config::Version;
use crate::tls::files::{Files, invalid, read_roots};
use crate::tls::layer::{TlsConnection, TlsLayer};

/// Makes TLS connections to other servers. Clones share one configuration and its sessions, which
/// later connections resume.
///
/// # Examples
///
/// ```no_run
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use socketserver::tls::Connector;
///
/// let connector = Connector::new()?;
/// let limit = Duration::from_secs(5);
/// let mut conn = connector.connect(("example.org", 443), "example.org", limit)?;
/// conn.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n")?;
/// let mut answer = Vec::new();
/// conn.read_to_end(&mut answer)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

/// The options of a [`Connector`], with their defaults.
///
/// # Examples
///
/// A client of an internal service, with a certificate of its own.
///
/// ```no_run
/// use socketserver::tls::{Connector, Version};
///
/// let connector = Connector::builder()
///     .roots("/etc/tls/internal.pem")
///     .certificate("/etc/tls/client.pem", "/etc/tls/client.key")
///     .min_version(Version::Tls13)
///     .build()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ConnectorBuilder {
    roots: Option<PathBuf>,
    pair: Option<Files>,
    alpn: Vec<Vec<u8>>,
    min_version: Version,
}

impl Connector {
    /// Returns a connector with default options: it trusts the authorities that the system trusts.
    ///
    /// # Errors
    ///
    /// As [`ConnectorBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns the options, with their defaults.
    pub const fn builder() -> ConnectorBuilder {
        ConnectorBuilder {
            roots: None,
            pair: None,
            alpn: Vec::new(),
            min_version: Version::Tls12,
        }
    }

    /// Connects over TCP, as [`TcpConnection::connect`] does, and does the handshake, each for at
    /// most `timeout`. The server's certificate must be for `name`, a host name or an IP address.
    ///
    /// # Errors
    ///
    /// - as [`TcpConnection::connect`].
    /// - as [`secure`](Self::secure).
    pub fn connect(
        &self,
        addr: impl ToSocketAddrs + Debug + Send + 'static,
        name: &str,
        timeout: Duration,
    ) -> Result<Dialed<TlsConnection<TcpConnection>>, Error> {
        self.secure(TcpConnection::connect(addr, timeout)?, name, timeout)
    }

    /// Does the handshake of a client over a connection that was dialed, for at most `timeout`: for
    /// a Unix socket, or after a plain beginning as in SMTP's STARTTLS.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: `name` is neither a host name nor an IP address.
    /// - `InvalidData`: the server's certificate is not good, or the server refuses this client, or
    ///   does not speak TLS.
    /// - `TimedOut`: the handshake has taken longer.
    /// - `UnexpectedEof`: the server has ended the connection.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use socketserver::net::UnixConnection;
    /// use socketserver::tls::Connector;
    ///
    /// let limit = Duration::from_secs(5);
    /// let dialed = UnixConnection::connect("/run/service.sock", limit)?;
    /// let conn = Connector::new()?.secure(dialed, "service.internal", limit)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn secure<C: Connection + Managed>(
        &self,
        dialed: Dialed<C>,
        name: &str,
        limit: Duration,
    ) -> Result<Dialed<TlsConnection<C>>, Error> {
        let tried = || format!("TLS with {name}");
        let wrong = |_| std::io::Error::new(std::io::ErrorKind::InvalidInput, "no host name");
        let server = ServerName::try_from(name.to_owned()).map_err(wrong);
        let layer = TlsLayer::client(Arc::clone(&self.0), server.tried(tried)?);
        let mut connection = LayeredConnection::new(dialed.0, layer);
        let end = Instant::now().checked_add(limit);
        timeout(limit, || connection.open()).tried(tried)?;
        // A wait that succeeded late is late all the same.
        let is_late = end.is_some_and(|end| Instant::now() >= end);
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        (!is_late)
            .then_some(Dialed(connection))
            .ok_or_else(late)
            .tried(tried)
    }
}

impl ConnectorBuilder {
    /// Trusts the authorities in a PEM file, and no others. Default: those of the system, as
    /// OpenSSL has them (`SSL_CERT_FILE`, `SSL_CERT_DIR`, `/etc/ssl/certs`).
    pub fn roots(mut self, file: impl Into<PathBuf>) -> Self {
        self.roots = Some(file.into());
        self
    }

    /// Sends a certificate to servers that ask for one; both are PEM files. Default: none.
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.pair = Some(Files {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Sets the protocols that this client speaks over TLS (ALPN), the preferred one first.
    /// Default: none.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the lowest version of TLS. Default: 1.2.
    pub const fn min_version(mut self, version: Version) -> Self {
        self.min_version = version;
        self
    }

    /// Reads all files.
    ///
    /// # Errors
    ///
    /// - as [`TlsBuilder::build`](crate::tls::TlsBuilder::build); the error names the file.
    /// - `NotFound`: the system trusts no authority.
    pub fn build(self) -> Result<Connector, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair = self.pair.map(|files| files.load(&provider)).transpose()?;
        let roots = match &self.roots {
            Some(file) => read_roots(file)?,
            None => system_roots()?,
        };
        let refused = |err: rustls::Error| Error::new("configure TLS", invalid(err.to_string()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.min_version.and_later())
            .map_err(refused)?
            .with_root_certificates(roots);
        let mut config = match pair {
            Some(pair) => config.with_client_cert_resolver(Arc::new(Only(pair.key))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn;
        Ok(Connector(Arc::new(config)))
    }
}

/// Reads the authorities that the system trusts. Those that this program cannot read are left out.
fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "there is none".to_owned(), |err| err.to_string());
        let err = std::io::Error::new(std::io::ErrorKind::NotFound, why);
        return Err(Error::new("read the TLS authorities of the system", err)
            .with_remedy("install ca-certificates, or name a file of authorities"));
    }
    Ok(roots)
}

/// The only certificate of a client.
#[derive(Debug)]
struct Only(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Only {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let suits = self.0.key.choose_scheme(schemes).is_some();
        suits.then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}
