//! Tests of the runtime over fake drivers, and benchmarks of its parts.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::sys::poll::Interest;
use crate::task::coro::driver::{Directions, Drive, Edge, Event, Kind};
use crate::task::coro::inbox::{Message, Start};
use crate::task::coro::net::{Place, wait_any};
use crate::task::coro::runtime::Runtime;
use crate::task::coro::uring::{self, Lent};
use crate::task::coro::worker::{RUNS_MAX, Worker, current, here};
use crate::task::yield_now;

/// A driver without events until every coroutine waits; then it reports an edge for each watched descriptor.
struct Fake<F> {
    watched: Vec<u64>,
    /// Called when every coroutine waits.
    quiet: F,
}

impl<F: FnMut()> Drive for Fake<F> {
    fn watch(
        &mut self,
        _: BorrowedFd<'_>,
        token: u64,
        _: Directions,
        _: Directions,
    ) -> io::Result<()> {
        self.watched.push(token);
        Ok(())
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Ok(());
        }
        (self.quiet)();
        for token in self.watched.drain(..) {
            on_event(Event::Edge(Edge {
                token,
                readable: true,
                writable: false,
                hung_up: false,
                last: false,
            }));
        }
        Ok(())
    }
}

/// Runs coroutines to their end on one worker over a fake driver.
fn run(stack_size: usize, starts: impl Iterator<Item = Start>, quiet: fn()) {
    let watched = Vec::new();
    run_with(Box::new(Fake { watched, quiet }), stack_size, starts);
}

/// As [`run`], over any driver.
fn run_with(driver: Box<dyn Drive>, stack_size: usize, starts: impl Iterator<Item = Start>) {
    let runtime = Runtime::new(1, stack_size, None, Kind::Epoll, || {}).unwrap();
    let worker = Worker::with_driver(Arc::clone(&runtime), 0, driver);
    let (mut count, ended) = (0, Arc::new(AtomicUsize::new(0)));
    for start in starts {
        count += 1;
        let ended = Arc::clone(&ended);
        let start = move || {
            start();
            ended.fetch_add(1, Ordering::Relaxed);
        };
        runtime.start(Box::new(start), count);
    }
    runtime.inboxes[0].send(Message::Close);
    assert!(worker.run().is_ok());
    // A panic ends its own coroutine, and is not reported otherwise.
    assert_eq!(
        ended.load(Ordering::Relaxed) as u64,
        count,
        "no coroutine panics"
    );
    // A further reference to the worker would be a leak.
    assert_eq!(Rc::strong_count(&worker), 1);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// Suspends `count` coroutines at once, and returns the resident memory of each.
fn suspend(count: usize) -> usize {
    static HERE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let before = resident();
    let null = Arc::new(File::open("/dev/null").unwrap());
    let starts = (0..count).map(|_| {
        let null = Arc::clone(&null);
        let start: Start = Box::new(move || {
            HERE.fetch_add(1, Ordering::Relaxed);
            let place = Place::default();
            let current = current().unwrap();
            let source = (&place, null.as_fd(), Interest::Read);
            assert_eq!(wait_any(&current, [source].into_iter(), None).unwrap(), [0]);
            HERE.fetch_sub(1, Ordering::Relaxed);
        });
        start
    });
    run(64 * 1024, starts, || {
        MOST.fetch_max(HERE.load(Ordering::Relaxed), Ordering::Relaxed);
        MEMORY.store(resident(), Ordering::Relaxed);
    });
    static MEMORY: AtomicUsize = AtomicUsize::new(0);
    assert_eq!(MOST.swap(0, Ordering::Relaxed), count);
    assert_eq!(HERE.load(Ordering::Relaxed), 0);
    MEMORY.load(Ordering::Relaxed).saturating_sub(before) / count
}

#[test]
fn ten_thousand_coroutines_wait_at_once_and_all_are_resumed() {
    suspend(10_000);
}

/// A waker that uses its worker when it is called: it waits again, and drops a source.
struct Eager {
    place: Place,
    null: File,
    /// The number of waits that are left.
    left: AtomicUsize,
}

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        let other = Place::default();
        let silent = other.poll(Waker::noop(), self.null.as_fd(), Interest::Write);
        assert!(silent.is_pending());
        drop(other);
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            panic!("the worker catches this panic");
        }
        let waker = Waker::from(Arc::clone(&self));
        self.place.exhaust(&here().unwrap(), Interest::Read);
        assert!(self.wait(&waker).is_pending());
    }
}

impl Eager {
    fn wait(&self, waker: &Waker) -> Poll<()> {
        let polled = self.place.poll(waker, self.null.as_fd(), Interest::Read);
        polled.map(|polled| polled.unwrap())
    }
}

#[test]
fn wakers_wait_beside_coroutines_and_are_called_when_nothing_is_borrowed() {
    let eager = Arc::new(Eager {
        place: Place::default(),
        null: File::open("/dev/null").unwrap(),
        left: AtomicUsize::new(3),
    });
    let waits = |eager: &Arc<Eager>, how: fn(&Eager)| -> Start {
        let eager = Arc::clone(eager);
        Box::new(move || how(&eager))
    };
    let polls = |eager: &Eager| {
        let (waker, woken) = counter();
        assert!(eager.wait(&waker).is_pending());
        assert!(eager.wait(&waker).is_pending(), "a waker is added once");
        wait_on(&eager.place, &eager.null);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let own = Place::default();
        let poll = || own.poll(&waker, eager.null.as_fd(), Interest::Read);
        assert!(poll().is_pending());
        wait_on(&eager.place, &eager.null);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        // The descriptor is still ready, as it was not exhausted.
        assert!(poll().is_ready());
    };
    let begins = Arc::clone(&eager);
    let begin: Start = Box::new(move || {
        let waker = Waker::from(Arc::clone(&begins));
        assert!(begins.wait(&waker).is_pending());
        drop(waker);
        wait_on(&begins.place, &begins.null);
        // The remaining waits follow from its own wake-ups.
        let until = Instant::now() + Duration::from_secs(30);
        while begins.left.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            wait_on(&Place::default(), &begins.null);
        }
    });
    let waiting = waits(&eager, |eager| wait_on(&eager.place, &eager.null));
    let starts = [begin, waits(&eager, polls), waiting];
    run_again(starts.into_iter());
    assert_eq!(eager.left.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&eager), 1, "all wakers are dropped");
}

#[test]
fn a_waker_finds_no_worker_on_a_thread_and_is_dropped_with_its_source() {
    let null = File::open("/dev/null").unwrap();
    let (waker, woken) = counter();
    let poll = Place::default().poll(&waker, null.as_fd(), Interest::Write);
    assert!(matches!(poll, Poll::Ready(Err(err)) if err.kind() == io::ErrorKind::Unsupported));
    let start: Start = Box::new(move || {
        let place = Place::default();
        assert!(
            place
                .poll(&waker, null.as_fd(), Interest::Write)
                .is_pending()
        );
        place.release(null.as_fd());
        wait_on(&Place::default(), &null);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        // `release` has dropped the clone of the waker.
        drop(waker);
        assert_eq!(Arc::strong_count(&woken), 1);
    });
    run(64 * 1024, [start].into_iter(), || {});
}

/// Suspends the coroutine until an edge comes.
fn wait_on(place: &Place, file: &File) {
    let current = current().unwrap();
    let soon = Instant::now() + Duration::from_secs(30);
    place.exhaust(current.worker(), Interest::Read);
    place
        .wait(&current, file.as_fd(), Interest::Read, Some(soon))
        .unwrap();
}

/// Counts the calls of a waker.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counter() -> (Waker, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    (Waker::from(Arc::clone(&woken)), woken)
}

/// As [`run`], but the driver reports an edge for each descriptor every time that all coroutines wait.
fn run_again(starts: impl Iterator<Item = Start>) {
    struct Again(Fake<fn()>);

    impl Drive for Again {
        fn watch(
            &mut self,
            fd: BorrowedFd<'_>,
            token: u64,
            now: Directions,
            before: Directions,
        ) -> io::Result<()> {
            self.0.watch(fd, token, now, before)
        }

        fn wait(
            &mut self,
            timeout: Option<Duration>,
            on_event: &mut dyn FnMut(Event),
        ) -> io::Result<()> {
            let watched = self.0.watched.clone();
            let waited = self.0.wait(timeout, on_event);
            self.0.watched = watched;
            waited
        }
    }

    let (watched, quiet): (_, fn()) = (Vec::new(), || {});
    let driver = Box::new(Again(Fake { watched, quiet }));
    run_with(driver, 64 * 1024, starts);
}

/// A driver without events, which counts its polls.
struct Silent(Arc<AtomicUsize>);

impl Drive for Silent {
    fn watch(&mut self, _: BorrowedFd<'_>, _: u64, _: Directions, _: Directions) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>, _: &mut dyn FnMut(Event)) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns how often the worker polls its driver while a coroutine runs.
fn polls(start: impl FnOnce() + Send + 'static) -> usize {
    let polls = Arc::default();
    let driver = Box::new(Silent(Arc::clone(&polls)));
    let start: Start = Box::new(start);
    run_with(driver, 64 * 1024, [start].into_iter());
    polls.load(Ordering::Relaxed)
}

#[test]
fn each_yield_polls_the_driver_and_each_64th_hand_over_does() {
    let yields = polls(|| (0..640).for_each(|_| yield_now()));
    assert_eq!(yields, 640);
    let hands_over = polls(|| (0..640).for_each(|_| current().unwrap().hand_over()));
    assert_eq!(hands_over, 10, "one poll for each {RUNS_MAX} runs");
    let starts = polls(|| {
        let runtime = current().unwrap().runtime();
        for label in 0..640 {
            runtime.start(Box::new(|| {}), label);
            runtime.hand_over();
        }
    });
    assert_eq!(
        starts, 19,
        "each hand-over but the last runs two coroutines"
    );
}

/// A driver whose receive completes at the third wait after its cancellation.
struct Late {
    result: i32,
    begun: Option<u32>,
    waits_left: Option<u32>,
    /// Whether the driver has the buffer.
    lent: Arc<AtomicBool>,
}

impl Drive for Late {
    fn watch(&mut self, _: BorrowedFd<'_>, _: u64, _: Directions, _: Directions) -> io::Result<()> {
        Ok(())
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()> {
        match (self.waits_left, self.begun) {
            (Some(0), Some(task)) => {
                (self.begun, self.waits_left) = (None, None);
                self.lent.store(false, Ordering::Relaxed);
                let result = self.result;
                on_event(Event::Done { task, result });
            }
            (Some(left), _) => self.waits_left = Some(left.saturating_sub(1)),
            // No event comes before the deadline.
            (None, _) => thread::park_timeout(timeout.unwrap_or(Duration::ZERO)),
        }
        Ok(())
    }

    fn receives(&self) -> bool {
        true
    }

    fn receive(&mut self, _: Lent, task: u32) -> bool {
        self.begun = Some(task);
        self.lent.store(true, Ordering::Relaxed);
        true
    }

    fn cancel(&mut self, task: u32) {
        assert_eq!(self.begun, Some(task));
        assert_eq!(self.waits_left.replace(3), None, "cancelled once");
    }
}

/// Receives over such a driver, which completes with `result`; the message `disturb` comes meanwhile.
fn receive_late(result: i32, deadline: Duration, disturb: Option<Message>) -> io::Result<usize> {
    let runtime = Runtime::new(1, 64 * 1024, None, Kind::Epoll, || {}).unwrap();
    let lent = Arc::new(AtomicBool::new(false));
    let driver = Box::new(Late {
        result,
        begun: None,
        waits_left: None,
        lent: Arc::clone(&lent),
    });
    let worker = Worker::with_driver(Arc::clone(&runtime), 0, driver);
    let received = Arc::new(Mutex::new(None));
    let (result, mates) = (Arc::clone(&received), Arc::clone(&runtime));
    let start = move || {
        let null = File::open("/dev/null").unwrap();
        let deadline = Instant::now() + deadline;
        if let Some(disturb) = disturb {
            mates.inboxes[0].send(disturb);
        }
        let (place, mut buffer) = (Place::default(), [0; 8]);
        let current = current().unwrap();
        let end = place.receive(&current, null.as_fd(), &mut buffer, || Some(deadline));
        assert!(
            !lent.load(Ordering::Relaxed),
            "the driver still has the buffer"
        );
        *result.lock().unwrap() = Some(end);
    };
    runtime.start(Box::new(start), 1);
    runtime.inboxes[0].send(Message::Close);
    assert!(worker.run().is_ok());
    received.lock().unwrap().take().unwrap()
}

#[test]
fn a_receive_ends_only_with_its_completion_and_received_data_counts() {
    let (soon, long) = (Duration::from_millis(5), Duration::from_secs(3600));
    let cancelled = -libc::ECANCELED;
    let kind = |received: io::Result<usize>| received.map_err(|err| err.kind());
    let (timed_out, aborted) = (io::ErrorKind::TimedOut, io::ErrorKind::ConnectionAborted);
    assert_eq!(kind(receive_late(cancelled, soon, None)), Err(timed_out));
    assert_eq!(kind(receive_late(3, soon, None)), Ok(3));
    let abort = || Some(Message::Cancel("as asked"));
    assert_eq!(kind(receive_late(cancelled, long, abort())), Err(aborted));
    assert_eq!(kind(receive_late(3, long, abort())), Ok(3));
    let reset = receive_late(-libc::ECONNRESET, soon, None);
    assert_eq!(kind(reset), Err(io::ErrorKind::ConnectionReset));
}

/// Run: `cargo test --release --features coroutines --lib -- --ignored --nocapture a_million`
#[test]
#[ignore = "takes 5 GiB of memory"]
fn a_million_coroutines_wait_at_once() {
    let begin = Instant::now();
    let each = suspend(1_000_000);
    println!(
        "a million suspended coroutines: {each} bytes each, {:.1} s in all",
        begin.elapsed().as_secs_f64()
    );
    assert!(each < 6 * 1024, "{each}");
}

/// Run: `cargo test --release --features coroutines --lib -- --ignored --nocapture the_cost`
#[test]
#[ignore = "a benchmark"]
fn the_cost_of_a_switch_and_of_a_start() {
    let time = |what: &str, operations: u32, work: &dyn Fn()| {
        let mut times: Vec<_> = (0..9)
            .map(|_| {
                let begin = Instant::now();
                work();
                begin.elapsed().as_secs_f64() * 1e9 / f64::from(operations)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{what}: {:.1} ns ({:.1} to {:.1})",
            times[4], times[0], times[8]
        );
    };
    let yields = |count: u32, each: u32| {
        let starts = (0..count).map(|_| {
            let start: Start = Box::new(move || {
                for _ in 0..each {
                    yield_now();
                }
            });
            start
        });
        run(64 * 1024, starts, || {});
    };
    time("switch and schedule, 1 coroutine", 1 << 20, &|| {
        yields(1, 1 << 20);
    });
    time("switch and schedule, 64 coroutines", 1 << 20, &|| {
        yields(64, 1 << 14);
    });
    time("switch and schedule, 4,096 coroutines", 1 << 20, &|| {
        yields(1 << 12, 1 << 8);
    });
    time("start and end, 64 at a time", 1 << 16, &|| {
        let starter: Start = Box::new(|| {
            let runtime = current().unwrap().runtime();
            for _ in 0..1 << 10 {
                (0..64).for_each(|label| runtime.start(Box::new(|| {}), label));
                yield_now();
            }
        });
        run(64 * 1024, [starter].into_iter(), || {});
    });
}

/// A descriptor that coroutines of several workers use, one after the other, and the other end.
struct Moving {
    place: Place,
    own: UnixStream,
    other: UnixStream,
}

impl Moving {
    /// Receives a byte that comes only after the first attempt.
    fn receive(&self) {
        let soon = || Some(Instant::now() + Duration::from_secs(30));
        let attempt = || {
            let received = recv(&self.own, &mut [0; 1], RecvFlags::DONTWAIT);
            if received == Err(Errno::AGAIN) {
                (&self.other).write_all(b"x").unwrap();
            }
            Ok((received?.0, false))
        };
        let (current, fd) = (current().unwrap(), self.own.as_fd());
        let count = self
            .place
            .complete(&current, fd, Interest::Read, soon, attempt);
        assert_eq!(count.unwrap(), 1);
    }
}

#[test]
fn a_descriptor_moves_between_workers_and_leaves_nothing_behind() {
    let is_there = |kind: &Kind| *kind == Kind::Epoll || uring::available().is_ok();
    for kind in [Kind::Epoll, Kind::Uring].into_iter().filter(is_there) {
        let runtime = Runtime::new(2, 64 * 1024, None, kind, || {}).unwrap();
        let workers = [0, 1].map(|place| {
            let runtime = Arc::clone(&runtime);
            thread::spawn(move || {
                let worker = Worker::new(runtime, place).unwrap();
                assert!(worker.run().is_ok());
                assert!(worker.sources.borrow().is_empty());
            })
        });
        let (send, moved) = channel();
        let on = |worker: usize, moving: Moving, then: fn(Moving) -> Option<Moving>| {
            let send = send.clone();
            let start = move || send.send(then(moving)).unwrap();
            runtime.inboxes[worker].send(Message::Start(Box::new(start), 1));
            moved.recv_timeout(Duration::from_secs(30)).unwrap()
        };
        let (own, other) = UnixStream::pair().unwrap();
        let place = Place::default();
        let mut moving = Moving { place, own, other };
        for worker in [0, 1, 0, 1, 0] {
            let received = on(worker, moving, |moving| {
                moving.receive();
                Some(moving)
            });
            moving = received.unwrap();
        }
        let released = on(1, moving, |moving| {
            moving.place.release(moving.own.as_fd());
            Some(moving)
        });
        let received = on(0, released.unwrap(), |moving| {
            moving.receive();
            Some(moving)
        });
        assert!(on(1, received.unwrap(), |_| None).is_none());
        for (inbox, worker) in runtime.inboxes.iter().zip(workers) {
            inbox.send(Message::Close);
            worker.join().unwrap();
        }
    }
}

/// A driver whose wait fails.
struct Broken;

impl Drive for Broken {
    fn watch(&mut self, _: BorrowedFd<'_>, _: u64, _: Directions, _: Directions) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>, _: &mut dyn FnMut(Event)) -> io::Result<()> {
        Err(io::Error::other("broken"))
    }
}

#[test]
fn a_worker_whose_driver_fails_returns_the_labels_of_its_coroutines() {
    let runtime = Runtime::new(2, 64 * 1024, None, Kind::Epoll, || {}).unwrap();
    let worker = Worker::with_driver(Arc::clone(&runtime), 0, Box::new(Broken));
    let wait: Start = Box::new(|| {
        let _ = wait_any(&current().unwrap(), std::iter::empty(), None);
    });
    runtime.inboxes[0].send(Message::Start(wait, 7));
    let failed = worker.run().err().unwrap();
    assert_eq!(
        (failed.error.to_string(), failed.labels),
        ("broken".to_owned(), vec![7])
    );
    // Messages to the failed worker are dropped, and new coroutines start on the other worker.
    let dropped = Arc::new(());
    let held = Arc::clone(&dropped);
    runtime.inboxes[0].send(Message::Start(Box::new(move || drop(held)), 8));
    assert_eq!(Arc::strong_count(&dropped), 1);
    let load = runtime.inboxes[1].load();
    runtime.start(Box::new(|| {}), 9);
    assert_eq!(runtime.inboxes[1].load(), load + 1);
}

#[test]
fn after_a_nested_worker_the_outer_coroutine_is_current_again() {
    let inside = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&inside);
    let outer: Start = Box::new(move || {
        let before = current().unwrap().id();
        let inner: Start = Box::new(|| {});
        run(64 * 1024, std::iter::once(inner), || {});
        seen.store(
            current().is_some_and(|now| now.id() == before),
            Ordering::SeqCst,
        );
    });
    run(64 * 1024, std::iter::once(outer), || {});
    assert!(inside.load(Ordering::SeqCst));
}

#[cfg(feature = "tls")]
#[test]
fn deep_work_runs_on_the_stack_of_the_worker_and_suspends_no_coroutine() {
    use std::panic::catch_unwind;

    use crate::task::wait::on_deep_stack;

    let start = || {
        let near = |other: usize| {
            let here = 0_u8;
            (&raw const here).addr().abs_diff(other) < 16 * 1024
        };
        let own = 0_u8;
        let own = (&raw const own).addr();
        assert!(near(own));
        let (is_near, coroutine) = on_deep_stack(|| (near(own), current().is_some()));
        assert!(!is_near);
        assert!(!coroutine);
        let panicked = catch_unwind(|| on_deep_stack(|| panic!("in deep work")));
        assert!(panicked.is_err());
        // The coroutine is current again, and can be suspended.
        assert!(current().is_some());
        yield_now();
    };
    run(64 * 1024, std::iter::once(Box::new(start) as Start), || {});
}
