//! How far a run is: a bar on a terminal, lines of text elsewhere.

use std::fmt::Display;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Clones are the same bar.
#[derive(Clone)]
pub(crate) struct Progress {
    /// Hidden where standard error is no terminal.
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(steps: u64) -> Result<Self> {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style = "{bar:30} {pos}/{len} {elapsed}, {eta} left: {msg}";
        bar.set_style(ProgressStyle::with_template(style)?);
        Ok(Self { bar })
    }

    /// Begins a step.
    pub(crate) fn step(&self, what: impl Display) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        }
        self.bar.set_message(what.to_string());
    }

    pub(crate) fn done(&self) {
        self.bar.inc(1);
    }

    /// Says something that stays to be read.
    pub(crate) fn say(&self, what: impl Display) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        } else {
            self.bar.println(what.to_string());
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
