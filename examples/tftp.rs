//! A read-only TFTP server (RFC 1350): each transfer has a thread and a socket of its own.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use socketserver::Datagram;
use socketserver::net::UdpPacket;
use socketserver::python::ThreadingUdpServer;

/// Returns the file name of a read request: it follows opcode 1 and ends with a zero byte.
fn wanted(packet: &[u8], directory: &Path) -> Option<Vec<u8>> {
    let fields = packet.strip_prefix(&[0, 1])?;
    let name = std::str::from_utf8(fields.split(|&byte| byte == 0).next()?).ok()?;
    let is_here = !name.contains('/');
    is_here.then(|| std::fs::read(directory.join(name)).ok())?
}

pub(crate) fn transfer(datagram: &mut UdpPacket, directory: &Path) -> io::Result<()> {
    let Some(data) = wanted(datagram.packet(), directory) else {
        return datagram.write_all(b"\0\x05\0\x01no such file\0");
    };
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(datagram.peer_addr())?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    // The last block is shorter than the others, and may be empty.
    for (index, start) in (0..=data.len()).step_by(512).enumerate() {
        let block = &data[start..data.len().min(start + 512)];
        let [high, low] = (index as u16).wrapping_add(1).to_be_bytes();
        deliver(&socket, &[&[0, 3, high, low], block].concat())?;
    }
    Ok(())
}

/// Sends a block until the client acknowledges it, five times at most.
fn deliver(socket: &UdpSocket, message: &[u8]) -> io::Result<()> {
    for _ in 0..5 {
        socket.send(message)?;
        let mut answer = [0; 4];
        let answered = socket.recv(&mut answer).is_ok();
        if answered && answer == [0, 4, message[2], message[3]] {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn main() -> Result<(), socketserver::Error> {
    let (addr, directory) = (std::env::args().nth(1), std::env::args().nth(2));
    let server = ThreadingUdpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:6969"))?;
    let directory = directory.unwrap_or_else(|| ".".to_owned());
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(move |datagram| transfer(datagram, Path::new(&directory)))?;
    Ok(())
}
