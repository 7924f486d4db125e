//! What a server asks its starter for: a message, with descriptors.
//!
//! The message: the number of descriptors and, for each descriptor of the program, the index of the one that it
//! becomes; the number of arguments; then strings that end with a zero byte: the path, the arguments, the variables.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::iter;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;

/// The longest message, well below the send buffer of a Unix socket (212,992 bytes by default).
pub(super) const MESSAGE_MAX: usize = 128 * 1024;

/// The most descriptors of a program.
pub(in crate::exec) const DESCRIPTORS_MAX: usize = 4;

/// A program with its arguments, the first of which is its name.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    path: CString,
    args: Vec<CString>,
}

/// A program to start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// For each descriptor of the program from 0 on, the index of the descriptor in the message that it becomes.
    pub(super) layout: &'a [u8],
    pub(super) path: &'a CStr,
    pub(super) args: Vec<&'a CStr>,
    /// The variables, as `NAME=VALUE`.
    pub(super) env: Vec<&'a CStr>,
}

impl Command {
    /// # Errors
    ///
    /// A string has a zero byte, or the strings are too long together.
    pub(crate) fn new(path: &OsStr, args: &[impl AsRef<OsStr>]) -> anyhow::Result<Self> {
        let string = |text: &OsStr| {
            CString::new(text.as_bytes()).with_context(|| format!("the argument {text:?}"))
        };
        let command = Self {
            path: string(path)?,
            args: args
                .iter()
                .map(|arg| string(arg.as_ref()))
                .collect::<anyhow::Result<_>>()?,
        };
        let length: usize = command.args.iter().map(|arg| arg.count_bytes() + 1).sum();
        anyhow::ensure!(
            length <= MESSAGE_MAX / 2 && command.args.len() <= usize::from(u16::MAX),
            "the arguments are too long: {length} bytes in {} arguments; 65536 bytes are possible",
            command.args.len()
        );
        Ok(command)
    }

    /// Encodes a request for this program.
    pub(super) fn request(&self, layout: &[u8], env: &[CString]) -> io::Result<Vec<u8>> {
        let mut message = Vec::with_capacity(1024);
        message.push(layout.len() as u8);
        message.extend(layout);
        message.extend((self.args.len() as u16).to_le_bytes());
        for string in [&self.path].into_iter().chain(&self.args).chain(env) {
            message.extend(string.as_bytes_with_nul());
        }
        if message.len() > MESSAGE_MAX {
            let what = "the arguments and variables of the program are too long";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(message)
    }
}

impl<'a> Request<'a> {
    /// How many descriptors the layout names. One more is the working directory.
    pub(super) fn descriptors(&self) -> usize {
        let last = self.layout.iter().max();
        last.map_or(0, |last| usize::from(*last) + 1)
    }

    pub(super) fn decode(message: &'a [u8]) -> Option<Self> {
        let (&count, rest) = message.split_first()?;
        let (layout, rest) = rest.split_at_checked(usize::from(count))?;
        let (args, rest) = rest.split_first_chunk()?;
        let args = usize::from(u16::from_le_bytes(*args));
        let mut rest = rest;
        let mut strings = iter::from_fn(|| {
            let string = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[string.count_bytes() + 1..];
            Some(string)
        });
        let path = strings.next()?;
        let mut all: Vec<_> = strings.collect();
        let env = all.split_off(args.min(all.len()));
        Some(Self {
            layout,
            path,
            args: all,
            env,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_decoded_as_they_were_encoded() {
        let command = Command::new(OsStr::new("/bin/x"), &["x", "", "a b"]).unwrap();
        let env = [c"A=1".to_owned(), c"B=".to_owned()];
        let message = command.request(&[0, 0, 1, 0], &env).unwrap();
        let request = Request::decode(&message).unwrap();
        assert_eq!(request.layout, [0, 0, 1, 0]);
        assert_eq!(request.path, c"/bin/x");
        assert_eq!(request.args, [c"x", c"", c"a b"]);
        assert_eq!(request.env, [c"A=1", c"B="]);
        assert_eq!(Request::decode(&[]), None);
        assert_eq!(Request::decode(&[3, 0]), None);
    }

    #[test]
    fn long_and_wrong_arguments_are_refused() {
        let long = ["x".repeat(MESSAGE_MAX)];
        assert!(Command::new(OsStr::new("/bin/x"), &long).is_err());
        assert!(Command::new(OsStr::new("/bin/x"), &["a\0b"]).is_err());
    }
}
