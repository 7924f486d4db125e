//! Media types of files, by the ends of their names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use http::header::HeaderValue;

/// The media type of a file. Text, JavaScript too, is said to be UTF-8; JSON is always, and XML says it itself.
pub(crate) fn of(path: &[u8]) -> HeaderValue {
    match mime_guess::from_path(OsStr::from_bytes(path)).first_raw() {
        Some("text/html") => HeaderValue::from_static("text/html; charset=utf-8"),
        Some("text/css") => HeaderValue::from_static("text/css; charset=utf-8"),
        Some("text/plain") => HeaderValue::from_static("text/plain; charset=utf-8"),
        // RFC 9239 has made the other name obsolete.
        Some("text/javascript" | "application/javascript") => {
            HeaderValue::from_static("text/javascript; charset=utf-8")
        }
        Some("text/xml") => HeaderValue::from_static("text/xml"),
        Some(text) if text.starts_with("text/") => {
            HeaderValue::from_str(&format!("{text}; charset=utf-8")).unwrap_or(UNKNOWN)
        }
        Some(other) => HeaderValue::from_static(other),
        None => UNKNOWN,
    }
}

const UNKNOWN: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Whether files of a media type become much smaller in a coding.
#[cfg(feature = "compress")]
pub(crate) fn is_compressible(media_type: &HeaderValue) -> bool {
    let text = media_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || [
            "application/json",
            "application/wasm",
            "application/xml",
            "application/x-javascript",
            "application/rtf",
            "application/vnd.ms-fontobject",
            "font/otf",
            "font/ttf",
            "image/bmp",
            "image/x-icon",
            "image/vnd.microsoft.icon",
        ]
        .contains(&essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_type() {
        for (name, expected) in [
            ("a/index.html", "text/html; charset=utf-8"),
            ("a.HTML", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.xml", "text/xml"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.wasm", "application/wasm"),
            ("a.tar.gz", "application/gzip"),
            ("a.png", "image/png"),
            ("a.html/a", "application/octet-stream"),
            ("a.unknown", "application/octet-stream"),
            ("README", "application/octet-stream"),
            (".html", "application/octet-stream"),
        ] {
            assert_eq!(of(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(of(b"\xff.html"), "text/html; charset=utf-8");
    }
}
