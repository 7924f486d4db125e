//! The value of the `Date` field, formatted once a second on each thread.

use std::cell::Cell;
use std::time::SystemTime;

/// `Sat, 28 Nov 2026 18:53:32 GMT`
pub(crate) type Date = [u8; 29];

thread_local! {
    /// The current date, and the second for which it holds.
    static NOW: Cell<(u64, Date)> = const { Cell::new((u64::MAX, [0; 29])) };
}

/// Returns the current date.
pub(crate) fn now() -> Date {
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (cached, mut date) = NOW.get();
    if cached != second {
        let text = httpdate::fmt_http_date(now);
        if text.len() == date.len() {
            date.copy_from_slice(text.as_bytes());
            NOW.set((second, date));
        }
    }
    date
}
