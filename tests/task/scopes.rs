//! Closures that run side by side.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socketserver::task::{self, block_on, scope, timeout};

use crate::{DEADLINE, Role, everywhere, places, play};

#[test]
fn closures_borrow_and_return_and_run_side_by_side() {
    everywhere(|| {
        let words = ["one".to_owned(), "two".to_owned()];
        let mut count = 0;
        let (there, from_there) = async_channel::bounded(1);
        let (back, from_back) = async_channel::bounded(1);
        let joined = scope(|scope| {
            let first = scope.spawn(|| {
                block_on(there.send(words[0].len())).unwrap().unwrap();
                block_on(from_back.recv()).unwrap().unwrap()
            });
            let second = scope.spawn(|| {
                let length = block_on(from_there.recv()).unwrap().unwrap();
                count += length;
                block_on(back.send(words[1].as_str())).unwrap().unwrap();
            });
            second.unwrap().join().unwrap();
            first.unwrap().join().unwrap()
        });
        assert_eq!((joined, count), ("two", 3));
    });
}

#[test]
fn a_scope_waits_for_what_nobody_joins() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        let returned = scope(|scope| {
            for _ in 0..10 {
                let spawned = scope.spawn(|| {
                    task::sleep(Duration::from_millis(5));
                    ended.fetch_add(1, Ordering::SeqCst);
                });
                drop(spawned.unwrap());
            }
            7
        });
        assert_eq!((returned, ended.into_inner()), (7, 10));
    });
}

#[test]
fn what_was_spawned_spawns_and_scopes_nest() {
    everywhere(|| {
        let count = AtomicUsize::new(0);
        let add = || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        scope(|outer| {
            let spawned = outer.spawn(|| {
                outer.spawn(add).unwrap().join().unwrap();
                scope(|inner| {
                    drop(inner.spawn(add).unwrap());
                    drop(outer.spawn(add).unwrap());
                });
            });
            spawned.unwrap().join().unwrap();
        });
        assert_eq!(count.into_inner(), 3);
    });
}

#[test]
fn a_panic_is_the_joiners_or_else_the_scopes() {
    everywhere(|| {
        let panics = || resume_unwind(Box::new("as asked"));
        let is_as_asked = |panic: &(dyn std::any::Any + Send)| {
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"as asked"));
        };
        let others = AtomicUsize::new(0);
        let goes_on = || {
            task::sleep(Duration::from_millis(5));
            others.fetch_add(1, Ordering::SeqCst);
        };
        scope(|scope| {
            let spawned = scope.spawn(panics).unwrap();
            drop(scope.spawn(goes_on).unwrap());
            let joined: thread::Result<()> = spawned.join();
            is_as_asked(&*joined.unwrap_err());
        });
        let unjoined = catch_unwind(AssertUnwindSafe(|| {
            scope(|scope| {
                drop(scope.spawn(panics).unwrap());
                drop(scope.spawn(goes_on).unwrap());
            });
        }));
        is_as_asked(&*unjoined.unwrap_err());
        let body = catch_unwind(AssertUnwindSafe(|| {
            scope(|scope| {
                drop(scope.spawn(goes_on).unwrap());
                panics();
            });
        }));
        is_as_asked(&*body.unwrap_err());
        assert_eq!(others.into_inner(), 3);
    });
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            resume_unwind(Box::new("dropped"));
        }
    }
}

#[test]
fn a_result_that_panics_as_it_is_dropped_ends_its_scope() {
    everywhere(|| {
        let (go, gone) = async_channel::bounded::<()>(1);
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            scope(|scope| {
                let spawned = scope.spawn(|| {
                    block_on(gone.recv()).unwrap().unwrap();
                    Bomb
                });
                // Nobody wants it.
                drop(spawned.unwrap());
                go.send_blocking(()).unwrap();
            });
        }));
        assert_eq!(
            dropped.unwrap_err().downcast_ref::<&str>(),
            Some(&"dropped")
        );
    });
}

#[test]
fn what_was_spawned_has_the_deadline_of_its_spawner() {
    everywhere(|| {
        let wait = || block_on(std::future::pending::<()>()).unwrap_err().kind();
        let kinds = timeout(Duration::from_millis(5), || {
            scope(|scope| {
                let spawned = [(); 2].map(|()| scope.spawn(wait).unwrap());
                spawned.map(|spawned| spawned.join().unwrap())
            })
        });
        assert_eq!(kinds, [io::ErrorKind::TimedOut; 2]);
    });
}

#[test]
fn at_the_bound_it_fails_at_once() {
    everywhere(|| {
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let ran = AtomicUsize::new(0);
        let (count, kind) = scope(|scope| {
            let mut spawned = 0;
            let err = loop {
                let wait = || {
                    let _ = block_on(stopped.recv());
                    ran.fetch_add(1, Ordering::SeqCst);
                };
                match scope.spawn(wait) {
                    Ok(handle) => drop(handle),
                    Err(err) => break err,
                }
                spawned += 1;
            };
            stop.close();
            (spawned, err.kind())
        });
        assert_eq!((count, kind), (1024, io::ErrorKind::ResourceBusy));
        assert_eq!(ran.into_inner(), 1024, "the one more has not run");
    });
}

#[test]
fn in_a_coroutine_all_run_on_its_worker_and_elsewhere_none_on_its_thread() {
    for place in places().filter(|place| place.handlers > 0) {
        let role: Role = Box::new(move || {
            let own = thread::current().id();
            let threads = scope(|scope| {
                let spawned = [(); 3].map(|()| scope.spawn(|| thread::current().id()).unwrap());
                spawned.map(|spawned| spawned.join().unwrap())
            });
            let others = threads.iter().filter(|thread| **thread != own).count();
            let is_coroutine = place.model.starts_with("coroutines");
            assert_eq!(others, if is_coroutine { 0 } else { 3 });
        });
        play(place, [role]);
    }
}

/// Until the system has no thread at all it takes those that are idle.
#[test]
fn threads_are_used_again() {
    for place in places().filter(|place| place.model == "threading" && place.handlers > 0) {
        let role: Role = Box::new(|| {
            let threads = Mutex::new(HashSet::new());
            for _ in 0..1000 {
                scope(|scope| {
                    let spawned = scope.spawn(|| {
                        threads.lock().unwrap().insert(thread::current().id());
                    });
                    spawned.unwrap().join().unwrap();
                });
            }
            let count = threads.into_inner().unwrap().len();
            assert!(count <= 500, "{count} threads for 1000 closures");
        });
        play(place, [role]);
    }
}

#[test]
fn a_sibling_joins_another() {
    everywhere(|| {
        let total = scope(|scope| {
            let first = scope.spawn(|| {
                task::sleep(Duration::from_millis(5));
                1
            });
            let first = first.unwrap();
            let second = scope.spawn(move || first.join().unwrap() + 1).unwrap();
            second.join().unwrap()
        });
        assert_eq!(total, 2);
    });
}

#[test]
fn nothing_is_spawned_in_a_coroutine_while_a_panic_unwinds() {
    /// Spawns when it is dropped.
    struct Spawns(Arc<Mutex<Option<io::Result<i32>>>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let spawned = scope(|scope| {
                let spawned = scope.spawn(|| 7)?;
                spawned.join().map_err(|_| io::ErrorKind::Other.into())
            });
            *self.0.lock().unwrap() = Some(spawned);
        }
    }
    for place in places().filter(|place| place.handlers > 0) {
        let role: Role = Box::new(move || {
            let result = Arc::default();
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _spawns = Spawns(Arc::clone(&result));
                resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
            let result = result.lock().unwrap().take().expect("it was dropped");
            match result {
                Ok(result) => assert_eq!(result, 7),
                Err(err) => {
                    assert!(place.model.starts_with("coroutines"), "{err}");
                    assert_eq!(err.kind(), io::ErrorKind::ConnectionAborted);
                }
            }
        });
        play(place, [role]);
    }
}

#[test]
fn a_borrowed_channel_joins_two_sides() {
    everywhere(|| {
        let (sender, receiver) = async_channel::bounded::<usize>(1);
        let sum = timeout(DEADLINE, || {
            scope(|scope| {
                let sum = scope.spawn(|| {
                    let mut sum = 0;
                    while let Ok(number) = block_on(receiver.recv()).unwrap() {
                        sum += number;
                    }
                    sum
                });
                for number in 0..100 {
                    block_on(sender.send(number)).unwrap().unwrap();
                }
                sender.close();
                sum.unwrap().join().unwrap()
            })
        });
        assert_eq!(sum, 4950);
    });
}
