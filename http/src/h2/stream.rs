//! One request of HTTP/2.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, DATE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use socketserver::net::{Address, StopFlag};
use socketserver::{Connection, task};

use crate::Http;
use crate::access::Ended;
use crate::body::{Body, Bounds, Source, strip_trailers};
use crate::config::Limits;
use crate::date;
use crate::error::response_to;
use crate::forwarded::Origin;
use crate::h2::taking::Stuck;
use crate::h2::{Running, SEND_BUFFER};
use crate::handler::{Handler, call};
use crate::head;
use crate::response::{BodyWriter, Content, IntoResponse, Kind, Sink, copy};

/// How many bytes of a reader are read at once.
const READ_AT_ONCE: usize = 16 * 1024;

/// How many times a response that waits for room checks within its limit whether the client takes anything.
const CHECKS: u32 = 16;

/// How much another response may have reserved of the connection, and as much of it be about to be sent.
const OTHER: u64 = 2 * SEND_BUFFER as u64;

/// What a request knows of its connection.
pub(crate) struct Peer {
    id: u64,
    address: Address,
    stop: StopFlag,
    pub(super) running: Running,
}

impl Peer {
    pub(crate) fn of<C: Connection>(conn: &C) -> Self {
        Self {
            id: conn.id(),
            address: conn.peer(),
            stop: conn.context().stop_flag(),
            running: Running::default(),
        }
    }

    /// Where a request has come from.
    pub(crate) fn origin<H: Handler>(&self, http: &Http<H>, headers: &HeaderMap) -> Origin {
        http.origin(&self.address, headers)
    }
}

/// Serves a request. Its failure ends the request alone.
pub(crate) fn serve<H: Handler>(
    http: &Http<H>,
    peer: &Peer,
    origin: Origin,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let clock = http.clock();
    let client = origin.client;
    let (mut parts, stream) = request.into_parts();
    join_cookies(&mut parts.headers);
    let checked =
        head::check_target(&parts).and_then(|()| head::expects(&parts.headers, Version::HTTP_11));
    let is_head = parts.method == Method::HEAD;
    let mut input = Input::new(stream, respond, peer, &http.limits);
    input.expects = checked == Ok(true);
    // HTTP/2 itself checks it against the data.
    if !input.ended
        && let Some(length) = parts.headers.get(CONTENT_LENGTH)
    {
        input.size = length.to_str().ok().and_then(|length| length.parse().ok());
    }
    let mut request = Request::from_parts(parts, Body::new(&mut input, origin));
    let answered = match checked {
        Ok(_) => call(&http.handler, &mut H::Session::default(), &mut request),
        Err(reject) => (reject.status, format!("{}\n", reject.reason)).into_response(),
    };
    let (parts, _) = request.into_parts();
    let (response, error) = match answered {
        Ok(response) => (response, None),
        Err(err) => (response_to(&err, input.bounds.failed), Some(err)),
    };
    let response = match response.body().0 {
        Kind::Upgrade(_) => status_alone(StatusCode::NOT_IMPLEMENTED),
        // The client would wait for another response.
        _ if response.status().is_informational() => {
            status_alone(StatusCode::INTERNAL_SERVER_ERROR)
        }
        _ => response,
    };
    let status = response.status();
    let mut sent = 0;
    let respond = &mut input.respond;
    // Content may panic too, which ends this request alone.
    let sending = AssertUnwindSafe(|| send(http, peer, respond, response, is_head, &mut sent));
    let failed = match catch_unwind(sending) {
        Ok(result) => result.err(),
        Err(_) => Some(io::Error::other("the content of the response panicked")),
    };
    if failed.is_some() {
        input.respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let failed = failed.as_ref().map(|err| err as _);
    http.emit(clock, || Ended {
        id: peer.id,
        peer: peer.address.clone(),
        client,
        request: Some(&parts),
        status,
        received: input.bounds.received,
        sent,
        error: error.as_deref().or(failed),
    });
}

/// RFC 9113, section 8.2.3: a client may send the field in pieces, and handlers expect one.
fn join_cookies(headers: &mut HeaderMap) {
    let pieces = headers.get_all(COOKIE);
    if pieces.iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<_> = pieces.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookies) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, cookies);
    }
}

fn status_alone(status: StatusCode) -> Response<Content> {
    status.into_response().unwrap_or_default()
}

/// The body of a request, while its handler runs.
struct Input<'a> {
    stream: RecvStream,
    respond: SendResponse<Bytes>,
    /// The client waits for `100 Continue`.
    expects: bool,
    peer: &'a Peer,
    /// Data that has come and was not read.
    data: Bytes,
    /// What is left, if the client has said it.
    size: Option<u64>,
    bounds: Bounds,
    trailers: HeaderMap,
    ended: bool,
}

impl<'a> Input<'a> {
    fn new(
        stream: RecvStream,
        respond: SendResponse<Bytes>,
        peer: &'a Peer,
        limits: &Limits,
    ) -> Self {
        let ended = stream.is_end_stream();
        Self {
            respond,
            expects: false,
            peer,
            data: Bytes::new(),
            size: ended.then_some(0),
            bounds: Bounds::new(limits),
            trailers: HeaderMap::new(),
            ended,
            stream,
        }
    }

    fn fail(&mut self, status: StatusCode, err: io::Error) -> io::Error {
        self.bounds.failed = Some(status);
        err
    }

    /// Fails if the limit of the body is not kept.
    fn within(&mut self, checked: io::Result<()>) -> io::Result<()> {
        checked.map_err(|err| self.fail(StatusCode::PAYLOAD_TOO_LARGE, err))
    }

    /// Waits for more data. Returns `false` at the end of the body.
    fn fill(&mut self) -> io::Result<bool> {
        while self.data.is_empty() {
            if self.ended {
                return Ok(false);
            }
            let patience = self.bounds.patience();
            let wait = || task::block_on(poll_fn(|cx| self.stream.poll_data(cx)));
            match task::timeout(patience, wait) {
                Ok(Some(Ok(data))) => {
                    // The client may send as much again.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.data = data;
                }
                Ok(Some(Err(err))) => {
                    let err = super::io_error(err);
                    return Err(self.fail(StatusCode::BAD_REQUEST, err));
                }
                Ok(None) => {
                    (self.ended, self.size) = (true, Some(0));
                    let wait = || task::block_on(poll_fn(|cx| self.stream.poll_trailers(cx)));
                    if let Ok(Ok(Some(mut trailers))) = task::timeout(patience, wait) {
                        strip_trailers(&mut trailers);
                        self.trailers = trailers;
                    }
                }
                Err(err) => return Err(self.fail(StatusCode::REQUEST_TIMEOUT, err)),
            }
        }
        Ok(true)
    }
}

impl Source for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.bounds.check()?;
        let checked = self.bounds.check_room(self.size.unwrap_or(0));
        self.within(checked)?;
        if std::mem::take(&mut self.expects) && !self.ended {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            // If it fails, so does the wait for data.
            let _ = self.respond.send_informational(head);
        }
        if buf.is_empty() || !self.fill()? {
            return Ok(0);
        }
        let count = self.data.len().min(buf.len());
        let checked = self.bounds.count(count);
        self.within(checked)?;
        self.size = self.size.map(|size| size.saturating_sub(count as u64));
        self.data.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }

    fn size(&self) -> Option<u64> {
        self.size
    }

    fn set_limit(&mut self, bytes: u64) {
        self.bounds.limit = bytes;
    }

    fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }

    fn id(&self) -> u64 {
        self.peer.id
    }

    fn peer(&self) -> Address {
        self.peer.address.clone()
    }

    fn stopping(&self) -> bool {
        self.peer.stop.is_set()
    }

    fn peer_gone(&mut self) -> bool {
        is_reset(|cx| self.respond.poll_reset(cx))
    }
}

/// Whether the client has reset a stream, or its connection has ended.
fn is_reset(poll: impl FnOnce(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>) -> bool {
    // A wait that follows registers its own waker.
    poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Fields that concern a connection of HTTP/1 (RFC 9113, section 8.2.2).
static FORBIDDEN: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

fn send<H>(
    http: &Http<H>,
    peer: &Peer,
    respond: &mut SendResponse<Bytes>,
    response: Response<Content>,
    is_head: bool,
    sent: &mut u64,
) -> io::Result<()> {
    let (mut parts, content) = response.into_parts();
    // Hardly any response has one, and it has few fields.
    if parts.headers.keys().any(|name| FORBIDDEN.contains(name)) {
        for name in &FORBIDDEN {
            parts.headers.remove(name);
        }
    }
    let length = content.length();
    let status = parts.status;
    let is_bare = [
        StatusCode::NO_CONTENT,
        StatusCode::RESET_CONTENT,
        StatusCode::NOT_MODIFIED,
    ]
    .contains(&status);
    if is_bare {
        parts.headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length {
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !parts.headers.contains_key(DATE) {
        parts.headers.insert(DATE, date::now(HeaderValue::clone));
    }
    let is_silent = is_head || is_bare || length == Some(0);
    let head = Response::from_parts(parts, ());
    let stream = respond
        .send_response(head, is_silent)
        .map_err(super::io_error)?;
    if is_silent {
        return Ok(());
    }
    let mut sink = Frames {
        stream,
        peer,
        timeout: http.limits.body_timeout,
        others: OTHER * u64::from(http.limits.streams),
        sent,
    };
    match content.0 {
        Kind::Bytes(bytes) => sink.send_all(bytes, true),
        Kind::File(range) => range.pieces(READ_AT_ONCE as u64, |piece, is_last| {
            sink.send_all(piece.into(), is_last)
        }),
        Kind::Reader { reader, length } => {
            copy(reader, length, READ_AT_ONCE, |piece| sink.send(piece))?;
            sink.end(HeaderMap::new())
        }
        Kind::Stream(stream) => {
            let mut out = BodyWriter::new(&mut sink);
            stream(&mut out)?;
            out.send_pending()?;
            let trailers = std::mem::take(&mut out.trailers);
            sink.end(trailers)
        }
        Kind::Upgrade(_) => Ok(()),
    }
}

/// Sends content as the client gives room for it.
struct Frames<'a> {
    stream: SendStream<Bytes>,
    peer: &'a Peer,
    timeout: Duration,
    /// How many bytes of other responses may be sent before more of this one.
    others: u64,
    sent: &'a mut u64,
}

impl Frames<'_> {
    fn send_all(&mut self, mut bytes: Bytes, is_last: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            // Not all of a large content: others share the window of the connection.
            self.stream.reserve_capacity(bytes.len().min(SEND_BUFFER));
            let room = match self.stream.capacity() {
                0 => self.await_room()?,
                room => room,
            };
            let part = bytes.split_to(room.min(bytes.len()));
            if part.is_empty() {
                continue;
            }
            *self.sent += part.len() as u64;
            let ends = is_last && bytes.is_empty();
            self.stream.send_data(part, ends).map_err(super::io_error)?;
        }
        Ok(())
    }

    /// Waits for room, as long as the client goes on taking what lies before this response.
    fn await_room(&mut self) -> io::Result<usize> {
        let step = self.timeout / CHECKS;
        let mut began = Instant::now();
        let mut stuck = Stuck::new(self.others, began);
        loop {
            let wait = || task::block_on(poll_fn(|cx| self.stream.poll_capacity(cx)));
            let err = match task::timeout(step, wait) {
                Ok(Some(room)) => return room.map_err(super::io_error),
                Ok(None) => return Err(io::ErrorKind::ConnectionReset.into()),
                Err(err) => err,
            };
            // Not by an earlier deadline of the handler.
            let is_check = err.kind() == io::ErrorKind::TimedOut && began.elapsed() >= step;
            if !is_check || stuck.at(&self.peer.running.ask()) >= self.timeout {
                return Err(err);
            }
            began = Instant::now();
        }
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        if trailers.is_empty() {
            self.stream
                .send_data(Bytes::new(), true)
                .map_err(super::io_error)
        } else {
            self.stream.send_trailers(trailers).map_err(super::io_error)
        }
    }
}

impl Sink for Frames<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_all(Bytes::copy_from_slice(bytes), false)
    }

    /// Frames leave as soon as the client has room for them.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.peer.stop.is_set()
    }

    fn peer_gone(&mut self) -> bool {
        is_reset(|cx| self.stream.poll_reset(cx))
    }
}
