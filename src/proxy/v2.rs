//! Version 2: 16 bytes, addresses, TLVs.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::address::{Address, UnixAddress};
use crate::proxy::crc32c;
use crate::proxy::header::{Header, Malformed, Parsed, cannot_send};
use crate::proxy::tlv::{self, Kind};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The length of what comes before the addresses.
const HEAD: usize = 16;

/// The version in the upper half of a byte, and the command in the lower half.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The address family in the upper half of a byte, and the protocol in the lower half: stream, or the next one,
/// datagram.
const UNKNOWN: u8 = 0x00;
const INET: u8 = 0x11;
const INET6: u8 = 0x21;
const UNIX: u8 = 0x31;

/// The size of a Unix address (`sun_path` of unix(7)).
const PATH: usize = 108;

/// Parses the header, which has at most `max` bytes; `bytes` begin as the [`SIGNATURE`] does.
pub(super) fn parse(bytes: &[u8], max: usize) -> Result<Parsed, Malformed> {
    let command = bytes.get(SIGNATURE.len()).copied();
    if command.is_some_and(|byte| byte != LOCAL && byte != PROXY) {
        return Err(Malformed("its version or command is unknown"));
    }
    let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(Parsed::Part);
    };
    let [.., command, protocol, len_high, len_low] = *head;
    if command == PROXY && (protocol >> 4 > 3 || protocol & 0xf > 2) {
        return Err(Malformed("its address family or protocol is unknown"));
    }
    let end = HEAD + usize::from(u16::from_be_bytes([len_high, len_low]));
    if end > max {
        return Err(Malformed("it is longer than the limit"));
    }
    let Some(header) = bytes.get(..end) else {
        return Ok(Parsed::Part);
    };
    // The receiver of a LOCAL header ignores the rest of it, its family too.
    let parsed = match command {
        LOCAL => Header::local(),
        _ => of_client(header, protocol)?,
    };
    Ok(Parsed::Whole(parsed, end))
}

/// Parses the addresses and TLVs of a whole header.
fn of_client(header: &[u8], protocol: u8) -> Result<Header, Malformed> {
    // A stream and a datagram differ in the lowest two bits.
    let is_datagram = protocol & 0xf == 2;
    let size = match protocol - u8::from(is_datagram) {
        INET => 12,
        INET6 => 36,
        UNIX => 2 * PATH,
        // Without a family or a protocol, the rest has no meaning.
        _ => return Ok(Header::unknown()),
    };
    let (addresses, tlvs) = header[HEAD..]
        .split_at_checked(size)
        .ok_or(Malformed("it is shorter than its addresses"))?;
    let sum_at = tlv::validate(tlvs)?;
    let mut tlvs = tlvs.to_vec();
    if let Some(at) = sum_at {
        let (before, sum) = header.split_at(HEAD + size + at);
        let (sum, behind) = sum.split_at(4);
        if crc32c::of(&[before, &[0; 4], behind]).to_be_bytes() != sum {
            return Err(Malformed("its checksum is wrong"));
        }
        // A header that is sent on gets another checksum.
        tlvs.drain(at - 3..at + 4);
    }
    let (source, destination) = match size {
        12 => inet::<4>(addresses),
        36 => inet::<16>(addresses),
        _ => {
            let (source, destination) = addresses.split_at(PATH);
            (unix(source), unix(destination))
        }
    };
    Ok(Header {
        is_datagram,
        sums: sum_at.is_some(),
        tlvs,
        ..Header::between(source, destination)
    })
}

/// Reads two addresses of `N` bytes, then two ports.
fn inet<const N: usize>(bytes: &[u8]) -> (Address, Address)
where
    [u8; N]: Into<IpAddr>,
{
    let read = |index: usize| {
        let (mut ip, mut port) = ([0; N], [0; 2]);
        ip.copy_from_slice(&bytes[index * N..][..N]);
        port.copy_from_slice(&bytes[2 * N + index * 2..][..2]);
        SocketAddr::new(ip.into(), u16::from_be_bytes(port)).into()
    };
    (read(0), read(1))
}

/// Reads a path, which a NUL ends, or an abstract name behind a NUL.
fn unix(bytes: &[u8]) -> Address {
    let used = bytes.iter().rposition(|&byte| byte != 0);
    let used = &bytes[..used.map_or(0, |last| last + 1)];
    Address::Unix(match used {
        [] => UnixAddress::Unnamed,
        [0, name @ ..] => UnixAddress::Abstract(name.to_vec()),
        path => {
            let path = path.split(|&byte| byte == 0).next().unwrap_or(path);
            UnixAddress::Path(PathBuf::from(OsStr::from_bytes(path)))
        }
    })
}

pub(super) fn write(header: &Header) -> io::Result<Vec<u8>> {
    let command = if header.is_local { LOCAL } else { PROXY };
    let mut out = [&SIGNATURE[..], &[command, UNKNOWN, 0, 0]].concat();
    let protocol = match &header.addresses {
        Some((Address::Inet(from), Address::Inet(to))) => {
            for ip in [from.ip(), to.ip()] {
                match ip {
                    IpAddr::V4(v4) => out.extend(v4.octets()),
                    IpAddr::V6(v6) => out.extend(v6.octets()),
                }
            }
            out.extend(
                [from.port(), to.port()]
                    .map(u16::to_be_bytes)
                    .as_flattened(),
            );
            if from.is_ipv4() { INET } else { INET6 }
        }
        Some((Address::Unix(from), Address::Unix(to))) => {
            put_unix(&mut out, from)?;
            put_unix(&mut out, to)?;
            UNIX
        }
        _ => UNKNOWN,
    };
    out[13] = match protocol {
        UNKNOWN => UNKNOWN,
        stream => stream + u8::from(header.is_datagram),
    };
    // Without addresses, no receiver could find the TLVs.
    if protocol != UNKNOWN {
        out.extend(&header.tlvs);
        if header.sums {
            tlv::put(&mut out, Kind::CRC32C, &[0; 4]);
        }
    }
    let len = u16::try_from(out.len() - HEAD)
        .map_err(|_| cannot_send("its TLVs are longer than 65535 bytes with the addresses"))?;
    out[14..HEAD].copy_from_slice(&len.to_be_bytes());
    if header.sums && protocol != UNKNOWN {
        let sum = crc32c::of(&[&out]).to_be_bytes();
        let at = out.len() - sum.len();
        out[at..].copy_from_slice(&sum);
    }
    Ok(out)
}

fn put_unix(out: &mut Vec<u8>, address: &UnixAddress) -> io::Result<()> {
    let start = out.len();
    match address {
        UnixAddress::Unnamed => {}
        UnixAddress::Path(path) => out.extend(path.as_os_str().as_bytes()),
        UnixAddress::Abstract(name) => {
            out.push(0);
            out.extend(name);
        }
    }
    if out.len() > start + PATH {
        return Err(cannot_send("a Unix address is longer than 108 bytes"));
    }
    out.resize(start + PATH, 0);
    Ok(())
}
