//! Errors that know how they are answered.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use socketserver::HandlerError;

use crate::body::status_of;
use crate::response::TEXT;
use crate::{Content, IntoResponse};

/// An error with the response that it is answered with: a status, a text, and fields.
///
/// A handler returns it by `?`, in a `Result` whose error is this type, a [`HandlerError`] or an [`io::Error`]; the
/// client then receives its response, and [observers](crate::Http::on_access) receive the error. Everything in this
/// crate that reads a request fails with it: [`RequestExt`](crate::RequestExt) has the list. After a failed read of the
/// [`Body`](crate::Body) the status is the one that the body names.
///
/// # Examples
///
/// ```
/// use http::StatusCode;
/// use socketserver_http::{HttpError, Request, RequestExt};
///
/// fn square(request: &mut Request<'_>) -> Result<String, HttpError> {
///     // 404 unless the parameter is a number.
///     let number: u32 = request.param("number")?;
///     let too_large = || HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, "the square is too large");
///     let square = number.checked_mul(number).ok_or_else(too_large)?;
///     Ok(format!("{square}\n"))
/// }
/// # let _ = socketserver_http::Router::new().get("/square/{number}", square);
/// ```
// A box, so that a `Result` is small.
pub struct HttpError(Box<Parts>);

struct Parts {
    status: StatusCode,
    text: Cow<'static, str>,
    headers: HeaderMap,
    source: Option<HandlerError>,
}

impl HttpError {
    /// Makes an error that is answered with a status, and with a text for the client. The content is that text with a
    /// line feed, `text/plain` in UTF-8 unless [`header`](Self::header) adds another `Content-Type`.
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            status,
            text: text.into(),
            headers: HeaderMap::new(),
            source: None,
        }))
    }

    /// Adds a field to the response.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Sets the cause, which observers see and the client does not: its text follows that of the error, and
    /// [`source`](Error::source) returns what has caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<HandlerError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn bad_request(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The error for a failed read: of a body, with the status that it says there, or of what is made of one.
    pub(crate) fn of_read(err: io::Error) -> Self {
        let err = match err.downcast::<Self>() {
            Ok(own) => return own,
            Err(err) => err,
        };
        Self::new(status_of(&err), "the body cannot be read").caused_by(err)
    }

    fn response(&self) -> Response<Content> {
        let mut response = Response::new(Content::from(format!("{}\n", self.0.text)));
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers.clone();
        response.headers_mut().entry(CONTENT_TYPE).or_insert(TEXT);
        response
    }
}

/// The response to a request whose handler has failed: that of an [`HttpError`] among the causes, else the status that
/// a failed read of the body has led to, else 500.
pub(crate) fn response_to(err: &HandlerError, failed: Option<StatusCode>) -> Response<Content> {
    let named = HttpError::among(&**err).filter(|_| failed.is_none());
    named.map_or_else(
        || {
            let status = failed.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            status.into_response().unwrap_or_default()
        },
        HttpError::response,
    )
}

impl HttpError {
    /// Looks for an error of this type among the causes of another.
    fn among<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(err);
        while let Some(err) = next {
            if let Some(found) = err.downcast_ref() {
                return Some(found);
            }
            // The source of such an error is that of the one within.
            let inner = err.downcast_ref().and_then(io::Error::get_ref);
            next = match inner {
                Some(inner) => Some(inner),
                None => err.source(),
            };
        }
        None
    }
}

impl fmt::Debug for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpError")
            .field("status", &self.0.status)
            .field("text", &self.0.text)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for HttpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The text has that of the cause already, as in an `io::Error`.
        self.0.source.as_ref()?.source()
    }
}

impl From<HttpError> for io::Error {
    fn from(err: HttpError) -> Self {
        Self::other(err)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(self.response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teapot() -> HttpError {
        HttpError::new(StatusCode::IM_A_TEAPOT, "short and stout")
    }

    #[test]
    fn an_error_is_found_among_causes() {
        let wrapped: [HandlerError; 4] = [
            teapot().into(),
            io::Error::from(teapot()).into(),
            io::Error::other(io::Error::from(teapot())).into(),
            HttpError::new(StatusCode::IM_A_TEAPOT, "")
                .caused_by("a cause")
                .into(),
        ];
        for err in wrapped {
            assert_eq!(response_to(&err, None).status(), 418, "{err:?}");
        }
    }

    #[test]
    fn a_chain_of_causes_has_each_text_once() {
        let cause = HttpError::bad_request("middle").caused_by(io::Error::other("inner"));
        let whole = teapot().caused_by(cause);
        let mut next: Option<&dyn Error> = Some(&whole);
        let mut chain = String::new();
        while let Some(err) = next {
            chain += &format!("{err}; ");
            next = err.source();
        }
        assert_eq!(chain, "short and stout: middle: inner; ");
    }

    #[test]
    fn a_failed_read_has_the_status_of_its_cause() {
        for (kind, status) in [
            (io::ErrorKind::FileTooLarge, 413),
            (io::ErrorKind::TimedOut, 408),
            (io::ErrorKind::InvalidData, 400),
            (io::ErrorKind::UnexpectedEof, 400),
        ] {
            assert_eq!(HttpError::of_read(kind.into()).status(), status, "{kind}");
        }
        assert_eq!(HttpError::of_read(teapot().into()).status(), 418);
    }

    #[test]
    fn a_failed_body_comes_first_and_other_errors_are_500() {
        let failed = Some(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response_to(&teapot().into(), failed).status(), 413);
        assert_eq!(response_to(&"other".into(), failed).status(), 413);
        assert_eq!(response_to(&"other".into(), None).status(), 500);
        let other: HandlerError = io::Error::other("other").into();
        assert_eq!(response_to(&other, None).status(), 500);
    }
}
