//! A ring of buffers from which the kernel takes one for each receive.

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The name under which receives ask for a buffer.
pub(crate) const GROUP: u16 = 0;

/// A power of two. Each connection with a message under way needs one.
const COUNT: u16 = 8192;

pub(crate) struct Buffers {
    entries: *mut BufRingEntry,
    memory: Box<[u8]>,
    size: usize,
    /// Where the next buffer goes that is given to the kernel.
    tail: u16,
}

impl Buffers {
    pub(crate) fn register(ring: &IoUring, size: usize) -> Result<Self> {
        let bytes = usize::from(COUNT) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, 4096)?;
        // SAFETY: the layout is not empty.
        let entries = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        anyhow::ensure!(!entries.is_null(), "no memory for the ring of buffers");
        // SAFETY: the memory is aligned to a page, has room for all entries and is never freed.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries as u64, COUNT, GROUP, 0)
        }
        .context("register the ring of buffers")?;
        let memory = vec![0; usize::from(COUNT) * size].into();
        let mut buffers = Self {
            entries,
            memory,
            size,
            tail: 0,
        };
        for id in 0..COUNT {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub(crate) fn get(&self, id: u16) -> &[u8] {
        &self.memory[usize::from(id) * self.size..][..self.size]
    }

    /// Lets the kernel have a buffer, as soon as that is published.
    pub(crate) fn give_back(&mut self, id: u16) {
        let start = self.memory[usize::from(id) * self.size..].as_mut_ptr();
        let place = usize::from(self.tail % COUNT);
        // SAFETY: the place is within the ring, and the kernel reads it only once it is published.
        let entry = unsafe { &mut *self.entries.add(place) };
        entry.set_addr(start as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    pub(crate) fn publish(&self) {
        // SAFETY: this is the address of the first entry, which is initialized.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is aligned, lives as long as the ring, and is shared with the kernel alone.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
