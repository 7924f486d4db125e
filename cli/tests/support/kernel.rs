//! Probes of the kernel, for the tests of restrictions.

use std::process::Command;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};

use super::support::unchecked;

/// Whether the kernel restricts which files are opened; says so otherwise.
pub(crate) fn has_landlock(what: &str) -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let has = ruleset.handle_access(AccessFs::from_all(ABI::V3)).is_ok();
    if !has {
        unchecked(&format!("{what}: that needs landlock(7) of Linux 6.2"));
    }
    has
}

/// Whether a process of this user may have a network of its own; says so otherwise.
pub(crate) fn has_networks(what: &str) -> bool {
    let made = |options: &[&str]| {
        let output = Command::new("unshare").args(options).arg("true").output();
        output.is_ok_and(|output| output.status.success())
    };
    let has = made(&["-n"]) || made(&["-U", "-n"]);
    if !has {
        unchecked(&format!("{what}: that needs network namespaces"));
    }
    has
}
