//! A link-local IPv6 address for a test, in a network namespace of its own if possible. The tests
//! of the library and of the command share this file.

use std::env;
use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::Command;

/// Set if a test runs in its own namespace.
const INSIDE: &str = "SOCKETSERVER_TEST_LINK_LOCAL";

/// In a new namespace the loopback interface is down and has no link-local address. The kernel adds the local route of
/// an address later than the address (addrconf_dad_completed in net/ipv6/addrconf.c); until then the route of its
/// network answers, which rejects every packet.
const SETUP: &str = "ip link set lo up && ip -6 addr add fe80::77/64 dev lo nodad \
    && timeout 20 sh -c 'until ip -6 route get fe80::77 dev lo 2>&1 | grep -q ^local; do :; done'";

/// Runs `check` with a link-local address, its zone and the zone's name. In a new namespace the
/// test binary runs the test of this name again; otherwise an address of this host is used. Without
/// either, a line on standard error says so, past the capture of the test harness.
pub(crate) fn with_link_local(test: &str, check: impl FnOnce(SocketAddrV6, &str)) {
    if env::var_os(INSIDE).is_none() {
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--net", "sh", "-c", script]);
            command
        };
        let why_not = match unshare(SETUP).output() {
            Ok(output) if output.status.success() => {
                let again = env::current_exe().expect("this binary");
                let output = unshare(&format!("{SETUP} && exec \"$0\" \"$@\""))
                    .arg(again)
                    .args(["--exact", test, "--nocapture"])
                    .env(INSIDE, "1")
                    .output()
                    .expect("run the test in its namespace");
                let text = String::from_utf8_lossy(&output.stdout);
                let ran = output.status.success() && text.contains("1 passed");
                assert!(ran, "{text}{}", String::from_utf8_lossy(&output.stderr));
                return;
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(err) => format!("unshare: {err}"),
        };
        if first_address().is_none() {
            let line = format!(
                "{test} is SKIPPED: this host has no link-local IPv6 address, and none can be made in a network \
                 namespace ({why_not}); the test needs unshare(1) and ip(8), and the right to use them\n"
            );
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
    }
    let (addr, name) = first_address().expect("a link-local address");
    check(addr, &name);
}

/// Returns the first link-local address in use (net/ipv6/addrconf.c, if6_seq_show: address, number
/// of the interface, length of the prefix, scope, flags, name).
fn first_address() -> Option<(SocketAddrV6, String)> {
    let table = fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [address, index, _, _, flags, name] = fields.as_slice() else {
            return None;
        };
        let ip = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let (index, flags) = (
            u32::from_str_radix(index, 16).ok()?,
            u32::from_str_radix(flags, 16).ok()?,
        );
        // IFA_F_DADFAILED and IFA_F_TENTATIVE: the address cannot be bound (yet).
        let usable = ip.is_unicast_link_local() && flags & (0x08 | 0x40) == 0;
        usable.then(|| (SocketAddrV6::new(ip, 0, 0, index), (*name).to_owned()))
    })
}
