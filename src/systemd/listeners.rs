//! The sockets that a service manager passes.

use std::io;

use crate::error::{Error, Tried};
use crate::net::Adopt;
use crate::sys::passed::{self, Passed};

/// The sockets that the service manager has passed to this process, by name (sd_listen_fds(3)).
///
/// The name of a socket is that of its unit, or its `FileDescriptorName=`; `systemd-socket-activate` sets it with
/// `--fdname`. Several sockets may have one name. A socket that was not taken is closed when this value is dropped.
///
/// # Examples
///
/// ```no_run
/// use socketserver::systemd::Listeners;
/// use socketserver::{Tcp, UnixStream};
///
/// let mut listeners = Listeners::from_env()?;
/// let web: Vec<Tcp> = listeners.take("web")?;
/// let control: Vec<UnixStream> = listeners.take("control")?;
/// for name in listeners.names() {
///     eprintln!("the socket {name} is not used");
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Listeners {
    passed: Vec<Passed>,
}

impl Listeners {
    /// Takes the sockets that `LISTEN_FDS` announces, with the names of `LISTEN_FDNAMES`; `unknown` without names.
    /// There are none if `LISTEN_PID` names another process, or `LISTEN_PIDFDID` (systemd 259) does.
    ///
    /// Each descriptor becomes close-on-exec, and the four variables are removed, so that programs that this one
    /// starts do not take the sockets for theirs. A second call finds no sockets. What counts is the environment at
    /// the program's start: variables that the program sets itself announce nothing.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the process has several threads, and one of the variables is set. Other threads may read the
    ///   environment at any time, so it cannot be changed. Call this first in `main`.
    /// - `InvalidData`: a variable is malformed, or a descriptor is not open.
    /// - /proc cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        let passed = passed::take();
        let passed = passed.tried(|| "take the sockets of the service manager".to_owned())?;
        Ok(Self { passed })
    }

    /// Returns the names of the sockets that were not taken yet, in the order in which they were passed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.passed.iter().map(|passed| passed.name.as_str())
    }

    /// Takes the sockets of this name: at least one.
    ///
    /// # Errors
    ///
    /// - `NotFound`: there is none. The text has the names that there are.
    /// - `InvalidInput`: a socket of this name is of another kind. The text says of which.
    pub fn take<T: Adopt>(&mut self, name: &str) -> Result<Vec<T>, Error> {
        let tried = || format!("take the socket {name:?} of the service manager");
        let all = std::mem::take(&mut self.passed).into_iter();
        let (ours, rest) = all.partition::<Vec<_>, _>(|passed| passed.name == name);
        self.passed = rest;
        if ours.is_empty() {
            let names: Vec<_> = self.names().collect();
            let there = if names.is_empty() {
                "it has passed none that is left".to_owned()
            } else {
                format!("it has passed {}", names.join(", "))
            };
            let err = Error::new(tried(), io::Error::new(io::ErrorKind::NotFound, there));
            return Err(err.with_remedy("name it so with FileDescriptorName= in its unit"));
        }
        let adopt = |passed: Passed| {
            let adopted = T::adopt(passed.fd);
            adopted.map_err(|err| Error::new(tried(), io::Error::new(err.kind(), err.to_string())))
        };
        ours.into_iter().map(adopt).collect()
    }

    /// Takes the socket with this number, from 3 on; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: it is of another kind.
    pub fn take_number<T: Adopt>(&mut self, number: i32) -> Result<Option<T>, Error> {
        let at = self
            .passed
            .iter()
            .position(|passed| passed.number == number);
        at.map(|at| T::adopt(self.passed.remove(at).fd)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::net::{Either, Transport};
    use crate::{Tcp, Udp};

    fn listeners() -> Listeners {
        let tcp = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let passed = [("web", tcp()), ("dns", udp()), ("web", tcp())];
        let passed = (3..).zip(passed).map(|(number, (name, fd))| Passed {
            number,
            name: name.to_owned(),
            fd,
        });
        Listeners {
            passed: passed.collect(),
        }
    }

    #[test]
    fn sockets_are_taken_by_name_and_number_once() {
        let mut listeners = listeners();
        assert_eq!(listeners.take::<Tcp>("web").unwrap().len(), 2);
        assert_eq!(listeners.names().collect::<Vec<_>>(), ["dns"]);
        let err = listeners.take::<Tcp>("web").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
        let text = err.to_string();
        assert!(
            text.contains("\"web\" of the service manager: it has passed dns"),
            "{text}"
        );
        assert!(text.contains("FileDescriptorName="), "{text}");
        assert!(listeners.take_number::<Udp>(3).unwrap().is_none());
        assert!(listeners.take_number::<Udp>(4).unwrap().is_some());
        assert_eq!(listeners.names().next(), None);
    }

    #[test]
    fn another_kind_is_an_error_that_says_which() {
        let err = listeners().take::<Tcp>("dns").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        let text = err.to_string();
        assert!(text.contains("as a TCP listener: its type is"), "{text}");
    }

    #[test]
    fn either_kind_is_found() {
        let mut listeners = listeners();
        let web: Vec<Either<Udp, Tcp>> = listeners.take("web").unwrap();
        assert!(web.iter().all(|it| matches!(it, Either::Right(_))));
        let dns: Vec<Either<Udp, Tcp>> = listeners.take("dns").unwrap();
        assert!(dns[0].url().starts_with("udp://"));
    }
}
