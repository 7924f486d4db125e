//! WebSockets: sends each message back, and a count each second: `websocket [ADDRESS [MILLISECONDS]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::time::{Duration, Instant};

use socketserver::python::ThreadingTcpServer;
use socketserver::task::timeout;
use socketserver::{Connection, HandlerError};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, accept_with_config};

pub(crate) fn talk(conn: &mut impl Connection, pause: Duration) -> Result<(), HandlerError> {
    // The largest message and the buffer, in bytes.
    let config = WebSocketConfig::default()
        .max_message_size(Some(65_536))
        .read_buffer_size(4096);
    let mut socket = accept_with_config(conn, Some(config)).map_err(|err| err.to_string())?;
    let mut next = Instant::now() + pause;
    for count in 1.. {
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            match timeout(left, || socket.read()) {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message)?,
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return Ok(()),
                // The part of a message that has come stays in the socket.
                Err(Error::Io(err)) if err.kind() == io::ErrorKind::TimedOut => break,
                Err(err) => return Err(err.into()),
            }
        }
        socket.send(count.to_string().into())?;
        next += pause;
    }
    Ok(())
}

fn main() -> Result<(), HandlerError> {
    let (addr, pause) = (std::env::args().nth(1), std::env::args().nth(2));
    let pause = Duration::from_millis(pause.map_or(Ok(1000), |millis| millis.parse())?);
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(move |conn| talk(conn, pause))?;
    Ok(())
}
