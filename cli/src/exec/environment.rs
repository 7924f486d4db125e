//! The variables of programs: those of the server, and those of a connection by three conventions: UCSPI, systemd's
//! `Accept=yes`, and the variables of TLS that s6-tlsd sets.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::{OsStringValueParser, TypedValueParser};
use socketserver::Connection;
use socketserver::net::{Address, Either, SeqpacketConnection, UnixAddress};
use socketserver::tls::{Certificate, TlsLayer, Version};

use super::starter::MARK;
use crate::bind::Accepted;

/// A variable of `--env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    name: OsString,
    /// `None`: that of the server, if it has one.
    value: Option<OsString>,
}

/// Parses `NAME` or `NAME=VALUE`, of any bytes.
pub(crate) fn variables() -> impl TypedValueParser<Value = Variable> {
    OsStringValueParser::new().try_map(|text| variable(&text))
}

fn variable(text: &OsStr) -> Result<Variable, &'static str> {
    let mut parts = text.as_bytes().splitn(2, |byte| *byte == b'=');
    let mut part = || parts.next().map(|part| OsStr::from_bytes(part).to_owned());
    let name = part().filter(|name| !name.is_empty());
    let name = name.ok_or("a variable is NAME or NAME=VALUE")?;
    Ok(Variable {
        name,
        value: part(),
    })
}

impl Variable {
    /// The variable of the server.
    pub(crate) fn of_server(name: &str) -> Self {
        Self {
            name: name.into(),
            value: None,
        }
    }
}

/// Variables of the server that mean nothing to a program: what its service manager has told it.
const OWN: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "MAINPID",
    "MANAGERPID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SO_COOKIE",
];

/// The beginnings of variables that describe a connection, which a server inherits when it is itself started for one.
const CONNECTION: [&str; 11] = [
    "LISTEN_",
    "TCPLOCAL",
    "TCPREMOTE",
    "UNIXLOCAL",
    "UNIXREMOTE",
    "SSL_PROTOCOL",
    "SSL_CIPHER",
    "SSL_TLS_",
    "SSL_CLIENT_",
    "SSL_SERVER_",
    "REMOTE_",
];

/// Whether a variable of the server is kept from programs.
fn is_kept_from_programs(name: &[u8]) -> bool {
    OWN.iter().any(|own| name == own.as_bytes())
        || CONNECTION
            .iter()
            .any(|start| name.starts_with(start.as_bytes()))
        || [b"PROTO".as_slice(), NUMBER.as_bytes(), MARK.as_bytes()].contains(&name)
}

/// The variables that all programs of the server have.
pub(crate) fn of_server(clear: bool, variables: &[Variable]) -> Vec<CString> {
    let all = env::vars_os();
    let mut kept: Vec<(OsString, OsString)> = all
        .filter(|(name, _)| !clear && !is_kept_from_programs(name.as_bytes()))
        .collect();
    for Variable { name, value } in variables {
        kept.retain(|(other, _)| other != name);
        let value = value.clone().or_else(|| env::var_os(name));
        kept.extend(value.map(|value| (name.clone(), value)));
    }
    let text =
        |(name, value): &(OsString, OsString)| [name.as_bytes(), value.as_bytes()].join(&b'=');
    // A value from the environment or the arguments has no zero byte.
    kept.iter()
        .filter_map(|pair| CString::new(text(pair)).ok())
        .collect()
}

/// The variable with the number of the connection.
const NUMBER: &str = "SOCKETSERVER_CONNECTION";

/// The variables of one program.
#[derive(Debug, Default)]
pub(crate) struct Variables(Vec<CString>);

impl Variables {
    pub(super) fn of(accepted: &Accepted) -> Self {
        let mut variables = Self::default();
        match accepted {
            Either::Left(stream) => {
                variables.ends(stream, stream.local_addr().ok());
                if let Either::Right(tls) = stream {
                    variables.tls(tls.layer());
                }
            }
            Either::Right(Either::Left(seqpacket)) => {
                let local = SeqpacketConnection::local_addr(seqpacket).ok();
                variables.ends(seqpacket, local);
            }
            Either::Right(Either::Right(_)) => {}
        }
        variables
            .0
            .extend([c"LISTEN_FDS=1", c"LISTEN_FDNAMES=connection"].map(CString::from));
        variables
    }

    /// The variables of a program that has a datagram socket.
    pub(super) fn of_socket(id: u64) -> Self {
        let mut variables = Self::default();
        variables.set(NUMBER, id.to_string());
        variables
            .0
            .extend([c"LISTEN_FDS=1", c"LISTEN_FDNAMES=socket"].map(CString::from));
        variables
    }

    pub(super) fn as_slice(&self) -> &[CString] {
        &self.0
    }

    pub(crate) fn into_vec(self) -> Vec<CString> {
        self.0
    }

    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let text = [name.as_bytes(), value.as_ref()].join(&b'=');
        // A value with a zero byte, as the name of a Unix socket may have, is left out: no variable can have it.
        self.0.extend(CString::new(text));
    }

    fn ends(&mut self, accepted: &impl socketserver::net::Accepted, local: Option<Address>) {
        self.set(NUMBER, accepted.id().to_string());
        match accepted.peer() {
            Address::Inet(peer) => {
                // An IPv4 client of a listener on [::] has an IPv4 address.
                let ip = peer.ip().to_canonical().to_string();
                let port = peer.port().to_string();
                self.set("PROTO", "TCP");
                self.set("TCPREMOTEIP", &ip);
                self.set("TCPREMOTEPORT", &port);
                self.set("REMOTE_ADDR", &ip);
                self.set("REMOTE_PORT", &port);
                if let Some(Address::Inet(local)) = local {
                    self.set("TCPLOCALIP", local.ip().to_canonical().to_string());
                    self.set("TCPLOCALPORT", local.port().to_string());
                }
            }
            Address::Unix(peer) => {
                self.set("PROTO", "UNIX");
                if let Some(Address::Unix(local)) = local {
                    self.name("UNIXLOCALPATH", &local);
                }
                self.name("UNIXREMOTEPATH", &peer);
                self.name("REMOTE_ADDR", &peer);
                if let Ok(peer) = accepted.peer_credentials() {
                    self.set("UNIXREMOTEEUID", peer.uid.to_string());
                    self.set("UNIXREMOTEEGID", peer.gid.to_string());
                    self.set("UNIXREMOTEPID", peer.pid.to_string());
                }
            }
            _ => {}
        }
    }

    /// Sets the name of a Unix socket, if it has one: `@` stands for the zero byte of an abstract one.
    fn name(&mut self, name: &str, address: &UnixAddress) {
        match address {
            UnixAddress::Path(path) => self.set(name, path.as_os_str().as_bytes()),
            UnixAddress::Abstract(bytes) => self.set(name, [b"@", &**bytes].concat()),
            _ => {}
        }
    }

    fn tls(&mut self, tls: &TlsLayer) {
        let version = match tls.version() {
            Some(Version::Tls12) => Some("TLSv1.2"),
            Some(Version::Tls13) => Some("TLSv1.3"),
            _ => None,
        };
        let values = [
            ("SSL_PROTOCOL", version),
            ("SSL_CIPHER", tls.cipher_suite()),
            ("SSL_TLS_SNI_SERVERNAME", tls.server_name()),
        ];
        for (name, value) in values {
            if let Some(value) = value {
                self.set(name, value);
            }
        }
        if let Some(client) = tls.peer_certificates().first() {
            self.set("SSL_CLIENT_FINGERPRINT", client.fingerprint());
            self.set("SSL_CLIENT_S_DN", Certificate::subject(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_service_manager_and_of_another_connection_are_kept_from_programs() {
        for name in [
            "NOTIFY_SOCKET",
            "LISTEN_PIDFDID",
            "PROTO",
            "TCPREMOTEHOST",
            "SSL_CIPHER",
            MARK,
        ] {
            assert!(is_kept_from_programs(name.as_bytes()), "{name}");
        }
        for name in [
            "PATH",
            "PROTOCOL",
            "TCP",
            "LISTEN",
            "NOTIFY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ] {
            assert!(!is_kept_from_programs(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn variables_of_the_command_line() {
        let pair = |name: &str, value: Option<&str>| Variable {
            name: name.into(),
            value: value.map(OsString::from),
        };
        let variable = |bytes| variable(OsStr::from_bytes(bytes));
        assert_eq!(variable(b"A"), Ok(pair("A", None)));
        assert_eq!(variable(b"A=b=c"), Ok(pair("A", Some("b=c"))));
        let value = variable(b"A=\xff").unwrap().value;
        assert_eq!(value.unwrap().as_bytes(), b"\xff");
        assert!(variable(b"=b").is_err() && variable(b"").is_err());
        let path = CString::new(format!("PATH={}", env::var("PATH").unwrap())).unwrap();
        let own = [
            pair("A", Some("1")),
            pair("A", Some("2")),
            pair("PATH", None),
            pair("NONE_SUCH", None),
        ];
        assert_eq!(of_server(true, &own), [c"A=2".to_owned(), path.clone()]);
        assert!(of_server(false, &[]).contains(&path));
    }
}
