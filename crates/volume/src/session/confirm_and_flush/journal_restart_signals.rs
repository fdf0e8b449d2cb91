//! Between those who wait for a journal that failed and the task that begins it anew: what is wanted, what came of it.

use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::rt::Instant;

/// Signals between those who wait for a journal that failed, and the task that begins it anew.
///
/// A journal that failed takes no records. It is begun anew when everything is stored and confirmed. Where
/// its disk takes no files it is given up meanwhile (void), and a flush means the pool.
#[derive(Debug, Default)]
pub struct JournalRestart {
    /// Wakes the task, since the journal failed.
    pub wanted: Notify,
    /// Wakes those who wait: the journal was begun anew or given up, or neither can be for now, or the pool
    /// has all that it had.
    pub news: Notify,
    /// Time since which only the journal's disk is in the way.
    pub held_up: Mutex<Option<Instant>>,
}

impl JournalRestart {
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}
