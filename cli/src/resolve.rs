//! Host names, resolved before anything is bound: until then a signal ends the program at once.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::vec;

/// The addresses of one `HOST:PORT`, or the error of resolving it, for a later bind.
#[derive(Clone)]
pub(crate) struct Resolved {
    /// The name, for errors.
    name: String,
    /// The addresses, or the kind of error and its text.
    addrs: Result<Vec<SocketAddr>, (io::ErrorKind, String)>,
}

impl Resolved {
    pub(crate) fn new(name: &(impl ToSocketAddrs + fmt::Debug)) -> Self {
        let addrs = name.to_socket_addrs().map(Iterator::collect);
        Self {
            name: format!("{name:?}"),
            addrs: addrs.map_err(|err| {
                let text = format!("{err}; check the name, or give an address");
                (err.kind(), text)
            }),
        }
    }
}

impl ToSocketAddrs for Resolved {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        match &self.addrs {
            Ok(addrs) => Ok(addrs.clone().into_iter()),
            Err((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
