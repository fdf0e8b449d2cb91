//! The moment in which a volume becomes another one of another pool (model `move`).
//!
//! Requests of clients are held and those under way are done; the rest is copied, and is in the other pool; then one change of
//! the volume's head releases it and says where it went: that decides. What comes before is given up when it takes too
//! long, and clients go on with the volume as it was. What comes after is names: whoever finds it undone does it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::copy_snapshot::{Copied, Rest};
use crate::catalog::{Trash, Volumes, rename};
use crate::handle::{ClosedPassage, Passage, Volume};
use crate::head::{Leaving, Moved};
use windlass_base::{Error, Kind, Name, Result, VolumeId};

/// Time for which clients are held at most before it is decided.
const HOLD_MAX: Duration = Duration::from_secs(3);

/// Clients who use a volume that moves, as the daemon knows them. Kept until the move is over.
pub trait MovingClients: Send + Sync {
    /// Returns the volume that the clients use, where it is known.
    fn volume(&self) -> Option<VolumeId> {
        None
    }

    /// Returns the ways of all their requests.
    fn passages(&self) -> Vec<Arc<Passage>>;

    /// Lets the clients use this volume of the other pool from now on; their requests are still held.
    fn follow(&self, moved: &Arc<Volume>);
}

/// Plan of a switch. It runs as a task of its own: once begun it comes to its end, whoever waits for it.
pub struct Switch {
    pub from: Volumes,
    pub to: Volumes,
    pub source: Arc<Volume>,
    pub copy: Arc<Volume>,
    pub rest: Rest,
    /// Record of where the volume goes, but for its last record's lsn, which counts when clients are held.
    pub left: Leaving,
    pub clients: Arc<dyn MovingClients>,
}

/// Result of a switch: the clients use the other volume.
#[derive(Debug)]
pub struct Switched {
    pub rest: Copied,
    /// Time for which the clients were held.
    pub pause: Duration,
    /// Work that is left to do, which changes nothing of the switch, and why.
    pub unfinished: Option<String>,
}

impl Switch {
    /// Makes the switch. `None`: clients go on with the volume as it was, since it changed or stores were slow.
    pub fn run(self) -> BoxFuture<'static, Result<Option<Switched>>> {
        Box::pin(async move {
            let (rt, name) = (self.from.engine.rt.clone(), self.left.naming.name.clone());
            let name = name.unwrap_or_else(|| self.source.name());
            let began = rt.now();
            let Some(mut held) = rt.timeout(HOLD_MAX, self.hold()).await else { return Ok(None) };
            let patience = HOLD_MAX.saturating_sub(rt.now().since(began));
            let Some(rest) = Box::pin(self.decide(patience)).await? else { return Ok(None) };
            for closed in &mut held {
                closed.lead(&self.source, &self.copy);
            }
            self.clients.follow(&self.copy);
            drop(held);
            let pause = rt.now().since(began);
            let unfinished = Box::pin(finish(&self.from, &name, &self.to, &self.left.to)).await.err();
            Ok(Some(Switched { rest, pause, unfinished: unfinished.map(|e| e.to_string()) }))
        })
    }

    async fn hold(&self) -> Vec<ClosedPassage> {
        let mut held = Vec::new();
        for passage in self.clients.passages() {
            held.push(passage.close().await);
        }
        held
    }

    /// Copies the rest, and leaves the volume. `None`: the volume was not left.
    async fn decide(&self, patience: Duration) -> Result<Option<Copied>> {
        let (rt, given_up) = (&self.from.engine.rt, CancellationToken::new());
        let began = rt.now();
        let copied = async {
            let last = self.source.last_lsn().await?;
            // A client of another host that came since the move began can't be led to the copy.
            let (rest, ()) = futures::future::try_join(
                Box::pin(self.rest.copy()),
                Box::pin(self.from.check_unread(&self.source.name())),
            )
            .await?;
            Ok::<_, Error>((rest, Arc::new(Leaving { last, ..self.left.clone() })))
        };
        let Some(copied) = rt.timeout(patience, Box::pin(copied)).await else { return Ok(None) };
        let (rest, left) = copied?;
        let mut leave = Box::pin(self.source.leave(&left, &given_up));
        let patience = patience.saturating_sub(rt.now().since(began));
        let is_left = match rt.timeout(patience, leave.as_mut()).await {
            Some(done) => done,
            None => {
                // The head may say already that the volume has left: only the end of this attempt tells, so it is not dropped.
                given_up.cancel();
                leave.await
            }
        };
        Ok(is_left?.then_some(rest))
    }
}

/// Returns how the names begin of the snapshots that a move to this copy takes.
pub(super) fn stem(to: &Volumes, hidden: &Name) -> String {
    format!("moving-{:08x}-", xxh3_64(to.engine.title(hidden).as_bytes()) as u32)
}

/// Removes the snapshots that a move took of its copy, which is still hidden. An error: stores are away. A snapshot that can't
/// be removed for another reason stays, with a warning: the move comes to its end without that.
async fn remove_marks(to: &Volumes, hidden: &Name) -> Result<()> {
    let stem = stem(to, hidden);
    let all = match to.snapshot_names(hidden).await {
        // Another has come to the end meanwhile.
        Err(e) if e.is(Kind::NotFound) => return Ok(()),
        all => all?,
    };
    for mark in all.iter().filter(|mark| mark.as_str().starts_with(&stem)) {
        match to.remove_snapshot(hidden, mark).await {
            Ok(()) => {}
            Err(e) if e.is(Kind::NotFound) => {}
            Err(e) if e.is_transient() => return Err(e),
            Err(error) => {
                tracing::warn!(volume = %to.engine.title(hidden), snapshot = %mark, %error, "a snapshot that the move took stays");
            }
        }
    }
    Ok(())
}

/// Removes the move's own snapshots of the copy, gives the copy its name, then puts the volume that it was into the trash: in this
/// order, so that whoever comes by a volume's name finds where it went, and does what is left to do.
pub fn finish<'f>(
    from: &'f Volumes,
    volume: &'f Name,
    to: &'f Volumes,
    moved: &'f Moved,
) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        let names = to.names().await?;
        if let Some(hidden) = names.get(&moved.volume).filter(|name| name.moved_as().is_some()) {
            Box::pin(remove_marks(to, hidden)).await?;
            Box::pin(rename(to, hidden, &moved.name)).await?;
        }
        match Box::pin(Trash(from).discard_moved(volume)).await {
            // Another was first.
            Err(e) if e.is(Kind::NotFound) => Ok(()),
            done => done,
        }
    })
}
