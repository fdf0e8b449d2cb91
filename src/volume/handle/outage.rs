//! `on-outage`: whether a client's request waits for stores as long as they are away, or fails.
//!
//! A request that has waited for longer than the volume's patience is given up when stores are what it waits for: too few
//! of them answer, or they do not keep up (the oldest write that is not in the pool is older than that), or the volume can't
//! become this host's because of them. Memory and room in the journal come back only when stores take what is in them, so
//! who waits for either waits for stores. Not what a limit holds up, nor this host's disk.
//!
//! What is given up may be done in part, or later: the records of a write that were taken in stay. What was acknowledged
//! is never lost, and the volume goes on when the stores are back.

use std::time::Duration;

use futures::future::{Either, select};

use super::volume::{Known, Volume};
use crate::base::rt::Instant;
use crate::base::size::show_time;
use crate::base::{Error, Kind, Result};

/// How often it is looked at why a request still waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Volume {
    /// What comes of `work`, unless it is given up, as the module says. Follows the settings while it waits.
    pub(super) async fn unless_outage<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        if let std::task::Poll::Ready(done) = futures::poll!(work.as_mut()) {
            return done;
        }
        let (context, began) = (self.context(), self.now());
        let mut looked = began;
        loop {
            let changed = context.settings_changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let Some(patience) = context.settings().error_after() else {
                match select(work, changed).await {
                    Either::Left((done, _)) => return done,
                    Either::Right(((), rest)) => work = rest,
                }
                continue;
            };
            let at = (began + patience).max(looked + LOOK_AGAIN);
            let wait = select(context.rt().sleep(at.since(self.now())), changed);
            match select(work, wait).await {
                Either::Left((done, _)) => return done,
                Either::Right((_, rest)) => work = rest,
            }
            looked = self.now();
            if looked >= began + patience
                && let Some(why) = self.waits_for_stores(patience, looked)
            {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "volume {}: given up after {} (on-outage=error): {why}",
                        self.title(),
                        show_time(looked.since(began).as_millis() as u64)
                    ),
                ));
            }
        }
    }

    /// Why stores hold requests up, if they do.
    fn waits_for_stores(&self, patience: Duration, now: Instant) -> Option<String> {
        if let Some((_, why)) = self.context().engine.pool.condition().trouble() {
            return Some(why);
        }
        let Known::Live(session) = self.known() else { return self.trouble().map(|(_, why)| why) };
        let oldest = session.tip.lock().unsent().1?;
        (now.since(oldest) > patience).then(|| "the stores do not keep up".to_owned())
    }
}
