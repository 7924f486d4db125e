//! A count each second, as server-sent events: `server_sent_events [ADDRESS [MILLISECONDS]]`. A browser that loses
//! its connection comes back, and gets the count from where it was.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::Write;
use std::time::Duration;

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use socketserver::{HandlerError, Server, Tcp, Threading, task};
use socketserver_http::{Content, Http, Request};

const PAGE: &str = "<!doctype html><title>A count</title><p id=count>
<script>
new EventSource('/events').onmessage = event => { count.textContent = event.data; };
</script>
";

fn answer(request: &Request<'_>, pause: Duration) -> http::Result<Response<Content>> {
    if request.uri().path() != "/events" {
        let page = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8");
        return page.body(PAGE.into());
    }
    let last = request.headers().get("last-event-id");
    let last: Option<u64> = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let first = last.map_or(0, |id| id.saturating_add(1));
    let events = Content::stream(move |out| {
        for count in first.. {
            write!(out, "id: {count}\ndata: {count}\n\n")?;
            // Without it the server would gather 8 KiB first.
            out.flush()?;
            if out.stopping() {
                break;
            }
            task::sleep(pause);
        }
        Ok(())
    });
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CACHE_CONTROL, "no-store")
        .body(events)
}

fn main() -> Result<(), HandlerError> {
    let (addr, pause) = (std::env::args().nth(1), std::env::args().nth(2));
    let pause = Duration::from_millis(pause.map_or(Ok(1000), |millis| millis.parse())?);
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    let http = Http::new(move |request: &mut Request<'_>| answer(request, pause));
    server.serve_forever(http.serve())?;
    Ok(())
}
