//! A chat over WebSockets, `web_chat [ADDRESS]`, in a browser too: each text goes to all clients. Slow ones are aborted.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::sync::{Arc, Mutex, PoisonError};
use std::{env, io, io::Write};

use async_channel::{Sender, bounded};
use socketserver::{Connection, Error, Server, ServerHandle, Tcp, Threading, task};
use socketserver_http::{Content, Request, serve};
use tungstenite::handshake::server::create_response_with_body;
use tungstenite::protocol::frame::{Frame, Utf8Bytes, coding::Data, coding::OpCode};
use tungstenite::{Message, WebSocket, protocol::Role, protocol::WebSocketConfig};

/// A queue of texts for each client, by the number of its connection.
type Queues = Arc<Mutex<std::collections::HashMap<u64, Sender<Utf8Bytes>>>>;

fn talk(conn: &mut dyn Connection, server: &ServerHandle, queues: &Queues) -> io::Result<()> {
    let queues = || queues.lock().unwrap_or_else(PoisonError::into_inner);
    let (id, (sender, queue), mut writer) = (conn.id(), bounded::<Utf8Bytes>(64), conn.writer()?);
    let config = WebSocketConfig::default().max_message_size(Some(4096));
    let mut socket = WebSocket::from_raw_socket(conn, Role::Server, Some(config));
    task::scope(|scope| {
        let _writes = scope.spawn(move || -> io::Result<()> {
            while let Ok(text) = task::block_on(queue.recv())? {
                let (mut bytes, kind) = (Vec::new(), OpCode::Data(Data::Text));
                let _ = Frame::message(text, kind, true).format(&mut bytes);
                writer.write_all(&bytes)?;
            }
            Ok(())
        })?;
        queues().insert(id, sender);
        while let Ok(got) = socket.read() {
            let Message::Text(text) = got else { continue };
            let is_slow = |queue: &Sender<_>| queue.try_send(text.clone()).is_err();
            queues().retain(|&id, queue| !is_slow(queue) || !server.abort(id));
        }
        queues().remove(&id);
        Ok(())
    })
}

fn main() -> Result<(), Error> {
    let server = Server::<Tcp, Threading>::builder().idle_timeout(None);
    let server = server.bind(env::args().nth(1).as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    let (handle, queues) = (server.handle(), Queues::default());
    let enter = move |request: &mut Request<'_>| {
        // Any site's page can enter; a browser says whose it is.
        let field = |name: &str| request.headers().get(name)?.to_str().ok();
        let is_own = field("origin").is_none_or(|url| url.rsplit('/').next() == field("host"));
        let (server, queues) = (handle.clone(), Arc::clone(&queues));
        let talk = move |conn: &mut dyn Connection| talk(conn, &server, &queues);
        let response = create_response_with_body(request, || Content::upgrade(talk)).ok();
        let html = || http::Response::builder().header("content-type", "text/html; charset=utf-8");
        let page = || html().body(include_str!("web_chat.html").into());
        response.filter(|_| is_own).map_or_else(page, Ok)
    };
    server.serve_forever(serve(enter)).map(drop)
}
