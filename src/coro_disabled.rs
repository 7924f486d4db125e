//! Stands in for the runtime where the feature `coroutines` is off: no thread ever runs a
//! coroutine.

/// Runs `work` right here.
pub(crate) fn offload<R>(work: impl FnOnce() -> R) -> R {
    work()
}

pub(crate) mod worker {
    /// Nothing.
    pub(crate) enum Current {}

    pub(crate) const fn current() -> Option<Current> {
        None
    }

    impl Current {
        pub(crate) const fn may_park(&self) -> bool {
            match *self {}
        }

        pub(crate) fn sleep_until(&self, _: std::time::Instant) {
            match *self {}
        }
    }
}

pub(crate) mod net {
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::time::Instant;

    use crate::coro::worker::Current;

    #[derive(Debug, Default)]
    pub(crate) struct Source {}

    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Interest {
        Read,
        Write,
    }

    impl Source {
        pub(crate) const fn release(&self, _: BorrowedFd<'_>) {}

        pub(crate) fn receive(
            &self,
            current: &Current,
            _: BorrowedFd<'_>,
            _: &mut [u8],
            _: impl Fn() -> Option<Instant>,
        ) -> io::Result<usize> {
            match *current {}
        }

        pub(crate) fn receive_late(
            &self,
            current: &Current,
            _: BorrowedFd<'_>,
            _: impl Fn() -> Option<Instant>,
        ) -> io::Result<(Box<[u8]>, usize)> {
            match *current {}
        }

        pub(crate) fn complete<R>(
            &self,
            current: &Current,
            _: BorrowedFd<'_>,
            _: Interest,
            _: impl Fn() -> Option<Instant>,
            _: impl FnMut() -> rustix::io::Result<(R, bool)>,
        ) -> io::Result<R> {
            match *current {}
        }
    }

    pub(crate) fn wait_any(
        current: &Current,
        _: &[(&Source, BorrowedFd<'_>)],
        _: Interest,
        _: Option<Instant>,
    ) -> io::Result<usize> {
        match *current {}
    }
}
