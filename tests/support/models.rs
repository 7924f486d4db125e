//! Every model that a test can ask for, by name.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::process::ExitCode;

use socketserver::model::Model;
use socketserver::{Forking, Prefork, Sequential, ThreadPool, Threading};

/// The names of all models.
pub(crate) const NAMES: [&str; 12] = [
    "sequential",
    "threading",
    "pool",
    "forking",
    "prefork_sequential",
    "prefork_threading",
    "prefork_pool",
    "prefork_forking",
    "coroutines_epoll",
    "coroutines_uring",
    "prefork_coroutines_epoll",
    "prefork_coroutines_uring",
];

/// Code that runs under a model, whatever its type.
pub(crate) trait UnderModel {
    fn run<M: Model + Clone>(self, model: M) -> ExitCode;
}

/// The models, in the sizes that a test wants.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) threading: Threading,
    pub(crate) pool: ThreadPool,
    pub(crate) forking: Forking,
    /// Worker processes, and worker threads of coroutines.
    pub(crate) workers: usize,
    /// How often a worker process may die.
    pub(crate) breaker: u32,
}

impl Models {
    /// Runs something under the model of this name.
    pub(crate) fn run(self, name: &str, work: impl UnderModel) -> ExitCode {
        let sequential = Sequential::default();
        match name {
            "sequential" => work.run(sequential),
            "threading" => work.run(self.threading),
            "pool" => work.run(self.pool),
            "forking" => work.run(self.forking),
            "prefork_sequential" => work.run(self.prefork(sequential)),
            "prefork_threading" => work.run(self.prefork(self.threading.clone())),
            "prefork_pool" => work.run(self.prefork(self.pool.clone())),
            "prefork_forking" => work.run(self.prefork(self.forking.clone())),
            #[cfg(feature = "coroutines")]
            "coroutines_epoll" | "coroutines_uring" => work.run(self.coroutines(name)),
            #[cfg(feature = "coroutines")]
            "prefork_coroutines_epoll" | "prefork_coroutines_uring" => {
                work.run(self.prefork(self.coroutines(name)))
            }
            _ => panic!("unknown model {name}"),
        }
    }

    fn prefork<M: Model>(&self, model: M) -> Prefork<M> {
        Prefork::new(self.workers, model).breaker(self.breaker)
    }

    /// The handlers of these tests restore no thread-locals after they have blocked.
    #[cfg(feature = "coroutines")]
    #[expect(unsafe_code, reason = "the contract of coroutines")]
    fn coroutines(&self, name: &str) -> socketserver::Coroutines {
        let driver = if name.ends_with("uring") {
            socketserver::model::Driver::Uring
        } else {
            socketserver::model::Driver::Epoll
        };
        // SAFETY: as said above.
        unsafe { socketserver::Coroutines::new() }
            .workers(self.workers)
            .driver(driver)
    }
}

/// Whether this build and kernel have a model: its feature is on, and the kernel allows io_uring.
/// Otherwise prints why not.
#[expect(clippy::print_stderr, reason = "a skipped test prints why")]
pub(crate) fn is_available(model: &str) -> bool {
    if !model.contains("coroutines") {
        return true;
    }
    #[cfg(feature = "coroutines")]
    match socketserver::model::Driver::Auto.pick() {
        (_, Some(why)) if model.ends_with("uring") => {
            eprintln!("{model} is ignored: {why}");
            false
        }
        _ => true,
    }
    #[cfg(not(feature = "coroutines"))]
    {
        eprintln!("{model} is ignored: without the feature coroutines");
        false
    }
}
