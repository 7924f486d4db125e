//! Stores files: `upload [ADDRESS [DIRECTORY [BYTES]]]`, and then `curl -T FILE http://127.0.0.1:8000/`.
//! The body goes to the disk as it arrives. A file of more than BYTES is answered 413, and leaves nothing behind.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::env;
use std::io;
use std::path::Path;

use http::{Method, StatusCode};
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::{Http, Request};
use tempfile::NamedTempFile;

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_part)
}

fn store(directory: &Path, request: &mut Request<'_>) -> io::Result<(StatusCode, String)> {
    if request.method() != Method::PUT {
        let text = "files are sent with PUT\n".to_owned();
        return Ok((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let name = request.uri().path().trim_start_matches('/').to_owned();
    if !is_name(&name) {
        let text = "a name has letters, digits, -, . and _\n".to_owned();
        return Ok((StatusCode::BAD_REQUEST, text));
    }
    // Its drop removes the file, after an error too.
    let mut file = NamedTempFile::new_in(directory)?;
    // The response says what a failed read means: 413, 408 or 400.
    let bytes = io::copy(request.body_mut(), &mut file)?;
    file.persist(directory.join(&name))?;
    Ok((StatusCode::CREATED, format!("{name} has {bytes} bytes\n")))
}

fn main() -> Result<(), HandlerError> {
    let (addr, directory, bytes) = (env::args().nth(1), env::args().nth(2), env::args().nth(3));
    let directory = directory.unwrap_or_else(|| ".".to_owned());
    let bytes = bytes.map_or(Ok(1 << 30), |bytes| bytes.parse())?;
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    let http = Http::new(move |request: &mut Request<'_>| store(directory.as_ref(), request))
        .body_bytes(bytes)
        .access_log(io::stderr());
    server.serve_forever(http.serve())?;
    Ok(())
}
