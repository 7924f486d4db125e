//! The manual. The modules hold documentation and nothing else.
//!
//! - [Serving](serving): limits and time limits, models, HTTP/2, TLS, the stop, idle connections.
//! - [Files](files): a directory over HTTP, alone or as a part of a handler.
//! - [Coming from Python](from_python): each name of `http.server` and its counterpart.
//! - [Coming from `tiny_http`](from_tiny_http): each public item and its counterpart.
//! - [Coming from rouille](from_rouille): each public item and its counterpart.
//!
//! The [manual of `socketserver`](socketserver::manual) has what is the same for every protocol: models, limits
//! on connections, deadlines, the stop, sessions, TLS.

pub mod files;
pub mod from_python;
pub mod from_rouille;
pub mod from_tiny_http;
pub mod serving;
