//! Becoming the owner: the folder's journal, the takeover of the log, a session on both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::deps::Ground;
use super::head::Claimer;
use super::session::Session;
use super::stop::without_journal;
use super::takeover::{self, Announce, Cover, How, Notes, Taken};
use crate::base::{Epoch, Error, Kind, Name, Nonce, Result};
use crate::journal::{Journal, Recovered};

/// On what grounds.
#[derive(Clone, Debug, Default)]
pub struct Grounds {
    /// The active epoch that was read when the volume was opened inertly.
    pub seen: Option<Epoch>,
    /// Own claims since then of which it is not known whether they were recorded: what was read then counts under them.
    pub tried: Vec<Epoch>,
    pub force: bool,
    pub accept_loss: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Owned {
    pub session: Arc<Session>,
    pub notes: Notes,
}

/// Why it did not.
#[derive(Debug)]
pub struct Failed {
    pub error: Error,
    /// The claim that may have been recorded all the same.
    pub tried: Option<Epoch>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, tried: None }
    }
}

/// The journal while ownership is sought.
#[derive(Debug)]
struct Local {
    journal: Option<Journal>,
    found: Option<Recovered>,
    kept: Option<PathBuf>,
    /// The claim that was written down.
    announced: Option<Announce>,
    /// The epoch that ends was never this folder's.
    others: bool,
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
    let found =
        Journal::open(deps.rt.clone(), deps.disk.clone(), config.clone()).await.map_err(without_journal)?;
    if let Some((_, r)) = &found
        && r.volume != ground.id
    {
        let why = format!("{} holds the journal of another volume: move it away", config.dir.display());
        return Err(Error::new(Kind::Corrupt, why));
    }
    Ok(found)
}

/// Claims, takes over, replays. On failure the folder is as it was, but for a journal that can't ever be replayed. When
/// `left` is ready nobody wants it any more: replaying, which may have to wait as long as stores are away, ends then.
pub async fn own(
    ground: &Arc<Ground>,
    grounds: Grounds,
    left: impl Future<Output = ()>,
) -> Result<Owned, Failed> {
    let seen = look(ground, &grounds).await?;
    let found = find(ground).await?;
    let (journal, found) = found.map_or((None, None), |(j, r)| (Some(j), Some(r)));
    let how = How {
        host: ground.deps.host.clone(),
        now_ms: ground.rt().wall_ms(),
        lineage: found.iter().flat_map(|r| r.lineage.iter().copied()).collect(),
        seen,
        force: grounds.force,
        accept_loss: grounds.accept_loss,
        // A copy may be older than what was promised since: it covers nothing.
        cover: found.as_ref().filter(|r| !r.copied).map(|r| Cover { first: r.first_lsn, mark: r.mark }),
        degrade_after: ground.deps.pool.settings().degrade_after(),
    };
    let copied = found.as_ref().is_some_and(|r| r.copied);
    let local = Mutex::new(Local { journal, found, kept: None, announced: None, others: false });
    let announce = |a: Announce| announce(ground, &local, a);
    let taken = takeover::take(&ground.deps.pool, &ground.cell, &how, announce).await;
    let Local { journal, found, kept, announced, others } = local.into_inner();
    let failed = |error| Failed { error, tried: announced.map(|a| a.next) };
    match (taken, journal) {
        (Ok(taken), Some(journal)) => {
            let mut owned = begin(ground, taken, journal, (kept, copied), left).await.map_err(failed)?;
            if let Some(a) = announced.filter(|_| grounds.force && others) {
                owned.notes.said.extend(remember(ground, &owned.session, a).await);
            }
            Ok(owned)
        }
        (Ok(_), None) => Err(failed(Error::new(Kind::Internal, "ownership without a journal"))),
        (Err(error), Some(journal)) => {
            let error = match found {
                Some(found) if error.is(Kind::Owned) => stale(ground, &journal, &found, error).await,
                _ => error,
            };
            close(ground, &journal).await;
            Err(failed(error))
        }
        (Err(error), None) => Err(failed(error)),
    }
}

/// Another host has the volume. If it ended an epoch of this folder, the journal can't be replayed any more: it is put aside
/// now, and the error says where.
async fn stale(ground: &Ground, journal: &Journal, found: &Recovered, error: Error) -> Error {
    let over = match ground.cell.read().await {
        Ok(Some(head)) => !found.lineage.contains(&head.active.epoch),
        _ => false,
    };
    if !over || found.end < found.first_lsn {
        return error;
    }
    match journal.set_aside("kept").await {
        Ok(path) => Error::new(
            error.kind(),
            format!(
                "{error}. What this host had not stored by then is kept in {} (`windlass volume \
             salvage` makes a volume of it)",
                path.display()
            ),
        ),
        Err(why) => {
            tracing::warn!(volume = %ground.name, %why, "a journal that can't be replayed any more is not put aside yet");
            error
        }
    }
}

/// The epoch that must still be active when the claim is made, for a session that has read. Asked here before the journal
/// is, which a newer session of this engine may hold by now; the claim asks again.
async fn look(ground: &Arc<Ground>, grounds: &Grounds) -> Result<Option<Epoch>> {
    let Some(seen) = grounds.seen else { return Ok(None) };
    let Some(head) = ground.cell.read().await? else { return Ok(Some(seen)) };
    if grounds.tried.contains(&head.active.epoch) {
        return Ok(Some(head.active.epoch));
    }
    let (host, lineage) = (&ground.deps.host, BTreeSet::new());
    let (seen, nonce, floor) = (Some(seen), Nonce(0), Epoch(0));
    head.may_claim(&Claimer { host, nonce, now_ms: 0, lineage: &lineage, seen, force: false, floor })?;
    Ok(seen)
}

async fn begin(
    ground: &Arc<Ground>,
    taken: Taken,
    journal: Journal,
    (kept, copied): (Option<PathBuf>, bool),
    left: impl Future<Output = ()>,
) -> Result<Owned> {
    let mut notes = taken.notes.clone();
    if copied {
        // Not before the end is recorded: until then the copy covers nothing, however often it is tried.
        if let Err(error) = journal.settle_here().await {
            close(ground, &journal).await;
            return Err(error);
        }
        let note = "the state folder was copied or moved while this volume was open: what was promised since by another copy is \
                    only in the pool, or there";
        notes.said.push(note.into());
    }
    notes.said.extend(kept.map(|path| {
        format!(
            "an earlier journal of this volume can't be replayed any more; it is kept in {}",
            path.display()
        )
    }));
    for note in &notes.said {
        tracing::warn!(volume = %ground.name, "{note}");
    }
    match ground.view.books(&taken.head).await {
        Ok(books) => {
            ground.confirmed_in_time(&taken.head);
            sweep(ground, &taken);
            let session = Session::start(ground.clone(), taken, journal, books, left).await?;
            tracing::info!(volume = %ground.title(), "the volume is open here");
            Ok(Owned { session, notes })
        }
        Err(error) => {
            close(ground, &journal).await;
            Err(error)
        }
    }
}

/// Somebody was shut out, and may hold writes that the volume doesn't have: what they were made on is kept as a snapshot, so
/// that `salvage` can put them where they belong. Nobody has written yet.
async fn remember(ground: &Ground, session: &Arc<Session>, a: Announce) -> Option<String> {
    let marked = session.mark_taken_over(a.active, a.last_lsn).await;
    match marked {
        Ok(name) => {
            let (built, note) = (name.clone(), kept_as(ground, &name));
            // Whoever was shut out can use it only when its map is in the pool.
            session.run(async move |s| {
                if let Err(stop) = s.build_snapshot(&built).await {
                    tracing::debug!(volume = %s.ground.name, error = %stop.error(), "a snapshot's map is written later");
                }
            });
            Some(note)
        }
        Err(stop) => {
            tracing::warn!(volume = %ground.name, error = %stop.error(), "no snapshot of the moment of the take-over");
            None
        }
    }
}

fn kept_as(ground: &Ground, name: &Name) -> String {
    format!(
        "snapshot {}@{name} keeps what the volume was at that moment; it may be removed when no kept journal is to be \
             salvaged",
        ground.name
    )
}

async fn close(ground: &Ground, journal: &Journal) {
    if let Err(error) = journal.close().await {
        tracing::debug!(volume = %ground.name, %error, "closing the journal");
    }
}

/// What the ended epoch left past its end is deleted in the background; the look at all stores finds what this misses.
fn sweep(ground: &Arc<Ground>, taken: &Taken) {
    let (ground, head, left) = (ground.clone(), taken.head.clone(), taken.leftovers);
    let rt = ground.rt().clone();
    rt.spawn(async move {
        if let Err(error) = takeover::sweep(&ground.deps.pool, &head, left).await {
            tracing::debug!(volume = %ground.name, %error, "leftovers stay until the stores are looked through");
        }
    })
    .detach();
}

/// Makes the new epoch part of the folder's history, durably, before the record.
async fn announce(ground: &Arc<Ground>, local: &Mutex<Local>, a: Announce) -> Result<()> {
    let (journal, found) = {
        let mut local = local.lock();
        local.others = !local.found.as_ref().is_some_and(|f| f.lineage.contains(&a.active));
        (local.journal.take(), local.found.take())
    };
    let (done, kept) = match (journal, found) {
        (Some(journal), Some(found)) => hand_on(ground, journal, &found, a).await,
        _ => (create(ground, a).await.map_err(|e| (None, e)), None),
    };
    let mut local = local.lock();
    local.kept = kept;
    match done {
        Ok(journal) => {
            (local.journal, local.announced) = (Some(journal), Some(a));
            Ok(())
        }
        Err((journal, error)) => {
            local.journal = journal;
            Err(error)
        }
    }
}

/// The journal that goes on, or the old one with the error; and where one is that can't be replayed.
type HandedOn = (Result<Journal, (Option<Journal>, Error)>, Option<PathBuf>);

async fn hand_on(ground: &Arc<Ground>, journal: Journal, found: &Recovered, a: Announce) -> HandedOn {
    if found.lineage.contains(&a.active) {
        return match journal.announce(a.active, a.next).await {
            Ok(()) => (Ok(journal), None),
            Err(e) => (Err((Some(journal), e)), None),
        };
    }
    // With nothing in it nothing can be lost.
    let gone = if found.end < found.first_lsn {
        journal.discard().await.map(|()| None)
    } else {
        journal.set_aside("kept").await.map(Some)
    };
    match gone {
        Ok(kept) => {
            drop(journal);
            (create(ground, a).await.map_err(|e| (None, e)), kept)
        }
        Err(e) => (Err((Some(journal), e)), None),
    }
}

async fn create(ground: &Arc<Ground>, a: Announce) -> Result<Journal> {
    let deps = &ground.deps;
    let config = deps.journal(ground.id, &ground.settings);
    let (rt, disk) = (deps.rt.clone(), deps.disk.clone());
    Journal::create(rt, disk, config, ground.id, vec![a.next], a.last_lsn.next()).await
}
