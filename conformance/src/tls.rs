//! The client's side of TLS, and the certificate of the servers.

use std::io::{self, Read, Write};
use std::mem::take;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::Socket;

/// A certificate that trusts itself: its PEM, that of its key, and a client that trusts it.
static CERTIFICATE: LazyLock<(String, String, Arc<ClientConfig>)> = LazyLock::new(|| {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    let der: &CertificateDer<'_> = pair.cert.der();
    roots.add(der.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        pair.cert.pem(),
        pair.signing_key.serialize_pem(),
        Arc::new(client),
    )
});

/// Writes `server.pem` and `server.key`, for a server in this directory.
pub(crate) fn write_certificate(directory: &Path) -> io::Result<()> {
    let (certificate, key, _) = &*CERTIFICATE;
    std::fs::write(directory.join("server.pem"), certificate)?;
    std::fs::write(directory.join("server.key"), key)
}

/// How the server has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With close_notify.
    Closed,
    /// Without.
    Cut,
    Reset,
    /// Before the handshake was over.
    NoHandshake,
}

/// The plain end of a client over TLS. A thread encrypts and decrypts.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) stream: UnixStream,
    /// How many bytes were written to the stream and have not been sent to the server.
    unsent: usize,
    /// How many more of them have been sent.
    sent: Receiver<usize>,
    end: Arc<OnceLock<End>>,
}

impl Plain {
    /// Begins the handshake on a connected socket.
    pub(crate) fn begin(socket: Socket) -> io::Result<Self> {
        let (stream, inner) = UnixStream::pair()?;
        let name = "localhost".try_into().expect("a name");
        let client = Arc::clone(&CERTIFICATE.2);
        let tls = ClientConnection::new(client, name).map_err(io::Error::other)?;
        socket.set_nonblocking(true)?;
        let end = Arc::new(OnceLock::new());
        let (sender, sent) = channel();
        let mut pump = Pump {
            socket,
            inner,
            tls,
            encrypted: 0,
            sent: sender,
            output_ended: false,
        };
        let ended = Arc::clone(&end);
        thread::spawn(move || {
            let how = match pump.run() {
                Ok(how) => how,
                Err(_) if pump.tls.is_handshaking() => End::NoHandshake,
                Err(_) => End::Reset,
            };
            ended.set(how).expect("set once");
            // The client, which reads now, may have gone.
            let _ = pump.inner.shutdown(Shutdown::Write);
            pump.finish();
            // A socket that is closed with unread bytes is reset.
            let _ = io::copy(&mut pump.inner, &mut io::sink());
        });
        Ok(Self {
            stream,
            unsent: 0,
            sent,
            end,
        })
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data)?;
        self.unsent += data.len();
        Ok(())
    }

    /// Waits until everything that was written has been sent to the server. Returns whether it has.
    pub(crate) fn await_sent(&mut self, limit: Duration) -> bool {
        while self.unsent > 0 {
            match self.sent.recv_timeout(limit) {
                Ok(count) => self.unsent -= count,
                Err(_) => return false,
            }
        }
        true
    }

    /// How the stream has ended, after a read of zero bytes.
    pub(crate) fn end(&self) -> End {
        *self.end.get().expect("set before the stream ends")
    }
}

/// What moves bytes between a client and a server.
struct Pump {
    socket: Socket,
    inner: UnixStream,
    tls: ClientConnection,
    /// How many bytes of the client have been encrypted and not been sent.
    encrypted: usize,
    sent: Sender<usize>,
    output_ended: bool,
}

impl Pump {
    /// Runs until the server ends its stream.
    fn run(&mut self) -> io::Result<End> {
        loop {
            let wants_write = self.tls.wants_write();
            if !wants_write && self.encrypted > 0 {
                // The client may have gone.
                let _ = self.sent.send(take(&mut self.encrypted));
            }
            let mut of_socket = PollFlags::IN;
            of_socket.set(PollFlags::OUT, wants_write);
            let mut of_inner = PollFlags::empty();
            let takes = !wants_write && !self.tls.is_handshaking() && !self.output_ended;
            of_inner.set(PollFlags::IN, takes);
            let mut fds = [
                PollFd::new(&self.socket, of_socket),
                PollFd::new(&self.inner, of_inner),
            ];
            poll(&mut fds, None)?;
            let [socket, inner] = fds.map(|fd| fd.revents());
            if wants_write && !socket.is_empty() {
                self.tls.write_tls(&mut self.socket)?;
            }
            if socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && let Some(end) = self.receive()?
            {
                return Ok(end);
            }
            if takes && !inner.is_empty() {
                self.send()?;
            }
        }
    }

    fn receive(&mut self) -> io::Result<Option<End>> {
        let count = match self.tls.read_tls(&mut self.socket) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            count => count?,
        };
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        self.tls.reader().read_exact(&mut plain)?;
        self.inner.write_all(&plain)?;
        Ok(match (state.peer_has_closed(), count) {
            (true, _) => Some(End::Closed),
            (false, 0) if self.tls.is_handshaking() => Some(End::NoHandshake),
            (false, 0) => Some(End::Cut),
            _ => None,
        })
    }

    fn send(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let count = self.inner.read(&mut bytes)?;
        if count > 0 {
            self.encrypted += count;
            return self.tls.writer().write_all(&bytes[..count]);
        }
        self.output_ended = true;
        self.finish();
        Ok(())
    }

    /// Ends the client's side of the stream. The server may have gone.
    fn finish(&mut self) {
        self.tls.send_close_notify();
        let _ = self.socket.set_nonblocking(false);
        while self.tls.wants_write() && self.tls.write_tls(&mut self.socket).is_ok() {}
        let _ = self.socket.set_nonblocking(true);
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}
