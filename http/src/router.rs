//! Routes: which handler answers which path and method.

use std::collections::HashMap;
use std::fmt;

use http::header::{ALLOW, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri};
use socketserver::HandlerError;

use crate::redirect::with_slash;
use crate::request::Params;
use crate::response::with_field;
use crate::{Content, Handler, IntoResponse, Request};

type Answer = Result<Response<Content>, HandlerError>;
type Call = Box<dyn Fn(&mut Request<'_>) -> Answer + Send + Sync>;

/// A [`Handler`] that passes each request to the handler of its path and method.
///
/// A part of a path in braces is a parameter: `{id}` stands for one segment, or for a part of one as in `/v{id}.txt`,
/// and `{*rest}` at the end for everything that follows, slashes included.
/// [`RequestExt::param`](crate::RequestExt::param) returns it, percent-decoded. A segment that is written out comes
/// before a parameter, so `/users/me` is not a user of `/users/{id}`; `{{` and `}}` stand for braces.
///
/// | request | answer |
/// |---|---|
/// | an unknown path | the [`fallback`](Self::fallback), or 404 |
/// | a known path with another method | 405 with `Allow` |
/// | `HEAD`, where `GET` has a handler and `HEAD` has none | that of `GET`, without its content |
/// | `OPTIONS` without a handler | 204 with `Allow` |
/// | `OPTIONS *` | 204, with `Allow` if all routes name their methods and there is no fallback |
///
/// Paths are compared byte for byte, but for one thing: letters, digits, `-`, `.`, `_` and `~` need no escape, so those
/// that have one lose it, in the target that handlers see too: `/%61` is `/a` (RFC 3986, section 6.2.2.2). Behind a
/// malformed escape, as in `/100%`, nothing changes. `/a/`, `//a`, `/./a` and `/A` are other paths than `/a`, and `%2F` is
/// no slash. So a check around the handler of a route or of a prefix protects that route alone: beside `/{*rest}`, a path
/// such as `//admin/x` does not belong to `/admin`. A check around the whole router sees all requests.
///
/// The path alone decides which route is taken, then the method.
///
/// Handlers are functions, closures that name the type of their parameter (`|request: &mut Request<'_>|`), and other
/// [`Handler`]s without a session of their own, as routers and wrappers of handlers. State that they share is an
/// [`Arc`](std::sync::Arc) that closures capture.
///
/// # Panics
///
/// Routes are the program's own text, so a mistake in one panics when it is added: a path without a slash at its
/// beginning, with a query or with other characters than visible ASCII, and one with malformed parameters, or with two in
/// a segment. Two routes panic
///
/// - if they have the same path and the same method, or the same path and one is of all methods;
/// - if they differ only in the names of parameters, as `/{a}/c` and `/{b}/c`;
/// - if both have `{*rest}` in the same place, or one has it where the other has a segment that is no more than `{id}`, or
///   ends in text, as `/{id}.txt`;
/// - if one is a prefix: it is a route with a slash at its end, and another with `{*rest}` behind that;
/// - if segments in the same place have text on different sides of their parameters, as `/a-{id}` and `/{id}.txt`, or both
///   have it on both sides, as `/a-{id}.txt` and `/b-{id}.txt`.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
/// use socketserver::{Server, Tcp, Threading};
/// use socketserver_http::{Http, HttpError, Request, RequestExt, Router};
///
/// fn user(request: &mut Request<'_>) -> Result<String, HttpError> {
///     let id: u64 = request.param("id")?;
///     Ok(format!("user {id}\n"))
/// }
///
/// let visits = Arc::new(AtomicU64::new(0));
/// let counted = Arc::clone(&visits);
/// let router = Router::new()
///     .get("/", |_: &mut Request<'_>| "hello\n")
///     .get("/users/{id}", user)
///     .post("/visits", move |_: &mut Request<'_>| {
///         format!("{}\n", counted.fetch_add(1, Ordering::Relaxed) + 1)
///     })
///     .get("/visits", move |_: &mut Request<'_>| format!("{}\n", visits.load(Ordering::Relaxed)));
///
/// let http = Http::handler(router);
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(http.serve())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// What all routes need is a function from a handler to a handler:
///
/// ```
/// use http::HeaderValue;
/// use http::header::CACHE_CONTROL;
/// use socketserver::HandlerError;
/// use socketserver_http::{Handler, Http, Request, Router};
///
/// fn uncached(inner: impl Handler<Session = ()>) -> impl Handler<Session = ()> {
///     move |request: &mut Request<'_>| {
///         let mut response = inner.call(&mut (), request)?;
///         response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
///         Ok::<_, HandlerError>(response)
///     }
/// }
///
/// let router = Router::new().get("/time", |_: &mut Request<'_>| "now\n");
/// let http = Http::handler(uncached(router));
/// # drop(http);
/// ```
#[derive(Default)]
#[must_use]
pub struct Router {
    /// The index of each path's target.
    paths: matchit::Router<usize>,
    targets: Vec<Target>,
    /// The index of each target with methods, by its path as it was written.
    written: HashMap<String, usize>,
    fallback: Option<Call>,
}

/// What a path leads to.
enum Target {
    Methods(Vec<(Method, Call)>),
    Any(Call),
    /// A handler of all paths below one.
    Below(Call),
}

impl Router {
    /// Makes a router without routes, which answers 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `GET`, and `HEAD` if that has no handler of its own.
    #[track_caller]
    pub fn get(self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.route(Method::GET, path, handler)
    }

    /// Answers `POST`.
    #[track_caller]
    pub fn post(self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.route(Method::POST, path, handler)
    }

    /// Answers `PUT`.
    #[track_caller]
    pub fn put(self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.route(Method::PUT, path, handler)
    }

    /// Answers `PATCH`.
    #[track_caller]
    pub fn patch(self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.route(Method::PATCH, path, handler)
    }

    /// Answers `DELETE`.
    #[track_caller]
    pub fn delete(self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.route(Method::DELETE, path, handler)
    }

    /// Answers one method of a path.
    ///
    /// # Panics
    ///
    /// The route is a mistake; see [`Router`].
    #[track_caller]
    pub fn route(
        mut self,
        method: Method,
        path: &str,
        handler: impl Handler<Session = ()>,
    ) -> Self {
        let next = self.targets.len();
        let index = *self.written.entry(path.to_owned()).or_insert(next);
        if index == next {
            self.insert(&format!("the route {path:?}"), path, index);
            self.targets.push(Target::Methods(Vec::new()));
        }
        if let Target::Methods(methods) = &mut self.targets[index] {
            let is_new = methods.iter().all(|(other, _)| *other != method);
            assert!(is_new, "the route {path:?} has {method} already");
            methods.push((method, call_of(handler)));
        }
        self
    }

    /// Answers all methods of a path.
    #[track_caller]
    pub fn any(mut self, path: &str, handler: impl Handler<Session = ()>) -> Self {
        self.insert(&format!("the route {path:?}"), path, self.targets.len());
        self.targets.push(Target::Any(call_of(handler)));
        self
    }

    /// Answers all methods of all paths below a prefix: with another router, for example. The handler sees the path
    /// without the prefix, as in `/b?c` of `/a/b?c` below `/a`, and the parameters of the prefix. Longer routes that are
    /// written out come before it. The prefix alone, `/a`, is redirected to `/a/` by 308, unless it has a route: one like
    /// `/{*rest}` counts. A nested router answers all that is below its prefix, with its own fallback or 404, so the
    /// fallback of the outer one does not see that.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver_http::{HttpError, Request, RequestExt, Router};
    ///
    /// fn order(request: &mut Request<'_>) -> Result<String, HttpError> {
    ///     let (user, order): (String, u64) = (request.param("user")?, request.param("order")?);
    ///     Ok(format!("order {order} of {user}\n"))
    /// }
    ///
    /// // `GET /users/anna/orders/3`
    /// let orders = Router::new().get("/{order}", order);
    /// let router = Router::new().nest("/users/{user}/orders", orders);
    /// ```
    #[track_caller]
    pub fn nest(mut self, prefix: &str, handler: impl Handler<Session = ()>) -> Self {
        let path = prefix.trim_end_matches('/');
        let (index, named) = (self.targets.len(), format!("the prefix {prefix:?}"));
        self.insert(&named, &format!("{path}/"), index);
        self.insert(&named, &format!("{path}/{{*{REST}}}"), index);
        self.targets.push(Target::Below(call_of(handler)));
        self
    }

    /// Answers the requests whose path has no route.
    pub fn fallback(mut self, handler: impl Handler<Session = ()>) -> Self {
        self.fallback = Some(call_of(handler));
        self
    }

    /// Adds a path; `named` says what it is for.
    #[track_caller]
    fn insert(&mut self, named: &str, path: &str, index: usize) {
        let is_path = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic())
            && !path.contains(['?', '#']);
        assert!(
            is_path,
            "{named} has to begin with a slash, and to consist of visible ASCII characters without `?` and \
             `#`: others are percent-encoded"
        );
        if let Err(err) = self.paths.insert(path, index) {
            // The path of a prefix is shown without its internal parameter.
            let reason = err.to_string().replace(&format!("{{*{REST}}}"), "");
            panic!("{named} cannot be added: {reason}");
        }
    }

    /// Answers `OPTIONS *`, with the methods if the router knows all of them.
    fn options(&self) -> Answer {
        let mut all = Vec::new();
        for target in &self.targets {
            match target {
                Target::Methods(methods) => all.extend(methods.iter().map(|(method, _)| method)),
                Target::Any(_) | Target::Below(_) => return StatusCode::NO_CONTENT.into_response(),
            }
        }
        match self.fallback {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => allowed(StatusCode::NO_CONTENT, all.into_iter()),
        }
    }

    /// Answers a request whose target is as routes are written.
    fn answer(&self, request: &mut Request<'_>) -> Answer {
        let path = request.uri().path();
        let Ok(found) = self.paths.at(path) else {
            return self.call_fallback(request);
        };
        let target = &self.targets[*found.value];
        let rest = path.len() - found.params.get(REST).map_or(0, str::len);
        let params = found.params.iter().filter(|(name, _)| *name != REST);
        let params: Vec<_> = params
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Params::add(request, params);
        match target {
            Target::Methods(methods) => call_method(methods, request),
            Target::Any(call) => call(request),
            Target::Below(call) => {
                let whole = request.uri().path_and_query().map(PathAndQuery::as_str);
                let below = with_target(request.uri(), &whole.unwrap_or("/")[rest - 1..])?;
                let guard = Replaced::new(request, below);
                call(&mut *guard.request)
            }
        }
    }

    /// Answers a request whose path has no route.
    fn call_fallback(&self, request: &mut Request<'_>) -> Answer {
        if let Some(location) = self.directory(request.uri()) {
            let location = HeaderValue::try_from(location)?;
            return with_field(StatusCode::PERMANENT_REDIRECT, LOCATION, location);
        }
        match &self.fallback {
            Some(fallback) => fallback(request),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// Where a path is redirected to that is the prefix of a handler, but for its slash.
    fn directory(&self, uri: &Uri) -> Option<String> {
        // `CONNECT` has no path.
        let path = Some(uri.path()).filter(|path| !path.is_empty())?;
        let directory = format!("{path}/");
        let found = self.paths.at(&directory).ok()?;
        let is_below = matches!(self.targets[*found.value], Target::Below(_));
        if !is_below || found.params.get(REST).is_some() {
            return None;
        }
        Some(with_slash(uri))
    }
}

/// The name of the parameter behind a prefix.
const REST: &str = "!";

fn call_of(handler: impl Handler<Session = ()>) -> Call {
    Box::new(move |request| handler.call(&mut (), request))
}

impl Handler for Router {
    type Session = ();

    fn call(&self, (): &mut (), request: &mut Request<'_>) -> Answer {
        let uri = request.uri();
        if uri.path() == "*" && request.method() == Method::OPTIONS {
            return self.options();
        }
        let Some(path) = unescaped(uri.path()) else {
            return self.answer(request);
        };
        let query = uri.query().map(|query| format!("?{query}"));
        let uri = with_target(uri, &(path + &query.unwrap_or_default()))?;
        let guard = Replaced::new(request, uri);
        self.answer(&mut *guard.request)
    }
}

/// A path without the escapes of characters that need none, up to the first malformed escape: behind that, a character
/// could make another escape with those before it. `None` if that is the path itself.
fn unescaped(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let (mut text, mut rest) = (String::new(), path);
    while let Some((before, behind)) = rest.split_once('%') {
        let digits = behind.get(..2).unwrap_or_default();
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let Some(byte) = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex) else {
            break;
        };
        text += before;
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                text.push(char::from(byte));
            }
            _ => text.extend(["%", digits]),
        }
        rest = &behind[2..];
    }
    text += rest;
    (text.len() < path.len()).then_some(text)
}

fn call_method(methods: &[(Method, Call)], request: &mut Request<'_>) -> Answer {
    let named = |name: &Method| {
        let found = methods.iter().find(|(method, _)| method == name);
        found.map(|(_, call)| call)
    };
    let method = request.method();
    let call = match *method {
        Method::HEAD => named(method).or_else(|| named(&Method::GET)),
        _ => named(method),
    };
    if let Some(call) = call {
        return call(request);
    }
    let status = match *method {
        Method::OPTIONS => StatusCode::NO_CONTENT,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    allowed(status, methods.iter().map(|(method, _)| method))
}

/// A response that says which methods there are, with those that the router adds.
fn allowed<'a>(status: StatusCode, methods: impl Iterator<Item = &'a Method>) -> Answer {
    let mut names = Vec::new();
    let mut add = |name: &'a str| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for method in methods {
        add(method.as_str());
        if method == Method::GET {
            add("HEAD");
        }
    }
    add("OPTIONS");
    with_field(status, ALLOW, HeaderValue::try_from(names.join(", "))?)
}

/// A target with another path and query.
fn with_target(uri: &Uri, target: &str) -> Result<Uri, http::Error> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target)?);
    Ok(Uri::from_parts(parts)?)
}

/// A request with another target. Its own one comes back at the end, also that of a panic, so that observers see it.
struct Replaced<'a, 'b> {
    request: &'a mut Request<'b>,
    own: Uri,
}

impl<'a, 'b> Replaced<'a, 'b> {
    fn new(request: &'a mut Request<'b>, uri: Uri) -> Self {
        let own = std::mem::replace(request.uri_mut(), uri);
        Self { request, own }
    }
}

impl Drop for Replaced<'_, '_> {
    fn drop(&mut self) {
        std::mem::swap(self.request.uri_mut(), &mut self.own);
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("targets", &self.targets.len())
            .field("fallback", &self.fallback.is_some())
            .finish_non_exhaustive()
    }
}
