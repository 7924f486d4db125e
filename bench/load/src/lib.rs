//! What a load reports, for the load itself and for the runner that reads it.

use serde::{Deserialize, Serialize};

/// How a load ended. A line of JSON on its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Operations that ended within the measured time.
    pub measured: u64,
    /// The measured time.
    pub seconds: f64,
    /// All operations, those of the warm-up included.
    pub total: u64,
    /// All the time, the warm-up included.
    pub total_seconds: f64,
    /// Packets that were not answered in time and were sent again.
    pub lost: u64,
    /// Percentiles of the measured operations.
    pub p50_us: f64,
    pub p99_us: f64,
    /// The share of one processor that the load has used.
    pub cpu_share: f64,
    /// The part of it that was not spent in the kernel.
    pub user_share: f64,
    /// The share of the time that the load wanted to run and could not, because something else ran on its processor.
    pub delay_share: f64,
}
