//! What the path of a request means: names below the directory.

use percent_encoding::percent_decode_str;

/// The names that a path consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Decoded, with a slash between two names. Empty for the directory itself.
    pub(crate) path: Vec<u8>,
    /// The path ends with a slash: it means a directory.
    pub(crate) slash: bool,
}

/// Reads a path. Returns `None` if no file can have it: for a name `.` or `..`, and one that has a slash or a NUL when
/// it is decoded; unless `shows_hidden`, also for one that [is hidden](is_hidden).
///
/// Several slashes in a row are one.
pub(crate) fn names(path: &str, shows_hidden: bool) -> Option<Names> {
    let mut decoded = Vec::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let is_first = decoded.is_empty();
        if !is_first {
            decoded.push(b'/');
        }
        let start = decoded.len();
        decoded.extend(percent_decode_str(part));
        let name = &decoded[start..];
        if matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return None;
        }
        if is_hidden(name, is_first) && !shows_hidden {
            return None;
        }
    }
    Some(Names {
        slash: path.is_empty() || path.ends_with('/'),
        path: decoded,
    })
}

/// Whether a name is hidden: one that begins with a dot, but for `.well-known` at the top (RFC 8615).
pub(crate) fn is_hidden(name: &[u8], is_at_top: bool) -> bool {
    name.starts_with(b".") && !(is_at_top && name == b".well-known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_names() {
        let read = |path: &str| {
            let names = names(path, false)?;
            Some((String::from_utf8(names.path).unwrap(), names.slash))
        };
        let some = |path: &str, slash| Some((path.to_owned(), slash));
        assert_eq!(read("/"), some("", true));
        assert_eq!(read(""), some("", true));
        assert_eq!(read("/a/b"), some("a/b", false));
        assert_eq!(read("//a//b//"), some("a/b", true));
        assert_eq!(read("/a%20b%25"), some("a b%", false));
        assert_eq!(read("/a%2"), some("a%2", false));
        assert_eq!(read("/.well-known/a"), some(".well-known/a", false));
        for path in [
            "/..",
            "/a/../b",
            "/%2e%2e/a",
            "/.%2E",
            "/.",
            "/a/./b",
            "/a%2fb",
            "/a%00",
            "/.git/config",
            "/a/.well-known",
            "/%2egit",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(names("/.git/a", true).unwrap().path, b".git/a");
        assert_eq!(names("/a/../b", true), None);
    }
}
