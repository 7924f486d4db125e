//! TLS for the stream listeners: its options, and what they make of the listeners.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use socketserver::Error;
use socketserver::tls::{TlsConfig, Version};

use crate::log::say;

/// The options about TLS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct Tls {
    /// Speak TLS on every stream listener without ?tls=off, with this certificate chain: a PEM file,
    /// the server's own certificate first; once for each certificate, the client's SNI selects one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,
    /// The private key of the --tls-cert in the same place: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Demand a certificate of each client, issued by an authority in this PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// The lowest version of TLS: 1.2 or 1.3
    #[arg(long, value_name = "VERSION", default_value = "1.2", value_parser = version)]
    tls_min: Version,
}

/// How often the files are checked for changes, where clients come that often.
const CHECK: Duration = Duration::from_secs(1);

impl Tls {
    /// The first error among options that do not go together.
    pub(crate) const fn conflict(&self) -> Option<&'static str> {
        if self.tls_cert.len() == self.tls_key.len() {
            return None;
        }
        Some("--tls-cert and --tls-key come in pairs; give as many of one as of the other")
    }

    pub(crate) const fn is_on(&self) -> bool {
        !self.tls_cert.is_empty()
    }

    /// Reads the certificates and keys; `None` without any. Clients may choose one of the protocols.
    pub(crate) fn load(&self, protocols: &[&str]) -> Result<Option<TlsConfig>, Error> {
        if !self.is_on() {
            return Ok(None);
        }
        let mut options = TlsConfig::builder();
        for (certificate, key) in self.tls_cert.iter().zip(&self.tls_key) {
            options = options.certificate(certificate, key);
        }
        if let Some(authority) = &self.tls_client_ca {
            options = options.client_authority(authority);
        }
        options
            .min_version(self.tls_min)
            .alpn(protocols.iter().copied())
            .watch_files(CHECK)
            .on_reload(|result| match result {
                Ok(()) => say(format_args!("socketserver: the TLS files were read again")),
                Err(err) => say(format_args!(
                    "socketserver: {err}; the old certificates stay in use"
                )),
            })
            .build()
            .map(Some)
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        _ => Err("a version is 1.2 or 1.3".to_owned()),
    }
}
