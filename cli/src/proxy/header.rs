//! The PROXY headers that are sent to upstreams.

use std::io;

use socketserver::Connection;
use socketserver::net::{Accepted, Address};
use socketserver::proxied::{ClientTls, Header, Kind, Version};
use socketserver::tls::{TlsLayer, Version as TlsVersion};

/// Makes the headers of one version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers(pub(crate) Version);

impl Headers {
    /// The header for a client: the addresses that a header of its own has named, or else those of its connection.
    pub(crate) fn of(
        self,
        client: &impl Connection,
        tls: Option<ClientTls>,
    ) -> io::Result<Vec<u8>> {
        let header = between(client, &client.local_addr()?);
        match self.0 {
            Version::V1 => {
                // Version 1 has no Unix addresses.
                let inet =
                    |addr: Option<&Address>| addr.is_some_and(|addr| addr.socket_addr().is_some());
                if inet(header.source()) {
                    header.to_v1()
                } else {
                    Ok(UNKNOWN.to_vec())
                }
            }
            Version::V2 => match tls {
                Some(tls) => header.with_tls(&tls).to_v2(),
                None => header.to_v2(),
            },
        }
    }

    /// The header of a connection of the proxy itself.
    pub(crate) fn of_proxy(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Version::V1 => Ok(UNKNOWN.to_vec()),
            Version::V2 => Header::local().to_v2(),
        }
    }

    /// The header for a datagram, which has come to `local`.
    pub(crate) fn of_datagram(datagram: &impl Accepted, local: &Address) -> io::Result<Vec<u8>> {
        between(datagram, local).datagram().to_v2()
    }
}

/// The header of version 1 that names no client.
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

fn between(client: &impl Accepted, local: &Address) -> Header {
    Header::new(&client.peer(), local)
}

/// What the TLS of a client's connection says of it.
pub(crate) fn tls(layer: &TlsLayer) -> ClientTls {
    let mut tls = ClientTls::new();
    let chain = layer.peer_certificates();
    if let Some(certificate) = chain.first() {
        tls = tls.with_client(certificate.common_name().unwrap_or_default());
    }
    let version = match layer.version() {
        Some(TlsVersion::Tls12) => Some("TLSv1.2"),
        Some(TlsVersion::Tls13) => Some("TLSv1.3"),
        _ => None,
    };
    if let Some(version) = version {
        tls = tls.with(Kind::TLS_VERSION, version.as_bytes());
    }
    match layer.cipher_suite() {
        Some(cipher) => tls.with(Kind::TLS_CIPHER, cipher.as_bytes()),
        None => tls,
    }
}
