//! Files that are compressed while they are sent.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use socketserver::task;

use crate::files::codings::Coding;
use crate::response::{Content, too_short};

/// A smaller file would gain less than the fields cost.
pub(crate) const SIZE_MIN: i64 = 1024;

/// How many bytes of a file are compressed at once.
const AT_ONCE: usize = 64 * 1024;

/// Fast levels, which gain most of what there is to gain: of 1 to 9, of 0 to 11 and of 1 to 22.
const GZIP_LEVEL: u32 = 5;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// The base-two logarithms of the windows, which bound the memory of a response: 1 MiB each, what a client has for
/// zstd being 8 MiB (RFC 9659).
const BROTLI_WINDOW: u32 = 20;
const ZSTD_WINDOW: u32 = 20;

/// The buffer of the encoder, which writes to memory.
const BROTLI_BUFFER: usize = 4096;

/// The first `size` bytes of a file in a coding.
pub(crate) fn content(file: File, size: u64, coding: Coding) -> Content {
    Content::stream(move |out| {
        let mut work = Work {
            file,
            at: 0,
            size,
            encoder: None,
        };
        loop {
            // It computes for long, and reads a disk.
            let (rest, done) = task::offload(move || work.step(coding));
            let piece = done?;
            out.write_all(&piece)?;
            match rest {
                Some(rest) => work = rest,
                None => return Ok(()),
            }
        }
    })
}

/// A file that is being compressed.
struct Work {
    file: File,
    at: u64,
    size: u64,
    encoder: Option<Encoder>,
}

enum Encoder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Zstd(Box<zstd::Encoder<'static, Vec<u8>>>),
}

impl Work {
    /// Compresses the next piece of the file. Returns what is left to do, and the compressed bytes.
    fn step(mut self, coding: Coding) -> (Option<Self>, io::Result<Vec<u8>>) {
        match self.compress(coding) {
            Ok(Some(piece)) => (Some(self), Ok(piece)),
            Ok(None) => (
                None,
                self.encoder.map_or_else(|| Ok(Vec::new()), Encoder::finish),
            ),
            Err(err) => (None, Err(err)),
        }
    }

    /// Returns `None` at the end of the file.
    fn compress(&mut self, coding: Coding) -> io::Result<Option<Vec<u8>>> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new(coding)?),
        };
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; left.min(AT_ONCE)];
        let count = self.file.read_at(&mut buffer, self.at)?;
        if count == 0 {
            return Err(too_short());
        }
        self.at += count as u64;
        encoder.write_all(&buffer[..count])?;
        Ok(Some(std::mem::take(encoder.output())))
    }
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        let out = Vec::new();
        Ok(match coding {
            Coding::Brotli => {
                let (level, window) = (BROTLI_LEVEL, BROTLI_WINDOW);
                let encoder = CompressorWriter::new(out, BROTLI_BUFFER, level, window);
                Self::Brotli(Box::new(encoder))
            }
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(out, Compression::new(GZIP_LEVEL)))),
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Brotli(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// The compressed bytes that have not been taken.
    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}
