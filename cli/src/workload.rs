//! The workload of `socketserver compare`, as its servers serve it: read a request, compute, wait,
//! answer with the same bytes.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use socketserver::net::Either;
use socketserver::{Connection, Next, Outcome, Report};

use crate::args::{Work, Workload};
use crate::bind::Accepted;
use crate::serve::{self, Task};

/// Serves the workload until a signal stops it, or the process that measures it is gone.
pub(crate) fn run(work: Work) -> anyhow::Result<Report> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("ask for a signal when the parent process ends")?;
    // It may have ended before.
    if getppid() != Pid::from_raw(work.parent) {
        bail!("serve a workload: process {} has ended", work.parent);
    }
    serve::run(work.workload, work.options)
}

impl Task for Workload {
    fn serve(&self, accepted: &mut Accepted) -> Outcome {
        // `compare` connects to streams alone.
        if let Either::Left(conn) = accepted {
            stream(self, conn)?;
        }
        Ok(Next::Close)
    }
}

fn stream(workload: &Workload, conn: &mut impl Connection) -> io::Result<()> {
    let mut request = vec![0; workload.request_size as usize];
    while receive(conn, &mut request)? {
        compute(workload.cpu);
        if !workload.wait.is_zero() {
            // Parks a coroutine, and blocks a thread.
            socketserver::task::sleep(workload.wait);
        }
        conn.write_all(&request)?;
        if workload.new_connections || conn.stopping() {
            break;
        }
    }
    Ok(())
}

/// Reads a whole request. `false` at the end: a client that leaves amid a request has been told to.
fn receive(conn: &mut impl Connection, request: &mut [u8]) -> io::Result<bool> {
    let mut count = 0;
    while count < request.len() {
        match conn.read(&mut request[count..])? {
            0 => return Ok(false),
            more => count += more,
        }
    }
    Ok(true)
}

/// Keeps the processor busy until this thread has had it for `time`, however long that takes.
fn compute(time: Duration) {
    if time.is_zero() {
        return;
    }
    let end = cpu_time() + time;
    let mut state = 1_u64;
    while cpu_time() < end {
        for _ in 0..100 {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
}

/// The processor time that this thread has used.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computing_takes_processor_time() {
        let before = cpu_time();
        compute(Duration::from_millis(3));
        let took = cpu_time() - before;
        assert!(took >= Duration::from_millis(3), "{took:?}");
    }
}
