//! Files below a directory, as a handler.

mod beneath;
mod codings;
#[cfg(feature = "compress")]
mod compress;
mod conditions;
mod described;
mod listing;
mod path;
mod ranges;
mod respond;
#[cfg(test)]
mod tests;
mod types;
mod walk;

use std::io;
use std::path::Path;
use std::sync::Arc;

use http::Response;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use socketserver::HandlerError;

use crate::Request;
use crate::files::beneath::Beneath;
use crate::files::described::Descriptions;
use crate::handler::Handler;
use crate::response::Content;

/// Serves the files below a directory: a [`Handler`] of its own, or [a part of one](Self::respond).
///
/// # What is served
///
/// The directory is opened once; another directory that takes its name later does not matter. Regular files below it
/// are served, and nothing else: no `..`, no link and no renaming leads out of it (openat2(2) with `RESOLVE_BENEATH`;
/// where that is missing or refused, a walk with the same rules). Links that stay below are followed; absolute links are
/// not, wherever they lead. A device, a FIFO or a socket is not even opened.
///
/// | request | answer |
/// |---|---|
/// | `GET` or `HEAD` of a file | 200; 206 for [ranges](#ranges); 304 and 412 by [conditions](#conditions) |
/// | of a directory without a slash at the end | 301 to the same with one |
/// | of a directory | its [index](Self::index), else its [listing](Self::list), else 404 |
/// | anything that does not exist or leads out, is hidden or no regular file | 404 |
/// | a file that the process may not read | 403 |
/// | while the process has no descriptors left | 503 with `Retry-After` |
/// | `OPTIONS` | 204 with `Allow` |
/// | another method | 405 with `Allow` |
///
/// Names that begin with a dot are [hidden](Self::show_hidden). A path with a name `.` or `..` is answered 404; clients
/// resolve these themselves. Several slashes in a row are one.
///
/// # Conditions
///
/// `ETag` is made of the inode, the size and the time of modification in nanoseconds. It is weak for the first two
/// seconds after a change, in which the file can change again without another time; then ranges with `If-Range` are
/// answered with the whole file. `Last-Modified` is left out for a time in the future.
/// `If-Match`, `If-Unmodified-Since`, `If-None-Match`, `If-Modified-Since` and `If-Range` are evaluated
/// in the order of RFC 9110, section 13.2.2.
///
/// # Ranges
///
/// `GET` with `Range` is answered 206: one range as it is, several as `multipart/byteranges`, those that overlap or touch
/// joined. More than 16 ranges, or a malformed field, are answered with the whole file. Behind the end of the file: 416.
///
/// # A file that changes
///
/// A file that is replaced by renaming, or deleted, is sent to its end as it was. One that is truncated while it is sent
/// ends the connection before the announced length; [observers](crate::Http::on_access) receive the error.
///
/// # Examples
///
/// ```
/// use socketserver::{Server, Tcp, Threading};
/// use socketserver_http::{Files, Http};
/// # let dir = tempfile::tempdir().unwrap();
/// # let root = dir.path();
///
/// let files = Files::open(root)?.list(true);
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(Http::handler(files).serve())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Files {
    root: Arc<Beneath>,
    described: Arc<Descriptions>,
    index: Vec<String>,
    lists: bool,
    shows_hidden: bool,
    precompressed: bool,
    compresses: bool,
    spa: Option<String>,
    cors: Option<HeaderValue>,
    fields: HeaderMap,
}

impl Files {
    /// Opens a directory. The process must be allowed to search it; to read it too, for [listings](Self::list).
    ///
    /// # Errors
    ///
    /// As open(2), with the path: it does not exist, or is no directory.
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        let path = directory.as_ref();
        let root = Beneath::open(path).map_err(|err| {
            let text = format!("cannot open the directory {}: {err}", path.display());
            io::Error::new(err.kind(), text)
        })?;
        Ok(Self {
            root: Arc::new(root),
            described: Arc::default(),
            index: vec!["index.html".to_owned()],
            lists: false,
            shows_hidden: false,
            precompressed: false,
            compresses: false,
            spa: None,
            cors: None,
            fields: HeaderMap::new(),
        })
    }

    /// Sets the files that stand for a directory; the first one that exists is served. Default: `index.html`.
    pub fn index<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.index = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether a directory without an index is listed. Default: `false`, 404.
    ///
    /// A page has at most 10,000 entries, without those that would not be served. It has no scripts, suits small
    /// screens, and has dark colours for clients that prefer them.
    pub const fn list(mut self, lists: bool) -> Self {
        self.lists = lists;
        self
    }

    /// Sets whether names that begin with a dot are served, and listed. Default: `false`, because such names
    /// (`.git`, `.env`, `.htpasswd`) hold what was not meant for clients; `.well-known` at the top is served all the same
    /// (RFC 8615).
    ///
    /// The names of the path count: a link with another name can lead to a hidden file.
    pub const fn show_hidden(mut self, shows: bool) -> Self {
        self.shows_hidden = shows;
        self
    }

    /// Sets whether `name.br`, `name.zst` or `name.gz` is sent in place of `name` to clients that accept its coding
    /// (`Accept-Encoding`), with the type of `name`, which must exist too. Nobody checks that both have the same content. Default: `false`.
    pub const fn precompressed(mut self, precompressed: bool) -> Self {
        self.precompressed = precompressed;
        self
    }

    /// Sets whether text and the like of 1 KiB or more is compressed while it is sent, with brotli, zstd or gzip as the
    /// client accepts. Such a response has a weak `ETag`, no length, and no ranges. A [precompressed](Self::precompressed) file
    /// comes first. Default: `false`.
    #[cfg(feature = "compress")]
    #[cfg_attr(docsrs, doc(cfg(feature = "compress")))]
    pub const fn compress(mut self, compresses: bool) -> Self {
        self.compresses = compresses;
        self
    }

    /// Serves this file, a path below the directory, in place of 404 where the last name of the path has no dot: for
    /// an application that routes in the browser. Default: none.
    pub fn spa(mut self, file: impl Into<String>) -> Self {
        self.spa = Some(file.into());
        self
    }

    /// Lets pages of an origin, or of each for `*`, read the files (`Access-Control-Allow-Origin`), and answers their
    /// preflight requests. Default: none.
    pub fn cors(mut self, origin: HeaderValue) -> Self {
        self.cors = Some(origin);
        self
    }

    /// Adds a field to every response, errors too, but not to 500. It replaces the field of this name that the response has otherwise,
    /// and not one that was added before; `Vary` is added to what the response varies by.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{HeaderValue, header::CACHE_CONTROL};
    /// use socketserver_http::Files;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let root = dir.path();
    ///
    /// let files = Files::open(root)?.header(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    /// # drop(files);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.append(name, value);
        self
    }

    /// Answers a request with the file that `path` names, percent-encoded as in a request: for a handler that serves
    /// files for a part of its paths. Slashes at its beginning do not matter.
    ///
    /// # Errors
    ///
    /// The file system has failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Response;
    /// use socketserver::{HandlerError, Server, Tcp, Threading};
    /// use socketserver_http::{Content, Files, Http, IntoResponse, Request};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let root = dir.path();
    ///
    /// let files = Files::open(root)?;
    /// let http = Http::new(move |request: &mut Request<'_>| {
    ///     let path = request.uri().path().to_owned();
    ///     match path.strip_prefix("/static/") {
    ///         Some(path) => files.respond(request, path),
    ///         None => "hello\n".into_response(),
    ///     }
    /// });
    /// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(http.serve())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn respond(
        &self,
        request: &mut Request<'_>,
        path: &str,
    ) -> Result<Response<Content>, HandlerError> {
        self.answer(request, path)
    }
}

impl Handler for Files {
    type Session = ();

    fn call(
        &self,
        (): &mut (),
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        self.answer(request, request.uri().path())
    }
}
