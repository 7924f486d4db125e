//! One request after the other, on the thread that accepts.

use std::io;

use crate::accept::batch::Batch;
use crate::model::{Dispatch, Model, Serving, Take};
use crate::transport::Transport;

/// Serves one request after the other on the thread that accepts them.
///
/// The least overhead there is, and the right model where each request is short: while one is
/// served, the others wait in the kernel. Datagrams are received and answered in batches. A second
/// thread sleeps until the server is asked to stop, and cuts the request that outlives the drain
/// deadline.
///
/// # Examples
///
/// ```
/// use socketserver::{Packet, UdpServer};
///
/// let guard = UdpServer::bind("127.0.0.1:0")?.spawn(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Sequential;

impl Model for Sequential {
    const NAME: &'static str = "sequential";
}

impl Dispatch for Sequential {}

impl Take for Sequential {
    const SERVES_HERE: bool = true;

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Request>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        if batch.requests.len() > 1 {
            serving.service.serve_all(&mut batch.requests);
            batch.lease.keep(0);
        } else if let Some(job) = batch.next_job(serving) {
            job.run();
        }
        Ok(())
    }
}
