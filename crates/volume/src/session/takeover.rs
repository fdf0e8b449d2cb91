//! From a volume that somebody owned, or nobody, to one that this process owns (protocol.md §1.6, §1.8; models `takeover`,
//! `restart`, `open`).
//!
//! Steps, by the models' names: *claim* the next epoch; *walk* the old log from the checkpoint in the value that the claim
//! wrote; *adopt* each chunk, completed to w; *decide* where the log ends, or *withdraw*; *announce* the new epoch in the state
//! folder; *record* both in one CAS that needs the claim to stand. Nothing of the new epoch is written before that.
//!
//! It does not replay the journal and builds no state: it returns the head and the adopted chunks' tables of contents.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::head::HeadRegister;
use crate::head::Host;
use crate::head::{ClaimBasis, Claimer, Head, Mirror, MirrorAccess, Recording};
use crate::space::Before;
use crate::space::{ChunkTable, NewChunks};
use windlass_base::format_limits::{CHUNKS_AHEAD, WALK_WINDOW};
use windlass_base::{ChunkId, Epoch, Error, Kind, Lsn, Nonce, Result, Seq};
use windlass_keys::{KeyAccess, Secret};
use windlass_log::Toc;
use windlass_pool::{ChunkKind, Payload, Pool, Probe, Told};
use windlass_store::Cause;

/// Time for which a chunk that cannot be decided is asked for again. After that the claim is withdrawn, or
/// the chunk is taken for lost by consent: whoever opens the volume waits.
const DECIDE: Duration = Duration::from_secs(3);
/// Time that a readable chunk may take to be read and completed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for which late answers are waited for once enough others have come, in a walk's first window that has
/// late ones. Later windows wait only as long as those took: a store that hangs holds up one window, and one
/// that is slow is counted.
const HEDGE: Duration = Duration::from_millis(750);
/// Pause between two questions of a chunk that cannot be decided, or read.
const AGAIN: Duration = Duration::from_millis(250);
/// Number of probes of the first window; each next one is twice as wide, up to `WALK_WINDOW`.
const FIRST_WINDOW: u64 = 4;

/// The records that the state folder's journal can replay, should the log be ended early (§1.6, end).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cover {
    /// First record from which on the journal holds every one.
    pub first: Lsn,
    /// The highest record that was promised against the loss of this host.
    pub mark: Lsn,
}

/// The host that takes over, and how far it may go.
#[derive(Clone, Debug)]
pub struct How {
    pub host: Host,
    pub now_ms: u64,
    /// Epochs that this state folder has owned.
    pub lineage: BTreeSet<Epoch>,
    /// The active epoch that an inert session has read.
    pub seen: Option<Epoch>,
    /// A claim of another host that this one may be made over, since it has had its time.
    pub overtakes: Option<Nonce>,
    /// Is true if an owner that has not released may be taken over too.
    pub force: bool,
    /// Is true if this very claim shows the volume to clients of this host that stood by.
    pub shows: bool,
    /// Is true if the user accepts a guess where it cannot be told what was acknowledged.
    pub accept_loss: bool,
    /// The access that this host has to a mirror, or its consent to do without.
    pub mirror: MirrorAccess,
    /// The records that the journal can replay; only when it may be replayed.
    pub cover: Option<Cover>,
    /// Time for which stores must be out before chunks are stored with fewer shards; `None`: they never are.
    pub degrade_after: Option<Duration>,
    /// Keys by which the log's tables of contents are opened.
    pub access: KeyAccess,
    /// The volume key, which opens the data keys in the head.
    pub volume_key: Option<Secret>,
}

/// A chunk behind the checkpoint that the log has.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub id: ChunkId,
    pub toc: Toc,
}

impl Adopted {
    /// Returns the bytes of the chunk's frames.
    pub fn bytes(&self) -> u64 {
        self.toc.frames.iter().map(|f| u64::from(f.len)).sum()
    }

    /// Makes the chunk known to the next checkpoint. The table knows which map chunks are of recorded
    /// checkpoints.
    pub fn born(&self, new_chunks: &mut NewChunks, chunk_table: &ChunkTable) {
        let (ChunkId { epoch, seq, .. }, era) = (self.id, self.toc.era);
        match self.toc.kind {
            ChunkKind::Data => {
                new_chunks.data(epoch, seq, era, self.toc.frames.iter().map(|f| (f.offset, f.len)))
            }
            _ => new_chunks.found_map(epoch, seq, era, self.bytes(), chunk_table.entry(seq).is_some()),
        }
    }
}

/// Notes of a takeover that the user must be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notes {
    /// Sentences that tell of guesses, and of whom this shut out.
    pub said: Vec<String>,
    /// Is true if it could not be told what was acknowledged: some of that may be lost.
    pub guessed: bool,
}

/// An ownership that is recorded in the head.
#[derive(Clone, Debug)]
pub struct Taken {
    pub head: Head,
    pub epoch: Epoch,
    /// Chunks behind the checkpoint's position up to the recorded end, in order.
    pub adopted: Vec<Adopted>,
    pub notes: Notes,
    pub before: Before,
    pub leftovers: Leftovers,
}

/// The chunks past the recorded end: garbage with known ids (§1.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leftovers {
    epoch: Epoch,
    after: Seq,
}

/// Records that the pool may lack and that the state folder's own journal may lack too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mirrored {
    /// A mirror session on this host has the records, under this ownership: they come again.
    Here(Epoch),
    /// The head names a mirror session of another host, which is to be heard.
    There(Mirror),
}

/// A note that the state folder writes down before the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announce {
    /// The epoch that ends.
    pub active: Epoch,
    /// The epoch of the claim.
    pub next: Epoch,
    /// The last record of the adopted log.
    pub last_lsn: Lsn,
    /// The mirror that may have records behind `last_lsn`.
    pub mirror: Option<Mirrored>,
    /// The head that the claim wrote.
    pub head: Head,
}

/// Takes the volume over. `announce` makes the new epoch part of the folder's lineage, durably.
///
/// # Errors
/// `Owned`: another host has it. `Fenced`: another taker came in between. `Unavailable`: too few stores
/// answer; the claim is withdrawn.
pub async fn take<A>(
    pool: &Arc<Pool>,
    cell: &HeadRegister,
    how: &How,
    announce: impl FnOnce(Announce) -> A + Send,
) -> Result<Taken>
where
    A: Future<Output = Result<()>> + Send,
{
    let nonce = Nonce(pool.rt().random128());
    // The stores that the walk counts with; those that come in meanwhile are admitted by who brings them.
    let (generation, witnesses) = (pool.generation(), pool.incarnations());
    let claimed = claim(cell, how, nonce).await?;
    let epoch = claimed.my_claim(nonce)?.epoch;
    let mut walk = Walk {
        pool,
        cell,
        how,
        nonce,
        head: claimed,
        adopted: Vec::new(),
        last_lsn: Lsn(0),
        hedge: HEDGE,
        notes: Notes::default(),
    };
    let recorded = async {
        // No rotation begins or ends while the claim stands; one may have since the volume was opened here.
        if let (Some(keys), Some(root)) = (&walk.head.keys, &how.volume_key)
            && let KeyAccess::Sealed(known) = &how.access
        {
            known.follow(keys.data_keys_for((walk.head.volume, root), walk.head.volume)?);
        }
        let last = walk.run().await?;
        if pool.generation() != generation {
            return Err(Error::new(Kind::Unavailable, "the pool's stores were changed meanwhile: try again"));
        }
        let (active, last_lsn) = (walk.head.active.epoch, walk.last_lsn);
        // The claim stands, and it froze what it was judged on.
        let ground = walk.head.ground(&claimer(cell, how, nonce))?;
        let named = walk.head.mirror.clone().filter(|named| named.host.id != how.host.id);
        let mirror = match ground {
            ClaimBasis::Mirror(session) => Some(Mirrored::Here(session)),
            ClaimBasis::Own => named.map(Mirrored::There),
            ClaimBasis::Bare | ClaimBasis::Forced => None,
        };
        announce(Announce { active, next: epoch, last_lsn, mirror, head: walk.head.clone() }).await?;
        let (w, gives_up_mirror) = (walk.w_of_a_new_epoch(), ground == ClaimBasis::Forced);
        let recording = Recording { nonce, last, w, witnesses, gives_up_mirror };
        let head = cell.change(|h| h.record(&recording)).await?;
        Ok((head, last))
    }
    .await;
    match recorded {
        Ok((head, last)) => {
            let ended = &walk.head.active;
            let leftovers = Leftovers { epoch: ended.epoch, after: last };
            let before = match ended.released {
                _ if ended.epoch == Epoch(0) => Before::Nobody,
                true => Before::Released,
                false => Before::Gone,
            };
            Ok(Taken { head, epoch, adopted: walk.adopted, notes: walk.notes, before, leftovers })
        }
        Err(error) => {
            let error = explained(cell, nonce, error).await;
            give_up(cell, nonce).await;
            Err(error)
        }
    }
}

/// Explains a missing chunk. What a walk does not find under a claim that another has overtaken, the newer
/// owner may have collected: then the error tells of that owner.
async fn explained(cell: &HeadRegister, nonce: Nonce, error: Error) -> Error {
    if !error.is(Kind::Corrupt) {
        return error;
    }
    match cell.confirm().await {
        Ok(head) => head.my_claim(nonce).err().unwrap_or(error),
        Err(unknown) => unknown.context(error),
    }
}

fn claimer<'a>(cell: &HeadRegister, how: &'a How, nonce: Nonce) -> Claimer<'a> {
    Claimer {
        host: &how.host,
        nonce,
        now_ms: how.now_ms,
        lineage: &how.lineage,
        seen: how.seen,
        overtakes: how.overtakes,
        force: how.force,
        shows: how.shows,
        floor: cell.last_epoch(),
        mirror: how.mirror,
    }
}

async fn claim(cell: &HeadRegister, how: &How, nonce: Nonce) -> Result<Head> {
    let claimer = claimer(cell, how, nonce);
    // Looking first spares owners a fright: a claim that is refused writes nothing, but its register rounds cost.
    cell.read().await?.map_or(Ok(()), |head| head.may_claim(&claimer))?;
    cell.change(|head| head.claim(&claimer)).await
}

/// Withdraws the claim, so that the owner can go on. When this fails too the claim stands until the next one.
async fn give_up(cell: &HeadRegister, nonce: Nonce) {
    if let Err(error) = cell.change(|head| head.withdraw(nonce)).await {
        tracing::warn!(%error, "a takeover that was given up could not be withdrawn");
    }
}

struct Walk<'a> {
    pool: &'a Arc<Pool>,
    cell: &'a HeadRegister,
    how: &'a How,
    nonce: Nonce,
    /// The head as the claim's CAS (or a later lowering of w) wrote it.
    head: Head,
    adopted: Vec<Adopted>,
    last_lsn: Lsn,
    /// Time for which late answers are waited for at least.
    hedge: Duration,
    notes: Notes,
}

/// The fate of a chunk, as a probe tells it.
enum Verdict {
    /// The chunk is stored at w already.
    Stored,
    /// The chunk is readable, and is to be completed to w.
    Readable,
    /// The chunk was certainly never acknowledged.
    Absent,
    /// Too few stores answer to tell.
    Undecided,
}

impl Walk<'_> {
    fn w(&self) -> usize {
        usize::from(self.head.active.w)
    }

    /// Returns the w of a new epoch: fewer when too many stores are out already, so that the first flush need
    /// not find that out again.
    fn w_of_a_new_epoch(&self) -> u8 {
        let (layout, full) = (self.pool.layout(), self.pool.w());
        let spare = layout.n() - full;
        let out = self.how.degrade_after.map_or(0, |d| self.pool.out_for(d));
        let w = if out > spare { layout.k() } else { full };
        u8::try_from(w).expect("a layout has at most 64 shards")
    }

    /// Tells whether the log has this chunk for certain: in an ended epoch, or named by the checkpoint's
    /// pages.
    fn certain(&self, seq: Seq) -> bool {
        seq <= self.head.checkpoint.top || self.head.ends.last().is_some_and(|e| seq <= e.last)
    }

    /// Returns the last chunk that can exist, when it is known: nothing follows the checkpoint of a released
    /// volume.
    fn limit(&self) -> Option<Seq> {
        let known = self.head.active.released || self.head.active.epoch == Epoch(0);
        known.then(|| self.head.checkpoint.top.max(self.head.active_starts_after()))
    }

    /// Walks the log, adopts its chunks, and returns the number of the last one.
    async fn run(&mut self) -> Result<Seq> {
        self.last_lsn = self.head.checkpoint.last_lsn;
        let mut next = self.head.checkpoint.position.next();
        let mut width = FIRST_WINDOW;
        loop {
            let past = self.limit().map_or(next.0 + width, |limit| (limit.0 + 1).min(next.0 + width));
            if past <= next.0 {
                return Ok(Seq(next.0 - 1));
            }
            let window: Vec<ChunkId> = (next.0..past).map(|s| self.id(Seq(s))).collect();
            let looks = join_all(window.iter().map(|id| self.look(*id))).await;
            if looks.iter().any(|(probe, _)| probe.late > 0 && probe.good > 0) {
                self.hedge = Duration::ZERO;
            }
            for (id, (probe, toc)) in window.iter().zip(looks) {
                if let Some(last) = self.decide(*id, probe, toc).await? {
                    return Ok(last);
                }
            }
            next = Seq(past);
            width = (width * 2).min(WALK_WINDOW);
        }
    }

    /// Asks the stores for a chunk, and reads its table of contents when it is stored: those of a window come
    /// together.
    async fn look(&self, id: ChunkId) -> (Probe, Option<Toc>) {
        let probe = self.probe(id).await;
        let toc = match self.judge(id, &probe) {
            Verdict::Stored => self.read_toc(id, &probe).await.ok(),
            _ => None,
        };
        (probe, toc)
    }

    /// Asks the stores for a chunk. A store that has not answered when the chunk's fate is decided counts as
    /// silent.
    ///
    /// An absence alone decides nothing while those who have yet to answer can make the chunk readable: what
    /// one store has lost must not end the log.
    async fn probe(&self, id: ChunkId) -> Probe {
        let k = self.pool.layout().k();
        let told = |probe: &Probe| match self.judge(id, probe) {
            Verdict::Absent if probe.readable() + probe.unknown >= k => Told::Nothing,
            Verdict::Absent => Told::All,
            Verdict::Stored | Verdict::Readable => Told::Enough,
            Verdict::Undecided => Told::Nothing,
        };
        self.pool.probe_until(&id, &self.head.witnesses, Cause::Walk, self.hedge, told).await
    }

    fn id(&self, seq: Seq) -> ChunkId {
        ChunkId { volume: self.head.volume, epoch: self.head.epoch_of(seq), seq }
    }

    /// Adopts the chunk (`None`), or says that the log ends before it, and with which one.
    async fn decide(&mut self, id: ChunkId, mut probe: Probe, mut toc: Option<Toc>) -> Result<Option<Seq>> {
        let rt = self.pool.rt().clone();
        let began = rt.now();
        let mut every_byte = false;
        loop {
            match self.judge(id, &probe) {
                Verdict::Stored | Verdict::Readable => match self.adopt(id, &probe, toc.take()).await {
                    // The footers are right, the rest is not: what was never acknowledged must not refuse for ever.
                    Err(e) if e.is(Kind::Corrupt) && !every_byte && !self.certain(id.seq) => {
                        tracing::warn!(chunk = %id, "counted again by every byte: {e}");
                        probe = self.pool.verified(&id, &probe, Cause::Walk).await;
                        every_byte = true;
                        continue;
                    }
                    done => return done.map(|()| None),
                },
                Verdict::Absent => return Ok(Some(Seq(id.seq.0 - 1))),
                Verdict::Undecided if self.covered(id.seq) => {
                    tracing::info!(chunk = %id, "not decidable now; its writes come again from the journal");
                    return Ok(Some(Seq(id.seq.0 - 1)));
                }
                Verdict::Undecided if rt.now().since(began) < DECIDE => {}
                Verdict::Undecided if self.how.accept_loss && !self.certain(id.seq) => {
                    self.notes.guessed = true;
                    self.notes.said.push(
                        "too few stores answered to tell whether the newest writes were acknowledged: those that could not be \
                         read are taken for lost, flushed ones among them perhaps. Compare what the volume holds with what \
                         you know"
                            .to_owned(),
                    );
                    return Ok(Some(Seq(id.seq.0 - 1)));
                }
                Verdict::Undecided => return Err(self.undecided(id, &probe)),
            }
            rt.sleep(AGAIN).await;
            probe = self.probe(id).await;
            every_byte = false;
        }
    }

    fn judge(&self, id: ChunkId, probe: &Probe) -> Verdict {
        let k = self.pool.layout().k();
        if probe.good >= self.w() {
            Verdict::Stored
        } else if probe.readable() >= k {
            Verdict::Readable
        } else if probe.good + probe.unknown < self.w() && !self.certain(id.seq) {
            Verdict::Absent
        } else {
            Verdict::Undecided
        }
    }

    /// Tells whether the log may end before this chunk, because the journal brings its writes again and
    /// nobody was promised more.
    fn covered(&self, seq: Seq) -> bool {
        let Some(cover) = self.how.cover else { return false };
        // Judged on the value that the claim replaced: meanwhile another may have owned the volume.
        let replayable = self.how.lineage.contains(&self.head.active.epoch);
        replayable && !self.certain(seq) && cover.first <= self.last_lsn.next() && cover.mark <= self.last_lsn
    }

    fn undecided(&self, id: ChunkId, probe: &Probe) -> Error {
        let (k, n) = (self.pool.layout().k(), self.pool.layout().n());
        let readable = probe.readable();
        if self.certain(id.seq) && readable + probe.waiting() < k {
            let why = format!(
                "chunk {id} is damaged: {readable} of its {n} shards are left, and {k} are needed; snapshots that do not need it can be \
                 cloned"
            );
            return Error::new(Kind::Corrupt, why);
        }
        if self.certain(id.seq) {
            let why = format!(
                "too few stores answer: a part of the volume has {readable} readable shards of {n} and needs {k}; bring the \
                 stores back (`windlass pool status` names them)"
            );
            return Error::new(Kind::Unavailable, why);
        }
        Error::new(
            Kind::Unavailable,
            format!(
                "too few stores answer to tell whether the newest writes were acknowledged ({} of {n} have them, {} do not \
                 answer or show damage): bring stores back (`windlass pool status` names them), or accept that they may be lost with \
                 `windlass volume take-over --accept-loss`",
                probe.good, probe.unknown
            ),
        )
    }

    async fn adopt(&mut self, id: ChunkId, probe: &Probe, toc: Option<Toc>) -> Result<()> {
        if matches!(self.judge(id, probe), Verdict::Stored) && probe.good < self.pool.layout().n() {
            self.pool.remember_missing(id, probe);
        }
        let toc = match (toc, self.judge(id, probe)) {
            (Some(toc), _) => toc,
            (None, Verdict::Stored) => self.patiently(|| self.read_toc(id, probe)).await?,
            (None, _) => {
                let payload = self.patiently(|| self.pool.payload(&id, probe, Cause::Walk)).await?;
                self.complete(id, &payload).await?;
                let chunk = &payload.chunk;
                let bytes = payload.slice(chunk.toc_offset, chunk.toc_len).ok_or_else(|| unsound(id))?;
                Toc::open(&bytes, &id, chunk.toc_offset, &self.how.access)?
            }
        };
        if toc.epoch != id.epoch || toc.seq != id.seq || toc.last < self.last_lsn {
            return Err(unsound(id));
        }
        self.last_lsn = toc.last;
        self.adopted.push(Adopted { id, toc });
        Ok(())
    }

    /// Asks again for a while, as long as too few stores answer.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let rt = self.pool.rt();
        let began = rt.now();
        loop {
            match ask().await {
                Err(e) if e.is(Kind::Unavailable) && rt.now().since(began) < PATIENCE => {
                    rt.sleep(AGAIN).await
                }
                done => return done,
            }
        }
    }

    async fn read_toc(&self, id: ChunkId, probe: &Probe) -> Result<Toc> {
        let about = probe.about.as_ref().ok_or_else(|| unsound(id))?;
        let (at, access) = (about.toc_offset, &self.how.access);
        let sound = |bytes: &[u8]| Toc::verify(bytes, &id, at, access);
        let bytes = self.pool.read(&id, at, about.toc_len, Cause::Walk, &sound).await?;
        Toc::open(&bytes, &id, at, access)
    }

    /// Rebuilds what is missing until w shards are stored. Where that stays out of reach for long enough, w
    /// is lowered first (§1.2).
    async fn complete(&mut self, id: ChunkId, payload: &Payload) -> Result<()> {
        let upload = self.pool.complete(payload);
        let rt = self.pool.rt().clone();
        let patience = self.how.degrade_after.unwrap_or(PATIENCE);
        if let Some(stored) = rt.timeout(patience, upload.wait(self.w())).await {
            return stored;
        }
        let k = self.pool.layout().k();
        if self.how.degrade_after.is_none() || self.w() == k {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "too few stores take writes to make the newest writes safe ({id}); bring stores back"
                ),
            ));
        }
        let (nonce, w) = (self.nonce, u8::try_from(k).expect("a layout has at most 64 shards"));
        self.head = self.cell.change(move |head| head.lower_w(nonce, w)).await?;
        match rt.timeout(PATIENCE, upload.wait(self.w())).await {
            Some(stored) => stored,
            None => Err(Error::new(Kind::Unavailable, "too few stores take writes; bring stores back")),
        }
    }
}

fn unsound(id: ChunkId) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("a part of the volume's log is not what was written ({id}): run `windlass pool scrub`"),
    )
}

/// Deletes what the ended epoch may have left past its end, as far as chunks are put ahead of the stored
/// prefix.
///
/// Ids past an end are never used again, so a late or repeated deletion harms nothing. Shards that arrive
/// later, and those past an end that was decided early, are found when the stores are looked through
/// (`sweep`).
pub async fn sweep(pool: &Arc<Pool>, head: &Head, left: Leftovers) -> Result<()> {
    if left.epoch == Epoch(0) {
        return Ok(());
    }
    let id = |n: u64| ChunkId { volume: head.volume, epoch: left.epoch, seq: Seq(left.after.0 + n) };
    let ids: Vec<ChunkId> = (1..=CHUNKS_AHEAD).map(id).collect();
    pool.delete_checked(&ids).await
}
