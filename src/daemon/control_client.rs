//! A command's end of the control socket: it asks a running engine, and hears how far that is.

use std::path::Path;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::api::{ANSWER_MAX, Outcome, Reply, Request, VERSION, Verb};
use super::control_server::whole;
use super::progress::Step;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt};

/// Longest time for which a command that gave up waits to hear how far the daemon came.
const PATIENCE: Duration = Duration::from_secs(3);

/// A command's connection to a running engine.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// Bytes of the next line that have come so far.
    partial: Vec<u8>,
}

fn ended(why: Option<Error>) -> Error {
    let what = "the daemon ended before it answered: it is not known whether this was done; see its log";
    let error = Error::new(Kind::Closed, what);
    match why {
        Some(why) => error.because(why),
        None => error,
    }
}

impl Client {
    /// Connects to the engine, or returns `None` when nobody listens there.
    pub async fn connect(path: &Path) -> Result<Option<Client>> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Client { stream: BufReader::new(stream), partial: Vec::new() })),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound
                        | std::io::ErrorKind::ConnectionRefused
                        | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Error::from(e).context(format!("control socket {}", path.display()))),
        }
    }

    /// Returns the daemon's process id, where the kernel tells it.
    pub fn process(&self) -> Option<u32> {
        let peer = self.stream.get_ref().peer_cred().ok()?;
        peer.pid().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Tells whether what the daemon mounts is mounted for this process too: both have the same user and the same
    /// mount namespace. A daemon in a container or in a sandbox, as systemd makes one, has a namespace of its own.
    pub fn shares_mounts(&self) -> bool {
        let Ok(daemon) = self.stream.get_ref().peer_cred() else { return false };
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let theirs = daemon.pid().and_then(|pid| namespace(&pid.to_string()));
        daemon.uid() == rustix::process::geteuid().as_raw() && theirs.is_some() && theirs == namespace("self")
    }

    /// Runs one verb, and calls `told` for each step. When `give_up` ends, the daemon is asked to stop, and its
    /// answer is waited for no longer than `PATIENCE`.
    pub async fn call(
        &mut self,
        rt: &Rt,
        verb: Verb,
        mut told: impl FnMut(Step),
        give_up: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let line = serde_json::to_vec(&Request { v: VERSION, verb });
        let mut line = line.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(|why| ended(Some(why.into())))?;
        {
            let answer = std::pin::pin!(self.answer(&mut told));
            let give_up = std::pin::pin!(give_up);
            if let Either::Left((answer, _)) = select(answer, give_up).await {
                return answer;
            }
        }
        self.stream.get_mut().shutdown().await.context(|| "telling the daemon to stop".into())?;
        match rt.timeout(PATIENCE, self.answer(&mut told)).await {
            Some(answer) => answer,
            None => Err(Error::new(Kind::Closed, "given up; the daemon goes on with what was asked")),
        }
    }

    /// Reads up to the verb's answer, and calls `told` for each step before it. Whoever drops this may call it again:
    /// `line` keeps what has come of a line.
    async fn answer(&mut self, told: &mut impl FnMut(Step)) -> Result<Outcome> {
        loop {
            let line = match self.line().await {
                Err(why) if why.is(Kind::Io) => return Err(ended(Some(why))),
                line => line?.ok_or_else(|| ended(None))?,
            };
            let reply = serde_json::from_str(&line).map_err(|_| {
                Error::new(Kind::Invalid, "the daemon's answer is not understood: is it of another version?")
            })?;
            match reply {
                Reply::Progress(step) => told(Step::Progress(step)),
                Reply::Says(sentence) => told(Step::Says(sentence)),
                Reply::Result(outcome) => return Ok(outcome),
                Reply::Error { kind, message } => return Err(Error::new(kind, message)),
            }
        }
    }

    /// Returns the next line. What has come of a line is kept when this is dropped.
    async fn line(&mut self) -> Result<Option<String>> {
        let read =
            (&mut self.stream).take(ANSWER_MAX as u64 + 1).read_until(b'\n', &mut self.partial).await?;
        let line = std::mem::take(&mut self.partial);
        whole(line, read, ANSWER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use async_trait::async_trait;
    use tokio_util::sync::CancellationToken;

    use super::super::api::{Progress, REQUEST_MAX};
    use super::super::control_server::serve;
    use super::super::handler_trait::Handler;
    use super::super::progress::ProgressSink;
    use super::*;
    use windlass_base::rt::RealRuntime;

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
        assert!(client.shares_mounts(), "with itself");
        let mut steps = Vec::new();
        let out = client.call(&rt, Verb::Status, |step| steps.push(step), pending()).await.unwrap();
        let half = Progress { doing: "half".to_owned(), done: 1, total: 2 };
        assert_eq!((out.value, steps), (serde_json::json!("fine"), vec![Step::Progress(half)]));
        let err = client.call(&rt, Verb::PoolList, |_| {}, pending()).await.unwrap_err();
        assert_eq!((err.kind(), err.to_string().as_str()), (Kind::NotFound, "no such thing"));
        client.stream.write_all(b"{\"v\":9,\"verb\":\"status\"}\nnonsense\n").await.unwrap();
        for _ in 0..2 {
            let line = client.line().await.unwrap().unwrap();
            assert!(line.contains(r#""kind":"usage""#), "{line}");
        }
        stop.cancel();
    }

    /// A handler whose answer is as long as a listing of ten thousand volumes and more.
    struct Long;

    #[async_trait]
    impl Handler for Long {
        async fn handle(&self, _verb: Verb, _progress: ProgressSink) -> Result<Outcome> {
            Outcome::of(&"x".repeat(2 * REQUEST_MAX))
        }
    }

    #[tokio::test]
    async fn an_answer_may_be_longer_than_a_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let rt = Rt::new(RealRuntime::current());
        serve(&rt, &path, Arc::new(Long), CancellationToken::new()).unwrap();
        let mut client = Client::connect(&path).await.unwrap().unwrap();
        let out = client.call(&rt, Verb::PoolList, |_| {}, pending()).await.unwrap();
        assert_eq!(out.value.as_str().map(str::len), Some(2 * REQUEST_MAX));
        client.stream.write_all(&vec![b'x'; REQUEST_MAX + 2]).await.unwrap();
        let line = client.line().await.unwrap().unwrap();
        assert!(line.contains("longer than 4 MiB"), "{line}");
    }
}
