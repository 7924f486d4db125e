//! A chat: each line goes to all clients. Silent clients cost little; the server aborts those that
//! are slow to read, so its memory is bounded.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]
#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Sender, bounded};
use socketserver::model::Model;
use socketserver::task::{block_on, scope};
use socketserver::{Connection, Coroutines, Error, Server, ServerHandle, Tcp};

/// A queue of lines for each client, by the number of its connection.
type Queues = Mutex<HashMap<u64, Sender<Arc<str>>>>;

fn talk(conn: &mut impl Connection, server: &ServerHandle, queues: &Queues) -> io::Result<()> {
    let queues = || queues.lock().unwrap_or_else(PoisonError::into_inner);
    let (id, (sender, queue)) = (conn.id(), bounded::<Arc<str>>(64));
    let (mut input, mut output) = conn.halves()?;
    scope(|scope| {
        let _writes = scope.spawn(move || -> io::Result<()> {
            while let Ok(line) = block_on(queue.recv())? {
                output.write_all(line.as_bytes())?;
            }
            Ok(())
        })?;
        queues().insert(id, sender);
        let mut line = format!("{id}: ");
        while (&mut input).take(4096).read_line(&mut line).is_ok() && line.ends_with('\n') {
            let whole: Arc<str> = std::mem::replace(&mut line, format!("{id}: ")).into();
            queues().retain(|&id, queue| {
                let sent = queue.try_send(Arc::clone(&whole));
                sent.inspect_err(|_| _ = server.abort(id)).is_ok()
            });
        }
        // Ends the queue, and so the closure that writes.
        queues().remove(&id);
        Ok(())
    })
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
    let builder = builder.first_byte_timeout(None).idle_timeout(None);
    let server = builder.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    serve(server)
}
