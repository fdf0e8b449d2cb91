//! Who carries verbs out, and what is told meanwhile: between the control socket's two protocols and the engine.

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::api::{ANSWER_MAX, Outcome, Progress, Reply, Verb};
use crate::base::{Error, Kind, Result};

/// Lines that may wait for a slow reader; more are dropped, the next ones tell more anyway.
const PROGRESS_QUEUE: usize = 16;

/// What is told while a verb goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Progress(Progress),
    /// A sentence for people.
    Says(String),
}

impl From<Step> for Reply {
    fn from(step: Step) -> Reply {
        match step {
            Step::Progress(progress) => Reply::Progress(progress),
            Step::Says(sentence) => Reply::Says(sentence),
        }
    }
}

/// Where a verb says how far it is, and hears when nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub struct ProgressSink {
    steps: Option<mpsc::Sender<Step>>,
    given_up: CancellationToken,
}

impl ProgressSink {
    pub fn none() -> ProgressSink {
        ProgressSink::default()
    }

    pub fn channel() -> (ProgressSink, mpsc::Receiver<Step>) {
        let (tx, rx) = mpsc::channel(PROGRESS_QUEUE);
        (ProgressSink { steps: Some(tx), ..ProgressSink::default() }, rx)
    }

    pub fn tell(&self, doing: &str, done: u64, total: u64) {
        self.step(Step::Progress(Progress { doing: doing.to_owned(), done, total }));
    }

    pub fn say(&self, sentence: impl Into<String>) {
        self.step(Step::Says(sentence.into()));
    }

    fn step(&self, step: Step) {
        if let Some(tx) = &self.steps {
            let _ = tx.try_send(step);
        }
    }

    /// Cancelled when whoever asked gives up or is gone.
    pub fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

/// Who carries verbs out.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome>;
}

/// A reply as it is sent, with its end of line.
pub fn line_of(reply: &Reply) -> Result<Vec<u8>> {
    let encode = |reply: &Reply| {
        let mut line = serde_json::to_vec(reply).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        line.push(b'\n');
        Ok::<_, Error>(line)
    };
    let mut line = encode(reply)?;
    if line.len() > ANSWER_MAX {
        let why = format!(
            "it was done, but its answer of {} MiB is longer than the {} MiB that a command reads: ask for less at a time",
            line.len() >> 20,
            ANSWER_MAX >> 20
        );
        line = encode(&failure(&Error::new(Kind::Unsupported, why)))?;
    }
    Ok(line)
}

/// An error as it is answered.
pub fn failure(error: &Error) -> Reply {
    Reply::Error { kind: error.kind(), message: error.to_string() }
}
