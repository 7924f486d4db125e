//! Notices to a service manager (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Cursor, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use rustix::time::{ClockId, clock_gettime};

use crate::accept::dispatch::Model;
use crate::builder::Builder;
use crate::error::{Error, Tried};
use crate::lifecycle::State;
use crate::net::Transport;
use crate::observe::hooks::Reloading;

/// Notifies the service manager of what the server does.
///
/// [`attach`](Self::attach) does it for the whole life of a server; the methods send one notice each. A send waits
/// for at most a second while the manager's queue is full; a notice to the watchdog does not wait. Clones share
/// their state.
///
/// # Examples
///
/// ```no_run
/// use socketserver::systemd::Notifier;
/// use socketserver::{Server, Tcp, Threading};
///
/// let mut builder = Server::<Tcp>::builder().model(Threading::default());
/// if let Some(notifier) = Notifier::from_env()? {
///     builder = notifier.attach(builder);
/// }
/// let server = builder.bind("127.0.0.1:8080")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    /// Not connected: a manager that binds its address again receives the notices that follow.
    socket: OwnedFd,
    address: SocketAddrUnix,
    watchdog: Option<Duration>,
    /// The last state that was sent, as a number plus one.
    sent: AtomicU32,
    /// The last state that was sent or could not be.
    tried: AtomicU32,
}

impl Inner {
    fn new(address: SocketAddrUnix, watchdog: Option<Duration>) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        // Once a notice is due, the process may have no descriptor left.
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Self {
            socket,
            address,
            watchdog,
            sent: AtomicU32::new(0),
            tried: AtomicU32::new(0),
        })
    }
}

/// How long the queue of the service manager may be full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the accept loop turns without a watchdog: it has nothing to send then.
const RARELY: Duration = Duration::from_secs(3600);

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`; `None` without the first. The variables stay.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: `NOTIFY_SOCKET` is neither a path nor, with an at-sign, the name of an abstract socket; or it
    /// is longer than 107 bytes. Otherwise as socket(2).
    pub fn from_env() -> Result<Option<Self>, Error> {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let value = |name| {
            env::var(name)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
        };
        let is_ours = env::var_os("WATCHDOG_PID").is_none()
            || value("WATCHDOG_PID") == Some(process::id().into());
        let micros = value("WATCHDOG_USEC").filter(|&micros| is_ours && micros > 0);
        let parsed = parse(&address).tried(|| format!("read NOTIFY_SOCKET={address:?}"))?;
        let inner = Inner::new(parsed, micros.map(Duration::from_micros));
        let inner = inner.tried(|| "open a socket for notices".to_owned())?;
        Ok(Some(Self(Arc::new(inner))))
    }

    /// Returns how long the service manager waits for a notice to its watchdog (`WatchdogSec=`); `None` without a
    /// watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.watchdog
    }

    /// Notifies the service manager of each state of the server, and feeds the watchdog. It takes the builder's
    /// [`heartbeat`](Builder::heartbeat).
    ///
    /// - `READY=1` once the server accepts; with worker processes, once every worker does.
    /// - `STATUS=` with each state that the accept loop sees, from that one on.
    /// - `RELOADING=1` with the time, as `Type=notify-reload` asks for, before the hook
    ///   [`on_reload`](Builder::on_reload) is called, and `READY=1` when it has returned: once for all
    ///   [requests](crate::ServerHandle::request_reload) that came before, whatever process calls the hook. None
    ///   before the server accepts, or while it stops.
    /// - `STOPPING=1` when the server begins to stop.
    /// - `WATCHDOG=1` twice in each `WatchdogSec=`, sent by the accept loop itself: if the loop hangs, no notice is
    ///   sent, whatever else the process does. Under [`Sequential`](crate::Sequential) a handler holds the loop:
    ///   `WatchdogSec=` must be longer than any handler runs. With worker processes their supervisor sends it, as
    ///   long as the accept loop of one of them turns.
    ///
    /// All are sent by the process that serves or, with worker processes, by the supervisor: `NotifyAccess=main` does.
    /// The server goes on if a notice cannot be sent; that of a state is tried again, without a wait, in place of
    /// those to the watchdog.
    pub fn attach<T: Transport, M: Model>(self, builder: Builder<T, M>) -> Builder<T, M> {
        let period = self.0.watchdog.map_or(RARELY, |watchdog| watchdog / 2);
        let notifier = self.clone();
        // A manager that is not there does not keep the server from serving.
        let builder = builder.heartbeat(period, move |state| {
            let _ = notifier.beat(state);
        });
        builder.on_reloading(move |step| {
            let _ = self.reload(step);
        })
    }

    /// Sends what the manager has to know of a reload. Before the server accepts, its `READY=1` is still to come.
    fn reload(&self, step: Reloading) -> io::Result<()> {
        if self.0.sent.load(Ordering::Relaxed) != number(State::Running) {
            return Ok(());
        }
        match step {
            Reloading::Begins => self.reloading(),
            Reloading::Ended => self.ready(),
        }
    }

    /// Sends what a beat of the accept loop has to say: another state, or that it turns.
    fn beat(&self, state: State) -> io::Result<()> {
        // The watchdog begins once the service has started.
        if state == State::Starting {
            return Ok(());
        }
        let current = number(state);
        let before = self.0.sent.load(Ordering::Relaxed);
        if before == current {
            return match self.0.watchdog {
                Some(_) => self.send(b"WATCHDOG=1\n", None, SendFlags::DONTWAIT),
                None => Ok(()),
            };
        }
        let was = |state: State| before > state as u32;
        let first = match state {
            State::Running if !was(State::Running) => "READY=1\n",
            _ if !was(State::LameDuck) => "STOPPING=1\n",
            _ => "",
        };
        // A manager that hangs holds up the accept loop once for each state.
        let flags = if self.0.tried.swap(current, Ordering::Relaxed) == current {
            SendFlags::DONTWAIT
        } else {
            SendFlags::empty()
        };
        self.send(format!("{first}STATUS={state}\n").as_bytes(), None, flags)?;
        self.0.sent.store(current, Ordering::Relaxed);
        Ok(())
    }

    /// Sends `READY=1`: the program has started, or has reloaded what it was asked to. Async-signal-safe.
    ///
    /// # Errors
    ///
    /// As sendmsg(2).
    pub fn ready(&self) -> io::Result<()> {
        self.wait_and_send(b"READY=1\n")
    }

    /// Sends `RELOADING=1` with the time, as `Type=notify-reload` asks for; [`ready`](Self::ready) ends the reload.
    /// Async-signal-safe. For what a program reads by itself; [`attach`](Self::attach) does so for the hook of a server.
    ///
    /// # Errors
    ///
    /// As sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::systemd::Notifier;
    ///
    /// fn reload(notifier: &Notifier, read_files: impl FnOnce()) -> std::io::Result<()> {
    ///     notifier.reloading()?;
    ///     read_files();
    ///     notifier.ready()
    /// }
    /// ```
    pub fn reloading(&self) -> io::Result<()> {
        let time = clock_gettime(ClockId::Monotonic);
        let micros = time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000;
        let mut text = Cursor::new([0; 64]);
        write!(text, "RELOADING=1\nMONOTONIC_USEC={micros}\n")?;
        let length = text.position() as usize;
        self.wait_and_send(&text.get_ref()[..length])
    }

    /// Sends `STATUS=`, a line for people.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the text has several lines.
    /// - else as sendmsg(2).
    pub fn status(&self, text: &str) -> io::Result<()> {
        one_line(text)?;
        self.wait_and_send(format!("STATUS={text}\n").as_bytes())
    }

    /// Lets the service manager keep a copy of a descriptor, and pass it to the next start of the program under this
    /// name, where [`Listeners`](crate::systemd::Listeners) finds it (`FileDescriptorStoreMax=`). The manager drops
    /// it once it is hung up.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the name is empty, longer than 255 bytes, or has a colon or a control character.
    /// - else as sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use std::os::fd::AsFd;
    /// use socketserver::systemd::Notifier;
    ///
    /// fn keep(notifier: &Notifier, listener: &TcpListener) -> std::io::Result<()> {
    ///     notifier.store("web", listener.as_fd())
    /// }
    /// ```
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        descriptor_name(name)?;
        let text = format!("FDSTORE=1\nFDNAME={name}\n");
        self.send(text.as_bytes(), Some(fd), SendFlags::empty())
    }

    /// Lets the service manager drop the descriptors that it keeps under this name.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    pub fn forget(&self, name: &str) -> io::Result<()> {
        descriptor_name(name)?;
        self.wait_and_send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes())
    }

    fn wait_and_send(&self, text: &[u8]) -> io::Result<()> {
        self.send(text, None, SendFlags::empty())
    }

    /// Sends one datagram.
    fn send(&self, text: &[u8], fd: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_ref().map(std::slice::from_ref);
        if let Some(fds) = fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let text = [IoSlice::new(text)];
        let flags = flags | SendFlags::NOSIGNAL;
        let inner = &*self.0;
        sendmsg_addr(&inner.socket, &inner.address, &text, &mut control, flags)?;
        Ok(())
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier")
            .field("address", &self.0.address)
            .field("watchdog", &self.0.watchdog)
            .finish_non_exhaustive()
    }
}

/// The number of a state among those that were sent; zero is none.
const fn number(state: State) -> u32 {
    state as u32 + 1
}

fn parse(address: &OsStr) -> io::Result<SocketAddrUnix> {
    let bytes = address.as_bytes();
    match bytes.first() {
        Some(b'/') => Ok(SocketAddrUnix::new(bytes)?),
        Some(b'@') => Ok(SocketAddrUnix::new_abstract_name(&bytes[1..])?),
        _ => Err(invalid("it is neither a path nor @ and a name")),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn one_line(text: &str) -> io::Result<()> {
    if text.contains('\n') {
        return Err(invalid("a status is one line"));
    }
    Ok(())
}

fn descriptor_name(name: &str) -> io::Result<()> {
    let is_good = |byte: u8| byte.is_ascii() && !byte.is_ascii_control() && byte != b':';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(is_good) {
        return Err(invalid(
            "the name of a descriptor has 1 to 255 ASCII characters, no colon and no control character",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn name(name: &str) -> String {
        format!("socketserver-test-{name}-{}", process::id())
    }

    /// A service manager.
    fn bind(at: &str) -> UnixDatagram {
        let address = SocketAddr::from_abstract_name(name(at)).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        manager
    }

    /// A service manager, and a notifier for it.
    fn manager(at: &str, watchdog: Option<Duration>) -> (UnixDatagram, Notifier) {
        let manager = bind(at);
        let address = parse(OsStr::new(&format!("@{}", name(at)))).unwrap();
        let inner = Inner::new(address, watchdog).unwrap();
        (manager, Notifier(Arc::new(inner)))
    }

    #[track_caller]
    fn notice(manager: &UnixDatagram) -> String {
        let mut buf = [0; 256];
        let count = manager.recv(&mut buf).unwrap();
        String::from_utf8(buf[..count].to_vec()).unwrap()
    }

    #[test]
    fn each_state_is_sent_once_and_the_watchdog_is_fed_between() {
        let (manager, notifier) = manager("states", Some(Duration::from_secs(1)));
        for state in [
            State::Starting,
            State::Running,
            State::Running,
            State::Running,
            State::ServingBacklog,
            State::ServingBacklog,
            State::Draining,
        ] {
            notifier.beat(state).unwrap();
        }
        let notices: Vec<_> = (0..6).map(|_| notice(&manager)).collect();
        let expected = [
            "READY=1\nSTATUS=running\n",
            "WATCHDOG=1\n",
            "WATCHDOG=1\n",
            "STOPPING=1\nSTATUS=serving the backlog\n",
            "WATCHDOG=1\n",
            "STATUS=draining\n",
        ];
        assert_eq!(notices, expected);
    }

    #[test]
    fn a_state_that_could_not_be_sent_is_sent_at_a_later_beat() {
        let (gone, notifier) = manager("again", None);
        drop(gone);
        notifier.beat(State::Running).unwrap_err();
        notifier.beat(State::Running).unwrap_err();
        let manager = bind("again");
        notifier.beat(State::Running).unwrap();
        assert_eq!(notice(&manager), "READY=1\nSTATUS=running\n");
    }

    #[test]
    fn a_reload_is_sent_while_the_server_runs() {
        let (manager, notifier) = manager("reloads", None);
        let reload = || {
            notifier.reload(Reloading::Begins).unwrap();
            notifier.reload(Reloading::Ended).unwrap();
        };
        reload();
        notifier.beat(State::Running).unwrap();
        reload();
        notifier.beat(State::Draining).unwrap();
        reload();
        notifier.status("the last").unwrap();
        let notices: Vec<_> = (0..5).map(|_| notice(&manager)).collect();
        assert_eq!(notices[0], "READY=1\nSTATUS=running\n");
        assert!(notices[1].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(notices[2], "READY=1\n");
        assert_eq!(notices[3], "STOPPING=1\nSTATUS=draining\n");
        assert_eq!(notices[4], "STATUS=the last\n");
    }

    #[test]
    fn a_server_that_is_stopped_before_it_is_ready_is_never_ready() {
        let (manager, notifier) = manager("early", None);
        notifier.beat(State::LameDuck).unwrap();
        notifier.beat(State::LameDuck).unwrap();
        notifier.beat(State::Draining).unwrap();
        let first = "STOPPING=1\nSTATUS=asked to stop, and still accepting\n";
        assert_eq!(notice(&manager), first);
        assert_eq!(notice(&manager), "STATUS=draining\n");
    }

    #[test]
    fn a_reload_has_its_time_and_a_descriptor_its_name() {
        let (manager, notifier) = manager("reload", None);
        notifier.reloading().unwrap();
        let reloading = notice(&manager);
        let micros = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(micros.trim_end().parse::<u64>().unwrap() > 0);
        notifier.ready().unwrap();
        assert_eq!(notice(&manager), "READY=1\n");
        notifier.status("on its way").unwrap();
        assert_eq!(notice(&manager), "STATUS=on its way\n");
        let (reader, writer) = io::pipe().unwrap();
        notifier.store("pipe", writer.as_fd()).unwrap();
        drop(writer);
        assert_eq!(notice(&manager), "FDSTORE=1\nFDNAME=pipe\n");
        // The manager of this test has not kept the descriptor.
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
        notifier.forget("pipe").unwrap();
        assert_eq!(notice(&manager), "FDSTOREREMOVE=1\nFDNAME=pipe\n");
        for name in ["", "a:b", "a\nb", &"x".repeat(256)] {
            assert!(notifier.forget(name).is_err(), "{name:?}");
        }
        assert!(notifier.status("a\nREADY=1").is_err());
    }

    #[test]
    fn an_address_is_a_path_or_a_name() {
        assert!(parse(OsStr::new("/run/notify")).is_ok());
        for wrong in ["", "vsock:2:1234", "notify"] {
            let err = parse(OsStr::new(wrong)).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidInput, "{wrong}");
        }
    }
}
