//! Users and groups of the system, by name or by number, from the databases that nsswitch.conf(5)
//! names.

use std::ffi::OsString;

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// The name and the group; `None` for a number that the databases do not have.
    pub(crate) entry: Option<(OsString, u32)>,
}

/// The user with this name, or else with this number, which need not be in a database.
pub(crate) fn user(text: &str) -> Result<User, String> {
    let found = uzers::get_user_by_name(text);
    let number = || number(text).map(|uid| (uid, uzers::get_user_by_uid(uid)));
    let (uid, user) = found
        .map(|user| (user.uid(), Some(user)))
        .or_else(number)
        .ok_or_else(|| format!("there is no user {text:?}; getent passwd lists them"))?;
    let entry = user.map(|user| (user.name().to_owned(), user.primary_group_id()));
    Ok(User { uid, entry })
}

/// The id of the user with this name or number.
pub(crate) fn uid(text: &str) -> Result<u32, String> {
    user(text).map(|user| user.uid)
}

/// The id of the group with this name, or else this number, which need not be in a database.
pub(crate) fn gid(text: &str) -> Result<u32, String> {
    let found = uzers::get_group_by_name(text).map(|group| group.gid());
    found
        .or_else(|| number(text))
        .ok_or_else(|| format!("there is no group {text:?}; getent group lists them"))
}

/// The groups of a user: `gid`, and the supplementary ones.
pub(crate) fn groups(user: &User, gid: u32) -> Vec<u32> {
    let name = user.entry.as_ref().map(|(name, _)| name);
    let groups = name.and_then(|name| uzers::get_user_groups(name, gid));
    let mut gids: Vec<_> = groups.iter().flatten().map(uzers::Group::gid).collect();
    if !gids.contains(&gid) {
        gids.push(gid);
    }
    gids
}

/// An id. The highest number is none: chown(2) and setresuid(2) take it for "unchanged".
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let root = user("root").unwrap();
        assert_eq!((root.uid, &root.entry), (0, &Some(("root".into(), 0))));
        assert_eq!(user("0"), Ok(root.clone()));
        assert_eq!((uid("root"), gid("root"), gid("0")), (Ok(0), Ok(0), Ok(0)));
        assert!(groups(&root, 7).contains(&7));
        let unknown = user("4294967294").unwrap();
        assert_eq!(unknown.entry, None);
        assert_eq!(groups(&unknown, 7), [7]);
        for text in ["", "no such user", "-1", "+1", "4294967295", "root\0", "1 "] {
            let err = user(text).unwrap_err();
            assert!(err.contains("there is no user"), "{err}");
            assert!(gid(text).unwrap_err().contains("there is no group"));
        }
    }
}
