//! Authentication: handlers that let verified users through to another handler.
//!
//! [`basic()`] asks for a user and a password (RFC 7617), [`bearer()`] for a token (RFC 6750). Both wrap any handler:
//! that of a whole server, or of one route. Behind them, [`RequestExt::user`](crate::RequestExt::user) returns the name,
//! and the [access log](crate::Http::access_log) has it. Without TLS, passwords and tokens can be read on the way.
//!
//! ```
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Http, Request, RequestExt, Router, auth};
//!
//! fn hello(request: &mut Request<'_>) -> String {
//!     format!("hello {}\n", request.user().unwrap_or("stranger"))
//! }
//!
//! fn verify(user: &str, password: &str) -> bool {
//!     // Not `&&`: it would answer earlier if the name is wrong.
//!     auth::constant_time_eq(user, "anna") & auth::constant_time_eq(password, "correct horse")
//! }
//!
//! let router = Router::new()
//!     .get("/", hello)
//!     .get("/private", auth::basic("private", verify, hello));
//! let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(Http::handler(router).serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```

mod basic;
mod bearer;
#[cfg(feature = "htpasswd")]
mod htpasswd;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use socketserver::HandlerError;
use subtle::ConstantTimeEq;

pub use basic::basic;
pub use bearer::bearer;
#[cfg(feature = "htpasswd")]
pub use htpasswd::Htpasswd;

use crate::head::only;
use crate::{Content, Handler, HttpError, IntoResponse, Request};

/// Compares what a client has sent with a secret, in a time that depends on the length of the former alone. So a
/// client cannot find the secret byte by byte.
///
/// # Examples
///
/// ```
/// use socketserver_http::auth::constant_time_eq;
///
/// assert!(constant_time_eq("secret", "secret"));
/// assert!(!constant_time_eq("secreT", "secret"));
/// ```
#[must_use]
pub fn constant_time_eq(given: impl AsRef<[u8]>, secret: impl AsRef<[u8]>) -> bool {
    let (given, secret) = (given.as_ref(), secret.as_ref());
    let mut is_equal = given.len().ct_eq(&secret.len());
    for (given, secret) in pairs(given, secret) {
        is_equal &= given.ct_eq(secret);
    }
    is_equal.into()
}

/// Each byte of what is given, with one of the secret. An empty one has a byte too, as it must take as long as others.
fn pairs<'a>(given: &'a [u8], secret: &'a [u8]) -> impl Iterator<Item = (&'a u8, &'a u8)> {
    let secret = if secret.is_empty() { &[0] } else { secret };
    given.iter().zip(secret.iter().cycle())
}

/// The name of a verified user, among the extensions of a request.
#[derive(Clone, Debug)]
pub(crate) struct User(pub(crate) String);

/// A handler behind a check, which returns the user.
struct Guarded<H, F> {
    check: F,
    handler: H,
}

impl<H, F> Handler for Guarded<H, F>
where
    H: Handler,
    F: Fn(&HeaderMap) -> Result<String, HttpError> + Send + Sync + 'static,
{
    type Session = H::Session;

    fn call(
        &self,
        session: &mut H::Session,
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        match (self.check)(request.headers()) {
            Ok(user) => {
                request.extensions_mut().insert(User(user));
                self.handler.call(session, request)
            }
            Err(refusal) => refusal.into_response(),
        }
    }
}

/// The credentials of a scheme, if the request has exactly one field, with that scheme.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let field = only(headers, &AUTHORIZATION)?;
    let (own, rest) = field.to_str().ok()?.split_once(' ')?;
    let is_own = own.eq_ignore_ascii_case(scheme);
    is_own.then(|| rest.trim_matches(' '))
}

/// A refusal that says how to authenticate.
fn refusal(status: StatusCode, text: &'static str, challenge: &HeaderValue) -> HttpError {
    HttpError::new(status, text).header(WWW_AUTHENTICATE, challenge.clone())
}

/// A challenge with its realm, and with what follows that.
#[track_caller]
fn challenge(scheme: &str, realm: &str, rest: &str) -> HeaderValue {
    let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
    let is_visible = realm.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    assert!(
        is_visible,
        "the realm has to be of visible ASCII: {realm:?}"
    );
    let text = format!("{scheme} realm=\"{realm}\"{rest}");
    HeaderValue::try_from(text).expect("visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_secrets_are_equal() {
        for (given, secret, is_equal) in [
            ("", "", true),
            ("a", "a", true),
            ("abc", "abc", true),
            ("", "a", false),
            ("a", "", false),
            ("a", "b", false),
            ("ab", "a", false),
            ("aa", "a", false),
            ("a", "aa", false),
            ("abc", "abd", false),
            ("abcabc", "abc", false),
            ("Abc", "abc", false),
        ] {
            assert_eq!(
                constant_time_eq(given, secret),
                is_equal,
                "{given} {secret}"
            );
        }
    }

    #[test]
    fn the_length_of_a_secret_is_not_that_of_its_comparison() {
        for secret in [&b""[..], b"a", b"abcdef"] {
            assert_eq!(pairs(b"abc", secret).count(), 3, "{secret:?}");
        }
    }

    #[test]
    fn a_realm_is_quoted() {
        let challenge = challenge("Basic", r#"a "b" \c"#, "");
        assert_eq!(challenge, r#"Basic realm="a \"b\" \\c""#);
    }

    #[test]
    #[should_panic(expected = "the realm has to be of visible ASCII")]
    fn a_realm_is_ascii() {
        let _ = challenge("Basic", "\u{e9}", "");
    }

    #[test]
    #[should_panic(expected = "the realm has to be of visible ASCII")]
    fn a_realm_has_no_line_break() {
        let _ = challenge("Basic", "a\r\nb", "");
    }
}
