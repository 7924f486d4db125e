//! A buffer for each connection, kept for the next one with the same descriptor.

use std::os::fd::RawFd;

use anyhow::Result;
use bench_peers::Handler;
use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use nix::libc::{MSG_NOSIGNAL, MSG_WAITALL};

use crate::{ACCEPT, CLOSE, CONNECTIONS, RECV, Ring, SEND};

/// Wait for data first: there is none right after an answer.
const POLL_FIRST: u16 = 1;

pub(crate) fn run(mut ring: Ring, handler: Handler, size: usize) -> Result<()> {
    // By descriptor. A buffer stays where it is on the heap for as long as the process lives.
    let mut buffers: Vec<Option<Box<[u8]>>> = (0..CONNECTIONS).map(|_| None).collect();
    let mut completions = Vec::with_capacity(4096);
    loop {
        ring.wait(&mut completions)?;
        for completion in completions.drain(..) {
            let fd = completion.index as RawFd;
            match (completion.kind, completion.result) {
                (ACCEPT, result) => {
                    if !io_uring::cqueue::more(completion.flags) {
                        ring.accept()?;
                    }
                    if let Ok(index) = usize::try_from(result) {
                        let buffer = buffers[index].get_or_insert_with(|| vec![0; size].into());
                        ring.push(&receive(result, buffer, 0))?;
                    }
                }
                (RECV, ..=0) => ring.close(fd)?,
                (RECV, count) => {
                    let Some(buffer) = &mut buffers[completion.index] else {
                        continue;
                    };
                    let send = send(fd, buffer, count as u32);
                    if handler == Handler::Once {
                        ring.push(&send)?;
                        continue;
                    }
                    // The send has copied the buffer when the receive begins. When it fails, so does the receive.
                    let send = send.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS);
                    ring.push_both(&[send, receive(fd, buffer, POLL_FIRST)])?;
                }
                // A failed echo is closed by the receive that it has cancelled.
                (SEND, _) if handler == Handler::Once => ring.close(fd)?,
                (SEND | CLOSE, _) => {}
                _ => unreachable!("no such operation"),
            }
        }
    }
}

fn receive(fd: RawFd, buffer: &mut [u8], ioprio: u16) -> Entry {
    let (start, size) = (buffer.as_mut_ptr(), buffer.len() as u32);
    let entry = opcode::Recv::new(types::Fd(fd), start, size).ioprio(ioprio);
    entry.build().user_data(RECV | fd as u64)
}

fn send(fd: RawFd, buffer: &[u8], count: u32) -> Entry {
    let entry = opcode::Send::new(types::Fd(fd), buffer.as_ptr(), count);
    let entry = entry.flags(MSG_NOSIGNAL | MSG_WAITALL).build();
    entry.user_data(SEND | fd as u64)
}
