//! What goes wrong between client and server, decided request by request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::Service;
use parking_lot::Mutex;
use s3s::service::S3Service;

/// A fault that one request meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// The connection closes before the request takes effect.
    DropBefore,
    /// The connection closes after it took effect.
    DropAfter,
    /// The server answers with this status and does nothing.
    Status(u16),
    /// The request takes effect, and the answer has this status.
    StatusAfter(u16),
    /// The request takes effect after this time.
    Late(Duration),
    /// Nothing takes effect; the answer is this one, as another server gave it.
    Says(&'static Said),
}

/// An answer, word for word.
#[derive(PartialEq, Eq, Debug)]
pub struct Said {
    pub status: u16,
    pub headers: &'static [(&'static str, &'static str)],
    pub body: &'static str,
}

/// The faults of a server's next requests, and a count of all.
#[derive(Debug, Default)]
pub struct Faults {
    next: Mutex<VecDeque<Fault>>,
    always: Mutex<Option<Fault>>,
    requests: AtomicU64,
    requester_pays: AtomicBool,
    last: Mutex<String>,
    agent: Mutex<String>,
    signed: Mutex<String>,
}

impl Faults {
    /// Sets the faults of the next requests, in order of arrival; the requests after them meet none.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.next.lock().extend(faults);
    }

    /// Sets the fault of every request for which `next` has none, from now on.
    pub fn always(&self, fault: Option<Fault>) {
        *self.always.lock() = fault;
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the last request's verb and its target.
    pub fn last(&self) -> String {
        self.last.lock().clone()
    }

    /// Returns the program that the last request named as its maker.
    pub fn agent(&self) -> String {
        self.agent.lock().clone()
    }

    /// Returns when the last request was signed, as the request says.
    pub fn signed(&self) -> String {
        self.signed.lock().clone()
    }

    /// Refuses from now on each request that does not say, under its signature, that it pays.
    pub fn requester_pays(&self) {
        self.requester_pays.store(true, Ordering::Relaxed);
    }

    fn refuses(&self, request: &Request) -> bool {
        const PAYER: &str = "x-amz-request-payer";
        let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let pays = header(PAYER) == "requester" && header("authorization").contains(PAYER);
        self.requester_pays.load(Ordering::Relaxed) && !pays
    }

    fn draw(&self) -> Fault {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let always = *self.always.lock();
        self.next.lock().pop_front().or(always).unwrap_or(Fault::None)
    }
}

/// A service between hyper and the S3 service.
#[derive(Clone)]
pub struct Between {
    inner: S3Service,
    faults: Arc<Faults>,
}

impl Between {
    pub fn new(inner: S3Service, faults: Arc<Faults>) -> Between {
        Between { inner, faults }
    }
}

type Request = hyper::Request<hyper::body::Incoming>;
type Response = hyper::Response<s3s::Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Cut>> + Send>>;

/// An error that makes hyper close the connection.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by a fault")
    }
}

impl std::error::Error for Cut {}

fn status_only(status: u16) -> Response {
    let code = match status {
        503 => "SlowDown",
        409 => "ConditionalRequestConflict",
        403 => "AccessDenied",
        412 => "PreconditionFailed",
        _ => "InternalError",
    };
    let body = format!("<Error><Code>{code}</Code><Message>told to fail</Message></Error>");
    let answer = hyper::Response::builder().status(status).header("content-type", "application/xml");
    answer.body(s3s::Body::from(body)).unwrap()
}

fn word_for_word(said: &Said) -> Response {
    let answer = hyper::Response::builder().status(said.status);
    let answer = said.headers.iter().fold(answer, |answer, (name, value)| answer.header(*name, *value));
    answer.body(s3s::Body::from(said.body.to_owned())).unwrap()
}

impl Service<Request> for Between {
    type Response = Response;
    type Error = Cut;
    type Future = Answer;

    fn call(&self, request: Request) -> Answer {
        let (inner, mut fault) = (self.inner.clone(), self.faults.draw());
        *self.faults.last.lock() = format!("{} {}", request.method(), request.uri());
        let header =
            |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        *self.faults.agent.lock() = header("user-agent");
        *self.faults.signed.lock() = header("x-amz-date");
        if self.faults.refuses(&request) {
            fault = Fault::Status(403);
        }
        Box::pin(async move {
            match fault {
                Fault::DropBefore => return Err(Cut),
                Fault::Status(status) => return Ok(status_only(status)),
                Fault::Says(said) => return Ok(word_for_word(said)),
                Fault::Late(after) => pause(after).await,
                _ => {}
            }
            let answer = hyper::service::Service::call(&inner, request).await.map_err(|_| Cut)?;
            match fault {
                Fault::DropAfter => Err(Cut),
                Fault::StatusAfter(status) => Ok(status_only(status)),
                _ => Ok(answer),
            }
        })
    }
}

#[allow(clippy::disallowed_methods)] // real sockets wait in real time
async fn pause(d: Duration) {
    tokio::time::sleep(d).await;
}
