//! Unary gRPC over a unix socket, as CSI has it: the server, and a client for tests.
//!
//! HTTP/2 is hyper's. What gRPC adds for calls of one message each way is small: five bytes in front of each message, and the
//! call's status in the trailers. Compressed messages, streams and deadlines of the caller (`grpc-timeout`) are not supported;
//! a caller that gives up resets its stream, and its call is carried out to the end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::RwLock;

use crate::authority::PlainAuthority;
use crate::host;
use crate::status::{Code, Result, Status};

/// Longest message in bytes, as most implementations of gRPC have it.
const MESSAGE_MAX: usize = 4 << 20;
/// Bytes in front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
/// ASCII characters that are percent-encoded in `grpc-message`, as everything beyond ASCII is.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Handler = Box<dyn Fn(Bytes) -> BoxFuture<'static, Result<Vec<u8>>> + Send + Sync>;

// ---- the server --------------------------------------------------------------------------------------------------------

/// The methods that a server has, by path.
#[derive(Default)]
pub struct Router {
    methods: BTreeMap<String, Handler>,
}

impl Router {
    /// Adds the method `name` of a service, whose path ends with a slash.
    pub fn add<Q, A, F>(
        &mut self,
        service: &str,
        name: &str,
        handler: impl Fn(Q) -> F + Send + Sync + 'static,
    ) where
        Q: Message + Default + 'static,
        A: Message + 'static,
        F: Future<Output = Result<A>> + Send + 'static,
    {
        let handler = move |message: Bytes| match Q::decode(message) {
            Ok(request) => handler(request).map(|done| done.map(|answer| answer.encode_to_vec())).boxed(),
            Err(e) => {
                let refused = Status::invalid(format!("the request can't be read: {e}"));
                futures::future::ready(Err(refused)).boxed()
            }
        };
        self.methods.insert(format!("{service}{name}"), Box::new(handler));
    }

    async fn call(&self, path: &str, message: Bytes) -> Result<Vec<u8>> {
        let unknown = || Status::new(Code::Unimplemented, format!("there is no method {path}"));
        self.methods.get(path).ok_or_else(unknown)?(message).await
    }
}

/// Makes the socket, for its owner alone, in a folder that is made if need be. A socket that a dead driver
/// has left is replaced.
#[allow(clippy::disallowed_types, reason = "the driver's own socket; nothing here runs in the simulation")]
fn listen(path: &Path) -> std::io::Result<tokio::net::UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another driver serves this socket"));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The umask is the whole process's. Nothing else makes files at this point: no call is served before the socket is there.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = tokio::net::UnixListener::bind(path);
    rustix::process::umask(before);
    listener
}

/// Serves until `stop`, then waits for calls that are being carried out.
pub async fn serve(path: &Path, router: Router, stop: impl Future<Output = ()>) -> std::io::Result<()> {
    let listener = listen(path)?;
    let (router, running) = (Arc::new(router), Arc::new(RwLock::new(())));
    tracing::info!(socket = %path.display(), "serving");
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => host::spawn(connection(stream, router.clone(), running.clone())),
                // Too many open files, say: it passes.
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    host::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    };
    futures::future::select(std::pin::pin!(accepting), std::pin::pin!(stop)).await;
    let _ended = running.write().await;
    let _ = std::fs::remove_file(path);
    Ok(())
}

async fn connection(stream: UnixStream, router: Arc<Router>, running: Arc<RwLock<()>>) {
    let service = service_fn(move |request| {
        let (router, running) = (router.clone(), running.clone());
        async move { Ok::<_, Infallible>(answer(request, router, running).await) }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if let Err(error) = http.serve_connection(TokioIo::new(PlainAuthority::of(stream)), service).await {
        tracing::debug!(%error, "a connection has ended");
    }
}

async fn answer(request: Request<Incoming>, router: Arc<Router>, running: Arc<RwLock<()>>) -> Response<Body> {
    let is_grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(CONTENT_TYPE.as_bytes());
    if request.method() != Method::POST || !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let path = request.uri().path().to_owned();
    let done = match received(request.into_body()).await {
        // A task of its own, which a caller that hangs up does not end: a filesystem that is half made, with its lock let go,
        // would be made a second time beside the first.
        Ok(message) => host::outlive(async move {
            let _running = running.read().await;
            let began = host::now();
            let done = router.call(&path, message).await;
            let took = host::now().duration_since(began);
            match &done {
                Ok(_) => tracing::debug!(call = path, ?took, "done"),
                Err(status) => tracing::info!(call = path, ?took, code = ?status.code, "{}", status.message),
            }
            done
        })
        .await
        .unwrap_or_else(|| Err(Status::internal("the call has panicked: see the driver's log"))),
        Err(status) => Err(status),
    };
    response(done)
}

fn response(done: Result<Vec<u8>>) -> Response<Body> {
    let mut response = match done {
        Ok(message) => {
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, HeaderValue::from(Code::Ok as u32));
            let body = Full::new(framed(&message)).with_trailers(futures::future::ready(Some(Ok(trailers))));
            Response::new(body.boxed_unsync())
        }
        Err(status) => {
            // Trailers alone: the headers are the last that comes.
            let mut response = Response::new(Empty::new().boxed_unsync());
            let text = utf8_percent_encode(&status.message, ENCODED).to_string();
            response.headers_mut().insert(STATUS, HeaderValue::from(status.code as u32));
            if let Ok(text) = HeaderValue::from_str(&text) {
                response.headers_mut().insert(MESSAGE, text);
            }
            response
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// Receives the one message of a body.
async fn received(body: Incoming) -> Result<Bytes> {
    let body = Limited::new(body, PREFIX + MESSAGE_MAX).collect().await;
    let too_long = format!("the message can't be taken: it is cut off, or longer than {MESSAGE_MAX} bytes");
    unframed(body.map_err(|_| Status::new(Code::ResourceExhausted, too_long))?.to_bytes())
}

fn unframed(mut frame: Bytes) -> Result<Bytes> {
    if frame.len() < PREFIX {
        return Err(Status::internal("there is no message"));
    }
    if frame.get_u8() != 0 {
        return Err(Status::new(Code::Unimplemented, "messages that are compressed are not taken"));
    }
    let length = frame.get_u32() as usize;
    match frame.len() == length {
        true => Ok(frame),
        false => Err(Status::internal(format!("a message of {length} bytes has {}", frame.len()))),
    }
}

// ---- the client --------------------------------------------------------------------------------------------------------

/// A connection to a server.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    requests: SendRequest<Full<Bytes>>,
}

impl Client {
    pub async fn connect(socket: &Path) -> Result<Client> {
        let failed = |e: &dyn std::fmt::Display| {
            Status::new(Code::Unavailable, format!("connecting to {}: {e}", socket.display()))
        };
        let stream = UnixStream::connect(socket).await.map_err(|e| failed(&e))?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (requests, connection) = handshake.await.map_err(|e| failed(&e))?;
        host::spawn(async move {
            let _ = connection.await;
        });
        Ok(Client { socket: socket.to_owned(), requests })
    }

    pub async fn call<A: Message + Default>(&self, path: &str, request: &impl Message) -> Result<A> {
        let broken = |e: &dyn std::fmt::Display| {
            Status::new(Code::Unavailable, format!("{path} at {}: {e}", self.socket.display()))
        };
        let request = Request::post(format!("http://localhost{path}"))
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::TE, "trailers")
            .body(Full::new(framed(&request.encode_to_vec())))
            .map_err(|e| broken(&e))?;
        let response = self.requests.clone().send_request(request).await.map_err(|e| broken(&e))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| broken(&e))?;
        let status = body.trailers().and_then(status_of).or_else(|| status_of(&head.headers));
        match status {
            Some(Status { code: Code::Ok, .. }) => {}
            Some(status) => return Err(status),
            None => return Err(broken(&"an answer without a status")),
        }
        A::decode(unframed(body.to_bytes())?).map_err(|e| broken(&e))
    }
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
    let text = headers.get(MESSAGE).and_then(|text| text.to_str().ok()).unwrap_or_default();
    let message = percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(Status { code: Code::of_number(code), message })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::csi::{Empty, VolumeId};

    #[test]
    fn frames_are_what_they_say() {
        assert_eq!(&framed(b"ab")[..], b"\0\0\0\0\x02ab");
        assert_eq!(&unframed(framed(b"ab")).unwrap()[..], b"ab");
        assert!(unframed(framed(b"")).unwrap().is_empty());
        assert!(unframed(Bytes::from_static(b"\0\0\0")).unwrap_err().is(Code::Internal));
        assert!(unframed(Bytes::from_static(b"\x01\0\0\0\0")).unwrap_err().is(Code::Unimplemented));
        assert!(unframed(Bytes::from_static(b"\0\0\0\0\x03ab")).unwrap_err().is(Code::Internal));
    }

    #[tokio::test]
    async fn calls_reach_their_methods() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("new/csi.sock");
        let mut router = Router::default();
        router.add("/s/", "Echo", |request: VolumeId| async move {
            match request.volume_id.as_str() {
                "" => Err(Status::not_found("50% of ä\nare missing")),
                "panic" => panic!("as asked"),
                _ => Ok(request),
            }
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let path = socket.clone();
        host::spawn(async move {
            serve(&path, router, async { drop(stopped.await) }).await.unwrap();
        });
        while !socket.exists() {
            host::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "whoever may connect mounts as root");
        let client = Client::connect(&socket).await.unwrap();
        let long = VolumeId { volume_id: "x".repeat(1 << 20) };
        assert_eq!(client.call::<VolumeId>("/s/Echo", &long).await.unwrap(), long);
        let none = client.call::<VolumeId>("/s/Echo", &Empty {}).await.unwrap_err();
        assert_eq!(none, Status::not_found("50% of ä\nare missing"));
        let unknown = client.call::<Empty>("/s/Other", &Empty {}).await.unwrap_err();
        assert!(unknown.is(Code::Unimplemented), "{unknown}");
        let panicked = client.call::<VolumeId>("/s/Echo", &VolumeId { volume_id: "panic".into() }).await;
        assert!(panicked.unwrap_err().is(Code::Internal));
        let too_long = VolumeId { volume_id: "x".repeat(MESSAGE_MAX) };
        assert!(client.call::<VolumeId>("/s/Echo", &too_long).await.is_err());
        assert_eq!(client.call::<VolumeId>("/s/Echo", &long).await.unwrap(), long, "the connection goes on");
        assert!(listen(&socket).unwrap_err().to_string().contains("another driver"));
        stop.send(()).unwrap();
        while socket.exists() {
            host::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
