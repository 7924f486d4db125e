//! Bearer tokens (RFC 6750).

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap};

use super::{Guarded, challenge, credentials, refusal};
use crate::Handler;

/// Wraps a handler: only requests with a token that `check` accepts reach it. `check` returns the name of the user
/// whose token it is.
///
/// | request | answer |
/// |---|---|
/// | without a token, or with another scheme | 401 |
/// | a token that `check` does not accept | 401 with `error="invalid_token"` |
/// | a malformed token, or several | 400 with `error="invalid_request"` |
///
/// Each has a field `WWW-Authenticate` with the realm. Tokens in forms and queries are not looked for.
///
/// # Panics
///
/// The realm has other characters than visible ASCII and spaces.
///
/// # Examples
///
/// ```
/// use socketserver_http::{Http, Request, RequestExt, auth};
///
/// let token = "QWxhZGRpbjpvcGVu";
/// let check = move |given: &str| auth::constant_time_eq(given, token).then(|| "robot".to_owned());
/// let api = |request: &mut Request<'_>| format!("hello {}\n", request.user().unwrap_or_default());
/// let http = Http::handler(auth::bearer("api", check, api));
/// # drop(http);
/// ```
#[track_caller]
pub fn bearer<H, F>(
    realm: &str,
    check: F,
    handler: H,
) -> impl Handler<Session = H::Session> + use<H, F>
where
    H: Handler,
    F: Fn(&str) -> Option<String> + Send + Sync + 'static,
{
    let missing = challenge("Bearer", realm, "");
    let invalid = challenge("Bearer", realm, ", error=\"invalid_token\"");
    let malformed = challenge("Bearer", realm, ", error=\"invalid_request\"");
    let check = move |headers: &HeaderMap| match read(headers) {
        Token::Missing => Err(refusal(
            StatusCode::UNAUTHORIZED,
            "a token is needed",
            &missing,
        )),
        Token::Malformed => Err(refusal(
            StatusCode::BAD_REQUEST,
            "the token is malformed",
            &malformed,
        )),
        Token::Given(token) => check(token)
            .ok_or_else(|| refusal(StatusCode::UNAUTHORIZED, "the token is not valid", &invalid)),
    };
    Guarded { check, handler }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Missing,
    Malformed,
    Given(&'a str),
}

fn read(headers: &HeaderMap) -> Token<'_> {
    if let Some(token) = credentials(headers, "bearer") {
        return match is_token(token) {
            true => Token::Given(token),
            false => Token::Malformed,
        };
    }
    let is_bearer = |value: &[u8]| {
        let scheme = value.split(|byte| *byte == b' ').next();
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
    };
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    match fields.any(|field| is_bearer(field.as_bytes())) {
        true => Token::Malformed,
        false => Token::Missing,
    }
}

/// RFC 6750, section 2.1: `b64token`.
fn is_token(text: &str) -> bool {
    let letters = text.trim_end_matches('=');
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !letters.is_empty() && letters.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tokens_are_read_strictly() {
        for (value, expected) in [
            (&b"Bearer abc"[..], Token::Given("abc")),
            (b"bearer a-._~+/9==", Token::Given("a-._~+/9==")),
            (b"BEARER  abc", Token::Given("abc")),
            (b"Basic YTpi", Token::Missing),
            (b"Bearerabc", Token::Missing),
            (b"", Token::Missing),
            (b"Bearer", Token::Malformed),
            (b"Bearer ", Token::Malformed),
            (b"Bearer =", Token::Malformed),
            (b"Bearer a b", Token::Malformed),
            (b"Bearer a=b", Token::Malformed),
            (b"Bearer a,b", Token::Malformed),
            (b"Bearer \"a\"", Token::Malformed),
            (b"Bearer \xff", Token::Malformed),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                AUTHORIZATION,
                HeaderValue::from_bytes(value).expect("a value"),
            );
            assert_eq!(read(&headers), expected, "{}", value.escape_ascii());
        }
        let mut twice = HeaderMap::new();
        assert_eq!(read(&twice), Token::Missing);
        for value in ["Bearer a", "Bearer a"] {
            twice.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        assert_eq!(read(&twice), Token::Malformed);
    }
}
