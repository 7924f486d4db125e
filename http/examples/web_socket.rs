//! WebSockets: sends each message back, and a count each second: `web_socket [ADDRESS [MILLISECONDS]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use socketserver::task::timeout;
use socketserver::{Connection, HandlerError, Server, Tcp, Threading};
use socketserver_http::{Content, Http, IntoResponse, Request};
use tungstenite::handshake::server::create_response_with_body;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

fn answer(request: &Request<'_>, pause: Duration) -> Result<Response<Content>, HandlerError> {
    let serve = move |conn: &mut dyn Connection| match talk(conn, pause) {
        Ok(()) | Err(Error::ConnectionClosed) => Ok(()),
        Err(Error::Io(err)) => Err(err),
        Err(err) => Err(io::Error::other(err)),
    };
    // Checks the fields of the request, and answers with the accept key.
    create_response_with_body(request, || Content::upgrade(serve))
        .or_else(|err| (StatusCode::BAD_REQUEST, format!("{err}\n")).into_response())
}

fn talk(conn: &mut dyn Connection, pause: Duration) -> Result<(), Error> {
    // The default is 64 MiB.
    let config = WebSocketConfig::default().max_message_size(Some(16 << 20));
    let mut socket = WebSocket::from_raw_socket(conn, Role::Server, Some(config));
    let mut next = Instant::now() + pause;
    for count in 1.. {
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            match timeout(left, || socket.read()) {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message)?,
                // Sends the answer, and returns that the socket is closed.
                Ok(Message::Close(_)) => return socket.flush(),
                Ok(_) => {}
                // The part of a message that has come stays in the socket.
                Err(Error::Io(err)) if err.kind() == io::ErrorKind::TimedOut => break,
                Err(err) => return Err(err),
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
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    let http = Http::new(move |request: &mut Request<'_>| answer(request, pause));
    server.serve_forever(http.serve())?;
    Ok(())
}
