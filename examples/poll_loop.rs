//! Two servers in the program's own event loop: TCP clients get a greeting, and a UDP datagram gets
//! their number; the datagram `stop` ends the program.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use socketserver::python::{TcpServer, UdpServer};
use socketserver::{Datagram, Next, ServerHandle};

pub(crate) fn answer(datagram: &mut impl Datagram, greeter: &ServerHandle) -> io::Result<Next> {
    writeln!(datagram, "{} greeted", greeter.totals().accepted)?;
    let stop = datagram.packet().trim_ascii() == b"stop";
    Ok(if stop { Next::Stop } else { Next::Close })
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("127.0.0.1:8000");
    let mut greeter = TcpServer::bind(addr)?;
    let mut control = UdpServer::bind(addr)?;
    for url in [greeter.urls(), control.urls()].concat() {
        eprintln!("listening on {url}");
    }
    let no_wait = Some(Duration::ZERO);
    while !control.handle().is_stopping() {
        let mut fds = [
            PollFd::new(&greeter, PollFlags::IN),
            PollFd::new(&control, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        let [client, question] = fds.map(|fd| !fd.revents().is_empty());
        if client {
            greeter.handle_request(no_wait, |conn| conn.write_all(b"hello world\n"))?;
        }
        if question {
            let greeter = greeter.handle();
            control.handle_request(no_wait, move |datagram| answer(datagram, &greeter))?;
        }
    }
    greeter.close()?;
    Ok(())
}
