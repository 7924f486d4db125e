//! A chat: each line goes to everybody. Coroutines, so a hundred thousand silent people cost little.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]
#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use socketserver::net::{Accepted, TcpConnection, Writer};
use socketserver::{Connection, Coroutines, Server, Tcp};

/// Who is here, by the numbers of their connections.
#[derive(Default)]
pub(crate) struct Room(Mutex<BTreeMap<u64, Writer>>);

impl Room {
    pub(crate) fn serve(&self, conn: &mut TcpConnection) -> io::Result<()> {
        self.change(|people| people.insert(conn.id(), conn.writer()));
        let talked = self.talk(conn);
        self.change(|people| people.remove(&conn.id()));
        talked
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<u64, Writer>) -> R) -> R {
        // A map is whole after any panic of its own methods.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, line: &str) {
        // A copy: nobody waits for the lock while a client is slow to read.
        let everybody: Vec<_> = self.change(|people| people.values().cloned().collect());
        for mut person in everybody {
            // Who is gone is taken out by its own handler.
            let _ = person.write_all(line.as_bytes());
        }
    }

    fn talk(&self, conn: &mut TcpConnection) -> io::Result<()> {
        while conn.next_message()? {
            let mut line = format!("{}: ", conn.id());
            conn.read_line_max(&mut line, 4096)?;
            self.tell(&line);
        }
        Ok(())
    }
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    // SAFETY: the handler restores no thread-local after a read or a write.
    let model = unsafe { Coroutines::new() };
    let server = Server::<Tcp>::builder().model(model);
    let server = server.first_byte_timeout(None).idle_timeout(None);
    let server = server.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    let urls = server.urls();
    urls.iter().for_each(|url| eprintln!("listening on {url}"));
    let room = Room::default();
    server.serve_forever(move |conn| room.serve(conn))?;
    Ok(())
}
