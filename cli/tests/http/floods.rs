//! Lines that clients cause without end: so many a second, over all processes.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Site, get};

/// More rounds than a server needs to say something.
const ROUNDS_MAX: usize = 100_000;

/// With worker processes, and with a process for each connection.
const MODELS: [&str; 3] = ["threading", "prefork --workers 4", "prefork:forking"];

const HEAD: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\n";

/// Requests a path until the server has said `end` and has answered 20 requests. Checks that it says no more than so many
/// lines a second with `part`.
#[track_caller]
fn flood(model: &str, site: &Site, path: &str, part: &str, end: &str, lines: u64) {
    let start = Instant::now();
    let mut server = site.serve(&format!("--cgi-bin cgi-bin --model {model}"));
    let (mut count, mut has_ended) = (0, false);
    let mut check = |line: String| {
        count += u64::from(line.contains(part));
        has_ended |= line.contains(end);
        let most = lines * (start.elapsed().as_secs() + 2);
        assert!(count <= most, "{model}: {count} lines of {most}: {line}");
        has_ended
    };
    let (mut requests, mut is_over) = (0, false);
    while requests < 20 || !is_over {
        get(&server.urls[0], path);
        requests += 1;
        assert!(requests < ROUNDS_MAX, "{model}: no line: {end}");
        while let Some(line) = server.process.line_within(Duration::ZERO) {
            is_over = check(line);
        }
    }
    server.process.signal(Signal::TERM);
    server.process.exit().stderr.into_iter().for_each(|line| {
        check(line);
    });
}

const MORE: &str = " more since the last report)";

#[test]
fn programs_that_fail_are_a_line_a_second() {
    let site = Site::new();
    site.program("cgi-bin/run", &format!("{HEAD}exit 3"));
    for model in MODELS {
        let part = "program ended: exit status 3";
        flood(model, &site, "/cgi-bin/run", part, MORE, 1);
    }
}

#[test]
fn requests_that_fail_are_a_line_a_second() {
    let site = Site::new();
    site.program("cgi-bin/run", "#!/bin/sh\necho no head\n");
    for model in MODELS {
        flood(model, &site, "/cgi-bin/run", "/cgi-bin/run: 502: ", MORE, 1);
    }
}

#[test]
fn lines_of_programs_are_a_hundred_a_second() {
    let site = Site::new();
    site.program(
        "cgi-bin/run",
        &format!("{HEAD}yes a line | head -n 60 >&2\n"),
    );
    for model in MODELS {
        let (part, end) = (", standard error: a line", " lines were dropped");
        flood(model, &site, "/cgi-bin/run", part, end, 100);
    }
}
