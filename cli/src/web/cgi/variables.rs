//! The meta-variables of a program (RFC 3875, section 4.1), and those that other servers set beside them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use socketserver::net::Address;
use socketserver_http::http::Version;
use socketserver_http::http::header::{self, HeaderMap, HeaderName};
use socketserver_http::{Request, RequestExt};

use super::Peer;
use super::scripts::Script;
use crate::exec::environment::Variables;

/// Fields that become no variable: those of the connection, what has a variable of its own, credentials that the server has
/// verified, and `Proxy`, which would become `HTTP_PROXY`, the proxy of many clients (CVE-2016-5385).
const LEFT_OUT: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The variables of a program, as `NAME=VALUE`. `length`: that of the body, 0 without one.
pub(super) fn of(request: &Request<'_>, script: &Script, peer: &Peer, length: u64) -> Vec<CString> {
    let mut variables = Variables::default();
    variables.request(request, length);
    variables.server(request, peer);
    variables.script(script);
    variables.client(request);
    variables.fields(request.headers());
    variables.into_vec()
}

impl Variables {
    fn request(&mut self, request: &Request<'_>, length: u64) {
        let (uri, headers) = (request.uri(), request.headers());
        self.set("GATEWAY_INTERFACE", "CGI/1.1");
        self.set("REQUEST_METHOD", request.method().as_str());
        self.set("QUERY_STRING", uri.query().unwrap_or_default());
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        self.set("REQUEST_URI", target);
        let protocol = match request.version() {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        };
        self.set("SERVER_PROTOCOL", protocol);
        if length > 0 {
            self.set("CONTENT_LENGTH", length.to_string());
        }
        if let Some(media_type) = headers.get(header::CONTENT_TYPE) {
            self.set("CONTENT_TYPE", media_type);
        }
    }

    fn server(&mut self, request: &Request<'_>, peer: &Peer) {
        let software = concat!("socketserver/", env!("CARGO_PKG_VERSION"));
        self.set("SERVER_SOFTWARE", software);
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()?.parse().ok());
        let authority = request.uri().authority().cloned().or(host);
        let local = match &peer.local {
            Some(Address::Inet(local)) => Some(*local),
            _ => None,
        };
        let name = authority
            .as_ref()
            .map(|authority| authority.host().to_owned())
            .filter(|name| !name.is_empty())
            .or_else(|| local.map(|local| local.ip().to_canonical().to_string()));
        self.set("SERVER_NAME", name.as_deref().unwrap_or("localhost"));
        let standard = if peer.is_tls { 443 } else { 80 };
        let named = authority.and_then(|authority| authority.port_u16());
        let port = local.map(|local| local.port()).or(named);
        self.set("SERVER_PORT", port.unwrap_or(standard).to_string());
        self.set("REQUEST_SCHEME", if peer.is_tls { "https" } else { "http" });
        if peer.is_tls {
            self.set("HTTPS", "on");
        }
    }

    fn script(&mut self, script: &Script) {
        self.set("SCRIPT_NAME", &script.name);
        self.set("SCRIPT_FILENAME", script.file.as_os_str().as_bytes());
        let root = script.root.as_os_str().as_bytes();
        self.set("DOCUMENT_ROOT", root);
        if !script.info.is_empty() {
            self.set("PATH_INFO", &script.info);
            self.set("PATH_TRANSLATED", [root, &script.info].concat());
        }
        // PHP runs nothing without it.
        self.set("REDIRECT_STATUS", "200");
    }

    fn client(&mut self, request: &Request<'_>) {
        let client = request.body().client();
        // A client over a Unix socket has no address.
        let client = client.map_or_else(|| "unix:".to_owned(), |ip| ip.to_canonical().to_string());
        self.set("REMOTE_ADDR", &client);
        self.set("REMOTE_HOST", &client);
        // Behind a proxy the port is that of the proxy's connection.
        let peer = request.body().peer();
        if let Address::Inet(peer) = &peer
            && peer.ip().to_canonical().to_string() == client
        {
            self.set("REMOTE_PORT", peer.port().to_string());
        }
        if let Some(user) = request.user() {
            self.set("AUTH_TYPE", "Basic");
            self.set("REMOTE_USER", user);
        }
    }

    fn fields(&mut self, headers: &HeaderMap) {
        for name in headers.keys().filter(|name| becomes_variable(name)) {
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| value.as_bytes())
                .collect();
            let between: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
            let upper = name.as_str().to_ascii_uppercase().replace('-', "_");
            self.set(&format!("HTTP_{upper}"), values.join(between));
        }
    }
}

/// A name with an underscore would become the variable of the name with a dash.
fn becomes_variable(name: &HeaderName) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    name.as_str().bytes().all(is_plain) && !LEFT_OUT.contains(&name.as_str())
}
