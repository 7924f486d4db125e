//! Rules of this project that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where there are sources.
const EVERYWHERE: [&str; 7] = [
    "src",
    "cli/src",
    "conformance/src",
    "tests",
    "cli/tests",
    "conformance/tests",
    "examples",
];

/// Every Rust source of the library, the command and their tests, with its text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .expect("below the root")
                    .display()
                    .to_string();
                found.push((name, fs::read_to_string(&path).expect("readable")));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folders:?}");
    found
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
    // Spelled in two parts, so that this file is not one of them.
    let marker = concat!("expect(unsafe", "_code");
    let used: BTreeSet<_> = sources(&EVERYWHERE)
        .into_iter()
        .filter(|(_, text)| text.split_whitespace().collect::<String>().contains(marker))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(used, listed);
}

/// A folder or file, and what it must not import.
const LAYERS: &[(&str, &[&str])] = &[
    ("src/sys/", &["crate::"]),
    (
        "src/coro/",
        &[
            "crate::model",
            "crate::server",
            "crate::transport",
            "crate::state",
            "crate::handler",
        ],
    ),
    (
        "src/transport/",
        &[
            "crate::model",
            "crate::server",
            "crate::accept",
            "crate::handler",
            "crate::service",
        ],
    ),
    (
        "src/handler/",
        &[
            "crate::model",
            "crate::server",
            "crate::accept",
            "crate::transport",
            "crate::state",
        ],
    ),
    (
        "src/model/",
        &[
            "transport::tcp",
            "transport::udp",
            "transport::unix",
            "transport::stream",
            "transport::datagram",
        ],
    ),
    (
        "src/state/mod.rs",
        &[
            "crate::model",
            "crate::server",
            "crate::transport",
            "crate::accept",
            "crate::service",
        ],
    ),
];

#[test]
fn layers_know_only_what_is_below_them() {
    for (name, text) in sources(&["src"]) {
        // The tests at the bottom of a file may use what they like.
        let code = text
            .split_once("#[cfg(test)]")
            .map_or(text.as_str(), |(code, _)| code);
        let imports = code
            .lines()
            .filter(|line| line.trim_start().starts_with("use "));
        let imports: Vec<_> = imports.collect();
        for (_, forbidden) in LAYERS.iter().filter(|(place, _)| name.starts_with(place)) {
            for import in &imports {
                let own = name.starts_with("src/sys/") && import.contains("crate::sys");
                let breaks = forbidden
                    .iter()
                    .find(|part| import.contains(**part) && !own);
                assert!(
                    breaks.is_none(),
                    "{name} must not know {breaks:?}: {import}"
                );
            }
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

#[test]
fn tests_neither_sleep_nor_are_ignored() {
    let forbidden = [concat!("thread::", "sleep"), concat!("#[", "ignore")];
    for (name, text) in sources(&["tests", "cli/tests", "conformance/tests"]) {
        for word in forbidden {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}
