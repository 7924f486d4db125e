//! Slow clients: each has its turn after some time, and never many at the same time.

use std::iter::StepBy;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;

use crate::hold::Until;

/// The time from a turn to the next one.
const TURN: Duration = Duration::from_millis(2);

/// Until the end comes: calls `turn` in each turn, with the numbers of those of `count` clients that have it. A client has one
/// every `period` at most.
pub(crate) fn take_turns(
    end: &Until,
    count: usize,
    period: Duration,
    mut turn: impl FnMut(StepBy<Range<usize>>) -> Result<()>,
) -> Result<()> {
    let pause = (count > 0).then_some(TURN);
    let step = (period.as_millis() / TURN.as_millis()) as usize;
    let mut turns = (0..step).cycle();
    while !end.wait(pause)? {
        let first = turns.next().unwrap_or_default();
        turn((first..count).step_by(step))?;
    }
    Ok(())
}
