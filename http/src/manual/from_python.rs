//! Coming from Python: each name of `http.server` and its counterpart.
//!
//! # The same server twice
//!
//! Notes that clients put and get. In Python:
//!
//! ```text
//! from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
//!
//! class Notes(BaseHTTPRequestHandler):
//!     def do_GET(self):
//!         note = self.server.notes.get(self.path)
//!         if note is None:
//!             self.send_error(404)
//!             return
//!         self.send_response(200)
//!         self.send_header("Content-Type", "text/plain")
//!         self.send_header("Content-Length", str(len(note)))
//!         self.end_headers()
//!         self.wfile.write(note)
//!
//!     def do_PUT(self):
//!         length = int(self.headers["Content-Length"])
//!         self.server.notes[self.path] = self.rfile.read(length)
//!         self.send_response(204)
//!         self.end_headers()
//!
//! with ThreadingHTTPServer(("127.0.0.1", 8000), Notes) as server:
//!     server.notes = {}
//!     server.serve_forever()
//! ```
//!
//! Here:
//!
//! ```no_run
//! use std::collections::HashMap;
//! use std::io;
//! use std::sync::{Mutex, PoisonError};
//!
//! use socketserver_http::python::{Answer, ByMethod, HttpRequestHandler, ThreadingHttpServer};
//! use socketserver_http::{Http, IntoResponse, Request};
//!
//! #[derive(Default)]
//! struct Notes(Mutex<HashMap<String, String>>);
//!
//! impl HttpRequestHandler for Notes {
//!     fn do_get(&self, request: &mut Request<'_>) -> Answer {
//!         let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let note = notes.get(request.uri().path()).cloned();
//!         // `None` is answered 404.
//!         note.into_response()
//!     }
//!
//!     fn do_put(&self, request: &mut Request<'_>) -> Answer {
//!         let path = request.uri().path().to_owned();
//!         let note = io::read_to_string(request.body_mut())?;
//!         let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         notes.insert(path, note);
//!         // `()` is answered 204.
//!         ().into_response()
//!     }
//! }
//!
//! let http = Http::handler(ByMethod::new(Notes::default())).access_log(io::stderr());
//! ThreadingHttpServer::bind("127.0.0.1:8000")?.serve_forever(http.serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! What differs:
//!
//! - A handler returns its response. The server adds the length, `Date` and `Connection`, and ends the head. The
//!   value of a field cannot have a line break.
//! - One value of the handler serves all connections, so state that its methods change is behind a lock. State of
//!   one connection is the [`Session`](crate::Handler::Session) of a [`Handler`](crate::Handler).
//! - The body ends with its last byte, whether the client has sent a length or chunks. In Python a read of `rfile`
//!   beyond it waits for the client.
//! - Connections stay open for further requests. In Python that needs `protocol_version = "HTTP/1.1"`.
//! - There are limits and time limits by default: see [Serving](crate::manual::serving).
//! - An exception is an `Err`: the client gets 500, where Python closes the connection.
//!
//! # Servers
//!
//! | in Python | here |
//! |---|---|
//! | `HTTPServer` | [`HttpServer`](crate::python::HttpServer) |
//! | `ThreadingHTTPServer` | [`ThreadingHttpServer`](crate::python::ThreadingHttpServer) |
//! | `HTTPSServer`, `ThreadingHTTPSServer` | a server over [`Tls<Tcp>`](crate::manual::serving#tls) |
//! | `server_name`, `server_port` | [`Server::local_addrs`](socketserver::Server::local_addrs) |
//! | methods of `socketserver` | [the manual of `socketserver`](socketserver::manual::coming_from_python) |
//!
//! # Handlers
//!
//! | `BaseHTTPRequestHandler` | here |
//! |---|---|
//! | `do_GET`, `do_HEAD`, `do_POST`, … | [`do_get`](crate::python::HttpRequestHandler::do_get) and so on; `do_head` answers as `do_get` by default; [`do_other`](crate::python::HttpRequestHandler::do_other) for methods without one |
//! | no `do_` method: 501 | the same |
//! | `command` | `request.method()` |
//! | `path` | `request.uri()`: `path()` and `query()` |
//! | `request_version` | `request.version()` |
//! | `requestline` | the three of them |
//! | `headers` | `request.headers()` |
//! | `rfile` | `request.body_mut()`, a [`Read`](std::io::Read) |
//! | `wfile` | the content of the response; for what is written bit by bit, [`Content::stream`](crate::Content::stream) |
//! | `client_address`, `address_string` | [`Body::peer`](crate::Body::peer) |
//! | `server` | a field of the handler, or what a closure captures |
//! | `close_connection` | a response with the field `Connection: close` |
//! | `send_response`, `send_response_only` | the status of the response |
//! | `send_header`, `end_headers`, `flush_headers` | the fields of the response |
//! | `send_error` | `(StatusCode::NOT_FOUND, "text")`, or a `StatusCode` alone |
//! | `responses`, `error_message_format`, `error_content_type` | `StatusCode::canonical_reason`; the text of an error is plain |
//! | `server_version`, `sys_version`, `version_string` | none: the server does not say what it is, unless the handler adds `Server` |
//! | `protocol_version` | none: HTTP/1.1 and HTTP/2, and HTTP/1.0 for clients that ask in it |
//! | `MessageClass` | `http::HeaderMap` |
//! | `log_message`, `log_request`, `log_error` | [`Http::access_log`](crate::Http::access_log), [`Http::on_access`](crate::Http::on_access) |
//! | `date_time_string`, `log_date_time_string` | the crate `httpdate` |
//! | `handle_expect_100` | the first read of the body sends `100 Continue`; a response without a read sends none |
//! | `handle`, `handle_one_request`, `parse_request`, `raw_requestline`, `default_request_version` | [`Http::serve`](crate::Http::serve) |
//! | `timeout` | [`head_timeout`](crate::Http::head_timeout), [`idle_timeout`](crate::Http::idle_timeout), [`body_timeout`](crate::Http::body_timeout) |
//! | `setup`, `finish` | `Default` and `Drop` of the [`Session`](crate::Handler::Session) |
//!
//! | in Python | here |
//! |---|---|
//! | `python3 -m http.server`, `test` | the example `http_server` in this crate's repository |
//! | `SimpleHTTPRequestHandler` | [`Files`](crate::Files): links that lead out, and names that begin with a dot, are not served; listings are off by default |
//! | its `directory`, `translate_path` | [`Files::open`](crate::Files::open), which opens the directory once |
//! | `index_pages` | [`Files::index`](crate::Files::index); Python's has `index.htm` too |
//! | `list_directory` | [`Files::list`](crate::Files::list) |
//! | `send_head`: `Last-Modified`, `If-Modified-Since` | the same, with `ETag`, the other [conditions](crate::Files#conditions), and ranges |
//! | `guess_type`, `extensions_map` | the crate `mime_guess`; [`Files::respond`](crate::Files::respond) returns a response whose type can be changed |
//! | `CGIHTTPRequestHandler` | none |
