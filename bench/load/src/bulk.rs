//! Bulk: one connection through which as much as was asked for is sent, while what comes back is read and compared.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use crate::meter::Meter;
use crate::target::Target;
use crate::{fill, report, wait_for_start};

/// An operation.
const MEBIBYTE: usize = 1 << 20;

/// The most that is on its way. With more, windows close, and now and then stay closed until a timer of the kernel expires.
const IN_FLIGHT: usize = 256 << 10;

/// How long nothing may move, in milliseconds.
const PATIENCE: u16 = 10_000;

pub(crate) fn run(target: &Target, meter: &mut Meter) -> Result<()> {
    let mut socket = target.connect(0)?;
    let mut chunk = vec![0; MEBIBYTE];
    for (number, bytes) in (0..).zip(chunk.chunks_exact_mut(8)) {
        fill(number, bytes);
    }
    let mut input = vec![0; MEBIBYTE];
    // One exchange: the server has set up the connection before anything is measured.
    socket.write_all(&chunk[..8])?;
    socket.read_exact(&mut input[..8])?;
    socket.set_nonblocking(true)?;
    wait_for_start()?;
    meter.start()?;
    let most = meter.most().context("a bulk load needs a --count")? as usize * MEBIBYTE;
    let (mut sent, mut received, mut ended) = (0, 0, 0);
    let mut began = Instant::now();
    while received < most {
        let room = (received + IN_FLIGHT).min(most) - sent;
        let mut flags = PollFlags::POLLIN;
        if room > 0 {
            flags |= PollFlags::POLLOUT;
        }
        let mut fds = [PollFd::new(socket.as_fd(), flags)];
        let ready = poll(&mut fds, PollTimeout::from(PATIENCE))?;
        ensure!(ready > 0, "nothing has moved for {PATIENCE} ms");
        if room > 0 {
            let next = &chunk[sent % MEBIBYTE..];
            sent += progress(socket.write(&next[..room.min(next.len())]))?;
        }
        received += receive(&socket, &chunk, &mut input, received)?;
        if received / MEBIBYTE > ended {
            meter.answered(began);
            began = Instant::now();
            ended += 1;
        }
    }
    report(&meter.summary()?)
}

/// Reads what is there, up to the end of a mebibyte, and compares it.
fn receive(mut socket: &Socket, chunk: &[u8], input: &mut [u8], received: usize) -> Result<usize> {
    let expected = &chunk[received % MEBIBYTE..];
    let read = socket.read(&mut input[..expected.len()]);
    ensure!(
        !matches!(read, Ok(0)),
        "the server has ended the connection"
    );
    let count = progress(read)?;
    ensure!(input[..count] == expected[..count], "another answer");
    Ok(count)
}

fn progress(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
