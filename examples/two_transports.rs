//! One server and one handler for two transports: reverses the lines of TCP and of Unix clients.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;

use socketserver::net::{Bind, Either};
use socketserver::{Connection, Server, Tcp, Threading, UnixStream};

pub(crate) fn reverse(conn: &mut impl Connection) -> io::Result<()> {
    let mut line = String::new();
    while conn.next_message()? {
        conn.read_line_max(&mut line, 4096)?;
        let reversed: String = line.trim_end().chars().rev().chain(['\n']).collect();
        conn.write_all(reversed.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn main() -> Result<(), socketserver::Error> {
    let mut args = std::env::args().skip(1);
    let (addr, path) = (args.next(), args.next());
    let tcp = Tcp::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    let unix = UnixStream::bind(path.as_deref().unwrap_or("/tmp/reverse.sock"))?;
    let server = Server::<_, Threading>::builder()
        .listen(tcp.into_iter().map(Either::Left))
        .listen(unix.into_iter().map(Either::Right))
        .build()?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(reverse)?;
    Ok(())
}
