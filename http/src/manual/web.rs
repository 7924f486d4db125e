//! Web programs: routes, forms, cookies, authentication, and how errors are answered.
//!
//! # Routes
//!
//! A [`Router`](crate::Router) is the handler of a server, and passes each request to the handler of its path and
//! method:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex, PoisonError};
//! use http::StatusCode;
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Http, HttpError, Request, RequestExt, Router};
//!
//! type Notes = Mutex<BTreeMap<u32, String>>;
//!
//! fn show(notes: &Notes, request: &mut Request<'_>) -> Result<Option<String>, HttpError> {
//!     // 404 unless it is a number.
//!     let id: u32 = request.param("id")?;
//!     let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
//!     // `None` is answered 404.
//!     Ok(notes.get(&id).cloned())
//! }
//!
//! fn write(notes: &Notes, request: &mut Request<'_>) -> Result<StatusCode, HttpError> {
//!     let form = request.form()?;
//!     let (id, text): (u32, String) = (request.param("id")?, form.parse("text")?);
//!     notes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, text);
//!     Ok(StatusCode::CREATED)
//! }
//!
//! // Handlers share state as any closures do.
//! let notes = Arc::new(Notes::default());
//! let shown = Arc::clone(&notes);
//! let router = Router::new()
//!     .get("/notes/{id}", move |request: &mut Request<'_>| show(&shown, request))
//!     .post("/notes/{id}", move |request: &mut Request<'_>| write(&notes, request))
//!     .fallback(|_: &mut Request<'_>| (StatusCode::NOT_FOUND, "there are only notes here\n"));
//! let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(Http::handler(router).serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A closure needs the type of its parameter, as it is written here.
//!
//! The router answers 405 with `Allow` if the path has other methods, `HEAD` by the handler of `GET`, and `OPTIONS` with
//! 204 and `Allow`. It compares paths byte for byte, without the escapes that no character needs: `/n%6Ftes` is `/notes`,
//! and `/notes/` is not. A parameter is any text that its client has chosen, with slashes and `..` in it, so it is no path.
//! [`nest`](crate::Router::nest) gives all
//! paths below a prefix to another handler, [`any`](crate::Router::any) all methods of a path. A mistake in a route panics
//! when the route is added, so any test of the program finds it.
//!
//! # Errors
//!
//! [`HttpError`](crate::HttpError) is an error with its response. Methods that read a request fail with it, so a
//! handler uses `?`, and the client learns what was wrong:
//!
//! | | answer |
//! |---|---|
//! | a parameter of the path cannot be parsed | 404 |
//! | a field of a form is missing or cannot be parsed; text that is not UTF-8; a malformed form | 400 |
//! | the content has another type | 415 |
//! | the body is larger than its limit | 413 |
//! | the client sends its body too slowly | 408 |
//! | any other error, and a panic | 500, without its text |
//!
//! Functions that return [`io::Result`](std::io::Result) can use `?` too: the error stays within the `io::Error`.
//! [Observers](crate::Http::on_access) receive all errors of handlers, with their causes.
//!
//! # Forms
//!
//! [`RequestExt`](crate::RequestExt) has a method for each:
//!
//! | content | method | in memory |
//! |---|---|---|
//! | the query | [`query`](crate::RequestExt::query) | all of it |
//! | `application/x-www-form-urlencoded` | [`form`](crate::RequestExt::form) | all of it, at most 2 MiB and 1,000 fields |
//! | JSON (feature `json`) | `json` | the value; its text has at most 2 MiB |
//! | `multipart/form-data` (feature `multipart`) | `multipart` | a few pieces of 16 KiB |
//! | anything else | [`body_mut`](http::Request::body_mut), a [`Read`](std::io::Read) | what the handler reads |
//!
//! A body is limited by [`Http::body_bytes`](crate::Http::body_bytes) as well, to 2 MiB by default, and
//! [`Body::set_limit`](crate::Body::set_limit) changes that for one request: for uploads, for example. The name of a
//! file is any text that its client has chosen, so it is no path either; `Field::safe_file_name` returns a component that is
//! safe to join to a folder. The example `upload` stores files.
//!
//! # Cookies
//!
//! With the feature `cookies`, `RequestExt::cookies` returns the `CookieJar` of the crate `cookie`. A handler that returns
//! the jar beside its content sets what it has added, and removes what it has removed. Values are percent-encoded on their
//! way, so any text is safe in them; names, paths and domains are not, so they are the program's own text. Sessions are a program's own: a random name in a cookie
//! with `HttpOnly`, `Secure` and `SameSite`, and a map behind a lock.
//!
//! # Authentication
//!
//! [`auth::basic`](crate::auth::basic()) and [`auth::bearer`](crate::auth::bearer()) are handlers around a handler, so they
//! protect a route, all that is nested below a prefix, or a server. A check around a route protects no other, and a path
//! such as `//api/x` belongs to `/{*rest}` and not to `/api`: where there is such a route, put the check around the router.
//!
//! ```
//! use socketserver_http::{Http, Request, RequestExt, Router, auth};
//!
//! let token = std::env::var("API_TOKEN").unwrap_or_else(|_| "QWxhZGRpbjpvcGVu".to_owned());
//! let check = move |given: &str| auth::constant_time_eq(given, &token).then(|| "robot".to_owned());
//! let api = Router::new().get("/whoami", |request: &mut Request<'_>| {
//!     format!("{}\n", request.user().unwrap_or_default())
//! });
//! let router = Router::new()
//!     .get("/", |_: &mut Request<'_>| "open to all\n")
//!     .nest("/api", auth::bearer("api", check, api));
//! let http = Http::handler(router);
//! # drop(http);
//! ```
//!
//! Secrets are compared by [`constant_time_eq`](crate::auth::constant_time_eq). `auth::Htpasswd` (feature `htpasswd`) reads
//! files that `htpasswd -B` writes; few hashes are computed at the same time, and further requests wait for their turn. Both schemes send a secret with each request, so they belong behind TLS.
//!
//! # Around handlers
//!
//! A handler that takes a handler is a middleware. This one allows pages of another origin to read:
//!
//! ```
//! use http::HeaderValue;
//! use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
//! use socketserver::HandlerError;
//! use socketserver_http::{Handler, Http, Request, Router};
//!
//! fn shared(origin: &'static str, inner: impl Handler<Session = ()>) -> impl Handler<Session = ()> {
//!     move |request: &mut Request<'_>| {
//!         let mut response = inner.call(&mut (), request)?;
//!         let origin = HeaderValue::from_static(origin);
//!         response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
//!         Ok::<_, HandlerError>(response)
//!     }
//! }
//!
//! let router = Router::new().get("/", |_: &mut Request<'_>| "hello\n");
//! let http = Http::handler(shared("https://www.example.com", router));
//! # drop(http);
//! ```
//!
//! An error of the inner handler passes such a function by `?`, and is answered by the server.
