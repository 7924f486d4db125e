//! Requests that the server could not answer, as lines on standard error.

use std::error::Error;
use std::io::{self, ErrorKind};

use socketserver_http::Access;

use crate::throttle::Throttle;

/// Reports a request that the server could not answer, or not to the end, and why.
pub(super) fn report(access: &Access<'_>, throttle: &Throttle) {
    let is_ours = |error: &(dyn Error + 'static)| {
        access.status().is_server_error()
            || !access.status().is_client_error() && !is_the_clients(error)
    };
    let Some(error) = access.error().filter(|error| is_ours(*error)) else {
        return;
    };
    let id = access.connection_id();
    let status = access.status().as_u16();
    let path = access.request().map_or("-", |request| request.uri.path());
    throttle.say(format_args!(
        "socketserver: connection {id}: {path}: {status}: {error}"
    ));
}

/// Whether an error says that the client has gone, or takes nothing.
fn is_the_clients(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref().map(io::Error::kind);
    kind.is_some_and(|kind| {
        matches!(
            kind,
            ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::NotConnected
                | ErrorKind::TimedOut
        )
    })
}
