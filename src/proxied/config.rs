//! What a server accepts of proxies.

use std::sync::Arc;

use crate::error::{Error, Tried};
use crate::net::{Transport, Under};
use crate::proxied::layer::{Proxied, ProxyLayer};
use crate::proxied::trust::Trust;
use crate::proxy::header::{LONGEST, Version};

/// What a server accepts of proxies: from whom, which version, how long a header. Clones share one state.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use socketserver::net::{Accepted, Bind};
/// use socketserver::proxied::{Proxied, ProxyConfig};
/// use socketserver::{Server, Tcp, Threading};
///
/// let proxy = ProxyConfig::trust(["10.0.0.0/8", "2001:db8::/32"])?;
/// let server = Server::<Proxied<Tcp>, Threading>::builder()
///     .listen(proxy.listen(Tcp::bind("127.0.0.1:0")?))
///     .build()?;
/// let guard = server.spawn(|conn| writeln!(conn, "hello {}", conn.peer()))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ProxyConfig(Arc<Options>);

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) trust: Trust,
    pub(super) version: Option<Version>,
    pub(super) max: usize,
}

/// The default of [`ProxyConfig::max_header`].
const MAX: usize = 4096;

impl ProxyConfig {
    /// Trusts proxies at these addresses: networks in the form `10.0.0.0/8`, addresses (see
    /// [`Network`](crate::access::Network)), and `unix` for every peer of a Unix socket.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the list is empty, or an entry is none of these.
    pub fn trust<S: AsRef<str>>(proxies: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut trust = Trust::default();
        for proxy in proxies {
            let proxy = proxy.as_ref();
            let added = trust.add(proxy);
            added.tried(|| format!("trust the proxy {proxy:?}"))?;
        }
        let known = (!trust.is_empty()).then_some(()).ok_or_else(|| {
            let why = "the list is empty; name a network such as 10.0.0.0/8, or unix";
            std::io::Error::new(std::io::ErrorKind::InvalidInput, why)
        });
        known.tried(|| "trust proxies".to_owned())?;
        Ok(Self(Arc::new(Options {
            trust,
            version: None,
            max: MAX,
        })))
    }

    /// Accepts headers of this version alone. Default: of both.
    pub fn version(self, version: Version) -> Self {
        self.with(|options| options.version = Some(version))
    }

    /// Sets the size of the longest header of version 2, in bytes. Default: 4096. At most 65,551, the longest that
    /// the protocol can express; a line of version 1 has at most 107 bytes.
    ///
    /// A connection whose header is incomplete takes that much memory at most.
    pub fn max_header(self, bytes: usize) -> Self {
        self.with(|options| options.max = bytes.min(LONGEST))
    }

    fn with(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }

    /// Demands a header of each connection, or in each datagram, of these listeners.
    ///
    /// # Examples
    ///
    /// TLS behind a proxy that passes the bytes of its clients on. The header comes before the TLS handshake.
    ///
    /// ```no_run
    /// # #[cfg(feature = "tls")] {
    /// use std::io::Write;
    /// use socketserver::net::{Accepted, Bind};
    /// use socketserver::proxied::{Proxied, ProxyConfig};
    /// use socketserver::tls::{Tls, TlsConfig};
    /// use socketserver::{Server, Tcp, Threading};
    ///
    /// let proxy = ProxyConfig::trust(["10.0.0.5"])?;
    /// let tls = TlsConfig::builder().certificate("cert.pem", "key.pem").build()?;
    /// let server = Server::<Tls<Proxied<Tcp>>, Threading>::builder()
    ///     .listen(tls.listen(proxy.listen(Tcp::bind("0.0.0.0:4433")?)))
    ///     .build()?;
    /// server.serve_forever(|conn| writeln!(conn, "hello {}", conn.peer()))?;
    /// # }
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn listen<T>(&self, listeners: impl IntoIterator<Item = T>) -> Vec<Proxied<T>>
    where
        T: Transport<Accepted: Under<ProxyLayer>>,
    {
        let wrap = |below| {
            let options = Arc::clone(&self.0);
            Proxied::new(below, move || ProxyLayer::new(&options))
        };
        listeners.into_iter().map(wrap).collect()
    }
}
