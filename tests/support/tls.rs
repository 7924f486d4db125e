//! Clients over TLS, and the certificate authority of the servers under test.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::SockRef;

use crate::support::DEADLINE;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("authority {}", LAST.fetch_add(1, Ordering::Relaxed));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// The authority of this process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// Issues a certificate for some names, for servers and clients; its common name is the first.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let all = names.iter().map(|name| (*name).to_owned());
        let mut params = CertificateParams::new(all.collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The roots that a client of a server with a certificate of this authority has.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate");
        roots.add(der).expect("a root");
        roots
    }

    /// A client without a certificate.
    pub(crate) fn client(&self) -> ClientConfig {
        builder()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// A client with a certificate.
    pub(crate) fn client_with(&self, pair: &Pair) -> ClientConfig {
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![certificate.expect("a certificate")], key)
            .expect("a pair")
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
}

impl Pair {
    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = folder.join(format!("{name}.pem"));
        let key = folder.join(format!("{name}.key"));
        fs::write(&certificate, &self.certificate).expect("write a certificate");
        fs::write(&key, &self.key).expect("write a key");
        (certificate, key)
    }
}

/// A socket below a client.
pub(crate) trait Below: Read + Write + AsFd + Send + 'static {}

impl<S: Read + Write + AsFd + Send + 'static> Below for S {}

/// Returns the plain end of a TLS client. A thread encrypts and decrypts. The handshake begins with
/// the first byte that is written, or with the end of the output.
pub(crate) fn plain(below: impl Below, config: ClientConfig) -> UnixStream {
    plain_with(below, config, Keys::Stay)
}

/// Whether a client changes its keys, and demands that the server does, with each block of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    Stay,
    Change,
}

/// As [`plain`].
pub(crate) fn plain_with(below: impl Below, config: ClientConfig, keys: Keys) -> UnixStream {
    let (inner, outer) = UnixStream::pair().expect("a pair of sockets");
    outer
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    let name = "localhost".try_into().expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    SockRef::from(&below)
        .set_nonblocking(true)
        .expect("set the mode");
    inner.set_nonblocking(true).expect("set the mode");
    let mut pump = Pump {
        below,
        inner,
        tls,
        received: Vec::new(),
        keys,
        begun: false,
        output_ended: false,
        input_ended: false,
    };
    // The test has gone, or the server; the test sees the end of the stream.
    thread::spawn(move || while pump.step().is_ok_and(|goes_on| goes_on) {});
    outer
}

/// What moves bytes between a test and a server.
struct Pump<S> {
    below: S,
    inner: UnixStream,
    tls: ClientConnection,
    /// Plain text that the test has not taken.
    received: Vec<u8>,
    keys: Keys,
    begun: bool,
    output_ended: bool,
    input_ended: bool,
}

/// The result of an attempt; `None` if it would block.
fn attempt(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
        done => done.map(Some),
    }
}

impl<S: Below> Pump<S> {
    /// Waits for either side, and moves what has come. Returns whether there will be more.
    fn step(&mut self) -> io::Result<bool> {
        let wants_write = self.begun && self.tls.wants_write();
        let mut flags = [PollFlags::empty(); 2];
        if !self.input_ended {
            flags[0] |= PollFlags::IN;
        }
        let shakes = self.begun && self.tls.is_handshaking();
        if wants_write {
            flags[0] |= PollFlags::OUT;
        } else if !self.output_ended && !shakes {
            flags[1] |= PollFlags::IN;
        }
        if !self.received.is_empty() {
            flags[1] |= PollFlags::OUT;
        }
        let limit = Timespec::try_from(DEADLINE).expect("a short time");
        let mut fds = [
            PollFd::new(&self.below, flags[0]),
            PollFd::new(&self.inner, flags[1]),
        ];
        if poll(&mut fds, Some(&limit))? == 0 {
            return Ok(false);
        }
        let [of_below, of_inner] = fds.map(|fd| fd.revents());
        if wants_write && !of_below.is_empty() {
            attempt(self.tls.write_tls(&mut self.below))?;
        }
        if flags[0].contains(PollFlags::IN) && !of_below.is_empty() {
            self.receive()?;
        }
        if !self.received.is_empty() {
            let sent = attempt(self.inner.write(&self.received))?.unwrap_or(0);
            self.received.drain(..sent);
        }
        if flags[1].contains(PollFlags::IN) && !of_inner.is_empty() {
            self.send()?;
        }
        if !self.input_ended || !self.received.is_empty() {
            return Ok(true);
        }
        self.inner.shutdown(Shutdown::Write)?;
        // The test may go on to send.
        let is_over = self.output_ended && !self.tls.wants_write();
        Ok(!is_over && !of_below.intersects(PollFlags::HUP | PollFlags::ERR))
    }

    fn receive(&mut self) -> io::Result<()> {
        let count = attempt(self.tls.read_tls(&mut self.below))?;
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let held = self.received.len();
        self.received
            .resize(held + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.received[held..])?;
        self.input_ended = count == Some(0) || state.peer_has_closed();
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        self.begun = true;
        match attempt(self.inner.read(&mut bytes))? {
            Some(0) => {
                self.output_ended = true;
                self.tls.send_close_notify();
                while self.tls.wants_write() {
                    attempt(self.tls.write_tls(&mut self.below))?;
                }
                SockRef::from(&self.below).shutdown(Shutdown::Write)
            }
            Some(count) => {
                if self.keys == Keys::Change && !self.tls.is_handshaking() {
                    self.tls.refresh_traffic_keys().map_err(io::Error::other)?;
                }
                self.tls.writer().write_all(&bytes[..count])
            }
            None => Ok(()),
        }
    }
}
