//! One connection or datagram after the other, on the accepting thread.

use std::io;

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Model, Serving};
use crate::accept::report::Report;
use crate::connection::life::Opening;
use crate::error::Error;
use crate::model::orphan::end_with_supervisor;
use crate::model::serve_here;
use crate::net::{Managed, Transport};
use crate::shared::Shared;

/// Runs the handler on the accepting thread, for one connection or datagram after the other.
///
/// This model has the least overhead and suits short conversations: while the handler runs, other
/// clients wait in the backlog. Datagrams are received and answered in batches. A second thread
/// sleeps until the server is asked to stop, and aborts a connection that outlives the drain
/// deadline.
///
/// # Examples
///
/// ```
/// use socketserver::python::UdpServer;
/// use socketserver::Datagram;
///
/// let guard = UdpServer::bind("127.0.0.1:0")?.spawn(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Sequential;

impl Model for Sequential {
    const NAME: &'static str = "sequential";

    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error> {
        end_with_supervisor(&serving);
        serve_here(self, serving)
    }
}

impl Dispatch for Sequential {
    const SERVES_HERE: bool = true;

    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        shared.registry.set_waits_hold_others();
        Ok(())
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        if batch.requests.len() > 1 && batch.requests.iter().all(Managed::ends_with_others) {
            serving.service.serve_all(&mut batch.requests);
            batch.permits.keep(0);
        }
        // A connection that is parked stays with its process. Of several processes, another may be
        // free sooner, so each takes one connection at a time.
        let opening = match serving.lifeline {
            Some(_) => Opening::Waits,
            None => Opening::Parks,
        };
        while let Some(job) = batch.next_job(serving) {
            job.run(opening);
        }
        Ok(())
    }
}
