//! How far the logs of volumes reach by now whose owners wrote on after the last checkpoint (protocol.md §1.7, step 4).
//!
//! No head says that: an owner that was killed has left it to the stores. What can be read there from the checkpoint on without a
//! gap is adopted by whoever takes the volume over, so it is needed like what a head names: scrub misses its shards, and
//! repair rebuilds them. Looking changes nothing, and claims nothing.
//!
//! What this engine's own sessions have stored they tell themselves (`inventory`).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::log_end::LogEnd;
use crate::catalog::volumes::Volumes;
use crate::handle::Known;
use crate::head::Head;
use windlass_base::format_limits::WALK_WINDOW;
use windlass_base::{ChunkId, Error, Kind, Name, Result, Seq, VolumeId};
use windlass_pool::Probe;
use windlass_store::Cause;

/// Number of volumes that are looked at at a time.
const AT_ONCE: usize = 8;
/// Time for which a chunk that can't be decided is asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);
/// Time for which one log is followed: an owner that is alive may write faster than a store that is slow shows it.
const FOLLOWED_MAX: Duration = Duration::from_secs(120);

/// Meaning of a chunk that can't be read for where the log ends.
enum Gap {
    /// The log ends before this chunk: nothing that was acknowledged follows.
    End,
    /// Stores that do not answer may have more of the log.
    Hidden,
    Damaged,
    /// No gap was found yet.
    TooFar,
}

impl Gap {
    fn of(probe: &Probe, w: usize, k: usize) -> Gap {
        match probe.readable() + probe.unknown {
            may_be if may_be < w => Gap::End,
            _ if probe.readable() + probe.waiting() >= k => Gap::Hidden,
            _ => Gap::Damaged,
        }
    }
}

/// Learns where the logs of all volumes end now. Returns an error for each volume of which that can't be told.
pub(super) async fn learn(volumes: &Volumes) -> Result<Vec<Error>> {
    let listed = volumes.engine.pool.list().await?;
    let named: BTreeMap<VolumeId, Name> = listed.into_iter().map(|(name, id)| (id, name)).collect();
    let named: Vec<(VolumeId, Name)> = named.into_iter().collect();
    let (mut ends, mut untold) = (BTreeMap::new(), Vec::new());
    for some in named.chunks(AT_ONCE) {
        let looks = some.iter().map(|(id, name)| async move { (id, name, volumes.log_end(*id).await) });
        for (id, name, (end, why)) in join_all(looks).await {
            ends.extend(end.map(|end| (*id, end)));
            untold.extend(why.map(|why| why.context(format!("volume {}", volumes.engine.title(name)))));
        }
    }
    // Only what is known now counts: stores may have been put back since it was looked last.
    *volumes.log_ends.lock() = ends;
    Ok(untold)
}

impl Volumes {
    /// Returns the log's end as far as it could be followed, and why no further, where the end is not found.
    async fn log_end(&self, id: VolumeId) -> (Option<LogEnd>, Option<Error>) {
        let began = self.engine.rt.now();
        loop {
            let head = match self.engine.cell(id).confirm().await {
                Ok(head) => head,
                // Its creation was never finished.
                Err(e) if e.is(Kind::NotFound) => return (None, None),
                Err(e) => return (None, Some(e)),
            };
            if head.removed || head.active.released || self.is_told_by_session(&head) {
                return (None, None);
            }
            let (end, gap) = self.follow_log(&head).await;
            let why = match gap {
                Gap::End => return (Some(end), None),
                Gap::Hidden => hidden(),
                Gap::Damaged => damaged(),
                Gap::TooFar => return (Some(end), Some(too_far())),
            };
            // It may be on its way, or the volume has another owner by now.
            if self.engine.rt.now().since(began) >= PATIENCE {
                return (Some(end), Some(why));
            }
            self.engine.rt.sleep(AGAIN).await;
        }
    }

    /// Tells whether a session of this engine has stored the whole log, and so knows how far it reaches.
    fn is_told_by_session(&self, head: &Head) -> bool {
        match self.here(head.volume).map(|v| v.known()) {
            Some(Known::Live(session)) => session.epoch == head.active.epoch,
            _ => false,
        }
    }

    /// Follows the log from the last chunk that the head tells of. An owner writes at most half as many ahead as are asked for
    /// at once here.
    async fn follow_log(&self, head: &Head) -> (LogEnd, Gap) {
        let (pool, rt, began) = (&self.engine.pool, &self.engine.rt, self.engine.rt.now());
        let (epoch, w, k) = (head.active.epoch, usize::from(head.active.w), pool.layout().k());
        let (mut last, mut width) = (head.checkpoint.top.max(head.active_starts_after()), 1);
        loop {
            let ids = (1..=width).map(|n| ChunkId { volume: head.volume, epoch, seq: Seq(last.0 + n) });
            let probes = ids.map(|id| async move { pool.probe(&id, &head.witnesses, Cause::Scrub).await });
            for probe in join_all(probes).await {
                if probe.readable() < k {
                    return ((epoch, last), Gap::of(&probe, w, k));
                }
                last = last.next();
            }
            if rt.now().since(began) >= FOLLOWED_MAX {
                return ((epoch, last), Gap::TooFar);
            }
            width = (width * 2).min(WALK_WINDOW);
        }
    }
}

fn hidden() -> Error {
    Error::new(
        Kind::Unavailable,
        "too few stores answer to look through its newest writes: bring stores back, or, where they are gone for good, use \
         `windlass volume take-over --accept-loss`",
    )
}

fn too_far() -> Error {
    let why = format!(
        "its newest writes are so many that {FOLLOWED_MAX:?} did not do to look through them: run it again"
    );
    Error::new(Kind::Unavailable, why)
}

fn damaged() -> Error {
    Error::new(
        Kind::Corrupt,
        "its newest writes are damaged: where they end is decided by `windlass volume take-over --accept-loss`",
    )
}
