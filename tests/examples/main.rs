//! Every example as its user runs it, and its handler under every other model: a process of its
//! own, and a client that talks to it. Three examples also exist on Python's `socketserver`.
//! Without python3 those are ignored, with a message; with `CI_STRICT=1` that is a failure.

mod aborts;
#[path = "../support/arguments.rs"]
mod arguments;
mod at_once;
#[path = "../support/models.rs"]
mod models;
mod play;
#[path = "../support/poll.rs"]
mod poll;
mod program;
mod talk;

/// The examples themselves. The tests call everything but `main`.
#[path = "../../examples"]
#[expect(dead_code, reason = "see above")]
mod examples {
    pub(crate) mod adopted_socket;
    pub(crate) mod background;
    #[cfg(feature = "coroutines")]
    pub(crate) mod chat;
    pub(crate) mod counting;
    pub(crate) mod graceful_stop;
    pub(crate) mod hooks;
    pub(crate) mod http_hello;
    pub(crate) mod inetd;
    pub(crate) mod key_value;
    pub(crate) mod login;
    pub(crate) mod messages;
    pub(crate) mod own_transport;
    pub(crate) mod poll_loop;
    pub(crate) mod pool;
    pub(crate) mod prefork;
    pub(crate) mod proxy;
    #[cfg(feature = "coroutines")]
    pub(crate) mod pubsub;
    pub(crate) mod request_handler;
    #[cfg(feature = "coroutines")]
    pub(crate) mod resolver;
    pub(crate) mod tftp;
    pub(crate) mod two_transports;
    pub(crate) mod udp_echo;
    pub(crate) mod unix_datagram_log;
    pub(crate) mod websocket;
}

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::Trial;

use program::{Program, sources};

/// An example, and what the conversation with it shows.
struct Row {
    example: &'static str,
    what: &'static str,
    talk: fn(Program),
    /// Models that the example does not run under, and why. A word stands for the models that begin
    /// with it.
    except: &'static [(&'static str, &'static str)],
}

/// Makes rows: the conversation has the name of the example.
macro_rules! rows {
    ($($example:ident $what:ident, except $except:expr;)*) => {
        [$(Row {
            example: stringify!($example),
            what: stringify!($what),
            talk: talk::$example,
            except: &$except,
        }),*]
    };
}

/// Why some examples do not run under some models.
const ONE_AT_A_TIME: &str = "a client that stays connected keeps other clients waiting";
const NO_MEMORY_IN_COMMON: &str = "each process has its own clients and state";
const THREADS: &str = "it has a second thread, and forking needs a single-threaded process";

const ROWS: [Row; 25] = rows! {
    hello greets_every_client, except [];
    udp_echo sends_every_datagram_back, except [];
    unix_datagram_log numbers_the_lines_that_anyone_sends, except [];
    key_value shares_its_store_between_clients_that_stay, except [
        ("forking prefork", NO_MEMORY_IN_COMMON),
    ];
    login remembers_each_client_between_its_lines, except [];
    http_hello serves_its_page_and_refuses_nonsense, except [("sequential", ONE_AT_A_TIME)];
    request_handler knows_its_user_and_always_finishes, except [];
    two_transports reverses_lines_on_both, except [("sequential", ONE_AT_A_TIME)];
    graceful_stop lets_clients_finish_and_closes_silent_ones, except [("sequential", ONE_AT_A_TIME)];
    background counts_its_clients_and_stops_at_the_end_of_input, except [
        ("forking prefork", THREADS),
    ];
    hooks report_refused_and_failed_connections, except [
        ("forking prefork", "each process has its own descriptors, limit and lines"),
    ];
    inetd becomes_the_program_for_each_connection, except [
        ("sequential threading pool coroutines", "the program takes the place of the server"),
        (
            "prefork_sequential prefork_threading prefork_pool prefork_coroutines",
            "the program takes the place of a worker",
        ),
    ];
    prefork answers_from_its_workers_and_replaces_dead_ones, except [
        ("sequential threading pool forking coroutines", "it has no workers to replace"),
        ("prefork_forking", "its workers have children that answer"),
    ];
    chat sends_each_line_to_all_clients_and_drops_slow_ones, except [
        ("sequential", ONE_AT_A_TIME),
        ("forking prefork", NO_MEMORY_IN_COMMON),
    ];
    proxy passes_both_directions_on_at_once, except [("sequential", ONE_AT_A_TIME)];
    pool shares_four_connections_and_replaces_broken_ones, except [
        ("sequential", ONE_AT_A_TIME),
        ("forking prefork", "each process has its own connections"),
    ];
    pubsub sends_lines_to_all_subscribers_and_drops_slow_ones, except [
        ("sequential", ONE_AT_A_TIME),
        ("forking prefork", NO_MEMORY_IN_COMMON),
    ];
    websocket pushes_while_it_reads, except [("sequential", ONE_AT_A_TIME)];
    resolver answers_names_with_their_addresses, except [("sequential", ONE_AT_A_TIME)];
    poll_loop serves_both_and_ends_on_request, except [("forking prefork", THREADS)];
    adopted_socket serves_on_its_standard_input, except [];
    own_transport keeps_messages_apart, except [];
    messages keep_their_boundaries, except [];
    counting counts_what_each_client_sends_and_gets, except [];
    tftp sends_files_and_reports_missing_ones, except [];
};

/// The examples that need the feature.
const OF_COROUTINES: [&str; 3] = ["chat", "pubsub", "resolver"];

/// The examples that also exist in Python.
const IN_PYTHON: [&str; 3] = ["key_value", "tftp", "unix_datagram_log"];

impl Row {
    /// Whether this example can run under a model.
    fn fits(&self, model: &str) -> bool {
        let mut words = self.except.iter().flat_map(|(words, _)| words.split(' '));
        !words.any(|word| model.starts_with(word))
    }

    fn trial(&self, how: &str, program: Program, available: bool) -> Trial {
        let talk = self.talk;
        let name = format!("{}::{how}::{}", self.example, self.what);
        let trial = Trial::test(name, move || {
            talk(program);
            Ok(())
        });
        trial.with_ignored_flag(!available)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--serve") {
        return play::main(&args[1..]);
    }
    let models = models::NAMES.map(|model| (model, models::is_available(model)));
    let python = is_there("python3");
    let mut trials = vec![Trial::test("every_example_is_in_the_tables", || {
        every_example_is_in_the_tables();
        Ok(())
    })];
    trials.extend(aborts::trials(is_built));
    for row in ROWS {
        let example = row.example;
        let built = is_built(example);
        trials.push(row.trial("itself", Program::Itself(example), built));
        if IN_PYTHON.contains(&example) {
            trials.push(row.trial("in_python", Program::InPython(example), python));
        }
        for (model, available) in models {
            if row.fits(model) {
                let program = Program::Under(example, model);
                trials.push(row.trial(model, program, available && built));
            }
        }
    }
    libtest_mimic::run(&arguments::arguments(), trials).exit_code()
}

/// Whether the features are there that an example needs.
fn is_built(example: &str) -> bool {
    cfg!(feature = "coroutines") || !OF_COROUTINES.contains(&example)
}

fn every_example_is_in_the_tables() {
    assert_eq!(programs("rs"), names(ROWS.map(|row| row.example)));
    assert_eq!(programs("py"), names(IN_PYTHON));
    let index = fs::read_to_string(sources().join("README.md")).expect("the index");
    for row in ROWS {
        let name = row.example;
        let source = fs::read_to_string(sources().join(format!("{name}.rs"))).expect("a text");
        let lines = source.lines().count();
        let most = match name {
            "hello" => 15,
            "own_transport" => 74,
            _ => 59,
        };
        assert!(lines <= most, "{name} has {lines} lines, more than {most}");
        // At the end of a command in code, or with arguments.
        let features = if OF_COROUTINES.contains(&name) {
            "--features coroutines "
        } else {
            ""
        };
        let command = format!("cargo run {features}--example {name}");
        let listed = ["`", " "].map(|end| index.contains(&format!("{command}{end}")));
        assert!(listed.contains(&true), "{name} is not in the index");

        for words in row.except.iter().flat_map(|(words, _)| words.split(' ')) {
            let known = models::NAMES.iter().any(|model| model.starts_with(words));
            assert!(
                known,
                "{name} is no exception to {words:?}: no model is called so"
            );
        }
        for driver in ["coroutines_epoll", "coroutines_uring"] {
            let mut models = models::NAMES.iter().filter(|model| model.ends_with(driver));
            let served = models.any(|model| row.fits(model));
            // This program needs a process of its own.
            assert_eq!(served, name != "inetd", "{name} under {driver}");
        }
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The names of all files below `examples/` with this extension.
fn programs(extension: &str) -> BTreeSet<String> {
    let folders = [sources(), sources().join("python")];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = files.map(|file| file.expect("a file").path());
    let named = paths.filter(|path| path.extension().is_some_and(|it| it == extension));
    let stems = named.map(|path| {
        path.file_stem()
            .and_then(|stem| stem.to_str())
            .map(str::to_owned)
    });
    stems.map(|stem| stem.expect("a name of text")).collect()
}

/// Whether a tool is installed; prints a message if it is not.
#[expect(clippy::print_stderr, reason = "a skipped test prints why")]
pub(crate) fn is_there(tool: &str) -> bool {
    let version = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        let is_strict = std::env::var_os("CI_STRICT").is_some_and(|value| value == "1");
        assert!(!is_strict, "there is no {tool}");
        eprintln!("{tool} is not installed: its tests did not run");
    }
    is_there
}
