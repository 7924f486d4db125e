//! The error type of building, binding and serving.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// An error of building, binding or serving.
///
/// `Display` prints the operation, its object and the system's error, and for some errors a remedy:
/// `bind 127.0.0.1:80: Permission denied (os error 13); ports below 1024 need …`.
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
    /// Creates an error from the operation that failed, with its object, and the system's error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use socketserver::Error;
    ///
    /// let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    /// let err = Error::new("bind 127.0.0.1:80", denied).with_remedy("use a port above 1023");
    /// assert_eq!(err.to_string(), "bind 127.0.0.1:80: permission denied; use a port above 1023");
    /// ```
    #[must_use]
    pub fn new(tried: impl Into<String>, source: io::Error) -> Self {
        Self {
            tried: tried.into(),
            source,
            remedy: None,
        }
    }

    /// Adds a remedy: what the user can do about the error.
    #[must_use]
    pub const fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Returns the kind of the system's error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Returns the system's error.
    #[must_use]
    pub const fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// Returns whether another socket holds the address (`EADDRINUSE`).
    #[must_use]
    pub fn is_addr_in_use(&self) -> bool {
        self.kind() == io::ErrorKind::AddrInUse
    }

    /// Returns whether the process lacks a permission (`EACCES`, `EPERM`).
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
        // `Display` prints the system's error already, so the source is the error beneath it.
        self.source.source()
    }
}

impl From<Error> for io::Error {
    fn from(err: Error) -> Self {
        Self::new(err.kind(), err)
    }
}

/// The error of a reply whose receiver has gone. Its I/O error has the kind of the system's error.
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

/// Adds to a system error the operation that failed and its object.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|err| Error::new(what(), err.into()))
    }
}

/// The error of a handler, of any type; `?` converts from each error type, and from a string.
///
/// # Examples
///
/// ```
/// use socketserver::HandlerError;
///
/// fn parse(line: &str) -> Result<u16, HandlerError> {
///     let number: u16 = line.trim().parse()?;
///     if number == 0 {
///         return Err("zero is not a port".into());
///     }
///     Ok(number)
/// }
/// assert_eq!(parse("80\n").unwrap(), 80);
/// assert_eq!(parse("0").unwrap_err().to_string(), "zero is not a port");
/// ```
pub type HandlerError = Box<dyn StdError + Send + Sync>;
