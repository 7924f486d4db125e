//! Connections of a load, over TLS if its target says so: TLS 1.3 with one cipher suite, whatever a server would rather
//! have, and a server whose certificate is the one that the runner has made.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use bench_load::certificate_files;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, NamedGroup, RootCertStore, StreamOwned};
use socket2::Socket;

/// The name in the certificate.
const NAME: &str = "localhost";

/// The configuration that the clients of a load share.
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    pub(crate) fn new() -> Result<Self> {
        let (certificate, _) = certificate_files()?;
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(&certificate)
            .with_context(|| format!("read {}", certificate.display()))?;
        roots.add(certificate)?;
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
        provider.kx_groups = vec![kx_group::X25519];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// The same with tickets: every handshake resumes but the first.
    pub(crate) fn resuming(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Self(Arc::new(config))
    }

    pub(crate) fn connection(&self) -> Result<ClientConnection> {
        let name = ServerName::try_from(NAME)?;
        Ok(ClientConnection::new(Arc::clone(&self.0), name)?)
    }
}

/// What servers have sent for a later handshake. Each ticket resumes one, which brings two others.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl Tickets {
    /// More than a load has handshakes in flight.
    const KEPT: usize = 1024;

    fn all(&self) -> MutexGuard<'_, Vec<Tls13ClientSessionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut all = self.all();
        if all.len() < Self::KEPT {
            all.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.all().pop()
    }
}

/// A connection of a load.
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    /// Does the handshake.
    pub(crate) fn secure(tls: &Tls, socket: Socket) -> Result<Self> {
        let mut stream = StreamOwned::new(tls.connection()?, socket);
        while stream.conn.is_handshaking() {
            let (read, _) = stream.conn.complete_io(&mut stream.sock)?;
            ensure!(read > 0, "the server has ended the handshake");
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}
