//! The built-in services, over streams and over datagrams.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use socketserver::net::{Accepted as _, Either, SeqpacketConnection, Transport};
use socketserver::{Connection, Datagram, Next, Outcome};

use crate::args::Service;
use crate::bind::{Accepted, Any, Listener, innermost};
use crate::serve::{Task, lend_none};

/// The size of a buffer for a client that sends a lot.
const LARGE: usize = 16 * 1024;

/// The longest message that a client may send. With the system's buffers, a client cannot send a longer one.
const MESSAGE_MAX: usize = 256 * 1024;

/// Seconds from 1900, where RFC 868 begins, to 1970.
const SECONDS_1900_TO_1970: u64 = 2_208_988_800;

/// A built-in service.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    service: Service,
    peers: Peers,
}

impl BuiltIn {
    /// `amplify`: whether an answer to a UDP datagram may be longer than the datagram.
    pub(crate) const fn new(service: Service, amplify: bool) -> Self {
        let own = Vec::new();
        Self {
            service,
            peers: Peers { own, amplify },
        }
    }
}

impl Task for BuiltIn {
    fn start(&mut self, listeners: Vec<Any>) -> anyhow::Result<Vec<Listener>> {
        self.peers.own = listeners.iter().filter_map(udp_address).collect();
        Ok(lend_none(listeners))
    }

    fn serve(&self, accepted: &mut Accepted) -> Outcome {
        match accepted {
            Either::Left(conn) => stream(self.service, innermost(conn))?,
            Either::Right(Either::Left(conn)) => messages(self.service, conn)?,
            Either::Right(Either::Right(datagram)) => {
                if let Some(reply) = packet(self.service, datagram) {
                    answer(datagram, reply, &self.peers);
                }
            }
        }
        Ok(Next::Close)
    }
}

/// The address of a UDP listener.
fn udp_address(listener: &Any) -> Option<SocketAddr> {
    match listener {
        Either::Right(Either::Right(Either::Left(Either::Left(udp)))) => {
            udp.local_addr().socket_addr()
        }
        Either::Right(Either::Right(Either::Right(Either::Left(udp)))) => {
            udp.local_addr().socket_addr()
        }
        _ => None,
    }
}

/// The rules for answers to UDP datagrams, whose sender may be forged. A forged sender can make two
/// servers answer each other without end, or send more to a victim than the attacker sends.
#[derive(Debug)]
struct Peers {
    /// The addresses of this server.
    own: Vec<SocketAddr>,
    /// Whether an answer may be longer than its request.
    amplify: bool,
}

/// Ports below this are those of services, which answer what they get (RFC 862 to 868 and others).
const FIRST_PORT_OF_CLIENTS: u16 = 1024;

impl Peers {
    /// Whether `peer`, which has sent `request` bytes, gets an answer of `answer` bytes.
    fn allow(&self, peer: SocketAddr, request: usize, answer: usize) -> bool {
        let is_service = peer.port() < FIRST_PORT_OF_CLIENTS || self.is_own(peer);
        let amplifies = answer > request && !peer.ip().to_canonical().is_loopback();
        !is_service && (self.amplify || !amplifies)
    }

    /// Whether the address is one of this server's own.
    fn is_own(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        self.own
            .iter()
            .filter(|own| own.port() == peer.port())
            .any(|own| match own.ip().to_canonical() {
                any if any.is_unspecified() => is_local(ip),
                own => own == ip,
            })
    }
}

/// Whether the address is one of this host's, which can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
        || match UdpSocket::bind((ip, 0)) {
            Ok(_) => true,
            // Without descriptors the address counts as local.
            Err(err) => err.kind() != io::ErrorKind::AddrNotAvailable,
        }
}

/// The answer to a datagram.
enum Reply {
    Echo,
    Bytes(Vec<u8>),
}

fn answer(datagram: &mut impl Datagram, reply: Reply, peers: &Peers) {
    let request = datagram.packet().len();
    let size = match &reply {
        Reply::Echo => request,
        Reply::Bytes(bytes) => bytes.len(),
    };
    // The answer goes to the proxy, if the datagram came through one. The address of a Unix socket cannot be
    // forged.
    let sender = datagram.via().unwrap_or_else(|| datagram.peer());
    let peer = sender.socket_addr();
    if peer.is_none_or(|peer| peers.allow(peer, request, size)) {
        match reply {
            Reply::Echo => datagram.echo(),
            Reply::Bytes(bytes) => datagram.set_reply(&bytes),
        }
    }
}

fn stream(service: Service, conn: &mut dyn Connection) -> io::Result<()> {
    match service {
        Service::Echo => {
            // A small buffer for an idle client, a large one for a client that sends a lot.
            let (mut small, mut large) = ([0; 512], Vec::new());
            while conn.next_message()? {
                if conn.stopping() {
                    // The last answer leaves with the end of the stream.
                    conn.set_write_buffer(LARGE)?;
                }
                let buf = if large.is_empty() {
                    &mut small[..]
                } else {
                    &mut large[..]
                };
                let count = conn.read(buf)?;
                conn.write_all(&buf[..count])?;
                if count == buf.len() {
                    large.resize(LARGE, 0);
                } else if count < small.len() / 2 {
                    large = Vec::new();
                }
            }
            Ok(())
        }
        Service::Discard => {
            while conn.next_message()? {
                let count = conn.fill_buf()?.len();
                conn.consume(count);
            }
            Ok(())
        }
        Service::Chargen => {
            conn.set_write_buffer(16 * 1024)?;
            for first in (0..CHARACTERS).cycle() {
                conn.write_all(&line(first))?;
                if conn.stopping() {
                    break;
                }
            }
            Ok(())
        }
        Service::Daytime => conn.write_all(daytime().as_bytes()),
        Service::Time => conn.write_all(&time()),
        Service::Hello => conn.write_all(b"hello world\n"),
    }
}

/// Each message of the client is a request, and each answer is a message.
fn messages(service: Service, conn: &mut SeqpacketConnection) -> io::Result<()> {
    match service {
        Service::Echo => {
            let mut buf = vec![0; MESSAGE_MAX];
            while conn.next_message()? {
                if let Some(message) = conn.recv(&mut buf)? {
                    conn.send(message)?;
                }
            }
            Ok(())
        }
        Service::Discard => {
            let mut buf = vec![0; MESSAGE_MAX];
            while conn.next_message()? {
                // The input is dropped.
                let _ = conn.recv(&mut buf)?;
            }
            Ok(())
        }
        Service::Chargen => {
            for first in (0..CHARACTERS).cycle() {
                conn.send(&line(first))?;
                if conn.stopping() {
                    break;
                }
            }
            Ok(())
        }
        Service::Daytime => conn.send(daytime().as_bytes()),
        Service::Time => conn.send(&time()),
        Service::Hello => conn.send(b"hello world\n"),
    }
}

fn packet(service: Service, datagram: &impl Datagram) -> Option<Reply> {
    Some(Reply::Bytes(match service {
        Service::Echo => return Some(Reply::Echo),
        Service::Discard => return None,
        Service::Chargen => {
            // RFC 864 allows up to 512 characters; as many as the datagram has do not amplify an
            // attack.
            let count = datagram.packet().len().min(512);
            (0..CHARACTERS).cycle().flat_map(line).take(count).collect()
        }
        Service::Daytime => daytime().into_bytes(),
        Service::Time => time().to_vec(),
        Service::Hello => b"hello world\n".to_vec(),
    }))
}

/// How many printing characters ASCII has, with the space.
const CHARACTERS: u8 = 95;

/// The line of RFC 864 that begins with the given character.
fn line(first: u8) -> [u8; 74] {
    let mut line = *b"........................................................................\r\n";
    for (place, byte) in (0..72).zip(&mut line) {
        *byte = b' ' + (first + place) % CHARACTERS;
    }
    line
}

fn daytime() -> String {
    format!("{}\r\n", httpdate::fmt_http_date(SystemTime::now()))
}

fn time() -> [u8; 4] {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // The 32 bits of RFC 868 overflow in 2036.
    ((unix + SECONDS_1900_TO_1970) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_chargen_shift_by_one_and_wrap() {
        assert!(line(0).starts_with(b" !\"#"));
        assert!(line(1).starts_with(b"!\"#$"));
        assert_eq!(&line(94)[..3], b"~ !");
        assert!(line(50).ends_with(b"\r\n"));
    }

    fn peers(own: &[&str]) -> Peers {
        Peers {
            own: own.iter().map(|own| own.parse().unwrap()).collect(),
            amplify: false,
        }
    }

    #[track_caller]
    fn answered(peers: &Peers, peer: &str, request: usize, answer: usize) -> bool {
        peers.allow(peer.parse().unwrap(), request, answer)
    }

    #[test]
    fn services_are_not_answered() {
        let peers = peers(&["127.0.0.1:7007", "[::1]:7008"]);
        for service in ["127.0.0.1:0", "192.0.2.1:7", "[2001:db8::1]:1023"] {
            assert!(!answered(&peers, service, 1, 1), "{service}");
        }
        for client in ["127.0.0.1:1024", "192.0.2.1:7007", "127.0.0.1:7008"] {
            assert!(answered(&peers, client, 1, 1), "{client}");
        }
        for own in ["127.0.0.1:7007", "[::ffff:127.0.0.1]:7007", "[::1]:7008"] {
            assert!(!answered(&peers, own, 1, 1), "{own}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_does_not_answer_those_of_its_host() {
        for any in ["0.0.0.0:7007", "[::]:7007"] {
            let peers = peers(&[any]);
            for own in [
                "127.0.0.1:7007",
                "127.9.9.9:7007",
                "[::ffff:127.0.0.1]:7007",
            ] {
                assert!(!answered(&peers, own, 1, 1), "{any}, {own}");
            }
            for other in ["192.0.2.1:7007", "[2001:db8::1]:7007", "127.0.0.1:7008"] {
                assert!(answered(&peers, other, 1, 1), "{any}, {other}");
            }
        }
    }

    #[test]
    fn an_answer_is_no_longer_than_its_request_outside_this_host() {
        let mut peers = peers(&["0.0.0.0:7007"]);
        assert!(answered(&peers, "192.0.2.1:5000", 31, 31));
        assert!(!answered(&peers, "192.0.2.1:5000", 30, 31));
        assert!(answered(&peers, "127.0.0.1:5000", 0, 31));
        assert!(answered(&peers, "[::1]:5000", 0, 31));
        peers.amplify = true;
        assert!(answered(&peers, "192.0.2.1:5000", 0, 31));
        assert!(!answered(&peers, "192.0.2.1:53", 0, 31));
    }
}
