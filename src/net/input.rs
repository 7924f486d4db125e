//! Received bytes that a handler has not read yet.

use std::mem::take;

use crate::buffers::{self, BUFFER};

/// Received bytes that were not yet read. Without such bytes there is no buffer.
#[derive(Default)]
pub(super) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, count: usize) {
        let left = self.bytes().len();
        assert!(count <= left, "consume({count}) with {left} bytes buffered");
        self.start += count;
    }

    /// Copies buffered bytes into `buf` and returns how many.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = self.bytes().len().min(buf.len());
        buf[..count].copy_from_slice(&self.bytes()[..count]);
        self.start += count;
        count
    }

    /// Makes room behind the buffered bytes. Returns whether there is any.
    pub(super) fn make_room(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.fill(buffers::take(), 0);
        }
        if self.start > 0 && self.end == self.buffer.len() {
            self.buffer.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.end < self.buffer.len()
    }

    /// The room behind the buffered bytes.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// Adds `count` bytes, which lie in the [room](Self::room).
    pub(super) const fn add(&mut self, count: usize) {
        self.end += count;
    }

    /// Returns whether the bytes fill the whole buffer.
    pub(super) const fn is_full(&self) -> bool {
        self.start == 0 && self.end == self.buffer.len()
    }

    pub(super) fn fill(&mut self, buffer: Box<[u8]>, count: usize) {
        (self.buffer, self.start, self.end) = (buffer, 0, count);
    }

    /// Puts bytes in front of the buffered ones. There is room behind them.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        if let Some(start) = self.start.checked_sub(bytes.len()) {
            self.buffer[start..self.start].copy_from_slice(bytes);
            self.start = start;
            return;
        }
        let count = bytes.len() + self.bytes().len();
        let mut buffer = if count < BUFFER {
            buffers::take()
        } else {
            vec![0; count + BUFFER].into_boxed_slice()
        };
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer[bytes.len()..count].copy_from_slice(self.bytes());
        self.release();
        self.fill(buffer, count);
    }

    /// Returns the buffer to the pool, once all of it has been read.
    pub(super) fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if !self.buffer.is_empty() {
            buffers::give(take(&mut self.buffer));
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_put_back_come_first() {
        let mut input = Input::default();
        input.unread(b"second");
        input.unread(b"first ");
        input.consume(3);
        input.unread(b"1");
        assert!(!input.is_full());
        let many = vec![b'.'; 2 * BUFFER];
        input.unread(&many);
        assert!(!input.is_full());
        input.consume(many.len());
        assert_eq!(input.bytes(), b"1st second");
        let mut all = [0; 16];
        assert_eq!(input.take(&mut all), 10);
        assert!(input.is_empty());
    }
}
