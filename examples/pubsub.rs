//! Subscriptions: a client that sends `subscribe` gets the lines that other clients send. The
//! server aborts subscribers that are slow to read, so its memory is bounded.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]
#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Sender, bounded};
use socketserver::model::Model;
use socketserver::task::block_on;
use socketserver::{Connection, Coroutines, Error, HandlerError, Server, ServerHandle, Tcp};

/// A queue of lines for each subscriber, by the number of its connection.
type Queues = Mutex<HashMap<u64, Sender<Arc<str>>>>;

fn talk(
    conn: &mut impl Connection,
    server: &ServerHandle,
    queues: &Queues,
) -> Result<(), HandlerError> {
    let queues = || queues.lock().unwrap_or_else(PoisonError::into_inner);
    while conn.next_message()? {
        let mut line = String::new();
        conn.read_line_max(&mut line, 4096)?;
        if line == "subscribe\n" {
            let (sender, queue) = bounded(64);
            queues().insert(conn.id(), sender);
            conn.write_all(b"subscribed\n")?;
            while let Ok(line) = block_on(queue.recv())? {
                conn.write_all(line.as_bytes())?;
            }
            break;
        }
        let line: Arc<str> = line.into();
        queues().retain(|&id, queue| {
            let sent = queue.try_send(Arc::clone(&line));
            sent.inspect_err(|_| _ = server.abort(id)).is_ok()
        });
        let count = queues().len();
        conn.write_all(format!("{count} subscribers\n").as_bytes())?;
    }
    Ok(())
}

pub(crate) fn serve<M: Model>(server: Server<Tcp, M>) -> Result<(), Error> {
    let (handle, queues) = (server.handle(), Queues::default());
    server.serve_forever(move |conn| talk(conn, &handle, &queues))?;
    Ok(())
}

fn main() -> Result<(), Error> {
    let addr = std::env::args().nth(1);
    // SAFETY: the handler restores no thread-local after a read or a write.
    let builder = Server::<Tcp>::builder().model(unsafe { Coroutines::new() });
    let server = builder.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    serve(server)
}
