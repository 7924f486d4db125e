//! Privileges, which the server gives up for good once everything that needs them is done: sockets are
//! bound, keys and lists are read.

use std::fs;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::fs::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::accounts::{self, User};

/// The options about privileges.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Privileges")]
pub(crate) struct Privileges {
    /// Become this user, by name or number, with the user's groups and without any capability, once
    /// everything is bound and read; needs root
    #[arg(long, value_name = "NAME", value_parser = unprivileged)]
    user: Option<User>,
    /// The group of --user in place of the user's own
    #[arg(long, value_name = "NAME", value_parser = accounts::gid, requires = "user")]
    group: Option<u32>,
}

fn unprivileged(text: &str) -> Result<User, String> {
    let user = accounts::user(text)?;
    if user.uid == 0 {
        return Err("root keeps all privileges; leave --user out, or name another user".to_owned());
    }
    Ok(user)
}

/// The ids that the process is to have.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Privileges {
    /// The first error among options that do not go together.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        let user = self.user.as_ref()?;
        (user.entry.is_none() && self.group.is_none()).then_some(
            "--user is a number that no user has, so that its group is unknown; give --group too",
        )
    }

    /// Becomes the user, if there is one.
    ///
    /// The system calls change one thread (setresuid(2), "C library/kernel differences"). The process
    /// has no other one yet, and those that it starts later inherit what this one has.
    ///
    /// # Errors
    ///
    /// The process has to end: it may have given up a part of its privileges.
    pub(crate) fn drop_for_good(&self) -> anyhow::Result<()> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        let own = user.entry.as_ref().map(|(_, gid)| *gid);
        let gid = self.group.or(own).context("a user without a group")?;
        let identity = Identity {
            uid: user.uid,
            gid,
            groups: accounts::groups(user, gid),
        };
        let became = identity.assume().and_then(|()| identity.check());
        became.with_context(|| format!("become the user {} with the group {gid}", user.uid))
    }
}

impl Identity {
    fn assume(&self) -> anyhow::Result<()> {
        let threads = fs::read_dir("/proc/self/task").context("count the threads in /proc")?;
        ensure!(threads.count() == 1, "the process has several threads");
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<_> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let remedy = "start as root, or leave --user out";
        set_thread_groups(&groups).with_context(|| format!("setgroups(2) ({remedy})"))?;
        set_thread_res_gid(gid, gid, gid).with_context(|| format!("setresgid(2) ({remedy})"))?;
        set_thread_res_uid(uid, uid, uid).with_context(|| format!("setresuid(2) ({remedy})"))?;
        // The kernel has done so, unless a secure bit kept it from that, or root was never a user of
        // this process (capabilities(7)). Without a permitted one there is no ambient one.
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).context("capset(2)")
    }

    /// Checks that the process has nothing left, and cannot have it again.
    fn check(&self) -> anyhow::Result<()> {
        let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
        self.compare(&status)?;
        let (root, group) = (Uid::ROOT, Gid::ROOT);
        let regained = [
            ("setresuid(2)", set_thread_res_uid(root, root, root).is_ok()),
            (
                "setresgid(2)",
                self.gid != 0 && set_thread_res_gid(group, group, group).is_ok(),
            ),
            ("setgroups(2)", set_thread_groups(&[group]).is_ok()),
        ];
        match regained.into_iter().find(|(_, regained)| *regained) {
            None => Ok(()),
            Some((call, _)) => bail!("{call} gave the privileges back"),
        }
    }

    /// Compares the ids with those in proc_pid_status(5).
    fn compare(&self, status: &str) -> anyhow::Result<()> {
        let line = |name: &str| {
            let lines = status.lines().filter_map(|line| line.split_once(':'));
            let mut values = lines.filter(|(found, _)| *found == name);
            let value = values.next().map(|(_, value)| value);
            value.with_context(|| format!("no line {name} in /proc/self/status"))
        };
        let ids = |name| -> anyhow::Result<Vec<u32>> {
            let words = line(name)?.split_whitespace().map(str::parse);
            words.collect::<Result<_, _>>().context("an id in /proc")
        };
        let mut groups = self.groups.clone();
        groups.sort_unstable();
        let mut found = ids("Groups")?;
        found.sort_unstable();
        // Real, effective, saved, and that of the file system.
        ensure!(ids("Uid")? == [self.uid; 4], "the process kept a user");
        ensure!(ids("Gid")? == [self.gid; 4], "the process kept a group");
        ensure!(found == groups, "the process kept supplementary groups");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let kept = line(set)?.trim().bytes().any(|digit| digit != b'0');
            ensure!(!kept, "the process kept capabilities ({set})");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_noticed() {
        let identity = Identity {
            uid: 7,
            gid: 8,
            groups: vec![9, 8],
        };
        let good = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t8 9 \nCapInh:\t0000\n\
                    CapPrm:\t0000\nCapEff:\t0000\nCapBnd:\t01ff\nCapAmb:\t0000\n";
        assert!(identity.compare(good).is_ok());
        for (line, kept, why) in [
            ("7\t7\t7\t7", "7\t7\t0\t7", "kept a user"),
            ("8\t8\t8\t8", "8\t8\t0\t8", "kept a group"),
            ("8 9 ", "0 8 9 ", "supplementary"),
            ("CapPrm:\t0000", "CapPrm:\t0080", "CapPrm"),
            ("CapAmb:\t0000", "CapAmb:\t0001", "CapAmb"),
            ("Groups", "Others", "no line Groups"),
            ("8 9 ", "8 9 x", "an id"),
        ] {
            let status = good.replacen(line, kept, 1);
            let err = identity.compare(&status).unwrap_err().to_string();
            assert!(err.contains(why), "{err}");
        }
    }

    #[test]
    fn an_identity_is_known_at_the_start() {
        assert!(
            unprivileged("root")
                .unwrap_err()
                .contains("leave --user out")
        );
        let privileges = |group| Privileges {
            user: Some(unprivileged("4294967294").unwrap()),
            group,
        };
        assert!(privileges(None).conflict().is_some());
        assert!(privileges(Some(1)).conflict().is_none());
    }
}
