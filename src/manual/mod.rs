//! The manual: pages to read in order. The modules hold documentation and nothing else.
//!
//! [The crate's first page](crate#the-manual) lists the pages in reading order; each page ends with a
//! link to the next one.

pub mod choosing_a_model;
pub mod coming_from_python;
#[cfg(feature = "coroutines")]
pub mod coroutines;
#[cfg(not(feature = "coroutines"))]
pub mod coroutines {
    //! Coroutines: blocking handlers that hold no thread while they wait.
    //!
    //! The model and this page need the feature `coroutines`, which is off in this build.
}
pub mod doing_two_things;
pub mod errors;
pub mod first_server;
pub mod handlers_and_sessions;
pub mod limits_and_deadlines;
pub mod proxies;
pub mod several_processes;
pub mod sharing_state;
pub mod stopping;
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
pub mod tls {
    //! TLS: certificates, clients, reloads, and connections to other servers.
    //!
    //! The module `socketserver::tls` and this page need the feature `tls`, which is off in this build.
}
pub mod who_may_connect;
