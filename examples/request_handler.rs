//! A handler with a value for each connection, and a setup and a finish around it: answers the
//! users of a Unix socket in capitals, and knows who they are.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::Write;
use std::time::Duration;

use socketserver::net::{Accepted, UnixConnection};
use socketserver::python::ThreadingUnixStreamServer;
use socketserver::{Connection, HandlerError, Next, Outcome, RequestHandler, per_request};

#[derive(Default)]
pub(crate) struct Session {
    uid: u32,
    lines: u32,
}

impl RequestHandler<UnixConnection> for Session {
    fn setup(&mut self, conn: &mut UnixConnection) -> Result<(), HandlerError> {
        conn.set_read_timeout(Some(Duration::from_secs(60)))?;
        // Sent when it is full, and before the next wait for input.
        conn.set_write_buffer(4096)?;
        self.uid = conn.peer_credentials()?.uid;
        writeln!(conn, "hello, user {}", self.uid)?;
        Ok(())
    }

    fn handle(&mut self, conn: &mut UnixConnection) -> Outcome {
        let mut line = String::new();
        while conn.next_message()? {
            conn.read_line_max(&mut line, 4096)?;
            conn.write_all(line.to_uppercase().as_bytes())?;
            self.lines += 1;
            line.clear();
        }
        Ok(Next::Close)
    }

    fn finish(&mut self, _: &mut UnixConnection) -> Result<(), HandlerError> {
        // Called even if the client was silent for too long, or has gone.
        eprintln!("user {} sent {} lines", self.uid, self.lines);
        Ok(())
    }
}

fn main() -> Result<(), socketserver::Error> {
    let path = std::env::args().nth(1);
    let server = ThreadingUnixStreamServer::bind(path.as_deref().unwrap_or("/tmp/shout.sock"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(per_request(Session::default))?;
    Ok(())
}
