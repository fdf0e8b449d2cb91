//! What those who wait for a journal that failed, and who begins it anew, tell each other.
//!
//! A journal that failed takes no records. It is begun anew when everything is stored and confirmed; where its disk
//! takes no files it is given up meanwhile (void), and a flush means the pool.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::rt::Instant;

#[derive(Debug, Default)]
pub struct JournalRestart {
    /// The journal failed.
    pub wanted: Notify,
    /// It was begun anew or given up, or neither can be for now.
    pub news: Notify,
    /// Since when only its disk is in the way.
    pub held_up: Mutex<Option<Instant>>,
}

impl JournalRestart {
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}
