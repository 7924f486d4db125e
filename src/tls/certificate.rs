//! What a certificate says: its subject, its names, its dates, its fingerprint.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// An X.509 certificate (RFC 5280), read.
///
/// A [`TlsLayer`](crate::tls::TlsLayer) returns those of its peer, whose chain the handshake has
/// verified; a [rule](crate::tls::TlsBuilder::client_rule) judges one.
///
/// # Examples
///
/// A rule that admits one client by its common name, and every client of one host.
///
/// ```
/// use socketserver::tls::{Certificate, Name};
///
/// fn admits(client: &Certificate) -> bool {
///     let host = Name::Dns("backup.example.org".to_owned());
///     client.common_name() == Some("alice") || client.names().contains(&host)
/// }
/// ```
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: String,
    common_name: Option<String>,
    names: Vec<Name>,
    not_before: Duration,
    not_after: Duration,
}

/// A subject alternative name of a certificate (RFC 5280, section 4.2.1.6).
///
/// # Examples
///
/// ```
/// use socketserver::tls::{Certificate, Name};
///
/// fn addresses(certificate: &Certificate) -> usize {
///     certificate.names().iter().filter(|name| matches!(name, Name::Address(_))).count()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Name {
    /// A host name, in lower case; the first label may be `*`.
    Dns(String),
    /// A mail address.
    Email(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// An IP address.
    Address(IpAddr),
}

impl Certificate {
    /// Reads a certificate from its DER form. Verifies no signature.
    ///
    /// # Errors
    ///
    /// `InvalidData`: the bytes are not a certificate.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::tls::Certificate;
    ///
    /// let err = Certificate::from_der(b"no certificate").unwrap_err();
    /// assert_eq!(err.kind(), std::io::ErrorKind::InvalidData);
    /// ```
    pub fn from_der(der: &[u8]) -> io::Result<Self> {
        let malformed = |err: x509_cert::der::Error| {
            let text = format!("malformed certificate: {err}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let certificate = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let fields = certificate.tbs_certificate();
        let common_name = fields.subject().common_name().map_err(malformed)?;
        let names = fields
            .get_extension::<SubjectAltName>()
            .map_err(malformed)?
            .map_or_else(Vec::new, |(_, names)| names.0);
        let validity = fields.validity();
        Ok(Self {
            der: CertificateDer::from(der.to_vec()),
            subject: fields.subject().to_string(),
            common_name: common_name.map(|name| name.value().into_owned()),
            names: names.iter().filter_map(Name::read).collect(),
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
        })
    }

    /// Returns the subject as text (RFC 4514), such as `CN=alice,O=Example`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the common name of the subject.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Returns the subject alternative names, without those of other kinds than [`Name`] has.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// Returns the time from which the certificate is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        UNIX_EPOCH + self.not_before
    }

    /// Returns the time until which the certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + self.not_after
    }

    /// Returns the SHA-256 digest of the certificate, as 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, &self.der);
        let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        digits.collect()
    }

    /// Returns the certificate in its DER form.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Fails if the certificate is not valid at `now`.
    pub(super) fn check_dates(&self, now: SystemTime) -> io::Result<()> {
        let date = |since_1970| x509_cert::der::DateTime::from_unix_duration(since_1970);
        let text = if now > self.not_after() {
            date(self.not_after).map(|date| format!("it expired at {date}"))
        } else if now < self.not_before() {
            date(self.not_before).map(|date| format!("it is not valid before {date}"))
        } else {
            return Ok(());
        };
        let text = text.unwrap_or_else(|_| "it is not valid now".to_owned());
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Whether the certificate is for a host.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        // A wildcard stands for one label (RFC 9525, section 6.3).
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name {
            Name::Dns(name) => match name.strip_prefix("*.") {
                Some(domain) => parent == Some(domain),
                None => *name == host,
            },
            _ => false,
        })
    }
}

impl Name {
    fn read(name: &GeneralName) -> Option<Self> {
        match name {
            GeneralName::DnsName(name) => Some(Self::Dns(name.as_str().to_ascii_lowercase())),
            GeneralName::Rfc822Name(name) => Some(Self::Email(name.as_str().to_owned())),
            GeneralName::UniformResourceIdentifier(uri) => Some(Self::Uri(uri.as_str().to_owned())),
            GeneralName::IpAddress(bytes) => {
                let bytes = bytes.as_bytes();
                let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
                let v6 = <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into());
                v4.or(v6).ok().map(Self::Address)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_is_read() {
        let mut params = CertificateParams::new(["Example.org".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "alice");
        let address = IpAddr::from([127, 0, 0, 1]);
        params.subject_alt_names.push(SanType::IpAddress(address));
        let key = KeyPair::generate().unwrap();
        let signed = params.self_signed(&key).unwrap();
        let read = Certificate::from_der(signed.der()).unwrap();
        assert_eq!(read.common_name(), Some("alice"));
        assert!(read.subject().contains("CN=alice"), "{}", read.subject());
        assert_eq!(
            read.names(),
            [Name::Dns("example.org".to_owned()), Name::Address(address)]
        );
        assert_eq!(read.fingerprint().len(), 64);
        assert_eq!(read.der(), signed.der().as_ref());
        read.check_dates(SystemTime::now()).unwrap();
        let late = read.not_after() + Duration::from_secs(1);
        let err = read.check_dates(late).unwrap_err().to_string();
        assert!(err.starts_with("it expired at "), "{err}");
        let early = read.not_before() - Duration::from_secs(1);
        let err = read.check_dates(early).unwrap_err().to_string();
        assert!(err.starts_with("it is not valid before "), "{err}");
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = ["*.example.org".to_owned(), "example.net".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::from_der(signed.der()).unwrap();
        for host in ["a.example.org", "A.EXAMPLE.ORG", "example.net"] {
            assert!(read.is_for(host), "{host}");
        }
        for host in ["example.org", "a.b.example.org", "a.example.net", ""] {
            assert!(!read.is_for(host), "{host}");
        }
    }
}
