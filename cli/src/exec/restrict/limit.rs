//! Limits of resources (getrlimit(2)), as `--limit` writes them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The names of the resources, with what a number means.
const RESOURCES: [(&str, Resource, &str); 16] = [
    ("as", Resource::As, "bytes"),
    ("core", Resource::Core, "bytes"),
    ("cpu", Resource::Cpu, "seconds"),
    ("data", Resource::Data, "bytes"),
    ("fsize", Resource::Fsize, "bytes"),
    ("locks", Resource::Locks, "locks"),
    ("memlock", Resource::Memlock, "bytes"),
    ("msgqueue", Resource::Msgqueue, "bytes"),
    ("nice", Resource::Nice, "20 less the nice value"),
    ("nofile", Resource::Nofile, "descriptors"),
    ("nproc", Resource::Nproc, "processes"),
    ("rss", Resource::Rss, "bytes"),
    ("rtprio", Resource::Rtprio, "priority"),
    ("rttime", Resource::Rttime, "microseconds"),
    ("sigpending", Resource::Sigpending, "signals"),
    ("stack", Resource::Stack, "bytes"),
];

/// A limit: `NAME=VALUE`, or `NAME=SOFT:HARD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) name: &'static str,
    resource: Resource,
    /// `None` is unlimited.
    soft: Option<u64>,
    hard: Option<u64>,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wanted, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} has no value; write it as nofile=64"))?;
        let known = RESOURCES.into_iter().find(|(name, ..)| *name == wanted);
        let (name, resource, unit) = known.ok_or_else(|| {
            let names: Vec<_> = RESOURCES.iter().map(|(name, ..)| *name).collect();
            format!(
                "there is no resource {wanted:?}; those are {}",
                names.join(" ")
            )
        })?;
        let number = |text: &str| {
            let number = number(text);
            number.ok_or_else(|| {
                format!("{text:?} is no limit of {name}; write a number ({unit}), with K, M or G if you like, or unlimited")
            })
        };
        let (soft, hard) = match value.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(value)?, number(value)?),
        };
        if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            return Err(format!(
                "the soft limit in {text:?} is above the hard one; write {name}=SOFT:HARD"
            ));
        }
        Ok(Self {
            name,
            resource,
            soft,
            hard,
        })
    }
}

/// A number with a suffix, or `None` for no limit; `None` outside for anything else.
fn number(text: &str) -> Option<Option<u64>> {
    if text == "unlimited" {
        return Some(None);
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    // A sign is none of the digits that `parse` takes.
    let number: u64 = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    // The highest number is the kernel's own for no limit.
    let number = number.checked_mul(1 << shift)?;
    (number != u64::MAX).then_some(Some(number))
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, shown(self.soft), shown(self.hard))
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

impl Limit {
    /// Sets the limit of this process.
    pub(super) fn set(&self) -> anyhow::Result<()> {
        let wanted = Rlimit {
            current: self.soft,
            maximum: self.hard,
        };
        let set = setrlimit(self.resource, wanted);
        set.map_err(|err| anyhow!(err)).with_context(|| {
            let hard = shown(getrlimit(self.resource).maximum);
            format!("--limit {self} (the hard limit of this server is {hard}; give less, or raise that one by ulimit -H or systemd's Limit…=)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        for (text, limit) in [
            ("nofile=64", "nofile=64:64"),
            ("as=512M", "as=536870912:536870912"),
            ("cpu=10:20", "cpu=10:20"),
            ("core=0:unlimited", "core=0:unlimited"),
            ("nproc=unlimited", "nproc=unlimited:unlimited"),
            ("fsize=1k:2G", "fsize=1024:2147483648"),
        ] {
            let read: Result<Limit, _> = text.parse();
            assert_eq!(read.map(|limit| limit.to_string()), Ok(limit.to_owned()));
        }
    }

    #[test]
    fn a_wrong_limit_names_what_is_right() {
        for (text, part) in [
            ("", "write it as nofile=64"),
            ("nofile", "write it as nofile=64"),
            ("files=3", "those are as core cpu data fsize"),
            ("NOFILE=3", "those are as core"),
            (
                "nofile=",
                "\"\" is no limit of nofile; write a number (descriptors)",
            ),
            (
                "cpu=-1",
                "\"-1\" is no limit of cpu; write a number (seconds)",
            ),
            ("cpu=+1", "\"+1\" is no limit of cpu"),
            ("as=1T", "\"1T\" is no limit of as"),
            ("as=M", "\"M\" is no limit of as"),
            ("as=512MB", "\"512MB\" is no limit of as"),
            ("as=18446744073709551615", "is no limit of as"),
            ("as=18014398509481984K", "is no limit of as"),
            ("as=1:", "\"\" is no limit of as"),
            ("cpu=2:1", "above the hard one; write cpu=SOFT:HARD"),
            ("cpu=unlimited:1", "above the hard one"),
        ] {
            let err = text.parse::<Limit>().unwrap_err();
            assert!(err.contains(part), "{text}: {err}");
        }
    }
}
