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
                "--no-network needs root (CAP_SYS_ADMIN), or namespaces of users without it (the sysctls \
                 kernel.unprivileged_userns_clone, user.max_user_namespaces and \
                 kernel.apparmor_restrict_unprivileged_userns); start as root, or leave it out",
            )
        }
        left => left.context(
            "--no-network: unshare(2) of the network; the kernel needs network namespaces, and user.max_net_namespaces \
             above 0",
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
