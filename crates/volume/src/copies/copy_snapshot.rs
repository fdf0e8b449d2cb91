//! Copying a snapshot into another volume, of this pool or of another one that this engine has open.
//!
//! What is copied is what differs from the newest snapshot that both have in common, or all of it where they have none and the
//! other volume is empty. Two snapshots are known to be the same by an identity, whatever their names: the copy's mark carries,
//! as the nonce of its group, a sum over the source's volume id, the snapshot's id and its time. So nothing is kept beside the
//! volumes, and a copy is the same to every host.
//!
//! The copy gets its snapshot when it is whole, and only then: after what was copied, and what had changed on either side, was
//! read back from both and found equal. Cut off anywhere, another call goes on at the position that was noted (`copy_note`), or
//! finds that it was done. The caller sees to it that nobody else writes to the copy meanwhile.

use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::compare_states::{AT_ONCE, STEP, Side, bounded, differing, pieces, step, union, without};
use super::copy_progress_file::{CopyFile, CopyNote};
use crate::catalog::{OpenMode, Volumes, snapshot_as};
use crate::handle::{Filling, SnapshotView, Volume};
use crate::head::{CopyRound, VolumeSettings, is_template};
use crate::read::Since;
use crate::space::{State, Tables};
use windlass_base::units::{show_bytes, show_size};
use windlass_base::{Budget, Error, Kind, Name, Nonce, Result, StateId, VolumeId};

/// Memory of what is on its way: a part of all, within bounds.
const MEMORY_PART: u64 = 16;
const MEMORY: (u64, u64) = (4 << 20, 32 << 20);

/// Options for callers who watch no progress.
const QUIET: Copying<'static> = Copying { roll_back: false, verify_all: false, progress: &|_, _, _| {} };

/// Options of copying a snapshot.
pub struct Copying<'a> {
    /// If set, a copy that has changed is rolled back: what it was given since the newest common snapshot goes.
    pub roll_back: bool,
    /// If set, all of both is compared at the end, not only what has changed; with `roll_back`, what differs is written again.
    pub verify_all: bool,
    /// Function that is told what is done, how many bytes of the volume were gone through, and how many there are.
    pub progress: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

/// Result of copying a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Copied {
    /// The common snapshot on which it stands, by its name in the copy; none: everything was copied.
    pub base: Option<Name>,
    /// True if the copy had the snapshot before.
    pub already: bool,
    /// Position that an earlier attempt had come to.
    pub resumed_bytes: u64,
    /// Bytes that were read and written.
    pub copied_bytes: u64,
    /// Bytes that were zeroed, where the source has no data any more.
    pub zeroed_bytes: u64,
    /// Bytes that were compared at the end.
    pub verified_bytes: u64,
}

/// Returns the mark by which a copy's snapshot is told, whatever it is called there.
fn identity(volume: VolumeId, snapshot: &State) -> Nonce {
    copy_mark(volume, snapshot.id, snapshot.created_ms)
}

/// Beginning of marks made by applying a difference: they are told from those that were drawn.
const APPLIED: u128 = 0x574c_6466 << 96;

/// Returns the mark of a snapshot that is the same as another one, since a difference that ends there was applied.
pub fn applied_mark(volume: VolumeId, snapshot: StateId, created_ms: u64) -> Nonce {
    Nonce(APPLIED | copy_mark(volume, snapshot, created_ms).0 >> 32)
}

/// Tells whether the mark of a snapshot says that a difference was applied.
pub fn is_applied_mark(mark: Nonce) -> bool {
    mark.0 >> 96 == APPLIED >> 96
}

/// Returns the mark of a snapshot that was copied from another volume.
pub fn copy_mark(volume: VolumeId, snapshot: StateId, created_ms: u64) -> Nonce {
    let mut sum = Sha256::new_with_prefix(b"windlass copy 1");
    sum.update(volume.0.to_le_bytes());
    sum.update(snapshot.0.to_le_bytes());
    sum.update(created_ms.to_le_bytes());
    let mut start = [0; 16];
    start.copy_from_slice(&sum.finalize()[..16]);
    Nonce(u128::from_le_bytes(start))
}

/// Returns the name that a snapshot has in a copy of its volume, if the copy has it.
pub fn copied_as<'a>(theirs: &'a Tables, volume: VolumeId, snapshot: &State) -> Option<&'a Name> {
    theirs.copy_of(identity(volume, snapshot)).map(|(name, _)| name)
}

/// A snapshot that both sides have.
#[derive(Clone, Debug)]
struct Common {
    ours: Since,
    theirs: Since,
    /// Name of the snapshot in the copy.
    name: Name,
    state: StateId,
}

/// The copy, and what is known of it.
struct Work<'a> {
    volumes: &'a Volumes,
    how: &'a Copying<'a>,
    source: Side,
    copy: Arc<Volume>,
    /// Guard by which no other host gets the copy meanwhile: what was found when the work began is what is written over.
    filling: Option<Filling>,
    common: Option<Common>,
    file: CopyFile,
    note: CopyNote,
    done: Copied,
    memory: Budget,
}

/// Copies `snapshot` of a volume to `copy`, which is made if there is none, and takes a snapshot of the same name there.
///
/// # Errors
/// `Exists`: the copy has another snapshot of that name, or this one in the trash. `Refused`: the copy has been changed since
/// the newest common snapshot, or holds something else, or is larger. `Corrupt`: what was written reads otherwise.
pub fn copy_snapshot<'f>(
    (from, volume, snapshot): (&'f Volumes, &'f Name, &'f Name),
    (to, copy): (&'f Volumes, &'f Name),
    how: Copying<'f>,
) -> BoxFuture<'f, Result<Copied>> {
    Box::pin(async move {
        let view = from.open_snapshot(volume, snapshot).await?;
        let id = view.volume();
        let ours = from.newest_tables(volume, id).await?;
        let state = ours.find(&view.id()).ok_or_else(|| view.gone())?.1.clone();
        let head = from.head(volume, id).await?;
        if head.keys.is_some() {
            check_encrypted((from, volume), (to, copy)).await?;
        }
        let open = open_copy(to, copy, &view, &head.settings).await?;
        if open.id() == id {
            return Err(Error::new(Kind::Usage, "a volume is not copied onto itself: name another"));
        }
        let filling = Some(open.fill().await?);
        let (title, wanted) = (to.engine.title(copy), identity(id, &state));
        let theirs = to.newest_tables(copy, open.id()).await?;
        match theirs.copy_of(wanted) {
            Some((name, _)) if name.trashed().is_some() => {
                let why = format!(
                    "volume {title} has it in the trash: `windlass snapshot restore {title}@{snapshot}` brings it back"
                );
                return Err(Error::new(Kind::Exists, why));
            }
            Some((name, _)) => {
                CopyFile::of(&to.engine, open.id()).remove().await;
                if copy.moved_as().is_none() {
                    end_round(&open, wanted).await?;
                }
                let mut done = Copied { already: true, ..Copied::default() };
                if how.verify_all {
                    let copied = Side::Snapshot(to.open_snapshot(copy, name).await?);
                    done.verified_bytes =
                        match compare((&Side::Snapshot(view.clone()), &copied), &memory(to), &how).await? {
                            Ok(bytes) => bytes,
                            Err(first) => {
                                let older = newest_common((&view, id, &ours), (&open, &theirs)).await?;
                                return Err(false_copy(&title, name, first, older.is_some()));
                            }
                        };
                }
                return Ok(done);
            }
            None => {}
        }
        theirs.check_new(snapshot).map_err(|e| e.context(format!("volume {title}")))?;
        let common = newest_common((&view, id, &ours), (&open, &theirs)).await?;
        let file = CopyFile::of(&to.engine, open.id());
        let note = CopyNote::begin(id, state.id, common.as_ref().map(|common| common.state));
        let done = Copied { base: common.as_ref().map(|common| common.name.clone()), ..Copied::default() };
        let (source, memory) = (Side::Snapshot(view), memory(to));
        let mut work =
            Work { volumes: to, how: &how, source, copy: open, filling, common, file, note, done, memory };
        // What is being moved here is shown to nobody before it is whole: its name says so.
        let round = copy.moved_as().is_none().then_some(wanted);
        work.begin(round).await?;
        work.copy().await?;
        work.verify().await?;
        snapshot_as(&work.copy, snapshot, wanted, state.created_ms).await?;
        if let Some(round) = round {
            end_round(&work.copy, round).await?;
        }
        work.file.remove().await;
        Ok(work.done)
    })
}

/// Returns the round that stands in the copy's head.
async fn standing_round(copy: &Volume) -> Result<Option<CopyRound>> {
    copy.ask(|session| async move { Ok(session.head.lock().round) }).await
}

/// Notes a round in the copy's head, before the first write: from then on the copy is shown to nobody.
async fn begin_round(copy: &Volume, snapshot: Nonce) -> Result<()> {
    copy.ask(|session| async move {
        let (epoch, now_ms) = (session.epoch, session.context.rt().wall_ms());
        session.change(move |head| head.begin_round(epoch, snapshot, now_ms)).await.map(drop)
    })
    .await
}

async fn end_round(copy: &Volume, snapshot: Nonce) -> Result<()> {
    copy.ask(|session| async move { session.change(move |head| head.end_round(snapshot)).await.map(drop) })
        .await
}

/// Compares what may differ of two states. Returns how many bytes are equal; `Err`: the position of the first that is not.
async fn compare(
    (ours, theirs): (&Side, &Side),
    memory: &Budget,
    how: &Copying<'_>,
) -> Result<Result<u64, u64>> {
    let size = ours.size().max(theirs.size());
    let (mut at, mut equal) = (0, 0);
    while at < size {
        let step = step((ours, None), (theirs, None), at).await?;
        let (ranges, end) = bounded(union(&step.ours, &step.theirs), step.end);
        equal += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        if let (_, Some(first)) = differing(ours, Some(theirs), ranges, memory).await? {
            return Ok(Err(first));
        }
        at = end;
        (how.progress)("verifying", at, size);
    }
    Ok(Ok(equal))
}

/// Error for a snapshot that is not what it is taken for, with what mends it.
fn false_copy(title: &str, snapshot: &Name, first: u64, has_older: bool) -> Error {
    let cure = match has_older {
        true => format!(
            "`windlass snapshot remove {title}@{snapshot} --now`, and copy again with --rollback --verify full"
        ),
        false => format!("remove volume {title} and copy again, or copy to another name"),
    };
    let why = format!(
        "{title}@{snapshot} reads otherwise than what it is a copy of, from byte {first} on: somebody else wrote to the volume \
         when it was copied, or it is damaged. To mend it: {cure}"
    );
    Error::new(Kind::Corrupt, why)
}

fn memory(to: &Volumes) -> Budget {
    Budget::new((to.engine.memory.total() / MEMORY_PART).clamp(MEMORY.0, MEMORY.1))
}

/// Checks that what is encrypted here does not become plain there unseen.
async fn check_encrypted((from, volume): (&Volumes, &Name), (to, copy): (&Volumes, &Name)) -> Result<()> {
    let there = match to.id(copy).await {
        Ok(id) => to.engine.cell(id).read().await?,
        Err(e) if e.is(Kind::NotFound) => None,
        Err(e) => return Err(e),
    };
    if there.is_some_and(|head| head.keys.is_some()) {
        return Ok(());
    }
    let (volume, copy) = (from.engine.title(volume), to.engine.title(copy));
    let why = format!(
        "volume {volume} is encrypted, and {copy} would not be: make that with `windlass volume create {copy} --encrypt`, \
         of the same size, and copy again"
    );
    Err(Error::new(Kind::Refused, why))
}

/// Opens the volume that is written, which is made if there is none of this name.
async fn open_copy(
    to: &Volumes,
    copy: &Name,
    view: &SnapshotView,
    source: &VolumeSettings,
) -> Result<Arc<Volume>> {
    let open = match to.open(copy, OpenMode::Normal).await {
        Err(e) if e.is(Kind::NotFound) => {
            let VolumeSettings { flush, compression, .. } = *source;
            let settings = VolumeSettings { flush, compression, ..VolumeSettings::default() };
            to.create(copy, view.size(), settings).await?;
            to.open(copy, OpenMode::Normal).await?
        }
        open => open?,
    };
    let title = to.engine.title(copy);
    if open.settings().template {
        return Err(Error::new(Kind::Refused, is_template(&title)));
    }
    Ok(open)
}

/// Returns the newest of the source's older snapshots that the copy has too.
async fn newest_common(
    (view, id, ours): (&SnapshotView, VolumeId, &Tables),
    (copy, theirs): (&Volume, &Tables),
) -> Result<Option<Common>> {
    let older = ours.with_trash().filter(|(_, state)| state.id < view.id().state);
    let both = older.filter_map(|(name, state)| {
        let (name_there, there) = theirs.copy_of(identity(id, state))?;
        Some((state.id, name, name_there, there.id))
    });
    let Some((_, name, name_there, state)) = both.max_by_key(|(id, ..)| *id) else { return Ok(None) };
    let (ours, theirs) = (view.since(name).await?, copy.since(name_there).await?);
    Ok(Some(Common { ours, theirs, name: name_there.clone(), state }))
}

/// Difference between a volume and its copy: the rest of a move, which is copied while nobody writes.
#[derive(Debug)]
pub struct Rest {
    to: Volumes,
    source: Arc<Volume>,
    copy: Arc<Volume>,
    common: Common,
}

impl Rest {
    /// Makes the difference since a snapshot that both have by the same name, and notes in the copy's file that it is written
    /// to.
    pub fn since<'f>(
        snapshot: &'f Name,
        source: &'f Arc<Volume>,
        (to, copy): (&'f Volumes, &'f Arc<Volume>),
    ) -> BoxFuture<'f, Result<Rest>> {
        Box::pin(async move {
            let (ours, theirs) = (source.since(snapshot).await?, copy.since(snapshot).await?);
            let state = theirs.snapshot.state;
            let common = Common { ours, theirs, name: snapshot.clone(), state };
            let rest = Rest { to: to.clone(), source: source.clone(), copy: copy.clone(), common };
            // Whatever becomes of it, the next copy of a snapshot writes over it.
            rest.work(&QUIET).file.store(&rest.note()).await?;
            Ok(rest)
        })
    }

    /// Returns a note that names no snapshot, since what is written is of none.
    fn note(&self) -> CopyNote {
        CopyNote::begin(self.source.id(), StateId(0), Some(self.common.state))
    }

    fn work<'a>(&'a self, how: &'a Copying<'a>) -> Work<'a> {
        Work {
            volumes: &self.to,
            how,
            source: Side::Tip(self.source.clone()),
            copy: self.copy.clone(),
            filling: None,
            common: Some(self.common.clone()),
            file: CopyFile::of(&self.to.engine, self.copy.id()),
            note: self.note(),
            done: Copied::default(),
            memory: memory(&self.to),
        }
    }

    /// Returns how many bytes may differ now.
    pub fn bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let source = Side::Tip(self.source.clone());
            let (mut at, mut bytes) = (0, 0);
            while at < source.size() {
                let (changed, end) = source.changed(Some(&self.common.ours), at).await?;
                bytes += changed.iter().map(|range| range.end - range.start).sum::<u64>();
                at = end;
            }
            Ok(bytes)
        })
    }

    /// Copies the rest. The copy holds what the volume holds then, read back from both, and all of it is in the copy's pool.
    /// Nobody may write to either.
    pub fn copy(&self) -> BoxFuture<'_, Result<Copied>> {
        Box::pin(async move {
            let mut work = self.work(&QUIET);
            work.fit_size().await?;
            work.copy().await?;
            work.verify().await?;
            self.copy.store_all().await?;
            Ok(work.done)
        })
    }
}

impl Work<'_> {
    fn ours(&self) -> (&Side, Option<&Since>) {
        (&self.source, self.common.as_ref().map(|common| &common.ours))
    }

    fn tip(&self) -> Side {
        Side::Tip(self.copy.clone())
    }

    fn since_theirs(&self) -> Option<&Since> {
        self.common.as_ref().map(|common| &common.theirs)
    }

    fn title(&self) -> String {
        self.volumes.engine.title(&self.copy.name())
    }

    /// Sees to it that the copy shows what it did when it had the common snapshot, but for what an earlier attempt wrote.
    /// `round`: what tells the snapshot, of a copy that clients may be shown when it is whole.
    async fn begin(&mut self, round: Option<Nonce>) -> Result<()> {
        let noted = self.file.load().await;
        // Where none stands somebody has rolled the copy back since, and may have written to it.
        let stands = match round {
            None => Some(true),
            Some(snapshot) => standing_round(&self.copy).await?.map(|round| round.snapshot == snapshot),
        };
        let (own, resumed) = match (&noted, stands) {
            (Some(noted), Some(is_this)) => {
                let own = noted.stands_on(&self.note);
                (own, own && noted.is_of(&self.note) && is_this)
            }
            _ => (false, false),
        };
        // What an attempt with another snapshot left is written over.
        let changed = if own && !resumed { 0 } else { self.changed_by_others(resumed).await? };
        if changed > 0 {
            self.roll_back(changed).await?;
        } else if let Some(noted) = noted.filter(|_| resumed) {
            self.note.position = noted.position;
            self.done.resumed_bytes = noted.position;
        }
        self.fit_size().await?;
        if let Some(snapshot) = round {
            begin_round(&self.copy, snapshot).await?;
        }
        self.file.store(&self.note).await
    }

    /// Counts the bytes in blocks of the copy that read otherwise than in the common snapshot. `resumed`: but for those that
    /// the copying itself writes.
    async fn changed_by_others(&self, resumed: bool) -> Result<u64> {
        let tip = self.tip();
        let before = match &self.common {
            Some(common) => {
                Some(Side::Snapshot(self.volumes.open_snapshot(&self.copy.name(), &common.name).await?))
            }
            None => None,
        };
        let (mut at, mut changed) = (0, 0);
        while at < tip.size() {
            let (ranges, end) = match resumed {
                true => {
                    let step = step(self.ours(), (&tip, self.since_theirs()), at).await?;
                    (without(&step.theirs, &step.ours), step.end)
                }
                false => tip.changed(self.since_theirs(), at).await?,
            };
            let (ranges, end) = bounded(ranges, end);
            changed += differing(&tip, before.as_ref(), ranges, &self.memory).await?.0;
            at = end;
            (self.how.progress)("looking", at, tip.size());
        }
        Ok(changed)
    }

    async fn roll_back(&mut self, changed: u64) -> Result<()> {
        let (title, changed) = (self.title(), show_bytes(changed));
        let Some(common) = &self.common else {
            let why = format!(
                "volume {title} holds {changed} that are not of this copy, and no snapshot that both have: copy to another name"
            );
            return Err(Error::new(Kind::Refused, why));
        };
        if !self.how.roll_back {
            let why = format!(
                "volume {title} has changed since {title}@{}, the newest snapshot that both have ({changed}): with --rollback \
                 that is lost",
                common.name
            );
            return Err(Error::new(Kind::Refused, why));
        }
        let name = self.copy.name();
        let id = self.copy.id();
        self.volumes.roll_back_this((&name, Some(id)), &common.name, None).await?;
        self.copy = self.volumes.open(&name, OpenMode::Normal).await?;
        self.volumes.check_this(&name, self.copy.id(), Some(id))?;
        self.filling = Some(self.copy.fill().await?);
        Ok(())
    }

    /// Makes the copy as large as the snapshot. `Refused`: the copy is larger.
    async fn fit_size(&mut self) -> Result<()> {
        let (size, has) = (self.source.size(), self.copy.size());
        if size > has {
            self.volumes.resize(&self.copy.name(), size).await?;
        }
        if size < has {
            let why = format!(
                "volume {} has {}, the snapshot {}, and a volume does not shrink: copy to another name",
                self.title(),
                show_size(has),
                show_size(size)
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(())
    }

    /// Writes what either side has changed as the source has it.
    async fn copy(&mut self) -> Result<()> {
        let (tip, size) = (self.tip(), self.source.size());
        let (mut at, mut unnoted) = (self.note.position, 0);
        while at < size {
            let step = step(self.ours(), (&tip, self.since_theirs()), at).await?;
            let (ranges, end) = bounded(union(&step.ours, &step.theirs), step.end);
            unnoted += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            self.copy_ranges(ranges).await?;
            at = end;
            (self.how.progress)("copying", at, size);
            if unnoted >= STEP {
                self.keep(at).await?;
                unnoted = 0;
            }
        }
        self.keep(size).await
    }

    /// Flushes the copy, and notes that all before `position` is as the source has it, for good.
    async fn keep(&mut self, position: u64) -> Result<()> {
        self.copy.flush().await?;
        self.note.position = position;
        self.file.store(&self.note).await
    }

    async fn copy_ranges(&mut self, ranges: Vec<Range<u64>>) -> Result<()> {
        let mut parts = Vec::new();
        for range in ranges {
            for (range, is_data) in self.source.allocation(&range).await? {
                match is_data {
                    true => parts.extend(pieces(range).map(|piece| (piece, true))),
                    false => parts.push((range, false)),
                }
            }
        }
        let sum = |wanted: bool| {
            let of = parts.iter().filter(|(_, is_data)| *is_data == wanted);
            of.map(|(range, _)| range.end - range.start).sum::<u64>()
        };
        let (copied, zeroed) = (sum(true), sum(false));
        let (source, copy, memory) = (&self.source, &self.copy, &self.memory);
        let write = |(range, is_data): (Range<u64>, bool)| async move {
            let len = range.end - range.start;
            if !is_data {
                return copy.zero(range.start, len).await;
            }
            let _held = memory.take(len).await;
            copy.write(range.start, source.read(&range).await?).await
        };
        let all = stream::iter(parts).map(write).buffer_unordered(AT_ONCE);
        all.try_for_each(|()| std::future::ready(Ok(()))).await?;
        self.done.copied_bytes += copied;
        self.done.zeroed_bytes += zeroed;
        Ok(())
    }

    /// Reads from both what may differ, and compares it.
    async fn verify(&mut self) -> Result<()> {
        let (tip, size) = (self.tip(), self.source.size());
        let (mut at, mut verified) = (0, 0);
        while at < size {
            let (ours, theirs) = match self.how.verify_all {
                true => ((&self.source, None), (&tip, None)),
                false => (self.ours(), (&tip, self.since_theirs())),
            };
            let step = step(ours, theirs, at).await?;
            let (ranges, end) = bounded(union(&step.ours, &step.theirs), step.end);
            verified += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            let mut differs = differing(&self.source, Some(&tip), ranges.clone(), &self.memory).await?.1;
            if differs.is_some() && self.how.verify_all && self.how.roll_back {
                // The snapshot on which the copy stands is not what it is taken for.
                self.copy_ranges(ranges.clone()).await?;
                differs = differing(&self.source, Some(&tip), ranges, &self.memory).await?.1;
            }
            if let Some(first) = differs {
                self.note.position = 0;
                self.file.store(&self.note).await?;
                return Err(self.differs(first));
            }
            at = end;
            (self.how.progress)("verifying", at, size);
        }
        self.done.verified_bytes = verified;
        Ok(())
    }

    fn differs(&self, first: u64) -> Error {
        let cure = match &self.common {
            Some(common) if self.how.verify_all => format!(
                "its snapshot {}, on which it stands, may be damaged as well; copying again with --rollback --verify full \
                 writes what differs",
                common.name
            ),
            _ => "copying again mends it".into(),
        };
        let why = format!(
            "volume {} reads otherwise than what was copied to it, from byte {first} on: somebody else wrote to it, or it is \
             damaged; {cure}",
            self.title()
        );
        Error::new(Kind::Corrupt, why)
    }
}
