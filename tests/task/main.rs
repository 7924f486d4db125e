//! Futures, timeouts and scopes, in coroutines of one worker and of several, on threads, and between coroutines
//! and threads.

#[path = "../support/mod.rs"]
mod support;

mod channels;
mod descriptors;
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

/// One of the concurrent parts of a test.
type Role = Box<dyn FnOnce() + Send>;

/// The place where the roles of a test run.
#[derive(Clone, Copy, Debug)]
struct Place {
    model: &'static str,
    workers: usize,
    /// The number of roles that run in handlers; the others run on threads of their own.
    handlers: usize,
}

const fn place(model: &'static str, workers: usize, handlers: usize) -> Place {
    Place {
        model,
        workers,
        handlers,
    }
}

/// One worker, two workers, one worker and a thread, and threads: all in handlers, some in handlers, none in
/// handlers.
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

/// Returns the places that this system supports.
fn places() -> impl Iterator<Item = Place> {
    PLACES.into_iter().filter(|place| is_available(place.model))
}

/// Runs the roles concurrently until all have ended. The test fails if a role panics, or misses the deadline.
fn play(place: Place, roles: impl IntoIterator<Item = Role>) {
    let (ended, ends) = channel();
    let mut handled = VecDeque::new();
    let mut others = Vec::new();
    let mut count = 0;
    for (number, role) in roles.into_iter().enumerate() {
        count += 1;
        let ended: Sender<_> = ended.clone();
        let role: Role = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(role));
            let _ = ended.send(result.map_err(|_| number));
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
                let patience =
                    DEADLINE * (1 + u32::try_from(channels::rounds()).expect("few rounds") / 1000);
                for _ in 0..count {
                    let end = ends.recv_timeout(patience);
                    let end = end.unwrap_or_else(|_| panic!("a role hangs in {place:?}"));
                    assert_eq!(end, Ok(()), "a role has panicked in {place:?}");
                }
            },
        },
    );
    for other in others {
        other.join().expect("the role has ended");
    }
}

/// The roles that run in handlers, one for each connection.
struct Serve {
    roles: VecDeque<Role>,
}

/// Serves until all roles have ended.
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

/// Runs a role in each kind of task.
fn everywhere(role: impl Fn() + Clone + Send + 'static) {
    for place in places().filter(|place| place.handlers == usize::MAX) {
        let role: Role = Box::new(role.clone());
        play(place, [role]);
    }
    role();
}
