//! The chunked coding of a request's body (RFC 9112, section 7.1), read strictly.

use std::io::{self, BufRead};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use httparse::EMPTY_HEADER;

use crate::body::strip_trailers;
use crate::head::HEADERS_MAX;

/// How many bytes the line of a chunk's size may have, with its extensions.
const LINE_MAX: usize = 512;

/// How many bytes of framing may come without as many bytes of data.
const EXCESS_MAX: u64 = 16 * 1024;

/// Reads a chunked body.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// The bytes of framing, less those of data.
    excess: u64,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Done,
}

impl Chunked {
    /// A body whose trailer section may have `trailer_bytes`.
    pub(crate) const fn new(trailer_bytes: usize) -> Self {
        Self {
            state: State::Size,
            excess: 0,
            trailer_bytes,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads data, at most `max` bytes; 0 at the end of the body, whose trailers are then in `trailers`.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: the framing is malformed.
    /// - `UnexpectedEof`: the stream has ended.
    /// - Those of `input`.
    pub(crate) fn read(
        &mut self,
        input: &mut impl BufRead,
        buf: &mut [u8],
        trailers: &mut HeaderMap,
    ) -> io::Result<usize> {
        loop {
            match self.state {
                State::Size => {
                    let size = self.read_size(input)?;
                    if size == 0 {
                        *trailers = read_trailers(input, self.trailer_bytes)?;
                        self.state = State::Done;
                    } else {
                        self.state = State::Data(size);
                    }
                }
                State::Data(left) => {
                    let max = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
                    let count = input.read(&mut buf[..max])?;
                    if count == 0 && max > 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.excess = self.excess.saturating_sub(count as u64);
                    self.state = match left - count as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(count);
                }
                State::DataEnd => {
                    if !read_line(input, 2)?.is_empty() {
                        return Err(invalid("a chunk is longer than its size"));
                    }
                    self.state = State::Size;
                }
                State::Done => return Ok(0),
            }
        }
    }

    fn read_size(&mut self, input: &mut impl BufRead) -> io::Result<u64> {
        let line = read_line(input, LINE_MAX)?;
        self.excess += line.len() as u64;
        if self.excess > EXCESS_MAX {
            return Err(invalid("the body is mostly framing"));
        }
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, rest) = line.split_at(digits.count());
        let is_valid = (1..=16).contains(&size.len()) && (rest.is_empty() || is_extension(rest));
        let size = std::str::from_utf8(size).ok().filter(|_| is_valid);
        size.and_then(|size| u64::from_str_radix(size, 16).ok())
            .ok_or_else(|| invalid("the size of a chunk is malformed"))
    }
}

/// Whether the text behind a size begins an extension (RFC 9112, section 7.1.1) and has no control character. What an
/// extension says is ignored.
fn is_extension(text: &[u8]) -> bool {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut begin = text.iter().filter(|byte| !is_blank(byte));
    begin.next() == Some(&b';')
        && begin.next().is_some_and(|byte| is_token(*byte))
        && !text
            .iter()
            .any(|byte| byte.is_ascii_control() && !is_blank(byte))
}

/// RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads a line of at most `max` bytes, and returns it without its end, which must be CR LF.
fn read_line(input: &mut impl BufRead, max: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let count = end.unwrap_or(bytes.len());
        line.extend_from_slice(&bytes[..count]);
        input.consume(count);
        if line.len() > max {
            return Err(invalid("a line of the framing is too long"));
        }
        if end.is_some() {
            return match line.strip_suffix(b"\r\n") {
                Some(line) if !line.contains(&b'\r') => Ok(line.to_vec()),
                _ => Err(invalid("a line of the framing ends without CR LF")),
            };
        }
    }
}

fn read_trailers(input: &mut impl BufRead, max: usize) -> io::Result<HeaderMap> {
    let mut section = Vec::new();
    loop {
        let line = read_line(input, max.saturating_sub(section.len()))?;
        section.extend_from_slice(&line);
        section.extend_from_slice(b"\r\n");
        if line.is_empty() {
            break;
        }
    }
    let malformed = || invalid("the trailer section is malformed");
    let mut fields = [const { EMPTY_HEADER }; HEADERS_MAX];
    let fields = match httparse::parse_headers(&section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        _ => return Err(malformed()),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed())?;
        trailers.append(name, value);
    }
    strip_trailers(&mut trailers);
    Ok(trailers)
}
