//! Ranges of a file (RFC 9110, section 14).

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use crate::response::Content;

/// How many ranges a request may ask for; one with more is answered with the whole file.
const RANGES_MAX: usize = 16;

/// The bytes from `start` to before `end`, of which there is at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) const fn len(self) -> u64 {
        self.end - self.start
    }

    /// The value of `Content-Range`.
    pub(crate) fn of(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, self.end - 1)
    }

    fn joins(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The whole file: the field is malformed, has another unit, or too many ranges.
    Whole,
    Ranges(Vec<Range>),
    /// All ranges begin behind the end.
    Unsatisfiable,
}

/// Reads the value of `Range`, for a file of `size` bytes. Ranges that overlap or touch are joined.
pub(crate) fn parse(value: &str, size: u64) -> Asked {
    let Some((unit, list)) = value.split_once('=') else {
        return Asked::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let mut ranges: Vec<Range> = Vec::new();
    let mut count = 0;
    for item in list.split(',').map(|item| item.trim_matches([' ', '\t'])) {
        if item.is_empty() {
            continue;
        }
        count += 1;
        match read(item, size) {
            _ if count > RANGES_MAX => return Asked::Whole,
            None => return Asked::Whole,
            Some(None) => {}
            Some(Some(range)) => join(&mut ranges, range),
        }
    }
    match (count, ranges.is_empty()) {
        (0, _) => Asked::Whole,
        (_, true) => Asked::Unsatisfiable,
        (_, false) => Asked::Ranges(ranges),
    }
}

/// Reads one range: `None` if it is malformed, `Some(None)` if it begins behind the end.
fn read(item: &str, size: u64) -> Option<Option<Range>> {
    let (first, last) = item.split_once('-')?;
    let range = if first.is_empty() {
        Range {
            start: size.saturating_sub(number(last)?),
            end: size,
        }
    } else {
        let start = number(first)?;
        let last = if last.is_empty() {
            u64::MAX
        } else {
            number(last)?
        };
        if last < start {
            return None;
        }
        Range {
            start,
            end: last.saturating_add(1).min(size),
        }
    };
    Some((range.start < range.end).then_some(range))
}

/// Digits alone. A number beyond 64 bits is behind the end of each file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Adds a range where the first one is that it joins, or at the end.
fn join(ranges: &mut Vec<Range>, mut range: Range) {
    let mut place = ranges.len();
    while let Some(at) = ranges.iter().position(|other| other.joins(range)) {
        let other = ranges.remove(at);
        range.start = range.start.min(other.start);
        range.end = range.end.max(other.end);
        place = place.min(at);
    }
    ranges.insert(place.min(ranges.len()), range);
}

/// The content of a response with several ranges, of the media type `multipart/byteranges`.
pub(crate) fn multipart(
    file: File,
    ranges: &[Range],
    size: u64,
    media_type: &str,
    boundary: &str,
) -> Content {
    let mut length = 0;
    let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
    let text = |text: String, length: &mut u64| {
        *length += text.len() as u64;
        Part::Text(Cursor::new(text.into_bytes()))
    };
    for range in ranges {
        let field = range.of(size);
        let head = format!(
            "\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {field}\r\n\r\n"
        );
        parts.push(text(head, &mut length));
        parts.push(Part::Bytes(*range));
        length += range.len();
    }
    parts.push(text(format!("\r\n--{boundary}--\r\n"), &mut length));
    parts.reverse();
    Content::sized_reader(Parts { file, parts }, length)
}

/// Reads parts one after the other.
struct Parts {
    file: File,
    /// The first one last.
    parts: Vec<Part>,
}

enum Part {
    Text(Cursor<Vec<u8>>),
    Bytes(Range),
}

impl Read for Parts {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.parts.last_mut() {
            let count = match part {
                Part::Text(text) => text.read(buf)?,
                Part::Bytes(range) if range.start == range.end => 0,
                Part::Bytes(range) => {
                    let left = usize::try_from(range.len()).unwrap_or(usize::MAX);
                    let room = left.min(buf.len());
                    let count = self.file.read_at(&mut buf[..room], range.start)?;
                    range.start += count as u64;
                    // The file was truncated: the content ends before its length.
                    if count == 0 {
                        return Ok(0);
                    }
                    count
                }
            };
            if count > 0 {
                return Ok(count);
            }
            self.parts.pop();
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(value: &str, size: u64) -> String {
        match parse(value, size) {
            Asked::Whole => "whole".to_owned(),
            Asked::Unsatisfiable => "none".to_owned(),
            Asked::Ranges(ranges) => {
                let texts = ranges
                    .iter()
                    .map(|range| format!("{}-{}", range.start, range.end));
                texts.collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn a_field_is_ranges() {
        for (value, size, expected) in [
            ("bytes=0-0", 10, "0-1"),
            ("bytes=0-", 10, "0-10"),
            ("bytes=5-100", 10, "5-10"),
            ("bytes=-3", 10, "7-10"),
            ("bytes=-30", 10, "0-10"),
            ("Bytes = 1-2", 10, "1-3"),
            ("bytes=1-2, 8-9", 10, "1-3 8-10"),
            ("bytes=8-9,,1-2", 10, "8-10 1-3"),
            ("bytes=0-4,5-6,2-3", 10, "0-7"),
            ("bytes=0-1,4-5,1-4", 10, "0-6"),
            ("bytes=0-1,10-", 10, "0-2"),
            ("bytes=10-", 10, "none"),
            ("bytes=-0", 10, "none"),
            ("bytes=0-", 0, "none"),
            ("bytes=-5", 0, "none"),
            ("bytes=99999999999999999999-", 10, "none"),
            ("bytes=0-99999999999999999999", 10, "0-10"),
            ("bytes=", 10, "whole"),
            ("bytes=,", 10, "whole"),
            ("bytes=-", 10, "whole"),
            ("bytes=3-2", 10, "whole"),
            ("bytes=a-2", 10, "whole"),
            ("bytes=+1-2", 10, "whole"),
            ("bytes=1-2-3", 10, "whole"),
            ("lines=1-2", 10, "whole"),
            ("bytes", 10, "whole"),
            ("", 10, "whole"),
        ] {
            assert_eq!(ranges(value, size), expected, "{value} of {size}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert_eq!(ranges(&many(16), 10), "0-1");
        assert_eq!(ranges(&many(17), 10), "whole");
    }
}
