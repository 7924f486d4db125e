//! `timeout`: a deadline for all waits of a closure.

use std::time::{Duration, Instant};

use crate::task::wait::Task;

/// Runs `work` with a deadline for all of its waits, `duration` from now.
///
/// After the deadline these waits fail with [`TimedOut`](std::io::ErrorKind::TimedOut): reads and writes of
/// connections, accepted or [dialed](crate::net::Dialed),
/// [`connect`](crate::net::TcpConnection::connect), and [`block_on`](super::block_on()). A
/// [`sleep`](super::sleep) ends early. An operation that need not wait succeeds after the deadline too: a read
/// of input that has arrived, a future that is ready. The deadline does not end computations, waits by other
/// means, or [`offload`](super::offload). No received data is lost.
///
/// Timeouts nest, and the earliest deadline counts: an inner timeout cannot extend an outer one. The timeouts
/// of a connection apply as well. The deadline applies to the coroutine or the thread that calls, and to the
/// closures that it spawns in a [`scope`](super::scope()) within `work`. It ends when `work` returns or
/// unwinds. A duration that overflows the clock sets no deadline.
///
/// A read that has timed out can be tried again, as after a
/// [read timeout](crate::Connection::set_read_timeout); a `write_all` that has timed out may have sent a part of
/// its data.
///
/// # Examples
///
/// Reads one line within ten seconds, however slowly the client sends it.
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use socketserver::{Connection, task};
///
/// fn name(conn: &mut impl Connection) -> io::Result<String> {
///     conn.write_all(b"who are you?\n")?;
///     let mut name = String::new();
///     task::timeout(Duration::from_secs(10), || conn.read_line_max(&mut name, 64))?;
///     Ok(name)
/// }
/// ```
pub fn timeout<R>(duration: Duration, work: impl FnOnce() -> R) -> R {
    let task = Task::here();
    let before = task.local().deadline();
    let end = Instant::now().checked_add(duration);
    task.local()
        .set_deadline(end.into_iter().chain(before).min());
    let _restored = Restored {
        task: &task,
        before,
    };
    work()
}

/// Restores the outer deadline when it is dropped.
struct Restored<'a> {
    task: &'a Task,
    before: Option<Instant>,
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.task.local().set_deadline(self.before);
    }
}
