//! As much of HTTP as the metrics address speaks: one request a connection, read only as far as its limit, without a body.
//!
//! A page of another site that a browser shows can send requests here. Its own name may even lead here (DNS rebinding),
//! which makes it one site with us for the browser. So on loopback only names of loopback are answered, and what a browser
//! says comes from another site is not.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use windlass_base::Result;
use windlass_nbd::Address;

pub const OK: &str = "200 OK";
pub const UNAVAILABLE: &str = "503 Service Unavailable";
pub const UNAUTHORIZED: &str = "401 Unauthorized";
pub const FORBIDDEN: &str = "403 Forbidden";
pub const NOT_FOUND: &str = "404 Not Found";
pub const BAD_METHOD: &str = "405 Method Not Allowed";

pub const TEXT: &str = "text/plain; charset=utf-8";
pub const JSON: &str = "application/json";
pub const HTML: &str = "text/html; charset=utf-8";

/// Longest request head that is read, in bytes.
pub const HEAD_MAX: usize = 8 << 10;

/// A text that goes into no log.
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A request, without the parts that nobody here looks at.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    query: String,
    host: Option<String>,
    /// Relation of the site that sent the request to ours, as a browser tells it.
    site: Option<String>,
    /// Value of the header as it was sent: it may hold a password.
    authorization: Option<Secret>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: &'static str,
    pub media: &'static str,
    /// Further headers, each with its end of line.
    pub headers: String,
    pub body: String,
}

impl Request {
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Request> {
        Ok(Request::parse(&String::from_utf8_lossy(&read_head(stream).await?)))
    }

    pub(super) fn parse(head: &str) -> Request {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            ..Request::default()
        };
        for (name, value) in lines.map_while(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "host" => request.host = Some(value.to_ascii_lowercase()),
                "sec-fetch-site" => request.site = Some(value.to_ascii_lowercase()),
                "authorization" => request.authorization = Some(Secret(value.to_owned())),
                _ => {}
            }
        }
        request
    }

    /// Returns the value of `Authorization`, by which the caller says who it is.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_ref().map(|secret| secret.0.as_str())
    }

    pub fn only_reads(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }

    /// Returns a parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(of, _)| *of == name)?.1;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    /// Tells whether the request is for an address that we listen on, and no other site's page sent it.
    pub fn is_for(&self, bound: &Address) -> bool {
        let foreign = matches!(self.site.as_deref(), Some("cross-site" | "same-site"));
        let Address::Tcp(bound) = bound else { return !foreign };
        let loopback = bound.parse::<SocketAddr>().is_ok_and(|bound| bound.ip().is_loopback());
        !foreign && (!loopback || self.host.as_deref().is_some_and(is_loopback_name))
    }
}

/// Tells whether the name is `localhost` or an address of loopback, with a port or without.
fn is_loopback_name(host: &str) -> bool {
    let with_port = |host: &str| host.parse::<SocketAddr>().map(|at| at.ip());
    let address = |host: &str| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match with_port(host).or_else(|_| address(host)) {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host.split(':').next() == Some("localhost"),
    }
}

impl Reply {
    pub fn new(status: &'static str, media: &'static str, body: impl Into<String>) -> Reply {
        Reply { status, media, headers: String::new(), body: body.into() }
    }

    /// Sends the answer; with `whole` false without its body, for which HEAD doesn't ask.
    pub async fn send(self, stream: &mut (impl AsyncWrite + Unpin), whole: bool) -> Result<()> {
        let Reply { status, media, headers, body } = self;
        let len = body.len();
        let mut reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {len}\r\nX-Content-Type-Options: nosniff\r\n\
             {headers}Connection: close\r\n\r\n"
        );
        if whole {
            reply.push_str(&body);
        }
        stream.write_all(reply.as_bytes()).await?;
        Ok(stream.shutdown().await?)
    }
}

/// Reads up to the empty line, the end or the limit.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while head.len() < HEAD_MAX && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = stream.read(&mut part).await?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let head = "GET /api/volumes?a=&pool=p%2Fq&b HTTP/1.1\r\nhOst:  LocalHost:9420 \r\nSec-Fetch-Site: none\r\n\r\nx";
        let request = Request::parse(head);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/api/volumes"));
        assert_eq!(request.parameter("pool").as_deref(), Some("p/q"));
        assert_eq!(request.parameter("b"), None);
        assert_eq!(request.host.as_deref(), Some("localhost:9420"));
        assert_eq!(request.site.as_deref(), Some("none"));
        for odd in ["", "\r\n\r\n", "GET", "GET  ?", "\u{fffd} / :"] {
            Request::parse(odd);
        }
    }

    #[test]
    fn on_loopback_only_its_own_names_are_answered() {
        let asked = |host: Option<&str>, site: Option<&str>, bound: &str| {
            let of = |text: Option<&str>| text.map(str::to_owned);
            let request = Request { host: of(host), site: of(site), ..Request::default() };
            request.is_for(&bound.parse().unwrap())
        };
        for host in ["localhost", "localhost:9420", "127.0.0.1", "127.0.0.1:9420", "[::1]", "[::1]:9420"] {
            assert!(asked(Some(host), None, "127.0.0.1:9420"), "{host}");
            assert!(asked(Some(host), None, "[::1]:9420"), "{host}");
        }
        for host in ["evil.example", "evil.example:9420", "localhost.evil.example", "192.0.2.1:9420", ""] {
            assert!(!asked(Some(host), None, "127.0.0.1:9420"), "{host}");
            assert!(asked(Some(host), None, "192.0.2.1:9420"), "{host}");
            assert!(asked(Some(host), None, "unix:/s"), "{host}");
        }
        assert!(!asked(None, None, "127.0.0.1:9420"));
        let at = |site| asked(Some("localhost"), Some(site), "127.0.0.1:9420");
        assert!(at("same-origin") && at("none"));
        assert!(!at("cross-site") && !at("same-site"));
        assert!(!asked(Some("h"), Some("cross-site"), "192.0.2.1:9420"));
    }
}
