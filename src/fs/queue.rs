//! Which files wait to be sent without anybody waiting for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::file::OpenFile;
use crate::base::Error;

/// Files sent at once.
const AT_ONCE: usize = 32;

#[derive(Debug)]
pub struct Behind {
    /// By their nodes.
    pub queued: Mutex<BTreeMap<u64, Arc<OpenFile>>>,
    pub permits: Arc<Semaphore>,
    /// What the mount's end left staged.
    pub kept: Mutex<Pending>,
    /// The mount ends.
    pub leaving: watch::Sender<bool>,
    /// Why nothing more is tried then: the store doesn't answer.
    pub away: Mutex<Option<Error>>,
    /// Files that the bucket took, counted.
    pub stored: AtomicU64,
}

/// What a mount still has to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    pub files: u64,
    pub bytes: u64,
}

impl Behind {
    pub fn new() -> Behind {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Behind {
            queued: Mutex::default(),
            permits,
            kept: Mutex::default(),
            leaving: watch::Sender::new(false),
            away: Mutex::default(),
            stored: AtomicU64::new(0),
        }
    }
}
