//! What handlers wait with and run side by side: futures, timeouts and scopes, in coroutines of one worker
//! and of several, on threads, and between those.

#[path = "../support/mod.rs"]
mod support;

mod channels;
mod futures;
mod scopes;
mod timeouts;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use socketserver::model::{Forking, Model, ThreadPool, Threading};
use socketserver::{Server, Tcp};
use support::models::{Models, UnderModel};
use support::{DEADLINE, Target, is_available};

/// A part of a test, in a handler or on a thread of its own.
type Role = Box<dyn FnOnce() + Send>;

/// Where the roles of a test run.
#[derive(Clone, Copy, Debug)]
struct Place {
    model: &'static str,
    workers: usize,
    /// How many of them are handlers; the others have threads of their own.
    handlers: usize,
}

const fn place(model: &'static str, workers: usize, handlers: usize) -> Place {
    Place {
        model,
        workers,
        handlers,
    }
}

/// On one worker, on two, on one and on threads, and on threads alone, some of which are none of a
/// server's.
const PLACES: [Place; 8] = [
    place("coroutines_epoll", 1, usize::MAX),
    place("coroutines_uring", 1, usize::MAX),
    place("coroutines_epoll", 2, usize::MAX),
    place("coroutines_uring", 2, usize::MAX),
    place("coroutines_epoll", 1, 1),
    place("threading", 0, usize::MAX),
    place("threading", 0, 1),
    place("threading", 0, 0),
];

/// Those of them that can be had here.
fn places() -> impl Iterator<Item = Place> {
    PLACES.into_iter().filter(|place| is_available(place.model))
}

/// Runs the roles side by side until all have ended, each within the deadline. A panic of one is one of
/// the test.
fn play(place: Place, roles: impl IntoIterator<Item = Role>) {
    let (tell, told) = channel();
    let mut handled = VecDeque::new();
    let mut others = Vec::new();
    let mut count = 0;
    for (number, role) in roles.into_iter().enumerate() {
        count += 1;
        let tell: Sender<_> = tell.clone();
        let role: Role = Box::new(move || {
            let ended = catch_unwind(AssertUnwindSafe(role));
            let _ = tell.send(ended.map_err(|_| number));
        });
        if number < place.handlers {
            handled.push_back(role);
        } else {
            others.push(role);
        }
    }
    let server = Serve { roles: handled };
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(2),
        forking: Forking::default(),
        workers: place.workers,
        breaker: 10,
    };
    let others: Vec<_> = others.into_iter().map(thread::spawn).collect();
    models.run(
        place.model,
        Until {
            server,
            all_ended: move || {
                for _ in 0..count {
                    let ended = told.recv_timeout(DEADLINE);
                    let ended = ended.unwrap_or_else(|_| panic!("a role hangs in {place:?}"));
                    assert_eq!(ended, Ok(()), "a role has panicked in {place:?}");
                }
            },
        },
    );
    for other in others {
        other.join().expect("it has ended");
    }
}

/// Roles that are handlers, one for each connection.
struct Serve {
    roles: VecDeque<Role>,
}

/// Serves them until all have ended.
struct Until<F> {
    server: Serve,
    all_ended: F,
}

impl<F: FnOnce()> UnderModel for Until<F> {
    fn run<M: Model + Clone>(self, model: M) -> ExitCode {
        let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0");
        let server = server.expect("bind");
        let target = Target::parse(&server.urls()[0]);
        let count = self.server.roles.len();
        let roles = Mutex::new(self.server.roles);
        let guard = server.spawn(move |_| {
            let role = roles.lock().expect("whole").pop_front();
            role.expect("a connection for each role")();
        });
        let _guard = guard.expect("serve");
        let _clients: Vec<_> = (0..count).map(|_| target.connect()).collect();
        (self.all_ended)();
        ExitCode::SUCCESS
    }
}

/// Runs one role in each kind of task.
fn everywhere(role: impl Fn() + Clone + Send + 'static) {
    for place in places().filter(|place| place.handlers == usize::MAX) {
        let role: Role = Box::new(role.clone());
        play(place, [role]);
    }
    role();
}
