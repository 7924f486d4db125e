//! Frames that cost the server work and the client nothing: their number is limited.

use std::io;

/// How many such frames may come in a row.
const USELESS_MAX: u32 = 1000;

/// The length of a frame's header, and of the client's preface (RFC 9113, sections 3.4 and 4.1).
const HEADER: usize = 9;
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;

/// The flag of frames with padding, and how long that can be, with its length.
const PADDED: u8 = 8;
const PADDING_MAX: usize = 256;

/// Reads the headers of frames as they pass.
#[derive(Debug)]
pub(crate) struct Meter {
    /// How many bytes to skip before the next header.
    skip: usize,
    header: [u8; HEADER],
    filled: usize,
    useless: u32,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            filled: 0,
            useless: 0,
        }
    }
}

impl Meter {
    /// Notes received bytes.
    ///
    /// # Errors
    ///
    /// The client has sent too many frames in a row that ask for nothing: PING, SETTINGS, PRIORITY, RST_STREAM, empty
    /// or padded DATA, CONTINUATION, and unknown ones.
    pub(crate) fn note(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let count = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..][..count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == HEADER {
                self.filled = 0;
                self.note_frame()?;
            }
        }
        Ok(())
    }

    fn note_frame(&mut self) -> io::Result<()> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.skip = length;
        match kind {
            DATA if length > PADDING_MAX || length > 0 && flags & PADDED == 0 => self.useless = 0,
            // Each of them ends, or goes on, because of output that the client has taken.
            WINDOW_UPDATE => {}
            HEADERS => self.useless = self.useless.saturating_sub(1),
            _ => self.useless += 1,
        }
        if self.useless > USELESS_MAX {
            let text = "the client sends frames that only cost work";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
        frame.resize(HEADER + usize::from(length), 0xff);
        frame
    }

    /// Notes a preface and frames in pieces of so many bytes.
    fn note(frames: &[Vec<u8>], piece: usize) -> io::Result<()> {
        let mut bytes = vec![b'P'; PREFACE];
        bytes.extend(frames.concat());
        let mut meter = Meter::default();
        bytes.chunks(piece).try_for_each(|piece| meter.note(piece))
    }

    #[test]
    fn frames_in_any_pieces_are_counted() {
        let pings = vec![frame(6, 8); USELESS_MAX as usize];
        for piece in [1, 7, 9, 16, 4096] {
            note(&pings, piece).unwrap();
            let more = [pings.clone(), vec![frame(6, 8)]].concat();
            assert!(note(&more, piece).is_err(), "{piece}");
            let useful = [pings.clone(), vec![frame(DATA, 1)], pings.clone()].concat();
            note(&useful, piece).unwrap();
            let padding = vec![vec![0, 0, 1, DATA, PADDED, 0, 0, 0, 1, 0]; 2];
            assert!(note(&[pings.clone(), padding].concat(), piece).is_err());
        }
    }
}
