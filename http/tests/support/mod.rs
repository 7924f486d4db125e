//! A server under test, and clients that send bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use http::Response;
use socketserver::testing::TestServer;
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::{Content, Http, Request};

/// What a test waits for comes long before.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What a client sends in one go, and all that it receives then, with `\n` for each CR LF and without `date`.
pub(crate) struct Exchange {
    pub(crate) name: &'static str,
    pub(crate) sent: &'static [u8],
    pub(crate) answer: &'static str,
}

type Answer = Result<Response<Content>, HandlerError>;

/// Plays exchanges with a server, and compares.
pub(crate) fn converse(handler: fn(&mut Request<'_>) -> Answer, exchanges: &[Exchange]) {
    let http = Http::new(handler).body_bytes(1000);
    let server = Server::<Tcp>::builder().model(Threading::default());
    let server = server.bind("127.0.0.1:0").expect("bind");
    let server = TestServer::spawn(server, http.serve());
    for exchange in exchanges {
        let mut client = server.connect();
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(exchange.sent).expect("send");
        let answer = receive(&mut client);
        assert_eq!(answer, exchange.answer, "{}", exchange.name);
    }
    let _ = server.stop();
}

/// Ends its own side, and receives to the end.
fn receive(client: &mut TcpStream) -> String {
    client.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("receive");
    let answer = String::from_utf8(answer).expect("text");
    let lines = answer
        .split("\r\n")
        .filter(|line| !line.starts_with("date: "));
    lines.collect::<Vec<_>>().join("\n")
}
