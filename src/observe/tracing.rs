//! Events as those of the `tracing` crate.

use std::time::Duration;

use tracing::{Level, debug, error, event, info, warn};

use crate::observe::events::{EndReason, Event, Observer};

/// An observer that emits a `tracing` event for each event of the server, with the target
/// `socketserver`.
///
/// Levels: `DEBUG` for connections and datagrams that come and go; `WARN` for those that fail, are
/// refused or are aborted, for limits and for stalls; `ERROR` for accept errors and for workers
/// that end; `INFO` for states and for workers that start. Fields: `id`, `peer`, `received` and
/// `sent` in bytes, `age_ms`.
///
/// # Examples
///
/// ```
/// use socketserver::observe::Tracing;
/// use socketserver::{Server, Tcp, Threading};
///
/// let server = Server::<Tcp, Threading>::builder()
///     .observer(Tracing::default())
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Tracing;

const TARGET: &str = "socketserver";

impl Observer for Tracing {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Accepted { id, peer, .. } => debug!(target: TARGET, id, %peer, "accepted"),
            Event::Refused {
                id, peer, reason, ..
            } => {
                warn!(target: TARGET, id, %peer, %reason, "refused");
            }
            Event::Proxied { id, peer, .. } => debug!(target: TARGET, id, %peer, "proxied"),
            Event::Started { id, .. } => debug!(target: TARGET, id, "started"),
            Event::Parked { id, .. } => debug!(target: TARGET, id, "parked"),
            Event::Ended { how, .. } if *how == EndReason::Completed => {
                ended(event, |id, peer, [received, sent, age_ms]| {
                    event!(target: TARGET, Level::DEBUG, id, peer, received, sent, age_ms, "completed");
                });
            }
            Event::Ended { how, .. } => ended(event, |id, peer, [received, sent, age_ms]| {
                event!(target: TARGET, Level::WARN, id, peer, received, sent, age_ms, "{how}");
            }),
            Event::Failed(failure) => {
                warn!(target: TARGET, id = failure.id(), peer = %failure.peer(), "{}", failure.error());
            }
            Event::AcceptFailed(err) => error!(target: TARGET, "{err}"),
            Event::Stalled(_) | Event::LimitReached(_) => warn!(target: TARGET, "{event}"),
            Event::State(_) | Event::WorkerStarted { .. } => info!(target: TARGET, "{event}"),
            Event::WorkerEnded { .. } => error!(target: TARGET, "{event}"),
        }
    }
}

/// Passes on the fields of [`Event::Ended`].
fn ended(event: &Event<'_>, emit: impl FnOnce(u64, String, [u64; 3])) {
    if let Event::Ended {
        id, peer, traffic, ..
    } = event
    {
        let age_ms = u64::try_from(Duration::as_millis(&traffic.age)).unwrap_or(u64::MAX);
        emit(
            *id,
            peer.to_string(),
            [traffic.received, traffic.sent, age_ms],
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::io::{Read, Write};
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::python::TcpServer;

    /// Records each event.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" || field.name() == "id" || field.name() == "received" {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_connection_is_traced_from_its_accept_to_its_end() {
        let lines = Lines::default();
        let mut server = TcpServer::builder()
            .observer(Tracing)
            .bind("127.0.0.1:0")
            .unwrap();
        let address = server.local_addrs()[0].socket_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();
        tracing::subscriber::with_default(lines.clone(), || {
            let handled = server.handle_request(None, |conn| conn.read_exact(&mut [0; 5]));
            handled.unwrap();
        });
        let lines = lines.0.lock().unwrap();
        assert_eq!(
            *lines,
            [
                "DEBUG message=accepted id=1",
                "DEBUG message=started id=1",
                "DEBUG message=completed id=1 received=5",
            ]
        );
    }
}
