//! What a run has been measured on and with, so that its figures can be read later.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The versions of what was linked in. The runner and the peers are built by the same lock file.
const LOCK: &str = include_str!("../../Cargo.lock");

/// The packages whose versions matter.
const PACKAGES: [&str; 5] = ["tokio", "may", "io-uring", "hyper", "async-channel"];

/// The tools whose versions matter, and how they are asked.
const TOOLS: [(&str, &str, &str); 7] = [
    ("rustc", "rustc", "--version"),
    ("cc", "cc", "--version"),
    ("python", "python3", "--version"),
    ("go", "go", "version"),
    ("nginx", "nginx", "-v"),
    ("wrk", "wrk", "-v"),
    ("haproxy", "haproxy", "-v"),
];

/// What git is asked for the commit.
const COMMIT: [&str; 6] = [
    "-C",
    env!("CARGO_MANIFEST_DIR"),
    "describe",
    "--always",
    "--dirty",
    "--abbrev=12",
];

#[derive(Clone, Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    /// What the command says of its version.
    socketserver: String,
    /// The commit that the source was at, or one like it.
    commit: String,
    /// Tools, `missing` where there is none, and packages.
    versions: Vec<Version>,
}

#[derive(Clone, Serialize)]
struct Version {
    name: &'static str,
    version: String,
}

impl Machine {
    pub(crate) fn look(server: &str) -> Self {
        let tools = TOOLS.map(|(name, tool, flag)| Version {
            name,
            version: said(tool, &[flag]).unwrap_or_else(|| "missing".to_owned()),
        });
        let packages = PACKAGES.into_iter().filter_map(|name| {
            Some(Version {
                name,
                version: locked(LOCK, name)?.to_owned(),
            })
        });
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name| {
            let mut lines = cpu_info.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: kernel.trim().to_owned(),
            socketserver: said(server, &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
            commit: said("git", &COMMIT).unwrap_or_else(|| "unknown".to_owned()),
            versions: tools.into_iter().chain(packages).collect(),
        }
    }

    /// The lines that stand above a report.
    pub(crate) fn text(&self) -> String {
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|Version { name, version }| format!("  {name}: {version}\n"))
            .collect();
        format!(
            "{} x {}, Linux {}, {} of commit {}\n{}",
            self.processors,
            self.processor,
            self.kernel,
            self.socketserver,
            self.commit,
            versions.concat()
        )
    }
}

/// The first line that a program says, on either output.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    // What a wrapper says when it cannot run the program; some end with 1 after saying their version.
    if matches!(output.status.code(), None | Some(126 | 127)) {
        return None;
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

/// The version of a package in a lock file.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"'))
}
