//! What a handler asks of a request beside its head and its body.

use std::str::FromStr;

#[cfg(feature = "cookies")]
use cookie::CookieJar;
use http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::auth::User;
#[cfg(feature = "multipart")]
use crate::multipart::Multipart;
use crate::{Form, HttpError, Request};

/// Methods of a [`Request`] for what a handler needs most.
///
/// Each fails with an [`HttpError`], so `?` in a handler answers the client with the right status.
///
/// # Examples
///
/// ```
/// use socketserver_http::{HttpError, Request, RequestExt, Router};
///
/// fn hello(request: &mut Request<'_>) -> Result<String, HttpError> {
///     let name: String = request.param("name")?;
///     Ok(format!("hello {name}\n"))
/// }
///
/// let router = Router::new().get("/hello/{name}", hello);
/// ```
pub trait RequestExt: sealed::Sealed {
    /// Returns a parameter of the path that the [`Router`](crate::Router) has matched, percent-decoded and parsed: a
    /// `String`, or a number, or whatever else has [`FromStr`]. Of two with the same name, in the prefix of a nested
    /// router and in its own path, that is the inner one.
    ///
    /// A decoded text is no path: that of one segment can have slashes, `..` and NUL in it as well.
    ///
    /// # Errors
    ///
    /// - 400: the decoded bytes are not UTF-8.
    /// - 404: the text cannot be parsed, so the path names nothing.
    /// - 500: the route has no such parameter.
    fn param<T: FromStr>(&self, name: &str) -> Result<T, HttpError>;

    /// Returns the fields of the query, which has the same coding as a form; none without a query.
    ///
    /// # Errors
    ///
    /// 400: the decoded bytes are not UTF-8, or there are more than 1,000 fields.
    fn query(&self) -> Result<Form, HttpError>;

    /// Reads the body as a form of the type `application/x-www-form-urlencoded`, of at most 2 MiB.
    ///
    /// # Errors
    ///
    /// - 400: the decoded bytes are not UTF-8, or there are more than 1,000 fields, or several types of the content.
    /// - 413: the body is too large.
    /// - 415: the type of the content is another one.
    /// - Those of the [`Body`](crate::Body).
    fn form(&mut self) -> Result<Form, HttpError>;

    /// Reads the body as JSON, of at most 2 MiB.
    ///
    /// # Errors
    ///
    /// - 400: the content is no JSON, or not that of a `T`; the client learns the line and the column. Or it has several
    ///   types.
    /// - 413: the body is too large.
    /// - 415: the type of the content is neither `application/json` nor one that ends with `+json`.
    /// - Those of the [`Body`](crate::Body).
    #[cfg(feature = "json")]
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, HttpError>;

    /// Reads the body as a form with files, field by field: of the type `multipart/form-data`.
    ///
    /// # Errors
    ///
    /// - 400: the type of the content has no boundary, or a malformed one, or there are several.
    /// - 415: the type of the content is another one.
    #[cfg(feature = "multipart")]
    fn multipart(&mut self) -> Result<Multipart<'_>, HttpError>;

    /// Returns the cookies of the request. A handler that returns the jar beside its content sets those that it has
    /// added, and removes those that it has removed. Malformed cookies are left out; of two with the same name, the
    /// second one is. Values are percent-decoded, and encoded again in the response, so they may be any text. Names are
    /// as they were sent. The attributes that a handler adds are not encoded: a path or a domain with a text of the
    /// client's can have a semicolon in it, and behind that further attributes.
    ///
    /// A client removes a cookie if the path and the domain are those with which it was set. The crate `cookie` has
    /// features for jars whose cookies are signed or encrypted.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver_http::cookie::{Cookie, CookieJar, SameSite};
    /// use socketserver_http::{Request, RequestExt, Router};
    ///
    /// fn visit(request: &mut Request<'_>) -> (CookieJar, String) {
    ///     let mut jar = request.cookies();
    ///     let visits = jar.get("visits").and_then(|cookie| cookie.value().parse().ok());
    ///     let visits = visits.unwrap_or(0_u32).saturating_add(1);
    ///     let cookie = Cookie::build(("visits", visits.to_string()));
    ///     jar.add(cookie.path("/").http_only(true).same_site(SameSite::Lax));
    ///     (jar, format!("visit {visits}\n"))
    /// }
    ///
    /// fn forget(request: &mut Request<'_>) -> (CookieJar, &'static str) {
    ///     let mut jar = request.cookies();
    ///     jar.remove(Cookie::build("visits").path("/"));
    ///     (jar, "forgotten\n")
    /// }
    ///
    /// let router = Router::new().get("/", visit).post("/forget", forget);
    /// ```
    #[cfg(feature = "cookies")]
    fn cookies(&self) -> CookieJar;

    /// Returns the name of the user that [`auth`](crate::auth) has verified.
    fn user(&self) -> Option<&str>;
}

impl RequestExt for Request<'_> {
    fn param<T: FromStr>(&self, name: &str) -> Result<T, HttpError> {
        let params = self.extensions().get::<Params>();
        let mut params = params.map_or(&[][..], |params| &params.0).iter();
        let Some((_, value)) = params.rfind(|(own, _)| own == name) else {
            let text = format!("the route has no parameter `{name}`");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(HttpError::new(status, "Internal Server Error").caused_by(text));
        };
        let Ok(text) = percent_decode_str(value).decode_utf8() else {
            return Err(HttpError::bad_request(format!(
                "the parameter `{name}` is not UTF-8"
            )));
        };
        let malformed = || {
            let text = format!("the parameter `{name}` is malformed");
            HttpError::new(StatusCode::NOT_FOUND, text)
        };
        text.parse().map_err(|_| malformed())
    }

    fn query(&self) -> Result<Form, HttpError> {
        Form::decode(self.uri().query().unwrap_or_default().as_bytes())
    }

    fn form(&mut self) -> Result<Form, HttpError> {
        Form::of_body(self)
    }

    #[cfg(feature = "json")]
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, HttpError> {
        crate::json::of_body(self)
    }

    #[cfg(feature = "multipart")]
    fn multipart(&mut self) -> Result<Multipart<'_>, HttpError> {
        Multipart::new(self)
    }

    #[cfg(feature = "cookies")]
    fn cookies(&self) -> CookieJar {
        crate::cookies::of(self.headers())
    }

    fn user(&self) -> Option<&str> {
        self.extensions().get::<User>().map(|user| &*user.0)
    }
}

mod sealed {
    /// No other type has the methods, so that further ones can come.
    #[expect(unnameable_types, reason = "it seals the trait")]
    pub trait Sealed {}

    impl Sealed for crate::Request<'_> {}
}

/// The parameters of the path, with their names, as they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Adds those that a router has matched.
    pub(crate) fn add(request: &mut Request<'_>, params: Vec<(String, String)>) {
        if params.is_empty() {
            return;
        }
        let extensions = request.extensions_mut();
        extensions.get_or_insert_default::<Self>().0.extend(params);
    }
}
