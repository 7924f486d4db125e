//! An interface in JSON, whose counters all clients share: `json_counter [ADDRESS]`.
//! `curl http://127.0.0.1:8000/counters` shows all, `curl --json '{"add": 3}' http://127.0.0.1:8000/counters/apples`
//! adds to one, and `curl -X DELETE http://127.0.0.1:8000/counters/apples` removes it.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use socketserver::{Server, Tcp, Threading};
use socketserver_http::{Http, HttpError, Json, Request, RequestExt, Router};

#[derive(Clone, Default)]
struct Counters(Arc<Mutex<BTreeMap<String, i64>>>);

#[derive(Deserialize)]
struct Change {
    add: i64,
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, request: &mut Request<'_>) -> Result<Json<i64>, HttpError> {
        // Other content is answered 400, another content type 415, a large body 413.
        let Change { add } = request.json()?;
        let mut counters = self.lock();
        let count = counters.entry(request.param("name")?).or_default();
        *count = count.saturating_add(add);
        Ok(Json(*count))
    }

    /// `None` is answered 404, and `Some(())` 204.
    fn remove(&self, request: &Request<'_>) -> Result<Option<()>, HttpError> {
        let name: String = request.param("name")?;
        Ok(self.lock().remove(&name).map(drop))
    }
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    // Each closure has a share of the state.
    let all = Counters::default();
    let (one, old) = (all.clone(), all.clone());
    let path = "/counters/{name}";
    let router = Router::new()
        .get("/counters", move |_: &mut Request<'_>| {
            Json(all.lock().clone())
        })
        .post(path, move |request: &mut Request<'_>| one.add(request))
        .delete(path, move |request: &mut Request<'_>| old.remove(request));
    server.serve_forever(Http::handler(router).serve())?;
    Ok(())
}
