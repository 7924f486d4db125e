//! A network without interfaces: network_namespaces(7).

use std::fs;

use anyhow::{Context, anyhow};
use rustix::io::Errno;
use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;

use crate::exec::starter::sys::unshare;

/// Moves this process, which has one thread, into a network of its own, for good. Its sockets stay in the old one.
pub(super) fn leave() -> anyhow::Result<()> {
    match unshare(UnshareFlags::NEWNET) {
        Err(err) if err.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            as_user().context(
                "--no-network without root (start as root, or leave it out, or let users make namespaces, by the sysctls \
                 kernel.unprivileged_userns_clone, user.max_user_namespaces and \
                 kernel.apparmor_restrict_unprivileged_userns)",
            )
        }
        left => left.context(
            "--no-network (leave it out, or use a kernel with network namespaces, and the sysctl user.max_net_namespaces \
             above their number)",
        ),
    }
}

/// A user has every capability in a namespace of its own, which has this user alone.
fn as_user() -> anyhow::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
    // user_namespaces(7): the groups are mapped only where setgroups(2) is forbidden.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        let file = format!("/proc/self/{file}");
        fs::write(&file, text).map_err(|err| anyhow!("write {file}: {err}"))?;
    }
    Ok(())
}
