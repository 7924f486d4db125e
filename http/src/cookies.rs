//! Cookies: those of a request, and those that a response sets. The crate `cookie` has the types.

use cookie::{Cookie, CookieJar};
use http::Response;
use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use socketserver::HandlerError;

use crate::{Content, IntoResponse};

/// The cookies of a request. Malformed ones are left out: they may be another program's on the same host.
pub(crate) fn of(headers: &HeaderMap) -> CookieJar {
    let mut jar = CookieJar::new();
    for field in headers.get_all(COOKIE) {
        let Ok(text) = field.to_str() else {
            continue;
        };
        for cookie in Cookie::split_parse_encoded(text.to_owned()).flatten() {
            // A client sends that of the longest path first (RFC 6265, section 5.4).
            if jar.get(cookie.name()).is_none() {
                jar.add_original(cookie);
            }
        }
    }
    jar
}

/// The response of `T`, with a field `Set-Cookie` for each cookie that was added to the jar or removed from it since the
/// request. Names and values are percent-encoded, as [`RequestExt::cookies`](crate::RequestExt::cookies) decodes them.
impl<T: IntoResponse> IntoResponse for (CookieJar, T) {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        let (jar, content) = self;
        let mut response = content.into_response()?;
        for cookie in jar.delta() {
            let value = HeaderValue::try_from(cookie.encoded().to_string())?;
            response.headers_mut().append(SET_COOKIE, value);
        }
        Ok(response)
    }
}
