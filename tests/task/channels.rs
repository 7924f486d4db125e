//! The channels and locks of other crates, between all kinds of tasks. `TASK_ROUNDS` is the number of round trips.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use event_listener::Event;
use futures_lite::StreamExt;
use socketserver::task::{block_on, timeout};

use crate::{Role, places, play};

pub(crate) fn rounds() -> usize {
    let rounds = std::env::var("TASK_ROUNDS").ok();
    rounds.map_or(300, |rounds| rounds.parse().expect("a number"))
}

/// Runs `count` pairs at once, in each place.
fn pairs(count: usize, pair: fn(usize) -> [Role; 2]) {
    for place in places() {
        play(place, (0..count).flat_map(|_| pair(rounds())));
    }
}

#[test]
fn async_channel_carries_everything() {
    pairs(3, |rounds| {
        let (there, from_there) = async_channel::bounded(1);
        let (back, from_back) = async_channel::bounded(1);
        let ping = move || {
            for round in 0..rounds {
                block_on(there.send(round)).unwrap().unwrap();
                assert_eq!(block_on(from_back.recv()).unwrap(), Ok(round));
            }
        };
        let pong = move || {
            while let Ok(round) = block_on(from_there.recv()).unwrap() {
                block_on(back.send(round)).unwrap().unwrap();
            }
        };
        [Box::new(ping), Box::new(pong)]
    });
}

/// The sender does not wait for answers, so both roles run at once.
#[test]
fn a_stream_of_messages_arrives_in_order() {
    pairs(2, |rounds| {
        let (sender, receiver) = async_channel::bounded(8);
        let send = move || {
            for round in 0..rounds * 10 {
                block_on(sender.send(round)).unwrap().unwrap();
            }
        };
        let receive = move || {
            for round in 0..rounds * 10 {
                assert_eq!(block_on(receiver.recv()).unwrap(), Ok(round));
            }
            assert!(block_on(receiver.recv()).unwrap().is_err());
        };
        [Box::new(send), Box::new(receive)]
    });
}

#[test]
fn futures_channel_carries_everything() {
    use futures_channel::{mpsc, oneshot};
    pairs(3, |rounds| {
        let (mut there, mut from_there) = mpsc::channel::<(usize, oneshot::Sender<usize>)>(0);
        let ping = move || {
            for round in 0..rounds {
                let (answer, answered) = oneshot::channel();
                let mut message = Some((round, answer));
                let sent = futures_lite::future::poll_fn(|context| {
                    there.poll_ready(context).map_ok(|()| {
                        there
                            .start_send(message.take().expect("sent once"))
                            .unwrap();
                    })
                });
                block_on(sent).unwrap().unwrap();
                assert_eq!(block_on(answered).unwrap(), Ok(round));
            }
        };
        let pong = move || {
            while let Some((round, answer)) = block_on(from_there.next()).unwrap() {
                answer.send(round).unwrap();
            }
        };
        [Box::new(ping), Box::new(pong)]
    });
}

#[test]
fn tokio_sync_carries_everything() {
    use tokio::sync::{mpsc, oneshot};
    pairs(3, |rounds| {
        let (there, mut from_there) = mpsc::channel::<(usize, oneshot::Sender<usize>)>(1);
        let ping = move || {
            for round in 0..rounds {
                let (answer, answered) = oneshot::channel();
                block_on(there.send((round, answer))).unwrap().unwrap();
                assert_eq!(block_on(answered).unwrap(), Ok(round));
            }
        };
        let pong = move || {
            while let Some((round, answer)) = block_on(from_there.recv()).unwrap() {
                answer.send(round).unwrap();
            }
        };
        [Box::new(ping), Box::new(pong)]
    });
}

/// Both wait for moments only, so most waits are cancelled, some of them while the message arrives.
#[test]
fn no_message_is_lost_by_a_cancelled_wait() {
    pairs(2, |rounds| {
        let (sender, receiver) = async_channel::bounded(1);
        let send = move |round| block_on(sender.send(round)).map(Result::unwrap);
        let receive = move |round| block_on(receiver.recv()).map(|got| assert_eq!(got, Ok(round)));
        insistent(rounds, send, receive)
    });
    pairs(2, |rounds| {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let send = move |round| block_on(sender.send(round)).map(Result::unwrap);
        let receive =
            move |round| block_on(receiver.recv()).map(|got| assert_eq!(got, Some(round)));
        insistent(rounds, send, receive)
    });
}

fn insistent(
    rounds: usize,
    send: impl FnMut(usize) -> io::Result<()> + Send + 'static,
    receive: impl FnMut(usize) -> io::Result<()> + Send + 'static,
) -> [Role; 2] {
    [
        Box::new(move || insist(rounds, send)),
        Box::new(move || insist(rounds, receive)),
    ]
}

/// Repeats each step, whose wait has a timeout of 0 to 63 us, until it has ended in time.
fn insist(rounds: usize, mut step: impl FnMut(usize) -> io::Result<()>) {
    for round in 0..rounds {
        let mut cancelled = 0;
        while let Err(err) = timeout(Duration::from_micros(cancelled % 64), || step(round)) {
            assert_eq!(err.kind(), io::ErrorKind::TimedOut);
            cancelled += 1;
        }
    }
}

#[test]
fn a_tokio_semaphore_admits_as_many_tasks_as_it_has_permits() {
    for place in places() {
        let semaphore = Arc::new(tokio::sync::Semaphore::new(2));
        let inside = Arc::new(AtomicUsize::new(0));
        let roles = (0..6).map(|_| {
            let (semaphore, inside) = (Arc::clone(&semaphore), Arc::clone(&inside));
            let role: Role = Box::new(move || {
                for _ in 0..rounds() / 10 {
                    let permit = block_on(semaphore.acquire()).unwrap().unwrap();
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    socketserver::task::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
            role
        });
        play(place, roles);
    }
}

#[test]
fn an_async_lock_is_held_across_waits() {
    pairs(2, |rounds| {
        let count = Arc::new((async_lock::Mutex::new(0), async_lock::Barrier::new(2)));
        [0, 1].map(|_| {
            let count = Arc::clone(&count);
            let role: Role = Box::new(move || {
                for _ in 0..rounds {
                    let mut held = block_on(count.0.lock()).unwrap();
                    let before = *held;
                    socketserver::task::yield_now();
                    *held = before + 1;
                }
                block_on(count.1.wait()).unwrap();
                assert_eq!(*block_on(count.0.lock()).unwrap(), 2 * rounds);
            });
            role
        })
    });
}

#[test]
fn listeners_of_an_event_take_turns() {
    pairs(3, |rounds| {
        let shared = Arc::new((Event::new(), AtomicUsize::new(0)));
        [0, 1].map(|own| {
            let shared = Arc::clone(&shared);
            let role: Role = Box::new(move || {
                let (event, turn) = &*shared;
                for round in 0..rounds {
                    let mine = 2 * round + own;
                    while turn.load(Ordering::SeqCst) != mine {
                        let listener = event.listen();
                        // The turn may have come before `listen`.
                        if turn.load(Ordering::SeqCst) != mine {
                            block_on(listener).unwrap();
                        }
                    }
                    turn.store(mine + 1, Ordering::SeqCst);
                    event.notify(usize::MAX);
                }
            });
            role
        })
    });
}
