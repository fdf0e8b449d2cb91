//! Becoming the owner: the folder's journal, the takeover of the log, a session on both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::deps::Ground;
use super::head::Claimer;
use super::session::Session;
use super::takeover::{self, Announce, Cover, How, Taken};
use crate::base::{Epoch, Error, Kind, Nonce, Result};
use crate::journal::{Journal, Recovered};

/// On what grounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grounds {
    /// The active epoch that was read when the volume was opened inertly.
    pub seen: Option<Epoch>,
    pub force: bool,
    pub accept_loss: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Owned {
    pub session: Arc<Session>,
    /// For the user.
    pub notes: Vec<String>,
}

/// Why it did not.
#[derive(Debug)]
pub struct Failed {
    pub error: Error,
    /// This process became the owner all the same: what it had read before counts no more, it may claim again.
    pub recorded: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, recorded: false }
    }
}

/// The journal while ownership is sought.
#[derive(Debug)]
struct Local {
    journal: Option<(Journal, Option<Recovered>)>,
    kept: Option<PathBuf>,
}

/// Epochs that this folder has owned, as its journal says.
pub async fn lineage(ground: &Ground) -> Result<BTreeSet<Epoch>> {
    match find(ground).await? {
        Some((journal, found)) => {
            journal.close().await?;
            Ok(found.lineage.into_iter().collect())
        }
        None => Ok(BTreeSet::new()),
    }
}

async fn find(ground: &Ground) -> Result<Option<(Journal, Recovered)>> {
    let deps = &ground.deps;
    let config = deps.journal(ground.id, &ground.settings);
    let found = Journal::open(deps.rt.clone(), deps.disk.clone(), config.clone()).await?;
    if let Some((_, r)) = &found
        && r.volume != ground.id
    {
        let why = format!("{} holds the journal of another volume: move it away", config.dir.display());
        return Err(Error::new(Kind::Corrupt, why));
    }
    Ok(found)
}

/// Claims, takes over, replays. On failure the folder is as it was, but for a journal that can't ever be replayed.
pub async fn own(ground: &Arc<Ground>, grounds: Grounds) -> Result<Owned, Failed> {
    if let Some(seen) = grounds.seen {
        // The claim asks again. Asked before the journal is, which a newer session of this engine may hold by now.
        let nobody = BTreeSet::new();
        let how = Claimer {
            host: &ground.deps.host,
            nonce: Nonce(0),
            now_ms: 0,
            lineage: &nobody,
            seen: Some(seen),
            force: false,
        };
        ground.cell.read().await?.map_or(Ok(()), |head| head.may_claim(&how))?;
    }
    let found = find(ground).await?;
    let recovered = found.as_ref().map(|(_, r)| r.clone());
    let how = How {
        host: ground.deps.host.clone(),
        now_ms: ground.rt().wall_ms(),
        lineage: recovered.iter().flat_map(|r| r.lineage.iter().copied()).collect(),
        seen: grounds.seen,
        force: grounds.force,
        accept_loss: grounds.accept_loss,
        cover: recovered.as_ref().map(|r| Cover { first: r.first_lsn, mark: r.mark }),
        degrade_after: ground.deps.pool.settings().degrade_after(),
    };
    let local = Mutex::new(Local { journal: found.map(|(j, r)| (j, Some(r))), kept: None });
    let announce = |a: Announce| announce(ground, &local, a);
    let taken = takeover::take(&ground.deps.pool, &ground.cell, &how, announce).await;
    let Local { journal, kept } = local.into_inner();
    let taken = match (taken, &journal) {
        (Ok(taken), _) => taken,
        (Err(error), journal) => {
            if let Some((journal, _)) = journal {
                journal.close().await?;
            }
            return Err(error.into());
        }
    };
    let (journal, _) = journal.ok_or_else(|| Error::new(Kind::Internal, "ownership without a journal"))?;
    let mut notes = taken.notes.clone();
    notes.extend(kept.map(|path| {
        format!(
            "an earlier journal of this volume can't be replayed any more; it is kept in {}",
            path.display()
        )
    }));
    begin(ground, taken, journal, notes).await.map_err(|error| Failed { error, recorded: true })
}

async fn begin(ground: &Arc<Ground>, taken: Taken, journal: Journal, notes: Vec<String>) -> Result<Owned> {
    for note in &notes {
        tracing::warn!(volume = %ground.name, "{note}");
    }
    let tables = ground.view.tables(&taken.head).await?;
    sweep(ground, &taken);
    let session = Session::start(ground.clone(), taken, journal, tables).await?;
    Ok(Owned { session, notes })
}

/// What the ended epoch left past its end is deleted in the background; scrub finds what this misses.
fn sweep(ground: &Arc<Ground>, taken: &Taken) {
    let (ground, head, left) = (ground.clone(), taken.head.clone(), taken.leftovers);
    let rt = ground.rt().clone();
    rt.spawn(async move {
        if let Err(error) = takeover::sweep(&ground.deps.pool, &head, left).await {
            tracing::debug!(volume = %ground.name, %error, "leftovers stay until the next scrub");
        }
    })
    .detach();
}

/// Makes the new epoch part of the folder's history, durably, before the record.
async fn announce(ground: &Arc<Ground>, local: &Mutex<Local>, a: Announce) -> Result<()> {
    let found = local.lock().journal.take();
    let (journal, kept) = match found {
        Some((journal, Some(r))) if r.lineage.contains(&a.active) => {
            journal.announce(a.active, a.next).await?;
            (journal, None)
        }
        // Nothing in it that could be lost.
        Some((journal, Some(r))) if r.end < r.first_lsn => {
            journal.discard().await?;
            drop(journal);
            (create(ground, a).await?, None)
        }
        Some((journal, _)) => {
            let kept = journal.set_aside("kept").await?;
            drop(journal);
            (create(ground, a).await?, Some(kept))
        }
        None => (create(ground, a).await?, None),
    };
    *local.lock() = Local { journal: Some((journal, None)), kept };
    Ok(())
}

async fn create(ground: &Arc<Ground>, a: Announce) -> Result<Journal> {
    let deps = &ground.deps;
    let config = deps.journal(ground.id, &ground.settings);
    let (rt, disk) = (deps.rt.clone(), deps.disk.clone());
    Journal::create(rt, disk, config, ground.id, vec![a.next], a.last_lsn.next()).await
}
