//! What the documentation says of Python's module is what is played, and all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

fn document() -> String {
    read("../docs/coming-from-python.md")
}

/// The rows of `differences.txt` as the document's table has them.
fn rows() -> Vec<String> {
    let text = read("differences.txt");
    let mut rows = Vec::new();
    for block in text.split("\n[").skip(1) {
        let (name, lines) = block.split_once(']').expect("a name in brackets");
        let value = |key: &str| {
            let mut lines = lines.lines();
            let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.unwrap_or_default().trim().to_owned()
        };
        let mut scenarios = Vec::new();
        for place in lines.lines().filter_map(|line| line.strip_prefix("where ")) {
            let scenario = place.split(['/', ' ']).next().unwrap_or_default();
            let shown = format!("`{scenario}`");
            if !scenarios.contains(&shown) {
                scenarios.push(shown);
            }
        }
        let columns = [
            name.to_owned(),
            value("python"),
            value("ours"),
            value("why"),
            value("issue"),
            scenarios.join(", "),
        ];
        rows.push(format!("| {} |", columns.join(" | ")));
    }
    rows
}

#[test]
fn every_difference_is_documented_and_every_documented_one_is_played() {
    let document = document();
    let (_, table) = document
        .split_once("| difference |")
        .expect("the table of differences");
    let documented: Vec<_> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| "))
        .collect();
    assert_eq!(documented, rows());
}

#[test]
fn every_scenario_that_a_difference_names_exists() {
    let scenarios = read("scenarios.txt");
    let names: BTreeSet<_> = scenarios
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once(']'))
        .map(|(name, _)| name)
        .collect();
    for row in rows() {
        let last = row.rsplit(" | ").next().unwrap_or_default();
        for shown in last.trim_end_matches(" |").split(", ") {
            assert!(
                names.contains(shown.trim_matches('`')),
                "no scenario {shown}"
            );
        }
    }
}

#[test]
fn every_public_name_of_the_module_has_a_counterpart_or_a_reason() {
    let document = document();
    let mut code = String::new();
    let mut is_rust = false;
    for line in document.lines() {
        if line.starts_with("```") {
            is_rust = line.starts_with("```rust");
        } else if is_rust {
            let comment = line.split_once("// ").map(|(_, comment)| comment);
            code.push_str(comment.unwrap_or_default());
            code.push('\n');
        }
    }
    let words: BTreeSet<_> = code
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    for name in read("recorded/python_names.txt").lines() {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}`")))
            .unwrap_or_else(|| panic!("no row for {name}"));
        let counterpart = row.split(" | ").nth(1).unwrap_or_default();
        let has_reason = counterpart.starts_with("none");
        assert!(!counterpart.trim().is_empty(), "{row}");
        assert!(
            has_reason || words.contains(name),
            "no line of code for {name}"
        );
    }
}
