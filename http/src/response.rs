//! Responses: their content, and what a handler may return.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use socketserver::{Connection, HandlerError};

type Stream = Box<dyn FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send>;
type Upgrade = Box<dyn FnOnce(&mut dyn Connection) -> io::Result<()> + Send>;

/// The content of a response: bytes, a part of a file, a reader, or a closure that writes.
///
/// Bytes, parts of files and [sized](Self::sized_reader) readers are sent with their length; everything else in chunks,
/// or, to a client of HTTP/1.0, up to the end of the stream.
///
/// # Examples
///
/// ```
/// use socketserver_http::Content;
///
/// let text = Content::from("hello");
/// let file = Content::sized_reader(std::io::repeat(b'.'), 1024);
/// let stream = Content::stream(|out| {
///     for number in 0..3 {
///         use std::io::Write;
///         writeln!(out, "{number}")?;
///         out.flush()?;
///     }
///     Ok(())
/// });
/// # drop((text, file, stream));
/// ```
pub struct Content(pub(crate) Kind);

pub(crate) enum Kind {
    Bytes(Bytes),
    Reader {
        reader: Box<dyn Read + Send>,
        length: Option<u64>,
    },
    File(FileRange),
    Stream(Stream),
    Upgrade(Upgrade),
}

impl Content {
    /// No content.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Kind::Bytes(Bytes::new()))
    }

    /// The bytes of a reader, up to its end. An error of the reader aborts the response, which the client can tell
    /// from its end; a client of HTTP/1.0 cannot, because the end of the stream is the end of the content there.
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self(Kind::Reader {
            reader: Box::new(reader),
            length: None,
        })
    }

    /// The first `length` bytes of a reader. If the reader ends before, the response is aborted.
    pub fn sized_reader(reader: impl Read + Send + 'static, length: u64) -> Self {
        Self(Kind::Reader {
            reader: Box::new(reader),
            length: Some(length),
        })
    }

    /// The bytes of a file: of a regular one from its beginning, with its length, as [`file_range`](Self::file_range)
    /// sends them; of any other one as [`reader`](Self::reader) does.
    ///
    /// # Errors
    ///
    /// As fstat(2).
    pub fn file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(if metadata.is_file() {
            Self::file_range(file, 0, metadata.len())
        } else {
            Self::reader(file)
        })
    }

    /// `length` bytes of a regular file, from the byte `offset` on. If the file ends before, for example because it was
    /// truncated meanwhile, the response is aborted.
    ///
    /// A client of HTTP/1 without TLS receives them by sendfile(2), without a copy in the process; up to 8 KiB leave
    /// in one piece with the head. Reading from a disk blocks the thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io;
    /// use socketserver_http::{Content, Request, serve};
    /// # use socketserver::{Server, Tcp, Threading};
    ///
    /// fn first_kibibyte(_: &mut Request<'_>) -> io::Result<Content> {
    ///     Ok(Content::file_range(File::open("/var/log/large.log")?, 0, 1024))
    /// }
    /// # drop(Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(serve(first_kibibyte))?);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[must_use]
    pub const fn file_range(file: File, offset: u64, length: u64) -> Self {
        Self(Kind::File(FileRange {
            file,
            offset,
            length,
        }))
    }

    /// The bytes that a closure writes. The closure is called once the head of the response has been sent, where the
    /// handler has run.
    /// An error aborts the response.
    pub fn stream(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self(Kind::Stream(Box::new(write)))
    }

    /// The items of an iterator; each is sent at once, as a chunk.
    pub fn chunks<I>(chunks: I) -> Self
    where
        I: IntoIterator<Item: AsRef<[u8]>, IntoIter: Send + 'static>,
    {
        let mut chunks = chunks.into_iter();
        Self::stream(move |out| {
            chunks.try_for_each(|chunk| {
                out.write_all(chunk.as_ref())?;
                out.flush()
            })
        })
    }

    /// The connection itself, for another protocol: the closure is called with it after the head of the response,
    /// which has the status 101 and an `Upgrade` field, or answers `CONNECT`. The connection closes at its end.
    ///
    /// A request of HTTP/2 has no connection of its own; it is answered 501.
    pub fn upgrade(
        serve: impl FnOnce(&mut dyn Connection) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self(Kind::Upgrade(Box::new(serve)))
    }
}

impl Content {
    /// The length that the client is told before the content.
    pub(crate) const fn length(&self) -> Option<u64> {
        match &self.0 {
            Kind::Bytes(bytes) => Some(bytes.len() as u64),
            Kind::Reader { length, .. } => *length,
            Kind::File(range) => Some(range.length),
            Kind::Stream(_) | Kind::Upgrade(_) => None,
        }
    }
}

/// A part of a file.
pub(crate) struct FileRange {
    pub(crate) file: File,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl FileRange {
    /// Reads the whole part behind what `out` holds.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has ended before.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(
            start + usize::try_from(self.length).unwrap_or(usize::MAX - start),
            0,
        );
        let read = self.file.read_exact_at(&mut out[start..], self.offset);
        read.map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => too_short(),
            _ => err,
        })
    }

    /// Reads pieces of at most `max` bytes, and passes them on, with whether each is the last one.
    ///
    /// # Errors
    ///
    /// As [`append_to`](Self::append_to), or `send` has failed.
    pub(crate) fn pieces(
        mut self,
        max: u64,
        mut send: impl FnMut(Vec<u8>, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = self.offset.saturating_add(self.length);
        while self.offset < end {
            self.length = max.min(end - self.offset);
            let mut piece = Vec::new();
            self.append_to(&mut piece)?;
            self.offset += self.length;
            send(piece, self.offset == end)?;
        }
        Ok(())
    }
}

/// The content has fewer bytes than the head of the response has said.
pub(crate) fn too_short() -> io::Error {
    let text = "the content of the response has ended before its length";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// Reads up to the end, or the first `length` bytes, and passes on pieces of at most `max` bytes.
///
/// # Errors
///
/// Reading or `send` has failed, or the end has come before the length.
pub(crate) fn copy(
    mut reader: impl Read,
    length: Option<u64>,
    max: usize,
    mut send: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; max];
    let mut left = length;
    while left != Some(0) {
        let max = left.map_or(max, |left| {
            usize::try_from(left).map_or(max, |left| left.min(max))
        });
        let count = match reader.read(&mut buffer[..max]) {
            Ok(0) if left.is_none() => break,
            Ok(0) => return Err(too_short()),
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        send(&buffer[..count])?;
        left = left.map(|left| left - count as u64);
    }
    Ok(())
}

impl Default for Content {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Bytes(bytes) => return f.debug_tuple("Content").field(bytes).finish(),
            Kind::Reader { .. } => "reader",
            Kind::File(_) => "file",
            Kind::Stream(_) => "stream",
            Kind::Upgrade(_) => "upgrade",
        };
        f.debug_tuple("Content").field(&kind).finish()
    }
}

impl From<()> for Content {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Self {
        Self(Kind::Bytes(Bytes::from_static(text.as_bytes())))
    }
}

impl From<&'static [u8]> for Content {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Kind::Bytes(Bytes::from_static(bytes)))
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self(Kind::Bytes(text.into()))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

/// Sends the content of a response piece by piece: the argument of [`Content::stream`].
///
/// Writes are gathered in 8 KiB; [`flush`](Write::flush) sends them at once, as one chunk.
///
/// # Examples
///
/// Server-sent events, one each second until the server stops or the client is gone:
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use http::Response;
/// use socketserver::task;
/// use socketserver_http::{Content, Request};
///
/// fn ticks(_: &mut Request<'_>) -> Response<Content> {
///     let events = Content::stream(|out| {
///         while !out.stopping() {
///             out.write_all(b"data: tick\n\n")?;
///             out.flush()?;
///             task::sleep(Duration::from_secs(1));
///         }
///         Ok(())
///     });
///     Response::builder().header("content-type", "text/event-stream").body(events).unwrap()
/// }
/// # let _ = socketserver_http::Http::new(ticks);
/// ```
pub struct BodyWriter<'a> {
    sink: &'a mut dyn Sink,
    pending: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// Where content goes: a connection of HTTP/1, or a stream of HTTP/2.
pub(crate) trait Sink {
    /// Sends bytes as a chunk, which is not empty.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Sends what the connection has buffered.
    fn flush(&mut self) -> io::Result<()>;
    fn stopping(&self) -> bool;
}

/// How many bytes of content are gathered before they are sent.
pub(crate) const GATHERED: usize = 8 * 1024;

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink) -> Self {
        Self {
            sink,
            pending: Vec::new(),
            trailers: HeaderMap::new(),
        }
    }

    /// Sets the trailer fields, which are sent at the end to a client that takes chunks.
    pub fn set_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = trailers;
    }

    /// Returns whether the server has been asked to stop. An endless stream should then end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.sink.stopping()
    }

    pub(crate) fn send_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let sent = self.sink.send(&self.pending);
        self.pending.clear();
        sent
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.pending.len() + buf.len() > GATHERED {
            self.send_pending()?;
        }
        if buf.len() >= GATHERED {
            self.sink.send(buf)?;
        } else {
            self.pending.extend_from_slice(buf);
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()?;
        self.sink.flush()
    }
}

impl fmt::Debug for BodyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// What a handler may return: a [`Response`], its content alone, a status, or a `Result` of these.
///
/// | value | response |
/// |---|---|
/// | `Response<T>` | as it is |
/// | `()` | 204 |
/// | `&'static str`, `String` | 200, `text/plain; charset=utf-8` |
/// | `Vec<u8>`, `Bytes`, `Content` | 200, `application/octet-stream` |
/// | `File` | 200, its content; a regular file with its length |
/// | `StatusCode` | that status; 4xx and 5xx with their name as text |
/// | `(StatusCode, T)` | the response of `T` with that status |
/// | `Option<T>` | the response of `T`, or 404 |
/// | `Result<T, E>` | the response of `T`; that of an [`HttpError`](crate::HttpError), and 500 for other errors, which [observers](crate::Http::on_access) receive |
/// | `HttpError` | its response |
///
/// # Examples
///
/// ```
/// use http::StatusCode;
/// use socketserver_http::IntoResponse;
///
/// let response = (StatusCode::CREATED, "done\n").into_response().unwrap();
/// assert_eq!(response.status(), 201);
/// assert_eq!(None::<&str>.into_response().unwrap().status(), 404);
/// ```
pub trait IntoResponse {
    /// Converts the value.
    ///
    /// # Errors
    ///
    /// The error of the handler.
    fn into_response(self) -> Result<Response<Content>, HandlerError>;
}

pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A response with content of a type.
pub(crate) fn typed(content_type: HeaderValue, content: impl Into<Content>) -> Response<Content> {
    let mut response = Response::new(content.into());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The response of a status, with a field.
pub(crate) fn with_field(
    status: StatusCode,
    name: HeaderName,
    value: HeaderValue,
) -> Result<Response<Content>, HandlerError> {
    let mut response = status.into_response()?;
    response.headers_mut().insert(name, value);
    Ok(response)
}

impl<T: Into<Content>> IntoResponse for Response<T> {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(self.map(Into::into))
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(typed(TEXT, self))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(typed(TEXT, self))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(typed(BYTES, self))
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(typed(BYTES, self))
    }
}

impl IntoResponse for Content {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Ok(typed(BYTES, self))
    }
}

impl IntoResponse for File {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        Content::file(self)?.into_response()
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        let mut response = if self.is_client_error() || self.is_server_error() {
            let name = self.canonical_reason().unwrap_or("Error");
            typed(TEXT, format!("{name}\n"))
        } else {
            Response::new(Content::empty())
        };
        *response.status_mut() = self;
        Ok(response)
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        let mut response = self.1.into_response()?;
        *response.status_mut() = self.0;
        Ok(response)
    }
}

impl<T: IntoResponse> IntoResponse for Option<T> {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        self.map_or_else(|| StatusCode::NOT_FOUND.into_response(), T::into_response)
    }
}

impl<T: IntoResponse, E: Into<HandlerError>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        self.map_err(Into::into)?.into_response()
    }
}
