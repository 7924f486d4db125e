//! The table of exhaustion: every model, with every policy at its limit on connections, whenever a
//! resource that it needs while it serves is exhausted.
//!
//! In each cell, in this order: clients are served; the resource is exhausted and clients come; while
//! nothing can be done, the server keeps quiet: hardly any processor time, at most a line a second;
//! there is room again, and everyone who came is served or sent away, as the policy says; nothing is
//! left of it all, and a stop ends the server. In the cells named `stop`, it is asked to stop while the
//! resource is exhausted.
//!
//! A part of the cells runs by default, all of them with `EXHAUSTION=all`.

#![expect(clippy::print_stdout, reason = "what was left out is said")]

mod cell;
mod clients;
mod scarcity;
mod start;
#[allow(dead_code, reason = "what only other tests need is not used here")]
#[path = "../support/mod.rs"]
mod support;
mod table;
mod tree;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use socketserver::model::Driver;

use scarcity::{Means, cannot_trace, has_users};
use table::{Cell, Row};

/// Cells mostly wait.
const AT_ONCE: usize = 20;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(AT_ONCE);
    // Many of them have hundreds of clients.
    tree::limit(
        std::process::id(),
        rustix::process::Resource::Nofile,
        None,
        None,
    );
    let (all, left_out) = table::cells();
    let starts = start::starts();
    let every = std::env::var("EXHAUSTION").is_ok_and(|what| what == "all");
    let part = table::pairwise(&all);
    assert_eq!(
        (all.len(), part.len(), starts.len()),
        (1085, 245, 58),
        "cells"
    );
    let count = all.len();
    let cells = if every { all } else { part };
    if !args.list {
        for (resource, why, rows) in left_out {
            println!("left out of {resource}: {rows} models; {why}");
        }
        println!(
            "{} of {count} cells, and {} starts; EXHAUSTION=all runs all",
            cells.len(),
            starts.len()
        );
        if !has_users() {
            println!(
                "EAGAIN of fork(2) is injected: servers cannot run as users of their own here"
            );
        }
    }
    let cells = cells.into_iter().map(|cell| {
        Trial::ignorable_test(cell.to_string(), move || match why_not(&cell) {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => cell::check(&cell).map(|()| Completion::Completed),
        })
    });
    let starts = starts.into_iter().map(|start| {
        let why_not =
            move |start: &start::Start| forbidden(start.row()).or_else(|| start.why_not());
        Trial::ignorable_test(start.to_string(), move || match why_not(&start) {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => start.check().map(|()| Completion::Completed),
        })
    });
    let conclusion = libtest_mimic::run(&args, cells.chain(starts).collect());
    cell::print_waits();
    conclusion.exit_code()
}

/// Why a cell cannot be tried here.
fn why_not(cell: &Cell) -> Option<String> {
    let traced = matches!(Means::of(cell.resource), Means::Inject(..));
    forbidden(&cell.row).or_else(|| traced.then(cannot_trace).flatten())
}

/// Why a model cannot be tried here.
fn forbidden(row: &Row) -> Option<String> {
    let uring = row.driver == Some("uring");
    let why = || Driver::Auto.pick().1.map(|why| why.to_string());
    uring.then(why).flatten()
}
