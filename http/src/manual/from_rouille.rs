//! Coming from rouille 3: each public item and its counterpart.
//!
//! rouille is a framework: it has routes, forms, cookies and sessions. This crate has HTTP alone, with the types
//! of the crate `http`; a program takes the rest from other crates.
//!
//! # The same server twice
//!
//! ```text
//! rouille::start_server("127.0.0.1:8000", move |request| {
//!     router!(request,
//!         (GET) (/) => { Response::text("hello") },
//!         (GET) (/hello/{name: String}) => { Response::text(format!("hello {name}")) },
//!         (POST) (/shout) => {
//!             let text = try_or_400!(rouille::input::plain_text_body(request));
//!             Response::text(text.to_uppercase())
//!         },
//!         _ => Response::empty_404()
//!     )
//! });
//! ```
//!
//! Here a `match` is the router:
//!
//! ```no_run
//! use std::io;
//! use http::{Method, Response, StatusCode};
//! use socketserver::{HandlerError, Server, Tcp, Threading};
//! use socketserver_http::{Content, IntoResponse, Request, serve};
//!
//! fn route(request: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
//!     let path = request.uri().path().to_owned();
//!     let names: Vec<&str> = path.split('/').skip(1).collect();
//!     match (request.method(), &names[..]) {
//!         (&Method::GET, [""]) => "hello".into_response(),
//!         (&Method::GET, ["hello", name]) => format!("hello {name}").into_response(),
//!         (&Method::POST, ["shout"]) => {
//!             let text = io::read_to_string(request.body_mut())?;
//!             text.to_uppercase().into_response()
//!         }
//!         _ => StatusCode::NOT_FOUND.into_response(),
//!     }
//! }
//!
//! Server::<Tcp, Threading>::bind("127.0.0.1:8000")?.serve_forever(serve(route))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! The paths of the crate `http` are as the client has sent them: `%20` is not decoded.
//!
//! # Servers
//!
//! | rouille | here |
//! |---|---|
//! | `start_server` | [`Server::bind`](socketserver::Server::bind) and [`serve_forever`](socketserver::Server::serve_forever) with [`serve`](crate::serve()) |
//! | `start_server_with_pool`, `Server::pool_size` | the model [`ThreadPool`](socketserver::ThreadPool) |
//! | `Server::new`, `Server::run` | [`Server::builder`](socketserver::Server::builder), [`serve_forever`](socketserver::Server::serve_forever) |
//! | `Server::new_ssl` | [`Tls<Tcp>`](crate::manual::serving#tls) |
//! | `Server::server_addr` | [`Server::local_addrs`](socketserver::Server::local_addrs) |
//! | `Server::poll`, `Server::poll_timeout` | [`Server::spawn`](socketserver::Server::spawn) serves beside the program's own loop |
//! | `Server::stoppable`, `Server::join` | [`Server::spawn`](socketserver::Server::spawn), whose guard [stops](socketserver::ServerGuard::stop) and [joins](socketserver::ServerGuard::join) |
//!
//! # `Request`
//!
//! | rouille | here |
//! |---|---|
//! | `method`, `header`, `headers`, `HeadersIter` | `request.method()`, `request.headers()` |
//! | `url` | `request.uri().path()`, decoded by the crate `percent-encoding` (`DEFAULT_ENCODE_SET` is one of its sets) |
//! | `raw_url`, `raw_query_string` | `request.uri()`: `path_and_query()`, `query()` |
//! | `get_param` | `query()` with the crate `form_urlencoded` |
//! | `data`, `RequestBody` | `request.body_mut()` |
//! | `remote_addr` | [`Body::peer`](crate::Body::peer) |
//! | `is_secure` | what the handler of the server over TLS captures |
//! | `do_not_track` | `request.headers().get("dnt")` |
//! | `remove_prefix` | `str::strip_prefix` of the path |
//! | `fake_http`, `fake_http_from`, `fake_https`, `fake_https_from` | [`TestServer`](socketserver::testing::TestServer), a server on a port of its own |
//!
//! # `Response`
//!
//! | rouille | here |
//! |---|---|
//! | `text`, `from_data` | a `String`, a `Vec<u8>` |
//! | `html`, `svg`, `json` | `http::Response::builder()` with the type and the content |
//! | `from_file` | a [`File`](std::fs::File) |
//! | `empty_204`, `empty_400`, `empty_404`, `empty_406` | a `StatusCode`; `()` is 204, and `None` is 404 |
//! | `redirect_301` to `redirect_308` | `http::Response::builder()` with the status and `Location`; [`redirect_to_https`](crate::redirect_to_https) |
//! | `with_status_code` | a tuple `(StatusCode, content)` |
//! | `with_additional_header`, `with_unique_header`, `without_header` | `append`, `insert` and `remove` of `headers_mut()` |
//! | `with_etag`, `with_etag_keep`, `simplify_if_etag_match` | a comparison with `If-None-Match`, and `StatusCode::NOT_MODIFIED` |
//! | `with_public_cache`, `with_private_cache`, `with_no_cache` | the field `Cache-Control` |
//! | `with_content_disposition_attachment` | the field `Content-Disposition` |
//! | `basic_http_auth_login_required` | 401 with the field `WWW-Authenticate` |
//! | `is_success`, `is_error` | methods of `StatusCode` |
//! | `ResponseBody::from_reader`, `from_reader_and_size` | [`Content::reader`](crate::Content::reader), [`Content::sized_reader`](crate::Content::sized_reader) |
//! | `ResponseBody::from_data`, `from_string`, `from_file`, `empty` | `Content::from`, `File`, [`Content::empty`](crate::Content::empty) |
//! | `ResponseBody::into_reader_and_size` | none: a [`Content`](crate::Content) is read by the server alone |
//! | `Upgrade`, `ReadWrite` | [`Content::upgrade`](crate::Content::upgrade), [`Connection`](socketserver::Connection) |
//!
//! # Macros, functions and modules
//!
//! | rouille | here |
//! |---|---|
//! | `router!`, `find_route!` | `match`, or a crate such as `matchit` |
//! | `try_or_400!`, `ErrJson`, `assert_or_400!`, `try_or_404!` | `return StatusCode::BAD_REQUEST.into_response()`; `?` answers 500 |
//! | `input::plain_text_body`, `plain_text_body_with_limit` | [`read_to_string`](std::io::read_to_string) of the body, within [`body_bytes`](crate::Http::body_bytes) |
//! | `input::json_input` | `serde_json::from_reader` of the body, as in the example `json_counter` |
//! | `post_input!`, `input::post`, `raw_urlencoded_post_input` | the crate `form_urlencoded` |
//! | `input::multipart` | a crate for `multipart/form-data`, which reads the body |
//! | `input::cookies`, `input::basic_http_auth` | the crates `cookie`, `base64` |
//! | `accept!`, `input::priority_header_preferred`, `parse_priority_header` | `request.headers()` |
//! | `session`, `generate_session_id` | a cookie and a map behind a lock; not to be confused with [`Handler::Session`](crate::Handler::Session), which belongs to a connection |
//! | `log`, `log_custom` | [`Http::access_log`](crate::Http::access_log), [`Http::on_access`](crate::Http::on_access) |
//! | `match_assets`, `extension_to_mime` | [`Files::respond`](crate::Files::respond), the crate `mime_guess` |
//! | `content_encoding::apply` | a crate for compression, over the content |
//! | `websocket` | the example `web_socket`, with `tungstenite` |
//! | `proxy`, `full_proxy`, `cgi` | none |
