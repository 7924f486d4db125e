//! The headers of the PROXY protocol, versions 1 and 2: parsed and written. A proxy sends one before the bytes of
//! its client, and names the client in it.
//!
//! The format is that of `doc/proxy-protocol.txt` in HAProxy's sources. The parser is written here because it has to
//! refuse what the specification forbids: a header says who the client is. Two crates were tried first, `ppp` 2.3.0
//! and `proxy-header` 0.1.3. Both take a version 1 port with a sign, refuse LOCAL headers for their address family,
//! and check neither the checksum nor, when they parse the header, its TLVs.

pub(crate) mod crc32c;
pub(crate) mod header;
pub(crate) mod tlv;
pub(crate) mod v1;
pub(crate) mod v2;
