//! The control socket's serving end: JSON lines, one request at a time a connection; or HTTP, see `control_http`. The only
//! door to a running engine.
// The faces and this socket are where the ban on sockets does not hold: nothing below ever sees one.
#![allow(clippy::disallowed_types)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::api::{REQUEST_MAX, Reply, Request, VERSION, Verb};
use super::control_http::{self, Caller};
use super::control_reply::{failure, line_of};
use super::handler_trait::Handler;
use super::progress::{Asker, ProgressSink, Who};
use super::state_dir::socket_rights;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt};
use windlass_nbd::{SocketRights, bind_file};

/// The answers under way: each holds the lock shared until its last byte is written.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<RwLock<()>>);

impl Answers {
    /// Waits until nobody waits for an answer any more, but not longer than `limit`.
    pub async fn sent(&self, rt: &Rt, limit: Duration) {
        let _ = rt.timeout(limit, self.0.write()).await;
    }
}

/// Listens until `stop`. The socket file is replaced, since the caller holds the state folder's lock. The caller
/// removes the file at its end, while it still holds that lock: later the file could be the next daemon's.
pub fn serve(rt: &Rt, path: &Path, handler: Arc<dyn Handler>, stop: CancellationToken) -> Result<Answers> {
    let _ = std::fs::remove_file(path);
    // The socket gives all that the daemon may do.
    let rights = path.parent().map_or_else(SocketRights::default, socket_rights);
    let listener = bind_file(path, Some(rights)).context(|| format!("control socket {}", path.display()))?;
    let rt2 = rt.clone();
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
                    let (handler, under_way) = (handler.clone(), under_way.clone());
                    let serving = connection(rt2.clone(), stream, handler, under_way, stop.clone());
                    rt2.spawn(serving).detach();
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    rt2.sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    })
    .detach();
    Ok(answers)
}

async fn connection(
    rt: Rt,
    stream: UnixStream,
    handler: Arc<dyn Handler>,
    under_way: Answers,
    stop: CancellationToken,
) {
    let who = who(&stream);
    let mut stream = BufReader::new(stream);
    // No request of HTTP begins as one of ours does.
    if stream.fill_buf().await.is_ok_and(|first| first.first().is_some_and(u8::is_ascii_uppercase)) {
        let _under_way = under_way.0.read().await;
        if let Err(error) = control_http::serve(stream, Caller { rt, who, handler }).await {
            tracing::debug!(%error, "a program");
        }
        return;
    }
    let (lines, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(lines);
    loop {
        let request = match read_line(&mut lines).await {
            Ok(Some(line)) => parse(&line),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        // Held before `stop` is looked at: the engine's end waits for all who have passed that look.
        let _under_way = under_way.0.read().await;
        // Nobody would wait for it.
        let request = match request {
            Ok(_) if stop.is_cancelled() => Err(Error::new(Kind::Closed, "the daemon is ending")),
            request => request,
        };
        let stop = request.as_ref().is_err_and(|e| e.is(Kind::Io));
        let done = match request {
            Ok(verb) => answer(&rt, verb, who.clone(), &handler, &mut lines, &mut write).await,
            Err(error) => send(&mut write, &failure(&error)).await,
        };
        if stop || done.is_err() {
            return;
        }
    }
}

fn who(stream: &UnixStream) -> Who {
    match stream.peer_cred() {
        Ok(peer) => Who {
            span: tracing::info_span!("command", uid = peer.uid(), pid = peer.pid()),
            asker: Some(Asker { uid: peer.uid(), pid: peer.pid() }),
        },
        Err(_) => Who { span: tracing::info_span!("command"), asker: None },
    }
}

pub(super) fn parse(line: &str) -> Result<Verb> {
    let foreign = |what: &str| {
        let why = format!("this daemon does not understand the request: {what}");
        Error::new(Kind::Usage, why)
    };
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|_| foreign("it is not a line of JSON"))?;
    let v = value["v"].as_u64().ok_or_else(|| foreign("it names no version, `v`"))?;
    if v != u64::from(VERSION) {
        let why = format!(
            "the daemon speaks version {VERSION} of the control protocol, the command version {v}: use the same build"
        );
        return Err(Error::new(Kind::Usage, why));
    }
    let verb = value["verb"].as_str().unwrap_or_default().to_owned();
    let request: Request = serde_json::from_value(value).map_err(|e| {
        // What our own parsers say of a name is worth telling; what the decoder says of its types is not.
        let why = e.to_string();
        if why.starts_with("unknown variant") || verb.is_empty() {
            foreign(&format!("it knows no verb {verb:?}; is it of another version?"))
        } else if verb == "credentials-set" {
            // Here what the decoder says could repeat a secret.
            foreign(&format!("the arguments of {verb} are not those that it takes"))
        } else if why.contains("write ") || why.contains("name") {
            foreign(&format!("{verb}: {why}"))
        } else {
            foreign(&format!(
                "the arguments of {verb} are not those that it takes; is it of another version?"
            ))
        }
    })?;
    Ok(request.verb)
}

async fn answer(
    rt: &Rt,
    verb: Verb,
    who: Who,
    handler: &Arc<dyn Handler>,
    lines: &mut (impl tokio::io::AsyncBufRead + Unpin),
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<()> {
    let (sink, mut steps) = ProgressSink::channel();
    let sink = sink.asked_by(who.asker);
    let (handler, given_up) = (handler.clone(), sink.given_up().clone());
    // A task of its own: where it stops when the client goes away is for the verb to say.
    let work = async move { handler.handle(verb, sink).await };
    let mut work = rt.spawn(work.instrument(who.span)).fuse();
    let mut left = std::pin::pin!(gone(lines).fuse());
    let mut told = true;
    let result = loop {
        futures::select_biased! {
            step = steps.recv().fuse() => {
                let Some(step) = step else { break (&mut work).await };
                // Nobody reads any more: the verb is to know, and its end is waited for all the same.
                if told && send(write, &step.into()).await.is_err() {
                    told = false;
                    given_up.cancel();
                }
            }
            () = left => given_up.cancel(),
            result = work => break result,
        }
    };
    // What was said last may not have been looked at yet.
    while let Ok(step) = steps.try_recv()
        && told
    {
        told = send(write, &step.into()).await.is_ok();
    }
    match result.and_then(|r| r) {
        Ok(outcome) => send(write, &Reply::Result(outcome)).await,
        Err(error) => send(write, &failure(&error)).await,
    }
}

/// Returns when the other side has closed its end. It never returns when the other side has sent more than one
/// request ahead.
async fn gone(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) {
    match lines.fill_buf().await {
        Ok(more) if !more.is_empty() => std::future::pending().await,
        _ => {}
    }
}

async fn send(write: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> Result<()> {
    write.write_all(&line_of(reply)?).await?;
    Ok(write.flush().await?)
}

async fn read_line(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = (&mut *lines).take(REQUEST_MAX as u64 + 1).read_until(b'\n', &mut line).await?;
    whole(line, read, REQUEST_MAX)
}

/// Checks that a line has come to its end and is UTF-8, and returns it. Returns `None` when the other side has
/// closed.
pub(super) fn whole(line: Vec<u8>, read: usize, max: usize) -> Result<Option<String>> {
    if read == 0 && line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let why = format!("a control line was cut off or is longer than {} MiB", max >> 20);
        return Err(Error::new(Kind::Io, why));
    }
    String::from_utf8(line).map(Some).map_err(|_| Error::new(Kind::Io, "a control line is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::super::api::Outcome;
    use super::super::control_client::Client;
    use super::super::progress::Step;
    use super::*;
    use windlass_base::rt::RealRuntime;

    /// Returns the mode of the socket that listens there. The file has this mode, less the umask, from its beginning.
    fn mode_when_bound(path: &Path) -> u32 {
        let all = std::fs::read_to_string("/proc/net/unix").unwrap();
        let line = all.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
        let inode: u64 = line.split_whitespace().nth(6).unwrap().parse().unwrap();
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut found = fds.filter_map(|fd| std::fs::metadata(fd.ok()?.path()).ok());
        let socket = found.find(|it| it.ino() == inode && it.file_type().is_socket()).unwrap();
        socket.permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_sockets_are_this_users_alone_from_their_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, stop) = (Rt::new(RealRuntime::current()), CancellationToken::new());
        let (control, handover) = (dir.path().join("c"), dir.path().join("r"));
        let _receiver = crate::daemon::nbd_handover::Receiver::listen(&handover).unwrap();
        serve(&rt, &control, Arc::new(LastWord), stop.clone()).unwrap();
        for path in [handover, control] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode_when_bound(&path), mode), (0o600, 0o600), "{}", path.display());
        }
        stop.cancel();
    }

    /// A handler that says something, and is done at once.
    struct LastWord;

    #[async_trait]
    impl Handler for LastWord {
        async fn handle(&self, _: Verb, progress: ProgressSink) -> Result<Outcome> {
            progress.say("the last word");
            Outcome::of(&"done")
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_said_last_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rt) = (dir.path().join("c.sock"), Rt::new(RealRuntime::current()));
        let stop = CancellationToken::new();
        serve(&rt, &path, Arc::new(LastWord), stop.clone()).unwrap();
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        for _ in 0..2000 {
            let mut heard = 0;
            client.call(&rt, Verb::Status, |_| heard += 1, pending()).await.unwrap();
            assert_eq!(heard, 1);
        }
        stop.cancel();
    }

    /// A handler that goes on until whoever asked gives up.
    struct Patient;

    #[async_trait]
    impl Handler for Patient {
        async fn handle(&self, _verb: Verb, progress: ProgressSink) -> Result<Outcome> {
            progress.say("waiting");
            progress.given_up().cancelled().await;
            Err(Error::new(Kind::Closed, "given up: nothing was changed"))
        }
    }

    #[tokio::test]
    async fn a_verb_hears_that_it_is_given_up_and_what_it_says_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let rt = Rt::new(RealRuntime::current());
        let answers = serve(&rt, &path, Arc::new(Patient), CancellationToken::new()).unwrap();
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let told = Arc::new(tokio::sync::Notify::new());
        let heard = told.clone();
        let give_up = async move { heard.notified().await };
        let said = |step| {
            assert_eq!(step, Step::Says("waiting".into()));
            told.notify_one();
        };
        let error = client.call(&rt, Verb::PoolList, said, give_up).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Closed, "given up: nothing was changed")
        );
        // One that is simply gone is noticed as well.
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let asked = client.call(&rt, Verb::PoolList, |_| {}, pending());
        assert!(rt.timeout(Duration::from_millis(100), asked).await.is_none());
        drop(client);
        assert!(
            rt.timeout(Duration::from_secs(5), answers.sent(&rt, Duration::from_secs(60))).await.is_some()
        );
    }

    /// A handler that answers `Status` late, as an unmount does.
    struct Slow {
        rt: Rt,
        began: Notify,
        done: AtomicBool,
    }

    #[async_trait]
    impl Handler for Slow {
        async fn handle(&self, _verb: Verb, _progress: ProgressSink) -> Result<Outcome> {
            self.began.notify_one();
            self.rt.sleep(Duration::from_millis(200)).await;
            self.done.store(true, Ordering::Relaxed);
            Outcome::of(&"late")
        }
    }

    #[tokio::test]
    async fn an_answer_under_way_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let rt = Rt::new(RealRuntime::current());
        let slow = Arc::new(Slow { rt: rt.clone(), began: Notify::new(), done: AtomicBool::new(false) });
        let answers = serve(&rt, &path, slow.clone(), CancellationToken::new()).unwrap();
        answers.sent(&rt, Duration::from_secs(5)).await;
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let asked = rt.spawn({
            let rt = rt.clone();
            async move { client.call(&rt, Verb::Status, |_| {}, pending()).await }
        });
        slow.began.notified().await;
        answers.sent(&rt, Duration::from_secs(60)).await;
        assert!(slow.done.load(Ordering::Relaxed));
        assert_eq!(asked.await.unwrap().unwrap().value, serde_json::json!("late"));
    }
}
