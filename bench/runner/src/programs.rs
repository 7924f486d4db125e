//! The programs that are run: builds them, finds them, and knows which this machine cannot run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::scenarios::Scenario;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `socketserver serve echo --listen URL --model MODEL...`
    Server(&'static str, &'static [&'static str]),
    /// A binary of `bench/peers` and its arguments.
    Rust(&'static str, &'static [&'static str]),
    /// A file in `bench/peers/c` and its arguments.
    C(&'static str, &'static [&'static str]),
    /// A file in `bench/peers/python` and its arguments.
    Python(&'static str, &'static [&'static str]),
}

pub(crate) struct Programs {
    /// Where cargo and cc put what they build.
    target: PathBuf,
    server: PathBuf,
    /// Tools that this machine lacks.
    missing: Vec<&'static str>,
}

/// `bench/`
fn bench() -> &'static Path {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR"));
    runner.parent().unwrap_or(runner)
}

impl Programs {
    /// Builds what the scenarios need.
    pub(crate) fn build(scenarios: &[&Scenario], server: Option<PathBuf>) -> Result<Self> {
        let target = std::env::current_exe().context("find the runner's own path")?;
        let target = target.parent().context("the runner lies in no directory")?;
        let server = match server {
            Some(server) => server,
            None => cargo(&bench().join(".."), &["-p", "socketserver-cli"])?
                .remove("socketserver")
                .context("cargo has built no socketserver")?,
        };
        ensure!(server.is_file(), "{} is no program", server.display());
        cargo(bench(), &["-p", "bench-load", "-p", "bench-peers"])?;
        let mut programs = Self {
            target: target.to_owned(),
            server,
            missing: Vec::new(),
        };
        programs.missing = ["cc", "python3"]
            .into_iter()
            .filter(|tool| !exists(tool))
            .collect();
        let subjects = scenarios.iter().flat_map(|scenario| scenario.subjects);
        let compiled = subjects.filter_map(|subject| match subject.program {
            Program::C(file, _) if programs.missing(subject.program).is_none() => Some(file),
            _ => None,
        });
        for file in compiled {
            programs.compile(file)?;
        }
        Ok(programs)
    }

    /// The tool that this machine lacks to run a program.
    pub(crate) fn missing(&self, program: Program) -> Option<&'static str> {
        let tool = match program {
            Program::C(..) => "cc",
            Program::Python(..) => "python3",
            Program::Server(..) | Program::Rust(..) => return None,
        };
        self.missing
            .iter()
            .copied()
            .find(|missing| *missing == tool)
    }

    pub(crate) fn command(&self, program: Program) -> Command {
        match program {
            Program::Server(url, model) => {
                let mut command = Command::new(&self.server);
                command.args(["serve", "echo", "--listen", url, "--model"]);
                command.args(model);
                command
            }
            Program::Rust(name, args) => {
                let mut command = Command::new(self.target.join(name));
                command.args(args);
                command
            }
            Program::C(file, args) => {
                let mut command = Command::new(self.compiled(file));
                command.args(args);
                command
            }
            Program::Python(file, args) => {
                let mut command = Command::new("python3");
                command
                    .arg(bench().join("peers/python").join(file))
                    .args(args);
                command
            }
        }
    }

    pub(crate) fn load(&self) -> Command {
        Command::new(self.target.join("bench-load"))
    }

    fn compiled(&self, file: &str) -> PathBuf {
        self.target.join("c").join(file).with_extension("")
    }

    fn compile(&self, file: &str) -> Result<()> {
        let (source, program) = (bench().join("peers/c").join(file), self.compiled(file));
        let newer = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
        if newer(&program).is_ok_and(|built| newer(&source).is_ok_and(|edited| edited < built)) {
            return Ok(());
        }
        fs::create_dir_all(self.target.join("c"))?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-Wall", "-o"]).args([program, source]);
        let status = command.status().context("run cc")?;
        ensure!(status.success(), "cc {file}: {status}");
        Ok(())
    }
}

fn exists(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--version");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds packages of a workspace, and returns its binaries by name.
fn cargo(workspace: &Path, packages: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    eprintln!("building {}", packages.join(" "));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "build",
            "--release",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .args(packages)
        .stderr(Stdio::inherit());
    let output = command.output().context("run cargo build")?;
    if !output.status.success() {
        bail!("cargo build {}: {}", packages.join(" "), output.status);
    }
    let mut binaries = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if let Some(path) = message["executable"].as_str() {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            binaries.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(binaries)
}
