//! Who may connect: the options, and what they make of the access rules.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use socketserver::ServerHandle;
use socketserver::access::{self, Network};

use crate::accounts;
use crate::listen::{SocketKind, Url};
use crate::log::say;

/// The options about access.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    /// Admit the clients of a network, 192.0.2.0/24, of an address, or of a file of such lines, @FILE;
    /// once given, all other addresses are refused; of several networks that contain an address the
    /// most specific decides; repeatable
    #[arg(long, value_name = "CIDR", value_parser = networks)]
    allow: Vec<Networks>,
    /// Refuse the clients of a network, an address or a file, as for --allow; what is in both is refused;
    /// repeatable
    #[arg(long, value_name = "CIDR", value_parser = networks)]
    deny: Vec<Networks>,
    /// Admit a user of this machine, by name or number, to unix listeners; once --allow-user or
    /// --allow-group is given, all others are refused; repeatable
    #[arg(long, value_name = "NAME", value_parser = user_name)]
    allow_user: Vec<String>,
    /// Admit the members of a group to unix listeners; repeatable
    #[arg(long, value_name = "NAME", value_parser = group_name)]
    allow_group: Vec<String>,
}

/// The value of `--allow` or `--deny`.
#[derive(Clone, Debug)]
enum Networks {
    One(Network),
    File(PathBuf),
}

fn networks(text: &str) -> Result<Networks, String> {
    match text.strip_prefix('@') {
        Some("") => Err("the name of the file is missing: @FILE".to_owned()),
        Some(file) => Ok(Networks::File(file.into())),
        None => text
            .parse()
            .map(Networks::One)
            .map_err(|err| format!("{err}")),
    }
}

fn user_name(text: &str) -> Result<String, String> {
    accounts::uid(text).map(|_| text.to_owned())
}

fn group_name(text: &str) -> Result<String, String> {
    accounts::gid(text).map(|_| text.to_owned())
}

impl Access {
    /// The first error among options that do not go together. `per_user`: whether users have a limit.
    /// `proxied`: whether a proxy may name the clients of a Unix listener.
    pub(crate) fn conflict(
        &self,
        listen: &[Url],
        per_user: bool,
        proxied: bool,
    ) -> Option<&'static str> {
        let names = !self.allow_user.is_empty() || !self.allow_group.is_empty();
        let networks = !self.allow.is_empty() || !self.deny.is_empty();
        let has_gram = |url: &Url| url.has(|kind| kind == SocketKind::UnixGram);
        if names && listen.iter().any(has_gram) {
            return Some(
                "--allow-user and --allow-group refuse every datagram of a unixgram listener, which does not know its clients' users; serve it apart, with ?mode=",
            );
        }
        let knows_users = |kind| matches!(kind, SocketKind::Unix | SocketKind::Seqpacket);
        let may_know_users = |url: &Url| url.may_have(knows_users);
        if (names || per_user) && !listen.iter().any(may_know_users) {
            return Some(
                "--allow-user, --allow-group and --max-per-user are for unix listeners, of which there is none; other clients have no user",
            );
        }
        let may_be_inet =
            |url: &Url| url.may_have(|kind| !kind.is_unix()) || proxied && url.has_proxy();
        if networks && !listen.iter().any(may_be_inet) {
            return Some(
                "--allow and --deny are for tcp and udp listeners, of which there is none; see --allow-user and --allow-group",
            );
        }
        None
    }

    /// Whether there is anything to read again.
    pub(crate) const fn is_on(&self) -> bool {
        !(self.allow.is_empty()
            && self.deny.is_empty()
            && self.allow_user.is_empty()
            && self.allow_group.is_empty())
    }

    /// Reads the files, and looks up the names.
    pub(crate) fn load(&self) -> anyhow::Result<access::Access> {
        let ids = |option, names: &[String], id: fn(&str) -> Result<u32, String>| {
            let id = |name: &String| id(name).map_err(|err| anyhow!("{option}: {err}"));
            names.iter().map(id).collect::<anyhow::Result<Vec<_>>>()
        };
        let mut rules = access::Access::new().deny(read("--deny", &self.deny)?);
        if !self.allow.is_empty() {
            rules = rules.allow(read("--allow", &self.allow)?);
        }
        if !self.allow_user.is_empty() {
            rules = rules.allow_users(ids("--allow-user", &self.allow_user, accounts::uid)?);
        }
        if !self.allow_group.is_empty() {
            rules = rules.allow_groups(ids("--allow-group", &self.allow_group, accounts::gid)?);
        }
        Ok(rules)
    }

    /// Reads everything again, for a server that serves.
    pub(crate) fn reload(&self, server: &ServerHandle) {
        let rules = self.load();
        match rules.and_then(|rules| server.set_access(&rules).context("set the access rules")) {
            Ok(()) => say(format_args!(
                "socketserver: the access lists were read again"
            )),
            Err(err) => say(format_args!(
                "socketserver: {err:#}; the old access rules stay in force"
            )),
        }
    }
}

/// All networks of one option.
fn read(option: &str, values: &[Networks]) -> anyhow::Result<Vec<Network>> {
    let mut all = Vec::new();
    for value in values {
        match value {
            Networks::One(network) => all.push(*network),
            Networks::File(file) => {
                let what = || format!("read the networks of {option} @{}", file.display());
                let text = fs::read_to_string(file).with_context(what)?;
                all.extend(Network::list(&text).with_context(what)?);
            }
        }
    }
    Ok(all)
}
