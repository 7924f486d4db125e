//! Futures that are woken at any moment, that panic, that nest, and that are dropped before they are ready.

use std::cell::Cell;
use std::future::{Future, pending, ready};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_lite::future;
use socketserver::task::{block_on, sleep, timeout, yield_now};

use crate::{DEADLINE, Role, everywhere, places, play};

/// A future that is ready once its flag is set. `wake` calls its waker at any time.
#[derive(Clone, Default)]
struct Flag(Arc<Inner>);

#[derive(Default)]
struct Inner {
    set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Flag {
    fn wake(&self) {
        let waker = self.0.waker.lock().expect("whole").clone();
        waker.into_iter().for_each(Waker::wake);
    }

    fn set(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Future for Flag {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *self.0.waker.lock().expect("whole") = Some(context.waker().clone());
        match self.0.set.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Sends a message when it is dropped.
struct Dropped(Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Runs `work` on another thread, and joins that.
fn elsewhere(work: impl FnOnce() + Send + 'static) {
    thread::spawn(work).join().expect("it does not panic");
}

#[test]
fn a_wake_up_within_the_poll_is_enough() {
    everywhere(|| {
        let polls = Cell::new(0);
        let own = future::poll_fn(|context| {
            polls.set(polls.get() + 1);
            let waker = context.waker().clone();
            match polls.get() {
                1 => context.waker().wake_by_ref(),
                2 => elsewhere(move || waker.wake()),
                _ => return Poll::Ready(()),
            }
            Poll::Pending
        });
        block_on(own).unwrap();
        assert_eq!(polls.get(), 3);
    });
}

#[test]
fn spurious_wake_ups_are_harmless() {
    for place in places() {
        let flag = Flag::default();
        let (there, begun) = channel();
        let waits = {
            let mut flag = flag.clone();
            move || {
                let mut first = Some(there);
                let announced = future::poll_fn(|context| {
                    let polled = Pin::new(&mut flag).poll(context);
                    first
                        .take()
                        .into_iter()
                        .for_each(|there| there.send(()).unwrap());
                    polled
                });
                block_on(announced).unwrap();
            }
        };
        let wakes = move || {
            while begun.try_recv().is_err() {
                yield_now();
            }
            for _ in 0..100 {
                flag.wake();
                yield_now();
            }
            flag.set();
            for _ in 0..100 {
                flag.wake();
            }
        };
        let roles: [Role; 2] = [Box::new(waits), Box::new(wakes)];
        play(place, roles);
    }
}

#[test]
fn a_waker_outlives_its_wait_and_its_task() {
    let flag = Flag::default();
    let task = flag.clone();
    everywhere(move || {
        assert_eq!(block_on(future::or(task.clone(), async {})).ok(), Some(()));
        // The old waker causes spurious wake-ups of later waits.
        let late = task.clone();
        let (woken, wait) = async_channel::bounded(1);
        thread::spawn(move || {
            late.wake();
            woken.send_blocking(()).unwrap();
        });
        block_on(wait.recv()).unwrap().unwrap();
        task.wake();
    });
    // The coroutines and their workers have ended.
    flag.set();
}

#[test]
fn a_nested_wait_loses_no_wake_up() {
    everywhere(|| {
        let (outer, inner) = (Flag::default(), Flag::default());
        let mut begun = false;
        let nests = future::poll_fn(|context| {
            let polled = Pin::new(&mut outer.clone()).poll(context);
            if !begun {
                begun = true;
                let (outer, inner) = (outer.clone(), inner.clone());
                let own = inner.clone();
                let woken = thread::spawn(move || {
                    // The wake-up for the outer wait comes while the inner one waits.
                    outer.set();
                    inner.set();
                });
                block_on(own).unwrap();
                woken.join().unwrap();
                return Poll::Pending;
            }
            polled
        });
        block_on(nests).unwrap();
    });
}

#[test]
fn a_panic_of_a_poll_propagates_to_the_caller_and_the_next_wait_waits() {
    everywhere(|| {
        let (sender, dropped) = channel();
        let held = Dropped(sender);
        let panics = catch_unwind(AssertUnwindSafe(|| {
            block_on(async move {
                let _held = held;
                yield_now();
                std::panic::resume_unwind(Box::new("as asked"));
            })
        }));
        let panic = panics.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as asked"));
        dropped.try_recv().expect("the future was dropped");
        let flag = Flag::default();
        let late = flag.clone();
        thread::spawn(move || late.set());
        block_on(flag).unwrap();
    });
}

#[test]
fn a_timeout_drops_the_future() {
    everywhere(|| {
        let (sender, dropped) = channel();
        let held = Dropped(sender);
        let waits = async move {
            let _held = held;
            pending::<()>().await;
        };
        let ended = timeout(Duration::from_millis(5), || block_on(waits));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        dropped.try_recv().expect("the future was dropped");
    });
}

#[test]
fn a_ready_future_never_times_out() {
    everywhere(|| {
        timeout(Duration::ZERO, || {
            assert_eq!(block_on(ready(7)).ok(), Some(7));
            let ended = block_on(pending::<()>());
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        });
    });
}

#[test]
fn a_future_that_wakes_itself_lets_other_tasks_run_and_ends_at_its_deadline() {
    for place in places() {
        let (there, from_there) = async_channel::bounded::<()>(1);
        let spins = move || {
            let spins = future::poll_fn(|context| {
                context.waker().wake_by_ref();
                match from_there.try_recv() {
                    Ok(()) => Poll::Ready(()),
                    Err(_) => Poll::<()>::Pending,
                }
            });
            block_on(spins).unwrap();
            let for_ever = future::poll_fn(|context| {
                context.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            let ended = timeout(Duration::from_millis(5), || block_on(for_ever));
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        };
        let sends = move || {
            sleep(Duration::from_millis(1));
            there.send_blocking(()).unwrap();
        };
        let roles: [Role; 2] = [Box::new(spins), Box::new(sends)];
        play(place, roles);
    }
}

#[test]
fn a_select_returns_the_first_of_two_futures_and_can_be_repeated() {
    everywhere(|| {
        let (number, numbers) = async_channel::bounded(1);
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let next = || {
            let number = async { numbers.recv().await.ok() };
            let end = async { stopped.recv().await.ok().and(None) };
            block_on(future::or(number, end)).unwrap()
        };
        thread::spawn(move || {
            for value in 0..20 {
                number.send_blocking(value).unwrap();
            }
            while !number.is_empty() {
                thread::park_timeout(Duration::from_millis(1));
            }
            stop.send_blocking(()).unwrap();
            // Keep both channels open until the messages are received.
            while !stop.is_empty() {
                thread::park_timeout(Duration::from_millis(1));
            }
        });
        for value in 0..20 {
            assert_eq!(next(), Some(value));
        }
        assert_eq!(next(), None);
    });
}

#[test]
fn a_coroutine_is_not_suspended_while_a_panic_unwinds() {
    /// Waits when it is dropped.
    struct Waits(Sender<(Option<i32>, io::Result<()>)>);
    impl Drop for Waits {
        fn drop(&mut self) {
            let flag = Flag::default();
            let late = flag.clone();
            let setter = thread::spawn(move || late.set());
            let here = block_on(ready(1)).ok();
            let waited = timeout(DEADLINE, || block_on(flag));
            sleep(Duration::from_millis(1));
            setter.join().unwrap();
            self.0.send((here, waited)).unwrap();
        }
    }
    for place in places().filter(|place| place.handlers > 0) {
        let role = move || {
            let (sender, results) = channel();
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _waits = Waits(sender);
                std::panic::resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
            let (here, waited) = results.try_recv().unwrap();
            assert_eq!(here, Some(1));
            match waited {
                Ok(()) => {}
                Err(err) => {
                    assert!(place.model.starts_with("coroutines"));
                    assert_eq!(err.kind(), io::ErrorKind::ConnectionAborted);
                }
            }
        };
        let role: Role = Box::new(role);
        play(place, [role]);
    }
}
