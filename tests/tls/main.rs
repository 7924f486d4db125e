//! TLS within one process: certificates and their errors, clients, reloads, hostile peers, and
//! connections out. Every model serves it in `matrix.rs`.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod clients;
mod connector;
mod duplex;
mod handshakes;
mod hostile;
mod protocol;
mod reload;
mod writers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socketserver::model::Model;
use socketserver::net::{Bind, TcpConnection};
use socketserver::tls::{Tls, TlsBuilder, TlsConfig, TlsConnection};
use socketserver::{Builder, IntoOutcome, Server, ServerGuard, Tcp, Threading};
use support::DEADLINE;
use support::tls::{Authority, Pair};
use tempfile::TempDir;

type Conn = TlsConnection<TcpConnection>;

/// An authority, and a folder for its certificates.
struct Setup {
    authority: Authority,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        Self {
            authority: Authority::new(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A file in the folder.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write a file");
        path
    }

    /// Issues a certificate, and writes it into files of this name.
    fn pair(&self, file: &str, names: &[&str]) -> Pair {
        let pair = self.authority.issue(names);
        pair.write(self.folder.path(), file);
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The options of a server whose certificate is for `localhost`.
    fn options(&self) -> TlsBuilder {
        self.pair("server", &["localhost"]);
        TlsConfig::builder().certificate(self.path("server.pem"), self.path("server.key"))
    }

    fn client(&self) -> ClientConfig {
        self.authority.client()
    }
}

/// Listens on a free port.
fn builder(tls: &TlsConfig) -> Builder<Tls<Tcp>, Threading> {
    let listeners = tls.listen(Tcp::bind("127.0.0.1:0").expect("bind"));
    Server::<Tls<Tcp>, Threading>::builder().listen(listeners)
}

fn spawn<M: Model, O: IntoOutcome>(
    builder: Builder<Tls<Tcp>, M>,
    handler: impl Fn(&mut Conn) -> O + Send + Sync + 'static,
) -> (ServerGuard, SocketAddr) {
    let server = builder.build().expect("build");
    let address = server.local_addrs()[0].socket_addr().expect("TCP");
    (server.spawn(handler).expect("spawn"), address)
}

/// Connects without TLS.
fn plain(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

/// Connects a client whose stream another thread encrypts.
fn pumped(address: SocketAddr, config: ClientConfig) -> UnixStream {
    support::tls::plain(plain(address), config)
}

/// A client that encrypts where it is called.
type Client = StreamOwned<ClientConnection, TcpStream>;

/// Connects a client that asks for a name.
fn connect(address: SocketAddr, config: &ClientConfig, name: &str) -> Client {
    let name = name.to_owned().try_into().expect("a name");
    let tls = ClientConnection::new(config.clone().into(), name).expect("a client");
    StreamOwned::new(tls, plain(address))
}

/// Sends a line and returns the answer up to the end.
fn ask(client: &mut (impl Read + Write), line: &str) -> std::io::Result<String> {
    client.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}
