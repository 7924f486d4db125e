//! Stores the files of a form: `upload [ADDRESS [DIRECTORY [BYTES]]]`. A browser shows the form, and
//! `curl -F file=@NAME http://127.0.0.1:8000/` sends one. Files go to the disk as they arrive. A form of more than BYTES
//! is answered 413, and a file that does not come whole leaves nothing behind.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::env;
use std::io;
use std::path::Path;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::{Content, Http, HttpError, Request, RequestExt, Router};
use tempfile::NamedTempFile;

const PAGE: &str = "<!doctype html><title>Upload</title>
<form method=post enctype=multipart/form-data>
<input type=file name=file multiple required> <button>Send</button>
</form>
";

fn page(_: &mut Request<'_>) -> Response<Content> {
    let mut response = Response::new(Content::from(PAGE));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

fn store(directory: &Path, request: &mut Request<'_>) -> io::Result<(StatusCode, String)> {
    let mut form = request.multipart()?;
    let mut text = String::new();
    while let Some(mut field) = form.next_field()? {
        // The client's own name may be any text, so only its last component is used.
        let name = field.safe_file_name().map(str::to_owned);
        let refused = || HttpError::new(StatusCode::BAD_REQUEST, "the file has no usable name");
        let path = directory.join(name.as_deref().ok_or_else(refused)?);
        // Its drop removes the file, after an error too.
        let mut file = NamedTempFile::new_in(directory)?;
        let bytes = io::copy(&mut field, &mut file)?;
        file.persist(&path)?;
        text += &format!("{} has {bytes} bytes\n", path.display());
    }
    Ok((StatusCode::CREATED, text))
}

fn main() -> Result<(), HandlerError> {
    let (addr, directory, bytes) = (env::args().nth(1), env::args().nth(2), env::args().nth(3));
    let directory = directory.unwrap_or_else(|| ".".to_owned());
    let bytes = bytes.map_or(Ok(1 << 30), |bytes| bytes.parse())?;
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    let store = move |request: &mut Request<'_>| store(directory.as_ref(), request);
    let http = Http::handler(Router::new().get("/", page).post("/", store));
    server.serve_forever(http.body_bytes(bytes).access_log(io::stderr()).serve())?;
    Ok(())
}
