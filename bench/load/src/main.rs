//! A load: one thread and one epoll loop that keeps a number of operations in flight, verifies each answer and measures
//! how long it took.
//!
//! `bench-load requests|echo|packets URL --in-flight N [--warm-up SECONDS] [--seconds SECONDS]`: says `ready` once it is
//! connected, begins when it is sent a line, says how it went, and stays connected until its standard input ends.
//! With `--asleep PID` each operation waits until that process, the server, and its children sleep. It ends after `--count N` operations, if that is given, and fails if the time is over before.
//! With `--proxied` each connection of `requests` and `echo` begins with a header of the PROXY protocol, version 1.
//!
//! `bench-load offered-echo|offered-requests URL --in-flight N --rate R`: the same with a timetable of R operations a second,
//! which does not wait for answers. `offered-echo` has N connections, and beside them others with heavy requests, if
//! `--heavy cpu|wait --heavy-in-flight N --heavy-rate R` is given; `offered-requests` has at most N requests in flight.
//!
//! `bench-load handshakes URL --in-flight N [--resumed]`: a TLS connection for each request. The other streams are over TLS too,
//! where the URL is one of `tls`, and so are the connections of `offered-requests`.
//!
//! `bench-load bulk URL --count N --warm-up 0 --seconds 0`: N MiB through one connection, which must come back.
//!
//! `bench-load offered-http URL --in-flight N --rate R`: a page over HTTP/1.1 by a timetable, on N connections.
//!
//! `bench-load hold URL --in-flight N [--first NUMBER] [--at-most SECONDS]`: opens connections, makes one exchange on
//! each, says `ready`, and lets them be idle until its standard input ends or SIGTERM comes; then each must still answer.
//! `hold-http` asks for a page on each, and has further connections, `--dripping N`, that send their heads byte by byte.
//!
//! `bench-load hostile-tls URL --in-flight N --dripping N --misbehaving N [--at-most SECONDS]`: the first are silent, the second
//! send a ClientHello byte by byte, the others send what is no handshake, or stop in one. Whom the server closes comes again.

mod bulk;
mod closed;
mod drips;
mod handshakes;
mod hold;
mod hostile;
mod http;
mod meter;
mod offered;
mod offered_echo;
mod offered_requests;
mod packets;
mod requests;
mod streams;
mod target;
mod tls;

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_load::Summary;
use lexopt::{Arg, Parser, ValueExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::meter::Meter;
use crate::offered_echo::Flow;
use crate::streams::Shape;
use crate::target::Target;

/// The size of every request and of every answer, where no other is asked for.
const SIZE: usize = 64;

/// How many events one wait may bring.
const EVENTS: usize = 512;

/// How long 16,000 connections may take to be opened.
const CONNECT_TIME: Duration = Duration::from_secs(30);

struct Options {
    load: String,
    url: String,
    in_flight: usize,
    first: u64,
    dripping: usize,
    misbehaving: usize,
    shape: Shape,
    resumed: bool,
    count: Option<u64>,
    asleep: Option<u32>,
    proxied: bool,
    rate: f64,
    heavy: Option<(u64, Flow)>,
    warm_up: Duration,
    seconds: Duration,
    at_most: Duration,
}

fn main() -> Result<()> {
    let options = parse()?;
    let target = Target::parse(&options.url, options.asleep)?.proxied(options.proxied);
    raise_descriptor_limit()?;
    run(&options, &target).with_context(|| format!("{} load on {}", options.load, options.url))
}

fn run(options: &Options, target: &Target) -> Result<()> {
    let in_flight = options.in_flight;
    if options.load == "hold" {
        return hold::run(target, in_flight, options.first, options.at_most);
    }
    if options.load == "hold-http" {
        return http::hold(target, in_flight, options.dripping, options.at_most);
    }
    if options.load == "hostile-tls" {
        let (dripping, misbehaving) = (options.dripping, options.misbehaving);
        return hostile::run(target, in_flight, dripping, misbehaving, options.at_most);
    }
    end_in_any_case(CONNECT_TIME + options.warm_up + options.seconds + offered::PATIENCE);
    let mut meter = Meter::new(options.warm_up, options.seconds, options.count)?;
    match options.load.as_str() {
        "requests" => requests::run(target, in_flight, &mut meter)?,
        "echo" => streams::run(target, in_flight, options.shape, &mut meter)?,
        "offered-echo" => {
            let (rate, heavy) = (options.rate, options.heavy);
            let light = Flow {
                connections: in_flight,
                rate,
            };
            offered_echo::run(target, light, heavy, &mut meter)?;
        }
        "offered-requests" if target.tls().is_some() => {
            handshakes::offer(target, in_flight, options.rate, &mut meter)?;
        }
        "offered-requests" => requests::offer(target, in_flight, options.rate, &mut meter)?,
        "handshakes" => handshakes::run(target, in_flight, options.resumed, &mut meter)?,
        "offered-http" => http::offer(target, in_flight, options.rate, &mut meter)?,
        "packets" => packets::run(target, in_flight, &mut meter)?,
        "bulk" => bulk::run(target, &mut meter)?,
        other => bail!("no such load: {other}"),
    }
    Ok(())
}

fn parse() -> Result<Options> {
    let mut words = Vec::new();
    let (mut in_flight, mut first, mut size, mut depth) = (1, 0, SIZE, 1);
    let (mut dripping, mut misbehaving) = (0, 0);
    let (mut warm_up, mut seconds, mut at_most) = (0.1, 1.0, 300.0);
    let (mut count, mut asleep, mut rate) = (None, None, 1000.0);
    let (mut resumed, mut proxied) = (false, false);
    let (mut heavy, mut heavy_in_flight, mut heavy_rate) = (None, 8, 10.0);
    let mut args = Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Value(word) => words.push(word.string()?),
            Arg::Long("in-flight") => in_flight = args.value()?.parse()?,
            Arg::Long("first") => first = args.value()?.parse()?,
            Arg::Long("dripping") => dripping = args.value()?.parse()?,
            Arg::Long("misbehaving") => misbehaving = args.value()?.parse()?,
            Arg::Long("size") => size = args.value()?.parse()?,
            Arg::Long("depth") => depth = args.value()?.parse()?,
            Arg::Long("resumed") => resumed = true,
            Arg::Long("count") => count = Some(args.value()?.parse()?),
            Arg::Long("asleep") => asleep = Some(args.value()?.parse()?),
            Arg::Long("proxied") => proxied = true,
            Arg::Long("rate") => rate = args.value()?.parse()?,
            Arg::Long("heavy") => heavy = Some(offered_echo::kind(&args.value()?.string()?)?),
            Arg::Long("heavy-in-flight") => heavy_in_flight = args.value()?.parse()?,
            Arg::Long("heavy-rate") => heavy_rate = args.value()?.parse()?,
            Arg::Long("warm-up") => warm_up = args.value()?.parse()?,
            Arg::Long("seconds") => seconds = args.value()?.parse()?,
            Arg::Long("at-most") => at_most = args.value()?.parse()?,
            _ => return Err(arg.unexpected().into()),
        }
    }
    let [load, url] = &*words else {
        bail!("two arguments are needed: the load and the URL");
    };
    ensure!(
        load == "echo" || (size, depth) == (SIZE, 1),
        "only an echo load has --size and --depth"
    );
    ensure!(
        !proxied || ["requests", "echo"].contains(&load.as_str()),
        "only requests and echo loads have --proxied"
    );
    let heavy_flow = Flow {
        connections: heavy_in_flight,
        rate: heavy_rate,
    };
    Ok(Options {
        load: load.clone(),
        url: url.clone(),
        in_flight,
        first,
        dripping,
        misbehaving,
        shape: Shape::new(size, depth)?,
        resumed,
        count,
        asleep,
        proxied,
        rate,
        heavy: heavy.map(|kind| (kind, heavy_flow)),
        warm_up: Duration::try_from_secs_f64(warm_up)?,
        seconds: Duration::try_from_secs_f64(seconds)?,
        at_most: Duration::try_from_secs_f64(at_most)?,
    })
}

/// As many connections as the process may have at all.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the descriptor limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the descriptor limit")
}

/// A server that stops answering must not keep the load for ever.
fn end_in_any_case(limit: Duration) {
    let limit = limit + Duration::from_secs(10);
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("bench-load: no end after {limit:?}");
        std::process::exit(1);
    });
}

/// Says that everything is connected, and waits until the runner wants it to begin.
fn wait_for_start() -> Result<()> {
    println!("ready");
    let count = io::stdin().read_line(&mut String::new())?;
    ensure!(count > 0, "nobody wants it to begin");
    Ok(())
}

/// Says how it went, and lets the connections be until the runner has looked at the server.
fn report(summary: &Summary) -> Result<()> {
    println!("{}", serde_json::to_string(summary)?);
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Makes the bytes that operation `number` sends and must get back.
fn fill(number: u64, bytes: &mut [u8]) {
    for (index, chunk) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&(number + (index << 52)).to_be_bytes());
    }
}

fn payload(number: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    fill(number, &mut bytes);
    bytes
}
