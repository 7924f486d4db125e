//! A service manager: the sockets that it passes, and what a server notifies it of (systemd, or anything else that
//! speaks sd_listen_fds(3) and sd_notify(3)).
//!
//! [`Listeners`] takes the sockets by name. [`Notifier`] sends that the server is ready, reloads and stops, and feeds
//! the watchdog as long as the accept loop turns. Each can be used without the other.
//!
//! ```no_run
//! use socketserver::systemd::{Listeners, Notifier};
//! use socketserver::{Server, Tcp, Threading};
//!
//! // First of all, while the process has one thread.
//! let mut listeners = Listeners::from_env()?;
//! let mut builder = Server::<Tcp>::builder()
//!     .model(Threading::default())
//!     .listen(listeners.take::<Tcp>("web")?);
//! if let Some(notifier) = Notifier::from_env()? {
//!     builder = notifier.attach(builder);
//! }
//! builder.build()?.serve_forever(|conn| {
//!     use std::io::Write;
//!     conn.write_all(b"hello world\n")
//! })?;
//! # Ok::<(), socketserver::Error>(())
//! ```

mod listeners;
mod notifier;

pub use listeners::Listeners;
pub use notifier::Notifier;
