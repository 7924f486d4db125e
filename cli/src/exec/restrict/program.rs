//! The files that the kernel and the dynamic loader open to start a program.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;
use elf::{ElfStream, ParseError};

use crate::exec::program::{self, HEAD};

/// The kernel follows five scripts at most (execve(2), `ELOOP`).
const SCRIPTS_MAX: usize = 5;

/// The program, the interpreters of its first line and of theirs, the dynamic loader and the libraries.
pub(super) fn files(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut scripts) = (Vec::new(), 0);
    let mut left = vec![program.to_owned()];
    while let Some(file) = left.pop() {
        if let Some((interpreter, argument)) = first_line(&file)? {
            scripts += 1;
            ensure!(
                scripts <= SCRIPTS_MAX,
                "{}: its interpreter is a script, whose interpreter is a script, and so on; name a binary in the first line",
                program.display()
            );
            left.extend(by_env(&interpreter, &argument)?);
            left.push(interpreter);
        } else {
            files.extend(loaded(&file)?);
        }
        files.push(file);
    }
    Ok(files)
}

/// The interpreter that the first line of a script names, and the argument after it.
fn first_line(path: &Path) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    let tried = || format!("read {}, to find what it needs", path.display());
    let mut start = Vec::new();
    let file = File::open(path).with_context(tried)?;
    let read = file.take(HEAD).read_to_end(&mut start);
    read.with_context(tried)?;
    let Some((interpreter, argument)) = program::first_line(&start) else {
        return Ok(None);
    };
    ensure!(
        !interpreter.is_empty(),
        "{}: its first line names no interpreter",
        path.display()
    );
    Ok(Some((
        OsStr::from_bytes(interpreter).into(),
        argument.to_owned(),
    )))
}

/// The program that env(1) looks up, if it is the interpreter.
fn by_env(interpreter: &Path, argument: &[u8]) -> anyhow::Result<Option<PathBuf>> {
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return Ok(None);
    }
    let mut words = argument.split(u8::is_ascii_whitespace);
    // Options come first, then variables.
    let name = words.find(|word| !word.is_empty() && word[0] != b'-' && !word.contains(&b'='));
    let name = OsStr::from_bytes(name.context("env(1) in a first line names no program")?);
    if name.as_bytes().contains(&b'/') {
        return Ok(Some(name.into()));
    }
    match program::in_path(name) {
        Some(found) => Ok(Some(found)),
        None => bail!(
            "{} of a first line: not in the PATH of the server; name its file in that line",
            name.display()
        ),
    }
}

/// The command that lists the libraries of a program, or of the interpreter of a script; `None` for a static one.
pub(super) fn listing(program: &Path) -> anyhow::Result<Option<Vec<PathBuf>>> {
    let interpreter = first_line(program)?.map(|(interpreter, _)| interpreter);
    let program = interpreter.as_deref().unwrap_or(program);
    Ok(loader(program)?.map(|loader| vec![loader, LIST.into(), program.to_owned()]))
}

/// The loaders of glibc and of musl both know this option; neither runs a part of the program.
const LIST: &str = "--list";

/// The libraries of a program, as its dynamic loader finds them, and the loader, which is one of them.
fn loaded(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Some(loader) = loader(program)? else {
        return Ok(Vec::new());
    };
    let output = Command::new(&loader)
        .arg(LIST)
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}, the dynamic loader", loader.display()))?;
    ensure!(
        output.status.success(),
        "the libraries of {}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ")
    );
    let lines = output.stdout.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(library).collect())
}

/// The path in a line `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`; the kernel's own library has none.
fn library(line: &[u8]) -> Option<PathBuf> {
    let start = line.iter().position(|byte| *byte == b'/')?;
    let end = line.windows(2).rposition(|pair| pair == b" (")?;
    let path = match line.windows(4).position(|word| word == b" => ") {
        Some(arrow) => line.get(arrow + 4..end)?,
        None => line.get(start..end)?,
    };
    Some(OsStr::from_bytes(path).into())
}

/// The dynamic loader that an ELF file names; `None` for a static program, and for anything but ELF.
fn loader(program: &Path) -> anyhow::Result<Option<PathBuf>> {
    let tried = || format!("read {}, to find its dynamic loader", program.display());
    let file = File::open(program).with_context(tried)?;
    let mut elf = match ElfStream::<AnyEndian, _>::open_stream(file) {
        Err(ParseError::BadMagic(_)) => return Ok(None),
        Err(ParseError::IOError(err)) if err.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        elf => elf.with_context(tried)?,
    };
    let segment = elf.segments().iter().find(|head| head.p_type == PT_INTERP);
    let Some(segment) = segment.copied() else {
        return Ok(None);
    };
    let name = elf.segment_data(&segment).with_context(tried)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
    Ok(Some(OsStr::from_bytes(name).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_libraries_is_read() {
        for (line, path) in [
            ("\tlinux-vdso.so.1 (0x00007ffc5d5f2000)", None),
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            (
                "\t/opt/a b (c)/libx.so => /opt/a b (c)/libx.so (0x1)",
                Some("/opt/a b (c)/libx.so"),
            ),
            ("\t/lib64/ld-linux.so.2 (0x1)", Some("/lib64/ld-linux.so.2")),
            ("\tlibnone.so => not found", None),
            ("\tstatically linked", None),
            ("", None),
        ] {
            assert_eq!(library(line.as_bytes()), path.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn interpreters_of_env_are_found() {
        let find = |argument: &str| by_env(Path::new("/usr/bin/env"), argument.as_bytes());
        let sh = find("sh").unwrap().unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"));
        for argument in ["-S sh -e", "A=1  sh", "-i B=/ sh sh"] {
            assert_eq!(find(argument).unwrap(), Some(sh.clone()), "{argument}");
        }
        assert_eq!(find("/x/y").unwrap(), Some("/x/y".into()));
        assert!(find("").is_err() && find("-S").is_err() && find("no-such-program").is_err());
        assert_eq!(by_env(Path::new("/bin/sh"), b"sh").unwrap(), None);
    }
}
