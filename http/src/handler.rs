//! Handlers of requests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use http::Response;
use socketserver::HandlerError;

use crate::Request;
use crate::response::{Content, IntoResponse};

/// A type that answers requests. Every `Fn(&mut Request<'_>) -> impl IntoResponse` is a handler.
///
/// # Examples
///
/// A handler with shared state, and a count of each connection's requests:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use http::Response;
/// use socketserver::{HandlerError, Server, Tcp, Threading};
/// use socketserver_http::{Content, Handler, Http, IntoResponse, Request};
///
/// #[derive(Default)]
/// struct Visits(AtomicU64);
///
/// impl Handler for Visits {
///     type Session = u32;
///
///     fn call(&self, own: &mut u32, _: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
///         *own += 1;
///         let all = self.0.fetch_add(1, Ordering::Relaxed) + 1;
///         format!("request {own} of this connection, {all} of all\n").into_response()
///     }
/// }
///
/// let http = Http::handler(Visits::default());
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(http.serve())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What each connection has of its own: made before its first request, dropped when it ends. On a connection of
    /// HTTP/2, whose requests run at the same time, each request has one.
    type Session: Default + Send + 'static;

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// The client receives the response of an [`HttpError`](crate::HttpError), the status that the
    /// [`Body`](crate::Body) names, or 500; [observers](crate::Http::on_access) receive the error. So it is with a panic.
    fn call(
        &self,
        session: &mut Self::Session,
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError>;
}

impl<F, R> Handler for F
where
    F: Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    type Session = ();

    fn call(
        &self,
        (): &mut (),
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        self(request).into_response()
    }
}

/// Calls a handler. A panic is an error.
pub(crate) fn call<H: Handler>(
    handler: &H,
    session: &mut H::Session,
    request: &mut Request<'_>,
) -> Result<Response<Content>, HandlerError> {
    // The session may be left half-changed by a panic, as the state of a thread is by one that a join reports.
    let called = catch_unwind(AssertUnwindSafe(|| handler.call(session, request)));
    called.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "(no text)".to_owned());
        Err(format!("the handler panicked: {text}").into())
    })
}
