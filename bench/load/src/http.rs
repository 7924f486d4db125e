//! HTTP/1.1: a page that is asked for by a timetable, and connections that are idle, or send their heads byte by byte.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use crate::drips::take_turns;
use crate::hold::{PATIENCE, Until};
use crate::meter::Meter;
use crate::offered::{EVENTS, Timetable};
use crate::target::Target;
use crate::{end_in_any_case, report, wait_for_start};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const PAGE: &[u8] = b"hello world\n";

/// How long a slow client takes at least from a byte of its head to the next one: the whole head takes less than the 10 s
/// that a server gives it.
const DRIP: Duration = Duration::from_millis(200);

/// A connection that is asked for a page again and again.
struct Client {
    socket: Socket,
    answer: Vec<u8>,
    /// How long each answer is, as only its date changes.
    length: usize,
    /// When the request in flight was due.
    due: Instant,
}

impl Client {
    /// Connects, and asks once.
    fn connect(target: &Target, number: u64) -> Result<Self> {
        let socket = target.connect(number)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_tcp_nodelay(true)?;
        let mut this = Self {
            socket,
            answer: Vec::new(),
            length: 0,
            due: Instant::now(),
        };
        this.exchange()
            .with_context(|| format!("connection {number}"))?;
        this.length = this.answer.len();
        this.answer.clear();
        Ok(this)
    }

    /// Asks, and waits for the page.
    fn exchange(&mut self) -> Result<()> {
        self.send(REQUEST)?;
        self.wait()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.answer.clear();
        self.socket.write_all(bytes).context("send a request")
    }

    fn wait(&mut self) -> Result<()> {
        while !self.answer.ends_with(PAGE) {
            self.read()?;
        }
        self.check()
    }

    /// Reads what is there. Returns whether the answer is whole.
    fn receive(&mut self) -> Result<bool> {
        self.read()?;
        ensure!(self.answer.len() <= self.length, "more than was asked for");
        if self.answer.len() < self.length {
            return Ok(false);
        }
        self.check()?;
        Ok(true)
    }

    fn read(&mut self) -> Result<()> {
        let mut buf = [0; 1024];
        let count = self.socket.read(&mut buf).context("read a page")?;
        ensure!(count > 0, "the server has closed a connection");
        self.answer.extend_from_slice(&buf[..count]);
        ensure!(self.answer.len() < 8192, "a page that is too long");
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let is_page = self.answer.starts_with(b"HTTP/1.1 200 ") && self.answer.ends_with(PAGE);
        let text = || String::from_utf8_lossy(&self.answer).into_owned();
        ensure!(is_page, "not the page: {}", text());
        Ok(())
    }
}

/// Asks for the page by a timetable, on the connections in turn, with one request in flight on each.
pub(crate) fn offer(target: &Target, count: usize, rate: f64, meter: &mut Meter) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients = Vec::with_capacity(count);
    for index in 0..count as u64 {
        let client = Client::connect(target, index)?;
        epoll.add(&client.socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
        clients.push(client);
    }
    wait_for_start()?;
    meter.start()?;
    let mut timetable = Timetable::new(rate, meter)?;
    let mut free: VecDeque<_> = (0..count).collect();
    let mut events = [EpollEvent::empty(); EVENTS];
    while !timetable.is_over()? {
        while let Some(due) = timetable.due() {
            let Some(index) = free.pop_front() else {
                timetable.hold();
                break;
            };
            timetable.send(due);
            clients[index].due = due;
            clients[index].send(REQUEST)?;
        }
        // The load never sleeps, as that with messages.
        let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            let index = event.data() as usize;
            if clients[index].receive()? {
                meter.answered(clients[index].due);
                timetable.answered();
                free.push_back(index);
            }
        }
    }
    let mut summary = meter.summary()?;
    summary.offered = Some(timetable.summary());
    report(&summary)
}

/// Holds connections that have asked for a page and are idle, and others that send heads byte by byte. At the end the idle
/// ones must still answer, as must the slow ones whenever a head is whole.
pub(crate) fn hold(target: &Target, idle: usize, slow: usize, at_most: Duration) -> Result<()> {
    let end = Until::blocked()?;
    end_in_any_case(at_most);
    let mut connected = Vec::with_capacity(idle + slow);
    for number in 0..(idle + slow) as u64 {
        connected.push(Client::connect(target, number)?);
    }
    let mut drips: Vec<_> = connected
        .split_off(idle)
        .into_iter()
        .map(Drip::new)
        .collect();
    for (index, drip) in drips.iter_mut().enumerate() {
        // Their heads are whole at different times.
        drip.send(index % REQUEST.len())?;
    }
    println!("ready");
    take_turns(&end, drips.len(), DRIP, |mut indices| {
        indices.try_for_each(|index| drips[index].send(1).context("a slow client"))
    })?;
    for (number, client) in connected.iter_mut().enumerate() {
        let at_the_end = || format!("connection {number}, at the end");
        client.exchange().with_context(at_the_end)?;
    }
    println!("{idle} still answer");
    Ok(())
}

/// A client that sends its heads byte by byte.
struct Drip {
    client: Client,
    sent: usize,
}

impl Drip {
    fn new(client: Client) -> Self {
        Self { client, sent: 0 }
    }

    fn send(&mut self, count: usize) -> Result<()> {
        let next = self.sent + count;
        self.client.send(&REQUEST[self.sent..next])?;
        self.sent = next % REQUEST.len();
        match self.sent {
            0 if count > 0 => self.client.wait(),
            _ => Ok(()),
        }
    }
}
