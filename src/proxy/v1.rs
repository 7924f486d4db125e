//! Version 1: a line of text.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::address::Address;
use crate::proxy::header::{Header, Malformed, Parsed, cannot_send};

pub(super) const START: &[u8] = b"PROXY ";

/// The longest line, with its end.
const LONGEST: usize = 107;

/// Parses the line; `bytes` begin as [`START`] does.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(end) = end else {
        return match bytes.len() {
            LONGEST => Err(Malformed("its line has no end within 107 bytes")),
            _ => Ok(Parsed::Part),
        };
    };
    match bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if end + 1 < LONGEST => return Ok(Parsed::Part),
        _ => return Err(Malformed("its line does not end with CR LF")),
    }
    let rest = bytes[..end].get(START.len()..);
    let rest = rest.ok_or(Malformed("its line is too short"))?;
    Ok(Parsed::Whole(line(rest)?, end + 2))
}

/// Parses what lies between `PROXY ` and the end of the line.
fn line(rest: &[u8]) -> Result<Header, Malformed> {
    // The text behind UNKNOWN has no meaning.
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(Header::unknown());
    }
    let rest = std::str::from_utf8(rest).map_err(|_| Malformed("its line is not text"))?;
    let fields: Vec<_> = rest.split(' ').collect();
    let [protocol, source, destination, source_port, destination_port] = fields[..] else {
        return Err(Malformed("its line has not six fields"));
    };
    let address = match protocol {
        "TCP4" => ip::<Ipv4Addr>,
        "TCP6" => ip::<Ipv6Addr>,
        _ => return Err(Malformed("its protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    let socket = |ip, port_text| Ok(SocketAddr::new(address(ip)?, port(port_text)?).into());
    let source = socket(source, source_port)?;
    let destination = socket(destination, destination_port)?;
    Ok(Header::between(source, destination))
}

/// Parses an address as inet_ntop(3) writes it: an IPv4-mapped IPv6 address ends with the digits of the IPv4 address.
fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Malformed> {
    let ip = text.parse::<T>().map(Into::into);
    ip.map_err(|_| Malformed("an address is not one of its protocol"))
}

/// Parses a port: digits, without a sign or a zero in front.
fn port(text: &str) -> Result<u16, Malformed> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| plain);
    port.ok_or(Malformed("a port is not a number from 0 to 65535"))
}

pub(super) fn write(header: &Header) -> io::Result<Vec<u8>> {
    if header.is_local || header.is_datagram {
        let why =
            "version 1 has no datagrams, and no connections of the proxy itself; use version 2";
        return Err(cannot_send(why));
    }
    let line = match &header.addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((Address::Inet(from), Address::Inet(to))) => {
            let protocol = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let ([from_ip, to_ip], [from_port, to_port]) =
                ([from.ip(), to.ip()], [from.port(), to.port()]);
            format!("PROXY {protocol} {from_ip} {to_ip} {from_port} {to_port}\r\n")
        }
        Some(_) => {
            return Err(cannot_send(
                "version 1 has no Unix addresses; use version 2",
            ));
        }
    };
    Ok(line.into_bytes())
}
