//! The program: found and checked before anything is bound.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{Access, access};

/// What the kernel reads of a file to find out how to execute it (`BINPRM_BUF_SIZE`).
pub(super) const HEAD: u64 = 256;

/// Finds a program as a shell does: a name without a slash in the directories of PATH.
///
/// # Errors
///
/// There is none.
pub(super) fn find(name: &OsStr) -> anyhow::Result<PathBuf> {
    ensure!(!name.is_empty(), "run a program: its name is empty");
    if name.as_bytes().contains(&b'/') {
        // Absolute, so that it means the same in another directory.
        return std::path::absolute(name).with_context(|| format!("run {}", name.display()));
    }
    in_path(name).with_context(|| {
        format!(
            "run {}: no directory of PATH has such a program; give its path, or correct the name",
            name.display()
        )
    })
}

/// Finds a name in the directories of PATH: the first file that this process may execute, or else the first one.
pub(super) fn in_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let paths = env::split_paths(&path).map(|directory| directory.join(name));
    let paths = paths.filter_map(|path| std::path::absolute(path).ok());
    let files: Vec<_> = paths.filter(|path| path.is_file()).collect();
    let executable = files
        .iter()
        .find(|file| access(*file, Access::EXEC_OK).is_ok());
    executable.or_else(|| files.first()).cloned()
}

/// The interpreter in the first line of a script and its argument, either of which may be empty; `None` for anything but a
/// script.
pub(super) fn first_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| b" \t".contains(byte));
    let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
    Some((interpreter, rest.trim_ascii()))
}

/// Checks that this process may execute a file, and that the kernel knows how.
///
/// # Errors
///
/// What execve(2) would fail with, and what to do.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    let about = fs::metadata(path).with_context(|| format!("run {name}"))?;
    ensure!(
        !about.is_dir(),
        "run {name}: it is a directory; give a program in it"
    );
    ensure!(
        about.is_file(),
        "run {name}: it is not a file; give a program"
    );
    if let Err(err) = access(path, Access::EXEC_OK) {
        let err = io::Error::from(err);
        bail!(
            "run {name}: this user may not execute it: {err}; set its mode with chmod +x, or run as another user"
        );
    }
    let mut head = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(HEAD)
            .read_to_end(&mut head)
            .with_context(|| format!("read {name}"))?,
        // A program may be executable and not readable.
        Err(_) => return Ok(()),
    };
    check_head(&head).with_context(|| format!("run {name}"))
}

fn check_head(head: &[u8]) -> anyhow::Result<()> {
    let Some((interpreter, _)) = first_line(head) else {
        ensure!(
            head.starts_with(b"\x7fELF") || has_other_formats(),
            "it is neither a binary nor a script with an interpreter; write #!/bin/sh into its first line, or run it by \
             /bin/sh -c"
        );
        return Ok(());
    };
    ensure!(
        !interpreter.is_empty(),
        "its first line names no interpreter after #!"
    );
    let has_return = interpreter.ends_with(b"\r");
    let interpreter = Path::new(OsStr::from_bytes(interpreter));
    let shown = interpreter.display();
    if let Err(err) = access(interpreter, Access::EXEC_OK) {
        let err = io::Error::from(err);
        let note = if has_return {
            " (its first line ends with a carriage return)"
        } else {
            ""
        };
        bail!(
            "the interpreter {shown} of this script cannot be executed: {err}{note}; correct its first line"
        );
    }
    Ok(())
}

/// Whether the kernel executes other formats, by rules of the administrator (binfmt_misc).
fn has_other_formats() -> bool {
    let rules = fs::read_dir("/proc/sys/fs/binfmt_misc");
    rules.is_ok_and(|rules| rules.count() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_files() {
        let error = |head: &[u8]| check_head(head).unwrap_err().to_string();
        let line = first_line(b"#! /bin/sh  -e x \necho");
        assert_eq!(line, Some((&b"/bin/sh"[..], &b"-e x"[..])));
        assert_eq!(first_line(b"#!\n"), Some((&b""[..], &b""[..])));
        assert_eq!(first_line(b"echo"), None);
        assert!(check_head(b"#!/bin/sh\necho").is_ok());
        assert!(check_head(b"#! /bin/sh -e\necho").is_ok());
        assert!(check_head(b"\x7fELF...").is_ok());
        assert!(error(b"#!\n").contains("names no interpreter"));
        assert!(error(b"#!/nowhere/sh\n").contains("/nowhere/sh of this script"));
        assert!(error(b"#!/bin/sh\r\n").contains("carriage return"));
        if !has_other_formats() {
            assert!(error(b"echo hello\n").contains("write #!/bin/sh"));
        }
    }

    #[test]
    fn programs_are_found_in_path_and_by_their_path() {
        assert!(find(OsStr::new("sh")).unwrap().is_absolute());
        assert_eq!(find(OsStr::new("/no/such")).unwrap(), Path::new("/no/such"));
        let err = find(OsStr::new("no-such-program")).unwrap_err().to_string();
        assert!(err.contains("no directory of PATH"), "{err}");
        let err = check(Path::new("/bin")).unwrap_err().to_string();
        assert!(err.contains("it is a directory"), "{err}");
        assert!(check(Path::new("/bin/sh")).is_ok());
    }
}
