//! Forms with files: `multipart/form-data` (RFC 7578), read as it arrives.
//!
//! `multer` parses, over a stream of its own that has nothing to wait for: the body is read here, between two polls. So
//! no future waits, and memory holds one piece of the body and the head of one field.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};

use crate::form::{expect_type, read_limited};
use crate::{HttpError, Request};

/// How many bytes are read at once.
const PIECE: usize = 16 * 1024;

/// How many bytes a field's head may have, with what comes before the first one.
const HEAD_MAX: usize = 16 * 1024;

/// How many fields a body has at most.
const FIELDS_MAX: usize = 1000;

/// RFC 2046, section 5.1.1.
const BOUNDARY_MAX: usize = 70;

/// The fields of a body of the type `multipart/form-data`, one after the other.
///
/// [`RequestExt::multipart`](crate::RequestExt::multipart) makes it. The body may have as many bytes as any other
/// ([`Http::body_bytes`](crate::Http::body_bytes), [`Body::set_limit`](crate::Body::set_limit)), and 1,000 fields with
/// heads of about 16 KiB each. Memory holds a few pieces of 16 KiB of it.
///
/// # Examples
///
/// Stores the first file of a form:
///
/// ```
/// use std::io;
/// use http::StatusCode;
/// use socketserver_http::{HttpError, Request, RequestExt, Router};
///
/// fn upload(request: &mut Request<'_>) -> io::Result<String> {
///     // 4 GiB instead of the server's limit.
///     request.body_mut().set_limit(4 << 30);
///     let mut multipart = request.multipart()?;
///     while let Some(mut field) = multipart.next_field()? {
///         if field.file_name().is_some() {
///             let mut file = tempfile::tempfile()?;
///             let count = io::copy(&mut field, &mut file)?;
///             return Ok(format!("{} has {count} bytes\n", field.name()));
///         }
///     }
///     Err(HttpError::new(StatusCode::BAD_REQUEST, "there is no file").into())
/// }
///
/// let router = Router::new().post("/upload", upload);
/// ```
pub struct Multipart<'a> {
    body: &'a mut dyn Read,
    feed: Arc<Mutex<Feed>>,
    parser: multer::Multipart<'static>,
    /// The field that was returned last, until its end.
    open: Option<multer::Field<'static>>,
    fields: usize,
    /// What a read fills.
    buffer: Box<[u8]>,
}

impl<'a> Multipart<'a> {
    pub(crate) fn new(request: &'a mut Request<'_>) -> Result<Self, HttpError> {
        let kind = "multipart/form-data";
        expect_type(request, kind, |own| own == kind)?;
        let value = request.headers().get(CONTENT_TYPE);
        let value = value.and_then(|value| value.to_str().ok());
        let boundary = value.and_then(|value| multer::parse_boundary(value).ok());
        let boundary = boundary.filter(|boundary| (1..=BOUNDARY_MAX).contains(&boundary.len()));
        let boundary = boundary
            .ok_or_else(|| HttpError::bad_request("the content type has no valid boundary"))?;
        Ok(Self::over(request.body_mut(), boundary))
    }

    fn over(body: &'a mut dyn Read, boundary: String) -> Self {
        let feed = Arc::new(Mutex::new(Feed::default()));
        Self {
            parser: multer::Multipart::new(Fed(Arc::clone(&feed)), boundary),
            feed,
            body,
            open: None,
            fields: 0,
            buffer: vec![0; PIECE].into(),
        }
    }

    /// Returns the next field, or `None` behind the last one. The rest of the field before is read and discarded.
    ///
    /// # Errors
    ///
    /// - 400: the body is malformed, or ends before its last boundary. So is a field whose `Content-Disposition` does not
    ///   have the form that RFC 7578 gives it: one name, at most one file name, no `filename*`, all UTF-8.
    /// - 413: there are too many fields, or the head of one is too long.
    /// - Those of the [`Body`](crate::Body).
    pub fn next_field(&mut self) -> Result<Option<Field<'_>>, HttpError> {
        while !self.next_piece()?.is_empty() {}
        let head = self.next_head()?;
        let Some(head) = head else {
            return Ok(None);
        };
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(too_large(format!(
                "there are more than {FIELDS_MAX} fields"
            )));
        }
        let names = head.headers().get(CONTENT_DISPOSITION).and_then(names);
        let Some((name, file_name)) = names else {
            let text = "a field has no `Content-Disposition` with a name, or a malformed one";
            return Err(HttpError::bad_request(text));
        };
        let content_type = head.content_type().map(ToString::to_string);
        self.open = Some(head);
        Ok(Some(Field {
            name,
            file_name,
            content_type,
            piece: Bytes::new(),
            multipart: self,
        }))
    }

    /// Reads until the head of a field has come, or the end.
    fn next_head(&mut self) -> Result<Option<multer::Field<'static>>, HttpError> {
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = 0;
        loop {
            if let Poll::Ready(head) = self.parser.poll_next_field(&mut context) {
                return head.map_err(malformed);
            }
            if bytes >= HEAD_MAX {
                return Err(too_large(format!(
                    "the head of a field has more than {HEAD_MAX} bytes"
                )));
            }
            bytes += self.fill()?;
        }
    }

    /// Returns more bytes of the field that is open; none at its end.
    fn next_piece(&mut self) -> Result<Bytes, HttpError> {
        let mut context = Context::from_waker(Waker::noop());
        while let Some(open) = &mut self.open {
            match Pin::new(open).poll_next(&mut context) {
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                Poll::Ready(Some(piece)) => return piece.map_err(malformed),
                Poll::Ready(None) => self.open = None,
                Poll::Pending => {
                    self.fill()?;
                }
            }
        }
        Ok(Bytes::new())
    }

    /// Reads a piece of the body for the parser. Returns its length.
    fn fill(&mut self) -> Result<usize, HttpError> {
        let feed = || self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        // The parser has an answer to the end of its input.
        if feed().ended {
            return Err(HttpError::bad_request("the form ends too early"));
        }
        let count = loop {
            match self.body.read(&mut self.buffer) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(HttpError::of_read)?,
            }
        };
        let mut feed = feed();
        feed.ended = count == 0;
        let piece = Bytes::copy_from_slice(&self.buffer[..count]);
        feed.piece = Some(piece).filter(|piece| !piece.is_empty());
        Ok(count)
    }
}

/// The name of a field, and that of its file, as `Content-Disposition` has them (RFC 7578, section 4.2). `None` if that
/// is malformed, or not what all programs read in the same way.
fn names(field: &HeaderValue) -> Option<(String, Option<String>)> {
    let (kind, mut rest) = str::from_utf8(field.as_bytes()).ok()?.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return None;
    }
    let mut all = HashMap::new();
    while !rest.trim().is_empty() {
        let (name, behind) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let (value, behind) = value(behind.trim_start())?;
        let is_token = !name.is_empty() && !name.contains([';', '"', ' ', '\t']);
        if !is_token || name == "filename*" || all.insert(name, value).is_some() {
            return None;
        }
        rest = match behind.trim_start() {
            "" => "",
            behind => behind.strip_prefix(';')?,
        };
    }
    Some((all.remove("name")?, all.remove("filename")))
}

/// The value of a parameter, and what is behind it. Within quotation marks, a backslash escapes them and itself alone:
/// browsers do not escape it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, behind) = text.split_at(text.find(';').unwrap_or(text.len()));
        let value = value.trim_end();
        let is_plain = !value.is_empty() && !value.contains(['"', ' ', '\t']);
        return is_plain.then(|| (value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        let escaped = chars.next_if(|(_, next)| char == '\\' && matches!(next, '"' | '\\'));
        match (char, escaped) {
            (_, Some((_, escaped))) => value.push(escaped),
            ('"', None) => return Some((value, &quoted[at + 1..])),
            (char, None) => value.push(char),
        }
    }
    None
}

fn malformed(err: multer::Error) -> HttpError {
    HttpError::bad_request("the form is malformed").caused_by(err)
}

fn too_large(text: String) -> HttpError {
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// What the parser takes next.
#[derive(Default)]
struct Feed {
    piece: Option<Bytes>,
    ended: bool,
}

struct Fed(Arc<Mutex<Feed>>);

impl Stream for Fed {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut feed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match feed.piece.take() {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if feed.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A field of a [`Multipart`] body. [`Read`] returns its content as it arrives; a field may be left before its end.
///
/// # Errors
///
/// Reads fail with an [`HttpError`] within the [`io::Error`], so a handler that passes it on answers 400 if the body is
/// malformed or ends within the field, and what the [`Body`](crate::Body) says if that fails.
///
/// # Examples
///
/// ```
/// use std::path::Path;
/// use socketserver_http::{Field, HttpError};
///
/// /// Where the file of a field is stored: by the name that the client has given, if that is harmless.
/// fn path_of(field: &Field<'_>, folder: &Path) -> Result<std::path::PathBuf, HttpError> {
///     let no_name = || HttpError::new(http::StatusCode::BAD_REQUEST, "the file has no usable name");
///     Ok(folder.join(field.safe_file_name().ok_or_else(no_name)?))
/// }
/// ```
pub struct Field<'a> {
    name: String,
    file_name: Option<String>,
    content_type: Option<String>,
    /// What was read of the content and not returned yet.
    piece: Bytes,
    multipart: &'a mut dyn Pieces,
}

impl Field<'_> {
    /// Returns the name of the field.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the file as the client has sent it: any text, with slashes or `..` in it, and so no path.
    /// `None` for a field that is no file.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// Returns the last component of the file's name, if that names a file in whatever folder it is joined to: after
    /// the last slash and backslash, without control characters and without a dot at its beginning, at most
    /// 255 bytes long. A file of that name may exist.
    #[must_use]
    pub fn safe_file_name(&self) -> Option<&str> {
        last_component(self.file_name()?)
    }

    /// Returns the media type that the client has named; it need not be true.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Reads what is left of the field as text, of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// - 400: the bytes are not UTF-8.
    /// - 413: there are more.
    /// - Those of a read.
    pub fn text(&mut self, max: u64) -> Result<String, HttpError> {
        let bytes = read_limited(&mut *self, max)?;
        String::from_utf8(bytes)
            .map_err(|_| HttpError::bad_request(format!("the field `{}` is not UTF-8", self.name)))
    }
}

fn last_component(name: &str) -> Option<&str> {
    let name = name.rsplit(['/', '\\']).next()?;
    let is_safe = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.chars().any(char::is_control);
    is_safe.then_some(name)
}

/// What a field sees of its body, whatever that borrows.
trait Pieces {
    fn next_piece(&mut self) -> Result<Bytes, HttpError>;
}

impl Pieces for Multipart<'_> {
    fn next_piece(&mut self) -> Result<Bytes, HttpError> {
        Multipart::next_piece(self)
    }
}

impl Read for Field<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.piece.is_empty() {
            self.piece = self.multipart.next_piece()?;
        }
        let count = self.piece.len().min(buf.len());
        self.piece.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }
}

impl fmt::Debug for Multipart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("file_name", &self.file_name)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Random;

    #[test]
    fn a_safe_name_is_one_component() {
        for (name, safe) in [
            ("a.txt", Some("a.txt")),
            ("a b \u{e9}.txt", Some("a b \u{e9}.txt")),
            ("C:\\folder\\a.txt", Some("a.txt")),
            ("/etc/passwd", Some("passwd")),
            ("../../a", Some("a")),
            ("a..", Some("a..")),
            ("", None),
            (".", None),
            ("..", None),
            ("a/..", None),
            ("a\\..", None),
            ("a/", None),
            (".htaccess", None),
            ("a\0b", None),
            ("a\nb", None),
            ("a\u{85}b", None),
        ] {
            assert_eq!(last_component(name), safe, "{name:?}");
        }
        assert_eq!(last_component(&"a".repeat(255)).map(str::len), Some(255));
        assert_eq!(last_component(&"a".repeat(256)), None);
    }

    /// A body that comes in pieces of random sizes.
    struct Pieces<'a>(&'a [u8], Random, bool);

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(!self.2, "the end is read twice");
            let most = [1, 3, 40, buf.len()][self.1.below(4)];
            let count = self.1.below(most + 1).max(1).min(self.0.len());
            self.2 = count == 0;
            self.0.read(&mut buf[..count])
        }
    }

    /// The names and contents of a body's fields.
    fn fields(body: &[u8], seed: u64) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut body = Pieces(body, Random(seed), false);
        let mut multipart = Multipart::over(&mut body, "X-Y".to_owned());
        let mut all = Vec::new();
        while let Some(mut field) = multipart.next_field()? {
            let mut content = Vec::new();
            field.read_to_end(&mut content)?;
            all.push((field.name().to_owned(), content));
        }
        Ok(all)
    }

    const WORDS: [&[u8]; 16] = [
        b"\r\n",
        b"\r",
        b"\n",
        b"--",
        b"-",
        b"--X-Y",
        b"\r\n--X-Y",
        b"\r\n--X-Y\r\n",
        b"\r\n--X-Y--\r\n",
        b"\r\n--X-",
        b"\r\n\r\n",
        b" ",
        b"\"",
        b"\\",
        b"Content-Disposition: form-data; name=b\r\n",
        b"\xff",
    ];

    #[test]
    fn a_changed_body_ends_the_same_however_it_is_cut() {
        let body = b"--X-Y\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--X-Y  \r\n\
            Content-Type: a/b\r\nContent-Disposition: form-data; filename=c; name=d\r\n\r\n\r\n--X-Z\r\n--X-Y--\r\n";
        let (mut random, mut whole) = (Random(1), 0);
        for round in 0..5000 {
            let mut changed = body.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(changed.len());
                let end = (at + random.below(8)).min(changed.len());
                let word = WORDS[random.below(WORDS.len())];
                changed.splice(at..end, word.iter().copied());
            }
            let cut = |seed| fields(&changed, seed).ok();
            let first = cut(2 * round + 1);
            whole += usize::from(first.is_some());
            let text = changed.escape_ascii();
            assert_eq!(cut(2 * round + 2), first, "{round}: {text}");
        }
        // Both ends are there.
        assert!((500..4500).contains(&whole), "{whole}");
    }
}
