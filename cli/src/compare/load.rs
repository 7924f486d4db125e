//! The clients: closed loops that send a request, wait for its answer and verify it. A thread has
//! many of them, and an epoll instance.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::workload::cpu_time;

/// The longest time that is told from longer ones: a minute, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// What the clients do, and when.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) server: SocketAddr,
    /// The body of every request, but for the number at its beginning.
    pub(super) body: Vec<u8>,
    pub(super) new_connections: bool,
    /// What ends from here to `until` is recorded.
    pub(super) from: Instant,
    pub(super) until: Instant,
}

/// What clients have seen.
#[derive(Debug)]
pub(super) struct Tally {
    /// In nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// All answers, also those that came when nothing was recorded.
    pub(super) answers: u64,
    /// How many clients were ever answered.
    pub(super) served: u64,
    /// How many clients were ended by an error, and the first one.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// The share of its time that the busiest thread was running.
    pub(super) busy: f64,
}

/// Ends all clients.
#[derive(Debug)]
pub(super) struct Halt(OwnedFd);

impl Halt {
    pub(super) fn new() -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC);
        fd.map(Self).context("make an eventfd")
    }

    pub(super) fn ring(&self) {
        // One write to a counter of zero cannot fail.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX, 3)?,
            answers: 0,
            served: 0,
            errors: 0,
            first_error: None,
            busy: 0.0,
        })
    }

    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        self.latencies.add(&other.latencies)?;
        self.answers += other.answers;
        self.served += other.served;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.busy = self.busy.max(other.busy);
        Ok(())
    }
}

/// Runs the clients with these numbers until they are told to halt.
pub(super) fn run(plan: &Plan, numbers: Range<u32>, halt: &Halt) -> Result<Tally> {
    const HALT: u64 = u64::MAX;
    let (began, cpu_before) = (Instant::now(), cpu_time());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll instance")?;
    epoll::add(
        &epoll,
        &halt.0,
        epoll::EventData::new_u64(HALT),
        epoll::EventFlags::IN,
    )
    .context("watch an eventfd")?;
    let mut clients: Vec<_> = numbers.map(Client::new).collect();
    let mut tally = Tally::new()?;
    let mut scratch = vec![0; plan.body.len().clamp(64, 64 * 1024) + 1];
    for (index, client) in (0..).zip(&mut clients) {
        client.connect(plan, &epoll, index, &mut tally);
    }
    let mut events = Vec::with_capacity(256);
    'running: loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err).context("wait for answers"),
        }
        for event in &events {
            let index = event.data.u64();
            if index == HALT {
                break 'running;
            }
            let client = &mut clients[index as usize];
            client.go_on(plan, &epoll, index, &mut scratch, &mut tally);
        }
    }
    tally.busy = (cpu_time() - cpu_before).as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(tally)
}

/// One request outside of the measurement.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    plan: &'a Plan,
    stream: TcpStream,
}

impl<'a> Probe<'a> {
    /// Sends the request. The probe is readable when the answer comes.
    pub(super) fn send(plan: &'a Plan, timeout: Duration) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&plan.server, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(&plan.body)?;
        Ok(Self { plan, stream })
    }

    pub(super) fn receive(mut self) -> io::Result<()> {
        let mut answer = vec![0; self.plan.body.len()];
        self.stream.read_exact(&mut answer)?;
        if answer == self.plan.body {
            Ok(())
        } else {
            Err(wrong_answer())
        }
    }
}

impl AsFd for Probe<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// One client, with at most one connection and one request at a time.
#[derive(Debug)]
struct Client {
    /// `None` after an error: whoever was failed does not come back.
    stream: Option<TcpStream>,
    /// The number of the request. Those of different clients never meet.
    number: u64,
    began: Instant,
    sent: usize,
    received: usize,
    was_served: bool,
}

impl Client {
    fn new(number: u32) -> Self {
        Self {
            stream: None,
            number: u64::from(number) << 32,
            began: Instant::now(),
            sent: 0,
            received: 0,
            was_served: false,
        }
    }

    /// Begins with a new connection.
    fn connect(&mut self, plan: &Plan, epoll: &OwnedFd, index: u64, tally: &mut Tally) {
        self.begin();
        match connect(plan.server, epoll, index) {
            // The first event says that it is connected.
            Ok(stream) => self.stream = Some(stream),
            Err(err) => self.fail(&err, tally),
        }
    }

    fn begin(&mut self) {
        self.number += 1;
        self.sent = 0;
        self.received = 0;
        self.began = Instant::now();
    }

    fn fail(&mut self, err: &io::Error, tally: &mut Tally) {
        self.stream = None;
        tally.errors += 1;
        tally.first_error.get_or_insert_with(|| err.to_string());
    }

    /// Does what can be done without waiting.
    fn go_on(
        &mut self,
        plan: &Plan,
        epoll: &OwnedFd,
        index: u64,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) {
        loop {
            match self.progress(plan, scratch) {
                Ok(true) => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Ok(false) => return,
                Err(err) => return self.fail(&err, tally),
            }
            let now = Instant::now();
            tally.answers += 1;
            tally.served += u64::from(!self.was_served);
            self.was_served = true;
            if now >= plan.from && now < plan.until {
                let took = u64::try_from((now - self.began).as_nanos()).unwrap_or(u64::MAX);
                tally.latencies.saturating_record(took);
            }
            if plan.new_connections {
                return self.connect(plan, epoll, index, tally);
            }
            self.begin();
        }
    }

    /// Sends and receives what it can. Says whether the request is over, or else there is nothing
    /// more to be had before the next event.
    fn progress(&mut self, plan: &Plan, scratch: &mut [u8]) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else {
            return Ok(false);
        };
        let number = self.number.to_be_bytes();
        let (head, tail) = plan.body.split_at(plan.body.len().min(number.len()));
        let head = &number[number.len() - head.len()..];
        while self.sent < plan.body.len() {
            let rest = [
                IoSlice::new(rest(head, self.sent)),
                IoSlice::new(rest(tail, self.sent.saturating_sub(head.len()))),
            ];
            match stream.write_vectored(&rest)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                more => self.sent += more,
            }
            if self.sent == plan.body.len() {
                // There cannot be an answer yet.
                return Ok(false);
            }
        }
        // To the end, or until nothing is there: an end that came with the data is not told again.
        loop {
            let count = stream.read(scratch)?;
            if count == 0 {
                return match plan.new_connections && self.received == plan.body.len() {
                    true => Ok(true),
                    false => Err(ErrorKind::UnexpectedEof.into()),
                };
            }
            let answer = &scratch[..count];
            let expected = [
                rest(head, self.received),
                rest(tail, self.received.saturating_sub(head.len())),
            ];
            if !is_next(answer, expected) {
                return Err(wrong_answer());
            }
            self.received += count;
            if self.received == plan.body.len() && !plan.new_connections {
                return Ok(true);
            }
        }
    }
}

fn rest(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from..).unwrap_or_default()
}

/// Whether `answer` is how the two parts begin.
fn is_next(answer: &[u8], [head, tail]: [&[u8]; 2]) -> bool {
    let (first, second) = answer.split_at(answer.len().min(head.len()));
    head.starts_with(first) && tail.starts_with(second)
}

fn wrong_answer() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a wrong answer")
}

/// Begins to connect. The stream is in non-blocking mode, and watched.
fn connect(server: SocketAddr, epoll: &OwnedFd, index: u64) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(server)) {
        Err(err) if Errno::from_io_error(&err) == Some(Errno::INPROGRESS) => {}
        connected => connected?,
    }
    let interest = epoll::EventFlags::IN
        | epoll::EventFlags::OUT
        | epoll::EventFlags::RDHUP
        | epoll::EventFlags::ET;
    epoll::add(
        epoll,
        socket.as_fd(),
        epoll::EventData::new_u64(index),
        interest,
    )?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Lets one client send a request of 16 bytes to a server that answers with what `answer` makes
    /// of it, and closes when the client has closed. Returns what the client has seen.
    fn against(new_connections: bool, answer: impl Fn(&mut Vec<u8>) + Sync) -> Tally {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let now = Instant::now();
        let plan = Plan {
            server: listener.local_addr().unwrap(),
            body: (0..16).collect(),
            new_connections,
            from: now,
            until: now + Duration::from_secs(60),
        };
        let halt = Halt::new().unwrap();
        thread::scope(|scope| {
            let clients = scope.spawn(|| run(&plan, 0..1, &halt).unwrap());
            let (mut conn, _) = listener.accept().unwrap();
            conn.set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut request = vec![0; 16];
            conn.read_exact(&mut request).unwrap();
            assert_eq!(
                request,
                [&[0, 0, 0, 0, 0, 0, 0, 1], &plan.body[8..]].concat()
            );
            answer(&mut request);
            conn.write_all(&request).unwrap();
            if request.len() < 16 || new_connections {
                conn.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // The end of a client that has failed, or the beginning of the next request.
            let next = conn.read(&mut [0]);
            halt.ring();
            assert!(next.is_ok(), "{next:?}");
            clients.join().unwrap()
        })
    }

    #[track_caller]
    fn fails(tally: &Tally, why: &str) {
        assert_eq!((tally.answers, tally.served, tally.errors), (0, 0, 1));
        assert_eq!(tally.first_error.as_deref(), Some(why));
    }

    #[test]
    fn a_right_answer_counts() {
        for new_connections in [false, true] {
            let tally = against(new_connections, |_| {});
            assert_eq!((tally.answers, tally.served, tally.errors), (1, 1, 0));
            assert_eq!(tally.latencies.len(), 1);
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        let wrong = "a wrong answer";
        fails(&against(false, |answer| answer[0] = 9), wrong);
        fails(&against(false, |answer| answer[15] = 9), wrong);
        fails(&against(true, |answer| answer.push(16)), wrong);
        fails(&against(false, |answer| answer.push(16)), wrong);
        let short = io::Error::from(ErrorKind::UnexpectedEof).to_string();
        fails(&against(false, |answer| answer.truncate(15)), &short);
        fails(&against(true, |answer| answer.truncate(15)), &short);
    }
}
