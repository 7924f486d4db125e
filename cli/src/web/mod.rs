//! `serve http DIR`: the files below a directory, and CGI programs.

mod access_log;
mod cgi;
mod failures;
mod generation;
mod options;
mod passwords;
mod site;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use socketserver::net::Either;
use socketserver::{Next, Outcome, Report, ServerHandle};
use socketserver_http::{Handler, Http, auth};

use crate::args;
use crate::bind::{Accepted, Any, Connection, Listener};
use crate::log::say;
use crate::privileges::Privileges;
use crate::serve::{self, Task};
use crate::throttle::Throttle;

use self::access_log::AccessLog;
use self::cgi::Programs;
pub(crate) use self::options::Web;
use self::passwords::Passwords;
use self::site::{Preflights, Site};

/// Serves until a signal stops it.
pub(crate) fn run(web: Web, directory: &Path, options: args::Options) -> anyhow::Result<Report> {
    let root = directory
        .canonicalize()
        .with_context(|| format!("serve {}", directory.display()))?;
    let programs = web.programs(&root, &options)?.map(Arc::new);
    let passwords = web.passwords()?.map(Arc::new);
    let log = web.access_log()?.map(Arc::new);
    let files = web.files(&root)?;
    let site = Site::new(files.clone(), programs.clone());
    let http = Connections {
        web: &web,
        log: log.clone(),
        failures: Throttle::new().context("mmap(2)")?,
        idle: options.limits.idle_timeout.0,
    };
    let serve = match &passwords {
        None => http.serve(site),
        Some(passwords) => {
            let passwords = Arc::clone(passwords);
            let verify = move |user: &str, password: &str| passwords.verify(user, password);
            let handler = auth::basic(REALM, verify, site);
            match web.has_cors() {
                true => http.serve(Preflights { files, handler }),
                false => http.serve(handler),
            }
        }
    };
    let task = HttpTask {
        serve,
        root,
        lists: web.lists(),
        programs: programs.clone(),
        passwords,
        log,
    };
    let served = serve::run(task, options);
    let finished = programs.map_or(Ok(()), |programs| programs.finish());
    let report = served?;
    finished.map(|()| report)
}

/// What a browser shows where it asks for a password.
const REALM: &str = "socketserver";

/// Longer than a connection lives.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// The handler of connections.
type Serve = Box<dyn Fn(&mut Connection) -> Outcome + Send + Sync>;

/// How connections are served, whatever answers requests.
struct Connections<'a> {
    web: &'a Web,
    log: Option<Arc<AccessLog>>,
    failures: Throttle,
    idle: Option<Duration>,
}

impl Connections<'_> {
    fn serve(self, handler: impl Handler) -> Serve {
        let mut http = Http::handler(handler)
            .body_bytes(self.web.body_max())
            .idle_timeout(self.idle.unwrap_or(FOR_EVER))
            .on_access(move |access| failures::report(access, &self.failures));
        if let Some(log) = self.log {
            http = http.on_access(move |access| log.write(access));
        }
        if let Some(proxies) = self.web.proxies() {
            http = http.trust_x_forwarded_for(proxies);
        }
        Box::new(http.serve())
    }
}

/// Serves HTTP on every stream listener.
struct HttpTask {
    serve: Serve,
    root: PathBuf,
    lists: bool,
    programs: Option<Arc<Programs>>,
    passwords: Option<Arc<Passwords>>,
    log: Option<Arc<AccessLog>>,
}

impl Task for HttpTask {
    fn protocols(&self) -> &'static [&'static str] {
        &["h2", "http/1.1"]
    }

    fn stack_kib(&self) -> usize {
        // A connection of HTTP/2 takes 95 in a build without optimizations.
        256
    }

    fn fork(&mut self, privileges: &Privileges) -> anyhow::Result<()> {
        let programs = self.programs.as_ref();
        programs.map_or(Ok(()), |programs| programs.fork(privileges))
    }

    fn start(&mut self, listeners: Vec<Any>) -> anyhow::Result<Vec<Listener>> {
        // As the user that serves.
        let (needed, what) = match self.lists {
            true => (Access::READ_OK | Access::EXEC_OK, "read and search"),
            false => (Access::EXEC_OK, "search"),
        };
        accessat(CWD, &self.root, needed, AtFlags::EACCESS).with_context(|| {
            let root = self.root.display();
            format!("serve {root}: this user may not {what} the directory; change its mode, or serve as another user")
        })?;
        Ok(serve::lend_none(listeners))
    }

    fn serving(&self, server: &ServerHandle) -> anyhow::Result<()> {
        let programs = self.programs.as_ref();
        programs.map_or(Ok(()), |programs| programs.watch(server))
    }

    fn reloader(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let (passwords, log) = (self.passwords.clone(), self.log.clone());
        if passwords.is_none() && log.is_none() {
            return None;
        }
        Some(Box::new(move || {
            let passwords = passwords.as_ref().map(|passwords| passwords.reload());
            let log = log.as_ref().map(|log| log.reopen());
            for note in [passwords, log].into_iter().flatten() {
                say(format_args!("socketserver: {note}"));
            }
        }))
    }

    fn serve(&self, accepted: &mut Accepted) -> Outcome {
        let Either::Left(conn) = accepted else {
            // Their listeners are refused at the start.
            return Ok(Next::Close);
        };
        match &self.programs {
            None => (self.serve)(conn),
            Some(programs) => {
                let _known = programs.connect(conn)?;
                (self.serve)(conn)
            }
        }
    }
}
