//! Tables of conversations: the files of `corpus`.
//!
//! A file has comments (`#`), and rows that empty lines separate:
//!
//! ```text
//! == 9112 3.2: two hosts
//! > GET / HTTP/1.1
//! > Host: a
//! < HTTP/1.1 400 Bad Request
//! ```
//!
//! A row begins with the RFC and its section, and a name. A client sends the lines behind `>`, and receives those
//! behind `<`, without `date`. Each ends with CR LF, unless a backslash ends it. `>3 text` stands for three equal lines,
//! `>>` for another request ([`NEXT`]). `\n`, `\r`, `\t`, `\0`, `\s` (a space), `\\` and `\xff` stand for bytes,
//! `\{200*a}` for 200 letters.

/// What `>>` stands for: an answer to it shows that the connection has gone on.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// What a client sends, and all that it receives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) sent: Vec<u8>,
    /// In the form of the file.
    pub(crate) answer: String,
}

/// The rows of a file.
pub(crate) fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for line in lines.filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("== ") {
            rows.push(Row {
                name: name.to_owned(),
                ..Row::default()
            });
            continue;
        }
        let row = rows.last_mut().expect("a row begins with its name");
        if line == ">>" {
            row.sent.extend_from_slice(NEXT);
        } else if let Some(rest) = line.strip_prefix('>') {
            let (count, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let count = if count.is_empty() { 1 } else { number(count) };
            row.sent.extend(bytes_of(text).repeat(count));
        } else {
            assert!(line.starts_with('<'), "neither sent nor received: {line}");
            row.answer.push_str(line);
            row.answer.push('\n');
        }
    }
    rows
}

fn number(digits: &str) -> usize {
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number: {digits}"))
}

/// The bytes for which a line of a file stands.
fn bytes_of(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let Some(escape) = behind.chars().next() else {
            // The line does not end here.
            return bytes;
        };
        rest = &behind[1..];
        match escape {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            's' => bytes.push(b' '),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = u8::from_str_radix(&rest[..2], 16);
                bytes.push(digits.expect("two hexadecimal digits"));
                rest = &rest[2..];
            }
            '{' => {
                let (repeated, behind) = rest.split_once('}').expect("a closing brace");
                let (count, text) = repeated.split_once('*').expect("a count");
                bytes.extend(text.repeat(number(count)).bytes());
                rest = behind;
            }
            other => panic!("an unknown escape: {other}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// An answer in the form of the files.
pub(crate) fn shown(answer: &[u8]) -> String {
    let mut shown = String::new();
    let mut rest = answer;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        rest = behind;
        if line.starts_with(b"date: ") && line.ends_with(b" GMT\r\n") {
            continue;
        }
        let text = match line.strip_suffix(b"\r\n") {
            Some(line) => escaped(line),
            None => escaped(line) + "\\",
        };
        shown.push_str(format!("< {text}").trim_end());
        shown.push('\n');
    }
    shown
}

fn escaped(line: &[u8]) -> String {
    let mut text = String::new();
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\\' => text.push_str("\\\\"),
            b' ' if at + 1 == line.len() => text.push_str("\\s"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}
