//! Plays every scenario on CPython's `socketserver` and on this crate, and compares what was seen.
#![expect(clippy::print_stdout, reason = "a command speaks to its user")]
#![expect(clippy::print_stderr, reason = "a command speaks to its user")]

mod client;
mod driver;
mod report;
mod scenario;
mod stage;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use report::{Recorded, Suite};
use scenario::Cell;
use stage::Seen;

const HELP: &str = "\
Plays every scenario on CPython's socketserver and on this crate, and compares what was seen.

usage: conformance/run [OPTION]... [PART OF A CELL'S NAME]...

  --python PROGRAM  the interpreter, 3.9 or newer (default: python3)
  --recorded        compare with what was recorded of CPython, as where there is none
  --record          write down what is seen now, of both
  --verbose         show what was seen, also where it is the same

Ends with 0 unless something differs that differences.txt does not have, or the other way round.
";

/// The options of the command line.
#[derive(Debug)]
struct Args {
    python: String,
    use_recorded: bool,
    record: bool,
    verbose: bool,
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut parsed = Args {
        python: "python3".to_owned(),
        use_recorded: false,
        record: false,
        verbose: false,
        parts: Vec::new(),
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--driver" => return driver::main(&args.collect::<Vec<_>>()),
            "--help" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--python" => parsed.python = args.next().unwrap_or_default(),
            "--recorded" => parsed.use_recorded = true,
            "--record" => parsed.record = true,
            "--verbose" => parsed.verbose = true,
            part if !part.starts_with('-') => parsed.parts.push(part.to_owned()),
            _ => {
                eprint!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    match run(&parsed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("conformance: {err}");
            ExitCode::FAILURE
        }
    }
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What an interpreter says of itself: the program behind any wrapper, and its version.
fn ask_python(program: &str) -> io::Result<(String, String)> {
    let question = "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])";
    let answer = Command::new(program).args(["-c", question]).output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let mut lines = answer.lines().map(str::to_owned);
    match (lines.next(), lines.next()) {
        (Some(path), Some(version)) if scenario::version_of(&version) >= (3, 9) => {
            Ok((path, version))
        }
        _ => Err(io::Error::other(format!(
            "{program} is no Python 3.9 or newer"
        ))),
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let suite = Suite::read(home())?;
    let cells: Vec<Cell> = suite
        .cells()
        .into_iter()
        .filter(|cell| args.parts.is_empty() || args.parts.iter().any(|p| cell.name().contains(p)))
        .collect();
    let mut recorded = Recorded::read(home())?;
    let python = if args.use_recorded {
        Err(io::Error::other("--recorded"))
    } else {
        ask_python(&args.python)
    };
    let (version, theirs) = match python {
        Ok((program, version)) => {
            println!("comparing with CPython {version}, {program}");
            let script = home().join("driver.py").display().to_string();
            // Neither the environment nor site-packages have a say.
            let program = [program, "-I".to_owned(), "-S".to_owned(), script];
            (version, play_python(&program, &cells, &recorded)?)
        }
        Err(err) => {
            println!(
                "no Python here ({err}): comparing with what was recorded of CPython {}",
                recorded.version
            );
            (recorded.version.clone(), recorded.python.clone())
        }
    };
    if let (driver, Some(why)) = socketserver::model::Driver::Auto.pick() {
        println!("coroutines+uring runs over {driver}: {why}");
    }
    let program = PathBuf::from("/proc/self/exe").read_link()?;
    let program = [program.display().to_string(), "--driver".to_owned()];
    let ours = play_all(&cells, Cell::is_timed, |cell| {
        let seen = stage::play(&program, cell.model, cell, recorded.of_ours(cell))?;
        Ok((cell.name(), seen.0))
    })?;
    if args.record {
        recorded.record(
            home(),
            &version,
            &theirs,
            &ours,
            &cells,
            args.parts.is_empty(),
        )?;
    }
    Ok(report::print(
        &suite,
        &cells,
        &version,
        &theirs,
        &ours,
        &recorded,
        args.verbose,
    ))
}

/// Plays on Python each cell that one of these is compared with.
fn play_python(
    program: &[String],
    cells: &[Cell],
    recorded: &Recorded,
) -> io::Result<BTreeMap<String, Seen>> {
    let mut needed = BTreeMap::new();
    for cell in cells {
        needed.entry(cell.python_name()).or_insert(cell);
    }
    let needed: Vec<_> = needed.into_iter().collect();
    play_all(
        &needed,
        |(_, cell)| cell.is_timed(),
        |(name, cell)| {
            let expected = recorded.of_python(cell);
            let seen = stage::play(program, cell.python_model(), cell, expected)?;
            Ok((name.clone(), seen.0))
        },
    )
}

/// Plays many at a time, as most of them wait most of the time; then, fewer at a time, those that
/// look at how long something takes.
fn play_all<C: Sync>(
    cells: &[C],
    is_timed: impl Fn(&C) -> bool,
    play: impl Fn(&C) -> io::Result<(String, Seen)> + Sync,
) -> io::Result<BTreeMap<String, Seen>> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (timed, others): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| is_timed(cell));
    let mut played = play_at_once(8 * processors, &others, |cell| play(cell))?;
    played.extend(play_at_once(2 * processors, &timed, |cell| play(cell))?);
    Ok(played)
}

fn play_at_once<C: Sync>(
    players: usize,
    cells: &[C],
    play: impl Fn(&C) -> io::Result<(String, Seen)> + Sync,
) -> io::Result<BTreeMap<String, Seen>> {
    let next = AtomicUsize::new(0);
    let played = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..players {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match play(cell) {
                        Ok((name, seen)) => {
                            played.lock().expect("no panic").insert(name, seen);
                        }
                        Err(err) => *failed.lock().expect("no panic") = Some(err),
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("no panic") {
        Some(err) => Err(err),
        None => Ok(played.into_inner().expect("no panic")),
    }
}
