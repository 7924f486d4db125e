//! A transport of these tests, which plays a script.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use socketserver::Next;
use socketserver::net::{AcceptBatch, Managed};
use socketserver::net::{Accepted, Address, Context, Transport};

use crate::support::{DEADLINE, waits_of_this_thread};

/// What a call of `accept` does.
pub(crate) enum Event {
    Accepted(&'static str),
    Error(io::Error),
}

/// Returns an error with this number.
pub(crate) fn errno(code: i32) -> Event {
    Event::Error(io::Error::from_raw_os_error(code))
}

/// A listener that plays a script. Its pipe holds a byte for each event that is left.
pub(crate) struct Script {
    name: &'static str,
    waiting: PipeReader,
    queue: Queue,
    pub(crate) calls: Arc<Calls>,
}

/// The rest of a script. More can be added while it is played.
#[derive(Clone)]
pub(crate) struct Queue {
    events: Arc<Mutex<VecDeque<Event>>>,
    writer: Arc<PipeWriter>,
}

/// The calls of `accept`.
#[derive(Default)]
pub(crate) struct Calls {
    all: Mutex<Vec<Call>>,
    more: Condvar,
}

/// A call of `accept`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) time: Instant,
    /// How often the accept loop had waited before.
    pub(crate) waits: u64,
}

pub(crate) struct Line {
    pub(crate) text: &'static str,
    context: Context,
}

impl Script {
    pub(crate) fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self::named("test", events)
    }

    pub(crate) fn named(name: &'static str, events: impl IntoIterator<Item = Event>) -> Self {
        let (waiting, writer) = io::pipe().expect("a pipe");
        let queue = Queue {
            events: Arc::default(),
            writer: Arc::new(writer),
        };
        events.into_iter().for_each(|event| queue.push(event));
        Self {
            name,
            waiting,
            queue,
            calls: Arc::default(),
        }
    }

    pub(crate) fn queue(&self) -> Queue {
        self.queue.clone()
    }
}

impl Queue {
    pub(crate) fn push(&self, event: Event) {
        self.events.lock().expect("not poisoned").push_back(event);
        (&*self.writer).write_all(&[0]).expect("room in the pipe");
    }
}

impl Calls {
    pub(crate) fn all(&self) -> Vec<Call> {
        self.all.lock().expect("not poisoned").clone()
    }

    /// Records a call, on the thread that makes it.
    pub(crate) fn note(&self) {
        let call = Call {
            time: Instant::now(),
            waits: waits_of_this_thread(),
        };
        self.all.lock().expect("not poisoned").push(call);
        self.more.notify_all();
    }

    /// Waits until there have been so many calls.
    pub(crate) fn wait_for(&self, count: usize) {
        let calls = self.all.lock().expect("not poisoned");
        let few = |calls: &mut Vec<Call>| calls.len() < count;
        let waited = self.more.wait_timeout_while(calls, DEADLINE, few);
        let (calls, waited) = waited.expect("not poisoned");
        assert!(
            !waited.timed_out(),
            "{} of {count} calls within the deadline",
            calls.len()
        );
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

impl Transport for Script {
    type Accepted = Line;

    const SCHEME: &'static str = "script";

    fn local_addr(&self) -> Address {
        Address::Named(self.name.to_owned())
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Line>) -> io::Result<()> {
        self.calls.note();
        let event = self.queue.events.lock().expect("not poisoned").pop_front();
        let Some(event) = event else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        (&self.waiting)
            .read_exact(&mut [0])
            .expect("a byte for each event");
        match event {
            Event::Error(err) => Err(err),
            Event::Accepted(text) => {
                batch.push(|context| Line { text, context });
                Ok(())
            }
        }
    }
}

impl Accepted for Line {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        Address::Named("script".to_owned())
    }
}

impl Managed for Line {
    fn close(&mut self) -> io::Result<()> {
        if self.text == "cannot be closed" {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        }
    }
}

/// Stops the server when the text `stop` arrives.
pub(crate) fn until_stop(line: &mut Line) -> Next {
    if line.text == "stop" {
        Next::Stop
    } else {
        Next::Close
    }
}
