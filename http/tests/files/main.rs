//! Files below a directory, over real sockets: what is sent, and what never is. `RACE_SECONDS=30` swaps directories for
//! links for so long.

#[path = "../client/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod client;
#[path = "../../../tests/examples/program.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod program;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tree.rs"]
mod tree;

mod codings;
mod conditions;
mod escapes;
mod fields;
mod listing;
mod site;
mod special;

/// Says that a check did not run. With `CI_STRICT=1` that is a failure.
#[expect(clippy::print_stderr, reason = "a skipped test prints why")]
fn skip(why: &str) {
    let is_strict = std::env::var_os("CI_STRICT").is_some_and(|value| value == "1");
    assert!(!is_strict, "{why}");
    eprintln!("SKIPPED: {why}");
}
