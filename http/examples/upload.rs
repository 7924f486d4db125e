//! Stores the files of a form: `upload [ADDRESS [DIRECTORY [BYTES]]]`. A browser shows the form, and
//! `curl -F file=@NAME http://127.0.0.1:8000/` sends one. Files go to the disk as they arrive. A form of more than BYTES
//! is answered 413, a name that is taken 409, and a file that does not come whole leaves nothing behind.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::{env, io, path::Path};

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::{Http, HttpError, Request, RequestExt, Router};
use tempfile::NamedTempFile;

fn page(_: &mut Request<'_>) -> http::Result<Response<&'static str>> {
    let html = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8");
    html.body(
        "<!doctype html><title>Upload</title><form method=post enctype=multipart/form-data>\
        <input type=file name=file multiple required> <button>Send</button></form>\n",
    )
}

fn store(directory: &Path, request: &mut Request<'_>) -> io::Result<(StatusCode, String)> {
    let named = |name: &str| request.headers().get(name)?.to_str().ok();
    // Any site's page can have a form for this server; a browser says whose it is.
    if named("origin").is_some_and(|url| url.rsplit('/').next() != named("host")) {
        return Ok((
            StatusCode::FORBIDDEN,
            "the form is another site's\n".to_owned(),
        ));
    }
    let (mut form, mut text) = (request.multipart()?, String::new());
    while let Some(mut field) = form.next_field()? {
        if field.file_name().is_none() {
            continue;
        }
        // The client's own name may be any text, so only its last component is used.
        let unusable = || HttpError::new(StatusCode::BAD_REQUEST, "the file has no usable name");
        let path = directory.join(field.safe_file_name().ok_or_else(unusable)?);
        // Its drop removes the file, after an error too.
        let mut file = NamedTempFile::new_in(directory)?;
        let bytes = io::copy(&mut field, &mut file)?;
        let taken = |_| HttpError::new(StatusCode::CONFLICT, "the name is taken");
        file.persist_noclobber(&path).map_err(taken)?;
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
