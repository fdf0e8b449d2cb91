//! What a daemon does for an open pool now and then: it hears what other hosts have set, and removes what has been in the trash
//! for its time. A pool that nobody uses here is asked nothing before something in its trash is due.

use super::pools::OpenPool;
use super::verbs;

/// State of one pool at the last look.
#[derive(Debug, Default)]
pub struct House {
    /// Number of requests that had been made to the pool's stores. `None`: it was not looked at yet.
    requests: Option<u64>,
    /// Time by the wall clock at which the next thing in the pool's trash is due. `None`: nothing is there.
    due_ms: Option<u64>,
}

impl House {
    pub async fn keep(&mut self, open: &OpenPool) {
        let pool = &open.pool;
        let used = self.requests != Some(pool.requests());
        let due = self.due_ms.is_some_and(|due| due <= pool.rt().wall_ms());
        // Those that are away say so themselves.
        if !(used || due) || pool.refresh_settings().await.is_err() {
            return;
        }
        let (_, oldest, failed) = verbs::empty_trash(open).await;
        let kept_ms = pool.settings().trash_ms;
        self.due_ms = oldest.map(|since| since.saturating_add(kept_ms));
        // What failed is tried again at the next look.
        self.requests = (!failed).then(|| pool.requests());
    }
}
