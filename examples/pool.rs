//! All clients share four connections to the key-value server: `pool [ADDRESS [SERVER]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socketserver::Connection;
use socketserver::net::{Dialed, TcpConnection};
use socketserver::python::ThreadingTcpServer;
use socketserver::task::{block_on, timeout};
use tokio::sync::Semaphore;

/// The address of the server, the idle connections, and permits for those in use.
pub(crate) struct Pool(String, Mutex<Vec<Dialed<TcpConnection>>>, Semaphore);

impl Pool {
    pub(crate) fn new(server: String) -> Self {
        Self(server, Mutex::default(), Semaphore::new(4))
    }

    pub(crate) fn serve(&self, conn: &mut impl Connection) -> io::Result<()> {
        while conn.next_message()? {
            let mut line = String::new();
            conn.read_line_max(&mut line, 4096)?;
            let answer = timeout(Duration::from_secs(5), || self.ask(line.trim_end()))?;
            conn.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn ask(&self, line: &str) -> io::Result<String> {
        let _permit = block_on(self.2.acquire())?.map_err(io::Error::other)?;
        let idle = || self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = idle().pop().filter(|conn| !conn.peer_gone());
        let dial = || TcpConnection::connect(self.0.clone(), Duration::from_secs(5));
        let mut conn = reused.map_or_else(dial, Ok)?;
        conn.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        conn.read_line_max(&mut answer, 8192)?;
        if !answer.ends_with('\n') {
            // The connection is dropped, and then the permit.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        idle().push(conn);
        Ok(answer)
    }
}

fn main() -> io::Result<()> {
    let (addr, server) = (std::env::args().nth(1), std::env::args().nth(2));
    let pool = Pool::new(server.unwrap_or_else(|| "127.0.0.1:9000".to_owned()));
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    server.serve_forever(move |conn| pool.serve(conn))?;
    Ok(())
}
