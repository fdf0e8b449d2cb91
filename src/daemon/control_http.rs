//! The control protocol over HTTP/1.1, on the same socket, for programs that are not ours: `POST /v1/VERB` with the verb's
//! arguments as JSON. One request a connection; `GET /v1/openapi.json` describes all of them.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{Either, select};
use futures::stream::{self, StreamExt as _};
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use super::api::{Outcome, REQUEST_MAX, Reply, Verb};
use super::control_reply::{self, line_of};
use super::handler_trait::Handler;
use super::progress::{ProgressSink, Step, Who};
use windlass_base::rt::{Rt, Task};
use windlass_base::{Error, Kind, Result};

/// The description of the API, for programs and their generators.
const DOCUMENT: &str = include_str!("../../docs/openapi.json");
/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 16 << 10;
/// Longest time that a request's head may take, and then its body: a caller that hangs must not hold its connection
/// for good.
const PATIENCE: Duration = Duration::from_secs(30);
const LINES: &str = "application/x-ndjson";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The party that asks, and the handler that carries its verbs out.
#[derive(Clone)]
pub struct Caller {
    pub rt: Rt,
    pub who: Who,
    pub handler: Arc<dyn Handler>,
}

/// Serves one connection to its end.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, caller: Caller) -> Result<()> {
    let began = CancellationToken::new();
    let service = service_fn(|request| {
        began.cancel();
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(answer(request, caller).await) }
    });
    let mut http = http1::Builder::new();
    // What ends with its answer is known to have been sent when the daemon ends.
    http.keep_alive(false).max_buf_size(HEAD_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    let late = async {
        if caller.rt.timeout(PATIENCE, began.cancelled()).await.is_some() {
            std::future::pending::<()>().await;
        }
    };
    match select(pin!(serving), pin!(late)).await {
        Either::Left((served, _)) => {
            served.map_err(|e| Error::new(Kind::Io, "a request over HTTP on the control socket").because(e))
        }
        Either::Right(_) => Err(Error::new(Kind::Timeout, "a request over HTTP did not come in time")),
    }
}

async fn answer(request: Request<Incoming>, caller: Caller) -> Response<Body> {
    let in_lines = request.headers().get(ACCEPT).is_some_and(|accept| accept.as_bytes() == LINES.as_bytes());
    match asked(request, &caller.rt).await {
        Err(refused) => refused.response(),
        Ok(None) => json_response(StatusCode::OK, DOCUMENT.to_owned()),
        Ok(Some(verb)) => {
            let running = Running::start(verb, caller, in_lines);
            if in_lines { running.lines() } else { running.whole().await }
        }
    }
}

/// The refusal of a request that the API does not have.
pub(super) struct Refused {
    status: StatusCode,
    error: Error,
}

impl Refused {
    fn new(status: StatusCode, why: impl Into<String>) -> Refused {
        Refused { status, error: Error::new(Kind::Usage, why) }
    }

    fn response(self) -> Response<Body> {
        let mut response = failure(self.status, &self.error);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("POST"));
        }
        response
    }
}

/// Returns the verb that is asked for, or `None` if the description of all is asked for.
async fn asked(request: Request<Incoming>, rt: &Rt) -> Result<Option<Verb>, Refused> {
    let path = request.uri().path().to_owned();
    let Some(verb) = path.strip_prefix("/v1/").filter(|verb| !verb.is_empty()) else {
        let why =
            format!("there is nothing at {path}: ask by POST /v1/VERB; GET /v1/openapi.json tells the verbs");
        return Err(Refused::new(StatusCode::NOT_FOUND, why));
    };
    match (verb, request.method()) {
        ("openapi.json", &Method::GET) => return Ok(None),
        (_, &Method::POST) => {}
        _ => return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is asked by POST"))),
    }
    parse(verb, &body_of(request, rt).await?).map(Some)
}

async fn body_of(request: Request<Incoming>, rt: &Rt) -> Result<Bytes, Refused> {
    let body = Limited::new(request.into_body(), REQUEST_MAX).collect();
    let Some(body) = rt.timeout(PATIENCE, body).await else {
        let why = format!("the arguments did not come within {} s", PATIENCE.as_secs());
        return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, why));
    };
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
            let why = format!("a request is at most {} MiB long", REQUEST_MAX >> 20);
            Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why))
        }
        Err(_) => Err(Refused::new(StatusCode::BAD_REQUEST, "the request was cut off")),
    }
}

/// Parses a verb. `args` is a JSON object; it may be empty where the verb has no arguments.
pub(super) fn parse(verb: &str, args: &[u8]) -> Result<Verb, Refused> {
    let args = match args.trim_ascii() {
        b"" => Value::Null,
        text => serde_json::from_slice(text).map_err(|e| {
            Refused::new(StatusCode::BAD_REQUEST, format!("the arguments of {verb} are not JSON: {e}"))
        })?,
    };
    let named = match &args {
        Value::Null => json!({ "verb": verb }),
        Value::Object(none) if none.is_empty() => json!({ "verb": verb }),
        _ => json!({ "verb": verb, "args": args }),
    };
    // Where all arguments may be left out the verb has them all the same.
    serde_json::from_value(named.clone())
        .or_else(|e| match named.get("args") {
            None => serde_json::from_value(json!({ "verb": verb, "args": {} })).map_err(|_| e),
            Some(_) => Err(e),
        })
        .map_err(|e| {
            let why = e.to_string();
            match why.starts_with("unknown variant") {
                true => Refused::new(
                    StatusCode::NOT_FOUND,
                    format!("there is no verb {verb:?}: GET /v1/openapi.json tells those that there are"),
                ),
                // What the decoder says could repeat a secret.
                false if verb == "credentials-set" => {
                    let what = format!("the arguments of {verb} are not those that it takes");
                    Refused::new(StatusCode::BAD_REQUEST, what)
                }
                false => Refused::new(StatusCode::BAD_REQUEST, format!("the arguments of {verb}: {why}")),
            }
        })
}

/// A verb that is being carried out. A caller that goes away drops this value before its end, which gives the verb
/// up.
struct Running {
    steps: Option<mpsc::Receiver<Step>>,
    work: futures::future::Fuse<Task<Result<Outcome>>>,
    _given_up: DropGuard,
}

impl Running {
    fn start(verb: Verb, caller: Caller, in_lines: bool) -> Running {
        let (sink, steps) = ProgressSink::channel();
        let sink = sink.asked_by(caller.who.asker);
        let given_up = sink.given_up().clone().drop_guard();
        let handler = caller.handler;
        // A task of its own: where it stops when the caller goes away is for the verb to say.
        let work = async move { handler.handle(verb, sink).await };
        let work = caller.rt.spawn(work.instrument(caller.who.span)).fuse();
        Running { steps: in_lines.then_some(steps), work, _given_up: given_up }
    }

    async fn whole(mut self) -> Response<Body> {
        match (&mut self.work).await.and_then(|done| done) {
            Ok(outcome) => match serde_json::to_string(&outcome) {
                Ok(text) => json_response(StatusCode::OK, text),
                Err(e) => failure(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &Error::new(Kind::Internal, "an answer can't be written as JSON").because(e),
                ),
            },
            Err(error) => failure(status_of(error.kind()), &error),
        }
    }

    /// Answers as the socket's own protocol does: what is told meanwhile, then the result or the error, a line each.
    fn lines(self) -> Response<Body> {
        let lines = stream::unfold(Some(self), |running| async move {
            let mut running = running?;
            let reply = running.next().await;
            let ends = matches!(reply, Reply::Result(_) | Reply::Error { .. });
            let line = line_of(&reply).unwrap_or_default();
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), (!ends).then_some(running)))
        });
        let mut response = Response::new(StreamBody::new(lines.boxed()).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(LINES));
        response
    }

    async fn next(&mut self) -> Reply {
        let step = match &mut self.steps {
            Some(steps) => futures::select_biased! {
                step = steps.recv().fuse() => step,
                done = &mut self.work => return reply_of(done.and_then(|done| done)),
            },
            None => None,
        };
        match step {
            Some(step) => step.into(),
            None => reply_of((&mut self.work).await.and_then(|done| done)),
        }
    }
}

fn reply_of(done: Result<Outcome>) -> Reply {
    match done {
        Ok(outcome) => Reply::Result(outcome),
        Err(error) => control_reply::failure(&error),
    }
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn failure(status: StatusCode, error: &Error) -> Response<Body> {
    json_response(status, json!({ "kind": error.kind(), "message": error.to_string() }).to_string())
}

fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Usage | Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound | Kind::Removed => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::Owned | Kind::Fenced => StatusCode::CONFLICT,
        Kind::Refused | Kind::Denied | Kind::ReadOnly => StatusCode::FORBIDDEN,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Unavailable | Kind::Timeout | Kind::Throttled | Kind::Closed | Kind::Archived => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Kind::Corrupt | Kind::Io | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio_util::sync::CancellationToken;

    use super::super::control_server;
    use super::*;
    use windlass_base::rt::RealRuntime;
    use windlass_base::rt::sim::Sim;

    struct House {
        given_up: CancellationToken,
    }

    #[async_trait]
    impl Handler for House {
        async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
            progress.say("on it");
            match verb {
                Verb::Status => Ok(Outcome::of(&"fine")?.note("all is well")),
                Verb::VolumeList { pool, .. } => Outcome::of(&pool),
                Verb::VolumeCreate(args) => Outcome::of(&(args.size, args.settings, args.if_absent)),
                Verb::VolumeInfo { path, .. } => {
                    Err(Error::new(Kind::NotFound, format!("there is no volume {path}")))
                }
                _ => {
                    progress.given_up().cancelled().await;
                    self.given_up.cancel();
                    Err(Error::new(Kind::Closed, "given up"))
                }
            }
        }
    }

    struct Daemon {
        rt: Rt,
        dir: tempfile::TempDir,
        given_up: CancellationToken,
    }

    impl Daemon {
        fn start() -> Daemon {
            let (rt, dir) = (Rt::new(RealRuntime::current()), tempfile::tempdir().unwrap());
            let given_up = CancellationToken::new();
            let house = Arc::new(House { given_up: given_up.clone() });
            control_server::serve(&rt, &dir.path().join("c.sock"), house, CancellationToken::new()).unwrap();
            Daemon { rt, dir, given_up }
        }

        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("c.sock")).await.unwrap()
        }

        async fn ask(&self, request: String) -> String {
            let mut stream = self.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn post(&self, path: &str, headers: &str, body: &str) -> (String, String) {
            let len = body.len();
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n{headers}\r\n");
            let answer = self.ask(head + body).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.lines().next().unwrap().to_owned(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn verbs_are_posted() {
        let daemon = Daemon::start();
        let (status, body) = daemon.post("/v1/status", "", "").await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 200 OK", r#"{"value":"fine","notes":["all is well"],"degraded":false}"#)
        );
        assert_eq!(daemon.post("/v1/status", "", "{}").await.1, body);
        // What may be left out.
        let (_, body) = daemon.post("/v1/volume-list", "", "").await;
        assert!(body.contains(r#""value":null"#), "{body}");
        let (_, body) = daemon.post("/v1/volume-create", "", r#"{"path":"p/v","size":4096}"#).await;
        assert!(body.contains(r#""value":[4096,[],false]"#), "{body}");
        let (status, body) = daemon.post("/v1/volume-info", "", r#"{"path":"p/v"}"#).await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 404 Not Found", r#"{"kind":"not_found","message":"there is no volume p/v"}"#)
        );
    }

    #[tokio::test]
    async fn what_is_no_request_is_told_so() {
        let daemon = Daemon::start();
        let long = "x".repeat(REQUEST_MAX + 1);
        for (path, body, status, says) in [
            ("/v1/volume-paint", "{}", "404", "there is no verb"),
            ("/v2/status", "", "404", "POST /v1/VERB"),
            ("/v1/", "", "404", "POST /v1/VERB"),
            ("/v1/volume-create", "{\"path\":", "400", "not JSON"),
            ("/v1/volume-create", r#"{"path":"p/v"}"#, "400", "missing field `size`"),
            ("/v1/volume-create", r#"{"path":"p","size":1}"#, "400", "write POOL/VOLUME"),
            (
                "/v1/volume-create",
                r#"{"path":"p/v","size":1,"iff_absent":true}"#,
                "400",
                "unknown field `iff_absent`",
            ),
            ("/v1/volume-info", r#"{"path":"p/v","deep":true}"#, "400", "unknown field `deep`"),
            ("/v1/volume-create", "7", "400", "the arguments of volume-create"),
            (
                "/v1/credentials-set",
                r#"{"target":"profile:p","keys":"HUSH"}"#,
                "400",
                "the arguments of credentials-set are not those",
            ),
            ("/v1/status", &long, "413", "4 MiB"),
        ] {
            let (head, body) = daemon.post(path, "", body).await;
            assert!(head.contains(status) && body.contains(says), "{path}: {head}: {body}");
            assert!(!body.contains("HUSH"), "{body}");
        }
        let get = daemon.ask("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
        assert!(
            get.starts_with("HTTP/1.1 405 ") && get.to_ascii_lowercase().contains("allow: post"),
            "{get}"
        );
        let described = daemon.ask("GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
        assert!(described.ends_with(DOCUMENT), "{described}");
        let garbage = daemon.ask("GARBAGE\r\n\r\n".into()).await;
        assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    }

    #[tokio::test]
    async fn lines_tell_what_goes_on() {
        let daemon = Daemon::start();
        let (status, body) = daemon.post("/v1/status", "Accept: application/x-ndjson\r\n", "").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        let lines: Vec<&str> = body.lines().filter(|line| line.starts_with('{')).collect();
        assert_eq!(
            lines,
            [
                r#"{"says":"on it"}"#,
                r#"{"result":{"value":"fine","notes":["all is well"],"degraded":false}}"#
            ]
        );
    }

    #[tokio::test]
    async fn a_caller_that_is_gone_gives_up() {
        for headers in ["", "Accept: application/x-ndjson\r\n"] {
            let daemon = Daemon::start();
            let mut stream = daemon.connect().await;
            let request = format!("POST /v1/pool-list HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let early = daemon.rt.timeout(Duration::from_millis(200), daemon.given_up.cancelled()).await;
            assert!(early.is_none());
            drop(stream);
            let given_up = daemon.rt.timeout(Duration::from_secs(5), daemon.given_up.cancelled()).await;
            assert!(given_up.is_some(), "{headers:?}");
        }
    }

    /// Runs on virtual time: there a connection that would be held for good is a deadlock, and fails the test.
    #[test]
    fn a_request_that_does_not_come_holds_nothing() {
        let post = "POST /v1/volume-info HTTP/1.1\r\nHost: x\r\n";
        for (request, says) in [
            ("P".to_owned(), ""),
            (post.to_owned(), ""),
            (format!("{post}Content-Length: 9\r\n\r\n"), "HTTP/1.1 408 "),
            (format!("{post}Content-Length: 9\r\n\r\n{{\"path"), "HTTP/1.1 408 "),
            (format!("{post}Transfer-Encoding: chunked\r\n\r\n4\r\n{{\"pa\r\n"), "HTTP/1.1 408 "),
        ] {
            let sim = Sim::new(1);
            let rt = sim.rt();
            let scenario = async move {
                let (mut caller, stream) = tokio::io::duplex(1 << 16);
                caller.write_all(request.as_bytes()).await.unwrap();
                let handler = Arc::new(House { given_up: CancellationToken::new() });
                let served = serve(
                    stream,
                    Caller { rt: rt.clone(), who: Who { span: tracing::Span::none(), asker: None }, handler },
                );
                let _ = rt.timeout(3 * PATIENCE, served).await.expect("it is let go of");
                let mut answer = String::new();
                caller.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with(says) && answer.is_empty() == says.is_empty(), "{answer:?}");
            };
            sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
        }
    }
}
