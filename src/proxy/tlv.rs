//! The TLVs behind the addresses of a header of version 2: what else a proxy says of its client.

use crate::proxy::header::Malformed;

/// The type of a TLV, or of a part of the TLV [`TLS`](Self::TLS): those that the specification names, or any other
/// number. `Kind(0xe0)` to `Kind(0xef)` are for one's own use.
///
/// # Examples
///
/// ```
/// use socketserver::net::Accepted;
/// use socketserver::proxied::Kind;
///
/// fn network_namespace(accepted: &impl Accepted) -> Option<&[u8]> {
///     accepted.proxy_header()?.tlv(Kind::NETNS)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the type is a byte")]
pub struct Kind(
    /// The byte that is sent.
    pub u8,
);

impl Kind {
    /// The protocol that the client has agreed on (RFC 7301).
    pub const ALPN: Self = Self(0x01);
    /// The host name that the client has asked for (RFC 6066), in UTF-8.
    pub const AUTHORITY: Self = Self(0x02);
    /// The checksum of the header.
    pub const CRC32C: Self = Self(0x03);
    /// Padding.
    pub const NOOP: Self = Self(0x04);
    /// An identifier of the connection, of at most 128 bytes.
    pub const UNIQUE_ID: Self = Self(0x05);
    /// The TLS between the client and the proxy.
    pub const TLS: Self = Self(0x20);
    /// Within `TLS`: the version, such as `TLSv1.3`.
    pub const TLS_VERSION: Self = Self(0x21);
    /// Within `TLS`: the common name in the client's certificate.
    pub const TLS_COMMON_NAME: Self = Self(0x22);
    /// Within `TLS`: the cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub const TLS_CIPHER: Self = Self(0x23);
    /// Within `TLS`: the algorithm of the signature in the proxy's certificate, such as `SHA256`.
    pub const TLS_SIGNATURE: Self = Self(0x24);
    /// Within `TLS`: the algorithm of the key in the proxy's certificate, such as `RSA2048`.
    pub const TLS_KEY: Self = Self(0x25);
    /// Within `TLS`: the group of the key exchange, such as `secp256r1`.
    pub const TLS_GROUP: Self = Self(0x26);
    /// Within `TLS`: the signature scheme, such as `rsa_pss_rsae_sha256`.
    pub const TLS_SCHEME: Self = Self(0x27);
    /// Within `TLS`: the client's certificate, in DER.
    pub const TLS_CERTIFICATE: Self = Self(0x28);
    /// The name of the proxy's network namespace.
    pub const NETNS: Self = Self(0x30);
}

/// The TLS between a client and its proxy, as the proxy reports it.
///
/// # Examples
///
/// ```
/// use socketserver::net::Accepted;
///
/// /// The name in the client's certificate, if the proxy has verified that.
/// fn user(accepted: &impl Accepted) -> Option<String> {
///     let tls = accepted.proxy_header()?.tls()?;
///     tls.is_verified().then(|| tls.common_name().map(str::to_owned))?
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    flags: u8,
    verify: u32,
    /// The parts, as they are sent.
    parts: Vec<u8>,
}

/// The client has connected over TLS.
const OVER_TLS: u8 = 1;
/// The client has sent a certificate over this connection.
const CERTIFICATE: u8 = 2;
/// The client has sent a certificate in this session.
const CERTIFICATE_IN_SESSION: u8 = 4;

impl ClientTls {
    /// A client that has connected over TLS, without a certificate.
    #[must_use]
    pub fn new() -> Self {
        Self {
            flags: OVER_TLS,
            verify: 1,
            parts: Vec::new(),
        }
    }

    /// Reports a certificate of the client that was verified: its common name.
    #[must_use]
    pub fn with_client(mut self, common_name: &str) -> Self {
        self.flags |= CERTIFICATE | CERTIFICATE_IN_SESSION;
        self.verify = 0;
        self.with(Kind::TLS_COMMON_NAME, common_name.as_bytes())
    }

    /// Adds a part, such as [`TLS_VERSION`](Kind::TLS_VERSION). More than 65,535 bytes are cut off.
    #[must_use]
    pub fn with(mut self, kind: Kind, value: &[u8]) -> Self {
        put(&mut self.parts, kind, value);
        self
    }

    /// Returns whether the client has connected to the proxy over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.flags & OVER_TLS != 0
    }

    /// Returns whether the client has shown a certificate, over this connection or an earlier one of its session.
    #[must_use]
    pub const fn has_certificate(&self) -> bool {
        self.flags & (CERTIFICATE | CERTIFICATE_IN_SESSION) != 0
    }

    /// Returns whether the client has shown a certificate that the proxy has verified.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        self.has_certificate() && self.verify == 0
    }

    /// Returns the version of TLS, such as `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.text(Kind::TLS_VERSION)
    }

    /// Returns the common name in the client's certificate.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.text(Kind::TLS_COMMON_NAME)
    }

    /// Returns the cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    #[must_use]
    pub fn cipher(&self) -> Option<&str> {
        self.text(Kind::TLS_CIPHER)
    }

    /// Returns a part by its [`Kind`].
    #[must_use]
    pub fn part(&self, kind: Kind) -> Option<&[u8]> {
        find(&self.parts, kind)
    }

    fn text(&self, kind: Kind) -> Option<&str> {
        std::str::from_utf8(self.part(kind)?).ok()
    }

    fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let (head, parts) = value
            .split_first_chunk::<5>()
            .ok_or(Malformed("its TLS field is too short"))?;
        let [flags, verify @ ..] = *head;
        check(parts, &mut |_, _, _| Ok(()))?;
        Ok(Self {
            flags,
            verify: u32::from_be_bytes(verify),
            parts: parts.to_vec(),
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let verify = self.verify.to_be_bytes();
        [&[self.flags], &verify[..], &self.parts].concat()
    }
}

/// Appends a TLV.
pub(super) fn put(out: &mut Vec<u8>, kind: Kind, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.push(kind.0);
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

/// The first TLV of a kind, of bytes that were checked.
pub(super) fn find(bytes: &[u8], kind: Kind) -> Option<&[u8]> {
    let mut found = None;
    let _ = check(bytes, &mut |one, _, value| {
        if one == kind {
            found.get_or_insert(value);
        }
        Ok(())
    });
    found
}

pub(super) fn tls(bytes: &[u8]) -> Option<ClientTls> {
    ClientTls::parse(find(bytes, Kind::TLS)?).ok()
}

/// Calls `each` with the type, the place and the value of every TLV.
///
/// # Errors
///
/// A TLV is longer than the bytes; or the error of `each`.
fn check<'a>(
    all: &'a [u8],
    each: &mut dyn FnMut(Kind, usize, &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut bytes = all;
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let [kind, len @ ..] = *head;
        let len = usize::from(u16::from_be_bytes(len));
        let at = all.len() - rest.len();
        let (value, rest) = rest
            .split_at_checked(len)
            .ok_or(Malformed("a TLV is longer than the header"))?;
        each(Kind(kind), at, value)?;
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(Malformed("its last TLV is cut off"))
    }
}

/// Checks all TLVs of a header, and returns where its checksum lies among them.
pub(super) fn validate(tlvs: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut sum = None;
    check(tlvs, &mut |kind, at, value| {
        match kind {
            Kind::AUTHORITY if std::str::from_utf8(value).is_err() => {
                return Err(Malformed("its authority is not UTF-8"));
            }
            Kind::UNIQUE_ID if value.len() > 128 => {
                return Err(Malformed("its unique id is longer than 128 bytes"));
            }
            Kind::CRC32C if value.len() != 4 || sum.is_some() => {
                return Err(Malformed("its checksum is not one TLV of 4 bytes"));
            }
            Kind::CRC32C => sum = Some(at),
            Kind::TLS => drop(ClientTls::parse(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(sum)
}
