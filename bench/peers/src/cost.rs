//! Messages that cost something: light ones are answered at once, heavy ones after computing or waiting.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The size of every message.
pub const MESSAGE: usize = 64;

/// How long a heavy message waits, or how much processor time it takes.
pub const WAIT: Duration = Duration::from_millis(20);
const COMPUTE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    Nothing,
    Compute,
    Wait,
}

impl Cost {
    /// The highest two bits of a message say what it costs.
    pub fn of(message: &[u8; MESSAGE]) -> Self {
        match message[0] >> 6 {
            0 => Self::Nothing,
            1 => Self::Wait,
            _ => Self::Compute,
        }
    }
}

pub(crate) fn serve(stream: &mut (impl Read + Write), compute: fn()) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    while receive(stream, &mut message)? {
        match Cost::of(&message) {
            Cost::Nothing => {}
            Cost::Compute => compute(),
            // Parks a coroutine, and blocks a thread.
            Cost::Wait => socketserver::task::sleep(WAIT),
        }
        stream.write_all(&message)?;
    }
    Ok(())
}

/// Reads a whole message, or sees the end.
fn receive(stream: &mut impl Read, message: &mut [u8; MESSAGE]) -> io::Result<bool> {
    let mut count = 0;
    while count < MESSAGE {
        match stream.read(&mut message[count..])? {
            0 => return Ok(false),
            more => count += more,
        }
    }
    Ok(true)
}

/// Computes until this thread has had 5 ms of its processor, however long that takes.
pub fn compute() {
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        Duration::from(time.expect("every thread has a clock"))
    };
    let end = now() + COMPUTE;
    let mut state = 1_u64;
    while now() < end {
        for _ in 0..100 {
            state = black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
        }
    }
}
