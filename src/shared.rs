//! The state that the parts of one server share: one owner for each concern.

use std::io;
use std::sync::Arc;

use crate::admission::Admission;
use crate::admission::access::Access;
use crate::admission::policy::Limits;
use crate::counters::Counters;
use crate::lifecycle::{Lifecycle, Times};
use crate::registry::Registry;
use crate::registry::deadlines::Deadlines;

/// The options that a builder sets and the parts of a server read.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    /// Whether building the server raises the process's soft limit on descriptors.
    pub(crate) raise_descriptors: bool,
    pub(crate) times: Times,
    pub(crate) deadlines: Deadlines,
}

/// The owners of a server's state. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Shared {
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
}

/// How many slots the registry has: one for each connection under the limit, and more in case the
/// limit is raised later. Slots that were never used take no memory.
fn table_size(max_connections: u64) -> usize {
    max_connections.clamp(TABLE_MIN, TABLE_MAX) as usize
}

const TABLE_MIN: u64 = 16 * 1024;
const TABLE_MAX: u64 = 1024 * 1024;

/// Creates the owners of a new server's state.
pub(crate) fn share(options: &Options) -> io::Result<Shared> {
    let capacity = table_size(options.limits.max_connections);
    let lifecycle = Arc::new(Lifecycle::new(options.times)?);
    let admission = Admission::new(Arc::clone(&lifecycle), &options.limits, capacity)?;
    // Rules that were never set cost the accept loop one load.
    if options.access != Access::new() {
        admission.set_access(&options.access)?;
    }
    let admission = Arc::new(admission);
    let counters = Arc::new(Counters::new(Arc::clone(&lifecycle))?);
    let registry = Registry::new(
        Arc::clone(&lifecycle),
        Arc::clone(&admission),
        Arc::clone(&counters),
        options.deadlines,
        capacity,
    )?;
    Ok(Shared {
        lifecycle,
        admission,
        registry: Arc::new(registry),
        counters,
    })
}
