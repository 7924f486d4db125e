//! Pages over HTTP: verifies one, and has a load ask for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

use crate::measure::{Bench, Driven};
use crate::os::{self, CpuTime};
use crate::scenarios::{Http, HttpClient, Load, Page};
use crate::server::Server;
use crate::{h2load, wrk};

const PATIENCE: Duration = Duration::from_secs(5);

/// The longest head of an answer.
const HEAD_MAX: usize = 8192;

/// Reads what a load has said.
type Parse = Box<dyn Fn(&str) -> Result<Summary>>;

/// Puts a load on a server, after its page has been verified.
pub(crate) fn drive(bench: &Bench<'_>, server: &Server, http: Http) -> Result<Driven> {
    let (page, connections) = (http.page, http.connections);
    let seconds = bench.effort.seconds.ceil() as u32;
    let address = address(&server.url)?;
    let url = format!("http://{address}/{}", page.path);
    let (command, parse): (_, Parse) = match http.client {
        HttpClient::Offered { .. } => {
            return bench.drive(server, Load::Http(http), bench.effort.seconds);
        }
        HttpClient::Wrk => {
            verify(address, page)?;
            (
                wrk::command(&url, connections, seconds),
                Box::new(wrk::parse),
            )
        }
        HttpClient::H2load { streams } => {
            verify_h2(&url, page)?;
            let parse = move |said: &str| h2load::parse(said, page.size);
            let command = h2load::command(&url, connections, streams, seconds);
            (command, Box::new(parse))
        }
    };
    let empty = os::resident(server.pid())?;
    let before = os::cpu_time(server.pid())?;
    let load = run(command, &parse)?;
    let cpu = os::cpu_time(server.pid())?.saturating_sub(before);
    let grown = os::resident(server.pid())?.saturating_sub(empty) as f64;
    Ok(Driven {
        rss_bytes_per_conn: Some(grown / f64::from(connections)),
        ..Driven::new(load, cpu)
    })
}

/// Asks for a page over HTTP/1.1.
fn verify(address: &str, page: Page) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{} HTTP/1.1\r\nHost: bench\r\n\r\n", page.path)?;
    let mut answer = Vec::new();
    let mut buf = [0; 64 * 1024];
    // The connection may stay open: what has been read so far says whether that was all.
    let (head, content) = loop {
        let count = stream.read(&mut buf).context("read a page")?;
        ensure!(count > 0, "no page, but the end of the connection");
        answer.extend_from_slice(&buf[..count]);
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n");
        match end {
            Some(end) if answer.len() >= end + 4 + page.size => {
                break (answer[..end + 2].to_ascii_lowercase(), &answer[end + 4..]);
            }
            Some(end) => ensure!(end < HEAD_MAX, "a head that is too long"),
            None => ensure!(answer.len() < HEAD_MAX, "a head that is too long"),
        }
    };
    let head = String::from_utf8_lossy(&head);
    let is_http = head.starts_with("http/1.1 200 ") || head.starts_with("http/1.0 200 ");
    ensure!(is_http, "no page: {head}");
    let length = format!("\r\ncontent-length: {}\r\n", page.size);
    ensure!(head.contains(&length), "a page of another length: {head}");
    ensure!(content.iter().copied().eq(page.content()), "another page");
    Ok(())
}

/// Asks for a page over HTTP/2.
fn verify_h2(url: &str, page: Page) -> Result<()> {
    let mut nghttp = Command::new("nghttp");
    nghttp.args(["--timeout", &PATIENCE.as_secs().to_string(), url]);
    let output = nghttp.output().context("run nghttp")?;
    ensure!(output.status.success(), "nghttp: {}", output.status);
    ensure!(output.stdout.into_iter().eq(page.content()), "another page");
    Ok(())
}

/// Runs a load that is not ours. No other child of this process may be waited for meanwhile.
fn run(mut command: Command, parse: &Parse) -> Result<Summary> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().display().to_string();
    let (before, start) = (CpuTime::of_children()?, Instant::now());
    let load = os::on_cpu(os::LOAD_CPU, || Ok(command.spawn()?));
    let load = load.with_context(|| format!("start {name}"))?;
    let output = load.wait_with_output()?;
    let took = start.elapsed().as_secs_f64();
    let after = CpuTime::of_children()?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    let share = |after: Duration, before: Duration| (after - before).as_secs_f64() / took;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(Summary {
        cpu_share: share(after.total, before.total),
        user_share: share(after.user, before.user),
        ..parse(&said).with_context(|| format!("what {name} said: {said}"))?
    })
}

fn address(url: &str) -> Result<&str> {
    url.strip_prefix("tcp://").context("no TCP address")
}
