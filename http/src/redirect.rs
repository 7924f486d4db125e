//! Redirects from a plain listener to one with TLS.

use std::net::Ipv6Addr;

use http::header::{HOST, HeaderValue, LOCATION};
use http::uri::Authority;
use http::{Response, StatusCode, Uri};
use socketserver::HandlerError;

use crate::response::with_field;
use crate::{Content, IntoResponse, Request};

/// Returns a handler that redirects each request to the same host and path over TLS, on `port`: 308, so that the
/// client repeats its method and its body.
///
/// The host is that of the request, so the client chooses it; a server that knows its names can check them before it
/// calls the handler. A request without a valid one is answered 400, and so is a request without a
/// path, as `CONNECT`. A `port` of 443 is left out of the location.
///
/// Behind a proxy that speaks TLS with the clients, only those are to be redirected that have come to it without:
/// [`Body::scheme`](crate::Body::scheme) tells them apart.
///
/// # Examples
///
/// ```
/// use socketserver::{Server, Tcp, Threading};
/// use socketserver_http::{redirect_to_https, serve};
///
/// let plain = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
/// let guard = plain.spawn(serve(redirect_to_https(443)))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub fn redirect_to_https(
    port: u16,
) -> impl Fn(&mut Request<'_>) -> Result<Response<Content>, HandlerError> + Send + Sync + 'static {
    move |request: &mut Request<'_>| {
        let Some(location) = location(request, port) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let location = HeaderValue::try_from(location)?;
        with_field(StatusCode::PERMANENT_REDIRECT, LOCATION, location)
    }
}

/// The location of the same path with a slash at its end. It is relative to the path of the request, so it names no
/// other host, as `//name` would, and is right behind a proxy or a router that strips a prefix, too.
pub(crate) fn with_slash(uri: &Uri) -> String {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}"));
    format!("./{name}/{}", query.unwrap_or_default())
}

fn location<B>(request: &http::Request<B>, port: u16) -> Option<String> {
    // RFC 9112, section 3.2.2, and RFC 9113, section 8.3.1: the authority of the target comes before `Host`.
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok()?,
    };
    let host = authority.host();
    let path = request.uri().path_and_query()?.as_str();
    if !is_host(host) || authority.as_str().contains('@') || !path.starts_with('/') {
        return None;
    }
    Some(match port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    })
}

/// Whether the text is a name or an address, with nothing that could end a host early.
fn is_host(host: &str) -> bool {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(is_part)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a request is redirected to, for a port.
    fn redirected(target: &str, host: Option<&'static str>, port: u16) -> Option<String> {
        let mut request = http::Request::new(());
        *request.uri_mut() = target.parse().expect("a target");
        if let Some(host) = host {
            let host = HeaderValue::from_static(host);
            request.headers_mut().insert(HOST, host);
        }
        location(&request, port)
    }

    #[test]
    fn the_host_and_the_path_stay() {
        for (target, host, port, location) in [
            ("/", "a.example", 443, "https://a.example/"),
            ("/b/c?d=%20", "a:80", 443, "https://a/b/c?d=%20"),
            ("//b", "a", 8443, "https://a:8443//b"),
            ("/", "[::1]:80", 8443, "https://[::1]:8443/"),
            // As a proxy and HTTP/2 have it.
            ("http://b.example:80/c", "a", 443, "https://b.example/c"),
        ] {
            let found = redirected(target, Some(host), port);
            assert_eq!(found.as_deref(), Some(location), "{target} of {host}");
        }
    }

    #[test]
    fn without_a_host_or_a_path_there_is_no_location() {
        for (target, host) in [
            ("/", None),
            ("/", Some("")),
            ("/", Some("a@b")),
            ("/", Some("a,b")),
            ("http://a@b/", Some("c")),
            ("*", Some("a")),
            ("a:443", Some("a")),
        ] {
            assert_eq!(redirected(target, host, 443), None, "{target} of {host:?}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for host in [
            "localhost",
            "www.example.com",
            "a_b.example",
            "127.0.0.1",
            "[::1]",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "", "a/b", "a?b", "a#b", "a\\b", "a@b", "a:1", "a b", "[", "[]", "[::1", "[a]", "é",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
