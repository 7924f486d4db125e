//! The results of serving.

/// The result of serving until a stop.
///
/// # Examples
///
/// ```
/// use socketserver::python::ThreadingTcpServer;
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
/// let report = guard.stop()?;
/// assert_eq!(report.aborted, 0, "the drain deadline aborted a connection");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many connections and datagrams were aborted because they were still live at the drain
    /// deadline, or still in the backlog.
    pub aborted: u64,
}

/// The result of [`Server::handle_request`](crate::Server::handle_request).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use socketserver::Handled;
/// use socketserver::python::TcpServer;
///
/// let mut server = TcpServer::bind("127.0.0.1:0")?;
/// assert_eq!(server.handle_request(Some(Duration::ZERO), |_conn| ())?, Handled::TimedOut);
/// server.handle().shutdown();
/// assert_eq!(server.handle_request(None, |_conn| ())?, Handled::Stopping);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handled {
    /// A connection or datagram was served or, under a model with threads or processes, is being
    /// served.
    Served,
    /// A connection or datagram was refused: by the `verify` hook, by a limit, or by its transport.
    Refused,
    /// No connection or datagram came in time; the `on_timeout` hook was called.
    TimedOut,
    /// The server was asked to stop.
    Stopping,
}
