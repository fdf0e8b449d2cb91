//! A file behind `http://` or `https://`, read by ranges.
//!
//! Connections break: what came is kept, and the rest is asked for again, as often as something comes. A file that becomes
//! another while it is read is noticed by its `ETag` or its date, which each request repeats.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::read_at::ReadAt;
use super::sequential_source::Bytewise;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

const AGENT: &str = concat!("windlass/", env!("CARGO_PKG_VERSION"));
/// Length of the first request, by which is learned whether the server knows ranges.
const FIRST_BYTES: u64 = 512;
const REDIRECTS_MAX: usize = 8;
/// Most attempts in a row that bring nothing. With the pauses between them they take half a minute.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest time without a byte before a request is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Most requests at a time.
const AT_ONCE: usize = 8;

#[derive(Clone)]
struct Web {
    rt: Rt,
    connector: SharedHttpConnector,
}

/// The validators that tell one version of a file from another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

impl Version {
    fn of(answer: &HttpResponse) -> Version {
        let get = |name: &str| answer.headers().get(name).map(str::to_owned);
        Version { etag: get("etag"), modified: get("last-modified") }
    }

    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

/// A file behind a URL, see the module.
pub struct HttpFile {
    web: Web,
    origin: String,
    /// The URL that is asked: where redirects have led to.
    url: Mutex<String>,
    size: u64,
    version: Version,
    turns: Semaphore,
}

/// The two things that a URL may lead to.
pub enum HttpOpened {
    File(HttpFile),
    /// The server knows no ranges: the bytes from the start to the end, and their number if the server says
    /// it.
    Stream(Bytewise, Option<u64>),
}

impl std::fmt::Debug for HttpFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpFile")
            .field("url", &self.origin)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Reasons why a request brought nothing, or not all.
enum Trouble {
    /// Trying again may help.
    Passing(Error),
    Final(Error),
    /// The place that a redirect led to is not there any more.
    Moved(Error),
}

impl Trouble {
    fn into_error(self) -> Error {
        match self {
            Trouble::Passing(e) | Trouble::Final(e) | Trouble::Moved(e) => e,
        }
    }
}

impl HttpFile {
    /// Asks for the first bytes, and tries again a few times where that may help.
    pub async fn open(rt: &Rt, connector: SharedHttpConnector, url: &str) -> Result<HttpOpened> {
        check_url(url)?;
        let web = Web { rt: rt.clone(), connector };
        let mut failed = 0;
        loop {
            match web.open(url).await {
                Ok(opened) => return Ok(opened),
                Err(Trouble::Passing(_)) if failed + 1 < ATTEMPTS / 2 => {
                    failed += 1;
                    web.rt.sleep(pause(failed)).await;
                }
                Err(trouble) => return Err(trouble.into_error().context(url)),
            }
        }
    }

    /// Asks for the rest of `into`'s range, and appends as much as comes.
    async fn fetch(&self, offset: u64, len: usize, into: &mut BytesMut) -> std::result::Result<(), Trouble> {
        let url = self.url.lock().clone();
        let (start, end) = (offset + into.len() as u64, offset + len as u64 - 1);
        let mut headers = vec![("range", format!("bytes={start}-{end}"))];
        match (self.version.strong(), &self.version.modified) {
            (Some(etag), _) => headers.push(("if-match", etag.to_owned())),
            (None, Some(date)) => headers.push(("if-unmodified-since", date.clone())),
            (None, None) => {}
        }
        let (answer, led_to) = self.web.get(&url, &headers).await?;
        if led_to != url {
            *self.url.lock() = led_to;
        }
        let changed =
            || Trouble::Final(Error::new(Kind::Invalid, "the file changed while it was read: begin again"));
        let status = answer.status().as_u16();
        match status {
            206 => {}
            200 | 412 | 416 => return Err(changed()),
            _ if url != self.origin && (400..500).contains(&status) => {
                *self.url.lock() = self.origin.clone();
                return Err(Trouble::Moved(refused(status)));
            }
            _ => return Err(judged(status)),
        }
        let came = content_range(&answer);
        if Version::of(&answer) != self.version || came.map(|(_, size)| size) != Some(self.size) {
            return Err(changed());
        }
        if came.map(|(from, _)| from) != Some(start) {
            let why = "the server answers with another range than was asked for";
            return Err(Trouble::Final(Error::new(Kind::Invalid, why)));
        }
        self.web.read_body(answer, len, into).await
    }
}

#[async_trait]
impl ReadAt for HttpFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let len = len.min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let _turn = self.turns.acquire().await;
        let mut bytes = BytesMut::with_capacity(len);
        let (mut failed, mut was_moved) = (0, false);
        while bytes.len() < len {
            let before = bytes.len();
            let Err(trouble) = self.fetch(offset, len, &mut bytes).await else { continue };
            failed = if bytes.len() > before { 0 } else { failed + 1 };
            match trouble {
                Trouble::Passing(error) if failed < ATTEMPTS => {
                    tracing::debug!(url = self.origin, offset, %error, "asks again");
                    self.web.rt.sleep(if failed == 0 { Duration::ZERO } else { pause(failed) }).await;
                }
                Trouble::Moved(_) if !was_moved => was_moved = true,
                trouble => return Err(trouble.into_error().context(&self.origin)),
            }
        }
        Ok(bytes.freeze())
    }

    fn reads_max(&self) -> usize {
        2 * AT_ONCE
    }

    fn identity(&self) -> Option<String> {
        let Version { etag, modified } = &self.version;
        let version = etag.as_ref().or(modified.as_ref())?;
        Some(format!("{} size {} {version}", self.origin, self.size))
    }

    fn name(&self) -> String {
        self.origin.clone()
    }
}

fn pause(failed: u32) -> Duration {
    (PAUSE * (1 << failed.min(10))).min(PAUSE_MAX)
}

fn refused(status: u16) -> Error {
    let kind = match status {
        404 | 410 => Kind::NotFound,
        401 | 403 => Kind::Denied,
        429 => Kind::Throttled,
        500.. | 408 => Kind::Unavailable,
        _ => Kind::Invalid,
    };
    Error::new(kind, format!("the server answers with status {status}"))
}

fn judged(status: u16) -> Trouble {
    match status {
        408 | 429 | 500.. => Trouble::Passing(refused(status)),
        _ => Trouble::Final(refused(status)),
    }
}

fn passing(why: impl Into<String>, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Trouble {
    Trouble::Passing(Error::new(Kind::Unavailable, why).because(cause))
}

/// Parses the header `content-range: bytes FROM-TO/SIZE` into FROM and SIZE.
fn content_range(answer: &HttpResponse) -> Option<(u64, u64)> {
    let (range, size) = answer.headers().get("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, size.trim().parse().ok()?))
}

fn check_url(url: &str) -> Result<()> {
    let parsed: http::Uri = url.parse().map_err(|e| Error::new(Kind::Usage, format!("{url}: {e}")))?;
    let known = matches!(parsed.scheme_str(), Some("http" | "https")) && parsed.host().is_some();
    if !known {
        return Err(Error::new(Kind::Usage, format!("{url} is no http:// or https:// address")));
    }
    if parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Error::new(
            Kind::Usage,
            "a URL with a password is shown to all of the host's users: leave it out",
        ));
    }
    Ok(())
}

/// Returns the URL that a redirect from `base` leads to.
fn join(base: &str, location: &str) -> Result<String> {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let scheme = base.split_once("://").map_or("http", |(scheme, _)| scheme);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let path = rest[host.len()..].split(['?', '#']).next().unwrap_or_default();
    let location = location.split('#').next().unwrap_or_default();
    let to = if location.contains("://") {
        location.to_owned()
    } else if let Some(other) = location.strip_prefix("//") {
        format!("{scheme}://{other}")
    } else if location.starts_with('/') {
        format!("{scheme}://{host}{location}")
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{scheme}://{host}{folder}{location}")
    };
    check_url(&to)?;
    if base.starts_with("https:") && to.starts_with("http:") {
        return Err(Error::new(
            Kind::Refused,
            format!("{base} leads to {to}, which is not protected: ask for that if it is meant"),
        ));
    }
    Ok(to)
}

impl Web {
    async fn open(&self, url: &str) -> std::result::Result<HttpOpened, Trouble> {
        let range = [("range", format!("bytes=0-{}", FIRST_BYTES - 1))];
        let (answer, led_to) = self.get(url, &range).await?;
        let file = |size, version| HttpFile {
            web: self.clone(),
            origin: url.to_owned(),
            url: Mutex::new(led_to.clone()),
            size,
            version,
            turns: Semaphore::new(AT_ONCE),
        };
        let version = Version::of(&answer);
        match (answer.status().as_u16(), content_range(&answer)) {
            (206, Some((0, size))) => Ok(HttpOpened::File(file(size, version))),
            (206, _) => {
                Err(Trouble::Final(Error::new(Kind::Invalid, "the server does not say how long the file is")))
            }
            // No range of an empty file can be given.
            (416, _) => Ok(HttpOpened::File(file(0, version))),
            (200, _) => {
                let size = answer.headers().get("content-length").and_then(|len| len.parse().ok());
                Ok(HttpOpened::Stream(self.stream(answer), size))
            }
            (status, _) => Err(judged(status)),
        }
    }

    /// Gets the answer behind all redirects. Returns it and the URL that it came from.
    async fn get(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
    ) -> std::result::Result<(HttpResponse, String), Trouble> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.get_once(&url, headers).await?;
            let location = answer.headers().get("location");
            match (answer.status().as_u16(), location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    url = join(&url, location).map_err(Trouble::Final)?;
                }
                _ => return Ok((answer, url)),
            }
        }
        let why = format!("more than {REDIRECTS_MAX} redirects, the last one to {url}");
        Err(Trouble::Final(Error::new(Kind::Invalid, why)))
    }

    async fn get_once(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
    ) -> std::result::Result<HttpResponse, Trouble> {
        let mut request = HttpRequest::new(SdkBody::empty());
        let bad = |e: String| Trouble::Final(Error::new(Kind::Usage, format!("{url}: {e}")));
        request.set_method("GET").map_err(|e| bad(e.to_string()))?;
        request.set_uri(url).map_err(|e| bad(e.to_string()))?;
        let all = request.headers_mut();
        all.insert("user-agent", AGENT);
        all.insert("accept", "*/*");
        // Ranges are of what is stored.
        all.insert("accept-encoding", "identity");
        for (name, value) in headers {
            all.insert(*name, value.clone());
        }
        match self.rt.timeout(SILENCE, self.connector.call(request)).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(e)) => Err(passing("no answer", e)),
            None => Err(passing("no answer", format!("nothing came for {SILENCE:?}"))),
        }
    }

    async fn read_body(
        &self,
        mut answer: HttpResponse,
        len: usize,
        into: &mut BytesMut,
    ) -> std::result::Result<(), Trouble> {
        let mut body = ByteStream::new(answer.take_body());
        while into.len() < len {
            match self.rt.timeout(SILENCE, body.next()).await {
                Some(Some(Ok(part))) if into.len() + part.len() > len => {
                    let why = "the server sends more than was asked for";
                    return Err(Trouble::Final(Error::new(Kind::Invalid, why)));
                }
                Some(Some(Ok(part))) => into.extend_from_slice(&part),
                Some(Some(Err(e))) => return Err(passing("the connection broke", e)),
                Some(None) => return Err(passing("the connection broke", "the answer ended early")),
                None => return Err(passing("the connection broke", format!("nothing came for {SILENCE:?}"))),
            }
        }
        Ok(())
    }

    fn stream(&self, mut answer: HttpResponse) -> Bytewise {
        let (send, receive) = mpsc::channel(4);
        let (mut body, rt) = (ByteStream::new(answer.take_body()), self.rt.clone());
        let broke = |why: String| {
            let why = format!(
                "the connection broke, and the server knows no ranges to go on: save the file first ({why})"
            );
            Error::new(Kind::Unavailable, why)
        };
        let read = async move {
            loop {
                let part = match rt.timeout(SILENCE, body.next()).await {
                    Some(None) => return,
                    Some(Some(part)) => part.map_err(|e| broke(e.to_string())),
                    None => Err(broke(format!("nothing came for {SILENCE:?}"))),
                };
                let failed = part.is_err();
                if send.send(part).await.is_err() || failed {
                    return;
                }
            }
        };
        self.rt.spawn(read).detach();
        Bytewise::of_channel(receive)
    }
}

impl HttpFile {
    /// Returns the file as one that can be shared.
    pub fn shared(self) -> Arc<dyn ReadAt> {
        Arc::new(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let base = "https://a.example:8443/x/y.img?q#f";
        for (location, to) in [
            ("https://b.example/z", "https://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z?k=v", "https://a.example:8443/z?k=v"),
            ("z", "https://a.example:8443/x/z"),
        ] {
            assert_eq!(join(base, location).unwrap(), to);
        }
        assert!(join(base, "http://b.example/z").unwrap_err().is(Kind::Refused));
        assert!(join(base, "file:///etc/passwd").is_err());
        assert_eq!(join("http://a.example", "z").unwrap(), "http://a.example/z");
    }

    #[test]
    fn passwords_in_urls_are_refused() {
        for bad in ["http://u:p@a.example/x", "ftp://a.example/x", "http://", "nonsense"] {
            assert!(check_url(bad).unwrap_err().is(Kind::Usage), "{bad}");
        }
        check_url("https://a.example/x?y=z").unwrap();
    }
}
