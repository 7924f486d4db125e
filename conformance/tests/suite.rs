//! Every scenario on this crate, compared with what was recorded of CPython. `conformance/run`
//! compares with the Python that is there.

use std::process::Command;

#[test]
fn nothing_differs_that_is_not_documented() {
    let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .arg("--recorded")
        .output()
        .expect("the runner");
    let text = String::from_utf8_lossy(&output.stdout);
    // What is the same needs no word.
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("same") && !line.starts_with("differs as"))
        .collect();
    assert!(output.status.success(), "{}", lines.join("\n"));
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
