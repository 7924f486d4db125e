//! The value of the `Date` field, formatted once a second on each thread.

use std::cell::RefCell;
use std::time::SystemTime;

use http::HeaderValue;

thread_local! {
    /// The current date, and the second for which it holds.
    static NOW: RefCell<(u64, HeaderValue)> =
        const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

/// Calls `with` with the current date, such as `Sat, 28 Nov 2026 18:53:32 GMT`.
pub(crate) fn now<R>(with: impl FnOnce(&HeaderValue) -> R) -> R {
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|(cached, date)| {
        if *cached != second
            && let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(now))
        {
            (*cached, *date) = (second, text);
        }
    });
    NOW.with_borrow(|(_, date)| with(date))
}
