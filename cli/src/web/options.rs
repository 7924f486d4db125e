//! The options of `serve http`, and what they make of the parts of a web server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use socketserver::access::Network;
use socketserver_http::Files;
use socketserver_http::http::{HeaderName, HeaderValue, Uri, header};

use super::access_log::AccessLog;
use super::cgi::{self, Programs};
use super::passwords::Passwords;
use crate::args::{Options, seconds};
use crate::exec::environment::{self, Variable};
use crate::exec::starter;
use crate::listen::Url;

/// The options about HTTP.
#[derive(Args, Debug)]
#[command(next_help_heading = "HTTP, for serve http DIR")]
pub(crate) struct Web {
    /// A file that stands for its directory; the first one that exists is sent [default: index.html];
    /// repeatable
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    index: Vec<String>,
    /// Answer 404 for a directory without an index, in place of a list of its files
    #[arg(long)]
    no_listing: bool,
    /// Serve and list names that begin with a dot too
    #[arg(long)]
    hidden: bool,
    /// Send this file of DIR in place of 404 where the last name of a path has no dot: for an
    /// application that routes in the browser
    #[arg(long, value_name = "FILE", value_parser = relative)]
    spa: Option<String>,
    /// Let pages of this origin, https://HOST, or of every one, *, read the files
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors: Option<HeaderValue>,
    /// Add a field to the responses with files; repeatable
    #[arg(long, value_name = "NAME:VALUE", value_parser = field)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Compress text while it is sent, for clients that accept brotli, zstd or gzip
    #[arg(long)]
    compress: bool,
    /// Send FILE.br, FILE.zst or FILE.gz in place of FILE to clients that accept that
    #[arg(long)]
    precompressed: bool,
    /// Ask for a user and a password; FILE has a line user:hash for each, as htpasswd -B writes it
    #[arg(long, value_name = "FILE")]
    basic_auth: Option<PathBuf>,
    /// Write a line for each request, in the combined format, to a file, or to standard error for -
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Take the address of a client from the field X-Forwarded-For, which proxies of this network
    /// set, and proxies on unix listeners; repeatable
    #[arg(long, value_name = "CIDR")]
    trust_forwarded_for: Vec<Network>,
    /// Run the programs below this directory of DIR as CGI programs (RFC 3875)
    #[arg(long, value_name = "PATH", value_parser = relative)]
    cgi_bin: Option<String>,
    /// Give CGI programs a variable, or with NAME alone that of the server; repeatable
    #[arg(long, value_name = "NAME[=VALUE]", requires = "cgi_bin", value_parser = environment::variables())]
    cgi_env: Vec<Variable>,
    /// How long a CGI program may produce no output, before it is ended
    #[arg(long, value_name = "SECONDS", requires = "cgi_bin", default_value = "60", value_parser = positive)]
    cgi_timeout: Duration,
    /// How many CGI programs may run at once, in each process of the server; further requests are
    /// answered 503
    #[arg(long, value_name = "N", requires = "cgi_bin", default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..))]
    cgi_max: u32,
    /// How many bytes the body of a request to a CGI program may have
    #[arg(
        long,
        value_name = "BYTES",
        requires = "cgi_bin",
        default_value = "2097152"
    )]
    cgi_max_body: u64,
}

impl Web {
    /// The first option that was given, for a service that has none of them.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        [
            ("--index", !self.index.is_empty()),
            ("--no-listing", self.no_listing),
            ("--hidden", self.hidden),
            ("--spa", self.spa.is_some()),
            ("--cors", self.cors.is_some()),
            ("--header", !self.header.is_empty()),
            ("--compress", self.compress),
            ("--precompressed", self.precompressed),
            ("--basic-auth", self.basic_auth.is_some()),
            ("--access-log", self.access_log.is_some()),
            (
                "--trust-forwarded-for",
                !self.trust_forwarded_for.is_empty(),
            ),
            ("--cgi-bin", self.cgi_bin.is_some()),
        ]
        .into_iter()
        .find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// The first error among arguments that do not go together.
    pub(crate) fn conflict(&self, has_directory: bool, options: &Options) -> Option<&'static str> {
        if !has_directory {
            return Some("http needs the directory that it serves: socketserver serve http DIR");
        }
        let is_stream = |url: &Url| !url.is_datagram() && !url.is_seqpacket();
        (!options.listen.iter().all(is_stream)).then_some(
            "http needs a stream socket: --listen tcp://HOST:PORT or unix:///PATH; udp, unixgram and seqpacket carry messages",
        )
    }

    /// The files, checked as far as that can be done before the privileges are given up.
    pub(super) fn files(&self, root: &Path) -> anyhow::Result<Files> {
        let mut files = Files::open(root)?
            .list(!self.no_listing)
            .show_hidden(self.hidden)
            .compress(self.compress)
            .precompressed(self.precompressed);
        if !self.index.is_empty() {
            files = files.index(&self.index);
        }
        if let Some(page) = &self.spa {
            let path = root.join(page);
            let about = path.metadata();
            let about = about.with_context(|| format!("--spa {page}: find {}", path.display()))?;
            anyhow::ensure!(
                about.is_file(),
                "--spa {page}: {} is no file",
                path.display()
            );
            files = files.spa(page);
        }
        if let Some(origin) = &self.cors {
            files = files.cors(origin.clone());
        }
        for (name, value) in &self.header {
            files = files.header(name.clone(), value.clone());
        }
        Ok(files)
    }

    pub(super) fn programs(
        &self,
        root: &Path,
        options: &Options,
    ) -> anyhow::Result<Option<Programs>> {
        let Some(path) = &self.cgi_bin else {
            return Ok(None);
        };
        let settings = cgi::Settings {
            path: path.clone(),
            hidden: self.hidden,
            env: environment::of_server(true, &self.cgi_variables()),
            timeout: self.cgi_timeout,
            max: self.cgi_max as usize,
            log: options.log,
            starters: starter::number(options.workers),
        };
        Programs::new(root, settings).map(Some)
    }

    /// `PATH`, without which few programs run, and those of the options.
    fn cgi_variables(&self) -> Vec<Variable> {
        let path = std::iter::once(Variable::of_server("PATH"));
        path.chain(self.cgi_env.iter().cloned()).collect()
    }

    pub(super) fn passwords(&self) -> anyhow::Result<Option<Passwords>> {
        self.basic_auth.as_deref().map(Passwords::open).transpose()
    }

    pub(super) fn access_log(&self) -> anyhow::Result<Option<AccessLog>> {
        self.access_log.as_deref().map(AccessLog::open).transpose()
    }

    /// The proxies that name clients, if clients are named.
    pub(super) fn proxies(&self) -> Option<Vec<Network>> {
        let proxies = &self.trust_forwarded_for;
        (!proxies.is_empty()).then(|| proxies.clone())
    }

    /// Whether pages of another origin may read the files.
    pub(super) const fn has_cors(&self) -> bool {
        self.cors.is_some()
    }

    /// Whether directories are listed.
    pub(super) const fn lists(&self) -> bool {
        !self.no_listing
    }

    /// Nothing but programs reads a body.
    pub(super) const fn body_max(&self) -> u64 {
        self.cgi_max_body
    }
}

fn file_name(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("the name of a file is needed, such as index.html".to_owned()),
        text if text.contains('/') => {
            Err("a name without a slash is needed: it holds in every directory".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

/// A path below DIR, without slashes around it.
fn relative(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(
            "a path below DIR is needed, without . and .., such as app/index.html".to_owned(),
        );
    }
    Ok(path.to_owned())
}

/// An origin as browsers send it (RFC 6454): a scheme, a host and a port, or `*`.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let is_origin = |uri: &Uri| {
        let authority = uri.authority().map(|authority| authority.as_str());
        let parts = uri.scheme_str().zip(authority);
        parts.is_some_and(|(scheme, authority)| {
            !authority.contains('@') && text == format!("{scheme}://{authority}").to_lowercase()
        })
    };
    let valid = text == "*" || text.parse().is_ok_and(|uri| is_origin(&uri));
    let value = HeaderValue::from_str(text).ok().filter(|_| valid);
    value.ok_or_else(|| {
        "an origin is SCHEME://HOST or SCHEME://HOST:PORT in small letters, without a slash at its end, or *".to_owned()
    })
}

/// Fields that the server sets by itself, for each response.
const OWN: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a field is NAME:VALUE, such as Cache-Control:max-age=60")?;
    let wrong_name =
        |_| format!("{name:?} is no name of a field; letters, digits and dashes are possible");
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(wrong_name)?;
    if OWN.contains(&parsed) {
        return Err(format!("{parsed} is set by the server itself"));
    }
    let value = value.trim_matches([' ', '\t']);
    let wrong_value = |_| format!("the value {value:?} has control characters");
    Ok((parsed, HeaderValue::from_str(value).map_err(wrong_value)?))
}

fn positive(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("0 would end every program at once".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for right in [
            "*",
            "https://example.org",
            "http://localhost:8080",
            "http://[::1]:80",
        ] {
            assert!(origin(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "example.org",
            "https://example.org/",
            "https://example.org/a",
            "https://Example.org",
            "https://user@example.org",
            "https://",
            "*.example.org",
            "null",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields() {
        let (name, value) = field("Cache-Control: max-age=60 ").unwrap();
        assert_eq!(
            (name.as_str(), value.as_bytes()),
            ("cache-control", &b"max-age=60"[..])
        );
        let (_, value) = field("Link: <http://a:1/>").unwrap();
        assert_eq!(value.as_bytes(), b"<http://a:1/>");
        for wrong in [
            "",
            "a",
            ":b",
            "a b:c",
            "a:b\nc",
            "Content-Length: 3",
            "connection:close",
        ] {
            assert!(field(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_and_names() {
        assert_eq!(relative("/cgi-bin/"), Ok("cgi-bin".to_owned()));
        assert_eq!(relative("a/b.html"), Ok("a/b.html".to_owned()));
        for wrong in ["", "/", "..", "a/../b", "./a", "a//b"] {
            assert!(relative(wrong).is_err(), "{wrong}");
        }
        assert!(file_name("index.htm").is_ok());
        assert!(file_name("a/b").is_err() && file_name("").is_err() && file_name("..").is_err());
    }
}
