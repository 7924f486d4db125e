//! Basic authentication (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::HeaderMap;

use super::{Guarded, challenge, credentials, refusal};
use crate::Handler;

/// Wraps a handler: only requests with a user and a password that `verify` accepts reach it. Others are answered 401,
/// and a browser asks its user then, showing the realm.
///
/// Clients send both as UTF-8, with each request. `verify` should compare with
/// [`constant_time_eq`](super::constant_time_eq); `Htpasswd` (feature `htpasswd`) has hashed passwords.
///
/// # Panics
///
/// The realm has other characters than visible ASCII and spaces.
///
/// # Examples
///
/// ```
/// use socketserver_http::{Http, Request, auth};
///
/// let verify = |user: &str, password: &str| {
///     auth::constant_time_eq(user, "anna") & auth::constant_time_eq(password, "correct horse")
/// };
/// let http = Http::handler(auth::basic("reports", verify, |_: &mut Request<'_>| "a secret\n"));
/// # drop(http);
/// ```
#[track_caller]
pub fn basic<H, F>(
    realm: &str,
    verify: F,
    handler: H,
) -> impl Handler<Session = H::Session> + use<H, F>
where
    H: Handler,
    F: Fn(&str, &str) -> bool + Send + Sync + 'static,
{
    let challenge = challenge("Basic", realm, ", charset=\"UTF-8\"");
    let check = move |headers: &HeaderMap| match read(headers) {
        Some((user, password)) if verify(&user, &password) => Ok(user),
        _ => Err(refusal(
            StatusCode::UNAUTHORIZED,
            "a user and a password are needed",
            &challenge,
        )),
    };
    Guarded { check, handler }
}

/// The user and the password of a request; `None` if there are none, or malformed ones.
fn read(headers: &HeaderMap) -> Option<(String, String)> {
    let bytes = STANDARD.decode(credentials(headers, "basic")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // RFC 7617, section 2.
    let is_valid = !text.chars().any(char::is_control);
    is_valid.then(|| (user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::AUTHORIZATION;

    use super::*;

    fn read_one(value: &[u8]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_bytes(value).expect("a value"),
        );
        read(&headers)
    }

    #[test]
    fn a_user_and_a_password_are_read() {
        for (text, user, password) in [
            ("anna:secret", "anna", "secret"),
            ("anna:", "anna", ""),
            (":secret", "", "secret"),
            ("anna:a:b", "anna", "a:b"),
            ("\u{e9}:\u{20ac} ", "\u{e9}", "\u{20ac} "),
        ] {
            for scheme in ["Basic", "basic", "BASIC", "Basic  "] {
                let value = format!("{scheme} {}", STANDARD.encode(text));
                let expected = Some((user.to_owned(), password.to_owned()));
                assert_eq!(read_one(value.as_bytes()), expected, "{value}");
            }
        }
    }

    #[test]
    fn malformed_credentials_are_none() {
        let encoded = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes)).into_bytes();
        let mut cases = vec![
            b"".to_vec(),
            b"Basic".to_vec(),
            b"Basic ".to_vec(),
            b"Basic YTpi YTpi".to_vec(),
            // No padding, another alphabet, not in its shortest form.
            b"Basic YTo".to_vec(),
            b"Basic _-__".to_vec(),
            b"Basic YTp=".to_vec(),
            b"Basic\tYTpi".to_vec(),
            b"BasicYTpi".to_vec(),
            b"Bearer YTpi".to_vec(),
            b"Basic \xff".to_vec(),
            b"YTpi".to_vec(),
        ];
        for decoded in [
            &b""[..],
            b"anna",
            b"\xff:b",
            b"a:b\x00",
            b"a\n:b",
            b"a:\xc2\x85",
        ] {
            cases.push(encoded(decoded));
        }
        for value in cases {
            assert_eq!(read_one(&value), None, "{}", value.escape_ascii());
        }
        let mut twice = HeaderMap::new();
        for value in ["Basic YTpi", "Basic YTpi"] {
            twice.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        assert_eq!(read(&twice), None);
    }
}
