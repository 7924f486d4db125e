//! What the peers have in common: how they say where they listen, and what they do with a connection.

use std::env;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use anyhow::{Result, bail};

/// What is done with a connection. The runner names it in the arguments.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// Reads once, answers, ends.
    Once,
    /// Sends back what it receives until the client ends: what `socketserver serve echo` does.
    Echo,
}

impl Handler {
    /// Takes the handler from the first argument.
    pub fn from_args() -> Result<Self> {
        match env::args().nth(1).as_deref() {
            Some("once") => Ok(Self::Once),
            Some("echo") => Ok(Self::Echo),
            _ => bail!("the first argument is the handler: once or echo"),
        }
    }

    /// Serves a connection.
    pub fn serve(self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        match self {
            Self::Once => {
                let mut buf = [0; 1024];
                let count = stream.read(&mut buf)?;
                stream.write_all(&buf[..count])
            }
            Self::Echo => {
                let mut buf = [0; 16 * 1024];
                loop {
                    let count = stream.read(&mut buf)?;
                    if count == 0 {
                        return Ok(());
                    }
                    stream.write_all(&buf[..count])?;
                }
            }
        }
    }
}

/// Tells the runner where to connect to.
pub fn announce(scheme: &str, addr: SocketAddr) {
    eprintln!("listening on {scheme}://{addr}");
}
