//! The message when a coroutine overflows its stack: the size of the stack, and the option to raise.
//!
//! An access to the guard below a stack faults. A signal handler, which runs on the alternate signal stack that
//! the standard library sets up for each of its threads, compares the address with the known guards, writes one
//! line, and restores the former handler, so that the fault repeats and ends the process. It recovers nothing.
#![expect(unsafe_code, reason = "a signal handler, and the address of the fault")]

use std::mem::{MaybeUninit, zeroed};
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use libc::{c_int, c_void, siginfo_t};

/// The mappings of stacks, in an array because a signal handler cannot take a lock. Stacks of further mappings
/// overflow without a message.
static SLABS: [Range; 1024] = [const { Range::empty() }; 1024];

/// A mapping of stacks. `end` is written last and read first.
struct Range {
    start: AtomicUsize,
    slot: AtomicUsize,
    end: AtomicUsize,
}

impl Range {
    const fn empty() -> Self {
        Self {
            start: AtomicUsize::new(0),
            slot: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
        }
    }
}

/// The former signal actions. Written once, before the handler is installed.
static mut PREVIOUS: [MaybeUninit<libc::sigaction>; 2] = [const { MaybeUninit::uninit() }; 2];

/// The advice at the end of the message.
static REMEDY: OnceLock<&'static str> = OnceLock::new();

/// Sets the advice at the end of the message: how to configure larger stacks. Only the first call in a process
/// has an effect.
pub(crate) fn set_remedy(text: &'static str) {
    let _ = REMEDY.set(text);
}

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Registers the guards of a mapping.
pub(crate) fn register(start: usize, len: usize, slot: usize) {
    install();
    for range in &SLABS {
        // 1 reserves the entry: no mapping ends there.
        if range
            .end
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            range.start.store(start, Ordering::Relaxed);
            range.slot.store(slot, Ordering::Relaxed);
            range.end.store(start + len, Ordering::Release);
            return;
        }
    }
}

/// Removes a mapping that is about to be unmapped.
pub(crate) fn unregister(start: usize) {
    for range in &SLABS {
        if range.end.load(Ordering::Acquire) > 1 && range.start.load(Ordering::Relaxed) == start {
            range.end.store(0, Ordering::Release);
        }
    }
}

/// Installs the signal handler, once in a process.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            // SAFETY: `sigaction` is a C struct of integers and a pointer; all zero is its default
            // value.
            let mut action: libc::sigaction = unsafe { zeroed() };
            action.sa_sigaction =
                on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: this closure runs once, and the handler that reads it is installed after the
            // write.
            let previous = unsafe { &raw mut PREVIOUS[index] };
            // SAFETY: reads the old action; `previous` is writable.
            unsafe { libc::sigaction(signal, null_mut(), previous.cast()) };
            // SAFETY: the action is initialised, and its handler is async-signal-safe.
            unsafe { libc::sigaction(signal, from_ref(&action), null_mut()) };
        }
    });
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO (sigaction(2)).
    let info = unsafe { &*info };
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() } as usize;
    if let Some(size) = overflowed(address) {
        let mut line = Line::default();
        line.push(b"\nsocketserver: a coroutine has overflowed its stack of ");
        line.push_number(size / 1024);
        line.push(b" KiB; ");
        line.push(REMEDY.get().unwrap_or(&"it needs a larger one").as_bytes());
        line.push(b"\n");
        write_stderr(&line.bytes[..line.len]);
    }
    let index = usize::from(signal == libc::SIGBUS);
    // SAFETY: written before this handler was installed.
    let previous = unsafe { &raw const PREVIOUS[index] };
    // SAFETY: `previous` is the action that sigaction(2) wrote. The fault repeats when this handler returns.
    unsafe { libc::sigaction(signal, previous.cast(), null_mut()) };
}

/// Writes to standard error if that does not block: the fault must end the process even if its reader has
/// stopped.
fn write_stderr(text: &[u8]) {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is valid, and to one element.
    let ready = unsafe { libc::poll(&raw mut stderr, 1, 0) };
    if ready == 1 {
        // SAFETY: the buffer is readable for its length. An error cannot be reported anywhere.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
}

/// Returns the usable size of the stack whose guard contains the address.
fn overflowed(address: usize) -> Option<usize> {
    SLABS.iter().find_map(|range| {
        let end = range.end.load(Ordering::Acquire);
        let start = range.start.load(Ordering::Relaxed);
        let slot = range.slot.load(Ordering::Relaxed);
        let inside = end > 1 && (start..end).contains(&address);
        (inside && (address - start) % slot < crate::task::coro::stack::GUARD)
            .then(|| slot - crate::task::coro::stack::GUARD)
    })
}

/// A line that is built without allocating.
struct Line {
    bytes: [u8; 192],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 192],
            len: 0,
        }
    }
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for (target, byte) in self.bytes[self.len..].iter_mut().zip(text) {
            *target = *byte;
            self.len += 1;
        }
    }

    fn push_number(&mut self, number: usize) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guards_of_known_mappings_count() {
        let (start, slot) = (usize::MAX / 2, 64 * 1024);
        register(start, 4 * slot, slot);
        let guard = crate::task::coro::stack::GUARD;
        for stack in 0..4 {
            let limit = start + stack * slot;
            assert_eq!(overflowed(limit), Some(slot - guard));
            assert_eq!(overflowed(limit + guard - 1), Some(slot - guard));
            assert_eq!(overflowed(limit + guard), None);
            assert_eq!(overflowed(limit + slot - 1), None);
        }
        assert_eq!(
            (overflowed(start - 1), overflowed(start + 4 * slot)),
            (None, None)
        );
        unregister(start);
        assert_eq!(overflowed(start), None);
    }

    #[test]
    fn a_line_is_truncated_at_its_capacity() {
        let mut line = Line::default();
        line.push_number(240);
        assert_eq!(&line.bytes[..line.len], b"240");
        line.push(&[b'x'; 500]);
        assert_eq!(line.len, 192);
    }
}
