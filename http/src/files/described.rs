//! The fields that describe a file, kept for those that were sent last: to make them takes longer than the rest of a
//! response.

use std::sync::{Arc, Mutex};

use http::header::HeaderValue;
use rustix::fs::Stat;

use crate::files::conditions::{self, Validators};
use crate::files::types;

/// How many files are kept, each in the one place of its inode.
const PLACES: usize = 256;

/// What describes one state of a file under one of its names.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) validators: Validators,
    pub(crate) media_type: HeaderValue,
    path: Box<[u8]>,
    state: State,
}

/// What [`Validators`] are made of: inode, size, and the time of modification.
type State = [i128; 4];

#[derive(Debug)]
pub(crate) struct Descriptions(Box<[Mutex<Option<Arc<Description>>>]>);

impl Default for Descriptions {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Mutex::default()).collect())
    }
}

impl Descriptions {
    /// Describes a file that was opened with this path.
    pub(crate) fn of(&self, path: &[u8], stat: &Stat) -> Arc<Description> {
        let (state, now) = (state_of(stat), conditions::now());
        let place = &self.0[stat.st_ino as usize % PLACES];
        // While another thread looks at the same place, the description is made again rather than waited for.
        let mut place = place.try_lock().ok();
        if conditions::is_settled(stat, now)
            && let Some(Some(kept)) = place.as_deref()
            && kept.state == state
            && *kept.path == *path
        {
            return Arc::clone(kept);
        }
        let made = Arc::new(Description {
            validators: Validators::of(stat, now),
            media_type: types::of(path),
            path: path.into(),
            state,
        });
        // The validators of a file that is not settled depend on the time.
        if let Some(place) = place.as_deref_mut()
            && conditions::is_settled(stat, now)
        {
            *place = Some(Arc::clone(&made));
        }
        made
    }
}

fn state_of(stat: &Stat) -> State {
    [
        stat.st_ino.into(),
        stat.st_size.into(),
        stat.st_mtime.into(),
        stat.st_mtime_nsec.into(),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn a_description_is_kept_while_the_file_is_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "text").expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        let now = SystemTime::now();
        let modified = |age| {
            let time = now - Duration::from_secs(age);
            file.set_modified(time).expect("set the time");
            fstat(&file).expect("stat")
        };
        let descriptions = Descriptions::default();
        let old = modified(100);
        let first = descriptions.of(b"a.html", &old);
        assert!(Arc::ptr_eq(&first, &descriptions.of(b"a.html", &old)));
        assert_eq!(first.media_type, "text/html; charset=utf-8");
        let renamed = descriptions.of(b"a.css", &old);
        assert_eq!(renamed.media_type, "text/css; charset=utf-8");
        let newer = descriptions.of(b"a.css", &modified(50));
        assert_ne!(newer.validators.etag, renamed.validators.etag);
        file.set_len(1).expect("truncate");
        let shorter = descriptions.of(b"a.css", &modified(50));
        assert_ne!(shorter.validators.etag, newer.validators.etag);
    }

    #[test]
    fn a_file_that_is_not_settled_is_described_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File::create(dir.path().join("file")).expect("create");
        let stat = fstat(&file).expect("stat");
        let descriptions = Descriptions::default();
        let (first, second) = (
            descriptions.of(b"file", &stat),
            descriptions.of(b"file", &stat),
        );
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(first.validators.etag.as_bytes().starts_with(b"W/"));
    }
}
