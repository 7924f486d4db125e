//! What the peers over TLS have in common, the library's among them.

use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::Result;
use bench_load::certificate_files;
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate of the runner, and tickets that no memory of sessions is needed for.
pub fn tls_config() -> Result<Arc<ServerConfig>> {
    let (certificate, key) = certificate_files()?;
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Sends back what it receives until the client ends, through a buffer of this size on the heap.
pub fn echo(stream: &mut (impl Read + Write), size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            count => stream.write_all(&buf[..count])?,
        }
    }
}
