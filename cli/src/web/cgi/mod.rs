//! CGI programs (RFC 3875), below one directory.
//!
//! The body of a request is received first, into a file without a name that becomes the program's standard input: a
//! program waits for no client, and its length is known however the client has sent it. Standard output is read as the
//! client takes it.

mod head;
mod run;
mod scripts;
mod variables;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use socketserver::net::{Accepted, Address, Either};
use socketserver::{Connection as _, HandlerError, ServerHandle};
use socketserver_http::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use socketserver_http::http::{HeaderMap, Method, Response, StatusCode, Uri};
use socketserver_http::{Content, HttpError, IntoResponse, Request};

use self::head::Head;
use self::run::{Output, Run};
use self::scripts::{Found, Script, Scripts};
use crate::bind::{Connection, socket_of};
use crate::exec::lines::Bound;
use crate::exec::starter::{self, Command, Starters};
use crate::privileges::Privileges;
use crate::signals;
use crate::throttle::Throttle;

/// How long a program that is to end has after SIGTERM, before SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the options say of programs.
#[derive(Debug)]
pub(super) struct Settings {
    /// The directory of the programs, below that of the files.
    pub(super) path: String,
    /// Whether names that begin with a dot are served.
    pub(super) hidden: bool,
    /// The variables of all programs.
    pub(super) env: Vec<CString>,
    /// How long a program may produce nothing.
    pub(super) timeout: Duration,
    /// How many programs may run at once in this process.
    pub(super) max: usize,
    /// Whether events of programs are logged.
    pub(super) log: bool,
    /// How many processes start the programs.
    pub(super) starters: usize,
}

/// The programs of a site.
#[derive(Debug)]
pub(super) struct Programs {
    settings: Settings,
    scripts: Scripts,
    starters: OnceLock<Starters>,
    live: Arc<AtomicUsize>,
    /// The connections that are being served.
    connections: Mutex<HashMap<u64, Arc<Peer>>>,
    /// The lines about programs that fail.
    exits: Arc<Throttle>,
    /// The lines that programs write.
    lines: Arc<Bound>,
}

/// What a program is told of its connection, and what it ends with.
#[derive(Debug)]
struct Peer {
    socket: OwnedFd,
    local: Option<Address>,
    is_tls: bool,
}

/// What has come of a request.
pub(super) enum Answer {
    Response(Response<Content>),
    /// It is for no program.
    NotOurs,
    /// The program redirects to another path of this server.
    Local(Uri),
}

/// The right to run one program.
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Programs {
    /// # Errors
    ///
    /// The directory does not exist below `root`, or there is no place for bodies.
    pub(super) fn new(root: &Path, settings: Settings) -> anyhow::Result<Self> {
        let scripts = Scripts::open(root, &settings.path, settings.hidden);
        let scripts = scripts.with_context(|| format!("--cgi-bin {}", settings.path))?;
        tempfile::tempfile().with_context(|| {
            let folder = std::env::temp_dir();
            format!(
                "make a file for bodies in {}; TMPDIR names another place",
                folder.display()
            )
        })?;
        Ok(Self {
            settings,
            scripts,
            starters: OnceLock::new(),
            live: Arc::default(),
            connections: Mutex::default(),
            exits: Arc::new(Throttle::new().context("mmap(2)")?),
            lines: Arc::new(Bound::new().context("mmap(2)")?),
        })
    }

    /// Forks the processes that start the programs; this process must have one thread.
    pub(super) fn fork(&self, privileges: &Privileges) -> anyhow::Result<()> {
        let settings = starter::Settings {
            starters: self.settings.starters,
            env: self.settings.env.clone(),
            kill_timeout: KILL_TIMEOUT,
        };
        let starters = Starters::fork(&settings, || {
            privileges.drop_for_good()?;
            Ok(Box::new(|| Ok(())))
        })?;
        let _ = self.starters.set(starters);
        Ok(())
    }

    /// Stops the server when a process that starts programs has ended.
    pub(super) fn watch(self: &Arc<Self>, server: &ServerHandle) -> anyhow::Result<()> {
        let programs = Arc::clone(self);
        let has_ended = move || {
            let starters = programs.starters.get();
            starters.is_some_and(Starters::one_has_ended)
        };
        signals::stop_when_child_ends(has_ended, server.clone())
    }

    /// Ends the programs that are left, and the processes that have started them.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        self.starters.get().map_or(Ok(()), Starters::finish)
    }

    /// Notes a connection, for as long as what is returned lives.
    pub(super) fn connect(&self, conn: &Connection) -> io::Result<Connected<'_>> {
        let peer = Peer {
            socket: socket(conn).try_clone_to_owned()?,
            local: conn.local_addr().ok(),
            is_tls: matches!(conn, Either::Right(_)),
        };
        let id = conn.id();
        self.connections().insert(id, Arc::new(peer));
        Ok(Connected { programs: self, id })
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Peer>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request, if it is for a program.
    pub(super) fn answer(&self, request: &mut Request<'_>) -> Result<Answer, HandlerError> {
        let script = match self.scripts.find(request.uri().path()) {
            Found::NotOurs => return Ok(Answer::NotOurs),
            Found::Refused(status) => return Ok(Answer::Response(status.into_response()?)),
            Found::Script(script) => script,
        };
        let (input, length) = spool(request)?;
        let Some(permit) = self.permit() else {
            let busy = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "too many programs run")
                .header(RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(busy.into());
        };
        let mut output = Output::new(self.start(request, &script, input, length, permit)?);
        let head = Head::read(&mut output).map_err(|err| {
            let status = match err.kind() {
                io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                io::ErrorKind::InvalidData => StatusCode::BAD_GATEWAY,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let text = status
                .canonical_reason()
                .unwrap_or("the program has failed");
            HttpError::new(status, text).caused_by(err)
        })?;
        Ok(match head {
            Head::Local(target) => Answer::Local(target),
            Head::Response(status, fields) => {
                let is_head = request.method() == Method::HEAD;
                Answer::Response(respond(status, fields, output, is_head)?)
            }
        })
    }

    fn permit(&self) -> Option<Permit> {
        let one_more = |live| (live < self.settings.max).then_some(live + 1);
        let taken = self.live.fetch_update(Relaxed, Relaxed, one_more);
        taken.is_ok().then(|| Permit(Arc::clone(&self.live)))
    }

    fn start(
        &self,
        request: &Request<'_>,
        script: &Script,
        input: Option<File>,
        length: u64,
        permit: Permit,
    ) -> io::Result<Run> {
        let input = match input {
            Some(file) => file,
            None => File::open("/dev/null")?,
        };
        let id = request.body().connection_id();
        // The lock is not held while a starter is waited for.
        let peer = self.connections().get(&id).cloned();
        let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
        let env = variables::of(request, script, &peer, length);
        let starters = self.starters.get().ok_or(io::ErrorKind::NotConnected)?;
        let args: [&std::ffi::OsStr; 1] = [&script.program];
        let command = Command::new(&script.program, &args).map_err(io::Error::other)?;
        let settings = run::Settings {
            timeout: self.settings.timeout,
            prefix: format!("socketserver: connection {id}, {}", script.name),
            log: self.settings.log,
            exits: Arc::clone(&self.exits),
            lines: Arc::clone(&self.lines),
        };
        let start = |output: BorrowedFd<'_>, errors: BorrowedFd<'_>| {
            let fds = [input.as_fd(), output, errors, script.folder.as_fd()];
            starters.start(&command, &env, &fds, &[0, 1, 2])
        };
        Run::start(settings, peer.socket.as_fd(), permit, start)
    }
}

/// A connection that programs may ask for.
#[derive(Debug)]
pub(super) struct Connected<'a> {
    programs: &'a Programs,
    id: u64,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.programs.connections().remove(&self.id);
    }
}

/// The socket of a connection, below TLS and the PROXY protocol.
fn socket(conn: &Connection) -> BorrowedFd<'_> {
    match conn {
        Either::Left(stream) => socket_of(stream),
        Either::Right(tls) => socket_of(tls.below()),
    }
}

/// Receives the body of a request into a file without a name. Returns it and its length, if there is a body.
fn spool(request: &mut Request<'_>) -> io::Result<(Option<File>, u64)> {
    let body = request.body_mut();
    if body.size() == Some(0) {
        return Ok((None, 0));
    }
    let mut file = tempfile::tempfile()?;
    let mut piece = vec![0; 16 * 1024];
    let mut length = 0;
    loop {
        let count = body.read(&mut piece)?;
        if count == 0 {
            break;
        }
        file.write_all(&piece[..count])?;
        length += count as u64;
    }
    file.rewind()?;
    Ok((Some(file), length))
}

/// The response whose content is what the program still writes.
fn respond(
    status: StatusCode,
    mut fields: HeaderMap,
    mut output: Output,
    is_head: bool,
) -> io::Result<Response<Content>> {
    let length = fields.get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let has_content =
        !is_head && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
    let content = match length {
        _ if !has_content => {
            output.finish()?;
            length.map_or_else(Content::empty, |length| {
                Content::sized_reader(io::empty(), length)
            })
        }
        Some(0) => {
            output.finish()?;
            Content::empty()
        }
        Some(length) => {
            output.announce(length);
            Content::sized_reader(output, length)
        }
        None => Content::reader(output),
    };
    // The server says it itself.
    fields.remove(CONTENT_LENGTH);
    let mut response = Response::new(content);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if !response.headers().contains_key(CONTENT_TYPE) {
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    }
    Ok(response)
}
