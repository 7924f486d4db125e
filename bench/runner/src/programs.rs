//! The programs that are run: builds them, finds them, and knows which this machine cannot run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::certificate;
use crate::scenarios::{FILES, Load, Scenario};

type Args = Vec<&'static str>;

/// How `socketserver workload` is told what a request is.
const WAITING: &str = "workload --listen tcp://127.0.0.1:0 --request-size 64 --cpu 0 --wait 200000";

/// Stands for a file of 10,000 networks among the arguments of a server.
pub(crate) const NETWORKS: &str = "@networks";

const TCP: &str = "tcp://127.0.0.1:0";

/// The file in `bench/peers/c` whose program is started for each connection.
const PROGRAM: &str = "program.c";

/// The file there that makes a server larger.
const BALLAST: &str = "ballast.c";

#[derive(Clone)]
pub(crate) enum Program {
    /// `socketserver serve echo --listen URL --model MODEL...`; the URLs `unix:@` and `unixgram:@` stand for a
    /// name that is free.
    Server(&'static str, Args),
    /// `socketserver workload`: each request of 64 bytes waits for 200 ms, under this model.
    Waiting(Args),
    /// `socketserver serve http DIR --model MODEL...`, with the files of the scenarios in DIR.
    Files(Args),
    /// `socketserver exec --listen URL --model MODEL...` of [`PROGRAM`].
    Exec(Args),
    /// `socketserver proxy --listen URL --model MODEL...`.
    Relay(Args),
    /// A server of `bench/peers/python/listener.py` that starts [`PROGRAM`].
    SuperServer(&'static str),
    /// A binary of `bench/peers` and its arguments.
    Rust(&'static str, Args),
    /// A file in `bench/peers/c` and its arguments.
    C(&'static str, Args),
    /// A file in `bench/peers/go` and its arguments.
    Go(&'static str, Args),
    /// A file in `bench/peers/python` and its arguments; `BENCH_FILES` in its environment is the directory of the files.
    Python(&'static str, Args),
}

pub(crate) struct Programs {
    /// Where cargo and the other compilers put what they build.
    target: PathBuf,
    server: PathBuf,
    /// Tools that this machine lacks.
    missing: Vec<&'static str>,
    /// Why a source file could not be compiled.
    failures: BTreeMap<&'static str, String>,
}

/// `bench/`
fn bench() -> &'static Path {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR"));
    runner.parent().unwrap_or(runner)
}

impl Programs {
    /// Builds what the scenarios need.
    pub(crate) fn build(scenarios: &[Scenario], server: Option<PathBuf>) -> Result<Self> {
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
        certificate::make()?;
        let tools = [
            "cc",
            "go",
            "python3",
            "nginx",
            "wrk",
            "h2load",
            "nghttp",
            "valgrind",
            "strace",
            "haproxy",
            "tcpserver",
            "xinetd",
            "socat",
        ]
        .into_iter();
        let mut programs = Self {
            target: target.to_owned(),
            server,
            missing: tools.filter(|tool| !exists(tool)).collect(),
            failures: BTreeMap::new(),
        };
        let networks = (0..10_000).map(|it| format!("10.{}.{}.0/24\n", it / 256, it % 256));
        fs::write(programs.networks(), networks.collect::<String>())?;
        programs.write_files().context("write the files")?;
        let subjects = scenarios.iter().flat_map(|scenario| &scenario.subjects);
        let upstreams = scenarios
            .iter()
            .filter_map(|scenario| scenario.load.upstream());
        for program in subjects
            .map(|subject| subject.program.clone())
            .chain(upstreams)
        {
            let file = match program {
                Program::C(file, _) | Program::Go(file, _) => file,
                Program::Exec(_) | Program::SuperServer(_) => PROGRAM,
                _ => continue,
            };
            if programs.missing(&program).is_some() || programs.failures.contains_key(file) {
                continue;
            }
            if let Err(err) = programs.compile(file) {
                programs.failures.insert(file, format!("{err:#}"));
            }
        }
        let is_laden = |scenario: &Scenario| matches!(scenario.load, Load::BesidePrograms(_));
        if scenarios.iter().any(is_laden)
            && let Err(err) = programs.compile(BALLAST)
        {
            programs.failures.insert(BALLAST, format!("{err:#}"));
        }
        Ok(programs)
    }

    /// The socketserver binary.
    pub(crate) fn server(&self) -> &Path {
        &self.server
    }

    /// What is lacking to run a program, most often a tool.
    pub(crate) fn missing(&self, program: &Program) -> Option<&'static str> {
        let tools: &[_] = match program {
            Program::C(..) => &["cc"],
            Program::Go(..) => &["go"],
            Program::Python("nginx.py", _) => &["python3", "nginx"],
            Program::Python("haproxy.py", _) => &["python3", "haproxy"],
            Program::Python("listener.py", _) => &["python3", "socat"],
            Program::Python(..) => &["python3"],
            Program::Exec(_) => &["cc"],
            Program::SuperServer(tool) => &["cc", "python3", tool],
            Program::Server(..)
            | Program::Waiting(_)
            | Program::Files(_)
            | Program::Relay(_)
            | Program::Rust(..) => &[],
        };
        tools.iter().find_map(|tool| self.lacks(tool))
    }

    /// A tool, if this machine has none of the kind.
    pub(crate) fn lacks(&self, tool: &str) -> Option<&'static str> {
        let mut missing = self.missing.iter().copied();
        missing.find(|missing| *missing == tool)
    }

    /// How a program is started.
    pub(crate) fn command(&self, program: &Program) -> Result<Command> {
        let (mut command, args) = match program {
            Program::Server(url, model) => {
                let mut command = Command::new(&self.server);
                command.args(["serve", "echo", "--listen", &free(url), "--model"]);
                (command, model)
            }
            Program::Waiting(model) => {
                let mut command = Command::new(&self.server);
                command.args(WAITING.split(' '));
                command.args(["--parent", &std::process::id().to_string(), "--model"]);
                (command, model)
            }
            Program::Files(model) => {
                let mut command = Command::new(&self.server);
                command.args(["serve", "http"]).arg(self.files());
                command.args(["--listen", TCP, "--model"]);
                (command, model)
            }
            Program::Exec(model) => {
                let mut command = Command::new(&self.server);
                command
                    .args(["exec", "--listen", TCP, "--model"])
                    .args(model);
                command.arg("--").arg(self.built(PROGRAM)?);
                return Ok(command);
            }
            Program::Relay(model) => {
                let mut command = Command::new(&self.server);
                command.args(["proxy", "--listen", TCP, "--model"]);
                (command, model)
            }
            Program::SuperServer(name) => {
                let mut command = python("listener.py");
                command.arg(name).arg(self.built(PROGRAM)?);
                return Ok(command);
            }
            Program::Rust(name, args) => (Command::new(self.target.join(name)), args),
            Program::C(file, args) | Program::Go(file, args) => {
                (Command::new(self.built(file)?), args)
            }
            Program::Python(file, args) => {
                let mut command = python(file);
                command.env("BENCH_FILES", self.files());
                (command, args)
            }
        };
        command.args(args.iter().map(|arg| match *arg {
            NETWORKS => format!("@{}", self.networks().display()),
            arg => arg.to_owned(),
        }));
        Ok(command)
    }

    /// The same with 1 GiB of memory that it has written to.
    pub(crate) fn laden(&self, program: &Program) -> Result<Command> {
        let mut command = self.command(program)?;
        command.env("LD_PRELOAD", self.built(BALLAST)?);
        Ok(command)
    }

    /// A file of 10,000 networks, none of which has a client.
    fn networks(&self) -> PathBuf {
        self.target.join("networks")
    }

    /// How a relay to the server at a URL is started.
    pub(crate) fn relay(&self, program: &Program, server: &str) -> Result<Command> {
        let mut command = self.command(program)?;
        match program {
            Program::Relay(_) => command.args(["--to", server]),
            _ => command.arg(server.trim_start_matches("tcp://")),
        };
        Ok(command)
    }

    pub(crate) fn load(&self) -> Command {
        Command::new(self.target.join("bench-load"))
    }

    /// The directory of the files that are served.
    fn files(&self) -> PathBuf {
        self.target.join("bench-files")
    }

    fn write_files(&self) -> Result<()> {
        fs::create_dir_all(self.files())?;
        for page in FILES {
            let content: Vec<u8> = page.content().collect();
            fs::write(self.files().join(page.path), content)?;
        }
        Ok(())
    }

    /// What a file of C or Go was compiled to.
    fn built(&self, file: &str) -> Result<PathBuf> {
        match self.failures.get(file) {
            Some(failure) => bail!("{failure}"),
            None => Ok(self.compiled(file)),
        }
    }

    fn compiled(&self, file: &str) -> PathBuf {
        self.target.join("peers").join(file).with_extension("")
    }

    /// Compiles a file of C or Go, unless that has been done.
    fn compile(&self, file: &str) -> Result<()> {
        let (compiler, args, directory) = if file.ends_with(".go") {
            ("go", &["build", "-o"][..], "peers/go")
        } else if file == PROGRAM {
            ("cc", &ALONE[..], "peers/c")
        } else if file == BALLAST {
            (
                "cc",
                &["-O2", "-Wall", "-shared", "-fPIC", "-o"][..],
                "peers/c",
            )
        } else {
            ("cc", &["-O2", "-Wall", "-o"][..], "peers/c")
        };
        let (source, program) = (bench().join(directory).join(file), self.compiled(file));
        let newer = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
        if newer(&program).is_ok_and(|built| newer(&source).is_ok_and(|edited| edited < built)) {
            return Ok(());
        }
        fs::create_dir_all(self.target.join("peers"))?;
        let mut command = Command::new(compiler);
        command.args(args).args([program, source]);
        let output = command
            .output()
            .with_context(|| format!("run {compiler}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{compiler} {file}: {}",
            said.lines().last().unwrap_or("no message")
        );
        Ok(())
    }
}

/// How a program without libraries is compiled.
const ALONE: [&str; 6] = [
    "-O2",
    "-Wall",
    "-static",
    "-nostdlib",
    "-fno-stack-protector",
    "-o",
];

fn python(file: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(bench().join("peers/python").join(file));
    command
}

/// A URL whose name nobody else listens on.
fn free(url: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    match url {
        "unix:@" | "unixgram:@" => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            format!("{url}bench-server-{}-{number}", std::process::id())
        }
        url => url.to_owned(),
    }
}

/// Whether a tool can be run at all. A wrapper that finds nothing to run says 127.
fn exists(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg(match tool {
        "go" => "version",
        "nginx" | "wrk" | "haproxy" => "-v",
        "socat" => "-V",
        "xinetd" => "-version",
        _ => "--version",
    });
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let code = command.status().ok().and_then(|status| status.code());
    !matches!(code, None | Some(126 | 127))
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
