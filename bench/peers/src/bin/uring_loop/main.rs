//! The echo that one would write by hand on io_uring: one thread, single issuer, deferred task running, multishot accept.
//!
//! `uring_loop once|echo tcp|unix BUFFER single|multi`: `single` receives into a buffer of each connection, and sends and
//! receives anew with two linked operations; `multi` has multishot receives into a ring of provided buffers.
#![expect(
    unsafe_code,
    reason = "the kernel writes into buffers that the ring points at"
)]

mod buffers;
mod multi;
mod single;

use std::env;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, bail};
use bench_peers::{Handler, Listener, size_from_args};
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

/// What completes is said by the top byte of its user data; which connection by the rest.
const ACCEPT: u64 = 1 << 56;
const RECV: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const CLOSE: u64 = 4 << 56;
const KIND: u64 = 0xff << 56;

/// More sockets than a process may have.
const CONNECTIONS: usize = 65_536;

fn main() -> Result<()> {
    let (handler, size) = (Handler::from_args()?, size_from_args()?);
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(32_768)
        .build(4096)
        .context("set up io_uring")?;
    let mode = env::args().nth(4);
    let listener = Listener::from_args()?;
    let fd = match &listener {
        Listener::Tcp(listener) => listener.as_raw_fd(),
        Listener::Unix(listener) => listener.as_raw_fd(),
    };
    let mut ring = Ring { ring, listener: fd };
    ring.accept()?;
    match mode.as_deref() {
        Some("single") => single::run(ring, handler, size),
        Some("multi") => multi::run(ring, handler, size),
        _ => bail!("the fourth argument says how to receive: single or multi"),
    }
}

/// The ring, and the operations that both ways of receiving have.
struct Ring {
    ring: IoUring,
    listener: RawFd,
}

/// A completion, copied out of the queue.
#[derive(Clone, Copy)]
struct Completion {
    kind: u64,
    index: usize,
    result: i32,
    flags: u32,
}

impl Ring {
    fn push(&mut self, entry: &Entry) -> Result<()> {
        // SAFETY: every buffer that an entry points at lives as long as the process, or until the operation has completed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Pushes two linked entries into the same submission.
    fn push_both(&mut self, entries: &[Entry; 2]) -> Result<()> {
        // SAFETY: as in `push`.
        while unsafe { self.ring.submission().push_multiple(entries) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Accepts until an error ends it.
    fn accept(&mut self) -> Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(self.listener)).build();
        self.push(&entry.user_data(ACCEPT))
    }

    fn close(&mut self, fd: RawFd) -> Result<()> {
        let entry = opcode::Close::new(types::Fd(fd)).build();
        self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(CLOSE))
    }

    /// Submits, waits for at least one completion, and takes all that are there.
    fn wait(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(err) if err.raw_os_error() == Some(nix::libc::EINTR) => {}
            result => {
                result.context("io_uring_enter")?;
            }
        }
        completions.extend(self.ring.completion().map(|entry| Completion {
            kind: entry.user_data() & KIND,
            index: (entry.user_data() & !KIND) as usize,
            result: entry.result(),
            flags: entry.flags(),
        }));
        Ok(())
    }
}
