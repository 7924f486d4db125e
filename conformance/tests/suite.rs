//! Every scenario on this crate, compared with what was recorded of CPython. `conformance/run`
//! compares with the Python that is there.

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn nothing_differs_that_is_not_documented() {
    let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .arg("--recorded")
        .output()
        .expect("the runner");
    let text = String::from_utf8_lossy(&output.stdout);
    every_upstream_test_is_among(&text);
    // What is the same needs no word.
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("same") && !line.starts_with("differs as"))
        .collect();
    assert!(output.status.success(), "{}", lines.join("\n"));
}

/// Each test of CPython's own names what plays the same: cells that were played, or a test beside this one.
fn every_upstream_test_is_among(text: &str) {
    let cells = ["same ", "differs as documented ", "DIFFERS "];
    let name = |line: &str| {
        let rest = cells.iter().find_map(|word| line.strip_prefix(word))?;
        let name = rest.split([' ', ':']).find(|word| !word.is_empty())?;
        Some(name.to_owned())
    };
    let played: BTreeSet<_> = text.lines().filter_map(name).collect();
    let is_test = |name: &str| include_str!("docs.rs").contains(&format!("\nfn {name}() {{"));
    let tests = include_str!("../upstream.txt").lines();
    for line in tests.filter(|line| line.contains(".test_")) {
        let mut words = line.split(' ');
        let test = words.next().expect("a name");
        let missing: Vec<_> = words
            .clone()
            .filter(|name| !played.contains(*name) && !is_test(name))
            .collect();
        assert!(words.next().is_some(), "{test} names nothing");
        assert!(missing.is_empty(), "{test}: nothing plays {missing:?}");
    }
}

#[test]
fn the_summary_counts_every_cell() {
    let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .args(["--recorded", "echo/tcp"])
        .output()
        .expect("the runner");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("no Python here (--recorded)"), "{text}");
    assert!(
        text.contains("models that Python has: 3 cells, 3 same"),
        "{text}"
    );
    assert!(
        text.contains("models that Python lacks: 4 cells, 4 same"),
        "{text}"
    );
}
