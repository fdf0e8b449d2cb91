//! Between those who wait for a journal that failed and the task that begins it anew: what is wanted, what came of it.

use std::sync::atomic::AtomicU8;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::rt::Instant;

/// What those who wait for a journal that failed, and who begins it anew, tell each other. A journal that failed takes no
/// records. It is begun anew when everything is stored and confirmed; where its disk takes no files it is given up
/// meanwhile (void), and a flush means the pool.
#[derive(Debug, Default)]
pub struct JournalRestart {
    /// The journal failed.
    pub wanted: Notify,
    /// It was begun anew or given up, or neither can be for now.
    pub news: Notify,
    /// Since when only its disk is in the way.
    pub held_up: Mutex<Option<Instant>>,
    /// Of an encrypted volume: all records that are in the journal are sealed by this data key or newer ones; 0: that is not
    /// known.
    pub key: AtomicU8,
    /// Why the end of a rotation of the data keys waits, where only a user can help: an older one opens a journal that was kept.
    pub kept: Mutex<Option<String>>,
}

impl JournalRestart {
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}
