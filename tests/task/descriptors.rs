//! Waits for descriptors of the handler's own.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use futures_lite::future::or;
use socketserver::task::{Descriptor, block_on, timeout};

use crate::{DEADLINE, everywhere};

const SOON: Duration = Duration::from_millis(20);

/// Returns both ends of a connection; the first one does not block.
fn pair() -> (Descriptor<UnixStream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("non-blocking mode");
    theirs.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    (Descriptor::new(ours), theirs)
}

fn read(ours: &Descriptor<UnixStream>) -> io::Result<u8> {
    let mut byte = [0];
    ours.read_with(|mut ours| ours.read(&mut byte))?;
    Ok(byte[0])
}

#[test]
fn an_attempt_is_repeated_once_the_descriptor_is_ready() {
    everywhere(|| {
        let (ours, mut theirs) = pair();
        let mut attempts = 0;
        thread::scope(|scope| {
            // Only the second byte is an answer, and it comes after the first one was taken.
            scope.spawn(move || {
                theirs.write_all(&[1]).expect("write");
                theirs.read_exact(&mut [0]).expect("read");
                theirs.write_all(&[2]).expect("write");
            });
            assert_eq!(read(&ours).expect("read"), 1);
            ours.write_with(|mut ours| ours.write(&[7])).expect("write");
            let mut byte = [0];
            let read = ours.read_with(|mut ours| {
                attempts += 1;
                ours.read(&mut byte)
            });
            assert_eq!((read.expect("read"), byte), (1, [2]));
        });
        assert!(attempts <= 3, "{attempts} attempts");
    });
}

#[test]
fn a_wait_ends_at_its_deadline_and_with_its_error() {
    everywhere(|| {
        let (ours, mut theirs) = pair();
        let late = timeout(SOON, || read(&ours));
        assert_eq!(late.expect_err("no byte").kind(), io::ErrorKind::TimedOut);
        theirs.write_all(&[3]).expect("write");
        assert_eq!(read(&ours).expect("read"), 3);
        let failed = ours.read_with(|_| Err::<(), _>(io::Error::other("its own")));
        assert_eq!(failed.expect_err("an error").to_string(), "its own");
    });
}

#[test]
fn a_future_waits_for_the_first_of_two_descriptors() {
    everywhere(|| {
        let ((one, _silent), (other, mut speaks)) = (pair(), pair());
        let poll = |descriptor: &Descriptor<UnixStream>, context: &std::task::Context<'_>| {
            let mut byte = [0];
            let read = descriptor.poll_read_with(context, |mut from| from.read(&mut byte));
            read.map(|read| read.map(|_| byte[0]))
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                speaks.write_all(&[4]).expect("write");
                // Until the other end is closed.
                let _ = speaks.read(&mut [0]);
            });
            let first = or(
                poll_fn(|context| poll(&one, context)),
                poll_fn(|context| poll(&other, context)),
            );
            assert_eq!(block_on(first).expect("no abort").expect("read"), 4);
            drop((one, other));
        });
    });
}

#[test]
fn a_write_waits_for_room() {
    everywhere(|| {
        let (ours, mut theirs) = pair();
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut left = 1 << 22;
                let mut buf = [0; 4096];
                while left > 0 {
                    left -= theirs.read(&mut buf).expect("read");
                }
            });
            let data = [0; 4096];
            let mut left = 1 << 22;
            while left > 0 {
                let part = &data[..data.len().min(left)];
                left -= ours.write_with(|mut ours| ours.write(part)).expect("write");
            }
        });
    });
}
