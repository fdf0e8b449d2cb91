//! Staged bytes in a file of their own.
//!
//! `ID.stage` begins with the entries of the file's notes (see `note`); the bytes follow at their places. `ID.edits` stands
//! beside it where bytes of the object still count: it says which bytes of the stage are the file's. Without it, all
//! are.
//!
//! | `ID.stage` | bytes | meaning |
//! |---|---|---|
//! | 0 | 32768 | its notes |
//! | 32768 | … | the file's bytes from its first on; zeros where it ends early |
//!
//! | `ID.edits`, a record | bytes | meaning |
//! |---|---|---|
//! | 0 | 8 | start of a range that is the file's; or the length to which the file was cut |
//! | 8 | 8 | the range's end; or 2⁶⁴ − 1: a cut |
//! | 16 | 8 | XXH3-64 of both and the record's place |
//!
//! Numbers are little-endian. A file descriptor is held only while the file is in use.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::note::{AREA as DATA, FREED_FORMAT, Note, NoteRing, word};
use super::stage::StagedFile;
use super::unsynced_removals::StagingDir;
use crate::object::ByteRanges;
use windlass_base::rt::{Disk, DiskFile, OpenHow};
use windlass_base::{Error, Kind, Result, ResultExt as _};

const RECORD: usize = 24;
const CUT: u64 = u64::MAX;
/// Number of bytes in which edits are read at a time.
const PIECE: usize = RECORD << 12;

/// Staged parts of a file, as its record of edits tells.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Edits {
    pub local: ByteRanges,
    pub base_len: u64,
    pub size: u64,
}

impl Edits {
    fn apply(&mut self, start: u64, end: u64) {
        // What lies between the old end and the new one is zeros, and staged.
        let hole = self.size..start;
        if end == CUT {
            self.local.cut(start);
            self.base_len = self.base_len.min(start);
            self.size = start;
        } else {
            self.local.insert(start..end);
            self.size = self.size.max(end);
        }
        self.local.insert(hole);
    }
}

#[derive(Debug, Default)]
struct Log {
    file: Option<Arc<dyn DiskFile>>,
    records: u64,
    /// True if an earlier run wrote the records.
    inherited: bool,
    covered: ByteRanges,
}

/// Staged bytes of one file in a file of their own.
pub struct FileStage {
    folder: StagingDir,
    data: PathBuf,
    edits: PathBuf,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Record of edits; `None`: every byte of the stage is the file's.
    log: Option<tokio::sync::Mutex<Log>>,
    /// Id of the slot that the file outgrew. Notes name it once this stage has the file, which the first note
    /// does not say yet.
    outgrown_slot: Option<String>,
    ring: tokio::sync::Mutex<NoteRing>,
    /// A sync of the stage has failed: what it should have made durable is lost, and no later sync would
    /// tell.
    failed: AtomicBool,
    /// The stage's name in the folder is durable.
    named: AtomicBool,
    /// Bytes of the stage may have been made durable.
    durable: AtomicBool,
    /// The stage has taken another version's place durably.
    took: AtomicBool,
    /// The stage's notes say that it was to survive a loss of power (`Note::synced`).
    synced: AtomicBool,
    /// The stage's names were taken out of the folder.
    nameless: AtomicBool,
    /// Range that was freed (`StagedFile::freed`). It grows before the bytes go, so that nobody takes a
    /// hole's zeros for bytes.
    freed: Mutex<Range<u64>>,
}

pub(super) fn record(start: u64, end: u64, place: u64) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..8].copy_from_slice(&start.to_le_bytes());
    out[8..16].copy_from_slice(&end.to_le_bytes());
    out[16..].copy_from_slice(&place.to_le_bytes());
    let hash = xxh3_64(&out);
    out[16..].copy_from_slice(&hash.to_le_bytes());
    out
}

impl FileStage {
    fn new(folder: &StagingDir, data: PathBuf, note: &Note, ring: NoteRing) -> FileStage {
        let edits = data.with_extension("edits");
        let log = note.partly.then(tokio::sync::Mutex::default);
        let (outgrown_slot, ring) = (note.outgrown_slot.clone(), ring.into());
        let (file, folder) = (Mutex::default(), folder.clone());
        let (failed, named, durable, took, nameless) = Default::default();
        let synced = note.synced.into();
        // What an earlier run has freed is not known in detail.
        let freed = if note.is_freed() { 0..u64::MAX } else { 0..0 }.into();
        FileStage {
            folder,
            data,
            edits,
            file,
            log,
            outgrown_slot,
            ring,
            failed,
            named,
            durable,
            took,
            synced,
            nameless,
            freed,
        }
    }

    /// Makes a new stage at `data` (`….stage`) with the file's `first` bytes. `edits` say what of the file is
    /// staged, where not all of it will be.
    pub async fn create(
        folder: &StagingDir,
        data: PathBuf,
        note: &Note,
        edits: Option<&Edits>,
        first: Option<Bytes>,
    ) -> Result<FileStage> {
        assert_eq!(note.partly, edits.is_some(), "a note says whether edits stand beside");
        let stage = FileStage::new(folder, data, note, NoteRing::new(0));
        let doing = || format!("staging {} at {}", note.key, stage.path().display());
        if let (Some(edits), Some(log)) = (edits, &stage.log) {
            let log = &mut *log.lock().await;
            stage.append(log, edits.base_len, CUT).await.context(doing)?;
            stage.append(log, edits.size, CUT).await.context(doing)?;
        }
        let file = folder.disk().open(&stage.data, OpenHow::CreateNew).await.context(doing)?;
        *stage.file.lock() = Some(file.clone());
        let filled = async {
            if edits.is_none() && note.size > 0 {
                file.set_len(DATA + note.size).await?;
            }
            if let Some(first) = first {
                file.pwrite(DATA, vec![first], false).await?;
            }
            stage.note(note, false).await
        };
        if let Err(why) = filled.await.context(doing) {
            // What a full disk refuses once for each write must not fill it.
            let _ = stage.remove().await;
            return Err(why);
        }
        Ok(stage)
    }

    /// Opens what an earlier run left at `data`: its note, and what of the file is here. `None` if that can't
    /// be told.
    pub async fn open(folder: &StagingDir, data: PathBuf) -> Result<Option<(FileStage, Note, Edits)>> {
        let disk = folder.disk();
        let file = disk.open(&data, OpenHow::Write).await?;
        let head = file.pread(0, DATA as usize).await?;
        let (ring, Some(note)) = NoteRing::read(0, &head) else { return Ok(None) };
        let staged = file.size().await?.saturating_sub(DATA);
        let log = match disk.open(&data.with_extension("edits"), OpenHow::Write).await {
            Ok(log) => Some(log),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => None,
            Err(why) => return Err(why.into()),
        };
        if note.partly != log.is_some() {
            return Ok(None);
        }
        let size = note.base.as_ref().map_or(0, |b| b.size);
        let mut edits = Edits { local: ByteRanges::default(), base_len: size, size };
        let mut records = 0;
        match &log {
            Some(log) => records = read_edits(log.as_ref(), &mut edits).await?,
            None => {
                edits = Edits { local: ByteRanges::default(), base_len: 0, size: staged };
                edits.local.insert(0..staged);
            }
        }
        let stage = FileStage::new(folder, data, &note, ring);
        stage.durable.store(true, Ordering::Release);
        if let Some(ours) = &stage.log {
            *ours.lock().await = Log { file: None, records, inherited: true, covered: edits.local.clone() };
        }
        Ok(Some((stage, note, edits)))
    }

    /// Tells whether the stage was being made when the crash came: it has no note yet, and no bytes that are
    /// nowhere else.
    pub async fn is_unborn(disk: &Arc<dyn Disk>, data: &Path) -> Result<bool> {
        let head = disk.open(data, OpenHow::Read).await?.pread(0, DATA as usize).await?;
        Ok(head.iter().all(|byte| *byte == 0))
    }

    async fn file(&self) -> std::io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &*self.file.lock() {
            return Ok(file.clone());
        }
        let file = self.folder.disk().open(&self.data, OpenHow::Write).await?;
        Ok(self.file.lock().get_or_insert(file).clone())
    }

    /// Records that these bytes of the stage are the file's.
    async fn edited(&self, start: u64, end: u64) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut log = log.lock().await;
        if start >= end || log.covered.covers(start..end) {
            return Ok(());
        }
        self.append(&mut log, start, end).await?;
        log.covered.insert(start..end);
        Ok(())
    }

    async fn append(&self, log: &mut Log, start: u64, end: u64) -> Result<()> {
        let file = match &log.file {
            Some(file) => file.clone(),
            None => self.folder.disk().open(&self.edits, OpenHow::Create).await?,
        };
        if log.inherited {
            // What a loss of power left behind a record that it took must never follow another.
            let end = log.records * RECORD as u64;
            if file.size().await? > end {
                file.set_len(end).await?;
                file.sync().await?;
            }
            log.inherited = false;
        }
        let bytes = Bytes::copy_from_slice(&record(start, end, log.records));
        file.pwrite(log.records * RECORD as u64, vec![bytes], false).await?;
        log.records += 1;
        log.file = Some(file);
        Ok(())
    }

    /// Fails with `kind` if bytes of the range were freed: they are only in an upload.
    fn lacks(&self, range: &Range<u64>, kind: Kind) -> Result<()> {
        let freed = self.freed.lock().clone();
        if range.start >= freed.end || freed.start >= range.end {
            return Ok(());
        }
        let said = format!(
            "{}: these bytes were sent and freed, as the disk of the state folder is nearly full: they can be used when the file \
             is closed",
            self.data.display()
        );
        Err(Error::new(kind, said))
    }

    /// Says durably, in all notes, that bytes of the stage go. Whoever finds the stage must not take zeros
    /// for bytes. That holds after a loss of power, and for a program that does not know the format and would
    /// go by an earlier note.
    async fn note_freed(&self, note: &Note) -> Result<()> {
        self.note(note, false).await?;
        let file = self.file().await?;
        self.firm(file.sync()).await?;
        let mut ring = self.ring.lock().await;
        // No later note is written over this one, before the next that is durable.
        ring.synced();
        let (outgrown_slot, synced) = (self.outgrown_slot.clone(), self.synced.load(Ordering::Acquire));
        let note = Note { format: FREED_FORMAT, outgrown_slot, synced, ..note.clone() };
        for start in ring.earlier() {
            let (at, bytes) = ring.over(start, &note)?;
            file.pwrite(at.start, vec![bytes], false).await?;
            ring.wrote(at);
        }
        self.firm(file.sync()).await
    }

    /// Waits for a sync of the stage's, unless one has failed before. A failure is remembered.
    async fn firm(&self, sync: impl Future<Output = std::io::Result<()>>) -> Result<()> {
        let failed = |why: &dyn fmt::Display| {
            let said = format!("{} may have lost what was written to it: {why}", self.path().display());
            Error::new(Kind::Io, said)
        };
        if self.failed.load(Ordering::Acquire) {
            return Err(failed(&"an earlier sync failed"));
        }
        sync.await.map_err(|why| {
            self.failed.store(true, Ordering::Release);
            failed(&why)
        })
    }
}

#[async_trait]
impl StagedFile for FileStage {
    fn path(&self) -> PathBuf {
        self.data.clone()
    }

    fn id(&self) -> String {
        self.data.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    fn partly(&self) -> bool {
        self.log.is_some()
    }

    fn is_doubtful(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Tells whether the stage's notes say that it was to survive a loss of power.
    fn is_sure(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    fn mark_sent(&self) {
        self.synced.store(false, Ordering::Release);
    }

    fn release_fds(&self) {
        self.file.lock().take();
        if let Some(mut log) = self.log.as_ref().and_then(|log| log.try_lock().ok()) {
            log.file = None;
        }
    }

    async fn sync_recovered(&self) -> Result<()> {
        if self.log.is_some() {
            self.folder.disk().open(&self.edits, OpenHow::Write).await?.sync().await?;
        }
        self.firm(self.file().await?.sync()).await?;
        let dir = self.data.parent().unwrap_or(Path::new("."));
        Ok(self.folder.disk().sync_dir(dir).await?)
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let end = offset + data.len() as u64;
        self.lacks(&(offset..end), Kind::NoSpace)?;
        self.file().await?.pwrite(DATA + offset, vec![data], false).await?;
        self.edited(offset, end).await
    }

    async fn cut(&self, size: u64) -> Result<()> {
        if size > 0 {
            self.lacks(&(size..u64::MAX), Kind::NoSpace)?;
        }
        if let Some(log) = &self.log {
            let mut log = log.lock().await;
            self.append(&mut log, size, CUT).await?;
            log.covered.cut(size);
        }
        self.file().await?.set_len(DATA + size).await?;
        if size == 0 {
            *self.freed.lock() = 0..0;
        }
        Ok(())
    }

    async fn take_back(&self, size: u64) -> Result<()> {
        // The log has no word of them.
        Ok(self.file().await?.set_len(DATA + size).await?)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let found = self.file().await?.pread(DATA + offset, len).await?;
        // Looked at afterwards: bytes may be freed while they are read.
        self.lacks(&(offset..offset + len as u64), Kind::Io)?;
        padded(found, len)
    }

    fn freed(&self) -> Range<u64> {
        self.freed.lock().clone()
    }

    async fn free(&self, note: &Note, range: Range<u64>) -> Result<bool> {
        if self.log.is_some() {
            return Ok(false);
        }
        let before = {
            let mut freed = self.freed.lock();
            let all = if freed.is_empty() { range.clone() } else { freed.start..range.end };
            std::mem::replace(&mut *freed, all)
        };
        let first = before.is_empty();
        let file = self.file().await?;
        if first && let Err(why) = self.note_freed(note).await {
            *self.freed.lock() = before;
            return Err(why);
        }
        match file.punch(DATA + range.start, range.end - range.start).await {
            Err(why) if first && why.kind() == std::io::ErrorKind::Unsupported => {
                *self.freed.lock() = before;
                Ok(false)
            }
            punched => Ok(punched.map(|()| true)?),
        }
    }

    /// Writes down whose bytes these are. With `durable`, all that was staged is made to survive a loss of
    /// power too; once that has failed, it fails for good.
    async fn note(&self, note: &Note, durable: bool) -> Result<()> {
        let mut ring = self.ring.lock().await;
        let first = ring.number() == 1;
        // What was left there may come back with the power, whatever was written since. The first note is from before.
        let outgrown_slot = self.outgrown_slot.clone().filter(|_| !first);
        let takes = note.rewrites.is_some() && !self.took.load(Ordering::Acquire);
        let replaces = takes || outgrown_slot.is_some() && !self.named.load(Ordering::Acquire);
        let was = self.synced.load(Ordering::Acquire);
        let synced = durable || was;
        let format = if self.freed.lock().is_empty() { note.format } else { FREED_FORMAT };
        let (at, bytes) = ring.next(&Note { format, outgrown_slot, synced, ..note.clone() })?;
        let file = self.file().await?;
        if durable && self.log.is_some() {
            let edits = self.folder.disk().open(&self.edits, OpenHow::Write).await?;
            self.firm(edits.sync()).await?;
        }
        if durable && (replaces || !was) || ring.inherited() {
            // The note must not outlive the bytes: what it replaces goes with it, and it says that they are safe. Nor may
            // what an earlier run left be written over while it may be all that a loss of power leaves.
            let synced = self.firm(file.sync()).await;
            ring.synced();
            synced.or_else(|why| if durable { Err(why) } else { Ok(()) })?;
        }
        file.pwrite(at.start, vec![bytes], false).await?;
        ring.wrote(at);
        self.synced.store(synced, Ordering::Release);
        if durable {
            let failed = |why: &Error| {
                tracing::debug!(%why, "later notes don't say that it is synced");
                self.synced.store(was, Ordering::Release);
            };
            self.firm(file.sync()).await.inspect_err(failed)?;
            ring.synced();
            self.durable.store(true, Ordering::Release);
            self.took.fetch_or(note.replaces().is_some(), Ordering::AcqRel);
        }
        if durable && !self.named.load(Ordering::Acquire) {
            let dir = self.data.parent().unwrap_or(Path::new("."));
            self.folder.disk().sync_dir(dir).await?;
            self.named.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Takes the stage's names out of the folder. Whoever holds the stage goes on with it.
    async fn remove(&self) -> Result<()> {
        if self.nameless.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if let Err(why) = self.file().await {
            // A removed file that came back would be worse.
            tracing::warn!(path = %self.data.display(), %why, "who has a removed file open can't read what is staged of it");
        }
        // Edits without a stage are nothing, while a stage without its edits would be taken for whole.
        if let Err(why) = self.folder.remove(&self.data).await {
            self.nameless.store(false, Ordering::Release);
            return Err(why.into());
        }
        if self.log.is_some() {
            self.folder.remove(&self.edits).await?;
        }
        Ok(())
    }
}

/// Returns what was read, with zeros behind it up to `len`.
pub fn padded(found: Bytes, len: usize) -> Result<Bytes> {
    if found.len() > len {
        return Err(Error::new(Kind::Internal, "the disk gave more bytes than asked for"));
    }
    if found.len() == len {
        return Ok(found);
    }
    let mut padded = found.to_vec();
    padded.resize(len, 0);
    Ok(padded.into())
}

async fn read_edits(log: &dyn DiskFile, edits: &mut Edits) -> Result<u64> {
    let mut place = 0;
    loop {
        let bytes = log.pread(place * RECORD as u64, PIECE).await?;
        for one in bytes.chunks_exact(RECORD) {
            let (start, end) = (word(one, 0), word(one, 8));
            // A write whose record is torn was never answered.
            if *one != record(start, end, place) || start > end {
                return Ok(place);
            }
            edits.apply(start, end);
            place += 1;
        }
        if bytes.len() < PIECE {
            return Ok(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Mark;
    use super::*;
    use crate::object::Base;
    use windlass_base::rt::sim::{Sim, SimDisk};
    use windlass_store::Etag;

    fn note() -> Note {
        Note { key: "k".into(), mark: Mark::Open, url: "mem:x".into(), ..Note::nobody() }
    }

    #[test]
    fn the_bytes_of_a_record_are_these() {
        assert_eq!(word(&record(1, 2, 3), 16), 8_964_613_590_703_056_768);
    }

    #[test]
    fn what_was_staged_is_found_again() {
        let sim = Sim::new(7);
        let world = sim.clone();
        sim.run(async move {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(&world));
            let folder = StagingDir::on(&disk);
            disk.create_dir(Path::new("/s")).await.unwrap();
            let fresh = FileStage::create(&folder, "/s/a.stage".into(), &note(), None, None).await.unwrap();
            fresh.write(0, Bytes::from_static(b"hello")).await.unwrap();
            fresh.cut(9).await.unwrap();
            let closed = Note { mark: Mark::Closed, size: 9, ..note() };
            fresh.note(&closed, true).await.unwrap();
            let (found, told, edits) = FileStage::open(&folder, "/s/a.stage".into()).await.unwrap().unwrap();
            let closed = Note { synced: true, ..closed };
            assert_eq!((told, edits.size, edits.base_len), (closed, 9, 0));
            assert_eq!(found.read(0, 9).await.unwrap(), &b"hello\0\0\0\0"[..]);

            let base = Some(Base { etag: Etag("e".into()), size: 100 });
            let about = Note { base, partly: true, ..note() };
            let whole = Edits { local: ByteRanges::default(), base_len: 100, size: 100 };
            let edit =
                FileStage::create(&folder, "/s/b.stage".into(), &about, Some(&whole), None).await.unwrap();
            edit.write(10, Bytes::from_static(b"xyz")).await.unwrap();
            edit.write(11, Bytes::from_static(b"y")).await.unwrap();
            edit.cut(50).await.unwrap();
            edit.write(60, Bytes::from_static(b"end")).await.unwrap();
            let (found, _, edits) = FileStage::open(&folder, "/s/b.stage".into()).await.unwrap().unwrap();
            assert_eq!((edits.base_len, edits.size), (50, 63));
            assert_eq!(edits.local.within(0..63).collect::<Vec<_>>(), [10..13, 50..63]);
            found.remove().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["a.stage"]);
            assert_eq!(found.read(10, 3).await.unwrap(), &b"xyz"[..], "who holds it goes on");
        })
        .unwrap();
    }

    /// Promise: A file may be larger than the disk of the state folder.
    #[test]
    fn no_earlier_note_counts_once_bytes_were_freed() {
        for seed in 0..60 {
            let sim = Sim::new(seed);
            let world = sim.clone();
            sim.run(async move {
                let simulated = Arc::new(SimDisk::new(&world));
                let disk: Arc<dyn Disk> = simulated.clone();
                let (folder, data) = (StagingDir::on(&disk), PathBuf::from("/s/a.stage"));
                disk.create_dir(Path::new("/s")).await.unwrap();
                disk.sync_dir(Path::new("/")).await.unwrap();
                let stage = FileStage::create(&folder, data.clone(), &note(), None, None).await.unwrap();
                disk.sync_dir(Path::new("/s")).await.unwrap();
                stage.write(0, vec![7; 64 << 10].into()).await.unwrap();
                for _ in 0..world.below(4) {
                    stage.note(&note(), world.below(2) == 0).await.unwrap();
                }
                assert!(stage.free(&note(), 8192..32768).await.unwrap());
                for _ in 0..world.below(5) {
                    stage.note(&note(), false).await.unwrap();
                }
                simulated.power_loss();
                let (found, told, _) = FileStage::open(&folder, data.clone()).await.unwrap().unwrap();
                assert!(told.is_freed(), "seed {seed}: zeros are taken for bytes");
                found.read(0, 9).await.unwrap_err();
                // A program that knows only the other format reads the notes that have it.
                let area =
                    disk.open(&data, OpenHow::Read).await.unwrap().pread(0, DATA as usize).await.unwrap();
                let known: &[u8] = br#"{"format":5,"#;
                assert!(area.windows(known.len()).all(|bytes| bytes != known), "seed {seed}");
                found.cut(0).await.unwrap();
                found.note(&note(), false).await.unwrap();
                let (_, told, edits) = FileStage::open(&folder, data).await.unwrap().unwrap();
                assert_eq!((told.is_freed(), edits.size), (false, 0), "emptied, it is as any other");
            })
            .unwrap();
        }
    }

    #[test]
    fn what_stands_behind_a_torn_edit_never_counts() {
        let sim = Sim::new(7);
        let world = sim.clone();
        sim.run(async move {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(&world));
            let folder = StagingDir::on(&disk);
            disk.create_dir(Path::new("/s")).await.unwrap();
            let base = Some(Base { etag: Etag("e".into()), size: 100 });
            let about = Note { base, partly: true, ..note() };
            let whole = Edits { local: ByteRanges::default(), base_len: 100, size: 100 };
            let edit =
                FileStage::create(&folder, "/s/b.stage".into(), &about, Some(&whole), None).await.unwrap();
            edit.write(10, Bytes::from_static(b"xyz")).await.unwrap();
            edit.cut(50).await.unwrap();
            // The power took the third record's page and left the fourth's.
            let edits = disk.open(Path::new("/s/b.edits"), OpenHow::Write).await.unwrap();
            edits.pwrite(2 * RECORD as u64, vec![Bytes::from_static(&[0; RECORD])], false).await.unwrap();
            let (found, _, left) = FileStage::open(&folder, "/s/b.stage".into()).await.unwrap().unwrap();
            assert_eq!(left.size, 100);
            found.write(60, Bytes::from_static(b"abc")).await.unwrap();
            let (_, _, left) = FileStage::open(&folder, "/s/b.stage".into()).await.unwrap().unwrap();
            assert_eq!(
                (left.size, left.local.covers(60..63)),
                (100, true),
                "a record of before counts again"
            );
        })
        .unwrap();
    }
}
