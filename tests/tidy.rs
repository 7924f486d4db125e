//! Rules of this project that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders with sources.
const EVERYWHERE: [&str; 10] = [
    "src",
    "cli/src",
    "conformance/src",
    "http/src",
    "http/tests",
    "http/examples",
    "tests",
    "cli/tests",
    "conformance/tests",
    "examples",
];

/// The names of all files in some folders of the project.
fn files(folders: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below the root");
                found.push(name.display().to_string());
            }
        }
    }
    found
}

/// Every Rust source in some folders, with its text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = files(folders);
    found.retain(|name| name.ends_with(".rs"));
    assert!(!found.is_empty(), "no sources in {folders:?}");
    let with_text = |name: String| {
        let text = fs::read_to_string(&name).expect("readable");
        (name, text)
    };
    found.into_iter().map(with_text).collect()
}

/// The names at the root of the crate, with those of its features.
const EXPORTS: &str = "
    Builder Connection Coroutines Datagram Error Forking Handled Handler HandlerError IntoOutcome
    Next Outcome Prefork Report RequestHandler Sequential Server ServerGuard ServerHandle Tcp
    ThreadPool Threading Udp UnixDatagram UnixSeqpacket UnixStream per_connection per_request";

#[test]
fn the_root_exports_what_is_listed() {
    let source = fs::read_to_string("src/lib.rs").expect("readable");
    let mut found = BTreeSet::new();
    for line in source.lines() {
        if let Some(alias) = line.strip_prefix("pub type ") {
            found.extend(alias.split(' ').next());
        } else if let Some(path) = line.strip_prefix("pub use ") {
            let names = path.rsplit("::").next().unwrap_or_default();
            let names = names.trim_matches(['{', '}', ';']).split(',');
            found.extend(names.map(|name| name.trim_matches([' ', '{', '}', ';'])));
        }
    }
    let listed = EXPORTS.split_whitespace().collect();
    assert_eq!(found, listed);
}

/// The pages that show measurements.
const PAGES: [&str; 2] = ["README.md", "BENCHMARKING.md"];

#[test]
fn what_is_recorded_is_shown() {
    let pages = PAGES.map(|page| fs::read_to_string(page).expect("a page"));
    let mut recorded = files(&["bench/runs"]);
    recorded.retain(|name| !pages.iter().any(|page| page.contains(&format!("({name})"))));
    assert!(recorded.is_empty(), "no page shows {recorded:?}");
}

#[test]
fn unsafe_code_is_where_architecture_says() {
    let inventory = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let inventory = inventory
        .split_once("## Unsafe code")
        .unwrap()
        .1
        .split_once("\n## ")
        .unwrap()
        .0;
    let listed: BTreeSet<_> = inventory
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    // Written in two parts, so that this file does not match.
    let marker = concat!("expect(unsafe", "_code");
    let used: BTreeSet<_> = sources(&EVERYWHERE)
        .into_iter()
        .filter(|(_, text)| text.split_whitespace().collect::<String>().contains(marker))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(used, listed);
}

/// The layers of the library, the lowest first, as in ARCHITECTURE.md.
fn layers() -> Vec<String> {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("readable");
    let (_, section) = text.split_once("## Layers").expect("a section on layers");
    let section = section.split("\n## ").next().expect("a first part");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.map(|row| row.split('`').next().unwrap_or(row).to_owned());
    names.collect()
}

/// The code of a source, without comments and tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next();
    let code = code.and_then(|code| code.split("#[cfg(all(test").next());
    let code = code.expect("a first part");
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of the crate that a source names outside its tests.
fn modules_in(code: &str) -> BTreeSet<String> {
    let paths = code.split("crate::").skip(1);
    let first = paths.map(|path| {
        path.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
    });
    let names = first
        .flatten()
        .filter(|name| name.starts_with(char::is_lowercase));
    names.map(str::to_owned).collect()
}

#[test]
fn every_arrow_points_downwards() {
    let layers = layers();
    let place = |module: &str| layers.iter().position(|layer| layer == module);
    let mut seen = BTreeSet::new();
    for (name, text) in sources(&["src"]) {
        if name == "src/lib.rs" {
            continue;
        }
        let own = name["src/".len()..]
            .split(['/', '.'])
            .next()
            .expect("a module");
        let from = place(own);
        assert!(
            from.is_some(),
            "{own} is not among the layers of ARCHITECTURE.md"
        );
        seen.insert(own.to_owned());
        let code = code(&text);
        assert!(
            !code.contains(" super::"),
            "{name} names its parent by `super`"
        );
        for module in modules_in(&code) {
            let downwards = module == own || place(&module) < from;
            assert!(
                downwards,
                "{name} must not know `{module}`, which is above it"
            );
            assert!(
                place(&module).is_some(),
                "{name} names `{module}`, which is no layer"
            );
        }
    }
    let unused: Vec<_> = layers
        .iter()
        .filter(|layer| !seen.contains(*layer))
        .collect();
    assert!(
        unused.is_empty(),
        "ARCHITECTURE.md has layers that are not there: {unused:?}"
    );
}

/// The owner of the runtime passes in every text that names servers.
#[test]
fn a_runtime_names_no_server() {
    for (name, text) in sources(&["src/task"]) {
        let code = code(&text).replace("socketserver", "");
        let line = code.lines().find(|line| line.contains("server"));
        assert_eq!(line, None, "{name} names servers");
    }
}

#[test]
fn a_model_knows_no_transport() {
    for (name, text) in sources(&["src/model"]) {
        for transport in ["tcp", "udp", "unix", "stream", "datagram"] {
            let named = code(&text).contains(&format!("net::{transport}"));
            assert!(!named, "{name} names the transport {transport}");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_own() {
    for (name, text) in sources(&EVERYWHERE) {
        let lines = text.lines().count();
        assert!(lines <= 700, "{name} has {lines} lines");
        assert!(
            text.starts_with("//! "),
            "{name} does not begin with what it owns"
        );
    }
}

/// The first program of a page of the manual that runs, line by line.
fn program(page: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("src/manual/{page}.rs")).expect("readable");
    let (_, program) = text.split_once("//! ```\n//! use ").expect("a program");
    let program = program.split("//! ```").next().expect("a first part");
    program.lines().map(str::to_owned).collect()
}

#[test]
fn only_the_model_differs_between_threads_and_coroutines() {
    let (threads, coroutines) = (program("first_server"), program("coroutines"));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.map(|line| line.replace("//! ", "")).collect()
    };
    assert_eq!(
        only(&threads, &coroutines),
        [
            "use socketserver::{Connection, Server, Tcp, Threading};",
            "        .model(Threading::default())",
        ]
    );
    assert_eq!(
        only(&coroutines, &threads),
        [
            "use socketserver::{Connection, Coroutines, Server, Tcp};",
            "        // SAFETY: the handler restores no thread-local after a read or a write.",
            "        .model(unsafe { Coroutines::new() })",
        ]
    );
}

const TESTS: [&str; 4] = ["tests", "cli/tests", "conformance/tests", "http/tests"];

#[test]
fn tests_neither_sleep_nor_spin_nor_are_ignored() {
    let forbidden = [
        concat!("thread::", "sleep"),
        concat!("thread::", "yield_now"),
        concat!("#[", "ignore"),
    ];
    for (name, text) in sources(&TESTS) {
        for word in forbidden {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

/// Upper bounds that are not about speed: the difference between the clocks of the service `time`
/// and of the test.
const NO_SPEED: [&str; 1] = ["cli/tests/cli.rs: off < DEADLINE"];

/// Speed is counted in tests and measured in `bench`, so that a busy machine makes no test fail.
/// Each wait has a deadline, and a lower bound may be asserted.
#[test]
fn tests_assert_no_upper_bound_on_time() {
    let mut bounds = Vec::new();
    for (name, text) in sources(&TESTS).into_iter().chain(unit_tests()) {
        let spans = spans(&text);
        let upper = conditions(&text).filter(|condition| is_upper_bound(condition, &spans));
        bounds.extend(upper.map(|condition| format!("{name}: {condition}")));
    }
    bounds.retain(|bound| !NO_SPEED.contains(&&**bound));
    assert!(bounds.is_empty(), "{}", bounds.join("\n"));
}

/// The tests within the sources.
fn unit_tests() -> impl Iterator<Item = (String, String)> {
    let all = sources(&["src", "cli/src", "conformance/src"]).into_iter();
    all.filter_map(|(name, text)| {
        let (_, tests) = text.split_once("#[cfg(test)]\nmod tests {").or_else(|| {
            let is_all = name.ends_with("/tests.rs");
            is_all.then_some(("", text.as_str()))
        })?;
        let tests = tests.to_owned();
        Some((name, tests))
    })
}

/// The condition of each assertion in a text, on one line.
fn conditions(text: &str) -> impl Iterator<Item = String> {
    let starts = text.split(concat!("assert", "!(")).skip(1);
    starts.map(|rest| {
        let mut depth = 0;
        let end = rest.find(|letter| {
            match letter {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            depth < 0 || depth == 0 && letter == ','
        });
        let condition = &rest[..end.unwrap_or(rest.len())];
        let words: Vec<_> = condition.split_whitespace().collect();
        words.join(" ")
    })
}

/// The durations in a text: those made by `Duration`, and the constants.
fn spans(text: &str) -> Vec<&str> {
    let constants = text.split("const ").skip(1).filter_map(|rest| {
        let (name, value) = rest.split_once(": ")?;
        let is_name = name.chars().all(|letter| !letter.is_lowercase());
        (is_name && value.starts_with("Duration")).then_some(name)
    });
    let mut spans: Vec<_> = constants.collect();
    spans.extend(["Duration::", "ms(", "DEADLINE"]);
    spans
}

/// Whether the condition requires that something takes less than a time. A test's own deadline does
/// not count.
fn is_upper_bound(condition: &str, spans: &[&str]) -> bool {
    let mut parts = condition.split(" && ").flat_map(|part| part.split(" || "));
    parts.any(|part| {
        let sides = |operator| part.split_once(operator);
        let less = [" < ", " <= "].into_iter().find_map(sides);
        let more = [" > ", " >= "].into_iter().find_map(sides);
        let Some((smaller, larger)) = less.or_else(|| more.map(|(left, right)| (right, left)))
        else {
            return false;
        };
        let is_deadline = smaller == "Instant::now()";
        let is_time = |side: &str| spans.iter().any(|span| side.contains(span));
        !is_deadline && (smaller.contains(".elapsed()") || is_time(larger))
    })
}

#[test]
fn an_upper_bound_on_time_is_seen() {
    let text = "const PROMPT: Duration = Duration::from_millis(50);";
    let sees = |condition: &str| is_upper_bound(condition, &spans(text));
    for bound in [
        "start.elapsed() < Duration::from_secs(1)",
        "best < PROMPT",
        "count > 0 && pause <= ms(1000)",
        "Duration::from_secs(1) > start.elapsed()",
        "start.elapsed() <= limit",
    ] {
        assert!(sees(bound), "{bound}");
    }
    for other in [
        "start.elapsed() >= Duration::from_millis(100)",
        "PROMPT <= start.elapsed()",
        "Instant::now() < end",
        "Instant::now() < end + DEADLINE",
        "waits < 4",
    ] {
        assert!(!sees(other), "{other}");
    }
}

/// Cargo builds the examples of all packages into one folder.
#[test]
fn no_two_examples_have_the_same_name() {
    let mut names = BTreeSet::new();
    for file in files(&["examples", "http/examples"]) {
        let name = file.rsplit('/').next().expect("a name").to_owned();
        assert!(!name.ends_with(".rs") || names.insert(name), "{file}");
    }
}
