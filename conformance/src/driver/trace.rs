//! What the library calls, noted in the order in which it happens, from every thread and process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::thread::ThreadId;

use super::spec;
use crate::scenario::base;

/// Where serving was asked for: the process and its thread, and the file that all append to.
static BEGUN: OnceLock<(u32, ThreadId, File)> = OnceLock::new();

/// Opens the trace. Called once, on the thread that serves.
pub(super) fn begin() {
    let file = OpenOptions::new().append(true).create(true).open("trace");
    let here = (std::process::id(), std::thread::current().id());
    let begun = (here.0, here.1, file.expect("a trace"));
    assert!(BEGUN.set(begun).is_ok(), "begun once");
}

fn begun() -> &'static (u32, ThreadId, File) {
    BEGUN.get().expect("begun before anything is noted")
}

/// Where this is: `here`, in a `thread` beside, or in another `process`.
pub(super) fn place() -> &'static str {
    let (process, thread, _) = begun();
    if *process != std::process::id() {
        "process"
    } else if *thread != std::thread::current().id() {
        "thread"
    } else {
        "here"
    }
}

/// Notes an event in the lane where it happened: that of the server, or that of a request.
pub(super) fn note(event: &str, request: Option<u64>) {
    let name = event.split('(').next().unwrap_or_default();
    if spec().lists("untraced", name) {
        return;
    }
    // These models do not accept on the thread that serves: what is whose is said by the event.
    let is_apart = matches!(base(&spec().model), "prefork" | "coroutines");
    let of_server = if is_apart {
        matches!(
            name,
            "verify_request" | "service_actions" | "handle_timeout"
        )
    } else {
        place() == "here"
    };
    let lane = match request {
        Some(id) if !of_server => format!("request {id}"),
        _ => "server".to_owned(),
    };
    let line = serde_json::json!([lane, event]).to_string() + "\n";
    let mut file = &begun().2;
    file.write_all(line.as_bytes()).expect("append to a file");
}

/// What an error is called in a trace, in both languages.
pub(super) fn kind(err: &io::Error) -> String {
    use io::ErrorKind;
    match err.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "PeerGone",
        ErrorKind::TimedOut => "Timeout",
        ErrorKind::ConnectionRefused => "Refused",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::NotConnected => "NoAddress",
        ErrorKind::AddrInUse => "EADDRINUSE",
        ErrorKind::InvalidData => "TooLarge",
        _ => return format!("{:?}", err.kind()),
    }
    .to_owned()
}

/// Bytes as text that is the same in both languages.
pub(super) fn shown(data: &[u8]) -> String {
    if data.len() > 60 {
        return format!("<{} bytes>", data.len());
    }
    let mut text = String::new();
    for &byte in data {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\\' => text.push_str("\\\\"),
            32..127 => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}
