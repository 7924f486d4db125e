//! The head of what a program writes (RFC 3875, section 6).

use std::io::{self, Read};

use socketserver_http::http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use socketserver_http::http::{StatusCode, Uri};

use super::run::Output;

/// How many bytes a head may have.
const HEAD_MAX: usize = 64 * 1024;

/// What a program answers.
#[derive(Debug, PartialEq)]
pub(super) enum Head {
    Response(StatusCode, HeaderMap),
    /// The server is to answer as if the client had asked for this.
    Local(Uri),
}

impl Head {
    /// Reads the head, and leaves what is behind it in `output`.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: it is no head.
    /// - else as reading.
    pub(super) fn read(output: &mut Output) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 8 * 1024];
        loop {
            let searched = bytes.len();
            let count = output.read(&mut piece)?;
            if count == 0 {
                return Err(malformed("its output has ended before an empty line"));
            }
            bytes.extend_from_slice(&piece[..count]);
            if let Some(end) = end_of(&bytes, searched) {
                output.unread(bytes.split_off(end));
                return parse(&bytes);
            }
            if bytes.len() > HEAD_MAX {
                return Err(malformed("its head has more than 64 KiB"));
            }
        }
    }
}

/// The place behind the empty line that ends a head. Nothing before `searched` ends it.
fn end_of(bytes: &[u8], searched: usize) -> Option<usize> {
    // The empty line may be `\r\n`, and may have begun before.
    let from = searched.saturating_sub(2);
    (from..bytes.len()).find_map(|at| {
        let is_start = at == 0 || bytes[at - 1] == b'\n';
        let rest = bytes.get(at..).filter(|_| is_start)?;
        let length = [&b"\n"[..], b"\r\n"]
            .iter()
            .find(|end| rest.starts_with(end))?
            .len();
        Some(at + length)
    })
}

fn malformed(why: impl Into<String>) -> io::Error {
    let text = format!("the program has no answer: {}", why.into());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn parse(bytes: &[u8]) -> io::Result<Head> {
    let (mut status, mut fields) = (None, HeaderMap::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let shown = || String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
        let wrong = || malformed(format!("its head has the line {:?}", shown()));
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| wrong())?;
        if name == "status" {
            let is_second = status.replace(code(&value).ok_or_else(wrong)?).is_some();
            if is_second {
                return Err(wrong());
            }
        } else if [CONTENT_TYPE, LOCATION, CONTENT_LENGTH].contains(&name) {
            let is_length = |text: &str| {
                text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok()
            };
            let is_wrong = name == CONTENT_LENGTH && !value.to_str().is_ok_and(is_length);
            if fields.insert(name, value).is_some() || is_wrong {
                return Err(wrong());
            }
        } else if !is_the_servers(&name) {
            fields.append(name, value);
        }
    }
    finish(status, fields)
}

/// The fields of the connection are the server's.
fn is_the_servers(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name) || name == "keep-alive"
}

/// The code of `404 Not Found`. A program cannot give a preliminary answer.
fn code(value: &HeaderValue) -> Option<StatusCode> {
    let digits = value.as_bytes().split(|byte| *byte == b' ').next()?;
    StatusCode::from_bytes(digits)
        .ok()
        .filter(|code| (200..600).contains(&code.as_u16()))
}

fn finish(status: Option<StatusCode>, fields: HeaderMap) -> io::Result<Head> {
    let Some(location) = fields.get(LOCATION) else {
        if status.is_none() && !fields.contains_key(CONTENT_TYPE) {
            return Err(malformed(
                "its head has neither Content-Type nor Location nor Status",
            ));
        }
        return Ok(Head::Response(status.unwrap_or(StatusCode::OK), fields));
    };
    if status.is_none() && location.as_bytes().starts_with(b"/") {
        let target = Uri::try_from(location.as_bytes()).ok();
        // With two slashes it would name a server.
        let target = target.filter(|target| target.authority().is_none());
        let target = target.ok_or_else(|| malformed("its Location is no path"))?;
        return Ok(Head::Local(target));
    }
    Ok(Head::Response(status.unwrap_or(StatusCode::FOUND), fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_an_empty_line() {
        for (text, end) in [
            ("a: b\n\nrest", Some(6)),
            ("a: b\r\n\r\nrest", Some(8)),
            ("a: b\n\r\nrest", Some(7)),
            ("\nrest", Some(1)),
            ("a: b\n", None),
            ("a: b\n\r", None),
            ("", None),
        ] {
            assert_eq!(end_of(text.as_bytes(), 0), end, "{text:?}");
            // However it comes.
            let whole = (0..=text.len()).find_map(|have| {
                let bytes = &text.as_bytes()[..have];
                end_of(bytes, have.saturating_sub(1))
            });
            assert_eq!(whole, end, "{text:?}");
        }
    }

    fn parsed(text: &str) -> Option<(u16, Vec<(String, String)>)> {
        match parse(text.as_bytes()).ok()? {
            Head::Response(status, fields) => {
                let text =
                    |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), text(value)));
                Some((status.as_u16(), fields.collect()))
            }
            Head::Local(target) => Some((0, vec![("local".to_owned(), target.to_string())])),
        }
    }

    #[test]
    fn heads_of_programs() {
        let one = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (text, status, fields) in [
            (
                "Content-Type: text/plain\n\n",
                200,
                one("content-type", "text/plain"),
            ),
            (
                "content-type:text/plain\r\n\r\n",
                200,
                one("content-type", "text/plain"),
            ),
            (
                "Status: 404 Not Found\nContent-Type: a/b\n\n",
                404,
                one("content-type", "a/b"),
            ),
            ("Status: 204\n\n", 204, vec![]),
            (
                "Location: http://a/b\n\n",
                302,
                one("location", "http://a/b"),
            ),
            (
                "Location: /a\nStatus: 301 Moved\n\n",
                301,
                one("location", "/a"),
            ),
            ("Location: /a/b?c\n\n", 0, one("local", "/a/b?c")),
            (
                "Content-Type: a/b\nTransfer-Encoding: chunked\nConnection: close\n\n",
                200,
                one("content-type", "a/b"),
            ),
        ] {
            assert_eq!(parsed(text), Some((status, fields)), "{text:?}");
        }
        for wrong in [
            "\n",
            "hello\n\n",
            "X-Own: a\n\n",
            "Content-Type : a/b\n\n",
            "Content-Type: a/b\nContent-Type: a/b\n\n",
            "Content-Type: a/b\nContent-Length: x\n\n",
            "Content-Type: a/b\nContent-Length: -1\n\n",
            "Status: 101\n\n",
            "Status: 42\n\n",
            "Status: 600\n\n",
            "Status: 200\nStatus: 200\n\n",
            "Content-Type: a\u{1}b\n\n",
            " folded: a\n\n",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }
}
