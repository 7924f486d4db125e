//! The end of a server that is not used: `--exit-when-idle`.
#![expect(unsafe_code, reason = "a signal handler and a timer")]

use std::process;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::SIGALRM;
use signal_hook::low_level::register;
use socketserver::ServerHandle;

use crate::signals;

/// How often the server is checked in its idle time.
const CHECKS: u32 = 8;

/// Stops the server once it has had no connection, and no session, for `time`.
///
/// A timer's signal checks that, because a model may forbid threads in this process. Its forked children have no timer.
pub(crate) fn stop_after(
    time: Duration,
    server: ServerHandle,
    sessions: Option<Arc<AtomicU64>>,
) -> anyhow::Result<()> {
    let main = process::id();
    let (accepted, quiet) = (AtomicU64::new(u64::MAX), AtomicU32::new(0));
    let check = move || {
        if process::id() != main || server.is_stopping() {
            return;
        }
        let now = server.totals().accepted;
        let is_new = accepted.swap(now, Relaxed) != now;
        let has_sessions = sessions
            .as_ref()
            .is_some_and(|count| count.load(Relaxed) > 0);
        if is_new || has_sessions || server.live() > 0 {
            quiet.store(0, Relaxed);
        } else if quiet.fetch_add(1, Relaxed) + 1 >= CHECKS {
            server.shutdown();
        }
    };
    // SAFETY: the handler uses atomics, getpid(2), and methods that are documented as async-signal-safe.
    let handler = unsafe { register(SIGALRM, check) };
    handler.context("handle SIGALRM")?;
    signals::unblock(SIGALRM);
    let step = (time / CHECKS).max(Duration::from_millis(1));
    let step = libc::timeval {
        tv_sec: step.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(step.subsec_micros()),
    };
    let timer = libc::itimerval {
        it_interval: step,
        it_value: step,
    };
    // SAFETY: the pointer is valid within the call.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    if set == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context("set a timer for --exit-when-idle")
    }
}
