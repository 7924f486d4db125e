//! Addresses of listeners and peers, of every address family.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

/// The address of a peer or of a listener.
///
/// # Examples
///
/// ```
/// use socketserver::net::Address;
///
/// let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
/// assert_eq!(address.to_string(), "127.0.0.1:80");
/// assert_eq!(address.port(), Some(80));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IPv4 or IPv6 address and a port.
    Inet(SocketAddr),
    /// An address of a Unix socket.
    Unix(UnixAddress),
    /// A name that a custom transport gives to a peer; `Display` escapes it like a path.
    Named(String),
}

/// The address of a Unix socket (unix(7), "Address format").
///
/// Strings and paths convert to [`UnixAddress::Path`].
///
/// A peer chooses its own name, so `Display` escapes it: control characters, characters that change
/// the direction of text, backslashes, and bytes that are not UTF-8; in abstract names also all
/// characters beyond ASCII.
///
/// # Examples
///
/// ```
/// use socketserver::net::UnixAddress;
///
/// let address = UnixAddress::from("/run/echo.sock");
/// assert_eq!(address.path(), Some("/run/echo.sock".as_ref()));
/// assert_eq!(UnixAddress::Abstract(b"echo".to_vec()).to_string(), "@echo");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnixAddress {
    /// A socket that was never bound: it receives replies over its connection, but no datagrams.
    Unnamed,
    /// A file in the file system. The path has at most 107 bytes.
    Path(PathBuf),
    /// A name in the abstract namespace, without its leading NUL: at most 107 bytes. Linux only.
    Abstract(Vec<u8>),
}

impl Address {
    /// Returns the IP address of an internet address.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Inet(addr) => Some(addr.ip()),
            Self::Unix(_) | Self::Named(_) => None,
        }
    }

    /// Returns the port of an internet address.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Inet(addr) => Some(addr.port()),
            Self::Unix(_) | Self::Named(_) => None,
        }
    }

    /// Returns the socket address of an internet address.
    #[must_use]
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(addr) => Some(*addr),
            Self::Unix(_) | Self::Named(_) => None,
        }
    }

    pub(crate) fn from_sock_addr(addr: &SockAddr) -> Self {
        if let Some(inet) = addr.as_socket() {
            return Self::Inet(inet);
        }
        Self::Unix(if let Some(path) = addr.as_pathname() {
            UnixAddress::Path(path.to_owned())
        } else if let Some(name) = addr.as_abstract_namespace() {
            UnixAddress::Abstract(name.to_owned())
        } else {
            UnixAddress::Unnamed
        })
    }

    /// The address in the kernel's form; `None` for an address that no datagram can be sent to.
    pub(crate) fn to_sock_addr(&self) -> Option<std::io::Result<SockAddr>> {
        match self {
            Self::Inet(addr) => Some(Ok(SockAddr::from(*addr))),
            Self::Unix(addr) => addr.to_sock_addr(),
            Self::Named(_) => None,
        }
    }
}

impl UnixAddress {
    /// Returns the path of a socket in the file system.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Unnamed | Self::Abstract(_) => None,
        }
    }

    pub(crate) fn to_sock_addr(&self) -> Option<std::io::Result<SockAddr>> {
        match self {
            Self::Unnamed => None,
            Self::Path(path) => Some(SockAddr::unix(path)),
            // A leading NUL marks an abstract name (unix(7)).
            Self::Abstract(name) => {
                let mut raw = vec![0];
                raw.extend_from_slice(name);
                Some(SockAddr::unix(OsStr::from_bytes(&raw)))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => addr.fmt(f),
            Self::Unix(addr) => addr.fmt(f),
            Self::Named(name) => f.pad(&escaped(name.as_bytes())),
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => f.write_str("(unnamed)"),
            Self::Path(path) => f.pad(&escaped(path.as_os_str().as_bytes())),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

/// A name that a peer has chosen, escaped for a line of text.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            // Writing to a string does not fail.
            let _ = match character {
                '\\' => write!(text, "\\\\"),
                '\0'..='\x1f' | '\x7f' => write!(text, "{}", (character as u8).escape_ascii()),
                _ if character.is_control() || is_layout(character) => {
                    write!(text, "{}", character.escape_unicode())
                }
                _ => text.write_char(character),
            };
        }
        let _ = write!(text, "{}", chunk.invalid().escape_ascii());
    }
    text
}

/// Whether a character ends the line, or changes the direction of the text around it (Unicode
/// Standard Annex 9).
const fn is_layout(character: char) -> bool {
    matches!(
        character,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Inet(addr)
    }
}

impl From<UnixAddress> for Address {
    fn from(addr: UnixAddress) -> Self {
        Self::Unix(addr)
    }
}

impl From<&Self> for UnixAddress {
    fn from(addr: &Self) -> Self {
        addr.clone()
    }
}

impl From<&str> for UnixAddress {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<&Path> for UnixAddress {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for UnixAddress {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&PathBuf> for UnixAddress {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: UnixAddress) {
        let raw = address.to_sock_addr().unwrap().unwrap();
        assert_eq!(Address::from_sock_addr(&raw), Address::Unix(address));
    }

    #[test]
    fn unix_addresses_survive_the_kernel_form() {
        check(UnixAddress::from("/run/a socket"));
        check(UnixAddress::Abstract(b"name".to_vec()));
        check(UnixAddress::Abstract(b"with\0nul".to_vec()));
        check(UnixAddress::Abstract(vec![b'x'; 107]));
    }

    #[test]
    fn addresses_that_do_not_fit_are_errors() {
        assert!(
            UnixAddress::from(PathBuf::from("x".repeat(108)))
                .to_sock_addr()
                .unwrap()
                .is_err()
        );
        assert!(
            UnixAddress::Abstract(vec![b'x'; 108])
                .to_sock_addr()
                .unwrap()
                .is_err()
        );
        assert!(UnixAddress::Unnamed.to_sock_addr().is_none());
    }

    #[test]
    fn display_is_what_people_type() {
        assert_eq!(UnixAddress::from("/a/b").to_string(), "/a/b");
        assert_eq!(
            UnixAddress::Abstract(b"a\nb".to_vec()).to_string(),
            "@a\\nb"
        );
        assert_eq!(
            Address::Named("memory#1".to_owned()).to_string(),
            "memory#1"
        );
    }

    #[test]
    fn names_that_peers_choose_stay_on_their_line() {
        let shown = |path: &[u8]| UnixAddress::from(Path::new(OsStr::from_bytes(path))).to_string();
        let same = "/run/Łódź 東京/it's \"e\u{301}\"?.sock";
        assert_eq!(shown(same.as_bytes()), same);
        assert_eq!(shown(b"/a\nb\r\t\x1b[31m\x7f"), r"/a\nb\r\t\x1b[31m\x7f");
        assert_eq!(shown(br"/a\nb"), r"/a\\nb");
        assert_eq!(shown(b"/\xff\xc3/\xc3\xa9"), r"/\xff\xc3/é");
        assert_eq!(
            shown("/\u{85}\u{202e}\u{2028}".as_bytes()),
            r"/\u{85}\u{202e}\u{2028}"
        );
        let named = Address::Named("peer\nsocketserver: forged".to_owned());
        assert_eq!(named.to_string(), r"peer\nsocketserver: forged");
        assert_eq!(format!("{:>4}|", UnixAddress::from("/a")), "  /a|");
    }
}
