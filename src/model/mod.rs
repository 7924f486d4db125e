//! Where requests run. A model takes what a transport yields and decides which thread or process
//! serves it.
//!
//! Models know transports only as the [`Transport`] trait. Those that accept in one thread
//! ([`Dispatch`]) share the loop in `accept/`; the others run a server of their own on top of it.

#[cfg(feature = "coroutines")]
pub(crate) mod coroutines;
pub(crate) mod forking;
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

use std::io;

use crate::accept::Acceptor;
use crate::accept::batch::Batch;
use crate::accept::dispatch::Serving;
use crate::accept::report::Report;
use crate::error::Error;
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::Threads;

/// What `serve` is in a model that accepts on the calling thread.
fn serve_here<T: Transport, M: Model + Dispatch>(
    mut model: M,
    mut serving: Serving<T>,
) -> Result<Report, Error> {
    Acceptor::new(&mut serving, &mut model, M::NAME)?.serve()
}

/// Gives each request of a batch to a thread. Those left in the batch need a thread that could not
/// be started.
fn dispatch_to<T: Transport>(
    threads: &Threads,
    batch: &mut Batch<T::Accepted>,
    serving: &Serving<T>,
) -> io::Result<()> {
    while !batch.requests.is_empty() {
        let place = threads.reserve()?;
        if let Some(job) = batch.next_job(serving) {
            place.execute(Box::new(move || job.run()));
        }
    }
    Ok(())
}

/// Wakes the accept loop when it waits for room.
fn on_room(shared: &Shared) -> impl Fn() + Send + Sync + 'static {
    let shared = shared.clone();
    move || shared.admission.release()
}
