//! The server: a transport's listeners, a model, and in the end a handler.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Model;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::report::{Handled, Report};
use crate::address::Address;
use crate::connection::life::Service;
use crate::error::{Error, Tried};
use crate::handle::ServerHandle;
use crate::handler::{Handler, IntoOutcome, Outcome};
use crate::lifecycle::{Closing, State};
use crate::model::sequential::Sequential;
use crate::net::Transport;
use crate::observe::hooks::Hooks;
use crate::shared::Shared;
use crate::sys::poll::any_of;

/// A server: it takes requests from the listeners of transport `T` and serves them under model `M`.
///
/// It is bound first and given its handler last. Serving consumes it, so a server cannot be closed
/// while it serves, or serve after it was stopped.
///
/// # Shutdown
///
/// [`ServerHandle::shutdown`], from anywhere, or [`Next::Stop`](crate::Next::Stop) from a handler:
/// the server stops accepting, serves what the kernel has accepted for it already, closes its
/// listeners, and waits for the requests that are being served, at most for the drain timeout; then
/// it aborts those that are left. It returns the moment the last one has ended.
///
/// # Dropping
///
/// Dropping a server that does not serve closes its listeners and removes the socket files that it
/// made.
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
    /// Readable while one of the listeners is.
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
            ready,
        })
    }

    /// The bound addresses, with real ports.
    #[must_use]
    #[doc(alias = "server_address")]
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners.iter().map(Transport::local_addr).collect()
    }

    /// The bound addresses as URLs: `tcp://127.0.0.1:8080`, `unix:///run/service.sock`.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.listeners.iter().map(Transport::url).collect()
    }

    /// A handle to stop the server and to observe it, from anywhere.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.shared.clone(), Arc::clone(&self.addresses))
    }

    /// Serves requests until the server is asked to stop, and drains.
    ///
    /// The handler returns `()`, [`Next`](crate::Next), or a `Result` of one of them. An error or a
    /// panic ends its own request only.
    ///
    /// # Errors
    ///
    /// - The model could not start: threads that cannot be created, forking in a process with
    ///   threads.
    /// - Every listener has failed.
    /// - The worker processes of [`Prefork`](crate::Prefork) keep dying.
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
            ready: _,
            addresses: _,
        } = self;
        let service = Service::new(boxed(handler), Arc::clone(&hooks), shared.clone());
        let result = model.serve(Serving::new(listeners, Arc::new(service)));
        hooks.enter(&shared.lifecycle, State::Closed);
        drop(closing);
        result
    }

    /// As [`serve_forever`](Self::serve_forever), with a handler that is a type of its own.
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

    /// Serves on a thread of its own.
    ///
    /// # Errors
    ///
    /// The thread could not be started. What [`serve_forever`](Self::serve_forever) returns comes
    /// from [`ServerGuard::join`].
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

    /// As [`spawn`](Self::spawn), with a handler that is a type of its own.
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
    /// Serves one request, if one comes within `timeout`. `None` waits for ever, zero does not
    /// wait.
    ///
    /// To serve from an event loop of your own, wait until [`AsFd`] polls as readable and call
    /// this. A handler that returns [`Next::Park`](crate::Next::Park) has its connection closed.
    ///
    /// Under [`Sequential`] nobody keeps the deadlines of the connection meanwhile: set its timeouts.
    ///
    /// # Errors
    ///
    /// As [`serve_forever`](Self::serve_forever). A request that fails is not one: the error hook
    /// is told.
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
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let (hooks, shared) = (Arc::clone(&self.hooks), self.shared.clone());
        let service = Service::new(boxed(handler), hooks, shared).without_parking();
        let service = Arc::new(service);
        let listeners = std::mem::take(&mut self.listeners);
        let mut serving = Serving::new(listeners, service);
        let handled = Acceptor::new(&mut serving, &mut self.model, M::NAME)
            .and_then(|acceptor| acceptor.serve_one(deadline));
        self.listeners = serving.listeners;
        if matches!(handled, Ok(Handled::TimedOut)) {
            self.hooks.timed_out();
        }
        handled
    }

    /// Stops: closes the listeners and waits for the requests that
    /// [`handle_request`](Self::handle_request) has started, at most for the drain timeout, then
    /// aborts them.
    ///
    /// # Errors
    ///
    /// As [`serve_forever`](Self::serve_forever).
    #[doc(alias = "server_close")]
    pub fn close(mut self) -> Result<Report, Error> {
        self.shared.lifecycle.stop_now();
        // Nobody is there to serve those who wait in the queue.
        self.listeners.clear();
        self.serve_forever(|_| ())
    }
}

impl<T: Transport, M> AsFd for Server<T, M> {
    /// A descriptor that polls as readable while a request is waiting.
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

/// A server that serves on a thread of its own. Dropping it stops the server and waits until it has
/// drained.
#[derive(Debug)]
#[must_use = "dropping the guard stops the server"]
pub struct ServerGuard {
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl ServerGuard {
    /// The server's handle.
    pub const fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Waits until the server has ended by itself or was stopped through a handle.
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
            // Handlers and hooks contain their panics: this is one of the server's own.
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for ServerGuard {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle.shutdown();
            // Whoever wants to know calls `stop`.
            let _ = self.wait();
        }
    }
}
