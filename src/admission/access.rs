//! Who may connect: networks, users and groups, as a program sets them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The rules for who may connect: by network, and on Unix sockets by user and group.
///
/// [`Builder::access`](crate::Builder::access) sets them,
/// [`ServerHandle::set_access`](crate::ServerHandle::set_access) changes them while the server
/// serves. A server closes a connection that the rules do not admit as soon as it has accepted it,
/// sends it nothing, and returns its permit; it drops such a datagram. Behind a [trusted proxy](crate::proxied)
/// the server judges a client when the header has named it.
///
/// # Networks
///
/// They are for peers that have an IP address:
///
/// - Of all networks that contain the address, the most specific decides. If that network was both allowed
///   and denied, the address is denied.
/// - An address in none of the networks is admitted if `allow` was never called, and denied
///   otherwise.
/// - An IPv4 address is judged by IPv4 networks alone, also in its IPv6 form (`::ffff:192.0.2.1`),
///   in which a listener on `[::]` sees it. An IPv6 address is judged by IPv6 networks alone, its
///   zone left out.
///
/// # Users and groups
///
/// They are for peers on Unix sockets (unix(7), `SO_PEERCRED`):
///
/// - A peer is admitted if neither `allow_users` nor `allow_groups` was called, if its user was
///   allowed, or if its group or one of its supplementary groups was.
/// - User 0 needs to be allowed like any other.
/// - A datagram says nothing of its user: the server drops all datagrams of Unix sockets once users
///   or groups are allowed.
/// - Behind a proxy, the peer is the proxy, whomever its header names.
/// - A user or group that this process's user namespace does not know is `65534`
///   (user_namespaces(7)).
///
/// # Examples
///
/// ```
/// use socketserver::access::{Access, Network};
/// use socketserver::{Server, Tcp, Threading};
///
/// let home: Network = "192.168.0.0/16".parse().unwrap();
/// let guests: Network = "192.168.7.0/24".parse().unwrap();
/// let server = Server::<Tcp, Threading>::builder()
///     .access(Access::new().allow([home]).deny([guests]))
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Access {
    pub(crate) allowed: Option<Vec<Network>>,
    pub(crate) denied: Vec<Network>,
    pub(crate) users: Option<Vec<u32>>,
    pub(crate) groups: Option<Vec<u32>>,
}

impl Access {
    /// The most networks that can be allowed and denied.
    pub const NETWORKS_MAX: usize = 100_000;
    /// The most users that can be allowed, and the most groups.
    pub const USERS_MAX: usize = 4096;

    /// Returns rules that admit every peer.
    pub const fn new() -> Self {
        Self {
            allowed: None,
            denied: Vec::new(),
            users: None,
            groups: None,
        }
    }

    /// Allows networks; further calls allow further ones. From the first call on, addresses in none
    /// of the networks are denied, even if it allows nothing.
    pub fn allow(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.allowed.get_or_insert_default().extend(networks);
        self
    }

    /// Denies networks; further calls deny further ones.
    pub fn deny(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.denied.extend(networks);
        self
    }

    /// Allows users, by their ids; further calls allow further ones. From the first call on, other
    /// users are denied, unless their groups are allowed.
    pub fn allow_users(mut self, uids: impl IntoIterator<Item = u32>) -> Self {
        self.users.get_or_insert_default().extend(uids);
        self
    }

    /// Allows the members of groups, by the ids of these; further calls allow further ones. From the
    /// first call on, other users are denied, unless they are allowed themselves.
    pub fn allow_groups(mut self, gids: impl IntoIterator<Item = u32>) -> Self {
        self.groups.get_or_insert_default().extend(gids);
        self
    }

    /// Returns an error if there are too many rules.
    pub(crate) fn check(&self) -> io::Result<()> {
        let len = |list: &Option<Vec<u32>>| list.as_ref().map_or(0, Vec::len);
        let networks = self.allowed.as_ref().map_or(0, Vec::len) + self.denied.len();
        let counts = [
            ("networks", networks, Self::NETWORKS_MAX),
            ("users", len(&self.users), Self::USERS_MAX),
            ("groups", len(&self.groups), Self::USERS_MAX),
        ];
        match counts.into_iter().find(|(_, count, max)| count > max) {
            None => Ok(()),
            Some((what, count, max)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the access rules have {count} {what}, but at most {max} are possible"),
            )),
        }
    }
}

/// A network of IP addresses (CIDR, RFC 4632): `192.0.2.0/24`, `2001:db8::/32`.
///
/// A text without a prefix is one address. An IPv4 network that is written as an IPv6 one
/// (`::ffff:192.0.2.0/120`) is the IPv4 network.
///
/// # Examples
///
/// ```
/// use socketserver::access::Network;
///
/// let network: Network = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.7".parse().unwrap()));
/// assert!(network.contains("::ffff:192.0.2.7".parse().unwrap()));
/// assert!("192.0.2.7/24".parse::<Network>().is_err(), "bits beyond the prefix");
/// # Ok::<(), socketserver::access::NetworkError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Not an IPv4 address in IPv6 form.
    address: IpAddr,
    prefix: u8,
}

/// The length of the prefix of IPv4 addresses in IPv6 form, `::ffff:0:0/96` (RFC 4291).
const MAPPED: u8 = 96;

impl Network {
    /// Returns the network of the addresses whose first `prefix` bits are those of `address`.
    ///
    /// # Errors
    ///
    /// - The prefix is longer than an address.
    /// - The address has bits beyond the prefix.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let text = || format!("{address}/{prefix}");
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(NetworkError::new(
                &text(),
                format!("the prefix is at most {bits}"),
            ));
        }
        let network = match (address.to_canonical(), address) {
            (IpAddr::V4(v4), IpAddr::V6(_)) if prefix >= MAPPED => Self {
                address: v4.into(),
                prefix: prefix - MAPPED,
            },
            _ => Self { address, prefix },
        };
        let first = network.bits() & network.mask();
        if first != network.bits() {
            let network = Self {
                address: match network.address {
                    IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
                    IpAddr::V6(_) => IpAddr::V6(first.into()),
                },
                ..network
            };
            let what = format!("the address has bits beyond the prefix; write {network}");
            return Err(NetworkError::new(&text(), what));
        }
        Ok(network)
    }

    /// Reads a list: a network or an address on each line. Blank lines, and what follows a `#` or a
    /// `;`, are left out.
    ///
    /// # Errors
    ///
    /// A line is no network. The error has its number.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::access::Network;
    ///
    /// let networks = Network::list("# offices\n192.0.2.0/24\n2001:db8::1 ; the gate\n")?;
    /// assert_eq!(networks.len(), 2);
    /// let err = Network::list("\n192.0.2.0/33\n").unwrap_err();
    /// assert_eq!(err.to_string(), r#"line 2: "192.0.2.0/33": the prefix is at most 32"#);
    /// # Ok::<(), socketserver::access::NetworkError>(())
    /// ```
    pub fn list(text: &str) -> Result<Vec<Self>, NetworkError> {
        let mut networks = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
            if !entry.is_empty() {
                let network = entry
                    .parse()
                    .map_err(|err: NetworkError| err.on_line(index + 1));
                networks.push(network?);
            }
        }
        Ok(networks)
    }

    /// Returns whether the network contains an address.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let first = Self {
            address: ip,
            ..self
        };
        ip.is_ipv4() == self.address.is_ipv4() && first.bits() & self.mask() == self.bits()
    }

    /// Returns the first address of the network.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Returns how many first bits of its addresses are the same.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    fn bits(self) -> u128 {
        match self.address {
            IpAddr::V4(v4) => u32::from(v4).into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }

    fn mask(self) -> u128 {
        match self.address {
            IpAddr::V4(_) => u128::from(
                u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0),
            ),
            IpAddr::V6(_) => u128::MAX
                .checked_shl(128 - u32::from(self.prefix))
                .unwrap_or(0),
        }
    }

    /// The first and the last of its addresses, as [`position`] has them.
    pub(super) fn range(self) -> (u128, u128) {
        let first = position(self.address);
        let size = match self.address {
            IpAddr::V4(_) => u128::from(u32::MAX) & !self.mask(),
            IpAddr::V6(_) => !self.mask(),
        };
        (first, first | size)
    }
}

/// An address among all addresses: an IPv4 address in its IPv6 form.
pub(super) fn position(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The positions of the first and the last IPv4 address.
pub(super) fn mapped() -> (u128, u128) {
    let all = |bits: u16| u128::from(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, bits, bits));
    (all(0), all(u16::MAX))
}

impl From<IpAddr> for Network {
    /// The network of one address.
    fn from(ip: IpAddr) -> Self {
        let address = ip.to_canonical();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            let form = "a network is an address, or the first address and the length of its prefix: 192.0.2.0/24";
            NetworkError::new(text, form.to_owned())
        })?;
        let Some(prefix) = prefix else {
            return Ok(address.into());
        };
        // `u8` would take a sign, and the field knows no leading zeros.
        let is_number = prefix == "0"
            || !prefix.starts_with('0') && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| is_number).ok_or_else(|| {
            let what = "the prefix is a number of bits, without a sign or leading zeros";
            NetworkError::new(text, what.to_owned())
        })?;
        Self::new(address, prefix)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why a text is no [`Network`]: what was read, and what is wrong with it.
///
/// # Examples
///
/// ```
/// use socketserver::access::Network;
///
/// let err = "192.0.2.1/24".parse::<Network>().unwrap_err();
/// assert!(err.to_string().ends_with("write 192.0.2.0/24"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkError {
    line: Option<usize>,
    text: String,
    what: String,
}

/// The longest part of a wrong text that its error shows, in characters: the longest IPv6 network.
const SHOWN: usize = 49;

impl NetworkError {
    fn new(text: &str, what: String) -> Self {
        let text = text.chars().take(SHOWN).collect();
        Self {
            line: None,
            text,
            what,
        }
    }

    fn on_line(self, line: usize) -> Self {
        Self {
            line: Some(line),
            ..self
        }
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{:?}: {}", self.text, self.what)
    }
}

impl std::error::Error for NetworkError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, shown) in [
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.128/25", "192.0.2.128/25"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("2001:DB8:0:0::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let network = text.parse::<Network>().unwrap();
            assert_eq!(network.to_string(), shown);
            assert_eq!(shown.parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_says_why() {
        for (text, why) in [
            ("", "a network is an address"),
            ("/8", "a network is an address"),
            ("10/8", "a network is an address"),
            ("010.0.0.0/8", "a network is an address"),
            ("fe80::1%eth0", "a network is an address"),
            ("[::1]/128", "a network is an address"),
            ("localhost", "a network is an address"),
            ("10.0.0.0/", "a number of bits"),
            ("10.0.0.0/+8", "a number of bits"),
            ("10.0.0.0/08", "a number of bits"),
            ("10.0.0.0/8/8", "a number of bits"),
            ("10.0.0.0/256", "a number of bits"),
            ("10.0.0.0/255.0.0.0", "a number of bits"),
            ("10.0.0.0/33", "at most 32"),
            ("::/129", "at most 128"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("::ffff:10.0.0.1/104", "write 10.0.0.0/8"),
            ("::ffff:0:0/95", "write ::fffe:0:0/95"),
        ] {
            let err = text.parse::<Network>().unwrap_err().to_string();
            assert!(err.contains(why), "{text}: {err}");
        }
        let long = "x".repeat(10_000).parse::<Network>().unwrap_err();
        assert!(long.to_string().len() < 300);
    }

    #[test]
    fn a_network_contains_its_addresses() {
        let contains = |network: &str, ip: &str| {
            let network = network.parse::<Network>().unwrap();
            network.contains(ip.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("::/0", "::1") && !contains("::/0", "10.0.0.1"));
        assert!(contains("0.0.0.0/0", "255.255.255.255") && !contains("0.0.0.0/0", "::"));
        assert!(contains("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!contains("2001:db8::/33", "2001:db8:8000::1"));
    }

    #[test]
    fn a_list_has_comments_and_says_which_line_is_wrong() {
        let text = "# spam\r\n\r\n 192.0.2.0/24 \n198.51.100.7;SBL1 # x\n;\n::1";
        let networks: Vec<_> = Network::list(text)
            .unwrap()
            .iter()
            .map(Network::to_string)
            .collect();
        assert_eq!(networks, ["192.0.2.0/24", "198.51.100.7/32", "::1/128"]);
        assert_eq!(Network::list(""), Ok(Vec::new()));
        let err = Network::list("::1\n\nx # y").unwrap_err().to_string();
        assert!(err.starts_with("line 3: \"x\": a network is"), "{err}");
    }

    #[test]
    fn too_many_rules_are_an_error() {
        let one = Network::from(IpAddr::from([192, 0, 2, 1]));
        let many = |count: usize| std::iter::repeat_n(one, count);
        let access = Access::new()
            .allow(many(1))
            .deny(many(Access::NETWORKS_MAX - 1));
        assert!(access.check().is_ok());
        let err = access.deny([one]).check().unwrap_err().to_string();
        assert!(
            err.contains("100001 networks") && err.contains("at most 100000"),
            "{err}"
        );
        let users = Access::new().allow_users(0..4097).check().unwrap_err();
        assert!(users.to_string().contains("4097 users"));
    }
}
