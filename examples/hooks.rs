//! Doubles numbers, and prints what its hooks receive: refused clients, failures, and a sign of
//! life. Refuses clients from the addresses after the first argument.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::time::Duration;

use socketserver::{Builder, Connection, HandlerError, Server, Tcp, Threading};

pub(crate) fn double(conn: &mut impl Connection) -> Result<(), HandlerError> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 80)?;
    let number: i64 = line.trim().parse()?;
    writeln!(conn, "{}", number.checked_mul(2).ok_or("too large")?)?;
    Ok(())
}

/// The hooks of a server, whatever its model.
pub(crate) fn hooks(blocked: Vec<String>) -> Builder<Tcp> {
    Server::<Tcp>::builder()
        .verify(move |conn| {
            let ip = conn.peer_addr().ip().to_string();
            let welcome = !blocked.contains(&ip);
            if !welcome {
                eprintln!("refused: {ip}");
            }
            welcome
        })
        .on_error(|failure| {
            // Clients that go away are common.
            if !failure.is_disconnect() {
                eprintln!("failed: {failure}");
            }
        })
        .on_accept_error(|err| eprintln!("accepting: {err}"))
        .service_actions(Duration::from_secs(60), || eprintln!("still accepting"))
}

fn main() -> Result<(), socketserver::Error> {
    let mut args = std::env::args().skip(1);
    let addr = args.next();
    let server = hooks(args.collect())
        .model(Threading::default())
        .bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(double)?;
    Ok(())
}
