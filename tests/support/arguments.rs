//! The arguments of a table of tests.

use libtest_mimic::Arguments;

/// Reads the command line. Without `--test-threads`, `RUST_TEST_THREADS` says how many tests run at once, as it does for
/// other tests.
pub(crate) fn arguments() -> Arguments {
    let mut arguments = Arguments::from_args();
    let threads = std::env::var("RUST_TEST_THREADS").ok();
    let threads = threads.map(|count| count.parse().expect("RUST_TEST_THREADS is a count"));
    arguments.test_threads = arguments.test_threads.or(threads);
    arguments
}
