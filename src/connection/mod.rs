//! The connections of a server, from their acceptance to their end.

pub(crate) mod context;
pub(crate) mod deadlines;
pub(crate) mod info;
pub(crate) mod registry;
pub(crate) mod table;
