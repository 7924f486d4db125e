//! Files: a directory over HTTP, alone or as a part of a handler.
//!
//! [`Files`](crate::Files) serves what lies below a directory.
//!
//! ```
//! use http::{HeaderValue, header::CACHE_CONTROL};
//! use socketserver::{Server, Tcp, ThreadPool};
//! use socketserver_http::{Files, Http};
//! # let dir = tempfile::tempdir().unwrap();
//! # let root = dir.path();
//!
//! let files = Files::open(root)?
//!     .list(true)
//!     .precompressed(true)
//!     .header(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
//! let server = Server::<Tcp>::builder().model(ThreadPool::new(8)).bind("127.0.0.1:0")?;
//! let guard = server.spawn(Http::handler(files).serve())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | [`index`](crate::Files::index) | `index.html` | what stands for a directory |
//! | [`list`](crate::Files::list) | off: 404 | pages that list directories |
//! | [`show_hidden`](crate::Files::show_hidden) | off: 404 | names that begin with a dot |
//! | [`precompressed`](crate::Files::precompressed) | off | `name.br`, `name.zst` and `name.gz` in place of `name` |
//! | `compress`, with the feature of this name | off | brotli, zstd and gzip while the file is sent |
//! | [`spa`](crate::Files::spa) | none | a page in place of 404, for an application that routes in the browser |
//! | [`cors`](crate::Files::cors) | none | which pages of other origins may read |
//! | [`header`](crate::Files::header) | none | fields of every response |
//!
//! # In a handler
//!
//! [`respond`](crate::Files::respond) answers a request with a path of the handler's choice. A redirect to a directory is
//! relative to the path of the request, so it is right below `/static/`, and behind a proxy that strips a prefix.
//!
//! ```
//! use socketserver::HandlerError;
//! use socketserver_http::http::Response;
//! use socketserver_http::{Content, Files, IntoResponse, Request};
//!
//! fn answer(files: &Files, request: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
//!     let path = request.uri().path().to_owned();
//!     match path.strip_prefix("/static/") {
//!         Some(path) => files.respond(request, path),
//!         None => "hello\n".into_response(),
//!     }
//! }
//! # let _ = answer;
//! ```
//!
//! A file of the handler's choice, without a directory: [`Content::file`](crate::Content::file), and
//! [`Content::file_range`](crate::Content::file_range) for a part of one.
//!
//! # What cannot be reached
//!
//! The directory is opened once, at the start. Each request is looked up from there with openat2(2), under
//! `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS`: the kernel refuses every step out of the directory, by `..`, by a link, or
//! while somebody renames directories. Where the kernel is older than Linux 5.6, or a sandbox refuses the call, a
//! walk opens one name after the other without following links, reads them itself, and climbs only to directories that it
//! came through. Both are held to the same table of tests.
//!
//! An absolute link is not followed, even if it leads below the directory again. A mount point below the directory is part of it.
//! A path is looked at before it is first opened to be read, and what is no regular file is not opened: to open a device can have
//! effects.
//!
//! # How it is sent
//!
//! To a client of HTTP/1 without TLS, a file of at most 8 KiB leaves together with the head in one system call; a larger one
//! goes from the kernel's cache to the socket by sendfile(2), without a copy in the process
//! ([`Connection::send_file`](socketserver::Connection::send_file)). TLS and HTTP/2 read and write pieces of at most 64 KiB.
//! A client that takes nothing for the [write timeout](socketserver::Builder::write_timeout) is aborted, as always.
//!
//! Reading from a disk blocks the thread. Under [`Coroutines`](socketserver::manual::coroutines) it holds up the
//! other connections of the worker, which does not matter for files that the kernel has in its cache; for large collections on slow disks
//! take threads or processes. Listings and compression run on threads beside the workers.
