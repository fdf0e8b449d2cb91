//! The write-back queue: which files wait to be sent in the background, and which is sent next.
//!
//! Programs go first: while one file after another is closed, few are sent at once, and the rest follows when that pauses.
//! How long a burst holds files up, how many and how large, is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;

use crate::file::OpenFile;
use crate::object::{LeafLock, QueueLock};
use windlass_base::Error;
use windlass_base::rt::Instant;

/// Largest number of files sent at once.
const AT_ONCE: usize = 32;
/// Number of files sent at once during a burst.
const IN_BURST: usize = 1;
/// Longest time between two closes of a burst.
const PAUSE: Duration = Duration::from_millis(50);
/// Number of closes in a row that make a burst.
const MANY: u32 = 8;
/// Longest time for which a burst holds up a file.
const LONGEST: Duration = Duration::from_secs(5);
/// Largest number of files that a burst holds up.
const FILES: usize = 1 << 15;
/// Largest number of bytes that a burst holds up.
const BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub struct Writeback {
    pub queue: QueueLock<WritebackQueue>,
    /// Files, bytes and removals that the mount's end left for the next mount.
    pub left_unsent: QueueLock<Pending>,
    /// True once the mount ends.
    pub unmounting: watch::Sender<bool>,
    /// Reason why nothing more is tried when the mount ends: the store doesn't answer.
    pub store_away: LeafLock<Option<Error>>,
    /// Number of files that the bucket took.
    pub sent_files: AtomicU64,
    /// Reason why the last file that was tried is not sent; `None` once the bucket has taken one since.
    pub not_sent: LeafLock<Option<String>>,
}

/// Amount of what a mount still has to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    pub files: u64,
    pub bytes: u64,
    /// Number of names that were removed here and that the bucket may still have.
    pub removals: u64,
    /// Number of files that nobody can send any more: bytes of them were freed, and the mount has ended.
    pub lost: u64,
}

impl Writeback {
    pub fn new() -> Writeback {
        Writeback {
            queue: QueueLock::default(),
            left_unsent: QueueLock::default(),
            unmounting: watch::Sender::new(false),
            store_away: LeafLock::default(),
            sent_files: AtomicU64::new(0),
            not_sent: LeafLock::default(),
        }
    }
}

/// A file that waits to be sent.
#[derive(Debug)]
pub struct QueuedFile {
    pub ino: u64,
    pub file: Arc<OpenFile>,
    pub bytes: u64,
    pub since: Instant,
    /// Time that the file waits when this send fails.
    pub pause: Duration,
}

#[derive(Debug, Default)]
pub struct WritebackQueue {
    /// All queued files by their nodes: those that wait, are being sent, or rest after a failure.
    pub files: BTreeMap<u64, Arc<OpenFile>>,
    waiting: VecDeque<QueuedFile>,
    bytes: u64,
    sending: usize,
    /// Time of the last close; `row` is the number of closes in a row.
    last: Instant,
    row: u32,
    /// True while a task looks whether the burst goes on.
    watched: bool,
}

impl WritebackQueue {
    /// Counts that a program closed a file.
    pub fn closed(&mut self, now: Instant) {
        self.row = if now.since(self.last) < PAUSE { self.row.saturating_add(1) } else { 1 };
        self.last = now;
    }

    pub fn push(&mut self, waiting: QueuedFile) {
        self.bytes += waiting.bytes;
        self.waiting.push_back(waiting);
    }

    /// Returns the next file to send, if one may be sent now. The caller calls `ended` when that send is
    /// over.
    pub fn next(&mut self, now: Instant, unmounting: bool) -> Option<QueuedFile> {
        if self.sending >= self.limit(now, unmounting) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.bytes -= next.bytes;
        self.sending += 1;
        Some(next)
    }

    /// Records that a send is over.
    pub fn ended(&mut self) {
        self.sending -= 1;
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns true when a burst holds up what waits; the caller then has to look whether the burst goes on.
    pub fn watch(&mut self, now: Instant, unmounting: bool) -> bool {
        let held = self.is_waiting() && self.limit(now, unmounting) < AT_ONCE;
        held && !std::mem::replace(&mut self.watched, true)
    }

    /// Returns how long to wait before looking again. `None`: the burst is over, and nobody looks any more.
    pub fn look(&mut self, now: Instant, unmounting: bool) -> Option<Duration> {
        self.watched = self.is_waiting() && !unmounting && self.in_burst(now);
        self.watched.then(|| PAUSE.saturating_sub(now.since(self.last)))
    }

    fn in_burst(&self, now: Instant) -> bool {
        self.row >= MANY && now.since(self.last) < PAUSE
    }

    fn limit(&self, now: Instant, unmounting: bool) -> usize {
        let late = self.waiting.front().is_some_and(|first| now.since(first.since) >= LONGEST);
        let much = self.waiting.len() > FILES || self.bytes > BYTES;
        if self.in_burst(now) && !late && !much && !unmounting { IN_BURST } else { AT_ONCE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_store::Attrs;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    fn push(queue: &mut WritebackQueue, bytes: u64, now: Instant) {
        let file = OpenFile::fresh("k", Attrs::default(), crate::object::Ns(0), Arc::default());
        queue.closed(now);
        queue.push(QueuedFile { ino: 1, file, bytes, since: now, pause: PAUSE });
    }

    fn begin(queue: &mut WritebackQueue, now: Instant, unmounting: bool) -> usize {
        std::iter::from_fn(|| queue.next(now, unmounting)).count()
    }

    /// Closes so many files, a millisecond apart.
    fn burst(files: u64, bytes: u64) -> WritebackQueue {
        let mut queue = WritebackQueue::default();
        for ms in 1000..1000 + files {
            push(&mut queue, bytes, at(ms));
        }
        queue
    }

    #[test]
    fn a_few_files_go_at_once() {
        let mut queue = burst(u64::from(MANY) - 1, 1);
        assert_eq!(begin(&mut queue, at(1006), false), 7);
        assert!(!queue.watch(at(1006), false), "nothing is held up");
    }

    #[test]
    fn a_burst_goes_first_until_it_pauses() {
        let mut queue = burst(100, 1);
        assert_eq!(begin(&mut queue, at(1099), false), IN_BURST);
        assert!(queue.watch(at(1099), false) && !queue.watch(at(1099), false), "one looks");
        assert_eq!(queue.look(at(1124), false), Some(PAUSE / 2));
        assert_eq!(begin(&mut queue, at(1148), false), 0);
        assert_eq!(queue.look(at(1149), false), None);
        assert_eq!(begin(&mut queue, at(1149), false), AT_ONCE - IN_BURST);
        assert_eq!(begin(&mut queue, at(1150), false), 0, "no more than that");
        queue.ended();
        assert_eq!(begin(&mut queue, at(1150), false), 1);
    }

    #[test]
    fn a_burst_holds_up_neither_long_nor_many_nor_much() {
        let mut queue = burst(100, 1);
        assert_eq!(begin(&mut queue, at(1099), false), IN_BURST);
        let late = at(1000 + IN_BURST as u64) + LONGEST;
        for _ in 0..MANY {
            push(&mut queue, 1, late);
        }
        assert_eq!(begin(&mut queue, late, false), 1, "one has waited so long");
        let mut many = WritebackQueue::default();
        for _ in 0..=FILES + AT_ONCE {
            push(&mut many, 1, at(1000));
        }
        assert_eq!(begin(&mut many, at(1000), false), AT_ONCE);
        assert_eq!(begin(&mut burst(100, BYTES / 50), at(1099), false), AT_ONCE);
        assert_eq!(begin(&mut burst(100, 1), at(1099), true), AT_ONCE, "nor the mount's end");
    }
}
