//! Multishot receives into provided buffers. A connection sends one buffer at a time, and keeps the order of the others.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use anyhow::Result;
use bench_peers::Handler;
use io_uring::{cqueue, opcode, types};
use nix::libc::{MSG_NOSIGNAL, MSG_WAITALL};

use crate::buffers::{Buffers, GROUP};
use crate::{ACCEPT, CLOSE, CONNECTIONS, Completion, RECV, Ring, SEND};

/// One connection, by descriptor.
#[derive(Default)]
struct Conn {
    /// Received buffers and how much is in them; the first one is being sent.
    pieces: VecDeque<(u16, u32)>,
    /// Nothing more will be received.
    ended: bool,
}

pub(crate) fn run(mut ring: Ring, handler: Handler, size: usize) -> Result<()> {
    let buffers = Buffers::register(&ring.ring, size)?;
    let conns = (0..CONNECTIONS).map(|_| Conn::default()).collect();
    let mut echo = Echo {
        buffers,
        conns,
        once: handler == Handler::Once,
    };
    let mut completions = Vec::with_capacity(4096);
    loop {
        ring.wait(&mut completions)?;
        for completion in completions.drain(..) {
            match completion.kind {
                ACCEPT => {
                    if !cqueue::more(completion.flags) {
                        ring.accept()?;
                    }
                    if let Ok(index) = usize::try_from(completion.result) {
                        echo.conns[index].ended = false;
                        receive(&mut ring, index)?;
                    }
                }
                RECV => echo.received(&mut ring, completion)?,
                SEND => echo.sent(&mut ring, completion)?,
                CLOSE => {}
                _ => unreachable!("no such operation"),
            }
        }
        echo.buffers.publish();
    }
}

fn receive(ring: &mut Ring, index: usize) -> Result<()> {
    let entry = opcode::RecvMulti::new(types::Fd(index as RawFd), GROUP).build();
    ring.push(&entry.user_data(RECV | index as u64))
}

struct Echo {
    buffers: Buffers,
    conns: Vec<Conn>,
    once: bool,
}

impl Echo {
    fn received(&mut self, ring: &mut Ring, completion: Completion) -> Result<()> {
        let index = completion.index;
        let conn = &mut self.conns[index];
        if let Some(id) = cqueue::buffer_select(completion.flags) {
            conn.pieces.push_back((id, completion.result.max(0) as u32));
            if conn.pieces.len() == 1 {
                self.send(ring, index)?;
            }
        }
        if cqueue::more(completion.flags) {
            return Ok(());
        }
        let no_buffers = completion.result == -nix::libc::ENOBUFS;
        if completion.result > 0 || no_buffers {
            if no_buffers {
                self.buffers.publish();
            }
            return receive(ring, index);
        }
        let conn = &mut self.conns[index];
        conn.ended = true;
        if conn.pieces.is_empty() {
            ring.close(index as RawFd)?;
        }
        Ok(())
    }

    /// Sends the first piece of a connection.
    fn send(&mut self, ring: &mut Ring, index: usize) -> Result<()> {
        let Some(&(id, count)) = self.conns[index].pieces.front() else {
            return Ok(());
        };
        let start = self.buffers.get(id).as_ptr();
        let entry = opcode::Send::new(types::Fd(index as RawFd), start, count);
        let entry = entry.flags(MSG_NOSIGNAL | MSG_WAITALL).build();
        ring.push(&entry.user_data(SEND | index as u64))
    }

    fn sent(&mut self, ring: &mut Ring, completion: Completion) -> Result<()> {
        let index = completion.index;
        let conn = &mut self.conns[index];
        if let Some((id, _)) = conn.pieces.pop_front() {
            self.buffers.give_back(id);
        }
        if completion.result < 0 || self.once {
            // The receive ends with it, and closes.
            for (id, _) in conn.pieces.drain(..) {
                self.buffers.give_back(id);
            }
            if !conn.ended {
                let both = nix::libc::SHUT_RDWR;
                let entry = opcode::Shutdown::new(types::Fd(index as RawFd), both).build();
                return ring.push(&entry.user_data(CLOSE));
            }
        }
        let conn = &self.conns[index];
        if conn.ended && conn.pieces.is_empty() {
            return ring.close(index as RawFd);
        }
        self.send(ring, index)
    }
}
