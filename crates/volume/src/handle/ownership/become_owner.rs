//! Becoming the owner: the folder's journal, the takeover of the log, a session on both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use parking_lot::Mutex;

use super::others_claim::{OthersClaim, PATIENCE};
use super::shown::Shown;
use super::start::start;
use crate::head::without_journal;
use crate::head::{Floor, HeadRegister, Mirror, MirrorAccess};
use crate::mirroring::{Heard, hear, open_session, refusal};
use crate::read::VolumeContext;
use crate::session::Session;
use crate::session::takeover;
use crate::session::takeover::{Announce, Cover, How, Mirrored, Notes, Taken};
use windlass_base::log_record::Mark;
use windlass_base::{Epoch, Error, Kind, Lsn, Name, Nonce, Result};
use windlass_journal::{Journal, Recovered, Replay, peek};

/// Time for which room for what was mirrored may be waited for in a journal of which nothing is let go meanwhile.
const ROOM: Duration = Duration::from_secs(10);
/// Pause between two looks at a claim of another host, which comes first.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of mirrored records in the journal's buffer, about, beyond which they are synced.
const UNSYNCED_MAX: u64 = 4 << 20;

/// Request to become the owner, with its grounds.
#[derive(Clone, Debug, Default)]
pub struct ClaimRequest {
    /// Ownerships of which one must still be in force; `None`: nobody has seen the volume yet, or will go on with what he has
    /// seen.
    pub shown: Option<Arc<Shown>>,
    pub others: Arc<OthersClaim>,
    pub force: bool,
    pub accept_loss: bool,
    /// True if clients of this host have stood by, and are shown the volume.
    pub shows: bool,
}

/// Result of becoming the owner.
#[derive(Debug)]
pub struct Owned {
    pub session: Arc<Session>,
    pub notes: Notes,
    /// Ownerships of which the session has all: its own, the one before, and those of the journal that it goes on with.
    pub lives: BTreeSet<Epoch>,
}

/// Failure to become the owner.
#[derive(Debug)]
pub struct Failed {
    pub error: Error,
    /// Claim that may have been recorded all the same.
    pub tried: Option<Epoch>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, tried: None }
    }
}

/// The journal while ownership is sought.
#[derive(Debug, Default)]
struct Local {
    journal: Option<Journal>,
    found: Option<Recovered>,
    kept: Option<PathBuf>,
    /// Claim that was written down.
    announced: Option<Announce>,
    /// True if the epoch that ends was never this folder's.
    others: bool,
    /// Message for the user on what is lost of a mirror.
    mirrored: Option<String>,
}

/// Returns the epochs that this folder has owned, as its journal says.
pub async fn lineage(context: &VolumeContext) -> Result<BTreeSet<Epoch>> {
    if context.access().key().is_err() {
        // Who has no key may still remove the volume: the lineage is not sealed.
        let found = peek(&*context.engine.disk, &context.journal().dir, Lsn(0)).await?;
        return Ok(found.map(|found| found.lineage.into_iter().collect()).unwrap_or_default());
    }
    match find(context).await? {
        Some((journal, found)) => {
            journal.close().await?;
            Ok(found.lineage.into_iter().collect())
        }
        None => Ok(BTreeSet::new()),
    }
}

async fn find(context: &VolumeContext) -> Result<Option<(Journal, Recovered)>> {
    let engine = &context.engine;
    let config = context.journal();
    let opened = Journal::open(engine.rt.clone(), engine.disk.clone(), config.clone()).await;
    let found = opened.map_err(without_journal)?;
    if let Some((_, r)) = &found
        && r.volume != context.id
    {
        let why = format!("{} holds the journal of another volume: move it away", config.dir.display());
        return Err(Error::new(Kind::Corrupt, why));
    }
    Ok(found)
}

/// Becomes the owner, see `try_to_own`. Where this host's journal is damaged, and a peer may have what is in it, the error says
/// so.
pub async fn own(
    context: &Arc<VolumeContext>,
    claim_request: ClaimRequest,
    left: impl Future<Output = ()>,
) -> Result<Owned, Failed> {
    let owned = Box::pin(try_to_own(context, claim_request, left)).await;
    let Err(Failed { error, tried }) = owned else { return owned };
    if !error.is(Kind::Corrupt) {
        return Err(Failed { error, tried });
    }
    let named = context.cell.read().await.ok().flatten().and_then(|head| head.mirror);
    let error = match named.filter(|named| named.host.id != context.engine.host.id) {
        Some(Mirror { host, .. }) => {
            let why = format!(
                "{error}. Before that: {host} mirrors this volume, and `windlass volume take-over` there has all flushed writes"
            );
            Error::new(error.kind(), why)
        }
        None => error,
    };
    Err(Failed { error, tried })
}

/// Claims, takes over, replays. On failure the folder is as it was, but for a journal that can't ever be replayed. When
/// `left` is ready nobody wants it any more: replaying, which may have to wait as long as stores are away, ends then.
async fn try_to_own(
    context: &Arc<VolumeContext>,
    claim_request: ClaimRequest,
    left: impl Future<Output = ()>,
) -> Result<Owned, Failed> {
    // Without the key of an encrypted volume nothing is written: it would be plain.
    context.access().key().map_err(|e| e.context(format!("volume {}", context.title())))?;
    // Above all that this host knows by now: the volume may have been opened long ago.
    let cell = context.cell.above(Floor { known: context.confirmed.load().await, title: context.title() });
    let left = std::pin::pin!(left);
    let (seen, overtakes, left) = match look(context, &cell, &claim_request, left).await {
        Ok(seen) => seen,
        Err(error) => return Err(outdated(context, error).await.into()),
    };
    let found = find(context).await?;
    let (journal, found) = found.map_or((None, None), |(j, r)| (Some(j), Some(r)));
    let lineage: BTreeSet<Epoch> = found.iter().flat_map(|r| r.lineage.iter().copied()).collect();
    let mirror = mirror_access(context, &cell, &lineage, &claim_request, journal.as_ref()).await?;
    let how = How {
        host: context.engine.host.clone(),
        now_ms: context.rt().wall_ms(),
        lineage,
        seen,
        overtakes,
        force: claim_request.force,
        shows: claim_request.shows,
        accept_loss: claim_request.accept_loss,
        mirror,
        // A copy may be older than what was promised since: it covers nothing.
        cover: found.as_ref().filter(|r| !r.copied).map(|r| Cover { first: r.first_lsn, mark: r.mark }),
        degrade_after: context.engine.pool.settings().degrade_after(),
        access: context.access(),
        volume_key: context.engine.keys.get(context.id),
    };
    let copied = found.as_ref().is_some_and(|r| r.copied);
    let local = Mutex::new(Local { journal, found, ..Local::default() });
    let given_up = claim_request.accept_loss;
    let announce = |a: Announce| announce(context, &local, a, given_up);
    let taken = takeover::take(&context.engine.pool, &cell, &how, announce).await;
    let Local { journal, found, kept, announced, others, mirrored } = local.into_inner();
    let tried = announced.as_ref().map(|a| a.next);
    let failed = |error| Failed { error, tried };
    match (taken, journal) {
        (Ok(taken), Some(journal)) => {
            let mut owned = begin(context, taken, journal, (kept, copied), left).await.map_err(failed)?;
            owned.notes.said.extend(mirrored);
            owned.lives.extend(announced.as_ref().into_iter().flat_map(|a| lives(&how.lineage, a)));
            if let Some(a) = announced.as_ref().filter(|_| claim_request.force && others) {
                owned.notes.said.extend(remember(context, &owned.session, a).await);
            }
            Ok(owned)
        }
        (Ok(_), None) => Err(failed(Error::new(Kind::Internal, "ownership without a journal"))),
        (Err(error), Some(journal)) => {
            let error = match found {
                Some(found) if matches!(error.kind(), Kind::Owned | Kind::Fenced) => {
                    stale(context, &journal, &found, error).await
                }
                _ => error,
            };
            close(context, &journal).await;
            Err(failed(error))
        }
        (Err(error), None) => Err(failed(error)),
    }
}

/// Returns what may be claimed by a mirror: by force, what this host has of the owner's records counts too. On failure the
/// journal that was found is closed.
async fn mirror_access(
    context: &VolumeContext,
    cell: &HeadRegister,
    lineage: &BTreeSet<Epoch>,
    claim_request: &ClaimRequest,
    journal: Option<&Journal>,
) -> Result<MirrorAccess> {
    if !claim_request.force {
        return Ok(MirrorAccess::default());
    }
    let access = close_mirror(context, cell, lineage, claim_request.accept_loss).await;
    if let (Err(_), Some(journal)) = (&access, journal) {
        close(context, journal).await;
    }
    access
}

/// Closes the mirrored session here (model `mirror`). Where the head names this host, the session takes no more records from
/// here on, so that all that the owner was promised is in it; only then the volume is claimed by it.
async fn close_mirror(
    context: &VolumeContext,
    cell: &HeadRegister,
    lineage: &BTreeSet<Epoch>,
    given_up: bool,
) -> Result<MirrorAccess> {
    let (engine, mut access) = (&context.engine, MirrorAccess { closed: None, given_up });
    let sessions = engine.sessions(context.id);
    if !sessions.any().await? {
        return Ok(access);
    }
    let Some(head) = cell.read().await? else { return Ok(access) };
    let owns = head.active.released || lineage.contains(&head.active.epoch);
    let named = head.mirror.as_ref().filter(|named| named.host.id == engine.host.id && !owns);
    let Some(named) = named else { return Ok(access) };
    if !sessions.has(named.session).await? {
        return Ok(access);
    }
    let _seat = engine.mirror.sit(context.id).await?;
    sessions.close(named.session).await?;
    access.closed = Some(named.session);
    Ok(access)
}

/// Returns the ownerships that the one which was announced goes on from.
fn lives(lineage: &BTreeSet<Epoch>, a: &Announce) -> BTreeSet<Epoch> {
    let before = if lineage.contains(&a.active) { lineage.clone() } else { BTreeSet::new() };
    before.into_iter().chain([a.active, a.next]).collect()
}

/// Completes the error for a volume that is not what was shown here any more. What this host had not stored when others came is
/// put aside, if it has that still, and no newer handle of this engine has.
async fn outdated(context: &VolumeContext, error: Error) -> Error {
    if !error.is(Kind::Fenced) {
        return error;
    }
    let Ok(Some((journal, found))) = find(context).await else { return error };
    let error = stale(context, &journal, &found, error).await;
    close(context, &journal).await;
    error
}

/// Completes the error for a volume that another host has. If that host ended an epoch of this folder, the journal can't be
/// replayed any more: it is put aside now, and the error says where.
async fn stale(context: &VolumeContext, journal: &Journal, found: &Recovered, error: Error) -> Error {
    let over = match context.cell.read().await {
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
            tracing::warn!(volume = %context.name(), %why, "a journal that can't be replayed any more is not put aside yet");
            error
        }
    }
}

/// Returns the ownership that must still be in force when the claim is made, for a session that was shown; and the claim that
/// it may be made over, as that has had its time. Asked here before the journal is, which a newer session of this engine may
/// hold by now; the claim asks again. Given up when `left` is ready, and else that is given back.
async fn look<L: Future<Output = ()> + Unpin>(
    context: &VolumeContext,
    cell: &HeadRegister,
    ClaimRequest { shown, others, force, .. }: &ClaimRequest,
    mut left: L,
) -> Result<(Option<Epoch>, Option<Nonce>, L)> {
    let rt = context.rt();
    let patience = PATIENCE + context.engine.pool.settings().degrade_after().unwrap_or_default();
    loop {
        // One that was never created is told by the claim.
        let Some(head) = cell.read().await? else { return Ok((None, None, left)) };
        if let Some(shown) = shown {
            shown.check(&head)?;
        }
        let seen = shown.as_ref().map(|_| head.active.epoch);
        // Who may not claim anyway is told so at once.
        let may = !force && (head.active.released || context.engine.host_owns(&head));
        let overtakes = match others.of(&head, context.engine.host.id, rt.now()) {
            None => None,
            Some(_) if !may => None,
            Some((claim, since)) if rt.now().since(since) >= patience => Some(claim.nonce),
            Some((claim, _)) => {
                if let Either::Left(_) = select(&mut left, rt.sleep(LOOK)).await {
                    return Err(head.being_taken(claim));
                }
                continue;
            }
        };
        return Ok((seen, overtakes, left));
    }
}

async fn begin(
    context: &Arc<VolumeContext>,
    taken: Taken,
    journal: Journal,
    (kept, copied): (Option<PathBuf>, bool),
    left: impl Future<Output = ()>,
) -> Result<Owned> {
    let mut notes = taken.notes.clone();
    if copied {
        // Not before the end is recorded: until then the copy covers nothing, however often it is tried.
        if let Err(error) = journal.settle_here().await {
            close(context, &journal).await;
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
        tracing::warn!(volume = %context.name(), "{note}");
    }
    match context.view.books(&taken.head).await {
        Ok(books) => {
            context.confirmed_in_time(&taken.head);
            *context.began.lock() = Some(taken.epoch);
            sweep(context, &taken);
            let session = start(context.clone(), taken, journal, books, left).await?;
            tracing::info!(volume = %context.title(), "the volume is open here");
            Ok(Owned { session, notes, lives: BTreeSet::new() })
        }
        Err(error) => {
            close(context, &journal).await;
            Err(error)
        }
    }
}

/// Keeps what the take-over found as a snapshot, and returns a note on it. Somebody was shut out, and may hold writes that the
/// volume doesn't have: by the snapshot `salvage` can put them where they belong. Nobody has written yet.
async fn remember(context: &VolumeContext, session: &Arc<Session>, a: &Announce) -> Option<String> {
    let marked = session.mark_taken_over(a.active, a.last_lsn).await;
    match marked {
        Ok(name) => {
            let (built, note) = (name.clone(), kept_as(context, &name));
            // Whoever was shut out can use it only when its map is in the pool.
            session.run(async move |s| {
                if let Err(stop) = s.build_snapshot(&built).await {
                    tracing::debug!(volume = %s.context.name(), error = %stop.error(), "a snapshot's map is written later");
                }
            });
            Some(note)
        }
        Err(stop) => {
            tracing::warn!(volume = %context.name(), error = %stop.error(), "the state that the take-over found was not kept as a snapshot");
            None
        }
    }
}

fn kept_as(context: &VolumeContext, name: &Name) -> String {
    format!(
        "snapshot {}@{name} keeps what the volume was at that moment; it may be removed when no kept journal is to be \
             salvaged",
        context.title()
    )
}

async fn close(context: &VolumeContext, journal: &Journal) {
    if let Err(error) = journal.close().await {
        tracing::debug!(volume = %context.name(), %error, "closing the journal");
    }
}

/// Deletes in the background what the ended epoch left past its end; the look at all stores finds what this misses.
fn sweep(context: &Arc<VolumeContext>, taken: &Taken) {
    let (context, head, left) = (context.clone(), taken.head.clone(), taken.leftovers);
    let rt = context.rt().clone();
    rt.spawn(async move {
        if let Err(error) = takeover::sweep(&context.engine.pool, &head, left).await {
            tracing::debug!(volume = %context.name(), %error, "leftovers stay until the stores are looked through");
        }
    })
    .detach();
}

/// Makes the new epoch part of the folder's history, durably, before the record.
async fn announce(
    context: &Arc<VolumeContext>,
    local: &Mutex<Local>,
    a: Announce,
    given_up: bool,
) -> Result<()> {
    // Before the journal knows of the claim: who can't be heard is asked again and again, under ever new ones.
    let heard = match &a.mirror {
        // A session of this process that goes on anew has all in its journal, which nobody put back meanwhile.
        Some(Mirrored::There(named)) if *context.began.lock() != Some(a.active) => {
            let end = local.lock().found.as_ref().map_or(Lsn(0), |found| found.end);
            match hear(&context.engine, &a.head, named, end.max(a.last_lsn)).await {
                Ok(heard) => Some(heard),
                Err(error) if given_up => {
                    let why = format!(
                        "writes that only {} has are given up, as it could not be asked: {error}",
                        named.host
                    );
                    local.lock().mirrored = Some(why);
                    None
                }
                Err(error) => return Err(refusal(named, &error)),
            }
        }
        _ => None,
    };
    let (journal, found) = {
        let mut local = local.lock();
        local.others = !local.found.as_ref().is_some_and(|f| f.lineage.contains(&a.active));
        (local.journal.take(), local.found.take())
    };
    let heard = heard.filter(|heard| !heard.is_over());
    let takes_in = heard.is_some();
    // Likewise: a disk that stays full must not use up the epochs of a lineage.
    let ready = match &journal {
        Some(journal) if takes_in => ready_for(journal, a.last_lsn).await,
        _ => Ok(()),
    };
    let (mut done, kept) = match (ready, journal, found) {
        (Err(error), journal, _) => (Err((journal, error)), None),
        (_, Some(journal), Some(found)) => hand_on(context, journal, &found, &a, given_up).await,
        _ => (create(context, &a).await.map_err(|e| (None, e)), None),
    };
    done = match (done, &a.mirror, heard) {
        (Ok(journal), Some(Mirrored::Here(session)), _) => {
            take_in(context, journal, *session, &a).await.map_err(|e| (None, e))
        }
        (Ok(journal), _, Some(heard)) => take_in_heard(context, journal, heard).await.map_err(|e| (None, e)),
        (done, ..) => done,
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

/// Takes what was mirrored here and is not in the log into this host's new journal, before the end of the old epoch is
/// recorded: from then on the journal is all that has it.
async fn take_in(
    context: &Arc<VolumeContext>,
    journal: Journal,
    session: Epoch,
    a: &Announce,
) -> Result<Journal> {
    let (mirrored, _) = open_session(&context.engine, &a.head, session).await?;
    // What is in the log already is not copied.
    mirrored.trim(a.last_lsn);
    let copied = match mirrored.usage().used < journal.usage().size {
        true => copy_records(Source::Session(Box::new(mirrored.replay(a.last_lsn))), context, &journal).await,
        false => Err(too_small()),
    };
    let _ = mirrored.close().await;
    opened_again(context, journal, copied).await
}

/// Takes into the journal what another host has mirrored, as `take_in` does.
async fn take_in_heard(context: &Arc<VolumeContext>, journal: Journal, heard: Heard) -> Result<Journal> {
    let upto = heard.upto();
    let copied = copy_records(Source::Host(heard), context, &journal).await;
    let journal = opened_again(context, journal, copied).await?;
    tracing::warn!(
        volume = %context.title(),
        "this host's journal lacked writes that its mirror has: they were taken in, up to write {upto}"
    );
    Ok(journal)
}

/// Makes the journal ready for what was heard: behind `after`, as the log has what is before. A journal that was given up, as
/// its disk took none, is begun anew.
async fn ready_for(journal: &Journal, after: Lsn) -> Result<()> {
    if journal.is_void() {
        let ready = journal.make_ready().await?;
        journal.restart(ready, after.next(), after).await?;
    }
    journal.trim(after);
    Ok(())
}

fn too_small() -> Error {
    let why = "what was mirrored is larger than the volume's journal: raise its journal-size, or make room on this host's disk";
    Error::new(Kind::NoSpace, why)
}

async fn opened_again(context: &VolumeContext, journal: Journal, copied: Result<()>) -> Result<Journal> {
    let (engine, closed) = (&context.engine, journal.close().await);
    copied?;
    closed?;
    drop(journal);
    // Opened again it knows what it is to replay.
    let opened = Journal::open(engine.rt.clone(), engine.disk.clone(), context.journal()).await?;
    opened
        .map(|(journal, _)| journal)
        .ok_or_else(|| Error::new(Kind::Internal, "a journal is not there any more"))
}

/// Source of records that are taken into a journal.
enum Source {
    Session(Box<Replay>),
    Host(Heard),
}

async fn copy_records(mut from: Source, context: &VolumeContext, to: &Journal) -> Result<()> {
    let mut unsynced = 0;
    loop {
        let next = match &mut from {
            Source::Session(records) => records.next().await?,
            Source::Host(heard) => heard.next().await?,
        };
        let Some(record) = next else { return to.sync(None).await };
        let bytes = record.op.payload().len() as u64;
        let room = to.reserve(to.cost(bytes.max(Mark::BYTES_MAX)));
        let mut room = context.rt().timeout(ROOM, room).await.ok_or_else(too_small)??;
        to.append(&mut room, &record)?;
        unsynced += bytes;
        if unsynced > UNSYNCED_MAX {
            to.sync(None).await?;
            unsynced = 0;
        }
    }
}

/// The journal that goes on, or the old one with the error; and where a journal is that can't be replayed.
type HandedOn = (Result<Journal, (Option<Journal>, Error)>, Option<PathBuf>);

async fn hand_on(
    context: &Arc<VolumeContext>,
    journal: Journal,
    found: &Recovered,
    a: &Announce,
    given_up: bool,
) -> HandedOn {
    // Of a log that was put back from a backup what follows may be trimmed: the user takes the volume without it.
    let follows = found.first_lsn <= a.last_lsn.next();
    if found.lineage.contains(&a.active) && (follows || !given_up) {
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
            (create(context, a).await.map_err(|e| (None, e)), kept)
        }
        Err(e) => (Err((Some(journal), e)), None),
    }
}

async fn create(context: &Arc<VolumeContext>, a: &Announce) -> Result<Journal> {
    let engine = &context.engine;
    let config = context.journal();
    let (rt, disk) = (engine.rt.clone(), engine.disk.clone());
    Journal::create(rt, disk, config, context.id, vec![a.next], a.last_lsn.next()).await
}
