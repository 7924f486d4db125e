//! A deadline for everything that some code waits for.

use std::time::{Duration, Instant};

use crate::task::wait::Task;

/// Runs `work` with a deadline: whatever it waits for with this crate fails with
/// [`TimedOut`](std::io::ErrorKind::TimedOut) once `duration` has passed.
///
/// That is each read and write of a connection, accepted or [dialed](crate::net::Dialed),
/// [`connect`](crate::net::TcpConnection::connect), and [`block_on`](super::block_on()); a
/// [`sleep`](super::sleep) ends early. What is there already is not waited for, so it succeeds after the
/// deadline too. What `work` computes, what it waits for by other means, and [`offload`](super::offload)
/// go on. Data that a wait has received before is `work`'s: nothing is lost but the wait.
///
/// Timeouts nest, and the earlier deadline counts: an inner one cannot extend an outer one. They come
/// beside the timeouts of a connection. The deadline belongs to the coroutine or the thread that calls,
/// and to what it spawns in a [`scope`](super::scope()) meanwhile. It ends with `work`, also by a panic.
/// A duration beyond the clock's reach is no deadline.
///
/// A read that has failed so can be tried again, as after a
/// [read timeout](crate::Connection::set_read_timeout); a `write_all` that has failed may have sent a part.
///
/// # Examples
///
/// A line that has to come within ten seconds, however the client drips it.
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

/// Puts back the deadline of the code around a timeout.
struct Restored<'a> {
    task: &'a Task,
    before: Option<Instant>,
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.task.local().set_deadline(self.before);
    }
}
