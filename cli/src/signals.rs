//! SIGTERM and SIGINT: the first one drains, the second one cuts.
#![expect(unsafe_code, reason = "a signal handler")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::register;
use socketserver::ServerHandle;

/// Makes the signals stop the server.
pub(crate) fn install(handle: &ServerHandle) -> anyhow::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let (handle, asked) = (handle.clone(), Arc::clone(&asked));
        let stop = move || {
            if asked.swap(true, Ordering::SeqCst) {
                handle.shutdown_within(Duration::ZERO);
            } else {
                handle.shutdown();
            }
        };
        // SAFETY: the action swaps an atomic and calls methods that are documented as
        // async-signal-safe.
        unsafe { register(signal, stop) }.with_context(|| format!("handle signal {signal}"))?;
    }
    Ok(())
}
