//! The passwords of `--basic-auth`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use socketserver_http::auth::Htpasswd;

use super::generation::Generation;
use crate::log::say;

/// A file of passwords, which is read again at SIGHUP.
pub(super) struct Passwords {
    path: PathBuf,
    users: RwLock<Arc<Htpasswd>>,
    generation: Generation,
}

impl Passwords {
    /// # Errors
    ///
    /// The file cannot be read, or has a malformed line, which the error names.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            // Absolute, so that it means the same later.
            path: std::path::absolute(path)
                .with_context(|| format!("--basic-auth {}", path.display()))?,
            users: RwLock::new(read(path)?),
            generation: Generation::new().context("mmap(2)")?,
        })
    }

    /// Whether a user has a password.
    pub(super) fn verify(&self, user: &str, password: &str) -> bool {
        if let Err(err) = self.generation.follow(|| self.read_again()) {
            say(format_args!("socketserver: {}", kept(&err)));
        }
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        // The comparison takes long.
        let users = Arc::clone(&users);
        users.verify(user, password)
    }

    /// Reads the file again, in all processes. Returns what has come of it.
    pub(super) fn reload(&self) -> String {
        match self.generation.renew(|| self.read_again()) {
            Ok(()) => "the passwords were read again".to_owned(),
            Err(err) => kept(&err),
        }
    }

    fn read_again(&self) -> anyhow::Result<()> {
        let users = read(&self.path)?;
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        Ok(())
    }
}

fn kept(err: &anyhow::Error) -> String {
    format!("{err:#}; the old passwords stay in force")
}

fn read(path: &Path) -> anyhow::Result<Arc<Htpasswd>> {
    Htpasswd::open(path)
        .map(Arc::new)
        .context("read the passwords of --basic-auth")
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
