//! Runs a program for each connection, as inetd does: `inetd [ADDRESS [PROGRAM [ARGUMENT]...]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use socketserver::net::TcpConnection;
use socketserver::python::ForkingTcpServer;

pub(crate) fn become_program(
    conn: &TcpConnection,
    program: &str,
    arguments: &[String],
) -> io::Result<()> {
    let socket = conn.as_fd().try_clone_to_owned()?;
    // This process serves only this connection, so it can become the program. `exec` returns only
    // an error.
    Err(Command::new(program)
        .args(arguments)
        .stdin(socket.try_clone()?)
        .stdout(socket)
        .exec())
}

fn main() -> Result<(), socketserver::Error> {
    let mut args = std::env::args().skip(1);
    let addr = args.next();
    let program = args.next().unwrap_or_else(|| "cat".to_owned());
    let arguments: Vec<String> = args.collect();
    let server = ForkingTcpServer::builder()
        .on_error(|failure| eprintln!("{failure}"))
        .bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(move |conn| become_program(conn, &program, &arguments))?;
    Ok(())
}
