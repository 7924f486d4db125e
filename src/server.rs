//! The server: the listeners of a transport, a model, and the handler that serving is given.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::accept::Acceptor;
use crate::accept::dispatch::Model;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::report::{Handled, Report};
use crate::address::Address;
use crate::connection::life::{Parks, Service};
use crate::connection::parking::Parking;
use crate::error::{Error, Tried};
use crate::handle::ServerHandle;
use crate::handler::{Handler, IntoOutcome, Outcome};
use crate::lifecycle::{Closing, State};
use crate::model::sequential::Sequential;
use crate::net::Transport;
use crate::observe::hooks::Hooks;
use crate::shared::Shared;
use crate::sys::poll::{also_of, any_of};
use crate::task::wait::after;

/// A server: accepts connections or datagrams from the listeners of transport `T`, and calls a
/// handler for each under model `M`.
///
/// A server is bound first and given its handler last. Serving consumes the server, so it cannot be
/// closed while it serves, or serve again after a stop.
///
/// # Shutdown
///
/// [`ServerHandle::shutdown`], from anywhere, or [`Next::Stop`](crate::Next::Stop) from a handler
/// stops the server, in these steps:
///
/// 1. The server goes on accepting for the time of
///    [`Builder::lame_duck`](crate::Builder::lame_duck). Default: none.
/// 2. It serves the backlog: the connections that the kernel has already accepted for its
///    listeners.
/// 3. It closes its listeners and drains: it waits for live connections, for at most the [drain
///    timeout](crate::Builder::drain_timeout). Idle connections (parked, or waiting in
///    [`next_message`](crate::Connection::next_message)) stay for the [idle
///    grace](crate::Builder::idle_grace), and then get the end of the stream.
/// 4. At the drain deadline it aborts the connections that are left, and gives their handlers at
///    most 2 s to return. If some are idle at the deadline, they get the end of the stream, and the
///    abort comes 250 ms later.
///
/// [`serve_forever`](Self::serve_forever) returns as soon as the last connection has ended.
///
/// # Dropping
///
/// Dropping a server that does not serve closes its listeners and removes the socket files that it
/// created.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ThreadingTcpServer;
///
/// ThreadingTcpServer::bind("127.0.0.1:8080")?
///     .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
#[doc(alias = "BaseServer")]
pub struct Server<T: Transport, M = Sequential> {
    listeners: Vec<T>,
    addresses: Arc<[Address]>,
    model: M,
    hooks: Arc<Hooks<T::Accepted>>,
    shared: Shared,
    closing: Closing,
    /// The connections that calls of `handle_request` have left unopened.
    unopened: Arc<OnceLock<Parking<T::Accepted>>>,
    /// An epoll instance that is readable while a listener is, or an unopened connection.
    ready: OwnedFd,
}

impl<T: Transport, M: Model> Server<T, M> {
    pub(crate) fn new(
        listeners: Vec<T>,
        model: M,
        hooks: Hooks<T::Accepted>,
        shared: Shared,
    ) -> Result<Self, Error> {
        let ready = any_of(&listeners).tried(|| "watch the listeners with epoll".to_owned())?;
        let addresses = listeners.iter().map(Transport::local_addr).collect();
        Ok(Self {
            addresses,
            listeners,
            model,
            hooks: Arc::new(hooks),
            closing: Closing(Arc::clone(&shared.lifecycle)),
            shared,
            unopened: Arc::default(),
            ready,
        })
    }

    /// Returns the bound addresses, with the ports that the kernel has chosen for port 0.
    #[must_use]
    #[doc(alias = "server_address")]
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners.iter().map(Transport::local_addr).collect()
    }

    /// Returns the bound addresses as URLs: `tcp://127.0.0.1:8080`, `unix:///run/service.sock`.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.listeners.iter().map(Transport::url).collect()
    }

    /// Returns a handle, which stops and observes the server from anywhere.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.shared.clone(), Arc::clone(&self.addresses))
    }

    /// Serves on the calling thread until the server is stopped, then drains.
    ///
    /// The handler returns `()`, [`Next`](crate::Next), or a `Result` of one of them. An error or a
    /// panic of the handler ends its own connection or datagram only.
    ///
    /// # Errors
    ///
    /// - The model cannot start: a thread cannot be created, or the process has threads and the
    ///   model forks.
    /// - Every listener has failed.
    /// - The worker processes of [`Prefork`](crate::Prefork) keep dying.
    /// - A worker of `Coroutines` has failed.
    pub fn serve_forever<F, O>(self, handler: F) -> Result<Report, Error>
    where
        F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        let Self {
            listeners,
            model,
            hooks,
            shared,
            closing,
            unopened,
            ready: _,
            addresses: _,
        } = self;
        let service = Service::new(boxed(handler), Arc::clone(&hooks), shared.clone(), unopened);
        let result = model.serve(Serving::new(listeners, Arc::new(service)));
        hooks.enter(&shared.lifecycle, State::Closed);
        drop(closing);
        result
    }

    /// Serves as [`serve_forever`](Self::serve_forever) does, with a [`Handler`] value in place of
    /// a closure.
    ///
    /// # Errors
    ///
    /// As [`serve_forever`](Self::serve_forever).
    ///
    /// # Examples
    ///
    /// See [`Handler`].
    pub fn serve_handler(self, handler: impl Handler<T::Accepted>) -> Result<Report, Error> {
        self.serve_forever(move |request| handler.handle(request))
    }

    /// Serves on a new thread, and returns a guard that stops the server when it is dropped.
    ///
    /// # Errors
    ///
    /// The thread cannot be started. [`ServerGuard::join`] and [`ServerGuard::stop`] return the
    /// result of [`serve_forever`](Self::serve_forever).
    ///
    /// # Examples
    ///
    /// See [`ServerGuard`].
    pub fn spawn<F, O>(self, handler: F) -> Result<ServerGuard, Error>
    where
        F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        let handle = self.handle();
        let thread = thread::Builder::new().name("socketserver-accept".to_owned());
        let thread = thread
            .spawn(move || self.serve_forever(handler))
            .tried(|| "start a thread to serve".to_owned())?;
        Ok(ServerGuard {
            handle,
            thread: Some(thread),
        })
    }

    /// Serves as [`spawn`](Self::spawn) does, with a [`Handler`] value in place of a closure.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// See [`Handler`].
    pub fn spawn_handler(self, handler: impl Handler<T::Accepted>) -> Result<ServerGuard, Error> {
        self.spawn(move |request| handler.handle(request))
    }
}

impl<T: Transport, M: Model + Dispatch> Server<T, M> {
    /// Accepts one connection or datagram, if one comes within `timeout`, and has the model serve
    /// it.
    ///
    /// `None` waits without a limit, zero does not wait. To serve from an event loop of your own,
    /// call this whenever the server's [`AsFd`] descriptor polls as readable.
    /// [`Next::Park`](crate::Next::Park) closes the connection here.
    ///
    /// Under [`Sequential`] the connection has no deadlines while its handler runs: set the
    /// timeouts of the connection instead.
    ///
    /// Under [`Sequential`] a TLS handshake, or the header of a proxy, is a part of the wait, and not of the
    /// connection that is served: while a client keeps it waiting, the call serves other clients, and returns when
    /// `timeout` is over. Such a connection stays, with its permit. A later call serves it once its client has sent
    /// what is missing, and makes the server's descriptor poll as readable; [`serve_forever`](Self::serve_forever)
    /// goes on with it too; [`close`](Self::close) ends it, and so does a call after its
    /// [handshake timeout](crate::Builder::handshake_timeout). Under the other models it waits in a thread or a process
    /// of its own. A [`Layer`](crate::net::Layer) of your own has to have
    /// [`try_open`](crate::net::Layer::try_open), or it waits in the call.
    ///
    /// # Errors
    ///
    /// As [`serve_forever`](Self::serve_forever). A handler's error is not among them: the
    /// [`on_error`](crate::Builder::on_error) hook receives it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::python::UdpServer;
    /// use socketserver::{Handled, Datagram};
    ///
    /// let mut server = UdpServer::bind("127.0.0.1:0")?;
    /// let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    /// client.send_to(b"hello", server.local_addrs()[0].socket_addr().unwrap()).unwrap();
    /// assert_eq!(server.handle_request(None, |datagram| datagram.echo())?, Handled::Served);
    /// assert_eq!(server.handle_request(Some(Duration::ZERO), |_| ())?, Handled::TimedOut);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn handle_request<F, O>(
        &mut self,
        timeout: Option<Duration>,
        handler: F,
    ) -> Result<Handled, Error>
    where
        F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        let deadline = after(timeout);
        let (hooks, shared) = (Arc::clone(&self.hooks), self.shared.clone());
        let unopened = Arc::clone(&self.unopened);
        let parks = match M::SERVES_HERE {
            true => Parks::Unopened,
            false => Parks::None,
        };
        let service = Service::new(boxed(handler), hooks, shared, unopened).parking_only(parks);
        let service = Arc::new(service);
        let listeners = std::mem::take(&mut self.listeners);
        let mut serving = Serving::new(listeners, service);
        let handled = Acceptor::new(&mut serving, &mut self.model, M::NAME)
            .and_then(|acceptor| acceptor.serve_one(deadline));
        self.listeners = serving.listeners;
        if let Some(unopened) = self.unopened.get() {
            also_of(&self.ready, unopened)
                .tried(|| "watch unopened connections with epoll".to_owned())?;
        }
        if matches!(handled, Ok(Handled::TimedOut)) {
            self.hooks.timed_out();
        }
        handled
    }

    /// Stops a server that [`handle_request`](Self::handle_request) drives.
    ///
    /// Closes the listeners, waits for the connections that are still served, for at most the drain
    /// timeout, and aborts those that are left.
    ///
    /// # Errors
    ///
    /// As [`serve_forever`](Self::serve_forever).
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
    /// assert_eq!(server.close()?.aborted, 0);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[doc(alias = "server_close")]
    pub fn close(mut self) -> Result<Report, Error> {
        self.shared.lifecycle.stop_now();
        // No handler is left for the connections in the backlog, and for those that are not open.
        self.listeners.clear();
        let (hooks, shared) = (Arc::clone(&self.hooks), self.shared.clone());
        let unopened = Arc::clone(&self.unopened);
        Service::new(boxed(|_: &mut T::Accepted| ()), hooks, shared, unopened).dismiss_all();
        self.serve_forever(|_| ())
    }
}

impl<T: Transport, M> AsFd for Server<T, M> {
    /// Returns a descriptor that polls as readable while a connection or a datagram is waiting, or input of a
    /// connection that [`handle_request`](Self::handle_request) has left in its handshake.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

fn boxed<R, F, O>(handler: F) -> Box<dyn Fn(&mut R) -> Outcome + Send + Sync>
where
    F: Fn(&mut R) -> O + Send + Sync + 'static,
    O: IntoOutcome,
{
    Box::new(move |request| handler(request).into_outcome())
}

/// A server that serves on a thread of its own.
///
/// Dropping the guard stops the server and waits until it has drained.
///
/// # Examples
///
/// ```
/// use socketserver::python::ThreadingTcpServer;
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
/// assert!(!guard.handle().is_stopping());
/// let report = guard.stop()?;
/// assert_eq!(report.aborted, 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the guard stops the server"]
pub struct ServerGuard {
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl ServerGuard {
    /// Returns the server's handle.
    pub const fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Waits until the server has ended: it failed, or a handle or a handler has stopped it.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_forever`].
    pub fn join(mut self) -> Result<Report, Error> {
        self.wait()
    }

    /// Stops the server and waits until it has drained.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_forever`].
    pub fn stop(mut self) -> Result<Report, Error> {
        self.handle.shutdown();
        self.wait()
    }

    fn wait(&mut self) -> Result<Report, Error> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(Report::default()),
            Some(Ok(result)) => result,
            // Panics of handlers and hooks are caught, so this panic is a bug of the server.
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for ServerGuard {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle.shutdown();
            // `stop` is the way to see the result.
            let _ = self.wait();
        }
    }
}
