//! What a handler asks of a request beside its head and its body.

use std::str::FromStr;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::{HttpError, Request};

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
    /// # Errors
    ///
    /// - 400: the decoded bytes are not UTF-8.
    /// - 404: the text cannot be parsed, so the path names nothing.
    /// - 500: the route has no such parameter.
    fn param<T: FromStr>(&self, name: &str) -> Result<T, HttpError>;
}

impl RequestExt for Request<'_> {
    fn param<T: FromStr>(&self, name: &str) -> Result<T, HttpError> {
        let params = self.extensions().get::<Params>();
        let mut params = params.map_or(&[][..], |params| &params.0).iter();
        let Some((_, value)) = params.rfind(|(own, _)| own == name) else {
            let text = format!("the route has no parameter `{name}`");
            return Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text));
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
