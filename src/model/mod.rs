//! Concurrency models. A model decides which thread, process or coroutine runs the handler for each
//! connection or datagram.
//!
//! Models know transports only through the [`Transport`] trait. Models that accept in one thread
//! ([`Dispatch`]) share the loop in `accept/`; `Prefork` and `Coroutines` run that loop in workers
//! of their own.

#[cfg(feature = "coroutines")]
pub(crate) mod coroutines;
pub(crate) mod forking;
mod orphan;
mod pooled;
pub(crate) mod prefork;
pub(crate) mod sequential;
pub(crate) mod thread_pool;
pub(crate) mod threading;
mod watching;

pub use crate::accept::dispatch::{Dispatch, Model};
#[cfg(feature = "coroutines")]
pub use crate::task::coro::stack::StackGauge;
#[cfg(feature = "coroutines")]
pub use coroutines::{Coroutines, Driver};
pub use forking::Forking;
pub use prefork::Prefork;
pub use sequential::Sequential;
pub use thread_pool::ThreadPool;
pub use threading::Threading;

use crate::accept::Acceptor;
use crate::accept::dispatch::Serving;
use crate::accept::report::Report;
use crate::error::Error;
use crate::net::Transport;
use crate::shared::Shared;

/// Serves with a model that accepts on the calling thread.
fn serve_here<T: Transport, M: Model + Dispatch>(
    mut model: M,
    mut serving: Serving<T>,
) -> Result<Report, Error> {
    Acceptor::new(&mut serving, &mut model, M::NAME)?.serve()
}

/// Returns the callback that reports room to the accept loop.
fn on_room(shared: &Shared) -> impl Fn() + Send + Sync + 'static {
    let shared = shared.clone();
    move || shared.admission.release()
}
