//! What observers learn of each request, and the access log.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderName, REFERER, USER_AGENT};
use http::request::Parts;
use http::{StatusCode, Version};
use socketserver::net::Address;

/// A request that has been answered, or whose answer has failed. `Display` prints it as a line of an access log, in
/// the combined format of Apache and nginx.
///
/// # Examples
///
/// ```
/// use socketserver_http::{Http, Request};
///
/// let http = Http::new(|_: &mut Request<'_>| "hello\n").on_access(|access| {
///     if access.status().is_server_error() {
///         eprintln!("{access} {:?}", access.error());
///     }
/// });
/// # drop(http);
/// ```
pub struct Access<'a> {
    ended: Ended<'a>,
    duration: Duration,
}

/// What is known of a request at its end.
pub(crate) struct Ended<'a> {
    pub(crate) id: u64,
    pub(crate) peer: Address,
    pub(crate) client: Option<IpAddr>,
    pub(crate) request: Option<&'a Parts>,
    pub(crate) status: StatusCode,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) error: Option<&'a (dyn Error + Send + Sync + 'static)>,
}

impl Access<'_> {
    /// Returns the number of the connection.
    #[must_use]
    pub const fn connection_id(&self) -> u64 {
        self.ended.id
    }

    /// Returns the IP address of the client, as [`Body::client`](crate::Body::client) does.
    #[must_use]
    pub const fn client(&self) -> Option<IpAddr> {
        self.ended.client
    }

    /// Returns the address of the other end of the connection.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.ended.peer
    }

    /// Returns the request as the handler has left it; `None` if it was malformed.
    #[must_use]
    pub const fn request(&self) -> Option<&Parts> {
        self.ended.request
    }

    /// Returns the status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.ended.status
    }

    /// Returns how many bytes of the request's body were read.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.ended.received
    }

    /// Returns how many bytes of content were sent; if that has failed, those of which it is known.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.ended.sent
    }

    /// Returns the time from the end of the head to the end of the response.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns the error that the handler has returned, or its panic; else why the response could not be sent.
    #[must_use]
    pub const fn error(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.ended.error
    }
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended.client {
            Some(client) => write!(f, "{client}")?,
            None => f.write_str("-")?,
        }
        write!(f, " - - [{}] \"", Clock(SystemTime::now()))?;
        match self.ended.request {
            Some(request) => {
                // Clients of HTTP/2 name the server apart.
                let path = request.uri.path_and_query();
                let target = match path.filter(|_| request.version == Version::HTTP_2) {
                    Some(path) => path.to_string(),
                    None => request.uri.to_string(),
                };
                let (method, version) = (&request.method, version_of(request.version));
                write!(f, "{method} {} {version}", Escaped(target.as_bytes()))?;
            }
            None => f.write_str("-")?,
        }
        let headers = self.ended.request.map(|request| &request.headers);
        write!(
            f,
            "\" {} {} \"{}\" \"{}\"",
            self.ended.status.as_u16(),
            self.ended.sent,
            Field(headers, REFERER),
            Field(headers, USER_AGENT)
        )
    }
}

const fn version_of(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("connection_id", &self.ended.id)
            .field("status", &self.ended.status)
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

/// A field that the client has chosen.
struct Field<'a>(Option<&'a HeaderMap>, HeaderName);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.and_then(|headers| headers.get(&self.1)) {
            Some(value) => Escaped(value.as_bytes()).fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Text that a client has chosen: quotes, backslashes, and what is not printable ASCII are escaped.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// A time in UTC as access logs have it: `28/Nov/2026:18:53:32 +0000`.
struct Clock(SystemTime);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `Sat, 28 Nov 2026 18:53:32 GMT`
        let date = httpdate::fmt_http_date(self.0);
        let mut words = date.split(' ').skip(1);
        let mut word = || words.next().unwrap_or_default();
        let (day, month, year, time) = (word(), word(), word(), word());
        write!(f, "{day}/{month}/{year}:{time} +0000")
    }
}

pub(crate) type Observer = Box<dyn Fn(&Access<'_>) + Send + Sync>;

/// The observers of a server's requests.
#[derive(Default)]
pub(crate) struct Observers(Vec<Observer>);

impl Observers {
    pub(crate) fn add(&mut self, observer: Observer) {
        self.0.push(observer);
    }

    /// The time, if an observer wants to know how long a request takes.
    pub(crate) fn clock(&self) -> Option<Instant> {
        (!self.0.is_empty()).then(Instant::now)
    }

    pub(crate) fn emit<'a>(&self, clock: Option<Instant>, ended: impl FnOnce() -> Ended<'a>) {
        let Some(began) = clock else { return };
        let access = Access {
            ended: ended(),
            duration: began.elapsed(),
        };
        for observer in &self.0 {
            observer(&access);
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

/// An observer that writes each request as a line of an access log.
pub(crate) fn log_to(out: impl Write + Send + 'static) -> Observer {
    let out = Mutex::new(out);
    Box::new(move |access| {
        let line = format!("{access}\n");
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not end the request.
        let _ = out.write_all(line.as_bytes());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_chooses_is_escaped() {
        let text = Escaped(b"a\"b\\c\r\n\x1b[1m\xff d").to_string();
        assert_eq!(text, "a\\\"b\\\\c\\x0d\\x0a\\x1b[1m\\xff d");
    }

    #[test]
    fn a_line_has_the_combined_format() {
        let line = |version, uri: &str| {
            let request = http::Request::get(uri).version(version);
            let request = request
                .header(USER_AGENT, "a \"browser\"")
                .body(())
                .unwrap();
            let access = Access {
                ended: Ended {
                    id: 1,
                    peer: Address::Named("pipe".to_owned()),
                    client: None,
                    request: Some(&request.into_parts().0),
                    status: StatusCode::OK,
                    received: 0,
                    sent: 6,
                    error: None,
                },
                duration: Duration::ZERO,
            };
            let line = access.to_string();
            let (_, behind_the_time) = line.split_once("] ").unwrap();
            behind_the_time.to_owned()
        };
        let expected = r#""GET /a?b HTTP/1.1" 200 6 "-" "a \"browser\"""#;
        assert_eq!(line(Version::HTTP_11, "/a?b"), expected);
        let expected = r#""GET /a?b HTTP/2.0" 200 6 "-" "a \"browser\"""#;
        assert_eq!(line(Version::HTTP_2, "http://host/a?b"), expected);
    }

    #[test]
    fn the_time_is_that_of_access_logs() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_891_212);
        assert_eq!(Clock(time).to_string(), "28/Nov/2026:18:40:12 +0000");
    }
}
