//! What is told while a verb goes on, and how the verb hears that nobody waits for it any more.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::api::{Progress, Reply};
use super::works::Told;

/// Most lines that wait for a slow reader. More are dropped: the next ones tell more anyway.
const PROGRESS_QUEUE: usize = 16;

/// A step that is told while a verb goes on.
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

/// The process that asked for a verb, by what the kernel says of its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    pub uid: u32,
    pub pid: Option<i32>,
}

/// The party whose command it is.
#[derive(Clone, Debug)]
pub struct Who {
    /// Span of the log for everything that is said meanwhile.
    pub span: Span,
    pub asker: Option<Asker>,
}

/// Sink to which a verb says how far it is, and from which it hears when nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub struct ProgressSink {
    steps: Option<mpsc::Sender<Step>>,
    given_up: CancellationToken,
    asker: Option<Asker>,
    /// Copy of what was told last, for who looks from elsewhere.
    told: Option<Told>,
}

impl ProgressSink {
    pub fn none() -> ProgressSink {
        ProgressSink::default()
    }

    pub fn channel() -> (ProgressSink, mpsc::Receiver<Step>) {
        let (tx, rx) = mpsc::channel(PROGRESS_QUEUE);
        (ProgressSink { steps: Some(tx), ..ProgressSink::default() }, rx)
    }

    /// Returns the sink with the process that asked.
    #[must_use]
    pub fn asked_by(self, asker: Option<Asker>) -> ProgressSink {
        ProgressSink { asker, ..self }
    }

    /// Returns the sink with a place that keeps, too, what was told last.
    #[must_use]
    pub fn kept(self, told: Told) -> ProgressSink {
        ProgressSink { told: Some(told), ..self }
    }

    /// Returns the process that asked; `None` if nobody outside this process did.
    pub fn asker(&self) -> Option<Asker> {
        self.asker
    }

    pub fn tell(&self, doing: &str, done: u64, total: u64) {
        let progress = Progress { doing: doing.to_owned(), done, total };
        if let Some(told) = &self.told {
            *told.lock() = Some(progress.clone());
        }
        self.step(Step::Progress(progress));
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
