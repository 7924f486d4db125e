//! A transport of its own, the least that one needs: seqpacket sockets, of which the crate has a whole one.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::{env, io, io::Read, os::fd::AsFd, os::fd::BorrowedFd};

use socket2::{Domain, SockAddr, Socket, Type};
use socketserver::net::{AcceptBatch, Accepted, Address, Context, Managed};
use socketserver::net::{Transport, UnixAddress, Waits};
use socketserver::{Next, Server, Threading};

pub(crate) struct SeqPacket(Socket, String);
pub(crate) struct Session(Socket, Context);

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for SeqPacket {
    type Accepted = Session;
    const SCHEME: &'static str = "seqpacket";
    fn local_addr(&self) -> Address {
        UnixAddress::Abstract(self.1.clone().into_bytes()).into()
    }
    fn accept(&self, batch: &mut AcceptBatch<'_, Session>) -> io::Result<()> {
        let (socket, _) = self.0.accept()?; // The socket is non-blocking.
        batch.push(|context| Session(socket, context));
        Ok(())
    }
}

impl Accepted for Session {
    fn context(&self) -> &Context {
        &self.1
    }
    fn peer(&self) -> Address {
        UnixAddress::Unnamed.into()
    }
}

impl Managed for Session {
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        Ok(Waits::For(self.0.as_fd())) // The drop closes the socket.
    }
}

/// Called for each message: a silent client holds no thread.
pub(crate) fn echo(Session(socket, _): &mut Session) -> io::Result<Next> {
    let mut message = vec![0; 65_536];
    let length = socket.read(&mut message)?;
    if length == 0 {
        return Ok(Next::Close);
    }
    socket.send(&message[..length])?;
    Ok(Next::Park)
}

pub(crate) fn listener(name: String) -> io::Result<SeqPacket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
    socket.listen(128)?;
    Ok(SeqPacket(socket, name))
}

fn main() -> io::Result<()> {
    let name = env::args().nth(1).unwrap_or_else(|| "messages".into());
    let builder = Server::<_, Threading>::builder().client_speaks_first(true);
    let server = builder.listen([listener(name)?]).build()?;
    eprintln!("listening on {}", server.urls()[0]);
    server.serve_forever(echo)?;
    Ok(())
}
