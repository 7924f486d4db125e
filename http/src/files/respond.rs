//! From a request to the response with a file.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION,
    ORIGIN, RANGE, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Response, StatusCode};
use rustix::fs::Stat;
use rustix::io::Errno;
use socketserver::{HandlerError, task};

use crate::Request;
use crate::files::beneath::Found;
use crate::files::codings::{self, Coding};
use crate::files::conditions::Validators;
use crate::files::described::Description;
use crate::files::path::{self, Names};
use crate::files::ranges::{self, Asked, Range};
use crate::files::{Files, listing};
#[cfg(feature = "compress")]
use crate::files::{compress, types};
use crate::head::only;
use crate::redirect::with_slash;
use crate::response::{Content, IntoResponse, typed, with_field};

type Answer = Result<Response<Content>, HandlerError>;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const VARIES: HeaderValue = HeaderValue::from_static("accept-encoding");

/// What is sent of a file.
struct Chosen {
    file: File,
    stat: Stat,
    described: Arc<Description>,
    media_type: HeaderValue,
    coding: Option<Coding>,
    /// The file has no coding yet.
    #[cfg(feature = "compress")]
    on_the_fly: bool,
}

/// What a request is answered with in place of an error of the system.
enum Failed {
    System(Errno),
    NotAcceptable,
}

impl From<Errno> for Failed {
    fn from(err: Errno) -> Self {
        Self::System(err)
    }
}

impl Files {
    pub(super) fn answer(&self, request: &Request<'_>, path: &str) -> Answer {
        let mut response = match *request.method() {
            Method::GET | Method::HEAD => self.get(request, path)?,
            Method::OPTIONS => self.options(request),
            _ => with_field(StatusCode::METHOD_NOT_ALLOWED, ALLOW, METHODS)?,
        };
        self.add_fields(response.headers_mut());
        Ok(response)
    }

    fn options(&self, request: &Request<'_>) -> Response<Content> {
        let mut response = Response::new(Content::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = response.headers_mut();
        fields.insert(ALLOW, METHODS);
        if self.cors.is_some()
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            fields.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            // The wildcard of the Fetch standard does not stand for this one.
            let all = HeaderValue::from_static("*, authorization");
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, all);
            fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        }
        response
    }

    fn add_fields(&self, fields: &mut HeaderMap) {
        fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(origin) = &self.cors {
            fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let exposed = "accept-ranges, content-encoding, content-length, content-range, etag";
            let exposed = HeaderValue::from_static(exposed);
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            if origin != "*" {
                fields.append(VARY, HeaderValue::from(ORIGIN));
            }
        }
        for name in self.fields.keys() {
            if name != VARY {
                fields.remove(name);
            }
            for value in self.fields.get_all(name) {
                fields.append(name, value.clone());
            }
        }
    }

    fn get(&self, request: &Request<'_>, path: &str) -> Answer {
        let Some(names) = path::names(path, self.shows_hidden) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let found = self.find(request, &names);
        let found = match (found, &self.spa) {
            (Err(Failed::System(Errno::NOENT | Errno::NOTDIR)), Some(page))
                if has_no_dot(&names.path) =>
            {
                self.page(request, page.as_bytes())
            }
            (found, _) => found,
        };
        match found {
            Ok(answer) => answer,
            Err(failed) => failed.answer(),
        }
    }

    /// Answers with what the names stand for.
    fn find(&self, request: &Request<'_>, names: &Names) -> Result<Answer, Failed> {
        if !names.slash {
            return match self.root.find(&names.path)? {
                Found::File(file, stat) => self.file(request, &names.path, file, stat),
                Found::Directory => Ok(redirect(request)),
            };
        }
        // A part of a handler's paths can be a directory without a slash at its end.
        if !request.uri().path().ends_with('/') {
            return Ok(redirect(request));
        }
        for name in &self.index {
            let path = below(&names.path, name.as_bytes());
            match self.root.find(&path) {
                Ok(Found::File(file, stat)) => return self.file(request, &path, file, stat),
                Ok(Found::Directory) | Err(Errno::NOENT) => {}
                Err(err) => return Err(err.into()),
            }
        }
        if self.lists {
            return self.listing(&names.path);
        }
        Err(Errno::NOENT.into())
    }

    /// Answers with a file that stands for something else.
    fn page(&self, request: &Request<'_>, path: &[u8]) -> Result<Answer, Failed> {
        match self.root.find(path)? {
            Found::File(file, stat) => self.file(request, path, file, stat),
            Found::Directory => Err(Errno::NOENT.into()),
        }
    }

    fn listing(&self, path: &[u8]) -> Result<Answer, Failed> {
        let (root, shows_hidden) = (Arc::clone(&self.root), self.shows_hidden);
        let path = path.to_vec();
        // It makes a few system calls for each entry.
        let page = task::offload(move || listing::page(&root, &path, shows_hidden))?;
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        let mut response = typed(html, page);
        let fields = response.headers_mut();
        let policy = HeaderValue::from_static(listing::POLICY);
        fields.insert(CONTENT_SECURITY_POLICY, policy);
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(Ok(response))
    }

    /// Whether a response depends on the codings that the client accepts.
    const fn varies(&self) -> bool {
        self.precompressed || self.compresses
    }

    /// Answers with a file that was found.
    fn file(
        &self,
        request: &Request<'_>,
        path: &[u8],
        file: File,
        stat: Stat,
    ) -> Result<Answer, Failed> {
        let described = self.described.of(path, &stat);
        let mut chosen = Chosen {
            file,
            stat,
            media_type: described.media_type.clone(),
            described,
            coding: None,
            #[cfg(feature = "compress")]
            on_the_fly: false,
        };
        if self.varies() {
            self.choose(request.headers(), path, &mut chosen)?;
        }
        Ok(self.send(request, chosen))
    }

    /// Chooses a coding that the client accepts.
    fn choose(&self, headers: &HeaderMap, path: &[u8], chosen: &mut Chosen) -> Result<(), Failed> {
        let accepted = codings::accepted(headers);
        for coding in accepted.codings.iter().filter(|_| self.precompressed) {
            let path = [path, coding.suffix()].concat();
            if let Ok(Found::File(file, stat)) = self.root.find(&path) {
                chosen.described = self.described.of(&path, &stat);
                (chosen.file, chosen.stat) = (file, stat);
                chosen.coding = Some(*coding);
                return Ok(());
            }
        }
        #[cfg(feature = "compress")]
        if self.compresses
            && let Some(coding) = accepted.codings.first()
            && chosen.stat.st_size >= compress::SIZE_MIN
            && types::is_compressible(&chosen.media_type)
        {
            chosen.on_the_fly = true;
            chosen.coding = Some(*coding);
            return Ok(());
        }
        match accepted.identity {
            true => Ok(()),
            false => Err(Failed::NotAcceptable),
        }
    }

    fn send(&self, request: &Request<'_>, chosen: Chosen) -> Answer {
        let headers = request.headers();
        let (size, validators) = (chosen.size(), chosen.validators());
        let mut response = match validators.evaluate(headers) {
            Some(StatusCode::NOT_MODIFIED) => bare(StatusCode::NOT_MODIFIED),
            Some(status) => return status.into_response(),
            None => bare(StatusCode::OK),
        };
        let fields = response.headers_mut();
        fields.insert(ETAG, validators.etag.clone());
        if let Some(date) = &validators.last_modified {
            fields.insert(LAST_MODIFIED, date.clone());
        }
        if self.varies() {
            fields.insert(VARY, VARIES);
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, chosen.media_type.clone());
        if let Some(coding) = chosen.coding {
            fields.insert(CONTENT_ENCODING, coding.value());
        }
        #[cfg(feature = "compress")]
        if let Some(coding) = chosen.coding.filter(|_| chosen.on_the_fly) {
            *response.body_mut() = compress::content(chosen.file, size, coding);
            return Ok(response);
        }
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let range = only(headers, &RANGE).and_then(|range| range.to_str().ok());
        let range = range.filter(|_| request.method() == Method::GET);
        let range = range.filter(|_| validators.permits_ranges(headers));
        match range.map_or(Asked::Whole, |range| ranges::parse(range, size)) {
            Asked::Whole => {
                *response.body_mut() = Content::file_range(chosen.file, 0, size);
                Ok(response)
            }
            Asked::Unsatisfiable => {
                let value = HeaderValue::try_from(format!("bytes */{size}"))?;
                with_field(StatusCode::RANGE_NOT_SATISFIABLE, CONTENT_RANGE, value)
            }
            Asked::Ranges(asked) => partial(response, chosen, &asked, size),
        }
    }
}

impl Chosen {
    fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or_default()
    }

    fn validators(&self) -> Validators {
        let validators = self.described.validators.clone();
        #[cfg(feature = "compress")]
        if let Some(coding) = self.coding.filter(|_| self.on_the_fly) {
            return validators.coded(coding.name());
        }
        validators
    }
}

impl Failed {
    fn answer(self) -> Answer {
        let err = match self {
            Self::System(err) => err,
            Self::NotAcceptable => {
                return with_field(StatusCode::NOT_ACCEPTABLE, VARY, VARIES);
            }
        };
        match err {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::NXIO
            | Errno::INVAL
            | Errno::ILSEQ => StatusCode::NOT_FOUND.into_response(),
            Errno::ACCESS | Errno::PERM => StatusCode::FORBIDDEN.into_response(),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
                let second = HeaderValue::from_static("1");
                with_field(StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER, second)
            }
            err => Err(err.into()),
        }
    }
}

/// A response without content, which has room for the fields of a file: for more of them the memory would be no small
/// piece, which the allocator keeps apart.
fn bare(status: StatusCode) -> Response<Content> {
    let mut response = Response::new(Content::empty());
    response.headers_mut().reserve(6);
    *response.status_mut() = status;
    response
}

/// Makes a response one with ranges.
fn partial(mut response: Response<Content>, chosen: Chosen, asked: &[Range], size: u64) -> Answer {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let [range] = asked {
        let value = HeaderValue::try_from(range.of(size))?;
        response.headers_mut().insert(CONTENT_RANGE, value);
        *response.body_mut() = Content::file_range(chosen.file, range.start, range.len());
        return Ok(response);
    }
    let random = RandomState::new();
    let boundary = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
    let media_type = chosen.media_type.to_str()?;
    *response.body_mut() = ranges::multipart(chosen.file, asked, size, media_type, &boundary);
    let value = format!("multipart/byteranges; boundary={boundary}");
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::try_from(value)?);
    Ok(response)
}

/// Redirects to the same path with a slash at its end.
fn redirect(request: &Request<'_>) -> Answer {
    let location = HeaderValue::try_from(with_slash(request.uri()))?;
    with_field(StatusCode::MOVED_PERMANENTLY, LOCATION, location)
}

/// The path of a name in a directory.
pub(super) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// Whether the last name of a path has no dot: it means no file of the application.
fn has_no_dot(path: &[u8]) -> bool {
    let last = path.rsplit(|byte| *byte == b'/').next();
    !last.unwrap_or(path).contains(&b'.')
}
