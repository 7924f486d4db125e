//! Coming from Python: each name of Python's `socketserver` and its counterpart.
//!
//! The module [`python`](crate::python) has the servers under the names that Python has for them
//! (`ThreadingTCPServer` is [`ThreadingTcpServer`](crate::python::ThreadingTcpServer)). The
//! tables below, from `docs/coming-from-python.md`, list each name. Most of a migration is four
//! changes:
//!
//! - the handler is given to [`serve_forever`](crate::Server::serve_forever), not to the constructor;
//! - class attributes are options: of the [`Builder`](crate::Builder), of the transport
//!   ([`Tcp::options`](crate::Tcp::options)), or of the model;
//! - overridden methods are hooks of the [`Builder`](crate::Builder);
//! - `shutdown` returns at once; [`serve_forever`](crate::Server::serve_forever) returns when the server
//!   has ended.
#![doc = ""]
#![doc = include_str!("../../docs/coming-from-python.md")]
