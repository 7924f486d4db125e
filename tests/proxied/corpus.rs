//! Mutated headers: no bytes make the parser panic, wait for ever, or take what it cannot write itself.
//!
//! The seeds are the headers of the tables and the files in `tests/corpus/proxy/`: bytes that HAProxy, nginx and curl
//! have sent. The run is the same each time; `PROXY_FUZZ=100000` makes that many mutations of each seed.

use std::fs;

use socketserver::proxied::Header;

use crate::headers::{bad, good};

/// A generator of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        // Bytes that headers have are likelier.
        let known = b" \r\n\0:.019fPTU\x20\x21\x11\x12\x31\x03\xff";
        match self.next(2) {
            0 => known[self.next(known.len())],
            _ => self.next(256) as u8,
        }
    }
}

/// Changes a few bytes: sets, inserts, removes, repeats or swaps them, or splices another seed in.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], numbers: &mut Numbers) {
    for _ in 0..=numbers.next(3) {
        let at = numbers.next(bytes.len());
        let to = (at + numbers.next(20)).min(bytes.len());
        match numbers.next(7) {
            0 if at < bytes.len() => bytes[at] = numbers.byte(),
            1 if at < bytes.len() => bytes[at] ^= 1 << numbers.next(8),
            2 => bytes.insert(at, numbers.byte()),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let other = &others[numbers.next(others.len())];
                bytes.truncate(at);
                bytes.extend(&other[numbers.next(other.len())..]);
            }
            _ => bytes.truncate(to),
        }
    }
}

/// What holds for any bytes.
fn check(bytes: &[u8]) {
    match Header::parse(bytes) {
        Err(err) => assert_eq!(err.kind(), std::io::ErrorKind::InvalidData),
        Ok(None) => {
            // More of anything ends the wait, within the longest header.
            let all = [bytes, &[b'x'; 70_000]].concat();
            assert!(
                !matches!(Header::parse(&all), Ok(None)),
                "{}",
                bytes.escape_ascii()
            );
        }
        Ok(Some((header, len))) => {
            assert!(
                (15..=bytes.len()).contains(&len),
                "{}",
                bytes.escape_ascii()
            );
            let again = Header::parse(&bytes[..len])
                .expect("the same header")
                .expect("all of it");
            assert_eq!(again, (header.clone(), len));
            let shorter = Header::parse(&bytes[..len - 1]);
            assert!(matches!(shorter, Ok(None)), "{}", bytes.escape_ascii());
            // What was understood is understood again when it is sent on, with the same client.
            let sent = header.to_v2().expect("a header that can be sent");
            let (got, _) = Header::parse(&sent).expect("a header").expect("all of it");
            assert_eq!(
                (got.source(), got.destination()),
                (header.source(), header.destination())
            );
            let _ = (
                header.tls(),
                header.authority(),
                header.alpn(),
                header.unique_id(),
            );
        }
    }
}

#[test]
fn no_mutation_of_a_header_breaks_a_rule() {
    let files = fs::read_dir("tests/corpus/proxy").expect("a corpus");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        fs::read(entry.expect("an entry").path()).expect("a file")
    };
    let mut seeds: Vec<_> = files.map(read).collect();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        assert!(
            matches!(Header::parse(seed), Ok(Some(_))),
            "{}",
            seed.escape_ascii()
        );
    }
    seeds.sort();
    seeds.extend(good().into_iter().map(|(bytes, _)| bytes));
    seeds.extend(bad().into_iter().map(|(bytes, _)| bytes));
    let rounds = std::env::var("PROXY_FUZZ").map_or(500, |count| count.parse().expect("a number"));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        check(seed);
        let mut bytes = seed.clone();
        for _ in 0..rounds {
            // Sometimes a mutation of a mutation.
            if numbers.next(3) > 0 || bytes.len() > 4096 {
                bytes.clone_from(seed);
            }
            mutate(&mut bytes, &seeds, &mut numbers);
            check(&bytes);
        }
    }
}
