//! The mode of the accept loop: how many connections or datagrams it still accepts.

use crate::accept::report::Handled;

/// The mode of the accept loop. An accept loop begins as `Serving` or `One`; a stop changes
/// `Serving` to `Backlog`, then to `Draining`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The loop accepts without an end.
    #[default]
    Serving,
    /// The loop accepts one connection or datagram, and keeps the result.
    One(Option<Handled>),
    /// The loop accepts the backlog of a stop: `left` more connections; or without a bound, if
    /// every listener is sealed. It has accepted `accepted` of them.
    Backlog {
        left: Option<usize>,
        accepted: usize,
    },
    /// The loop accepts nothing, and waits for live connections.
    Draining,
}

impl Mode {
    /// How many connections or datagrams the loop may still accept.
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

    /// Whether the loop still accepts.
    pub(super) fn accepts(self) -> bool {
        self.room() > 0
    }

    /// How many parked connections the loop may dispatch.
    pub(super) fn room_for_parked(self) -> usize {
        match self {
            Self::One(None) => 1,
            Self::One(Some(_)) => 0,
            Self::Serving | Self::Backlog { .. } | Self::Draining => usize::MAX,
        }
    }

    /// Whether a new connection may be parked until its first byte.
    pub(super) const fn parks_new(self) -> bool {
        matches!(self, Self::Serving | Self::Backlog { .. })
    }

    /// How many connections of the backlog the stop has accepted.
    pub(super) const fn accepted(self) -> usize {
        match self {
            Self::Backlog { accepted, .. } => accepted,
            Self::Serving | Self::One(_) | Self::Draining => 0,
        }
    }

    /// Notes that a connection which was parked is served.
    pub(super) const fn note_parked(&mut self) {
        if let Self::One(handled) = self {
            *handled = Some(Handled::Served);
        }
    }

    /// Notes that the connection which was dispatched is parked: another one may be served.
    pub(super) const fn note_unserved(&mut self) {
        if let Self::One(handled) = self {
            *handled = None;
        }
    }

    /// Notes how many connections or datagrams were accepted, and how many of them are served.
    pub(super) fn note(&mut self, count: usize, served: usize) {
        match self {
            Self::One(handled) if count > 0 => {
                *handled = Some(if served < count {
                    Handled::Refused
                } else {
                    Handled::Served
                });
            }
            Self::Backlog { left, accepted } => {
                *accepted += count;
                if let Some(left) = left {
                    *left = left.saturating_sub(count);
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
    fn one_mode_accepts_a_single_connection() {
        for (served, handled) in [(1, Handled::Served), (0, Handled::Refused)] {
            let mut mode = Mode::One(None);
            mode.note(0, 0);
            assert_eq!((mode, mode.room()), (Mode::One(None), 1));
            mode.note(1, served);
            assert_eq!((mode, mode.accepts()), (Mode::One(Some(handled)), false));
        }
    }

    #[test]
    fn one_mode_goes_on_after_a_connection_that_is_parked() {
        let mut mode = Mode::One(None);
        mode.note(1, 1);
        assert_eq!(mode.room_for_parked(), 0);
        mode.note_unserved();
        assert_eq!((mode.room(), mode.room_for_parked()), (1, 1));
        mode.note_parked();
        assert_eq!((mode, mode.room()), (Mode::One(Some(Handled::Served)), 0));
        let mut serving = Mode::Serving;
        serving.note_parked();
        serving.note_unserved();
        assert_eq!(
            (serving, serving.room_for_parked()),
            (Mode::Serving, usize::MAX)
        );
    }

    #[test]
    fn a_backlog_is_bounded_unless_it_is_sealed() {
        for (left, goes_on) in [(Some(3), false), (None, true)] {
            let mut mode = Mode::Backlog { left, accepted: 0 };
            mode.note(2, 0);
            assert_eq!((mode.accepts(), mode.accepted()), (true, 2));
            mode.note(1, 1);
            assert_eq!((mode.accepts(), mode.accepted()), (goes_on, 3));
        }
    }

    #[test]
    fn a_drain_accepts_nothing() {
        assert!(Mode::Serving.accepts() && Mode::Serving.parks_new());
        assert!(!Mode::Draining.accepts() && !Mode::Draining.parks_new());
    }
}
