//! Messages of up to 64 KiB come back unchanged, over a Unix seqpacket socket.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;

use socketserver::net::{SeqpacketConnection, UnixAddress};
use socketserver::{Next, Server, Threading, UnixSeqpacket};

/// Called for each message: a silent client holds no thread.
pub(crate) fn echo(conn: &mut SeqpacketConnection) -> io::Result<Next> {
    let mut buf = vec![0; 65_536];
    let Some(message) = conn.recv(&mut buf)? else {
        return Ok(Next::Close);
    };
    conn.send(message)?;
    Ok(Next::Park)
}

pub(crate) fn listener(name: &str) -> Result<UnixSeqpacket, socketserver::Error> {
    UnixSeqpacket::options().bind(UnixAddress::Abstract(name.into()))
}

fn main() -> Result<(), socketserver::Error> {
    let name = std::env::args().nth(1);
    let listener = listener(name.as_deref().unwrap_or("messages"))?;
    let builder = Server::<_, Threading>::builder().client_speaks_first(true);
    let server = builder.listen([listener]).build()?;
    eprintln!("listening on {}", server.urls()[0]);
    server.serve_forever(echo)?;
    Ok(())
}
