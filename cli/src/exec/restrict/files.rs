//! The files that a program may open: landlock(7).

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, path_beneath_rules,
};

use super::program;

/// The rights of Linux 6.2, the first that keeps a file from being truncated.
const ABI_NEEDED: ABI = ABI::V3;

/// The further rights: ioctl(2) on devices, since Linux 6.10.
const ABI_KNOWN: ABI = ABI::V5;

/// Where the libraries of programs lie, and what the dynamic loader reads.
const LIBRARIES: [&str; 9] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];

/// Devices without a state that others could see.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The rules for a program. They hold for the files that the paths name now, whatever their names are later.
pub(super) fn rules(
    program: &Path,
    read_only: &[PathBuf],
    read_write: &[PathBuf],
) -> anyhow::Result<RulesetCreated> {
    let all = AccessFs::from_all(ABI_KNOWN);
    let read = AccessFs::from_read(ABI_KNOWN);
    let needed = AccessFs::from_all(ABI_NEEDED);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(needed)
        .map_err(|_| {
            anyhow!(
                "--read-only and --read-write: the kernel has no landlock(7), or not that of Linux 6.2, or it is \
                 switched off (lsm= of its command line); leave them out, or use another kernel"
            )
        })?
        .set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(all & !needed)?;
    let own = program::files(program)?;
    let mut rules = ruleset
        .create()
        .context("landlock_create_ruleset(2)")?
        .add_rules(path_beneath_rules(LIBRARIES, read))?
        .add_rules(path_beneath_rules(DEVICES, read | AccessFs::WriteFile))?;
    for path in own {
        rules = add(rules, "a file that the program needs,", &path, read)?;
    }
    for path in read_only {
        rules = add(rules, "--read-only", path, read)?;
    }
    for path in read_write {
        rules = add(rules, "--read-write", path, all)?;
    }
    Ok(rules)
}

fn add(
    rules: RulesetCreated,
    option: &str,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> anyhow::Result<RulesetCreated> {
    let tried = || {
        format!(
            "{option} {} (name a file or directory that exists)",
            path.display()
        )
    };
    let is_directory = path.metadata().with_context(tried)?.is_dir();
    // A file has no entries.
    let access = if is_directory {
        access
    } else {
        access & AccessFs::from_file(ABI_KNOWN)
    };
    let fd = PathFd::new(path).with_context(tried)?;
    rules
        .add_rule(PathBeneath::new(fd, access))
        .with_context(|| format!("landlock_add_rule(2) for {}", path.display()))
}
