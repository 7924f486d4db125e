//! A chat: each line goes to all clients. A hundred thousand silent clients cost little.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]
#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use socketserver::net::{Accepted, TcpConnection, Writer};
use socketserver::{Connection, Coroutines, Server, Tcp};

/// A writer for each client, by the number of its connection.
#[derive(Default)]
pub(crate) struct Room(Mutex<BTreeMap<u64, Writer>>);

impl Room {
    pub(crate) fn serve(&self, conn: &mut TcpConnection) -> io::Result<()> {
        self.change(|clients| clients.insert(conn.id(), conn.writer()));
        let talked = self.talk(conn);
        self.change(|clients| clients.remove(&conn.id()));
        talked
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<u64, Writer>) -> R) -> R {
        // A map is intact after a panic of its own methods.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, line: &str) {
        // A copy, so that the lock is free while a client is slow to read.
        let clients: Vec<_> = self.change(|clients| clients.values().cloned().collect());
        for mut client in clients {
            // The handler of a client that has gone removes its writer.
            let _ = client.write_all(line.as_bytes());
        }
    }

    fn talk(&self, conn: &mut TcpConnection) -> io::Result<()> {
        while conn.next_message()? {
            let mut line = format!("{}: ", conn.id());
            conn.read_line_max(&mut line, 4096)?;
            self.send(&line);
        }
        Ok(())
    }
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    // SAFETY: the handler restores no thread-local after a read or a write.
    let model = unsafe { Coroutines::new() };
    let builder = Server::<Tcp>::builder().model(model);
    let builder = builder.first_byte_timeout(None).idle_timeout(None);
    let server = builder.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    let room = Room::default();
    server.serve_forever(move |conn| room.serve(conn))?;
    Ok(())
}
