//! The head of a request: finding its end, and checking it strictly before anything else sees it.
//!
//! A server and a proxy before it that disagree about where a request ends can be made to take a part of one
//! client's request for another's (RFC 9112, section 11.2). So whatever is ambiguous is refused, and one parser
//! alone decides: what delimits the body here is what [`crate::body`] reads by.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri, Version};
use httparse::ParserConfig;

use crate::config::Limits;

/// How many headers a request may have at most, whatever the limit: their places lie on the stack.
pub(crate) const HEADERS_MAX: usize = 128;

/// What delimits the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
}

/// A request without its body, and what its head says of the connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: Request<()>,
    pub(crate) framing: Framing,
    /// The client can send another request on this connection.
    pub(crate) keeps_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

const fn reject(status: StatusCode, reason: &'static str) -> Reject {
    Reject { status, reason }
}

const fn bad(reason: &'static str) -> Reject {
    reject(StatusCode::BAD_REQUEST, reason)
}

/// What was found of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// It ends before this index.
    Whole(usize),
    Partial,
}

/// Looks for the end of a head: an empty line. The first `seen` bytes have been scanned before.
///
/// # Errors
///
/// A line ends without a carriage return, or the head is longer than its limit.
pub(crate) fn scan(bytes: &[u8], seen: usize, limits: &Limits) -> Result<Scan, Reject> {
    for at in memchr::memchr_iter(b'\n', &bytes[seen..]).map(|at| seen + at) {
        // The first fault counts, however the head was cut.
        check_length(&bytes[..=at], limits)?;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(bad("a line ends without a carriage return"));
        }
        if bytes[..at].ends_with(b"\r\n\r") {
            return Ok(Scan::Whole(at + 1));
        }
    }
    check_length(bytes, limits)?;
    Ok(Scan::Partial)
}

fn check_length(bytes: &[u8], limits: &Limits) -> Result<(), Reject> {
    // The method, the target, the version and the spaces between them.
    let line_max = limits.target_bytes.saturating_add(64);
    let line = bytes.get(..=line_max.min(limits.head_bytes));
    if line.is_some_and(|line| !line.contains(&b'\n')) {
        return Err(reject(
            StatusCode::URI_TOO_LONG,
            "the request line is too long",
        ));
    }
    if bytes.len() > limits.head_bytes {
        return Err(reject(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head is too long",
        ));
    }
    Ok(())
}

/// Reads a whole head, as [`scan`] has found it.
///
/// # Errors
///
/// The head breaks a rule of RFC 9110 or RFC 9112, or a limit.
pub(crate) fn parse(bytes: &Bytes, limits: &Limits) -> Result<Head, Reject> {
    // To fill them with empty ones would cost as much as the rest of this function.
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let config = ParserConfig::default();
    let read = config.parse_request_with_uninit_headers(&mut parsed, bytes, &mut headers);
    let length = match read {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(bad("the request line is missing")),
        Err(httparse::Error::Version) => return Err(refusal_of_version(bytes)),
        Err(err) => return Err(refusal_of(err)),
    };
    if length != bytes.len() {
        return Err(bad("the head ends too early"));
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(bad("the request line is incomplete"));
    };
    if target.len() > limits.target_bytes {
        return Err(reject(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    if parsed.headers.len() > limits.headers {
        return Err(reject(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head has too many fields",
        ));
    }
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| bad("the method is no token"))?;
    let uri = uri_of(&method, bytes, target)?;
    let version = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let (mut headers, special) = headers_of(bytes, parsed.headers)?;
    check_host(&headers, version)?;
    // RFC 9112, section 3.2.2: the host of an absolute target counts, not that of the field.
    if let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) {
        let host = HeaderValue::from_str(authority.as_str());
        headers.insert(HOST, host.map_err(|_| bad("the target is malformed"))?);
    }
    let framing = match special.framing {
        true => framing_of(&headers, version)?,
        false => Framing::Empty,
    };
    let expects = special.expect && expects(&headers, version)?;
    let has_option = |name| special.connection && has_token(&headers, name);
    let keeps_alive =
        (version == Version::HTTP_11 || has_option("keep-alive")) && !has_option("close");
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(Head {
        request,
        framing,
        keeps_alive,
        expects: expects && framing != Framing::Empty,
    })
}

fn refusal_of(err: httparse::Error) -> Reject {
    match err {
        httparse::Error::TooManyHeaders => reject(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head has too many fields",
        ),
        httparse::Error::HeaderName => bad("the name of a field is no token"),
        httparse::Error::HeaderValue => bad("the value of a field has a control character"),
        _ => bad("the request line is malformed"),
    }
}

/// A version that is well-formed is not supported; anything else is malformed (RFC 9112, section 2.3).
fn refusal_of_version(head: &[u8]) -> Reject {
    let line = head.trim_ascii_start().split(|byte| *byte == b'\r').next();
    let mut words = line.unwrap_or_default().split(|byte| *byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            reject(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "the version is neither HTTP/1.0 nor HTTP/1.1",
            )
        }
        _ => bad("the request line is malformed"),
    }
}

/// The bytes of `part`, which lies in `whole`, without a copy.
fn shared(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        return Bytes::new();
    }
    whole.slice_ref(part)
}

/// The target in one of its four forms (RFC 9112, section 3.2).
fn uri_of(method: &Method, bytes: &Bytes, target: &str) -> Result<Uri, Reject> {
    let malformed = bad("the target is malformed");
    // `Uri` takes both, and cuts fragments off.
    if !target.is_ascii() || target.contains('#') {
        return Err(malformed);
    }
    let uri = Uri::from_maybe_shared(shared(bytes, target.as_bytes())).map_err(|_| malformed)?;
    let has_form = if method == Method::CONNECT {
        // RFC 9110, section 9.3.6: the port must be there.
        uri.scheme().is_none() && uri.port_u16().is_some() && uri.path_and_query().is_none()
    } else if target == "*" {
        method == Method::OPTIONS
    } else if target.starts_with('/') {
        true
    } else {
        let scheme = uri.scheme_str();
        scheme.is_some_and(|scheme| scheme == "http" || scheme == "https")
    };
    if has_form && uri.authority().is_none_or(is_host) {
        Ok(uri)
    } else {
        Err(malformed)
    }
}

/// Whether an authority is a host with or without a port (RFC 9110, section 7.2), which `Authority` does not check.
fn is_host(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let port = text
        .strip_prefix(host)
        .map(|rest| match rest.strip_prefix(':') {
            Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
            None => rest.is_empty(),
        });
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    port == Some(true)
        && !host.is_empty()
        && address.is_none_or(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Which fields a head has that say something of the connection or the body. Most have none.
#[derive(Default)]
struct Special {
    framing: bool,
    expect: bool,
    connection: bool,
}

fn headers_of(
    bytes: &Bytes,
    parsed: &[httparse::Header<'_>],
) -> Result<(HeaderMap, Special), Reject> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    let mut special = Special::default();
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| bad("the name of a field is no token"))?;
        let value = HeaderValue::from_maybe_shared(shared(bytes, header.value))
            .map_err(|_| bad("the value of a field has a control character"))?;
        special.framing |= name == CONTENT_LENGTH || name == TRANSFER_ENCODING;
        special.expect |= name == EXPECT;
        special.connection |= name == CONNECTION;
        headers.append(name, value);
    }
    Ok((headers, special))
}

/// RFC 9112, section 3.2: HTTP/1.1 has exactly one.
fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Reject> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (None, _) => Err(bad("the host is missing")),
        (Some(_), Some(_)) => Err(bad("there are several hosts")),
        (Some(host), None) if host.is_empty() || is_plain(host.as_bytes()) => Ok(()),
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(authority) if is_host(&authority) => Ok(()),
            _ => Err(bad("the host is malformed")),
        },
    }
}

/// Whether a host is a name with or without a port, and has no bytes that need a closer look: so are most.
fn is_plain(host: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let end = host.iter().position(|byte| !is_of_name(byte));
    let (name, port) = host.split_at(end.unwrap_or(host.len()));
    let is_port = match port {
        [b':', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        other => other.is_empty(),
    };
    !name.is_empty() && is_port
}

/// RFC 9113, section 8.3.1: the target of a request of HTTP/2 has the same forms as that of HTTP/1. The crate `h2` has
/// cut its fragment off.
///
/// # Errors
///
/// The method and the target do not go together, or the target has bytes beyond ASCII; or as [`check_authority`].
pub(crate) fn check_target(request: &Parts) -> Result<(), Reject> {
    let (method, uri) = (&request.method, &request.uri);
    let has_form = match uri.path() {
        _ if method == Method::CONNECT => uri.port_u16().is_some(),
        "*" => method == Method::OPTIONS,
        _ => uri
            .path_and_query()
            .is_none_or(|path| path.as_str().is_ascii()),
    };
    if !has_form {
        return Err(bad("the target is malformed"));
    }
    check_authority(request)
}

/// RFC 9113, section 8.3.1: a request of HTTP/2 has a host, and if it names it twice, it is the same.
///
/// # Errors
///
/// It has none, or two, or a malformed one.
fn check_authority(request: &Parts) -> Result<(), Reject> {
    let Some(authority) = request.uri.authority() else {
        return check_host(&request.headers, Version::HTTP_11);
    };
    let mut hosts = request.headers.get_all(HOST).iter();
    let is_same = |host: &HeaderValue| {
        host.as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes())
    };
    let is_well_formed = is_plain(authority.as_str().as_bytes()) || is_host(authority);
    if is_well_formed && hosts.all(is_same) {
        Ok(())
    } else {
        Err(bad("the host is malformed"))
    }
}

/// What delimits the body: RFC 9112, section 6.3, without its repairs.
fn framing_of(headers: &HeaderMap, version: Version) -> Result<Framing, Reject> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::Empty),
        (Some(_), Some(_)) => Err(bad("there is a length beside a transfer coding")),
        (Some(_), None) if lengths.next().is_some() => Err(bad("there are several lengths")),
        (Some(length), None) => match length_of(length.as_bytes())? {
            0 => Ok(Framing::Empty),
            length => Ok(Framing::Length(length)),
        },
        (None, Some(_)) if version == Version::HTTP_10 => {
            Err(bad("HTTP/1.0 has no transfer codings"))
        }
        (None, Some(_)) if codings.next().is_some() => {
            Err(bad("there are several transfer codings"))
        }
        (None, Some(coding)) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        (None, Some(coding)) => Err(refusal_of_coding(coding.as_bytes())),
    }
}

/// An unknown coding is not implemented; a list that repeats `chunked`, or is empty, is malformed.
fn refusal_of_coding(coding: &[u8]) -> Reject {
    let names = coding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_known = |name: &[u8]| name.eq_ignore_ascii_case(b"chunked") || name.is_empty();
    if names.into_iter().all(is_known) {
        bad("the transfer coding is malformed")
    } else {
        reject(
            StatusCode::NOT_IMPLEMENTED,
            "the transfer coding is not `chunked`",
        )
    }
}

fn length_of(text: &[u8]) -> Result<u64, Reject> {
    let malformed = bad("the length is no number");
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    let text = std::str::from_utf8(text).map_err(|_| malformed)?;
    text.parse().map_err(|_| malformed)
}

/// Whether the client waits for `100 Continue`.
///
/// # Errors
///
/// It expects something else.
pub(crate) fn expects(headers: &HeaderMap, version: Version) -> Result<bool, Reject> {
    let mut expectations = headers.get_all(EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        // RFC 9110, section 10.1.1: it is ignored there.
        _ if version == Version::HTTP_10 => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => Err(reject(
            StatusCode::EXPECTATION_FAILED,
            "the expectation is not `100-continue`",
        )),
    }
}

/// The value of a field that is there exactly once.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether the `Connection` fields name an option.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts of these bytes with up to five of them.
    fn texts() -> impl Iterator<Item = Vec<u8>> {
        let bytes = b"a1.-:";
        (0..=5_u32).flat_map(move |length| {
            (0..5_usize.pow(length)).map(move |number| {
                let digit = |place| bytes[number / 5_usize.pow(place) % 5];
                (0..length).map(digit).collect()
            })
        })
    }

    #[test]
    fn a_plain_host_is_one() {
        let plain: Vec<_> = texts().filter(|text| is_plain(text)).collect();
        assert!(plain.iter().any(|text| text == b"a.1:1"));
        for text in plain {
            let authority = Authority::try_from(&*text).expect("an authority");
            assert!(is_host(&authority), "{authority}");
        }
    }
}
