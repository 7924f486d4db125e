//! The files of a directory, as `python3 -m http.server` serves them: `http_server [ADDRESS [DIRECTORY]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::error::Error;

use socketserver::{Server, Tcp, Threading};
use socketserver_http::{Files, Http};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let files = Files::open(args.next().as_deref().unwrap_or("."))?.list(true);
    let server = Server::<Tcp, Threading>::bind(&*addr)?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(Http::handler(files).access_log(std::io::stderr()).serve())?;
    Ok(())
}
