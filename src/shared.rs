//! What the parts of one server share: an owner for each concern.

use std::io;
use std::sync::Arc;

use crate::admission::Admission;
use crate::admission::policy::Limits;
use crate::counters::Counters;
use crate::lifecycle::{Lifecycle, Times};
use crate::registry::Registry;
use crate::registry::deadlines::Deadlines;

/// What a builder sets and all parts of a server read.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) limits: Limits,
    /// Whether the process's limit on descriptors was to be raised.
    pub(crate) raise_descriptors: bool,
    pub(crate) times: Times,
    pub(crate) deadlines: Deadlines,
}

/// The owners. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Shared {
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
}

/// How many connections can be listed at once: those that are allowed, and more, should the limit be
/// raised. Memory that is not used costs nothing.
fn table_size(max_connections: u64) -> usize {
    max_connections.clamp(TABLE_MIN, TABLE_MAX) as usize
}

const TABLE_MIN: u64 = 16 * 1024;
const TABLE_MAX: u64 = 1024 * 1024;

/// Makes the owners of a new server.
pub(crate) fn share(options: &Options) -> io::Result<Shared> {
    let capacity = table_size(options.limits.max_connections);
    let lifecycle = Arc::new(Lifecycle::new(options.times)?);
    let admission = Admission::new(Arc::clone(&lifecycle), &options.limits, capacity)?;
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
