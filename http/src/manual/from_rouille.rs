//! Coming from rouille 3: each public item and its counterpart.
//!
//! rouille is a framework. This crate has routes, forms, cookies and authentication too, with the types of the crate
//! `http`; templates and sessions of users are other crates'.
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
//! Here:
//!
//! ```no_run
//! use std::io;
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Http, HttpError, Request, RequestExt, Router};
//!
//! fn hello(request: &mut Request<'_>) -> Result<String, HttpError> {
//!     let name: String = request.param("name")?;
//!     Ok(format!("hello {name}"))
//! }
//!
//! fn shout(request: &mut Request<'_>) -> io::Result<String> {
//!     let text = io::read_to_string(request.body_mut())?;
//!     Ok(text.to_uppercase())
//! }
//!
//! let router = Router::new()
//!     .get("/", |_: &mut Request<'_>| "hello")
//!     .get("/hello/{name}", hello)
//!     .post("/shout", shout);
//! Server::<Tcp, Threading>::bind("127.0.0.1:8000")?.serve_forever(Http::handler(router).serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A known path with another method is answered 405, and not 404. The paths of the crate `http` are as the client has
//! sent them: `%20` is not decoded. Parameters are.
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
//! | `get_param` | [`RequestExt::query`](crate::RequestExt::query) |
//! | `data`, `RequestBody` | `request.body_mut()` |
//! | `remote_addr` | [`Body::peer`](crate::Body::peer) |
//! | `is_secure` | what the handler of the server over TLS captures; behind a trusted proxy [`Body::scheme`](crate::Body::scheme) |
//! | `do_not_track` | `request.headers().get("dnt")` |
//! | `remove_prefix` | [`Router::nest`](crate::Router::nest) |
//! | `fake_http`, `fake_http_from`, `fake_https`, `fake_https_from` | [`TestServer`](socketserver::testing::TestServer), a server on a port of its own |
//!
//! # `Response`
//!
//! | rouille | here |
//! |---|---|
//! | `text`, `from_data` | a `String`, a `Vec<u8>` |
//! | `html`, `svg`, `json` | `http::Response::builder()` with the type and the content; `Json` (feature `json`) |
//! | `from_file` | a [`File`](std::fs::File) |
//! | `empty_204`, `empty_400`, `empty_404`, `empty_406` | a `StatusCode`; `()` is 204, and `None` is 404 |
//! | `redirect_301` to `redirect_308` | `http::Response::builder()` with the status and `Location`; [`redirect_to_https`](crate::redirect_to_https) |
//! | `with_status_code` | a tuple `(StatusCode, content)` |
//! | `with_additional_header`, `with_unique_header`, `without_header` | `append`, `insert` and `remove` of `headers_mut()` |
//! | `with_etag`, `with_etag_keep`, `simplify_if_etag_match` | a comparison with `If-None-Match`, and `StatusCode::NOT_MODIFIED` |
//! | `with_public_cache`, `with_private_cache`, `with_no_cache` | the field `Cache-Control` |
//! | `with_content_disposition_attachment` | the field `Content-Disposition` |
//! | `basic_http_auth_login_required` | [`auth::basic`](crate::auth::basic()), a handler around a handler |
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
//! | `router!` | [`Router`](crate::Router) |
//! | `find_route!` | [`Router::fallback`](crate::Router::fallback), with another router |
//! | `try_or_400!`, `ErrJson`, `assert_or_400!`, `try_or_404!` | `?` with an [`HttpError`](crate::HttpError); with other errors it answers 500 |
//! | `input::plain_text_body`, `plain_text_body_with_limit` | [`read_to_string`](std::io::read_to_string) of the body, within [`body_bytes`](crate::Http::body_bytes) |
//! | `input::json_input` | `RequestExt::json` (feature `json`) |
//! | `post_input!`, `input::post`, `raw_urlencoded_post_input` | [`RequestExt::form`](crate::RequestExt::form) |
//! | `input::multipart` | `RequestExt::multipart` (feature `multipart`) |
//! | `input::cookies` | `RequestExt::cookies` (feature `cookies`) |
//! | `input::basic_http_auth` | [`auth::basic`](crate::auth::basic()), and [`RequestExt::user`](crate::RequestExt::user) behind it |
//! | `accept!`, `input::priority_header_preferred`, `parse_priority_header` | `request.headers()` |
//! | `session`, `generate_session_id` | a cookie and a map behind a lock; not to be confused with [`Handler::Session`](crate::Handler::Session), which belongs to a connection |
//! | `log`, `log_custom` | [`Http::access_log`](crate::Http::access_log), [`Http::on_access`](crate::Http::on_access) |
//! | `match_assets`, `extension_to_mime` | [`Files::respond`](crate::Files::respond), the crate `mime_guess` |
//! | `content_encoding::apply` | a crate for compression, over the content |
//! | `websocket` | the example `web_socket`, with `tungstenite` |
//! | `proxy`, `full_proxy`, `cgi` | none |
