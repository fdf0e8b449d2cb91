//! Staged bytes in a slot of a slab: a small file that is on this host as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::file_stage::padded;
use super::note::{AREA, Mark, Note, NoteRing};
use super::slab::{DATA, Extent, HEAD, SLOT_DATA_MAX, Slot};
use super::stage::StagedFile;
use windlass_base::rt::DiskFile;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// State of the slot's file by now. Locked while bytes or notes are written, so that a checksum is always
/// that of the bytes for which it is written.
#[derive(Debug)]
struct SlotState {
    extent: Extent,
    /// Offset from which on nothing was written: zeros.
    virgin: u64,
    ring: NoteRing,
    /// Number of the newest note whose checksum covers the staged bytes.
    closed: u64,
    /// True if this stage has taken another version's place durably.
    took: bool,
    /// True if the slot serves no file any more.
    released: bool,
}

/// Staged bytes of a small file in a slot of a slab.
pub struct SlabStage {
    slot: Slot,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    state: tokio::sync::Mutex<SlotState>,
    /// Bytes of the slot may have been made durable. Such a slot is not changed any more: its checksum would
    /// not tell what was written since from what was lost.
    durable: AtomicBool,
    /// A note had the checksum of the slot's bytes.
    summed: AtomicBool,
}

/// Contents of a slot that an earlier run left.
pub enum SlotContents {
    /// The slot is free.
    Free,
    /// The slot has a file of so many bytes. Its note has a checksum if it is the one of these bytes.
    File(SlabStage, Note, u64),
    /// The disk has lost what was in the slot, and perhaps the note that said what it was.
    Lost(SlabStage, Option<Note>),
}

impl SlabStage {
    fn new(slot: Slot, extent: Extent, virgin: u64, ring: NoteRing, closed: u64) -> SlabStage {
        let state = SlotState { extent, virgin, ring, closed, took: false, released: false }.into();
        let (file, durable, summed) = Default::default();
        SlabStage { slot, file, state, durable, summed }
    }

    /// Stages a new file of `note.size` zeros in the slot.
    pub async fn create(slot: Slot, note: &Note) -> Result<SlabStage> {
        let doing = || format!("staging {} at {}", note.key, slot.path().display());
        let extent = Extent { len: fits(note.size)?, touched: 0 };
        let staged = SlabStage::new(slot.clone(), extent, 0, NoteRing::new(HEAD), 0);
        let made = async {
            let mut head = vec![0; HEAD as usize];
            head[..24].copy_from_slice(&extent.bytes());
            let mut s = staged.state.lock().await;
            let (at, entry) = s.ring.next(note)?;
            let file = staged.file().await?;
            file.pwrite(slot.start(), vec![head.into(), entry], false).await?;
            s.ring.wrote(at);
            Ok::<_, Error>(())
        };
        match made.await.context(doing) {
            Ok(()) => Ok(staged),
            Err(why) => {
                let _ = staged.remove().await;
                Err(why)
            }
        }
    }

    /// Reads what an earlier run left in a slot.
    pub async fn open(slot: Slot) -> Result<SlotContents> {
        let (file, start) = (slot.file().await?, slot.start());
        let area = padded(file.pread(start, AREA as usize).await?, AREA as usize)?;
        // Without a note nothing was answered.
        if area[HEAD as usize..].iter().all(|byte| *byte == 0) {
            return Ok(SlotContents::Free);
        }
        let (mut ring, last) = NoteRing::read(HEAD, &area);
        let number = ring.number() - 1;
        let extent = Extent::of(&area);
        // The note since which they were changed may be torn.
        ring.follow(extent.map_or(0, |extent| extent.touched));
        let staged = |extent, closed| {
            let staged = SlabStage::new(slot.clone(), extent, SLOT_DATA_MAX, ring, closed);
            staged.durable.store(true, Ordering::Release);
            staged
        };
        match (last, extent) {
            (_, Some(Extent::GONE)) => Ok(SlotContents::Free),
            (Some(note), Some(extent)) => {
                let checksum = note.checksum.filter(|_| note.mark == Mark::Closed && extent.touched < number);
                let Some(checksum) = checksum else {
                    let note = Note { checksum: None, ..note };
                    return Ok(SlotContents::File(staged(extent, 0), note, extent.len));
                };
                let len = note.size.min(SLOT_DATA_MAX) as usize;
                let bytes = file.pread(start + DATA, len).await.map_err(Error::from);
                let sound = bytes.and_then(|bytes| Ok(xxh3_64(&padded(bytes, len)?) == checksum));
                let staged = staged(Extent { len: note.size, ..extent }, number);
                if note.size > SLOT_DATA_MAX || !sound.unwrap_or(false) {
                    return Ok(SlotContents::Lost(staged, Some(note)));
                }
                let size = note.size;
                Ok(SlotContents::File(staged, note, size))
            }
            (last, extent) => Ok(SlotContents::Lost(staged(extent.unwrap_or_default(), 0), last)),
        }
    }

    async fn file(&self) -> Result<Arc<dyn DiskFile>> {
        if let Some(file) = &*self.file.lock() {
            return Ok(file.clone());
        }
        let file = self.slot.file().await?;
        Ok(self.file.lock().get_or_insert(file).clone())
    }

    /// Writes zeros over what was written behind the file's end, up to `end`.
    async fn clear(&self, s: &SlotState, file: &Arc<dyn DiskFile>, end: u64) -> Result<()> {
        let grown = s.extent.len..end.min(s.virgin);
        if grown.start < grown.end {
            let zeros = Bytes::from(vec![0; (grown.end - grown.start) as usize]);
            file.pwrite(self.slot.start() + DATA + grown.start, vec![zeros], false).await?;
        }
        Ok(())
    }

    /// Writes down that the bytes are no longer those that were closed, before they are changed.
    async fn touch(&self, s: &mut SlotState, file: &Arc<dyn DiskFile>) -> Result<()> {
        if s.extent.touched >= s.closed {
            return Ok(());
        }
        let extent = Extent { touched: s.closed, ..s.extent };
        self.say(s, file, extent).await
    }

    async fn extend(&self, s: &mut SlotState, file: &Arc<dyn DiskFile>, len: u64) -> Result<()> {
        let extent = Extent { len, ..s.extent };
        self.say(s, file, extent).await
    }

    async fn say(&self, s: &mut SlotState, file: &Arc<dyn DiskFile>, extent: Extent) -> Result<()> {
        if !s.released {
            file.pwrite(self.slot.start(), vec![extent.bytes()], false).await?;
        }
        s.extent = extent;
        Ok(())
    }
}

#[async_trait]
impl StagedFile for SlabStage {
    fn path(&self) -> PathBuf {
        self.slot.path()
    }

    fn id(&self) -> String {
        self.slot.id()
    }

    fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    fn is_slot(&self) -> bool {
        true
    }

    fn takes(&self, len: u64) -> bool {
        len <= SLOT_DATA_MAX && !self.is_durable()
    }

    fn must_survive(&self) -> bool {
        self.is_durable() || self.summed.load(Ordering::Acquire)
    }

    fn freeze(&self) {
        self.durable.store(true, Ordering::Release);
    }

    fn release_fds(&self) {
        self.file.lock().take();
    }

    async fn sync_recovered(&self) -> Result<()> {
        self.slot.sync().await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let end = fits(offset + data.len() as u64)?;
        let (file, start) = (self.file().await?, self.slot.start());
        let mut s = self.state.lock().await;
        self.touch(&mut s, &file).await?;
        self.clear(&s, &file, offset).await?;
        s.virgin = s.virgin.max(end);
        file.pwrite(start + DATA + offset, vec![data], false).await?;
        if end > s.extent.len {
            self.extend(&mut s, &file, end).await?;
        }
        Ok(())
    }

    async fn cut(&self, size: u64) -> Result<()> {
        fits(size)?;
        let file = self.file().await?;
        let mut s = self.state.lock().await;
        self.touch(&mut s, &file).await?;
        self.clear(&s, &file, size).await?;
        if size != s.extent.len {
            self.extend(&mut s, &file, size).await?;
        }
        Ok(())
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let room = SLOT_DATA_MAX.saturating_sub(offset).min(len as u64) as usize;
        padded(self.file().await?.pread(self.slot.start() + DATA + offset, room).await?, len)
    }

    async fn note(&self, note: &Note, durable: bool) -> Result<()> {
        let (file, start) = (self.file().await?, self.slot.start());
        {
            let mut s = self.state.lock().await;
            if s.released {
                return Ok(());
            }
            if s.ring.inherited() {
                // It may be all that a loss of power leaves. A disk that can't keep it has told those who ask for that.
                let _ = self.slot.sync().await;
                s.ring.synced();
            }
            if durable && note.rewrites.is_some() && !s.took {
                // The note must not outlive the bytes: what it replaces goes with it.
                self.freeze();
                self.slot.sync().await?;
            }
            let checksum = match note.mark == Mark::Closed && note.size == s.extent.len {
                true => Some(xxh3_64(&self.read(0, note.size as usize).await?)),
                false => None,
            };
            let number = s.ring.number();
            let (at, bytes) = s.ring.next(&Note { checksum, ..note.clone() })?;
            if checksum.is_some() {
                s.closed = number;
                self.summed.store(true, Ordering::Release);
            }
            file.pwrite(start + at.start, vec![bytes], false).await?;
            s.ring.wrote(at);
        }
        if durable {
            // Whatever becomes of the sync, the note may be durable: its sum must go on telling.
            self.freeze();
            self.slot.sync().await?;
            let mut s = self.state.lock().await;
            s.ring.synced();
            s.took |= note.replaces().is_some();
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        // The slab may go.
        if let Err(why) = self.file().await {
            // A removed file that came back would be worse.
            tracing::warn!(path = %self.path().display(), %why, "who has a removed file open can't read what is staged of it");
        }
        if std::mem::replace(&mut self.state.lock().await.released, true) {
            return Ok(());
        }
        Ok(self.slot.release().await?)
    }
}

fn fits(end: u64) -> Result<u64> {
    let long = || Error::new(Kind::Internal, format!("{end} bytes don't fit into a slot"));
    (end <= SLOT_DATA_MAX).then_some(end).ok_or_else(long)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::slab::Slab;
    use super::super::unsynced_removals::StagingDir;
    use super::*;
    use windlass_base::rt::Disk;
    use windlass_base::rt::sim::{Sim, SimDisk};

    const SLAB: &str = "/s/a.slab";

    fn note(mark: Mark, size: u64) -> Note {
        Note { key: "k".into(), url: "mem:x".into(), mark, size, ..Note::nobody() }
    }

    /// A slab's first slot with a file in it.
    fn staged<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(SimDisk, SlabStage) -> F + Send + 'static,
    ) {
        let sim = Sim::new(5);
        let disk = SimDisk::new(&sim);
        sim.run(async move {
            let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            as_disk.create_dir(Path::new("/s")).await.unwrap();
            let (slab, _file) = Slab::create(&StagingDir::on(&as_disk), SLAB.into()).await.unwrap();
            let staged = SlabStage::create(slab.give().unwrap(), &note(Mark::Open, 0)).await.unwrap();
            run(disk, staged).await;
        })
        .unwrap();
    }

    /// Opens the slab as the next run does, and returns what it finds.
    async fn found(disk: &SimDisk) -> SlotContents {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let slots = Slab::open(&StagingDir::on(&disk), SLAB.into()).await.unwrap();
        SlabStage::open(slots[0].clone()).await.unwrap()
    }

    async fn released(disk: &SimDisk) -> (SlabStage, Note, Bytes) {
        let SlotContents::File(staged, note, size) = found(disk).await else { panic!("it is not there") };
        let bytes = staged.read(0, size as usize).await.unwrap();
        (staged, Note { checksum: None, ..note }, bytes)
    }

    #[test]
    fn a_file_grows_and_shrinks_with_zeros_in_between() {
        staged(async |disk, file| {
            file.write(3, Bytes::from_static(b"abc")).await.unwrap();
            file.cut(4).await.unwrap();
            file.cut(6).await.unwrap();
            assert_eq!(released(&disk).await.2, &b"\0\0\0a\0\0"[..]);
            file.write(8, Bytes::from_static(b"x")).await.unwrap();
            file.cut(0).await.unwrap();
            file.write(2, Bytes::from_static(b"y")).await.unwrap();
            file.write(9, Bytes::from_static(b"z")).await.unwrap();
            let (staged, told, bytes) = released(&disk).await;
            assert_eq!((told, &bytes[..]), (note(Mark::Open, 0), &b"\0\0y\0\0\0\0\0\0z"[..]));
            // Nobody knows how far it was written to.
            staged.write(12, Bytes::from_static(b"!")).await.unwrap();
            assert_eq!(released(&disk).await.2, &b"\0\0y\0\0\0\0\0\0z\0\0!"[..]);
            assert_eq!(staged.read(SLOT_DATA_MAX - 1, 3).await.unwrap(), &[0, 0, 0][..], "no other's bytes");
            assert_eq!(
                staged.write(SLOT_DATA_MAX, Bytes::from_static(b"!")).await.unwrap_err().kind(),
                Kind::Internal
            );
            assert_eq!(staged.cut(SLOT_DATA_MAX + 1).await.unwrap_err().kind(), Kind::Internal);
        });
    }

    #[test]
    fn a_closed_file_is_found_as_it_was_closed() {
        staged(async |disk, file| {
            file.write(0, Bytes::from_static(b"hello")).await.unwrap();
            file.note(&note(Mark::Closed, 5), false).await.unwrap();
            let (staged, told, bytes) = released(&disk).await;
            assert_eq!((told, &bytes[..]), (note(Mark::Closed, 5), &b"hello"[..]));
            // Opened again, and cut off before its note was written: as it is by now.
            file.write(5, Bytes::from_static(b" you")).await.unwrap();
            let (_, told, bytes) = released(&disk).await;
            assert_eq!((told.mark, &bytes[..]), (Mark::Closed, &b"hello you"[..]));
            file.note(&note(Mark::Closed, 9), false).await.unwrap();
            assert_eq!(released(&disk).await.2, &b"hello you"[..]);
            staged.remove().await.unwrap();
            assert!(matches!(found(&disk).await, SlotContents::Free));
        });
    }

    #[test]
    fn a_closed_file_that_the_disk_lost_is_told() {
        staged(async |disk, file| {
            file.write(0, Bytes::from_static(b"hello")).await.unwrap();
            file.note(&note(Mark::Closed, 5), false).await.unwrap();
            let rot = |at: u64, bytes: &[u8]| assert!(disk.rot(Path::new(SLAB), at, bytes));
            rot(DATA + 4, &[0]);
            let SlotContents::Lost(_, Some(told)) = found(&disk).await else {
                panic!("the bytes are others")
            };
            assert_eq!((told.key.as_str(), told.size), ("k", 5));
            rot(DATA + 4, b"o");
            assert_eq!(released(&disk).await.2, &b"hello"[..]);
            rot(0, &[9]);
            assert!(matches!(found(&disk).await, SlotContents::Lost(_, Some(_))), "no length of ours");
            rot(0, &[5]);
            rot(HEAD + 40, &[0]);
            assert_eq!(released(&disk).await.2, &b"hello"[..], "another note");
            rot(10752 + 40, &[0]);
            let SlotContents::Lost(lost, None) = found(&disk).await else { panic!("there is no note") };
            lost.remove().await.unwrap();
            assert!(matches!(found(&disk).await, SlotContents::Free));
        });
    }

    #[test]
    fn a_slot_without_a_note_is_nobodys() {
        staged(async |disk, _| {
            let next = 128 << 10;
            let extent = Extent { len: 4096, touched: 0 };
            assert!(disk.rot(Path::new(SLAB), next, &extent.bytes()));
            let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let slots = Slab::open(&StagingDir::on(&as_disk), SLAB.into()).await.unwrap();
            assert_eq!(slots[1].start(), next);
            assert!(matches!(SlabStage::open(slots[1].clone()).await.unwrap(), SlotContents::Free));
        });
    }

    #[test]
    fn a_slot_whose_end_could_not_be_written_ends_later() {
        let sim = Sim::new(6);
        let disk = SimDisk::new(&sim);
        sim.run(async move {
            let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            as_disk.create_dir(Path::new("/s")).await.unwrap();
            as_disk.sync_dir(Path::new("/")).await.unwrap();
            let (slab, open) = Slab::create(&StagingDir::on(&as_disk), SLAB.into()).await.unwrap();
            let staged = SlabStage::create(slab.give().unwrap(), &note(Mark::Open, 0)).await.unwrap();
            staged.note(&note(Mark::Closed, 0), true).await.unwrap();
            disk.power_loss();
            staged.remove().await.unwrap_err();
            // Its file can be opened again.
            staged.release_fds();
            drop(open);
            slab.close().await.unwrap();
            assert_eq!(as_disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
        })
        .unwrap();
    }

    #[test]
    fn what_was_made_durable_is_known() {
        staged(async |disk, file| {
            file.write(0, Bytes::from_static(b"hello")).await.unwrap();
            file.note(&note(Mark::Closed, 5), false).await.unwrap();
            assert!(!file.is_durable());
            file.note(&note(Mark::Closed, 5), true).await.unwrap();
            assert!(file.is_durable());
            disk.power_loss();
            let (staged, _, bytes) = released(&disk).await;
            assert_eq!(bytes, &b"hello"[..]);
            assert!(staged.is_durable(), "nobody knows whether it was");
        });
    }
}
