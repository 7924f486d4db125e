//! A key-value store that clients share: `set KEY VALUE`, `get KEY`, `del KEY`, one command a line.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, Handler, Next, Outcome};

/// The longest line that a client may send, in bytes.
const LINE_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Store(Mutex<HashMap<String, String>>);

impl Store {
    fn answer(&self, line: &str) -> String {
        // A map is intact after a panic of its own methods.
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *line.splitn(3, ' ').collect::<Vec<_>>() {
            ["set", key, value] => map.insert(key.to_owned(), value.to_owned()),
            ["get", key] => map.get(key).cloned(),
            ["del", key] => map.remove(key),
            _ => return "error: set KEY VALUE, get KEY or del KEY".to_owned(),
        }
        .map_or_else(|| "none".to_owned(), |value| format!("value {value}"))
    }
}

impl<C: Connection> Handler<C> for Store {
    fn handle(&self, conn: &mut C) -> Outcome {
        let mut line = String::new();
        if conn.read_line_max(&mut line, LINE_MAX)? == 0 {
            return Ok(Next::Close);
        }
        let answer = self.answer(line.trim_end()) + "\n";
        conn.write_all(answer.as_bytes())?;
        // A parked client holds no thread between its lines.
        Ok(Next::Park)
    }
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_handler(Store::default())?;
    Ok(())
}
