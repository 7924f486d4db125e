//! Frames of HTTP/2, written and read by hand (RFC 9113, section 4), so that a client can send what no library sends.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::Socket;

use super::DEADLINE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;

/// Error codes (section 7).
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

/// Settings (section 6.5.2).
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// `GET http://a/` from the static table (RFC 7541, appendix A), and the authority.
pub(crate) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

/// The same with another method and path, which have less than 127 bytes.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x86, 0x41, 1, b'a'];
    block.extend(literal(2, method));
    block.extend(literal(4, path));
    block
}

/// A field whose name is in the static table, without indexing.
fn literal(name: u8, value: &str) -> Vec<u8> {
    let mut field = vec![name, length(value)];
    field.extend_from_slice(value.as_bytes());
    field
}

/// A field with a name of its own, without indexing.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, length(name)];
    field.extend_from_slice(name.as_bytes());
    field.push(length(value));
    field.extend_from_slice(value.as_bytes());
    field
}

/// A length in one byte.
fn length(text: &str) -> u8 {
    let length = u8::try_from(text.len()).expect("a short text");
    assert!(length < 127, "a length of one byte");
    length
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub(crate) fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of `RST_STREAM` or `GOAWAY`.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload[at..][..4].try_into();
        u32::from_be_bytes(code.expect("four bytes"))
    }

    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A client.
pub(crate) struct Client(Socket);

impl Client {
    /// Connects, and sends the preface with some settings.
    pub(crate) fn connect(path: &Path, settings: &[u8]) -> Self {
        let socket = UnixStream::connect(path).expect("connect");
        Self::over(OwnedFd::from(socket).into(), settings)
    }

    /// Sends the preface, with some settings, over a connected socket.
    pub(crate) fn over(socket: Socket, settings: &[u8]) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        socket
            .set_write_timeout(Some(DEADLINE))
            .expect("a deadline");
        let mut client = Self(socket);
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(&frame(SETTINGS, 0, 0, settings));
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("send");
    }

    /// Sends as long as the server takes it. Returns whether it has taken all.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        match self.0.write_all(bytes) {
            Ok(()) => true,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => panic!("the server waits"),
            Err(_) => false,
        }
    }

    /// Receives a frame. Returns `None` at the end of the stream, or its reset.
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.read(&mut header)?;
        let [high, middle, low, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; length as usize];
        self.read(&mut payload)?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    fn read(&mut self, buf: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buf) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => panic!("nothing comes"),
            read => read.ok(),
        }
    }

    /// Receives up to a frame that is looked for.
    #[track_caller]
    pub(crate) fn receive_until(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.receive().expect("a frame before the end");
            if is_wanted(&frame) {
                return frame;
            }
        }
    }

    /// Receives to the end. Returns the reason, if the server says one.
    pub(crate) fn reason(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.receive() {
            if frame.kind == GOAWAY {
                reason = Some(frame.code());
            }
        }
        reason
    }

    /// Sends a request, and receives its answer. Returns the block of its head.
    #[track_caller]
    pub(crate) fn ask(&mut self, stream: u32, block: &[u8]) -> Vec<u8> {
        self.send(&headers(stream, block));
        self.answer(stream)
    }

    /// Receives the answer on a stream. Returns the block of its head.
    #[track_caller]
    pub(crate) fn answer(&mut self, stream: u32) -> Vec<u8> {
        let head = self.receive_until(|frame| frame.stream == stream);
        assert_eq!(head.kind, HEADERS, "{head:?}");
        if !head.ends_stream() {
            self.receive_until(|frame| frame.stream == stream && frame.ends_stream());
        }
        head.payload
    }

    /// Sends a request that is reset. Returns the error code.
    #[track_caller]
    pub(crate) fn is_reset(&mut self, stream: u32) -> u32 {
        let reset = self.receive_until(|frame| frame.stream == stream);
        assert_eq!(reset.kind, RST_STREAM, "{reset:?}");
        reset.code()
    }
}
