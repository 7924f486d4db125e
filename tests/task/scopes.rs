//! Scopes: closures that run concurrently.

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
fn closures_borrow_and_return_and_run_concurrently() {
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
fn a_scope_waits_for_closures_that_are_not_joined() {
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
fn spawned_closures_spawn_and_scopes_nest() {
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
fn a_panic_propagates_from_join_or_else_from_the_scope() {
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
fn a_panic_of_a_results_destructor_propagates_from_the_scope() {
    everywhere(|| {
        let (go, gone) = async_channel::bounded::<()>(1);
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            scope(|scope| {
                let spawned = scope.spawn(|| {
                    block_on(gone.recv()).unwrap().unwrap();
                    Bomb
                });
                // The result is dropped when the closure returns.
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
fn a_spawned_closure_inherits_the_deadline_of_its_spawner() {
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
fn at_the_limit_spawn_fails_at_once() {
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
        assert_eq!(ran.into_inner(), 1024, "the refused closure has not run");
    });
}

#[test]
fn closures_of_a_coroutine_run_on_its_worker_and_others_on_other_threads() {
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

#[test]
fn idle_threads_are_reused() {
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
            // `join` may return before the thread is idle, so a spawn may start a further one.
            assert!(count <= 500, "{count} threads for 1000 closures");
        });
        play(place, [role]);
    }
}

#[test]
fn a_closure_joins_its_sibling() {
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
fn in_a_coroutine_spawn_fails_while_a_panic_unwinds() {
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
            let result = result.lock().unwrap().take().expect("`Spawns` was dropped");
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
fn a_borrowed_channel_connects_two_closures() {
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
