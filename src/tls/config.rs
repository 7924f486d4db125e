//! What a TLS server is configured with, and how that becomes a configuration of rustls.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context as Digest, SHA256};
use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::error::{Error, Tried};
use crate::tls::certificate::Certificate;
use crate::tls::clients::{Clients, Rule};
use crate::tls::files::{Files, Pair, invalid, read_roots};
use crate::tls::reload::TlsConfig;
use crate::tls::tickets::{Ticketer, Tickets};

/// A version of TLS.
///
/// # Examples
///
/// ```
/// use socketserver::tls::{TlsConfig, Version};
///
/// let builder = TlsConfig::builder().min_version(Version::Tls13);
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl Version {
    pub(super) fn and_later(self) -> Vec<&'static SupportedProtocolVersion> {
        let is_13 = |it: &&SupportedProtocolVersion| it.version == ProtocolVersion::TLSv1_3;
        let all = rustls::ALL_VERSIONS.iter().copied();
        all.filter(|it| self == Self::Tls12 || is_13(it)).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// The hook that hears of a reload.
pub(super) type OnReload = Arc<dyn Fn(Result<(), &Error>) + Send + Sync>;

/// The options of a [`TlsConfig`], with their defaults.
///
/// # Examples
///
/// Two certificates, chosen by the name that the client asks for; clients need a certificate of
/// their own.
///
/// ```no_run
/// use std::time::Duration;
/// use socketserver::tls::TlsConfig;
///
/// let tls = TlsConfig::builder()
///     .certificate("/etc/tls/www.pem", "/etc/tls/www.key")
///     .certificate("/etc/tls/mail.pem", "/etc/tls/mail.key")
///     .client_authority("/etc/tls/clients.pem")
///     .client_rule(|client| client.common_name().is_some_and(|name| name.ends_with(" (staff)")))
///     .alpn(["http/1.1"])
///     .watch_files(Duration::from_secs(5))
///     .build()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct TlsBuilder {
    pub(super) pairs: Vec<Files>,
    pub(super) authority: Option<PathBuf>,
    optional_clients: bool,
    rule: Option<Arc<Rule>>,
    alpn: Vec<Vec<u8>>,
    min_version: Version,
    resumption: bool,
    pub(super) watch: Option<Duration>,
    pub(super) on_reload: Option<OnReload>,
}

impl TlsBuilder {
    pub(super) const fn new() -> Self {
        Self {
            pairs: Vec::new(),
            authority: None,
            optional_clients: false,
            rule: None,
            alpn: Vec::new(),
            min_version: Version::Tls12,
            resumption: true,
            watch: None,
            on_reload: None,
        }
    }

    /// Adds a certificate with its private key; both are PEM files. At least one is needed.
    ///
    /// The file of the certificate has the server's own first, then those of its issuers without
    /// the root. A client that asks for a name (SNI) gets the first certificate that is for this
    /// name and whose kind of key the client supports; any other client gets the first of all. So a
    /// name may have an RSA and an ECDSA certificate.
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.pairs.push(Files {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Demands a certificate of each client, issued by one of the authorities in a PEM file.
    /// Default: clients need none.
    pub fn client_authority(mut self, authority: impl Into<PathBuf>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Accepts clients without a certificate too, where there is a
    /// [`client_authority`](Self::client_authority). A certificate that a client does send must be
    /// good. Default: false.
    pub const fn optional_clients(mut self, optional: bool) -> Self {
        self.optional_clients = optional;
        self
    }

    /// Judges the certificate of each client, after its chain and its dates: `false` ends the
    /// handshake. For subjects, subject alternative names and fingerprints. Default: every
    /// certificate of the [`client_authority`](Self::client_authority) is good.
    ///
    /// The rule runs where the handler runs, and must not block or wait: under `Coroutines` that blocks
    /// the worker. It judges a resumed session again.
    pub fn client_rule(
        mut self,
        rule: impl Fn(&Certificate) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.rule = Some(Arc::new(rule));
        self
    }

    /// Sets the protocols that the server speaks over TLS (ALPN, RFC 7301), the preferred one
    /// first. A client that offers only others is refused; a client that offers none is not.
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

    /// Lets clients resume sessions by tickets, which saves the signature of a full handshake.
    /// Default: true.
    ///
    /// The processes of a server accept the tickets of one another. Their keys change every six
    /// hours, and a ticket is good for six to twelve hours.
    pub const fn resumption(mut self, resumption: bool) -> Self {
        self.resumption = resumption;
        self
    }

    /// Reads the files again when they have changed, which is checked at most once per `interval`,
    /// before a connection is accepted. Files that could not be read are read again at each check.
    /// Default: never; see [`TlsConfig::reload`].
    pub const fn watch_files(mut self, interval: Duration) -> Self {
        self.watch = Some(interval);
        self
    }

    /// Calls `hook` after each reload that no call of [`TlsConfig::reload`] has made, once in all
    /// processes, with the error if the old certificates stay in use. A reload that fails again as
    /// before is not reported. Default: none.
    pub fn on_reload(mut self, hook: impl Fn(Result<(), &Error>) + Send + Sync + 'static) -> Self {
        self.on_reload = Some(Arc::new(hook));
        self
    }

    /// Reads and checks all files.
    ///
    /// # Errors
    ///
    /// The error names the file:
    ///
    /// - as open(2) and read(2).
    /// - `InvalidData`: a file is empty, or holds something else; a certificate has expired or is
    ///   not valid yet; a key does not belong to its certificate.
    /// - `InvalidInput`: there is no certificate, or a rule for clients without an authority.
    pub fn build(self) -> Result<TlsConfig, Error> {
        let wrong = |what: &str| {
            let err = io::Error::new(io::ErrorKind::InvalidInput, what);
            Err(Error::new("configure TLS", err))
        };
        if self.pairs.is_empty() {
            return wrong("there is no certificate");
        }
        if self.authority.is_none() && (self.rule.is_some() || self.optional_clients) {
            return wrong("certificates of clients need an authority");
        }
        TlsConfig::new(self)
    }

    /// Reads the files, and makes the configuration of a server from them.
    pub(super) fn load(&self, tickets: &Arc<Tickets>) -> Result<Loaded, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pairs = self.pairs.iter().map(|files| files.load(&provider));
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let roots = self.authority.as_deref().map(read_roots).transpose()?;
        let settings = self.settings(roots.as_ref());
        let clients = roots
            .map(|roots| self.clients(roots, &provider))
            .transpose()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.min_version.and_later())
            .map_err(|err| Error::new("configure TLS", invalid(err.to_string())))?;
        let config = match &clients {
            Some(clients) => config.with_client_cert_verifier(Arc::clone(clients) as Arc<_>),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::new(ByName(pairs)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.resumption {
            let tickets = Arc::clone(tickets);
            config.ticketer = Arc::new(Ticketer { tickets, settings });
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded {
            config: Arc::new(config),
            clients,
        })
    }

    fn clients(
        &self,
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<Clients>, Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = if self.optional_clients {
            verifier.allow_unauthenticated()
        } else {
            verifier
        };
        let verifier = verifier.build().map_err(|err| invalid(err.to_string()));
        let verifier = verifier.tried(|| "configure certificates of TLS clients".to_owned())?;
        Ok(Arc::new(Clients {
            verifier,
            rule: self.rule.clone(),
        }))
    }

    /// The settings under which a session may be resumed: those about clients.
    fn settings(&self, roots: Option<&RootCertStore>) -> Vec<u8> {
        let mut digest = Digest::new(&SHA256);
        digest.update(&[u8::from(self.optional_clients)]);
        for root in roots.iter().flat_map(|roots| &roots.roots) {
            digest.update(&root.subject);
            digest.update(&root.subject_public_key_info);
        }
        digest.finish().as_ref().to_vec()
    }
}

impl fmt::Debug for TlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsBuilder")
            .field("pairs", &self.pairs)
            .field("authority", &self.authority)
            .field("min_version", &self.min_version)
            .finish_non_exhaustive()
    }
}

/// The configuration of a server, as the files have it.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Option<Arc<Clients>>,
}

/// The pairs of a server, from which the client's name selects one.
#[derive(Debug)]
struct ByName(Vec<Pair>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suits = |pair: &&Pair| {
            let schemes = hello.signature_schemes();
            pair.key.key.choose_scheme(schemes).is_some()
        };
        let is_named = |pair: &&Pair| {
            let name = hello.server_name();
            name.is_some_and(|name| pair.certificate.is_for(name))
        };
        let first = || self.0.iter().find(suits).or_else(|| self.0.first());
        let pair = self.0.iter().filter(is_named).find(suits).or_else(first)?;
        Some(Arc::clone(&pair.key))
    }
}
