//! `exec`: a program for each connection, whose standard input and output are the connection, or one for a datagram
//! socket.

pub(crate) mod environment;
pub(crate) mod lines;
mod movement;
mod program;
mod relay;
mod restrict;
mod serving;
pub(crate) mod starter;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;
use rustix::net::sockopt::{Timeout as Direction, set_socket_timeout};
use rustix::process::{Pid, Signal, kill_process_group};
use socketserver::net::{Accepted as _, Either, Managed as _, Transport, Waits};
use socketserver::observe::State;
use socketserver::{Next, Outcome, Report, ServerHandle, task};

use self::environment::{Variable, Variables};
use self::lines::Lines;
use self::relay::{Client, Relay};
use self::restrict::Restrictions;
use self::serving::{Around, Cause, Over, Session};
use self::starter::{Command, Ended, Exit, LOST, Settings, Starters};
use crate::args::{Inner, Model, Options, seconds};
use crate::bind::{Accepted, Any, Listener, Stream, socket_of};
use crate::lent::{Lent, LentSocket};
use crate::limits::{Timeout, timeout};
use crate::listen::Url;
use crate::privileges::Privileges;
use crate::serve::{self, Task};
use crate::signals;

/// The end of the help.
pub(crate) const HELP: &str = "\
Examples:
  socketserver exec -- cat
  socketserver exec --listen 'tcp://[::]:9418' --user nobody --max-connections 50 -- git daemon --inetd --export-all --base-path=/srv/git
  socketserver exec --listen 'tcp://[::]:7443' --tls-cert cert.pem --tls-key key.pem --env-clear --env PATH -- sh -c 'echo \"hello $TCPREMOTEIP\"'
  socketserver exec --user nobody --limit nofile=64,cpu=10 --no-network --read-only /usr --read-only /srv/www -- micro-httpd /srv/www
  socketserver exec --listen udp://0.0.0.0:69 --kill-timeout 1 -- in.tftpd --secure /srv/tftp

The program:
  It is started for each connection, in a session of its own, with no descriptors but these:
  0, 1  the connection, in blocking mode; with TLS a socket whose bytes the server passes on
  2     a pipe: its lines go to the log, 100 a second for each connection
  3     the connection once more, for systemd's sd_listen_fds(3)
  For a datagram socket (udp, unixgram) it is started when a datagram has come, with the socket itself,
  and serves until it exits: inetd's wait.

Its variables are those of the server, without what a service manager has set, and
  TCPLOCALIP TCPLOCALPORT TCPREMOTEIP TCPREMOTEPORT, UNIXLOCALPATH UNIXREMOTEPATH UNIXREMOTEEUID
  UNIXREMOTEEGID UNIXREMOTEPID, and PROTO (TCP or UNIX): UCSPI; of a client behind a proxy its own address
  REMOTE_ADDR REMOTE_PORT LISTEN_FDS LISTEN_PID LISTEN_FDNAMES: systemd's Accept=yes
  SSL_PROTOCOL SSL_CIPHER SSL_TLS_SNI_SERVERNAME SSL_CLIENT_S_DN SSL_CLIENT_FINGERPRINT: of TLS
  SOCKETSERVER_CONNECTION: the number of the connection in the log

A program ends, with all processes that it has started, by SIGTERM, and SIGKILL --kill-timeout later:
  at once when the connection has failed, as by a reset, --kill-timeout after both directions have
  ended, and --half-close-timeout after the client's end of stream
  when nothing has moved for --idle-timeout, and after --lifetime and --request-timeout; on unix and
  seqpacket listeners without TLS the server does not see what moves
  at the drain deadline of a stop; one with a datagram socket when the server is asked to stop
Processes that outlive the program are ended when it has exited.";

/// How long a socket is not lent again whose program has not read the datagram: the first time, and at most.
const UNREAD_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// How often in a row a datagram is unread before the server reports a failure: two datagrams may be equal.
const UNREAD_FAILURES: u32 = 3;

/// The descriptors of a server for each connection: the connection, its program's control socket, its standard error,
/// an epoll instance, and with TLS a socket for the program and a duplicate of the connection.
const DESCRIPTORS: u64 = 6;

const DATAGRAM_CONFLICT: &str = "--model sequential, forking and prefork are for connections: a datagram socket has \
     one program at a time, beside the other listeners; give --model threading, pool or coroutines";

const PROXY_CONFLICT: &str = "--proxy-protocol is not for datagram sockets: the program reads from them itself; write \
     ?proxy=off behind their URLs";

/// The arguments of `exec`.
#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// The program and its arguments; a name without a slash is looked up in PATH
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
    /// Give the program a variable, or with NAME alone that of the server; repeatable
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = environment::variables())]
    env: Vec<Variable>,
    /// Give the program no variable of the server but those of --env
    #[arg(long)]
    env_clear: bool,
    /// How long a program may run after the client's end of stream, before it is ended; seconds, or none
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = timeout)]
    half_close_timeout: Timeout,
    /// How long a program that is to end has after SIGTERM, before SIGKILL
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    kill_timeout: Duration,
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(flatten)]
    restrictions: Restrictions,
}

impl Exec {
    /// The first error among options that do not go together.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        let datagrams = self.options.listen.iter().filter(|url| url.is_datagram());
        let has_proxy = |url: &Url| self.options.proxied.is_on() && url.has_proxy();
        let proxied = datagrams.clone().any(has_proxy);
        let any = datagrams.count() > 0;
        let checks = [
            (!can_lend(self.options.model), DATAGRAM_CONFLICT),
            (proxied, PROXY_CONFLICT),
            (
                self.options.access.is_on(),
                "--allow and --deny are not for datagram sockets: the program reads from them itself, every datagram; \
                 leave them out, or listen in another server",
            ),
        ];
        checks
            .into_iter()
            .find_map(|(wrong, what)| (any && wrong).then_some(what))
            .or_else(|| self.restrictions.conflict())
    }
}

/// Whether handlers run beside the accept loop, in its process.
fn can_lend(model: Model) -> bool {
    matches!(
        model,
        Model::One(Inner::Threading | Inner::Pool | Inner::Coroutines)
    )
}

/// Serves until a signal stops it, and until every program has ended.
pub(crate) fn run(mut exec: Exec) -> anyhow::Result<Report> {
    let note = serve::bound_connections(&mut exec.options, DESCRIPTORS);
    let path = program::find(&exec.program[0])?;
    program::check(&path)?;
    let starters = Arc::new(OnceLock::new());
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let task = Programs {
        command: Command::new(path.as_os_str(), &exec.program)?,
        note,
        settings: Settings {
            starters: starter::number(exec.options.workers),
            env: environment::of_server(exec.env_clear, &exec.env),
            kill_timeout: exec.kill_timeout,
        },
        limits: serving::Limits {
            half_close: exec.half_close_timeout.0,
            idle: exec.options.limits.idle_timeout.0,
            over: exec.kill_timeout,
        },
        restrictions: exec.restrictions,
        log: exec.options.log,
        can_lend: can_lend(exec.options.model),
        stop: Arc::new(eventfd(0, flags).context("eventfd(2)")?),
        path,
        starters: Arc::clone(&starters),
    };
    let served = serve::run(task, exec.options);
    let finished = starters.get().map_or(Ok(()), Starters::finish);
    let report = served?;
    finished.map(|()| report)
}

/// What a server does with each connection: it starts a program for it.
struct Programs {
    path: PathBuf,
    command: Command,
    /// What the operator should know.
    note: Option<String>,
    settings: Settings,
    limits: serving::Limits,
    restrictions: Restrictions,
    /// Whether events of programs are logged.
    log: bool,
    /// Whether the model can serve a datagram socket.
    can_lend: bool,
    /// An eventfd(2) that is readable once the server has been asked to stop.
    stop: Arc<OwnedFd>,
    starters: Arc<OnceLock<Starters>>,
}

impl Task for Programs {
    fn fork(&mut self, privileges: &Privileges) -> anyhow::Result<()> {
        let starters = Starters::fork(&self.settings, || {
            self.restrictions.leave_network()?;
            privileges.drop_for_good()?;
            // As the user that the programs run as.
            program::check(&self.path)?;
            let prepared = self.restrictions.prepare(&self.path)?;
            Ok(Box::new(move || prepared.apply()))
        })?;
        let _ = self.starters.set(starters);
        Ok(())
    }

    fn start(&mut self, listeners: Vec<Any>) -> anyhow::Result<Vec<Listener>> {
        // After the starters were forked, whose programs have the limit that the server was started with.
        serve::raise_descriptor_limit(self.note.as_deref())?;
        let lend = |listener| -> anyhow::Result<Listener> {
            let Either::Right(Either::Right(datagrams)) = listener else {
                return Ok(Either::Left(listener));
            };
            // Only a descriptor tells what it is, so the arguments could not be refused.
            ensure!(self.can_lend, "{DATAGRAM_CONFLICT}");
            let Either::Left(socket) = datagrams else {
                bail!("{PROXY_CONFLICT}");
            };
            let lent = LentSocket::new(socket).context("watch a datagram socket")?;
            Ok(Either::Right(lent))
        };
        listeners.into_iter().map(lend).collect()
    }

    fn serving(&self, server: &ServerHandle) -> anyhow::Result<()> {
        let starters = Arc::clone(&self.starters);
        let has_ended = move || starters.get().is_some_and(Starters::one_has_ended);
        signals::stop_when_child_ends(has_ended, server.clone())
    }

    fn serve(&self, accepted: &mut Accepted) -> Outcome {
        let id = accepted.id();
        let variables = Variables::of(accepted);
        let over = match accepted {
            Either::Left(Either::Left(stream)) => self.plain(id, &variables, stream)?,
            Either::Left(Either::Right(tls)) => {
                let socket = socket_of(tls.below()).try_clone_to_owned()?;
                self.relayed(id, &variables, tls, socket)?
            }
            Either::Right(Either::Left(seqpacket)) => {
                seqpacket.wait()?;
                self.direct(id, &variables, seqpacket.as_fd())?
            }
            // These listeners are wrapped.
            Either::Right(Either::Right(_)) => return Ok(Next::Close),
        };
        self.outcome(over)
    }

    fn observer(&self) -> Option<Box<dyn Fn(State) + Send + Sync>> {
        let stop = Arc::clone(&self.stop);
        Some(Box::new(move |state| {
            if matches!(
                state,
                State::ServingBacklog | State::Draining | State::Aborting
            ) {
                // A count that would overflow is readable.
                let _ = write(&*stop, &1_u64.to_ne_bytes());
            }
        }))
    }

    fn serve_lent(&self, lent: &mut Lent) -> Outcome {
        let outcome = self.with_socket(lent);
        let count = lent.count_unread();
        if count == 0 || lent.stopping() {
            return outcome;
        }
        // Also after an error, before which no program may have been started.
        task::sleep(unread_pause(count));
        outcome?;
        if count < UNREAD_FAILURES {
            return Ok(Next::Close);
        }
        let path = self.path.display();
        Err(io::Error::other(format!(
            "{path} ended and left its datagram unread; it is started again after a pause"
        ))
        .into())
    }
}

impl Programs {
    /// The program gets the connection itself, unless the server has received some of its input already.
    fn plain(&self, id: u64, variables: &Variables, stream: &mut Plain) -> io::Result<Over> {
        if let Waits::For(fd) = stream.wait()? {
            // What was received before the program, such as a PROXY header, had a timeout.
            set_socket_timeout(fd, Direction::Recv, None)?;
            return self.direct(id, variables, fd);
        }
        let socket = socket_of(stream).try_clone_to_owned()?;
        self.relayed(id, variables, stream, socket)
    }

    /// The program gets the connection itself.
    fn direct(&self, id: u64, variables: &Variables, client: BorrowedFd<'_>) -> io::Result<Over> {
        self.run(id, variables, client, Around::Client(client))
    }

    /// The program gets a socket, and a relay moves the bytes.
    fn relayed(
        &self,
        id: u64,
        variables: &Variables,
        client: &mut impl Client,
        socket: OwnedFd,
    ) -> io::Result<Over> {
        let (relay, program) = Relay::new(client)?;
        self.run(id, variables, program, Around::Relay(relay, socket))
    }

    /// The program gets a datagram socket.
    fn with_socket(&self, lent: &Lent) -> Outcome {
        let id = lent.id();
        let around = Around::Stop(self.stop.as_fd());
        let over = self.run(id, &Variables::of_socket(id), lent.socket()?, around)?;
        self.outcome(over)
    }

    /// Starts a program with a descriptor, and waits until it has ended.
    fn run(
        &self,
        id: u64,
        variables: &Variables,
        program: impl AsFd,
        around: Around<'_>,
    ) -> io::Result<Over> {
        let prefix = format!("socketserver: connection {id}, standard error");
        let (lines, errors) = Lines::new(prefix, None)?;
        let fds = [program.as_fd(), errors.as_fd()];
        let starters = self.starters.get().ok_or(io::ErrorKind::NotConnected)?;
        // 0, 1 and 3 are the connection: for inetd and UCSPI, and for systemd.
        let layout = [0, 0, 1, 0];
        let running = starters.start(&self.command, variables.as_slice(), &fds, &layout)?;
        // A relay sees the end once the program has closed its socket; so do the lines.
        drop((program, errors));
        let logged = self.log.then_some(id);
        Session::new(running, lines, self.limits, around, logged)?.run()
    }

    fn outcome(&self, over: Over) -> Outcome {
        let path = self.path.display().to_string();
        let (exit, cause) = match over {
            Over::Failed(why) => {
                return Err(io::Error::other(format!("start {path}: {why}")).into());
            }
            Over::Lost { pid } => {
                // The kernel has killed the program; this ends what is left of its group.
                if let Some(pid) = pid.and_then(Pid::from_raw) {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                return Err(io::Error::other(format!("run {path}: {LOST}")).into());
            }
            Over::Exited { exit, cause } => (exit, cause),
        };
        match cause {
            None if self.log => Ok(Next::Close),
            None => exit_outcome(&path, exit),
            Some(Cause::Stop) => Ok(Next::Close),
            Some(Cause::Reset) => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            Some(Cause::HalfClosed(limit)) => {
                ended(&path, limit, "after the client's end of stream")
            }
            Some(Cause::Over(limit)) => ended(&path, limit, "after the end of both directions"),
            Some(Cause::Idle(limit)) => ended(&path, limit, "in which nothing moved"),
        }
    }
}

/// How long a socket is not lent again whose datagrams were unread so often in a row.
fn unread_pause(count: u32) -> Duration {
    let [first, most] = UNREAD_PAUSES;
    let factor = 1_u32.checked_shl(count - 1).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(most)
}

/// A stream without TLS.
type Plain = <Stream as Transport>::Accepted;

fn exit_outcome(path: &str, exit: Exit) -> Outcome {
    match exit.ended {
        Ended::Status(0) => Ok(Next::Close),
        how => Err(io::Error::other(format!("{path} ended: {how}")).into()),
    }
}

fn ended(path: &str, limit: Duration, when: &str) -> Outcome {
    let why = format!("{path} was ended, {} s {when}", limit.as_secs_f64());
    Err(io::Error::new(io::ErrorKind::TimedOut, why).into())
}
