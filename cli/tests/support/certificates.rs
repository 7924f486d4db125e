//! Certificates in files, for tests with TLS.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A folder with an authority, `ca.pem` and `ca.key`, and the certificates that it has issued.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Files {
    /// With a certificate for `localhost`: `server.pem` and `server.key`.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        fs::write(folder.path().join("ca.pem"), pem).expect("write");
        fs::write(folder.path().join("ca.key"), key.serialize_pem()).expect("write");
        let issuer = Issuer::new(params, key);
        let files = Self { folder, issuer };
        files.issue("server", "localhost");
        files
    }

    /// Issues a certificate for a name: `FILE.pem` and `FILE.key`.
    pub(crate) fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).expect("write");
        fs::write(self.path(&format!("{file}.pem")), certificate.pem()).expect("write");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
