//! HTTP/1.0 and HTTP/1.1: the requests of a connection, one after the other.
//!
//! This is no wrapper of hyper. hyper takes heads that two servers can understand differently (no host or two, equal
//! lengths, `gzip, chunked`, bare LF), so a check would have to come before it, and would have to agree with it about
//! where each request ends. One parser cannot disagree with itself; `httparse`, which is hyper's too, reads the syntax.

pub(crate) mod chunked;
mod input;
pub(crate) mod output;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use socketserver::net::Managed;
use socketserver::{Connection, HandlerError, Next, task};

use crate::Http;
use crate::access::Ended;
use crate::body::Body;
use crate::config::{LINGER, Limits};
use crate::error::response_to;
use crate::h1::input::{Input, Progress};
use crate::h1::output::Sent;
use crate::handler::{Handler, call};
use crate::head::{self, Head, Reject, Scan};
use crate::response::{Content, IntoResponse, Kind};
use crate::session::Session;

/// How many bytes of a response are gathered before they are sent.
const WRITE_BUFFER: usize = 16 * 1024;

/// The first line of HTTP/2, with the empty line behind it (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// What a response depends on beside itself.
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Another request may follow.
    pub(crate) keeps_alive: bool,
}

/// What has come of the wait for a request.
enum Found {
    Head(Bytes),
    /// The connection ends, or waits without a thread.
    Nothing(Next),
    Reject(Reject),
}

/// Serves the requests of a connection until it ends, or waits for one without a thread. Returns `None` if the
/// client speaks HTTP/2.
pub(crate) fn serve<C: Connection + Managed, H: Handler>(
    http: &Http<H>,
    conn: &mut C,
    session: &mut Session<H::Session>,
) -> Result<Option<Next>, HandlerError> {
    conn.set_write_buffer(WRITE_BUFFER)?;
    loop {
        let head = match find(conn, session, &http.limits)? {
            Found::Head(head) if head == PREFACE && session.requests == 0 => {
                conn.unread(PREFACE)?;
                return Ok(None);
            }
            Found::Head(head) => head::parse(&head, &http.limits).map_err(|reject| {
                // The answer to `HEAD` has no content, also if something behind the method is wrong.
                let is_head = head.trim_ascii_start().starts_with(b"HEAD ");
                (if is_head { Method::HEAD } else { Method::GET }, reject)
            }),
            Found::Nothing(next) => return Ok(Some(next)),
            // The method of a head without its end is not known; no answer follows this one.
            Found::Reject(reject) => Err((Method::GET, reject)),
        };
        session.requests = session.requests.saturating_add(1);
        let keeps_alive = match head {
            Ok(head) => exchange(http, conn, session, head)?,
            Err((method, reject)) => {
                refuse(http, conn, method, reject)?;
                false
            }
        };
        if !keeps_alive {
            return Ok(Some(Next::Close));
        }
    }
}

/// Finds the head of the next request.
fn find<C: Connection + Managed, S>(
    conn: &mut C,
    session: &mut Session<S>,
    limits: &Limits,
) -> io::Result<Found> {
    let parks_at_once = conn.context().waits_hold_others();
    if session.head.is_empty() {
        if let Some(next) = await_request(conn, session, limits, parks_at_once)? {
            return Ok(Found::Nothing(next));
        }
        let bytes = conn.fill_buf()?;
        match head::scan(bytes, 0, limits) {
            Err(reject) => return Ok(Found::Reject(reject)),
            Ok(Scan::Whole(end)) => {
                let head = Bytes::copy_from_slice(&bytes[..end]);
                conn.consume(end);
                return Ok(Found::Head(head));
            }
            Ok(Scan::Partial) => {}
        }
    }
    gather(conn, session, limits, parks_at_once)
}

/// Waits between two requests for the next one. Returns what to do if none has come.
fn await_request<C: Connection + Managed, S>(
    conn: &mut C,
    session: &mut Session<S>,
    limits: &Limits,
    parks_at_once: bool,
) -> io::Result<Option<Next>> {
    let rest = |session: &mut Session<S>| {
        Ok(Some(match session.left(limits.idle_timeout) {
            Duration::ZERO => Next::Close,
            left => Next::ParkFor(left),
        }))
    };
    if parks_at_once && !conn.gather(&|_| true)? {
        return rest(session);
    }
    match task::timeout(LINGER, || conn.next_message()) {
        Ok(true) => {
            session.since = None;
            Ok(None)
        }
        Ok(false) => Ok(Some(Next::Close)),
        Err(err) if is_late(conn, &err) => rest(session),
        // Many clients reset a connection that they no longer need.
        Err(err) if err.kind() == io::ErrorKind::ConnectionReset => Ok(Some(Next::Close)),
        Err(err) => Err(err),
    }
}

/// Gathers a head that comes in several pieces.
fn gather<C: Connection + Managed, S>(
    conn: &mut C,
    session: &mut Session<S>,
    limits: &Limits,
    parks_at_once: bool,
) -> io::Result<Found> {
    loop {
        // RFC 9112, section 2.2: an empty line before a request is ignored, and begins none.
        let is_idle = matches!(&*session.head, b"" | b"\r\n");
        let left = session.left(match is_idle {
            true => limits.idle_timeout,
            false => limits.head_timeout,
        });
        if left.is_zero() && is_idle {
            return Ok(Found::Nothing(Next::Close));
        }
        if left.is_zero() {
            return Ok(Found::Reject(Reject {
                status: StatusCode::REQUEST_TIMEOUT,
                reason: "the head has not come in time",
            }));
        }
        // A stop ends parked connections soon, and this one has begun a request.
        let may_park = !conn.stopping();
        if may_park && parks_at_once && !conn.gather(&|_| true)? {
            return Ok(Found::Nothing(Next::ParkFor(left)));
        }
        let filled = task::timeout(left.min(LINGER), || conn.fill_buf().map(drop));
        match filled {
            Ok(()) => {}
            Err(err) if is_late(conn, &err) => {
                if may_park {
                    return Ok(Found::Nothing(Next::ParkFor(left)));
                }
                continue;
            }
            Err(err) => return Err(err),
        }
        let bytes = conn.fill_buf()?;
        if bytes.is_empty() {
            return Ok(Found::Nothing(Next::Close));
        }
        let (seen, count) = (session.head.len(), bytes.len());
        if is_idle {
            session.since = None;
        }
        session.head.extend_from_slice(bytes);
        match head::scan(&session.head, seen, limits) {
            Err(reject) => {
                conn.consume(count);
                return Ok(Found::Reject(reject));
            }
            Ok(Scan::Whole(end)) => {
                conn.consume(end - seen);
                session.head.truncate(end);
                session.since = None;
                return Ok(Found::Head(Bytes::from(std::mem::take(&mut session.head))));
            }
            Ok(Scan::Partial) => conn.consume(count),
        }
    }
}

/// Whether a read has only come to its timeout.
fn is_late<C: Connection>(conn: &C, err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::TimedOut && conn.context().abort_reason().is_none()
}

/// Serves one request. Returns whether another may follow.
fn exchange<C: Connection + Managed, H: Handler>(
    http: &Http<H>,
    conn: &mut C,
    session: &mut Session<H::Session>,
    head: Head,
) -> Result<bool, HandlerError> {
    let clock = http.clock();
    // The answers to earlier requests do not wait for this handler.
    conn.flush()?;
    let mut progress = Progress::new(head.framing, head.expects, &http.limits);
    let (parts, ()) = head.request.into_parts();
    let mut exchange = Exchange {
        method: parts.method.clone(),
        version: parts.version,
        keeps_alive: false,
    };
    let origin = http.origin(&conn.peer(), &parts.headers);
    let client = origin.client;
    let mut input = Input {
        conn,
        progress: &mut progress,
    };
    let mut request = Request::from_parts(parts, Body::new(&mut input, origin));
    let answered = call(&http.handler, &mut session.state, &mut request);
    let (parts, _) = request.into_parts();
    let (response, error) = match answered {
        Ok(response) => (response, None),
        Err(err) => (response_to(&err, progress.bounds.failed), Some(err)),
    };
    let response = possible(conn, &mut progress, exchange.version, response);
    exchange.keeps_alive = head.keeps_alive
        && progress.can_continue()
        && session.requests < http.limits.requests
        && !conn.stopping();
    let status = response.status();
    let mut bytes = 0;
    let sent = output::send(conn, &exchange, response, &mut bytes);
    let failed = sent.as_ref().err().map(|err| err as _);
    http.emit(clock, || Ended {
        id: conn.id(),
        peer: conn.peer(),
        client,
        request: Some(&parts),
        status,
        received: progress.bounds.received,
        sent: bytes,
        error: error.as_deref().or(failed),
    });
    let Sent {
        keeps_alive,
        upgrade,
    } = sent?;
    if let Some(upgrade) = upgrade {
        conn.set_write_buffer(0)?;
        upgrade(conn)?;
        return Ok(false);
    }
    let goes_on = keeps_alive && progress.discard(conn);
    if !goes_on && !progress.is_done() {
        // The close receives for a while what the client still sends, so that no reset overtakes the response (RFC 9112,
        // section 9.6).
        conn.leave_unread();
    }
    Ok(goes_on)
}

/// Replaces a response that the connection cannot have.
fn possible<C: Connection>(
    conn: &mut C,
    progress: &mut Progress,
    version: Version,
    response: Response<Content>,
) -> Response<Content> {
    let is_upgrade = matches!(response.body().0, Kind::Upgrade(_));
    let is_informational = response.status().is_informational();
    let status = if is_informational && version == Version::HTTP_10 {
        // RFC 9110, section 15.2.
        StatusCode::NOT_IMPLEMENTED
    } else if is_upgrade {
        // Section 7.8: the body of the request comes before the bytes of the other protocol.
        if progress.discard(conn) {
            return response;
        }
        progress.bounds.failed.unwrap_or(StatusCode::BAD_REQUEST)
    } else if is_informational {
        // The client would wait for another response.
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        return response;
    };
    status.into_response().unwrap_or_default()
}

/// Answers a request that is refused, and whose end is unknown therefore.
fn refuse<C: Connection + Managed, H: Handler>(
    http: &Http<H>,
    conn: &mut C,
    method: Method,
    reject: Reject,
) -> Result<(), HandlerError> {
    let clock = http.clock();
    let exchange = Exchange {
        method,
        version: Version::HTTP_11,
        keeps_alive: false,
    };
    let mut response = Response::new(Content::from(format!("{}\n", reject.reason)));
    *response.status_mut() = reject.status;
    let mut sent = 0;
    output::send(conn, &exchange, response, &mut sent)?;
    conn.leave_unread();
    http.emit(clock, || Ended {
        id: conn.id(),
        peer: conn.peer(),
        client: conn.peer().ip(),
        request: None,
        status: reject.status,
        received: 0,
        sent,
        error: None,
    });
    Ok(())
}
