//! Files of passwords, as `htpasswd` writes them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use socketserver::task;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::constant_time_eq;

/// The costs that `htpasswd -C` takes; each step doubles the time of a comparison.
const COSTS: std::ops::RangeInclusive<u32> = 4..=17;

/// Users and their passwords: a file with a line `user:hash` for each, as `htpasswd -B` of Apache writes it.
///
/// The hash is one of bcrypt (`$2y$`, `$2b$` or `$2a$`, with a cost from 4 to 17). A password that is not hashed stands
/// behind `{PLAIN}`. Empty lines and lines that begin with `#` are ignored. Other formats, as the `$apr1$` that
/// `htpasswd` writes without `-B`, are refused.
///
/// bcrypt compares the first 72 bytes of a password, and takes the longer the higher the cost is; under
/// `Coroutines` it runs [beside](task::offload) the worker. A password that was verified is remembered for as long as the
/// value lives, as a hash with a random key, so that further requests with it take no bcrypt. A password for an
/// unknown user, or a wrong one for a user whose is not hashed, costs as much as one for the user with the highest cost;
/// so give all users the same cost, for the time tells which ones have a lower one.
///
/// In each process, the hashes of one `Htpasswd` are computed on half of the processors, and on one at least; further
/// requests wait for their turn. So whoever sends wrong passwords leaves processors for other requests, but may delay
/// users whose password is not remembered yet.
///
/// # Examples
///
/// ```
/// use socketserver_http::{Http, Request, RequestExt, auth};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("users");
/// # std::fs::write(&path, "anna:{PLAIN}secret\n")?;
///
/// let users = auth::Htpasswd::open(path)?;
/// let verify = move |user: &str, password: &str| users.verify(user, password);
/// let hello = |request: &mut Request<'_>| format!("hello {}\n", request.user().unwrap_or_default());
/// let http = Http::handler(auth::basic("files", verify, hello));
/// # drop(http);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Htpasswd {
    users: HashMap<String, Secret>,
    /// The hash with the highest cost, for unknown users.
    costliest: Option<String>,
    key: hmac::Key,
    /// How many more hashes may be computed at the same time.
    turns: Arc<Semaphore>,
    /// The password of each user that was verified last.
    verified: Mutex<HashMap<String, hmac::Tag>>,
}

enum Secret {
    Bcrypt(String),
    Plain(String),
}

impl Htpasswd {
    /// Reads a file, once: changes of it are not seen.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line of it is malformed: `InvalidData`, with a text that names the line and the
    /// remedy.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let named =
            |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", path.display()));
        let text = fs::read_to_string(path).map_err(named)?;
        Self::parse(&text).map_err(named)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut users = HashMap::new();
        for (line, number) in text.lines().zip(1..) {
            let malformed = |text: String| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {number}: {text}"))
            };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, secret) = line
                .split_once(':')
                .filter(|(user, _)| !user.is_empty())
                .ok_or_else(|| malformed("it has to be `user:hash`".to_owned()))?;
            let secret = Secret::parse(secret).map_err(|reason| {
                malformed(format!(
                    "the password of `{user}` {reason}; write it with `htpasswd -B FILE {user}`"
                ))
            })?;
            match users.entry(user.to_owned()) {
                Entry::Vacant(vacant) => vacant.insert(secret),
                Entry::Occupied(_) => {
                    return Err(malformed(format!("the user `{user}` is there twice")));
                }
            };
        }
        Self::new(users)
    }

    fn new(users: HashMap<String, Secret>) -> io::Result<Self> {
        let hashes = users.values().filter_map(|secret| match secret {
            Secret::Bcrypt(hash) => Some(hash),
            Secret::Plain(_) => None,
        });
        let costliest = hashes.max_by_key(|hash| cost(hash)).cloned();
        let turns = available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self {
            users,
            costliest,
            key: key.map_err(|_| io::Error::other("the system has no random numbers"))?,
            turns: Arc::new(Semaphore::new(turns)),
            verified: Mutex::default(),
        })
    }

    /// Returns whether a user has a password. It is `false` as well if a [`timeout`](task::timeout()) ends while hashes of
    /// others are computed.
    #[must_use]
    pub fn verify(&self, user: &str, password: &str) -> bool {
        let secret = self.users.get(user);
        // Compared for all users, so that the time does not tell which there are.
        let plain = match secret {
            Some(Secret::Plain(plain)) => plain,
            _ => "",
        };
        let is_equal = constant_time_eq(password, plain);
        let hash = match secret {
            Some(Secret::Plain(_)) if is_equal => return true,
            Some(Secret::Bcrypt(_)) if self.is_remembered(user, password) => return true,
            Some(Secret::Bcrypt(hash)) => Some(hash),
            _ => self.costliest.as_ref(),
        };
        let has_matched = hash.is_some_and(|hash| {
            let turn = task::block_on(Arc::clone(&self.turns).acquire_owned());
            let turn = turn.ok().and_then(Result::ok);
            turn.is_some_and(|turn| matches(hash, password, turn))
        });
        let is_verified = has_matched && matches!(secret, Some(Secret::Bcrypt(_)));
        if is_verified {
            let tag = hmac::sign(&self.key, password.as_bytes());
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.insert(user.to_owned(), tag);
        }
        is_verified
    }

    fn is_remembered(&self, user: &str, password: &str) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = verified.get(user);
        tag.is_some_and(|tag| hmac::verify(&self.key, password.as_bytes(), tag.as_ref()).is_ok())
    }
}

fn cost(hash: &str) -> u32 {
    hash.parse::<HashParts>()
        .map_or(0, |parts| parts.get_cost())
}

/// Whether a hash is that of a password. Computing it takes long, and the turn lasts until then: also if the connection
/// is aborted meanwhile.
fn matches(hash: &str, password: &str, turn: OwnedSemaphorePermit) -> bool {
    let (hash, password) = (hash.to_owned(), password.to_owned());
    task::offload(move || {
        let has_matched = bcrypt::verify(password, &hash).unwrap_or(false);
        drop(turn);
        has_matched
    })
}

impl Secret {
    /// Reads what stands behind the name of a user.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(plain) = text.strip_prefix("{PLAIN}") {
            return Ok(Self::Plain(plain.to_owned()));
        }
        if ["$2y$", "$2b$", "$2a$"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            let malformed = |_| "is a malformed hash of bcrypt".to_owned();
            let cost = text.parse::<HashParts>().map_err(malformed)?.get_cost();
            return match COSTS.contains(&cost) {
                true => Ok(Self::Bcrypt(text.to_owned())),
                false => Err(format!("has the cost {cost}, which is not from 4 to 17")),
            };
        }
        let formats = [
            ("$apr1$", "apr1-MD5"),
            ("{SHA}", "SHA-1"),
            ("$5$", "SHA-256"),
            ("$6$", "SHA-512"),
            ("$1$", "MD5"),
        ];
        let format = formats.iter().find(|(prefix, _)| text.starts_with(prefix));
        Err(match format {
            Some((_, name)) => format!("has the format {name}, which is not accepted"),
            None => "has no hash of bcrypt".to_owned(),
        })
    }
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd")
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of `correct horse`, made by libxcrypt.
    const HASHES: [&str; 3] = [
        "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
        "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e",
        "$2a$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
    ];

    #[test]
    fn hashes_of_others_are_verified() {
        for hash in HASHES {
            let users = Htpasswd::parse(&format!("anna:{hash}\r\n")).expect(hash);
            assert!(!users.verify("anna", "correct hors"), "{hash}");
            assert!(!users.is_remembered("anna", "correct hors"), "{hash}");
            assert!(!users.is_remembered("anna", "correct horse"), "{hash}");
            assert!(users.verify("anna", "correct horse"), "{hash}");
            assert!(users.is_remembered("anna", "correct horse"), "{hash}");
            assert!(users.verify("anna", "correct horse"), "{hash}");
            assert!(!users.verify("anna", ""), "{hash}");
            assert!(!users.verify("eve", "correct horse"), "{hash}");
            assert!(!users.is_remembered("eve", "correct horse"), "{hash}");
        }
    }

    #[test]
    fn a_hash_is_computed_in_its_turn() {
        let text = format!("anna:{}\nbob:{}\nplain:{{PLAIN}}x\n", HASHES[1], HASHES[1]);
        let users = Htpasswd::parse(&text).expect("users");
        let turns = available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
        assert!(users.verify("anna", "correct horse"));
        assert!(!users.verify("eve", "correct horse"));
        assert_eq!(users.turns.available_permits(), turns);
        // Nobody has a turn any more.
        users.turns.close();
        for user in ["bob", "eve", "plain"] {
            assert!(!users.verify(user, "correct horse"), "{user}");
        }
        assert!(users.verify("anna", "correct horse"));
        assert!(users.verify("plain", "x"));
    }

    #[test]
    fn hashes_wait_for_each_other() {
        let users = Htpasswd::parse(&format!("anna:{}\n", HASHES[1])).expect("users");
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert!(!users.verify("anna", "wrong")));
            }
            scope.spawn(|| assert!(users.verify("anna", "correct horse")));
        });
        assert!(users.is_remembered("anna", "correct horse"));
    }

    #[test]
    fn unknown_users_cost_what_the_costliest_does() {
        let text = format!("a:{}\nb:{}\nc:{{PLAIN}}\n", HASHES[1], HASHES[0]);
        let users = Htpasswd::parse(&text).expect("users");
        assert_eq!(users.costliest.as_deref(), Some(HASHES[0]));
        // That the password matches the hash of another user is no matter.
        for user in ["c", "d", ""] {
            assert!(!users.verify(user, "correct horse"), "{user}");
            assert!(!users.is_remembered(user, "correct horse"), "{user}");
        }
        assert!(users.verify("c", ""));
        assert!(!users.verify("d", ""));
    }

    #[test]
    fn a_plain_password_is_marked() {
        let users = Htpasswd::parse("\n# comment\nanna:{PLAIN}a:b \n\u{e9}:{PLAIN}\n");
        let users = users.expect("users");
        assert!(users.verify("anna", "a:b "));
        assert!(!users.verify("anna", "a:b"));
        assert!(!users.verify("anna", "{PLAIN}a:b "));
        assert!(users.verify("\u{e9}", ""));
        assert!(!Htpasswd::parse("").expect("no users").verify("", ""));
    }

    #[test]
    fn a_malformed_line_is_named_with_its_remedy() {
        let malformed = HASHES[0].replace("$05$", "$5$");
        for (line, reason) in [
            ("anna", "line 2: it has to be `user:hash`"),
            (":secret", "line 2: it has to be `user:hash`"),
            (" ", "line 2: it has to be `user:hash`"),
            ("bob:{PLAIN}x", "line 2: the user `bob` is there twice"),
            (
                "anna:secret",
                "the password of `anna` has no hash of bcrypt; write it with `htpasswd -B FILE anna`",
            ),
            ("anna:", "has no hash of bcrypt"),
            ("anna:{plain}x", "has no hash of bcrypt"),
            ("anna:rl5FJ3mFQxyZs", "has no hash of bcrypt"),
            (
                "anna:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
                "has the format apr1-MD5, which is not accepted; write it with `htpasswd -B",
            ),
            (
                "anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
                "has the format SHA-1",
            ),
            ("anna:$6$a$b", "has the format SHA-512"),
            ("anna:$2y$05$abc", "is a malformed hash of bcrypt"),
            ("anna:$2y$", "is a malformed hash of bcrypt"),
            (
                &format!("anna:{malformed}"),
                "is a malformed hash of bcrypt",
            ),
            (
                &format!("anna:{}", HASHES[0].replace("$05$", "$18$")),
                "has the cost 18",
            ),
            (
                &format!("anna:{}", HASHES[0].replace("$05$", "$03$")),
                "has the cost 3",
            ),
            (
                &format!("anna:{}x", HASHES[0]),
                "is a malformed hash of bcrypt",
            ),
            (
                &format!("anna:{}", HASHES[0].replace("abc", "\u{e9}b")),
                "is a malformed hash of bcrypt",
            ),
            (
                &format!("anna:{}", HASHES[0].replace("abc", "a b")),
                "is a malformed hash of bcrypt",
            ),
            (
                &format!("anna:{}", HASHES[0].replace("2y", "2x")),
                "has no hash of bcrypt",
            ),
        ] {
            let text = format!("bob:{{PLAIN}}a\n{line}\n");
            let err = Htpasswd::parse(&text).expect_err(line).to_string();
            assert!(
                err.starts_with("line 2: ") && err.contains(reason),
                "{line}: {err}"
            );
        }
    }

    #[test]
    fn a_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users");
        let err = Htpasswd::open(&path).expect_err("no file");
        assert!(
            err.to_string()
                .starts_with(&format!("{}: ", path.display())),
            "{err}"
        );
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
        fs::write(&path, "anna\n").expect("a file");
        let err = Htpasswd::open(&path).expect_err("a malformed line");
        assert!(err.to_string().contains("users: line 1: "), "{err}");
        fs::write(&path, b"\xff").expect("a file");
        assert!(Htpasswd::open(&path).is_err());
    }
}
