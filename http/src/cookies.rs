//! Cookies: those of a request, and those that a response sets. The crate `cookie` has the types.

use cookie::{Cookie, CookieJar};
use http::Response;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use percent_encoding::percent_decode_str;
use socketserver::HandlerError;

use crate::{Content, IntoResponse};

/// The cookies of a request. Malformed ones are left out: they may be another program's on the same host.
pub(crate) fn of(headers: &HeaderMap) -> CookieJar {
    let mut jar = CookieJar::new();
    for field in headers.get_all(COOKIE) {
        let pieces = field.as_bytes().split(|byte| *byte == b';');
        for cookie in pieces.filter_map(parse) {
            // A client sends that of the longest path first (RFC 6265, section 5.4).
            if jar.get(cookie.name()).is_none() {
                jar.add_original(cookie);
            }
        }
    }
    jar
}

/// One cookie, its value percent-decoded. Its name is not: a browser promises for `__Host-` alone what it promises, and
/// lets any page set `%5F_Host-`.
fn parse(piece: &[u8]) -> Option<Cookie<'static>> {
    let cookie = Cookie::parse(str::from_utf8(piece).ok()?).ok()?;
    let value = percent_decode_str(cookie.value()).decode_utf8().ok()?;
    Some(Cookie::new(cookie.name().to_owned(), value.into_owned()))
}

/// The response of `T`, with a field `Set-Cookie` for each cookie that was added to the jar or removed from it since the
/// request. Values are percent-encoded, as [`RequestExt::cookies`](crate::RequestExt::cookies) decodes them; names,
/// paths and domains are not. A name that no cookie can have, as one with a space, is answered 500.
impl<T: IntoResponse> IntoResponse for (CookieJar, T) {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        let (jar, content) = self;
        let mut response = content.into_response()?;
        for cookie in jar.delta() {
            // RFC 6265, section 4.1.1: a token, as the name of a field is.
            let name = HeaderName::try_from(cookie.name()).map(|_| cookie.name())?;
            let encoded = cookie.encoded().to_string();
            let (_, rest) = encoded.split_once('=').unwrap_or_default();
            let value = HeaderValue::try_from(format!("{name}={rest}"))?;
            response.headers_mut().append(SET_COOKIE, value);
        }
        Ok(response)
    }
}
