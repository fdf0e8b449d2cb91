//! The control socket: JSON lines, one request at a time a connection. The only door to a running engine.
// The faces and this socket are where the ban on sockets does not hold: nothing below ever sees one.
#![allow(clippy::disallowed_types)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{RwLock, mpsc};
use tokio_util::sync::CancellationToken;

use super::api::{LINE_MAX, Outcome, Progress, Reply, Request, VERSION, Verb};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result, ResultExt};

/// Progress lines that may wait for a slow reader; more are dropped, the next ones tell more anyway.
const PROGRESS_QUEUE: usize = 16;

/// Where a verb says how far it is.
#[derive(Clone, Debug, Default)]
pub struct ProgressSink(Option<mpsc::Sender<Progress>>);

impl ProgressSink {
    pub fn none() -> ProgressSink {
        ProgressSink(None)
    }

    pub fn channel() -> (ProgressSink, mpsc::Receiver<Progress>) {
        let (tx, rx) = mpsc::channel(PROGRESS_QUEUE);
        (ProgressSink(Some(tx)), rx)
    }

    pub fn tell(&self, doing: &str, done: u64, total: u64) {
        if let Some(tx) = &self.0 {
            let _ = tx.try_send(Progress { doing: doing.to_owned(), done, total });
        }
    }
}

/// Who carries verbs out.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome>;
}

/// The answers under way: each holds it shared until its last byte is written.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<RwLock<()>>);

impl Answers {
    /// Waits until nobody waits for an answer any more, but not longer than `limit`.
    pub async fn sent(&self, rt: &Rt, limit: Duration) {
        let _ = rt.timeout(limit, self.0.write()).await;
    }
}

/// Listens until `stop`; the socket file is replaced, since the caller holds the state folder's lock.
pub fn serve(rt: &Rt, path: &Path, handler: Arc<dyn Handler>, stop: CancellationToken) -> Result<Answers> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).context(|| format!("control socket {}", path.display()))?;
    // The socket gives all that the daemon may do: only its own user may connect.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).context(|| format!("control socket {}", path.display()))?;
    let (rt2, path) = (rt.clone(), path.to_owned());
    let answers = Answers::default();
    let under_way = answers.clone();
    rt.spawn(async move {
        loop {
            let accepted = futures::select_biased! {
                () = stop.cancelled().fuse() => break,
                accepted = listener.accept().fuse() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = connection(rt2.clone(), stream, handler.clone(), under_way.clone());
                    rt2.spawn(serving).detach();
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    rt2.sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        let _ = std::fs::remove_file(&path);
    })
    .detach();
    Ok(answers)
}

async fn connection(rt: Rt, stream: UnixStream, handler: Arc<dyn Handler>, under_way: Answers) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let request = match read_line(&mut lines).await {
            Ok(Some(line)) => parse(&line),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let _under_way = under_way.0.read().await;
        let stop = request.as_ref().is_err_and(|e| e.is(Kind::Io));
        let done = match request {
            Ok(verb) => answer(&rt, verb, &handler, &mut write).await,
            Err(error) => send(&mut write, &failure(&error)).await,
        };
        if stop || done.is_err() {
            return;
        }
    }
}

fn parse(line: &str) -> Result<Verb> {
    let request: Request = serde_json::from_str(line).map_err(|e| {
        Error::new(
            Kind::Usage,
            format!("this daemon does not understand the request ({e}): is it of another version?"),
        )
    })?;
    if request.v != VERSION {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "the daemon speaks version {VERSION} of the control protocol, the command version {}: use the same build",
                request.v
            ),
        ));
    }
    Ok(request.verb)
}

fn failure(error: &Error) -> Reply {
    Reply::Error { kind: error.kind(), message: error.to_string() }
}

async fn answer(
    rt: &Rt,
    verb: Verb,
    handler: &Arc<dyn Handler>,
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<()> {
    let (sink, mut progress) = ProgressSink::channel();
    let handler = handler.clone();
    // A task of its own: the verb runs to its end also when the client goes away.
    let mut work = rt.spawn(async move { handler.handle(verb, sink).await });
    let result = loop {
        futures::select_biased! {
            step = progress.recv().fuse() => match step {
                Some(step) => send(write, &Reply::Progress(step)).await?,
                None => break (&mut work).await,
            },
            result = (&mut work).fuse() => break result,
        }
    };
    match result.and_then(|r| r) {
        Ok(outcome) => send(write, &Reply::Result(outcome)).await,
        Err(error) => send(write, &failure(&error)).await,
    }
}

async fn send(write: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    line.push(b'\n');
    write.write_all(&line).await?;
    Ok(write.flush().await?)
}

async fn read_line(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = (&mut *lines).take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(Error::new(Kind::Io, "a control line was cut off or is longer than 4 MiB"));
    }
    String::from_utf8(line).map(Some).map_err(|_| Error::new(Kind::Io, "a control line is not UTF-8"))
}

/// A command's connection to a running engine.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// `None` when nobody listens there.
    pub async fn connect(path: &Path) -> Result<Option<Client>> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Client { stream: BufReader::new(stream) })),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Error::from(e).context(format!("control socket {}", path.display()))),
        }
    }

    /// Runs one verb; `progress` is called as it goes.
    pub async fn call(&mut self, verb: Verb, mut progress: impl FnMut(Progress)) -> Result<Outcome> {
        let mut line = serde_json::to_vec(&Request { v: VERSION, verb })
            .map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        line.push(b'\n');
        self.stream.write_all(&line).await.context(|| "asking the daemon".into())?;
        loop {
            let line =
                read_line(&mut self.stream).await.context(|| "waiting for the daemon's answer".into())?;
            let Some(line) = line else {
                return Err(Error::new(Kind::Io, "the daemon ended before it answered; see its log"));
            };
            let reply = serde_json::from_str(&line).map_err(|e| {
                Error::new(
                    Kind::Invalid,
                    format!("the daemon's answer is not understood ({e}): is it of another version?"),
                )
            })?;
            match reply {
                Reply::Progress(step) => progress(step),
                Reply::Result(outcome) => return Ok(outcome),
                Reply::Error { kind, message } => return Err(Error::new(kind, message)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::RealRuntime;

    struct Echo;

    #[async_trait]
    impl Handler for Echo {
        async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
            progress.tell("half", 1, 2);
            match verb {
                Verb::Status => Outcome::of(&"fine"),
                _ => Err(Error::new(Kind::NotFound, "no such thing")),
            }
        }
    }

    #[tokio::test]
    async fn verbs_travel_and_bad_lines_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let rt = Rt::new(RealRuntime::current());
        assert!(Client::connect(&path).await.unwrap().is_none());
        let stop = CancellationToken::new();
        serve(&rt, &path, Arc::new(Echo), stop.clone()).unwrap();
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let mut steps = Vec::new();
        let out = client.call(Verb::Status, |p| steps.push(p.doing)).await.unwrap();
        assert_eq!((out.value, steps), (serde_json::json!("fine"), vec!["half".to_owned()]));
        let err = client.call(Verb::PoolList, |_| {}).await.unwrap_err();
        assert_eq!((err.kind(), err.to_string().as_str()), (Kind::NotFound, "no such thing"));
        client.stream.write_all(b"{\"v\":9,\"verb\":\"status\"}\nnonsense\n").await.unwrap();
        for _ in 0..2 {
            let line = read_line(&mut client.stream).await.unwrap().unwrap();
            assert!(line.contains(r#""kind":"usage""#), "{line}");
        }
        stop.cancel();
    }

    /// Answers `Status` late, as an unmount does.
    struct Slow(Rt);

    #[async_trait]
    impl Handler for Slow {
        async fn handle(&self, _verb: Verb, _progress: ProgressSink) -> Result<Outcome> {
            self.0.sleep(Duration::from_millis(200)).await;
            Outcome::of(&"late")
        }
    }

    #[tokio::test]
    async fn an_answer_under_way_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let rt = Rt::new(RealRuntime::current());
        let answers = serve(&rt, &path, Arc::new(Slow(rt.clone())), CancellationToken::new()).unwrap();
        answers.sent(&rt, Duration::from_secs(5)).await;
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let asked = rt.spawn(async move { client.call(Verb::Status, |_| {}).await });
        rt.sleep(Duration::from_millis(50)).await;
        let began = rt.now();
        answers.sent(&rt, Duration::from_secs(5)).await;
        assert!(rt.now().since(began) >= Duration::from_millis(100));
        assert_eq!(asked.await.unwrap().unwrap().value, serde_json::json!("late"));
    }
}
