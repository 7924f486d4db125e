//! Connections that have writers.

use socketserver::Connection;
use socketserver::net::{TcpConnection, UnixConnection, Writer};

/// A connection of either stream transport.
pub(crate) trait Writes: Connection {
    fn new_writer(&self) -> Writer;
}

impl Writes for TcpConnection {
    fn new_writer(&self) -> Writer {
        self.writer()
    }
}

impl Writes for UnixConnection {
    fn new_writer(&self) -> Writer {
        self.writer()
    }
}
