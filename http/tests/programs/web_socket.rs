//! The fuzzing client of Autobahn, on the example `web_socket`: every case but those of compression, which the example
//! does not offer.

use std::fs;

use libtest_mimic::Trial;

use crate::program::Program;
use crate::{output, trial};

const INSTALL: &str = "in an environment of Python 2.7: pip install autobahntestsuite==25.10.1; its bin belongs in PATH";

pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    [trial("autobahn::web_socket".to_owned(), autobahn)].into_iter()
}

fn autobahn() {
    // A push each second would be none of the echoes that the cases expect.
    let example = Program::Itself("web_socket").start(&["127.0.0.1:0", "36000000"]);
    let addr = example.inet("tcp");
    let folder = tempfile::tempdir().expect("a directory");
    let (reports, spec) = (
        folder.path().join("reports"),
        folder.path().join("spec.json"),
    );
    let text = format!(
        "{{\"outdir\": {reports:?}, \"servers\": [{{\"agent\": \"example\", \"url\": \"ws://{addr}\"}}],
        \"cases\": [\"*\"], \"exclude-cases\": [\"12.*\", \"13.*\"], \"exclude-agent-cases\": {{}}}}"
    );
    fs::write(&spec, text).expect("write");
    let spec = spec.to_str().expect("a path");
    output(
        900,
        "wstest",
        &["--mode", "fuzzingclient", "--spec", spec],
        INSTALL,
    );
    let index = fs::read_to_string(reports.join("index.json")).expect("a report");
    let (mut case, mut count, mut bad) = (String::new(), 0, Vec::new());
    for line in index.lines().map(str::trim) {
        let Some((name, value)) = line.trim_end_matches(',').split_once(": ") else {
            continue;
        };
        match (name, value.trim_matches('"')) {
            (_, "{") => case = name.trim_matches('"').to_owned(),
            ("\"behavior\"", "OK" | "NON-STRICT" | "INFORMATIONAL") => count += 1,
            ("\"behaviorClose\"", "OK" | "INFORMATIONAL") => {}
            ("\"behavior\"" | "\"behaviorClose\"", verdict) => {
                bad.push(format!("{case}: {verdict}"));
            }
            _ => {}
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
    assert!(count > 200, "{count} cases: {index}");
}
