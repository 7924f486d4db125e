//! Routes, forms, cookies and authentication, as clients see them: in bytes, over real sockets.

mod auth;
#[cfg(feature = "cookies")]
mod cookies;
mod forms;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "multipart")]
mod multipart;
mod router;

use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use socketserver::testing::TestServer;
use socketserver::{Server, Tcp, Threading};
use socketserver_http::{Handler, Http};

/// What a test waits for comes long before.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server of one handler.
struct Served(TestServer<Tcp>);

impl Served {
    fn new(handler: impl Handler<Session = ()>) -> Self {
        Self::with(Http::handler(handler))
    }

    fn with<H: Handler>(http: Http<H>) -> Self {
        let server = Server::<Tcp>::builder().model(Threading::default());
        let server = server.bind("127.0.0.1:0").expect("bind");
        Self(TestServer::spawn(server, http.serve()))
    }

    /// Sends bytes on a connection of their own, and returns all that comes, with `\n` for each CR LF, without `date`.
    #[track_caller]
    fn exchange(&self, sent: &[u8]) -> String {
        let mut client = self.0.connect();
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client
            .set_write_timeout(Some(DEADLINE))
            .expect("a deadline");
        // A server that has answered without the whole body may have closed the connection.
        let may_be_closed = |err: &io::Error| {
            let kinds = [BrokenPipe, ConnectionReset, NotConnected];
            assert!(kinds.contains(&err.kind()), "{err}");
        };
        let _ = client.write_all(sent).inspect_err(may_be_closed);
        let _ = client.shutdown(Shutdown::Write).inspect_err(may_be_closed);
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).inspect_err(may_be_closed);
        let answer = String::from_utf8(answer).expect("text");
        let lines = answer.split("\r\n");
        let lines = lines.filter(|line| !line.starts_with("date: "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Sends a request with some fields, each of which ends with CR LF, and a body.
    #[track_caller]
    fn ask(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> String {
        let mut sent = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}").into_bytes();
        if !body.is_empty() {
            sent.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        sent.extend_from_slice(b"\r\n");
        sent.extend_from_slice(body);
        self.exchange(&sent)
    }

    /// Returns the status and the content of the answer to a request.
    #[track_caller]
    fn outcome(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> (u16, String) {
        outcome(&self.ask(method, target, fields, body))
    }
}

/// The status and the content of an answer.
#[track_caller]
fn outcome(answer: &str) -> (u16, String) {
    let (head, content) = answer.split_once("\n\n").expect("a whole head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.expect("a status"), content.to_owned())
}

/// The value of a field of an answer.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\n\n")?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(own, _)| *own == name).map(|(_, value)| value)
}
