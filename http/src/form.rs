//! Forms: pairs of names and values, in a body or a query.

use std::io::Read;
use std::str::FromStr;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode;

use crate::{HttpError, Request};

/// A form with more fields is refused: each field takes more memory than its text.
const FIELDS_MAX: usize = 1000;

/// How many bytes a body has at most that is read into memory as a whole.
pub(crate) const BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The fields of a form, or of a query: pairs of names and values, in order.
///
/// [`RequestExt::form`](crate::RequestExt::form) and [`RequestExt::query`](crate::RequestExt::query) read it.
///
/// # Examples
///
/// ```
/// use socketserver_http::{HttpError, Request, RequestExt, Router};
///
/// fn order(request: &mut Request<'_>) -> Result<String, HttpError> {
///     let form = request.form()?;
///     let count: u32 = form.parse("count")?;
///     let note = form.get("note").unwrap_or("none");
///     let toppings: Vec<_> = form.all("topping").collect();
///     Ok(format!("{count} with {}; note: {note}\n", toppings.join(", ")))
/// }
///
/// let router = Router::new().post("/orders", order);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Returns the first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let all = self.iter().filter(move |(own, _)| *own == name);
        all.map(|(_, value)| value)
    }

    /// Returns the first value of a name, parsed.
    ///
    /// # Errors
    ///
    /// 400: the form has no such field, or its value cannot be parsed.
    pub fn parse<T: FromStr>(&self, name: &str) -> Result<T, HttpError> {
        let value = self
            .get(name)
            .ok_or_else(|| HttpError::bad_request(format!("there is no field `{name}`")))?;
        value
            .parse()
            .map_err(|_| HttpError::bad_request(format!("the field `{name}` is malformed")))
    }

    /// Returns all names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Reads the fields from their text: `application/x-www-form-urlencoded`, as the URL Standard defines it, but bytes
    /// that are not UTF-8 are refused and not replaced.
    pub(crate) fn decode(text: &[u8]) -> Result<Self, HttpError> {
        let mut fields = Vec::new();
        for field in text.split(|byte| *byte == b'&') {
            if field.is_empty() {
                continue;
            }
            if fields.len() == FIELDS_MAX {
                let text = format!("there are more than {FIELDS_MAX} fields");
                return Err(HttpError::bad_request(text));
            }
            let mut sides = field.splitn(2, |byte| *byte == b'=');
            let mut side = || decode(sides.next().unwrap_or_default());
            fields.push((side()?, side()?));
        }
        Ok(Self(fields))
    }

    /// Reads the body of a request.
    pub(crate) fn of_body(request: &mut Request<'_>) -> Result<Self, HttpError> {
        let kind = "application/x-www-form-urlencoded";
        expect_type(request, kind, |own| own == kind)?;
        let text = read_limited(request.body_mut(), BYTES_MAX)?;
        Self::decode(&text)
    }
}

fn decode(text: &[u8]) -> Result<String, HttpError> {
    let spaced = text.iter().map(|&byte| match byte {
        b'+' => b' ',
        byte => byte,
    });
    let bytes = percent_decode(&spaced.collect::<Vec<_>>()).collect();
    String::from_utf8(bytes).map_err(|_| HttpError::bad_request("a name or a value is not UTF-8"))
}

/// Checks the media type of a body, which `is_expected` receives in small letters and without parameters. `expected` is
/// for the client.
///
/// # Errors
///
/// - 400: there are several.
/// - 415: it is another one.
pub(crate) fn expect_type(
    request: &Request<'_>,
    expected: &str,
    is_expected: impl Fn(&str) -> bool,
) -> Result<(), HttpError> {
    let mut fields = request.headers().get_all(CONTENT_TYPE).iter();
    let value = fields.next().and_then(|value| value.to_str().ok());
    if fields.next().is_some() {
        return Err(HttpError::bad_request("there are several content types"));
    }
    let essence = value.and_then(|value| value.split(';').next());
    if essence.is_some_and(|essence| is_expected(&essence.trim().to_ascii_lowercase())) {
        return Ok(());
    }
    let text = format!("the content type has to be {expected}");
    Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

/// Reads up to the end into memory.
///
/// # Errors
///
/// - 413: there are more bytes than `max`.
/// - That of a read.
pub(crate) fn read_limited(input: impl Read, max: u64) -> Result<Vec<u8>, HttpError> {
    let mut text = Vec::new();
    let mut limited = input.take(max.saturating_add(1));
    limited.read_to_end(&mut text).map_err(HttpError::of_read)?;
    if limited.limit() == 0 {
        let text = format!("there are more than {max} bytes");
        return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_in_order() {
        for (text, fields) in [
            ("", &[][..]),
            ("a=1", &[("a", "1")]),
            ("a=1&b=2&a=3", &[("a", "1"), ("b", "2"), ("a", "3")]),
            ("&&a=1&", &[("a", "1")]),
            ("a", &[("a", "")]),
            ("=", &[("", "")]),
            ("=1", &[("", "1")]),
            ("a=b=c", &[("a", "b=c")]),
            ("a+b=c+d", &[("a b", "c d")]),
            ("a%2Bb=%26%3d%25", &[("a+b", "&=%")]),
            ("%C3%A9=%e2%82%ac", &[("\u{e9}", "\u{20ac}")]),
            // As in browsers and in the URL Standard.
            (
                "a=100%&b=%zz&c=%4",
                &[("a", "100%"), ("b", "%zz"), ("c", "%4")],
            ),
            ("a=\u{0}\n", &[("a", "\u{0}\n")]),
            ("\u{e9}=1", &[("\u{e9}", "1")]),
        ] {
            let form = Form::decode(text.as_bytes()).expect(text);
            assert_eq!(form.iter().collect::<Vec<_>>(), fields, "{text}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        for text in [
            &b"a=%ff"[..],
            b"%C3=1",
            b"a=%ED%A0%80",
            b"a=\xff",
            b"a=1&b=%C0%80",
        ] {
            let err = Form::decode(text).expect_err("not UTF-8");
            assert_eq!(err.status(), 400);
        }
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        assert!(Form::decode(&b"a&".repeat(FIELDS_MAX)).is_ok());
        let err = Form::decode(&b"a&".repeat(FIELDS_MAX + 1)).expect_err("too many");
        assert_eq!(err.status(), 400);
        // An empty one is none.
        assert!(Form::decode(&b"&".repeat(100_000)).is_ok());
    }
}
