//! TLS over any stream transport (feature `tls`): [`Tls<T>`](Tls) for servers, [`Connector`] for
//! connections to other servers. [The manual](crate::manual::tls) has a page about it.
//!
//! The protocol is that of the crate `rustls`: TLS 1.2 and 1.3, without renegotiation, compression
//! and early data, and with the cryptography of `ring`.

pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod clients;
pub(crate) mod config;
pub(crate) mod files;
pub(crate) mod halves;
pub(crate) mod layer;
pub(crate) mod reload;
pub(crate) mod session;
mod shared;
pub(crate) mod tickets;

pub use certificate::{Certificate, Name};
pub use client::{Connector, ConnectorBuilder};
pub use config::{TlsBuilder, Version};
pub use layer::{Tls, TlsConnection, TlsLayer};
pub use reload::TlsConfig;
