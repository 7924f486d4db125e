//! Validators of files, and conditional requests (RFC 9110, sections 8.8 and 13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};
use rustix::fs::Stat;

use crate::head::only;

/// A file that was modified less than so many seconds ago can change again without another time of modification: FAT
/// counts two seconds, other file systems a few milliseconds.
const FRESH: i64 = 2;

/// Later dates have no form (RFC 9110, section 5.6.7).
pub(crate) const LAST_SECOND: i64 = 253_402_300_799;

/// What tells one state of a file from another.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    /// With its quotes, and `W/` before it if it is weak.
    pub(crate) etag: HeaderValue,
    /// In whole seconds since 1970; `None` before that, and in the future.
    modified: Option<u64>,
    /// The same as the value of `Last-Modified`.
    pub(crate) last_modified: Option<HeaderValue>,
    /// The file will not change without another time of modification.
    is_settled: bool,
}

impl Validators {
    /// Those of a file; `now` is in seconds since 1970.
    pub(crate) fn of(stat: &Stat, now: i64) -> Self {
        let seconds = stat.st_mtime;
        let is_settled = is_settled(stat, now);
        let weak = if is_settled { "" } else { "W/" };
        let (inode, size, nanos) = (stat.st_ino, stat.st_size, stat.st_mtime_nsec);
        let modified = u64::try_from(seconds).ok();
        let modified = modified.filter(|_| seconds <= now && seconds <= LAST_SECOND);
        Self {
            etag: value(format!(
                "{weak}\"{inode:x}-{size:x}-{seconds:x}.{nanos:x}\""
            )),
            modified,
            last_modified: modified.map(|modified| {
                let time = UNIX_EPOCH + Duration::from_secs(modified);
                value(httpdate::fmt_http_date(time))
            }),
            is_settled,
        }
    }

    /// Those of the same file in a coding that is made while it is sent, and may differ each time.
    #[cfg(feature = "compress")]
    pub(crate) fn coded(self, coding: &str) -> Self {
        let tag = self.tag().trim_start_matches("W/").trim_matches('"');
        Self {
            etag: value(format!("W/\"{tag}-{coding}\"")),
            is_settled: false,
            ..self
        }
    }

    fn tag(&self) -> &str {
        self.etag.to_str().unwrap_or_default()
    }

    /// The strong comparison of section 8.8.3.2.
    fn equals_strongly(&self, tag: &str) -> bool {
        self.is_settled && tag == self.tag()
    }

    fn equals_weakly(&self, tag: &str) -> bool {
        opaque(tag) == opaque(self.tag())
    }

    /// Evaluates the conditions of a request for the file, in the order of section 13.2.2. Returns the status that
    /// answers the request in place of the file.
    pub(crate) fn evaluate(&self, headers: &HeaderMap) -> Option<StatusCode> {
        if headers.contains_key(IF_MATCH) {
            if !lists(headers, &IF_MATCH, |tag| self.equals_strongly(tag)) {
                return Some(StatusCode::PRECONDITION_FAILED);
            }
        } else if let (Some(date), Some(modified)) =
            (date(headers, &IF_UNMODIFIED_SINCE), self.modified)
            && modified > date
        {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        let is_unmodified = if headers.contains_key(IF_NONE_MATCH) {
            lists(headers, &IF_NONE_MATCH, |tag| self.equals_weakly(tag))
        } else {
            let date = date(headers, &IF_MODIFIED_SINCE);
            date.zip(self.modified)
                .is_some_and(|(date, modified)| modified <= date)
        };
        is_unmodified.then_some(StatusCode::NOT_MODIFIED)
    }

    /// Whether the ranges of a request are to be served: the file is still the one of `If-Range`, if there is one.
    pub(crate) fn permits_ranges(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(IF_RANGE).iter();
        match (values.next(), values.next()) {
            (None, _) => true,
            (Some(value), None) => {
                let text = value.to_str().unwrap_or_default().trim();
                self.equals_strongly(text)
                    || self.is_settled
                        && self.modified.is_some()
                        && date(headers, &IF_RANGE) == self.modified
            }
            (Some(_), Some(_)) => false,
        }
    }
}

/// Whether a file will not change any more without another time of modification.
pub(crate) const fn is_settled(stat: &Stat, now: i64) -> bool {
    stat.st_mtime.saturating_add(FRESH) <= now
}

/// The value of a field, of a text that is ASCII.
fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.into_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A tag without the mark of a weak one.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// A field with one date, in seconds since 1970. A malformed one is ignored.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = only(headers, name)?.to_str().ok()?;
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Whether a list of entity tags is `*`, or has one for which `equals` holds.
fn lists(headers: &HeaderMap, name: &HeaderName, equals: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.any(|text| text.trim() == "*" || tags(text).any(&equals))
}

/// The entity tags of a list. A comma can be within the quotes of one.
fn tags(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = if rest.starts_with("W/") { 2 } else { 0 };
        let opaque = rest.get(weak..)?.strip_prefix('"')?;
        let length = opaque.find('"')?;
        let (tag, behind) = rest.split_at(weak + length + 2);
        rest = behind;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_permits_ranges_once_the_file_is_settled() {
        let stat = rustix::fs::stat("/").expect("the metadata of a directory");
        let at = |age| Validators::of(&stat, stat.st_mtime + age);
        let date = at(0).last_modified.expect("a date");
        let headers = HeaderMap::from_iter([(IF_RANGE, date)]);
        for (age, is_settled) in [(0, false), (FRESH - 1, false), (FRESH, true)] {
            let validators = at(age);
            let is_weak = validators.tag().starts_with("W/");
            assert_eq!(is_weak, !is_settled, "{age}");
            assert_eq!(validators.permits_ranges(&headers), is_settled, "{age}");
        }
    }

    #[test]
    fn a_list_is_read_tag_by_tag() {
        let list = |text| tags(text).collect::<Vec<_>>();
        assert_eq!(
            list(r#""a", W/"b,c" ,,"d""#),
            [r#""a""#, r#"W/"b,c""#, r#""d""#]
        );
        assert_eq!(list(""), [""; 0]);
        assert_eq!(list(r#"a, "b""#), [""; 0]);
        assert_eq!(list(r#""a"#), [""; 0]);
    }
}
