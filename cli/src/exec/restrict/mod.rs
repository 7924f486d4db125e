//! Restrictions of the programs of `exec`: the options, the rules that each starter prepares from them, and their
//! application by each process before it becomes a program.

mod files;
mod limit;
mod network;
mod program;
mod trial;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use landlock::RulesetCreated;
use rustix::fs::Mode;
use rustix::process::{setpriority_process, umask};
use rustix::thread::set_no_new_privs;

use limit::Limit;

/// The restrictions of programs.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Restrictions of programs")]
pub(crate) struct Restrictions {
    /// Limits of each program, as nofile=64,cpu=10,as=512M; or NAME=SOFT:HARD. The names are those of
    /// getrlimit(2): as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime
    /// sigpending stack; a number may end in K, M or G (of 1024), or be unlimited
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    limit: Vec<Limit>,
    /// The nice value of programs, from -20 to 19; below the server's own it needs privileges
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: Option<i32>,
    /// The umask of programs, in octal [default: that of the server]
    #[arg(long, value_name = "OCTAL", value_parser = octal)]
    umask: Option<u32>,
    /// The working directory of programs [default: that of the server]
    #[arg(long, value_name = "DIR")]
    chdir: Option<PathBuf>,
    /// Let programs gain privileges by files that are setuid, setgid or have capabilities
    #[arg(long)]
    allow_new_privs: bool,
    /// Let programs read and execute files below this path, and open no other files; those that they need
    /// to start are added; repeatable
    #[arg(long, value_name = "PATH")]
    read_only: Vec<PathBuf>,
    /// Let programs read, execute, write, make and remove files below this path, and open no other files;
    /// repeatable
    #[arg(long, value_name = "PATH")]
    read_write: Vec<PathBuf>,
    /// Give programs no network but their connection
    #[arg(long)]
    no_network: bool,
}

fn octal(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let mask = u32::from_str_radix(text, 8).ok();
    mask.filter(|mask| digits && *mask <= 0o777)
        .ok_or_else(|| format!("{text:?} is no umask; write three octal digits, as 027"))
}

/// The restrictions, with their files open.
#[derive(Debug)]
pub(crate) struct Prepared {
    options: Restrictions,
    rules: Option<RulesetCreated>,
}

impl Restrictions {
    /// The first error among options that do not go together.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        let names: Vec<_> = self.limit.iter().map(|limit| limit.name).collect();
        let twice = (1..names.len()).any(|last| names[..last].contains(&names[last]));
        if twice {
            return Some(
                "--limit names a resource twice; name each one once, with its soft and its hard limit as SOFT:HARD",
            );
        }
        (self.allow_new_privs && self.has_files()).then_some(
            "--allow-new-privs does not go with --read-only and --read-write: landlock(7) takes programs that gain \
             privileges for a way out; leave it out",
        )
    }

    fn has_files(&self) -> bool {
        !self.read_only.is_empty() || !self.read_write.is_empty()
    }

    /// Moves the calling process, which starts the programs and has one thread, into a network of its own. It needs
    /// privileges or, without them, a namespace of users; so it comes before privileges are given up.
    ///
    /// # Errors
    ///
    /// The kernel has no such namespaces, or forbids them to this user.
    pub(crate) fn leave_network(&self) -> anyhow::Result<()> {
        if self.no_network {
            network::leave()?;
        }
        Ok(())
    }

    /// Opens the paths of the options, and lets a child of this process, which has one thread, apply all restrictions.
    /// With limits, another one tries whether the dynamic loader of the program can start.
    ///
    /// # Errors
    ///
    /// A restriction that the kernel refuses: the option, what to do, and the reason.
    pub(crate) fn prepare(&self, program: &Path) -> anyhow::Result<Prepared> {
        let rules = self
            .has_files()
            .then(|| files::rules(program, &self.read_only, &self.read_write))
            .transpose()?;
        let prepared = Prepared {
            options: self.clone(),
            rules,
        };
        trial::in_child(|| prepared.apply())?;
        let listing = program::listing(program).ok().flatten();
        if let Some(listing) = listing.filter(|_| !self.limit.is_empty()) {
            trial::in_child(|| {
                trial::take_null()?;
                prepared.apply()?;
                trial::execute(&listing)
            })
            .context(
                "--limit (no program can start with these limits, as its dynamic loader cannot; give more)",
            )?;
        }
        Ok(prepared)
    }
}

impl Prepared {
    /// Restricts the calling process, which is about to become a program.
    ///
    /// # Errors
    ///
    /// A restriction does not hold, so that the program must not start.
    pub(crate) fn apply(&self) -> anyhow::Result<()> {
        let options = &self.options;
        if let Some(mask) = options.umask {
            umask(Mode::from_raw_mode(mask));
        }
        if let Some(directory) = &options.chdir {
            env::set_current_dir(directory).with_context(|| {
                let directory = directory.display();
                format!(
                    "--chdir {directory} (name a directory that the user of the programs may search)"
                )
            })?;
        }
        if let Some(nice) = options.nice {
            setpriority_process(None, nice).with_context(|| {
                format!(
                    "--nice {nice} (only root lowers the nice value of the server; give a higher one)"
                )
            })?;
        }
        if !options.allow_new_privs {
            set_no_new_privs(true).context("prctl(2), PR_SET_NO_NEW_PRIVS")?;
        }
        if let Some(rules) = &self.rules {
            let rules = rules.try_clone().context("duplicate a descriptor")?;
            rules.restrict_self().context("landlock_restrict_self(2)")?;
        }
        // The last, because they hold for this process too.
        options.limit.iter().try_for_each(Limit::set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_umask_is_octal() {
        assert_eq!(
            (octal("027"), octal("0"), octal("777")),
            (Ok(0o27), Ok(0), Ok(0o777))
        );
        for text in ["", "8", "1000", "-1", "+1", "0o27", "u=rwx"] {
            assert!(octal(text).unwrap_err().contains("as 027"), "{text}");
        }
    }
}
