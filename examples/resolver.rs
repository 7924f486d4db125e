//! Resolves names to addresses. The system's resolver blocks its thread, so a coroutine offloads it
//! to another thread.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]
#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::io;
use std::net::ToSocketAddrs;

use socketserver::task::offload;
use socketserver::{Connection, Coroutines, Server, Tcp};

pub(crate) fn resolve(conn: &mut impl Connection) -> io::Result<()> {
    let mut line = String::new();
    while conn.next_message()? {
        conn.read_line_max(&mut line, 256)?;
        let name = line.trim_end().to_owned();
        // Name servers may take seconds; the other coroutines of this thread run meanwhile.
        match offload(move || (name, 0).to_socket_addrs()) {
            Ok(addrs) => {
                let addrs: Vec<_> = addrs.map(|addr| addr.ip().to_string()).collect();
                writeln!(conn, "{}", addrs.join(" "))?;
            }
            Err(err) => writeln!(conn, "error: {err}")?,
        }
        line.clear();
    }
    Ok(())
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    // SAFETY: the handler restores no thread-local after a read or a write.
    let model = unsafe { Coroutines::new() };
    let server = Server::<Tcp>::builder().model(model);
    let server = server.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(resolve)?;
    Ok(())
}
