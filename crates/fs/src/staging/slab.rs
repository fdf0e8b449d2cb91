//! Small files' staged bytes, many in one file of this host: making and removing a file costs far more than writing a
//! small one's bytes.
//!
//! A slab, `ID.slab`, has 64 slots of 128 KiB; what of it was not written takes no room. A slot serves one file,
//! once, so that nothing in it was ever another's. The slab goes when each of its slots was given out and is not
//! needed any more.
//!
//! | a slot | bytes | meaning |
//! |---|---|---|
//! | 0 | 8 | length of the file; 2⁶⁴ − 1: no file needs the slot any more |
//! | 8 | 8 | number of the note since which its bytes were changed; counts where that one says the file is closed |
//! | 16 | 8 | XXH3-64 of both |
//! | 32 | 32736 | its notes (see `note`) |
//! | 32768 | 98304 | the file's bytes from its first on; what lies behind its length is nobody's |
//!
//! A note that says the file is closed has the sum of its bytes, and its length counts, unless they were changed since.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::note::{AREA, word};
use super::unsynced_removals::{StagingDir, UnsyncedRemovals};
use windlass_base::rt::{DiskFile, OpenHow};
use windlass_base::{Error, Kind, Result};

const SLOTS: u64 = 64;
const SLOT_LEN: u64 = 128 << 10;
/// Offset in a slot at which its notes begin.
pub const HEAD: u64 = 32;
/// Offset in a slot at which its file's bytes begin.
pub const DATA: u64 = AREA;
/// Size of the longest file that a slot takes, in bytes.
pub const SLOT_DATA_MAX: u64 = SLOT_LEN - DATA;
/// Length that stands in a slot whose file left.
const NO_FILE: u64 = u64::MAX;

/// First bytes of a slot: how long its file is, and whether the bytes were changed since they were closed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Extent {
    pub len: u64,
    /// Number of the note that said how the bytes were closed; they have changed since.
    pub touched: u64,
}

impl Extent {
    /// Extent of a slot that no file needs any more.
    pub const GONE: Extent = Extent { len: NO_FILE, touched: 0 };

    pub fn bytes(self) -> Bytes {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.touched.to_le_bytes());
        let sum = xxh3_64(&out[..16]);
        out[16..].copy_from_slice(&sum.to_le_bytes());
        Bytes::copy_from_slice(&out)
    }

    /// Reads an extent, which is all zeros where nothing was written down yet. `None` for bytes that no
    /// windlass wrote.
    pub fn of(bytes: &[u8]) -> Option<Extent> {
        let bytes = bytes.get(..24)?;
        let extent = Extent { len: word(bytes, 0), touched: word(bytes, 8) };
        let sound = bytes.iter().all(|byte| *byte == 0) || extent.bytes() == bytes;
        (sound && (extent.len <= SLOT_DATA_MAX || extent == Extent::GONE)).then_some(extent)
    }
}

#[derive(Debug)]
struct SlotCounts {
    given: u64,
    needed: u64,
    /// True if no more slots are given out.
    full: bool,
    gone: bool,
}

/// Outcome of the slab's syncs so far.
#[derive(Debug, Default)]
struct Synced {
    /// Value of `Slab::asked` when the last successful sync began: all who had asked by then are served.
    asked: u64,
    /// A sync has failed: what it should have made durable is lost, whosever it is, and no later sync would
    /// tell.
    failed: bool,
    /// The slab's name in the folder is durable.
    named: bool,
}

pub struct Slab {
    folder: StagingDir,
    path: PathBuf,
    file: Mutex<Weak<dyn DiskFile>>,
    slots: Mutex<SlotCounts>,
    /// Offsets of slots whose files left, which has yet to be written down.
    releasing: Mutex<Vec<u64>>,
    /// Held while it is written down that files left.
    release_lock: tokio::sync::Mutex<()>,
    /// Files left that a loss of power may bring back; the folder knows.
    unsynced: AtomicBool,
    /// Number of times that somebody asked for a sync.
    asked: AtomicU64,
    synced: tokio::sync::Mutex<Synced>,
}

/// A slab and its file, which stays open as long as this is held.
pub type OpenSlab = (Arc<Slab>, Arc<dyn DiskFile>);

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({})", self.path.display())
    }
}

impl Slab {
    /// Makes a new slab at `path`.
    pub async fn create(folder: &StagingDir, path: PathBuf) -> Result<OpenSlab> {
        let file = folder.disk().open(&path, OpenHow::CreateNew).await?;
        // A file that doesn't grow has nothing but its bytes to be written.
        if let Err(why) = file.set_len(SLOTS * SLOT_LEN).await {
            folder.remove(&path).await?;
            return Err(why.into());
        }
        let slots = SlotCounts { given: 0, needed: 0, full: false, gone: false };
        Ok((Slab::new(folder, path, &file, slots), file))
    }

    /// Returns the slots of a slab that an earlier run left. Whoever gets them gives back those that no file
    /// needs.
    pub async fn open(folder: &StagingDir, path: PathBuf) -> Result<Vec<Slot>> {
        let file = folder.disk().open(&path, OpenHow::Write).await?;
        let given = file.size().await?.div_ceil(SLOT_LEN).min(SLOTS);
        let slots = SlotCounts { given, needed: given, full: true, gone: false };
        let slab = Slab::new(folder, path, &file, slots);
        if given == 0 {
            slab.tidy().await?;
        }
        Ok((0..given).map(|index| Slot { slab: slab.clone(), index }).collect())
    }

    fn new(folder: &StagingDir, path: PathBuf, file: &Arc<dyn DiskFile>, slots: SlotCounts) -> Arc<Slab> {
        let (file, slots) = (Mutex::new(Arc::downgrade(file)), Mutex::new(slots));
        let (releasing, release_lock, unsynced, asked, synced) = Default::default();
        let folder = folder.clone();
        Arc::new(Slab { folder, path, file, slots, releasing, release_lock, unsynced, asked, synced })
    }

    /// Gives out the next slot; `None` when the slab gives out no more.
    pub fn give(self: &Arc<Self>) -> Option<Slot> {
        let mut slots = self.slots.lock();
        if slots.full {
            return None;
        }
        let index = slots.given;
        slots.given += 1;
        slots.needed += 1;
        slots.full = slots.given == SLOTS;
        Some(Slot { slab: self.clone(), index })
    }

    /// Gives out no more slots. The slab is removed if nobody needs those that were given out.
    pub async fn close(self: &Arc<Self>) -> io::Result<()> {
        self.slots.lock().full = true;
        self.release(None).await
    }

    /// Writes down that a slot's file left, and does so again for slots for which this failed before.
    async fn release(self: &Arc<Self>, slot: Option<u64>) -> io::Result<()> {
        self.releasing.lock().extend(slot);
        let one = self.release_lock.lock().await;
        let (all, mut failed) = (self.releasing.lock().clone(), None);
        for at in all {
            let written = match self.file().await {
                // Where its length was, there is room on a full disk too.
                Ok(file) => file.pwrite(at, vec![Extent::GONE.bytes()], false).await,
                Err(why) => Err(why),
            };
            if let Err(why) = written {
                failed.get_or_insert(why);
                continue;
            }
            self.releasing.lock().retain(|other| *other != at);
            self.slots.lock().needed -= 1;
        }
        drop(one);
        if !self.tidy().await? && !self.unsynced.swap(true, Ordering::AcqRel) {
            let unsynced: Weak<Self> = Arc::downgrade(self);
            self.folder.register_unsynced(unsynced);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes the slab if nobody needs a slot of it any more. Returns true if the slab has gone.
    async fn tidy(&self) -> io::Result<bool> {
        {
            let mut slots = self.slots.lock();
            if slots.gone || !slots.full || slots.needed > 0 {
                return Ok(slots.gone);
            }
            // Said under the lock: of two that find the slab unneeded only one may remove its file.
            slots.gone = true;
        }
        self.folder.remove(&self.path).await.map(|()| true)
    }

    async fn sync(&self) -> Result<()> {
        let ours = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        // One after another, so that nobody's succeeds because another's was told of the failure.
        let mut synced = self.synced.lock().await;
        let failed = |why: &dyn fmt::Display| {
            let said = format!("{} may have lost what was written to it: {why}", self.path.display());
            Error::new(Kind::Io, said)
        };
        if synced.failed {
            return Err(failed(&"an earlier sync failed"));
        }
        if synced.asked >= ours {
            return Ok(());
        }
        let asked = self.asked.load(Ordering::Acquire);
        let file = self.file().await?;
        if let Err(why) = file.sync().await {
            synced.failed = true;
            self.slots.lock().full = true;
            return Err(failed(&why));
        }
        if !synced.named {
            self.folder.disk().sync_dir(self.path.parent().unwrap_or(Path::new("."))).await?;
            synced.named = true;
        }
        synced.asked = asked;
        Ok(())
    }

    async fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.file.lock().upgrade() {
            return Ok(file);
        }
        let new = self.folder.disk().open(&self.path, OpenHow::Write).await?;
        let mut known = self.file.lock();
        if let Some(file) = known.upgrade() {
            return Ok(file);
        }
        *known = Arc::downgrade(&new);
        Ok(new)
    }
}

#[async_trait]
impl UnsyncedRemovals for Slab {
    async fn sync_removals(&self) -> Result<()> {
        self.unsynced.store(false, Ordering::Release);
        if self.slots.lock().gone {
            return Ok(());
        }
        self.sync().await
    }
}

/// A place for one file's bytes in a slab.
#[derive(Clone, Debug)]
pub struct Slot {
    slab: Arc<Slab>,
    index: u64,
}

impl Slot {
    /// Returns the offset at which the slot begins in the slab's file.
    pub fn start(&self) -> u64 {
        self.index * SLOT_LEN
    }

    /// Returns the slab's path, followed by `#` and the slot's number.
    pub fn path(&self) -> PathBuf {
        let mut path = self.slab.path.clone().into_os_string();
        path.push(format!("#{}", self.index));
        path.into()
    }

    /// Returns the id by which notes name the slot.
    pub fn id(&self) -> String {
        let slab = self.slab.path.file_stem().unwrap_or_default().to_string_lossy();
        format!("{slab}-{}", self.index)
    }

    /// Returns the slab's file, which stays open for as long as it is held.
    pub async fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.slab.file().await
    }

    /// Makes everything that is in the slab durable.
    pub async fn sync(&self) -> Result<()> {
        self.slab.sync().await
    }

    /// Writes down, now or later, that nobody needs the slot any more. To be called once for each slot.
    pub async fn release(&self) -> io::Result<()> {
        self.slab.release(Some(self.start())).await
    }

    /// Counts a slot that nobody needed as given back. To be called once for each slot.
    pub async fn give_back(&self) -> io::Result<()> {
        self.slab.slots.lock().needed -= 1;
        self.slab.tidy().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::Disk;
    use windlass_base::rt::sim::{Sim, SimDisk};

    fn on_disk<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(SimDisk, Arc<dyn Disk>) -> F + Send + 'static,
    ) {
        let sim = Sim::new(4);
        let disk = SimDisk::new(&sim);
        sim.run(async move {
            let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            as_disk.create_dir(Path::new("/s")).await.unwrap();
            run(disk, as_disk).await;
        })
        .unwrap();
    }

    #[test]
    fn the_bytes_of_an_extent_are_these() {
        let extent = Extent { len: 5, touched: 3 };
        let bytes = extent.bytes();
        assert_eq!(bytes[..16], [5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(u64::from_le_bytes(bytes[16..].try_into().unwrap()), 3_248_213_232_867_286_403);
        assert_eq!(Extent::of(&bytes), Some(extent));
        assert_eq!(Extent::of(&[0; 24]), Some(Extent::default()));
        for at in 0..24 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert_eq!(Extent::of(&bad), None, "byte {at}");
            assert_eq!(Extent::of(&bytes[..at]), None);
        }
        assert_eq!(
            Extent::of(&Extent { len: SLOT_DATA_MAX + 1, touched: 0 }.bytes()),
            None,
            "longer than a slot"
        );
        assert_eq!(Extent::of(&Extent::GONE.bytes()), Some(Extent::GONE));
    }

    #[test]
    fn a_slab_goes_when_all_of_it_was_given_out_and_came_back() {
        on_disk(async |_, disk| {
            let (slab, file) = Slab::create(&StagingDir::on(&disk), "/s/a.slab".into()).await.unwrap();
            let slots: Vec<_> = std::iter::from_fn(|| slab.give()).collect();
            assert_eq!(slots.len() as u64, SLOTS);
            assert_eq!(slots[63].start() + SLOT_LEN, file.size().await.unwrap());
            assert_eq!((slots[7].id().as_str(), slots[7].path()), ("a-7", "/s/a.slab#7".into()));
            let (last, others) = slots.split_last().unwrap();
            for slot in others {
                slot.give_back().await.unwrap();
            }
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["a.slab"]);
            last.give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);

            let (slab, _file) = Slab::create(&StagingDir::on(&disk), "/s/b.slab".into()).await.unwrap();
            let slot = slab.give().unwrap();
            slab.close().await.unwrap();
            assert!(slab.give().is_none(), "it is closed");
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["b.slab"]);
            slot.give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);

            let (slab, _file) = Slab::create(&StagingDir::on(&disk), "/s/c.slab".into()).await.unwrap();
            slab.give().unwrap().give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["c.slab"], "others are to come");
            slab.close().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
        });
    }

    #[test]
    fn what_an_earlier_run_left_goes_when_all_of_it_came_back() {
        on_disk(async |_, disk| {
            drop(Slab::create(&StagingDir::on(&disk), "/s/a.slab".into()).await.unwrap());
            // A crash between the making and the growing.
            disk.open(Path::new("/s/b.slab"), OpenHow::CreateNew).await.unwrap();
            assert_eq!(Slab::open(&StagingDir::on(&disk), "/s/b.slab".into()).await.unwrap().len(), 0);
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["a.slab"]);
            let slots = Slab::open(&StagingDir::on(&disk), "/s/a.slab".into()).await.unwrap();
            assert_eq!(slots.len() as u64, SLOTS);
            assert!(slots[0].slab.give().is_none(), "each serves once");
            for slot in slots {
                slot.give_back().await.unwrap();
            }
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
        });
    }

    #[test]
    fn a_sync_that_failed_spoils_a_slab() {
        on_disk(async |sim, disk| {
            let (slab, _file) = Slab::create(&StagingDir::on(&disk), "/s/a.slab".into()).await.unwrap();
            let (one, two) = (slab.give().unwrap(), slab.give().unwrap());
            one.sync().await.unwrap();
            sim.faults(|f| f.sync_fails = 1000);
            assert_eq!(one.sync().await.unwrap_err().kind(), Kind::Io);
            sim.faults(|f| f.sync_fails = 0);
            let why = two.sync().await.unwrap_err().to_string();
            assert!(why.starts_with("/s/a.slab may have lost what was written to it"), "{why}");
            assert!(slab.give().is_none(), "and others get slots elsewhere");
        });
    }
}
