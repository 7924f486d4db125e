//! What the accept loop is at: how many connections it still accepts, and what becomes of them.

use crate::accept::report::Handled;

/// What the accept loop is at. It goes from the first to one of the others, and from the backlog on to
/// the drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// It accepts whatever comes.
    #[default]
    Serving,
    /// It accepts one request, and says what has become of it.
    One(Option<Handled>),
    /// It accepts what the kernel has taken in before a stop: `left` more, or whatever is there where
    /// nothing more is taken in. It has accepted `accepted` of it.
    Backlog {
        left: Option<usize>,
        accepted: usize,
    },
    /// It accepts nothing, and waits for what is live.
    Draining,
}

impl Mode {
    /// How many requests may still be accepted.
    pub(super) fn room(self) -> usize {
        match self {
            Self::Serving | Self::Backlog { left: None, .. } => usize::MAX,
            Self::Backlog {
                left: Some(left), ..
            } => left,
            Self::One(None) => 1,
            Self::One(Some(_)) | Self::Draining => 0,
        }
    }

    /// Whether anything is still accepted.
    pub(super) fn accepts(self) -> bool {
        self.room() > 0
    }

    /// Whether a new connection may wait for its client's first byte without a handler.
    pub(super) const fn parks_new(self) -> bool {
        matches!(self, Self::Serving | Self::Backlog { .. })
    }

    /// How many requests a stop has accepted.
    pub(super) const fn taken(self) -> usize {
        match self {
            Self::Backlog { accepted, .. } => accepted,
            Self::Serving | Self::One(_) | Self::Draining => 0,
        }
    }

    /// Notes that as many were accepted, and how many of them are served.
    pub(super) fn note(&mut self, taken: usize, served: usize) {
        match self {
            Self::One(handled) if taken > 0 => {
                *handled = Some(if served < taken {
                    Handled::Refused
                } else {
                    Handled::Served
                });
            }
            Self::Backlog { left, accepted } => {
                *accepted += taken;
                if let Some(left) = left {
                    *left = left.saturating_sub(taken);
                }
            }
            Self::Serving | Self::One(_) | Self::Draining => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_is_accepted_and_no_more() {
        for (served, handled) in [(1, Handled::Served), (0, Handled::Refused)] {
            let mut mode = Mode::One(None);
            mode.note(0, 0);
            assert_eq!((mode, mode.room()), (Mode::One(None), 1));
            mode.note(1, served);
            assert_eq!((mode, mode.accepts()), (Mode::One(Some(handled)), false));
        }
    }

    #[test]
    fn a_backlog_ends_where_more_may_come_in() {
        for (left, goes_on) in [(Some(3), false), (None, true)] {
            let mut mode = Mode::Backlog { left, accepted: 0 };
            mode.note(2, 0);
            assert_eq!((mode.accepts(), mode.taken()), (true, 2));
            mode.note(1, 1);
            assert_eq!((mode.accepts(), mode.taken()), (goes_on, 3));
        }
    }

    #[test]
    fn a_drain_accepts_nothing() {
        assert!(Mode::Serving.accepts() && Mode::Serving.parks_new());
        assert!(!Mode::Draining.accepts() && !Mode::Draining.parks_new());
    }
}
