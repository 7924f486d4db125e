//! The services: one function for streams and one for datagrams each.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use socketserver::{Connection, Either, Packet, Transport};

use crate::args::Service;
use crate::listen::Any;

/// Seconds from 1900, where RFC 868 begins, to 1970.
const SECONDS_1900_TO_1970: u64 = 2_208_988_800;

/// Serves one request.
pub(crate) fn serve(service: Service, request: &mut <Any as Transport>::Request) -> io::Result<()> {
    match request {
        Either::Left(conn) => stream(service, conn),
        Either::Right(datagram) => packet(service, datagram),
    }
}

fn stream(service: Service, conn: &mut impl Connection) -> io::Result<()> {
    match service {
        Service::Echo => {
            // An idle client costs little memory, a busy one few system calls.
            let (mut small, mut large) = ([0; 1024], Vec::new());
            loop {
                let buf = if large.is_empty() {
                    &mut small[..]
                } else {
                    &mut large[..]
                };
                let count = conn.read(buf)?;
                if count == 0 {
                    return Ok(());
                }
                conn.write_all(&buf[..count])?;
                // A full buffer is a sign of more: what the client has sent is answered before a
                // stop.
                let full = count == buf.len();
                if conn.stopping() && !full {
                    return Ok(());
                }
                if full {
                    large.resize(16 * 1024, 0);
                } else if count < small.len() / 2 {
                    large = Vec::new();
                }
            }
        }
        Service::Discard => {
            let mut buf = [0; 1024];
            while conn.read(&mut buf)? > 0 && !conn.stopping() {}
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

fn packet(service: Service, datagram: &mut impl Packet) -> io::Result<()> {
    match service {
        Service::Echo => datagram.echo(),
        Service::Discard => {}
        Service::Chargen => {
            // RFC 864 has up to 512 characters; as many as were sent let nobody use us to amplify
            // an attack.
            let count = datagram.packet().len().min(512);
            let characters: Vec<u8> = (0..CHARACTERS).cycle().flat_map(line).take(count).collect();
            datagram.set_reply(&characters);
        }
        Service::Daytime => datagram.set_reply(daytime().as_bytes()),
        Service::Time => datagram.set_reply(&time()),
        Service::Hello => datagram.set_reply(b"hello world\n"),
    }
    Ok(())
}

/// The printing characters of ASCII, with the space.
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
    // RFC 868 has 32 bits, which begin anew in 2036.
    ((unix + SECONDS_1900_TO_1970) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_chargen_shift_by_one_and_come_round() {
        assert!(line(0).starts_with(b" !\"#"));
        assert!(line(1).starts_with(b"!\"#$"));
        assert_eq!(&line(94)[..3], b"~ !");
        assert!(line(50).ends_with(b"\r\n"));
    }
}
