//! The configuration of a TLS server in force, and how its files are read again.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Error, Tried};
use crate::net::{Connection, Transport};
use crate::sys::clock::Millis;
use crate::sys::memory::{SharedMemory, shareable};
use crate::tls::config::{Loaded, TlsBuilder};
use crate::tls::layer::{Tls, TlsLayer};
use crate::tls::tickets::Tickets;

/// The configuration of a TLS server: its certificates, their keys, and its rules for clients.
/// [`builder`](Self::builder) has the options. Clones share one state.
///
/// A server takes what is in force when it accepts a connection. A reload changes that for the
/// connections that follow, and for no other.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::net::Bind;
/// use socketserver::tls::{Tls, TlsConfig};
/// use socketserver::{Server, Tcp, Threading};
///
/// let tls = TlsConfig::builder().certificate("cert.pem", "key.pem").build()?;
/// Server::<Tls<Tcp>, Threading>::builder()
///     .listen(tls.listen(Tcp::bind("0.0.0.0:4433")?))
///     .build()?
///     .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    options: TlsBuilder,
    tickets: Arc<Tickets>,
    current: RwLock<Loaded>,
    /// The files as this process has read them.
    seen: Mutex<Seen>,
    /// When the files are to be checked again, and the requests that have been answered: copies,
    /// to be read without the lock.
    check_at: AtomicU64,
    answered: AtomicU64,
    page: SharedMemory<Page>,
}

#[derive(Debug)]
struct Seen {
    stamp: u64,
    requests: u64,
    /// Whether the files could not be used. They are tried again: the reason may end without a change of theirs.
    failed: bool,
    /// The result in this process, as [`Page::reported`] has it.
    found: u64,
}

/// The part that all processes share.
#[derive(Debug)]
struct Page {
    /// How many reloads have been requested.
    requests: AtomicU64,
    /// The state of the files, the requests and the result that was reported last.
    reported: AtomicU64,
}

shareable!(Page { requests, reported });

impl TlsConfig {
    /// Returns the options, with their defaults.
    pub const fn builder() -> TlsBuilder {
        TlsBuilder::new()
    }

    pub(super) fn new(options: TlsBuilder) -> Result<Self, Error> {
        let configure = || "configure TLS".to_owned();
        let tickets = Arc::new(Tickets::new().tried(configure)?);
        // Before the files are read: a change meanwhile is seen later.
        let stamp = options.stamp();
        let loaded = options.load(&tickets)?;
        let shared = Shared {
            check_at: AtomicU64::new(next_check(&options)),
            options,
            tickets,
            current: RwLock::new(loaded),
            seen: Mutex::new(Seen {
                stamp,
                requests: 0,
                failed: false,
                found: 0,
            }),
            answered: AtomicU64::new(0),
            page: SharedMemory::new(1).tried(configure)?,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Puts TLS on each connection of these listeners.
    ///
    /// # Examples
    ///
    /// On a Unix socket.
    ///
    /// ```no_run
    /// use socketserver::net::Bind;
    /// use socketserver::tls::TlsConfig;
    /// use socketserver::{Server, Threading, UnixStream};
    ///
    /// let tls = TlsConfig::builder().certificate("cert.pem", "key.pem").build()?;
    /// let listeners = tls.listen(UnixStream::bind("/run/service.sock")?);
    /// let server = Server::<_, Threading>::builder().listen(listeners).build()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn listen<T>(&self, listeners: impl IntoIterator<Item = T>) -> Vec<Tls<T>>
    where
        T: Transport<Accepted: Connection>,
    {
        let wrap = |below| {
            let config = self.clone();
            Tls::new(below, move || TlsLayer::server(&config))
        };
        listeners.into_iter().map(wrap).collect()
    }

    /// Reads all files again, and uses them for connections that are accepted from now on, in this
    /// process and in those that it forks later. [`request_reload`](Self::request_reload) reaches
    /// all processes.
    ///
    /// # Errors
    ///
    /// As [`TlsBuilder::build`]. What was in force before stays in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::tls::TlsConfig;
    ///
    /// fn renewed(tls: &TlsConfig) {
    ///     if let Err(err) = tls.reload() {
    ///         eprintln!("{err}; the old certificates stay in use");
    ///     }
    /// }
    /// ```
    pub fn reload(&self) -> Result<(), Error> {
        let mut seen = self.0.seen();
        seen.stamp = self.0.options.stamp();
        let result = self.0.load();
        seen.failed = result.is_err();
        result
    }

    /// Makes each process of the server read the files again before it accepts its next connection,
    /// or at its next [`refresh`](Self::refresh). The [`on_reload`](TlsBuilder::on_reload) hook gets
    /// the result.
    ///
    /// Async-signal-safe: a signal handler may call it.
    pub fn request_reload(&self) {
        self.0.page[0].requests.fetch_add(1, SeqCst);
    }

    /// Reads the files again in this process, if that was requested, or if they are
    /// [watched](TlsBuilder::watch_files) and have changed or could not be read: what is done otherwise before the next
    /// connection is accepted. The [`on_reload`](TlsBuilder::on_reload) hook gets the result.
    ///
    /// # Examples
    ///
    /// Everything is read by the time at which the reload of the server is over.
    ///
    /// ```
    /// use socketserver::tls::{Tls, TlsConfig};
    /// use socketserver::{Builder, Tcp, Threading};
    ///
    /// fn reloads(
    ///     builder: Builder<Tls<Tcp>, Threading>,
    ///     tls: &TlsConfig,
    /// ) -> Builder<Tls<Tcp>, Threading> {
    ///     let tls = tls.clone();
    ///     builder.on_reload(move |_server| {
    ///         tls.request_reload();
    ///         tls.refresh();
    ///     })
    /// }
    /// ```
    pub fn refresh(&self) {
        self.0.refresh();
    }

    /// What is in force, after a reload if one is due.
    pub(super) fn current(&self) -> Loaded {
        self.0.refresh();
        // A panic leaves the configuration whole.
        let current = self.0.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic leaves the numbers whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self) -> Result<(), Error> {
        let loaded = self.options.load(&self.tickets)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = loaded;
        Ok(())
    }

    /// Reads the files again, if that was requested, or if they have changed or could not be read.
    fn refresh(&self) {
        let requests = self.page[0].requests.load(SeqCst);
        let requested = requests != self.answered.load(Relaxed);
        if !requested && Millis::now().0 < self.check_at.load(Relaxed) {
            return;
        }
        let mut seen = self.seen();
        self.check_at.store(next_check(&self.options), Relaxed);
        let stamp = self.options.stamp();
        if seen.requests == requests && seen.stamp == stamp && !seen.failed {
            return;
        }
        let result = self.load();
        let error = result.as_ref().err().map(Error::to_string);
        let mut found = DefaultHasher::new();
        (stamp, requests, &error).hash(&mut found);
        let found = found.finish();
        let is_new = seen.found != found;
        *seen = Seen {
            stamp,
            requests,
            failed: error.is_some(),
            found,
        };
        self.answered.store(requests, Relaxed);
        drop(seen);
        let is_first = is_new && self.page[0].reported.swap(found, SeqCst) != found;
        if let Some(hook) = self.options.on_reload.as_ref().filter(|_| is_first) {
            hook(result.as_ref().copied());
        }
    }
}

/// When the files are to be checked next, on the clock of [`Millis`].
fn next_check(options: &TlsBuilder) -> u64 {
    let after = |interval: Duration| {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Millis::now().0.saturating_add(interval)
    };
    options.watch.map_or(u64::MAX, after)
}

impl TlsBuilder {
    /// Tells states of the files apart: their inodes, sizes, and the times of their last change.
    fn stamp(&self) -> u64 {
        let pairs = self.pairs.iter();
        let files = pairs.flat_map(|pair| [&pair.certificate, &pair.key]);
        let state = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime(),
                file.mtime_nsec(),
            ))
        };
        let mut hasher = DefaultHasher::new();
        for path in files.chain(&self.authority) {
            state(path).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsConfig").field(&self.0.options).finish()
    }
}
