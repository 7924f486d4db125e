//! The certificate of the servers over TLS: made once, and the same for all.

use std::fs;

use anyhow::{Context, Result};
use bench_load::certificate_files;

/// Makes it, and puts it where servers and loads look for it.
pub(crate) fn make() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = certificate_files()?;
    for (path, text) in [
        (certificate, made.cert.pem()),
        (key, made.signing_key.serialize_pem()),
    ] {
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
