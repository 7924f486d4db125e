//! Inputs that no table lists: the conversations of `tests/corpus`, changed at random, and read in random pieces.
//!
//! Each run begins with the same seed, so a failure comes again. `FUZZ_SECONDS=60` goes on for so long, with other
//! seeds, each of which is printed.

#[path = "../tests/support/rows.rs"]
#[allow(dead_code, reason = "the answers are checked elsewhere")]
mod rows;

use std::env;
use std::io::{self, BufRead, Read};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::config::Limits;
use crate::h1::chunked::Chunked;
use crate::h1::output::write_chunk;
use crate::h2::meter::Meter;
use crate::head::{self, Reject, Scan};

const CORPUS: [&str; 10] = [
    include_str!("../tests/corpus/chunks.txt"),
    include_str!("../tests/corpus/coding.txt"),
    include_str!("../tests/corpus/connection.txt"),
    include_str!("../tests/corpus/fields.txt"),
    include_str!("../tests/corpus/length.txt"),
    include_str!("../tests/corpus/limits.txt"),
    include_str!("../tests/corpus/request_line.txt"),
    include_str!("../tests/corpus/targets.txt"),
    include_str!("../tests/corpus/timeouts.txt"),
    include_str!("../tests/corpus/trailers.txt"),
];

/// Pieces that mean something to a parser.
const WORDS: [&[u8]; 20] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Host: a\r\n",
    b"HTTP/1.0",
    b"http://",
    b"[::1]",
    b"\0",
    b"\x80",
    b"\x7f",
];

/// A generator of numbers (xorshift64*), which needs no crate.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Changes an input in some places.
fn change(random: &mut Random, input: &[u8], corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(8).min(bytes.len() - at);
        match random.below(6) {
            0 => drop(bytes.splice(at..end, [])),
            1 => drop(bytes.splice(at..at, random.pick(&WORDS).iter().copied())),
            2 => drop(bytes.splice(at..end, random.pick(&WORDS).iter().copied())),
            3 => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let bit = 1 << random.below(8);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= bit);
            }
        }
    }
    bytes.truncate(8 * 1024);
    bytes
}

/// Runs a check on changed inputs: some thousand, or as long as `FUZZ_SECONDS` says.
fn run(check: fn(&mut Random, &[u8])) {
    let rows = CORPUS.iter().flat_map(|text| rows::parse(text));
    let corpus: Vec<Vec<u8>> = rows.map(|row| row.sent).collect();
    let seconds = env::var("FUZZ_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    loop {
        let mut random = Random(seed);
        if end.is_some() {
            eprintln!("seed {seed:#x}");
        }
        for input in &corpus {
            check(&mut random, input);
        }
        for _ in 0..10_000 {
            let input = &corpus[random.below(corpus.len())];
            let changed = change(&mut random, input, &corpus);
            check(&mut random, &changed);
        }
        if end.is_none_or(|end| Instant::now() >= end) {
            return;
        }
        seed = random.next() | 1;
    }
}

fn limits() -> Limits {
    Limits {
        head_bytes: 1000,
        headers: 20,
        target_bytes: 200,
        ..Limits::default()
    }
}

/// What becomes of a head that arrives in pieces, each longer by `step`.
fn scan(bytes: &[u8], mut step: impl FnMut() -> usize) -> Option<Result<usize, Reject>> {
    let (mut seen, mut count) = (0, 0);
    loop {
        count = (count + step()).min(bytes.len());
        match head::scan(&bytes[..count], seen, &limits()) {
            Ok(Scan::Partial) if count == bytes.len() => return None,
            Ok(Scan::Partial) => seen = count,
            Ok(Scan::Whole(end)) => return Some(Ok(end)),
            Err(reject) => return Some(Err(reject)),
        }
    }
}

#[test]
fn heads_mean_the_same_in_any_pieces() {
    run(|random, input| {
        let whole = scan(input, || input.len().max(1));
        assert_eq!(whole, scan(input, || 1), "{}", input.escape_ascii());
        let pieces = scan(input, || 1 + random.below(40));
        assert_eq!(whole, pieces, "{}", input.escape_ascii());
        let Some(Ok(end)) = whole else { return };
        let head = Bytes::copy_from_slice(&input[..end]);
        if let Ok(head) = head::parse(&head, &limits()) {
            check_request(&head.request, input);
        }
    });
}

/// A head that was accepted has nothing that another server could take differently.
fn check_request(request: &http::Request<()>, input: &[u8]) {
    let shown = input.escape_ascii();
    let headers = request.headers();
    let count = |name: &str| headers.get_all(name).iter().count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(lengths + codings <= 1, "{shown}");
    let is_new = request.version() == http::Version::HTTP_11;
    assert!(
        count("host") == 1 || !is_new && count("host") == 0,
        "{shown}"
    );
    assert!(is_new || codings == 0, "{shown}");
    let target = request.uri().to_string();
    assert!(
        target.bytes().all(|byte| byte.is_ascii_graphic()),
        "{shown}"
    );
    for value in headers.values() {
        let is_clean = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
        assert!(value.as_bytes().iter().all(is_clean), "{shown}");
    }
}

/// Gives bytes in pieces.
struct Pieces<'a, F> {
    rest: &'a [u8],
    piece: &'a [u8],
    size: F,
}

impl<F: FnMut() -> usize> Read for Pieces<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let count = bytes.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

impl<F: FnMut() -> usize> BufRead for Pieces<'_, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() {
            let size = (self.size)().min(self.rest.len());
            (self.piece, self.rest) = self.rest.split_at(size);
        }
        Ok(self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece = &self.piece[count..];
    }
}

/// A body, how it ends, its trailers, and how much of the input is left.
type Decoded = (Vec<u8>, Result<usize, io::ErrorKind>, HeaderMap);

fn decode(rest: &[u8], size: impl FnMut() -> usize, buffer: usize) -> Decoded {
    let mut input = Pieces {
        rest,
        piece: &[],
        size,
    };
    let (mut chunked, mut trailers) = (Chunked::new(1000), HeaderMap::new());
    let (mut body, mut buf) = (Vec::new(), vec![0; buffer]);
    let end = loop {
        match chunked.read(&mut input, &mut buf, &mut trailers) {
            Ok(0) => break Ok(input.piece.len() + input.rest.len()),
            Ok(count) => body.extend_from_slice(&buf[..count]),
            Err(err) => break Err(err.kind()),
        }
    };
    assert_eq!(end.is_ok(), chunked.is_done());
    (body, end, trailers)
}

#[test]
fn chunks_mean_the_same_in_any_pieces() {
    run(|random, input| {
        // The head of a conversation is no body.
        let start = input.windows(4).position(|four| four == b"\r\n\r\n");
        let body = &input[start.map_or(0, |start| start + 4)..];
        let whole = decode(body, || usize::MAX, 64 * 1024);
        let bytes = decode(body, || 1, 64 * 1024);
        assert_eq!(whole, bytes, "{}", body.escape_ascii());
        let buffer = 1 + random.below(9);
        let pieces = decode(body, || 1 + random.below(40), buffer);
        assert_eq!(whole, pieces, "{}", body.escape_ascii());
    });
}

#[test]
fn chunks_that_are_written_can_be_read() {
    run(|random, input| {
        let mut sent = Vec::new();
        let mut rest = input;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(1 + random.below(rest.len()));
            write_chunk(&mut sent, chunk).expect("a vector takes all");
            rest = behind;
        }
        sent.extend_from_slice(b"0\r\n\r\nGET");
        let (body, end, _) = decode(&sent, || 1 + random.below(4000), 512);
        assert_eq!((&*body, end), (input, Ok(3)));
    });
}

#[test]
fn frames_count_the_same_in_any_pieces() {
    run(|random, input| {
        // Small lengths, so that there are many frames.
        let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for byte in input {
            let length = [0, 0, byte & 3];
            frames.extend([&length[..], &[byte >> 4, byte & 8, 0, 0, 0, 1]].concat());
            frames.extend(&[0; 3][..usize::from(byte & 3)]);
        }
        let mut whole = Meter::default();
        let is_fine = whole.note(&frames).is_ok();
        let (mut pieces, mut rest) = (Meter::default(), &*frames);
        let mut goes_on = true;
        while goes_on && !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + random.below(rest.len().min(40)));
            goes_on = pieces.note(piece).is_ok();
            rest = behind;
        }
        assert_eq!(is_fine, goes_on, "{}", input.escape_ascii());
    });
}
