//! Certificates and keys in PEM files, and the errors about them, which name the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{Error, Tried};
use crate::tls::certificate::Certificate;

/// The files of a certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// A certificate chain with its key, and what the first certificate says.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) certificate: Certificate,
}

/// The largest file that is read: a mistaken path must not fill the memory.
const FILE_MAX: u64 = 4 << 20;

/// One section of a PEM file.
type Section = (SectionKind, Vec<u8>);

impl Files {
    /// Reads and checks the pair.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<Pair, Error> {
        let chain = read_certificates("certificate", &self.certificate)?;
        let key = read_key(&self.key)?;
        let about = |file: &Path| format!("use the TLS certificate {}", file.display());
        let certificate = Certificate::from_der(&chain[0]).tried(|| about(&self.certificate))?;
        certificate
            .check_dates(SystemTime::now())
            .tried(|| about(&self.certificate))
            .map_err(|err| err.with_remedy("renew it, or check the clock of this host"))?;
        let tried = || format!("use the TLS key {}", self.key.display());
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|err| Error::new(tried(), invalid(format!("no usable key: {err}"))))
            .map_err(|err| {
                err.with_remedy("use RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519")
            })?;
        let others: Vec<_> = chain.iter().skip(1).cloned().collect();
        let pair = CertifiedKey::new(chain, key);
        if pair.keys_match().is_err() {
            let belongs = |other: CertificateDer<'static>| {
                CertifiedKey::new(vec![other], Arc::clone(&pair.key))
                    .keys_match()
                    .is_ok()
            };
            let text = format!(
                "it does not belong to the certificate {}",
                self.certificate.display()
            );
            let remedy = if others.into_iter().any(belongs) {
                "put the certificate of the server first in its file, before those of its issuers"
            } else {
                "give each certificate with its own key"
            };
            return Err(Error::new(tried(), invalid(text)).with_remedy(remedy));
        }
        Ok(Pair {
            key: Arc::new(pair),
            certificate,
        })
    }
}

/// Reads the certificates of trusted authorities.
pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("certificate authority", path)? {
        let added = roots
            .add(certificate)
            .map_err(|err| invalid(err.to_string()));
        added.tried(|| format!("use the TLS certificate authority {}", path.display()))?;
    }
    Ok(roots)
}

/// Reads all certificates of a file; at least one.
fn read_certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let tried = || format!("read the TLS {what} {}", path.display());
    let (sections, _) = read(path).tried(tried)?;
    let is_key = |kind| {
        matches!(
            kind,
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
        )
    };
    let has_key = sections.iter().any(|(kind, _)| is_key(*kind));
    let certificates: Vec<_> = sections
        .into_iter()
        .filter_map(|(kind, der)| CertificateDer::from_pem(kind, der))
        .collect();
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    Err(if has_key {
        Error::new(
            tried(),
            invalid("it holds a private key and no certificate"),
        )
        .with_remedy("check the order of the files: the certificate comes before the key")
    } else {
        Error::new(tried(), invalid("it holds no certificate"))
            .with_remedy("a PEM file with -----BEGIN CERTIFICATE----- is needed")
    })
}

/// Reads the private key of a file.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let tried = || format!("read the TLS key {}", path.display());
    let (sections, text) = read(path).tried(tried)?;
    let has_certificate = sections
        .iter()
        .any(|(kind, _)| *kind == SectionKind::Certificate);
    let mut keys = sections
        .into_iter()
        .filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    if let Some(key) = keys.next() {
        return Ok(key);
    }
    let is_encrypted = text.contains("ENCRYPTED");
    Err(if is_encrypted {
        Error::new(tried(), invalid("the key is encrypted"))
            .with_remedy("decrypt it: openssl pkey -in FILE -out PLAIN")
    } else if has_certificate {
        Error::new(
            tried(),
            invalid("it holds a certificate and no private key"),
        )
        .with_remedy("check the order of the files: the certificate comes before the key")
    } else {
        Error::new(tried(), invalid("it holds no private key"))
            .with_remedy("a PEM file with -----BEGIN PRIVATE KEY----- is needed")
    })
}

/// Reads the sections of a PEM file, and its text.
fn read(path: &Path) -> io::Result<(Vec<Section>, String)> {
    let mut bytes = Vec::new();
    let count = File::open(path)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)?;
    if count as u64 > FILE_MAX {
        return Err(invalid("it is larger than 4 MiB"));
    }
    if bytes.is_empty() {
        return Err(invalid("the file is empty"));
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let sections = <Section as PemObject>::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let sections = sections.map_err(|err| invalid(format!("malformed PEM: {err}")))?;
    Ok((sections, text))
}

pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}
