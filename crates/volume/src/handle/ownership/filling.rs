//! Commands that have an open volume to themselves, as while they bring a copy up to date or apply a difference: what they
//! write comes to the end on what they found, or they fail.
//!
//! Where the volume may be handed over, an ask of another host waits until such a command is done. A session of this host
//! that has ended all the same, and left the volume standing by, is not followed by another one for the command's sake:
//! another host may have written in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Count of the commands that have the volume to themselves.
#[derive(Debug, Default)]
pub struct Fillings {
    commands: AtomicUsize,
    ended: Notify,
}

impl Fillings {
    pub fn any(&self) -> bool {
        self.commands.load(Ordering::SeqCst) > 0
    }

    /// Waits until there is no such command.
    pub async fn over(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.any() {
                return;
            }
            ended.await;
        }
    }
}

/// Guard of a command, which has the volume to itself until this is dropped.
#[derive(Debug)]
pub struct Filling(Arc<Fillings>);

impl Filling {
    pub fn begin(fillings: &Arc<Fillings>) -> Filling {
        fillings.commands.fetch_add(1, Ordering::SeqCst);
        Filling(fillings.clone())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.0.commands.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}
