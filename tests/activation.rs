//! Sockets that a service manager passes: a shell plays the manager, and this test binary, started again, the
//! service, which asserts what it finds.

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use libtest_mimic::{Arguments, Trial};
use socketserver::net::Transport;
use socketserver::systemd::Listeners;
use socketserver::{Server, Tcp, UnixStream};

type Role = fn();

const SERVICES: [(&str, Role); 5] = [
    ("takes_its_sockets_once", takes_its_sockets_once),
    ("finds_nothing_for_another_process", finds_nothing),
    ("refuses_beside_other_threads", refuses_beside_other_threads),
    ("does_not_believe_itself", does_not_believe_itself),
    ("names_what_is_malformed", names_what_is_malformed),
];

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some("--service") {
        let name = args.next().expect("a name");
        let service = SERVICES.iter().find(|(service, _)| *service == name);
        service.expect("a service").1();
        return ExitCode::SUCCESS;
    }
    let trials = SERVICES.map(|(name, _)| {
        Trial::test(name, move || {
            let output = activate(name);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                Ok(())
            } else {
                Err(text.into())
            }
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Starts a service with a listener as descriptor 3.
fn activate(service: &str) -> Output {
    let variables = match service {
        "finds_nothing_for_another_process" => "LISTEN_PID=1 LISTEN_FDS=1",
        "does_not_believe_itself" => "OTHER=1",
        "names_what_is_malformed" => "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web",
        _ => "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web",
    };
    let script = format!(r#"exec 3<&0 4<&- </dev/null; {variables} exec "$0" --service {service}"#);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command.arg(env::current_exe().expect("this binary"));
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command.output().expect("start a service")
}

fn takes_its_sockets_once() {
    let mut listeners = Listeners::from_env().expect("the sockets");
    // Nothing is left for programs that this one starts, nor for itself.
    let child = Command::new("sh")
        .args([
            "-c",
            "echo ${LISTEN_PID-}${LISTEN_FDS-}${LISTEN_FDNAMES-}; ls /proc/self/fd/3",
        ])
        .output()
        .expect("start a shell");
    assert_eq!(child.stdout, b"\n");
    assert!(!child.status.success(), "the child has the socket");
    assert_eq!(Listeners::from_env().expect("nothing").names().next(), None);
    let err = listeners
        .take::<UnixStream>("other")
        .expect_err("no such name");
    assert_eq!(err.kind(), io::ErrorKind::NotFound, "{err}");
    assert_eq!(listeners.names().collect::<Vec<_>>(), ["web"]);
    let web = listeners.take::<Tcp>("web").expect("a TCP listener");
    let addr = web[0].local_addr().socket_addr().expect("an address");
    let server = Server::<Tcp>::builder()
        .listen(web)
        .build()
        .expect("a server");
    let _guard = server
        .spawn(|conn| conn.write_all(b"hello"))
        .expect("serve");
    let mut answer = String::new();
    let mut client = TcpStream::connect(addr).expect("connect");
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "hello");
}

fn finds_nothing() {
    let listeners = Listeners::from_env().expect("no error");
    assert_eq!(listeners.names().next(), None);
    assert_eq!(env::var_os("LISTEN_FDS"), None);
}

fn refuses_beside_other_threads() {
    let (end, wait) = channel::<()>();
    let other = thread::spawn(move || wait.recv());
    let err = Listeners::from_env().expect_err("another thread may read the environment");
    assert_eq!(err.kind(), io::ErrorKind::Unsupported);
    assert!(
        err.to_string().contains("this process has 2 threads"),
        "{err}"
    );
    assert!(env::var_os("LISTEN_FDS").is_some());
    drop(end);
    let _ = other.join().expect("a thread");
}

/// The variables may name a descriptor that something in this program owns.
#[expect(
    unsafe_code,
    reason = "changing the environment of a process with one thread"
)]
fn does_not_believe_itself() {
    // SAFETY: this process has one thread.
    unsafe { env::set_var("LISTEN_PID", std::process::id().to_string()) };
    // SAFETY: as above.
    unsafe { env::set_var("LISTEN_FDS", "1") };
    let listeners = Listeners::from_env().expect("no error");
    assert_eq!(listeners.names().next(), None);
}

fn names_what_is_malformed() {
    let err = Listeners::from_env().expect_err("one descriptor is missing");
    assert_eq!(err.kind(), io::ErrorKind::InvalidData);
    let what = "descriptor 4, which LISTEN_FDS announces, is not open";
    assert!(err.to_string().contains(what), "{err}");
}
