//! The one error of building, binding and serving.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Why a server could not be built, bound or served.
///
/// It displays what was being done, to what, why it failed and, where the system hides it, what to
/// do about it: `bind 127.0.0.1:80: Permission denied (os error 13); ports below 1024 need …`.
///
/// # Examples
///
/// ```
/// use socketserver::python::TcpServer;
///
/// let first = TcpServer::bind("127.0.0.1:0")?;
/// let taken = first.local_addrs()[0].socket_addr().unwrap();
/// let err = TcpServer::bind(taken).unwrap_err();
/// assert!(err.is_addr_in_use());
/// assert!(err.to_string().starts_with(&format!("bind {taken}: ")));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Error {
    tried: String,
    source: io::Error,
    remedy: Option<&'static str>,
}

impl Error {
    /// Says what was tried and on what: `Error::new("bind 127.0.0.1:80", err)`.
    #[must_use]
    pub fn new(tried: impl Into<String>, source: io::Error) -> Self {
        Self {
            tried: tried.into(),
            source,
            remedy: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub const fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// The kind of the underlying error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The system's error.
    #[must_use]
    pub const fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// Whether another socket holds the address (`EADDRINUSE`).
    #[must_use]
    pub fn is_addr_in_use(&self) -> bool {
        self.kind() == io::ErrorKind::AddrInUse
    }

    /// Whether the process lacks a permission (`EACCES`, `EPERM`).
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.kind() == io::ErrorKind::PermissionDenied
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tried,
            source,
            remedy,
        } = self;
        write!(f, "{tried}: {source}")?;
        remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The system's error is shown with this one; what lies beneath it is not.
        self.source.source()
    }
}

impl From<Error> for io::Error {
    fn from(err: Error) -> Self {
        Self::new(err.kind(), err)
    }
}

/// Why a reply has nowhere to go. Its kind is that of the system's error.
#[derive(Debug)]
pub(crate) struct Gone(io::Error);

impl Gone {
    pub(crate) fn because(err: io::Error) -> io::Error {
        io::Error::new(err.kind(), Self(err))
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sender is gone: {}", self.0)
    }
}

impl StdError for Gone {}

/// Adds to a system error what was tried and on what.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|err| Error::new(what(), err.into()))
    }
}

/// Any error that a handler fails with.
pub type HandlerError = Box<dyn StdError + Send + Sync>;
