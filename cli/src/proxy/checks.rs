//! Active health checks: `--check-interval`.

use std::sync::Arc;
use std::time::Duration;

use socketserver::task;

use crate::proxy::background::Background;
use crate::proxy::header::Headers;
use crate::proxy::to::{Dial, Kind};
use crate::proxy::upstreams::Upstreams;

/// Checks upstreams, on a thread in each process that serves. The processes share the work.
pub(crate) struct Checks {
    interval: Duration,
    upstreams: Arc<Upstreams>,
    dial: Arc<Dial>,
    /// What an upstream that expects headers gets.
    header: Option<Vec<u8>>,
    checker: Background,
}

impl Checks {
    pub(crate) fn new(
        interval: Duration,
        upstreams: &Arc<Upstreams>,
        dial: &Arc<Dial>,
        headers: Option<Headers>,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            interval,
            upstreams: Arc::clone(upstreams),
            dial: Arc::clone(dial),
            header: headers.map(Headers::of_proxy).transpose()?,
            checker: Background::default(),
        }))
    }

    /// Starts the thread, unless this process has it.
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let checks = Arc::clone(self);
        self.checker.start("checks", move || checks.run())
    }

    /// Checks for as long as the process lives.
    fn run(&self) {
        loop {
            let (due, next) = self.upstreams.claim_checks(self.interval);
            for index in due {
                match self.check(index) {
                    Ok(()) => self.upstreams.note_success(index),
                    Err(err) => self.upstreams.note_failed_check(index, &err),
                }
            }
            task::sleep(next);
        }
    }

    /// Connects, with the header and the TLS handshake that clients have.
    fn check(&self, index: usize) -> anyhow::Result<()> {
        let to = self.upstreams.to(index);
        match to.kind() {
            Kind::Stream => self.dial.stream(to, self.header.as_deref()).map(drop),
            Kind::Seqpacket => self.dial.messages(to).map(drop),
            Kind::Datagram => Ok(()),
        }
    }
}
