//! Descriptors of futures that a thread waits for: the thread watches them while it waits for its signal.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Poll, Waker};
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use crate::sys::poll::Interest;
use crate::sys::timespec;
use crate::task::signal::Signal;
use crate::task::thread::Blocked;

/// The most events that one wait returns.
const EVENTS: usize = 16;

/// The epoll data of the thread's eventfd; that of a descriptor is its number.
const EVENT: u64 = u64::MAX;

/// The watched descriptors of one thread. A watch is one-shot: it ends when the descriptor becomes ready in
/// either direction.
#[derive(Default)]
struct Watched {
    /// The number of nested waits. Outside of a wait the thread does not poll, so nothing can be watched.
    depth: Cell<usize>,
    epoll: OnceCell<OwnedFd>,
    /// By the number of the descriptor. An entry of a closed descriptor may cause a spurious wake-up.
    waiting: RefCell<HashMap<u64, Waiting>>,
}

struct Waiting {
    flags: epoll::EventFlags,
    wakers: Vec<Waker>,
}

thread_local! {
    static WATCHED: Watched = Watched::default();
}

/// Marks the thread as in a wait, in which futures can watch descriptors, until this guard is dropped.
pub(super) struct Entered(());

impl Entered {
    pub(super) fn new() -> Self {
        // The destructor of another thread-local may wait after `WATCHED` is dropped.
        let _ = WATCHED.try_with(|watched| watched.depth.set(watched.depth.get() + 1));
        Self(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = WATCHED.try_with(|watched| {
            watched.depth.set(watched.depth.get() - 1);
            // At the end of the outermost wait, all futures are gone.
            let is_outermost = watched.depth.get() == 0 && !watched.waiting.borrow().is_empty();
            is_outermost.then(|| watched.waiting.take())
        });
        // Dropping a waker runs foreign code, so nothing may be borrowed.
        drop(left);
    }
}

/// Wakes `waker` once the descriptor is ready, or has failed; without an interest only once it has failed.
///
/// # Errors
///
/// `Unsupported`: the thread is not in a wait of this crate.
pub(super) fn poll(
    waker: &Waker,
    fd: BorrowedFd<'_>,
    interest: Option<Interest>,
    blocked: &Blocked,
) -> Poll<io::Result<()>> {
    let watching = WATCHED.try_with(|watched| match watched.depth.get() {
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => watched.watch(waker, fd, interest, blocked),
    });
    match watching {
        Ok(Ok(())) => Poll::Pending,
        Ok(Err(err)) => Poll::Ready(Err(err)),
        Err(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
    }
}

/// Returns whether the thread watches a descriptor.
pub(super) fn is_watching() -> bool {
    let any = WATCHED.try_with(|watched| !watched.waiting.borrow().is_empty());
    any.unwrap_or(false)
}

/// Blocks the thread until a watched descriptor is ready, its signal comes, or `deadline` has passed. Wakes the
/// futures of the ready descriptors.
pub(super) fn block(signal: &Signal, blocked: &Blocked, deadline: Option<Instant>) {
    let waited = blocked.wait_with(signal, || WATCHED.with(|watched| watched.wait(deadline)));
    for waker in waited.into_iter().flatten() {
        // The panic hook has reported the panic.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

impl Watched {
    fn watch(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Option<Interest>,
        blocked: &Blocked,
    ) -> io::Result<()> {
        let epoll = self.epoll(blocked)?;
        let name = fd.as_raw_fd() as u64;
        // Cloning and dropping a waker run foreign code, so both happen while nothing is borrowed.
        let waker = waker.clone();
        let (flags, again) = {
            let mut waiting = self.waiting.borrow_mut();
            let waiting = waiting.entry(name).or_insert_with(|| Waiting {
                // Without RDHUP: the end of the input is reported as input, and must not end a wait for room.
                flags: epoll::EventFlags::ONESHOT,
                wakers: Vec::new(),
            });
            waiting.flags |= match interest {
                Some(Interest::Read) => epoll::EventFlags::IN,
                Some(Interest::Write) => epoll::EventFlags::OUT,
                None => epoll::EventFlags::empty(),
            };
            let is_known = waiting.wakers.iter().any(|other| other.will_wake(&waker));
            let again = if is_known {
                Some(waker)
            } else {
                waiting.wakers.push(waker);
                None
            };
            (waiting.flags, again)
        };
        drop(again);
        let data = epoll::EventData::new_u64(name);
        let watched = match epoll::modify(epoll, fd, data, flags) {
            // The descriptor is new to this epoll instance.
            Err(Errno::NOENT) => epoll::add(epoll, fd, data, flags),
            watched => watched,
        };
        Ok(watched?)
    }

    fn epoll(&self, blocked: &Blocked) -> io::Result<&OwnedFd> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(EVENT);
        epoll::add(&epoll, blocked.event()?, data, epoll::EventFlags::IN)?;
        Ok(self.epoll.get_or_init(|| epoll))
    }

    /// Waits, and returns the wakers of the ready descriptors.
    fn wait(&self, deadline: Option<Instant>) -> Vec<Waker> {
        let Some(epoll) = self.epoll.get() else {
            return Vec::new();
        };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = match epoll::wait(epoll, &mut events, left.map(timespec).as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Vec::new(),
            // Each future tries again, and sees the error itself.
            Err(_) => {
                let all = self.waiting.take().into_values();
                return all.flat_map(|waiting| waiting.wakers).collect();
            }
        };
        let mut waiting = self.waiting.borrow_mut();
        let names = events.iter().map(|event| event.data.u64());
        let ready = names.filter_map(|name| waiting.remove(&name));
        ready.flat_map(|ready| ready.wakers).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use rustix::net::{RecvFlags, SendFlags, recv, send};

    use super::*;
    use crate::task::wait::Source;
    use crate::task::{block_on, timeout};

    fn pair() -> (UnixStream, UnixStream) {
        let pair = UnixStream::pair().unwrap();
        pair.1
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        pair
    }

    /// Receives a byte.
    async fn receive(socket: &UnixStream, source: &Source) -> io::Result<u8> {
        poll_fn(|context| {
            let mut byte = [0];
            match recv(socket, &mut byte, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => {
                    source.exhaust(Interest::Read);
                    let ready = source.poll(context.waker(), socket.as_fd(), Interest::Read);
                    ready.map(|ready| ready.map(|()| 0))
                }
                received => Poll::Ready(received.map(|_| byte[0]).map_err(io::Error::from)),
            }
        })
        .await
    }

    /// Sends until the socket is full, and once more after it has become writable.
    async fn fill(socket: &UnixStream, source: &Source) -> io::Result<()> {
        let mut was_full = false;
        poll_fn(|context| {
            loop {
                match send(socket, &[0; 4096], SendFlags::DONTWAIT) {
                    Ok(_) if was_full => return Poll::Ready(Ok(())),
                    Ok(_) => {}
                    Err(Errno::AGAIN) => {
                        was_full = true;
                        source.exhaust(Interest::Write);
                        return source.poll(context.waker(), socket.as_fd(), Interest::Write);
                    }
                    Err(err) => return Poll::Ready(Err(err.into())),
                }
            }
        })
        .await
    }

    /// Waits for both futures.
    async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
        let (mut one, mut other) = (pin!(one), pin!(other));
        let (mut first, mut second) = (None, None);
        poll_fn(|context| {
            if first.is_none() {
                first = ready(one.as_mut().poll(context));
            }
            if second.is_none() {
                second = ready(other.as_mut().poll(context));
            }
            match (first.take(), second.take()) {
                (Some(first), Some(second)) => Poll::Ready((first, second)),
                others => {
                    (first, second) = others;
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn ready<T>(polled: Poll<T>) -> Option<T> {
        match polled {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_thread_waits_for_descriptors_and_wakers_at_once() {
        let ((one, mut to_one), (other, mut to_other)) = (pair(), pair());
        let (own, its) = (Source::default(), Source::default());
        let flag = Arc::new(Mutex::new((false, None::<Waker>)));
        let shared = Arc::clone(&flag);
        let (begin, begun) = channel();
        let others = thread::spawn(move || {
            // The main thread waits for the flag and for both sockets.
            begun.recv_timeout(Duration::from_secs(20)).unwrap();
            let mut flag = shared.lock().unwrap();
            flag.0 = true;
            flag.1.take().unwrap().wake();
            drop(flag);
            to_other.write_all(&[2]).unwrap();
            to_one.write_all(&[1]).unwrap();
            (to_one, to_other)
        });
        let flagged = poll_fn(|context| {
            let mut flag = flag.lock().unwrap();
            if flag.0 {
                return Poll::Ready(());
            }
            flag.1 = Some(context.waker().clone());
            begin.send(()).unwrap();
            Poll::Pending
        });
        let bytes = both(receive(&one, &own), receive(&other, &its));
        let ((first, second), ()) = block_on(both(bytes, flagged)).unwrap();
        assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
        drop(others.join().unwrap());
        // A socket whose peer has closed is readable.
        assert_eq!(block_on(receive(&one, &own)).unwrap().unwrap(), 0);
        assert!(!is_watching());
    }

    #[test]
    fn both_directions_of_one_descriptor_are_waited_for() {
        let (one, mut other) = pair();
        let source = Source::default();
        let drain = thread::spawn(move || {
            // Until now, neither direction of `one` is ready.
            let mut taken = vec![0; 1 << 16];
            other.read_exact(&mut taken).unwrap();
            other.write_all(&[7]).unwrap();
            // Until `one` is closed.
            other.read_to_end(&mut taken).unwrap();
        });
        let both = both(receive(&one, &source), fill(&one, &source));
        let (received, filled) = block_on(both).unwrap();
        assert_eq!(received.unwrap(), 7);
        filled.unwrap();
        drop(one);
        drain.join().unwrap();
    }

    #[test]
    fn a_peer_that_has_ended_its_side_does_not_wake_a_write() {
        let (one, mut other) = pair();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let source = Source::default();
        let (begin, begun) = channel();
        let drain = thread::spawn(move || {
            begun.recv_timeout(Duration::from_secs(20)).unwrap();
            // In small pieces, so that a write that spins is polled often meanwhile.
            let mut byte = [0; 16];
            while other.read(&mut byte).is_ok_and(|count| count > 0) {}
        });
        let mut polls = 0;
        let mut filled = Box::pin(fill(&one, &source));
        block_on(poll_fn(|context| {
            polls += 1;
            let polled = filled.as_mut().poll(context);
            let _ = begin.send(());
            polled
        }))
        .unwrap()
        .unwrap();
        assert!(polls < 10, "{polls} polls");
        drop(filled);
        drop(one);
        drain.join().unwrap();
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_leaves_nothing_watched() {
        let (one, mut other) = pair();
        let source = Source::default();
        let soon = Duration::from_millis(5);
        let late = timeout(soon, || block_on(receive(&one, &source)));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!is_watching());
        other.write_all(&[1, 2]).unwrap();
        // A nested wait watches the descriptors of both waits.
        let nests = poll_fn(|_| Poll::Ready(block_on(receive(&one, &source))));
        assert_eq!(block_on(nests).unwrap().unwrap().unwrap(), 1);
        assert_eq!(block_on(receive(&one, &source)).unwrap().unwrap(), 2);
        let outside = source.poll(Waker::noop(), one.as_fd(), Interest::Read);
        let unsupported = io::ErrorKind::Unsupported;
        assert!(matches!(outside, Poll::Ready(Err(err)) if err.kind() == unsupported));
    }
}
