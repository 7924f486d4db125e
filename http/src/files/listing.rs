//! The page that lists a directory.

use std::cmp::Ordering;
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::fs::{Access, AtFlags, Dir, FileType, Stat, accessat, fstat, statat};
use rustix::io::Errno;

use crate::files::beneath::Beneath;
use crate::files::conditions::LAST_SECOND;
use crate::files::path::is_hidden;
use crate::files::respond::below;

/// How many entries a page has at most.
const ENTRIES_MAX: usize = 10_000;

/// The bytes that are encoded in a link: all but the unreserved ones (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The value of `Content-Security-Policy`: nothing but the style of the page, by its hash.
pub(super) const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-MZTdOoNh919d6T1uQQdoqXiK6dgC0a19pNzBfszy1SY='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark;--dim:#666;--line:#ddd;--link:#0550ae}\
@media(prefers-color-scheme:dark){:root{--dim:#999;--line:#333;--link:#6cb6ff}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}\
h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{width:100%;border-collapse:collapse}\
th{text-align:left;font-weight:normal;color:var(--dim)}\
th,td{padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
td:first-child{overflow-wrap:anywhere;width:100%}\
td+td,th+th{text-align:right;white-space:nowrap;color:var(--dim);font-variant-numeric:tabular-nums}\
a{color:var(--link);text-decoration:none}a:hover,a:focus{text-decoration:underline}\
p{color:var(--dim)}\
@media(max-width:36rem){td,th{padding:.5rem .5rem .5rem 0}td:last-child,th:last-child{display:none}}";

struct Entry {
    name: Vec<u8>,
    is_directory: bool,
    is_link: bool,
    size: u64,
    /// In seconds since 1970.
    modified: i64,
}

/// Lists a directory.
///
/// # Errors
///
/// The directory cannot be opened or read.
pub(super) fn page(root: &Beneath, path: &[u8], shows_hidden: bool) -> rustix::io::Result<String> {
    let (entries, has_more) = entries(root, path, shows_hidden)?;
    let mut page = String::with_capacity(1024 + STYLE.len() + 256 * entries.len());
    // Writing to a string does not fail.
    let _ = write(&mut page, path, &entries, has_more);
    Ok(page)
}

/// The entries that would be served, sorted, and whether there are more.
fn entries(
    root: &Beneath,
    path: &[u8],
    shows_hidden: bool,
) -> rustix::io::Result<(Vec<Entry>, bool)> {
    let directory = root.list(if path.is_empty() { b"." } else { path })?;
    let mut entries = Vec::new();
    for item in Dir::read_from(&directory)? {
        let item = item?;
        let name = item.file_name();
        let bytes = name.to_bytes();
        let is_shown = shows_hidden || !is_hidden(bytes, path.is_empty());
        if matches!(bytes, b"." | b"..") || !is_shown {
            continue;
        }
        // An entry that has just been removed, or that leads nowhere, is none.
        let Ok(own) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_link = FileType::from_raw_mode(own.st_mode) == FileType::Symlink;
        let (found, flags) = if is_link {
            let found = root.look(&below(path, bytes)).and_then(fstat);
            (found, AtFlags::empty())
        } else {
            (Ok(own), AtFlags::SYMLINK_NOFOLLOW)
        };
        let found = found.and_then(|found| readable(&directory, name, flags).map(|()| found));
        let Some(entry) = found.ok().and_then(|found| entry(bytes, is_link, &found)) else {
            continue;
        };
        if entries.len() == ENTRIES_MAX {
            return Ok((sorted(entries), true));
        }
        entries.push(entry);
    }
    Ok((sorted(entries), false))
}

/// Fails with `ACCESS` if the process may not read something. A system that cannot say so lets it be listed.
fn readable(directory: &OwnedFd, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    match accessat(directory, name, Access::READ_OK, flags | AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

fn entry(name: &[u8], is_link: bool, found: &Stat) -> Option<Entry> {
    let kind = FileType::from_raw_mode(found.st_mode);
    let is_served = matches!(kind, FileType::RegularFile | FileType::Directory);
    is_served.then(|| Entry {
        name: name.to_vec(),
        is_directory: kind == FileType::Directory,
        is_link,
        size: u64::try_from(found.st_size).unwrap_or_default(),
        modified: found.st_mtime,
    })
}

/// Directories first.
fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| {
        let directories = b.is_directory.cmp(&a.is_directory);
        directories.then_with(|| natural(&a.name, &b.name))
    });
    entries
}

/// The order that people expect: numbers by their values, letters without their case; names that are equal so by
/// their bytes.
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let order = match (left, right) {
            ([], []) => return a.cmp(b),
            ([first, ..], [second, ..]) if first.is_ascii_digit() && second.is_ascii_digit() => {
                let (first, second) = (digits(&mut left), digits(&mut right));
                first.len().cmp(&second.len()).then(first.cmp(second))
            }
            ([first, after @ ..], [second, behind @ ..]) => {
                (left, right) = (after, behind);
                first.to_ascii_lowercase().cmp(&second.to_ascii_lowercase())
            }
            (left, right) => left.len().cmp(&right.len()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the digits at the beginning, and returns them without leading zeros.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    let start = digits.iter().position(|byte| *byte != b'0');
    &digits[start.unwrap_or(digits.len())..]
}

fn write(page: &mut String, path: &[u8], entries: &[Entry], has_more: bool) -> fmt::Result {
    let title = Escaped(path);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>/{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>/{title}</h1>\n\
         <table>\n<thead><tr><th>Name</th><th>Size</th><th>Modified (UTC)</th></tr></thead>\n<tbody>\n"
    )?;
    if !path.is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    for entry in entries {
        let (link, name) = (percent_encode(&entry.name, ENCODED), Escaped(&entry.name));
        let slash = if entry.is_directory { "/" } else { "" };
        let mark = if entry.is_link {
            " <span title=\"symbolic link\">\u{2197}</span>"
        } else {
            ""
        };
        // The dot keeps a name with a colon from being a scheme.
        write!(
            page,
            "<tr><td><a href=\"./{link}{slash}\">{name}{slash}</a>{mark}</td>"
        )?;
        match entry.is_directory {
            true => page.push_str("<td></td>"),
            false => write!(
                page,
                "<td title=\"{0} bytes\">{1}</td>",
                entry.size,
                Size(entry.size)
            )?,
        }
        writeln!(page, "<td>{}</td></tr>", Time(entry.modified))?;
    }
    page.push_str("</tbody>\n</table>\n");
    if has_more {
        writeln!(
            page,
            "<p>\u{2026} and more than these {ENTRIES_MAX} entries</p>"
        )?;
    }
    page.push_str("</body>\n</html>\n");
    Ok(())
}

/// Text for HTML. Bytes that are not UTF-8, and control characters, are shown as replacement characters.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in String::from_utf8_lossy(self.0).chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                char if is_misleading(char) => f.write_char(char::REPLACEMENT_CHARACTER)?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// Control characters, and those that change the direction of the text around them.
fn is_misleading(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A number of bytes in the largest unit of which there is one.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        let mut unit = ' ';
        for next in "KMGTPE".chars() {
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}iB")
    }
}

/// A time in UTC: `28 Nov 2026 18:53`. Nothing for a time that has no such form.
struct Time(i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = u64::try_from(self.0).ok().filter(|_| self.0 <= LAST_SECOND);
        let Some(seconds) = seconds else {
            return Ok(());
        };
        // `Sat, 28 Nov 2026 18:53:32 GMT`
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        f.write_str(date.get(5..22).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_natural_order() {
        let mut names = [
            "b", "a10", "A2", "a2", "a02", "a", "", "1", "10", "2", "\u{e9}", "a2b", "a2c",
        ];
        names.sort_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        assert_eq!(
            names,
            [
                "", "1", "2", "10", "a", "A2", "a02", "a2", "a2b", "a2c", "a10", "b", "\u{e9}"
            ]
        );
    }

    #[test]
    fn a_size_has_a_unit() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Size(size).to_string(), text);
        }
    }

    #[test]
    fn a_time_is_short() {
        assert_eq!(Time(1_795_891_212).to_string(), "28 Nov 2026 18:40");
        assert_eq!(Time(-1).to_string(), "");
        assert_eq!(Time(i64::MAX).to_string(), "");
    }

    #[test]
    fn the_policy_has_the_hash_of_the_style() {
        let digest = ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes());
        let mut hash = String::new();
        for triple in digest.as_ref().chunks(3) {
            let bits = triple
                .iter()
                .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - triple.len()));
            for at in 0..4 {
                let sextet = (bits >> (18 - 6 * at) & 63) as u8;
                let char = match sextet {
                    _ if at > triple.len() => b'=',
                    0..=25 => b'A' + sextet,
                    26..=51 => b'a' + sextet - 26,
                    52..=61 => b'0' + sextet - 52,
                    62 => b'+',
                    _ => b'/',
                };
                hash.push(char::from(char));
            }
        }
        assert!(
            POLICY.contains(&format!("'sha256-{hash}'")),
            "the style has {hash}"
        );
    }
}
