//! What a load reports, for the load itself and for the runner that reads it, and what they share with the servers.

use std::env;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the certificate of the servers over TLS and its key are: beside the programs, where the runner puts them.
pub fn certificate_files() -> io::Result<(PathBuf, PathBuf)> {
    let program = env::current_exe()?;
    let file = |name| program.with_file_name(name);
    Ok((file("bench-certificate.pem"), file("bench-key.pem")))
}

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
    /// Nothing where the load does not tell, or where it says more of the load than of the server.
    pub p999_us: Option<f64>,
    /// The share of one processor that the load has used.
    pub cpu_share: f64,
    /// The part of it that was not spent in the kernel.
    pub user_share: f64,
    /// The share of the time that the load wanted to run and could not, because something else ran on its processor.
    pub delay_share: f64,
    /// What a load says that has a timetable.
    pub offered: Option<Offered>,
}

/// How well a load has kept to its timetable. Its latencies count from when an operation was due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offered {
    /// Operations a second.
    pub rate: f64,
    /// How late operations were sent because of the load itself.
    pub late_p50_us: f64,
    pub late_p99_us: f64,
    pub late_p999_us: f64,
    /// Operations that had to wait for answers because no more may be in flight.
    pub held: u64,
    /// What has become of the heavy ones.
    pub heavy: Option<Heavy>,
}

/// Heavy requests beside the light ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heavy {
    pub measured: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}
