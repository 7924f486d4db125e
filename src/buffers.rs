//! The buffer pool for received input: each thread keeps a few free buffers, so that a connection
//! holds one only while it has unread input.

use std::cell::RefCell;
use std::thread::LocalKey;

/// The size of a buffer, in bytes.
pub(crate) const BUFFER: usize = 8 * 1024;

/// The size of a buffer for a peer that sends a lot.
pub(crate) const LARGE: usize = 64 * 1024;

/// How many free buffers of each size a thread keeps.
const KEPT: usize = 16;
const LARGE_KEPT: usize = 4;

type Pool = RefCell<Vec<Box<[u8]>>>;

thread_local! {
    static POOL: Pool = const { RefCell::new(Vec::new()) };
    static LARGE_POOL: Pool = const { RefCell::new(Vec::new()) };
}

/// Takes a buffer from the pool. Its contents are old input.
pub(crate) fn take() -> Box<[u8]> {
    take_of(&POOL, BUFFER)
}

/// As [`take`], a buffer of the size [`LARGE`].
pub(crate) fn take_large() -> Box<[u8]> {
    take_of(&LARGE_POOL, LARGE)
}

fn take_of(pool: &'static LocalKey<Pool>, size: usize) -> Box<[u8]> {
    // A thread that is ending has no pool any more.
    let pooled = pool.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

/// Returns a buffer to the pool of this thread.
pub(crate) fn give(buffer: Box<[u8]>) {
    let (pool, kept) = match buffer.len() {
        BUFFER => (&POOL, KEPT),
        LARGE => (&LARGE_POOL, LARGE_KEPT),
        _ => return,
    };
    // A thread that is ending has no pool any more.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < kept {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_that_was_given_last_is_taken_next() {
        let (first, second) = (take(), take());
        let address = second.as_ptr();
        give(first);
        give(second);
        let again = take();
        assert_eq!(again.as_ptr(), address);
        give(Box::default());
        assert_eq!(take().len(), BUFFER);
        let large = take_large();
        let address = large.as_ptr();
        give(large);
        let again = take_large();
        assert_eq!(again.as_ptr(), address);
    }
}
