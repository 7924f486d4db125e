//! Echo over TLS: `std::thread::spawn` and rustls' own stream for each connection.
//!
//! `thread_tls echo tcp BUFFER`

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use bench_peers::{echo, listen_tls, size_from_args, tls_config};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn main() -> Result<()> {
    let (config, size) = (tls_config()?, size_from_args()?);
    let listener = listen_tls()?;
    loop {
        let (stream, _) = listener.accept()?;
        let config = Arc::clone(&config);
        // A client that is gone is no failure of the server.
        thread::spawn(move || serve(config, stream, size));
    }
}

fn serve(config: Arc<ServerConfig>, stream: TcpStream, size: usize) -> io::Result<()> {
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    echo(&mut stream, size)?;
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(())
}
