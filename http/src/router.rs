//! Routes: which handler answers which path and method.

use std::collections::HashMap;
use std::fmt;

use http::header::{ALLOW, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri};
use socketserver::HandlerError;

use crate::request::Params;
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
/// | `OPTIONS` without a handler, also `OPTIONS *` | 204 with `Allow` |
///
/// Paths are compared as the client has sent them, byte for byte: `/a` is not `/a/`, and `/%61` is not `/a`. The path
/// alone decides which route is taken, then the method.
///
/// Handlers are functions, closures that name the type of their parameter (`|request: &mut Request<'_>|`), and other
/// [`Handler`]s without a session of their own, as routers and wrappers of handlers. State that they share is an
/// [`Arc`](std::sync::Arc) that closures capture.
///
/// # Panics
///
/// Routes are the program's own text, so a mistake in one panics when it is added: a path without a slash at its
/// beginning, with a query or with other characters than visible ASCII, one with malformed parameters, one that differs
/// from another only in the names of parameters, and a method that the path has already.
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
            self.insert(path, index);
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
        self.insert(path, self.targets.len());
        self.targets.push(Target::Any(call_of(handler)));
        self
    }

    /// Answers all methods of all paths below a prefix: with another router, for example. The handler sees the path
    /// without the prefix, as in `/b?c` of `/a/b?c` below `/a`, and the parameters of the prefix. Longer routes that are
    /// written out come before it. The prefix alone, `/a`, is redirected to `/a/` by 308, unless it has a route.
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
        let prefix = prefix.trim_end_matches('/');
        let index = self.targets.len();
        self.insert(&format!("{prefix}/"), index);
        self.insert(&format!("{prefix}/{{*{REST}}}"), index);
        self.targets.push(Target::Below(call_of(handler)));
        self
    }

    /// Answers the requests whose path has no route.
    pub fn fallback(mut self, handler: impl Handler<Session = ()>) -> Self {
        self.fallback = Some(call_of(handler));
        self
    }

    #[track_caller]
    fn insert(&mut self, path: &str, index: usize) {
        let is_path = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic())
            && !path.contains(['?', '#']);
        assert!(
            is_path,
            "the route {path:?} has to begin with a slash, and to consist of visible ASCII characters without `?` and \
             `#`: others are percent-encoded"
        );
        if let Err(err) = self.paths.insert(path, index) {
            panic!("the route {path:?} cannot be added: {err}");
        }
    }

    /// The methods that some target has.
    fn all_methods(&self) -> impl Iterator<Item = &Method> {
        self.targets
            .iter()
            .flat_map(|target| match target {
                Target::Methods(methods) => &methods[..],
                Target::Any(_) | Target::Below(_) => &[],
            })
            .map(|(method, _)| method)
    }

    /// Answers a request whose path has no route.
    fn call_fallback(&self, request: &mut Request<'_>) -> Answer {
        if let Some(location) = self.directory(request.uri()) {
            let response = Response::builder()
                .status(StatusCode::PERMANENT_REDIRECT)
                .header(LOCATION, location);
            return Ok(response.body(Content::empty())?);
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
        // Relative: so it holds below another router, and never names another host, as `//name` would.
        let name = path.rsplit('/').next()?;
        let query = uri.query().map(|query| format!("?{query}"));
        Some(format!("./{name}/{}", query.unwrap_or_default()))
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
        let path = request.uri().path();
        if path == "*" && request.method() == Method::OPTIONS {
            return allowed(StatusCode::NO_CONTENT, self.all_methods());
        }
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
                let below = below(request.uri(), rest - 1)?;
                let guard = Replaced::new(request, below);
                call(&mut *guard.request)
            }
        }
    }
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
    let mut response = status.into_response()?;
    let value = HeaderValue::try_from(names.join(", "))?;
    response.headers_mut().insert(ALLOW, value);
    Ok(response)
}

/// A target without the first bytes of its path.
fn below(uri: &Uri, from: usize) -> Result<Uri, http::Error> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = PathAndQuery::try_from(&whole[from..])?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest);
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
