//! Small files' staged bytes, many in one file of this host: making and removing a file costs far more than writing a
//! small one's bytes.
//!
//! A shelf, `ID.shelf`, has 64 berths of 128 KiB; what of it was not written takes no room. A berth serves one file,
//! once, so that nothing in it was ever another's. The shelf goes when each of its berths was given out and is not
//! needed any more.
//!
//! | a berth | bytes | meaning |
//! |---|---|---|
//! | 0 | 8 | length of the file; 2⁶⁴ − 1: no file needs the berth any more |
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

use super::dir::{Folder, Marked};
use super::note::{AREA, word};
use crate::base::rt::{DiskFile, OpenHow};
use crate::base::{Error, Kind, Result};

const BERTHS: u64 = 64;
const BERTH: u64 = 128 << 10;
/// Where its notes begin.
pub const HEAD: u64 = 32;
/// Where a berth's file begins.
pub const DATA: u64 = AREA;
/// The longest file that a berth takes, in bytes.
pub const ROOM: u64 = BERTH - DATA;
/// The length of a file that left.
const LEFT: u64 = u64::MAX;

/// A berth's first bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Extent {
    pub len: u64,
    /// The note that said how the bytes were closed; they have changed since.
    pub touched: u64,
}

impl Extent {
    /// No file needs the berth any more.
    pub const GONE: Extent = Extent { len: LEFT, touched: 0 };

    pub fn bytes(self) -> Bytes {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.touched.to_le_bytes());
        let sum = xxh3_64(&out[..16]);
        out[16..].copy_from_slice(&sum.to_le_bytes());
        Bytes::copy_from_slice(&out)
    }

    /// Nothing was written down yet, or what was; `None` for what no windlass wrote.
    pub fn of(bytes: &[u8]) -> Option<Extent> {
        let bytes = bytes.get(..24)?;
        let extent = Extent { len: word(bytes, 0), touched: word(bytes, 8) };
        let sound = bytes.iter().all(|byte| *byte == 0) || extent.bytes() == bytes;
        (sound && (extent.len <= ROOM || extent == Extent::GONE)).then_some(extent)
    }
}

#[derive(Debug)]
struct Berths {
    given: u64,
    needed: u64,
    /// No more are given out.
    full: bool,
    gone: bool,
}

/// What its syncs have done.
#[derive(Debug, Default)]
struct Synced {
    /// Who asked until the last one began.
    asked: u64,
    /// One has failed: what it should have made durable is lost, whosever it is, and no later one would tell.
    failed: bool,
    /// Its name in the folder is durable.
    named: bool,
}

pub struct Shelf {
    folder: Folder,
    path: PathBuf,
    file: Mutex<Weak<dyn DiskFile>>,
    berths: Mutex<Berths>,
    /// Berths whose files left, which has yet to be written.
    leaving: Mutex<Vec<u64>>,
    /// Held while it is.
    parting: tokio::sync::Mutex<()>,
    /// Some left that a loss of power may bring back; the folder knows.
    marked: AtomicBool,
    /// How often somebody asked for a sync.
    asked: AtomicU64,
    synced: tokio::sync::Mutex<Synced>,
}

/// A shelf, and its file, which stays open as long.
pub type Held = (Arc<Shelf>, Arc<dyn DiskFile>);

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.path.display())
    }
}

impl Shelf {
    /// A new one.
    pub async fn create(folder: &Folder, path: PathBuf) -> Result<Held> {
        let file = folder.disk().open(&path, OpenHow::CreateNew).await?;
        // A file that doesn't grow has nothing but its bytes to be written.
        if let Err(why) = file.set_len(BERTHS * BERTH).await {
            folder.remove(&path).await?;
            return Err(why.into());
        }
        let berths = Berths { given: 0, needed: 0, full: false, gone: false };
        Ok((Shelf::new(folder, path, &file, berths), file))
    }

    /// The berths of one that an earlier run left: whoever gets them gives back what is nobody's.
    pub async fn open(folder: &Folder, path: PathBuf) -> Result<Vec<Berth>> {
        let file = folder.disk().open(&path, OpenHow::Write).await?;
        let given = file.size().await?.div_ceil(BERTH).min(BERTHS);
        let berths = Berths { given, needed: given, full: true, gone: false };
        let shelf = Shelf::new(folder, path, &file, berths);
        if given == 0 {
            shelf.tidy().await?;
        }
        Ok((0..given).map(|index| Berth { shelf: shelf.clone(), index }).collect())
    }

    fn new(folder: &Folder, path: PathBuf, file: &Arc<dyn DiskFile>, berths: Berths) -> Arc<Shelf> {
        let (file, berths) = (Mutex::new(Arc::downgrade(file)), Mutex::new(berths));
        let (leaving, parting, marked, asked, synced) = Default::default();
        let folder = folder.clone();
        Arc::new(Shelf { folder, path, file, berths, leaving, parting, marked, asked, synced })
    }

    /// The next berth; none when all are given out.
    pub fn give(self: &Arc<Self>) -> Option<Berth> {
        let mut berths = self.berths.lock();
        if berths.full {
            return None;
        }
        let index = berths.given;
        berths.given += 1;
        berths.needed += 1;
        berths.full = berths.given == BERTHS;
        Some(Berth { shelf: self.clone(), index })
    }

    /// Gives no more berths out; goes if nobody needs those that it gave.
    pub async fn close(self: &Arc<Self>) -> io::Result<()> {
        self.berths.lock().full = true;
        self.leave(None).await
    }

    /// Writes down that a berth's file left, and others of which that failed.
    async fn leave(self: &Arc<Self>, berth: Option<u64>) -> io::Result<()> {
        self.leaving.lock().extend(berth);
        let one = self.parting.lock().await;
        let (all, mut failed) = (self.leaving.lock().clone(), None);
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
            self.leaving.lock().retain(|other| *other != at);
            self.berths.lock().needed -= 1;
        }
        drop(one);
        if !self.tidy().await? && !self.marked.swap(true, Ordering::AcqRel) {
            let marked: Weak<Self> = Arc::downgrade(self);
            self.folder.marks(marked);
        }
        failed.map_or(Ok(()), Err)
    }

    /// True: the shelf has gone.
    async fn tidy(&self) -> io::Result<bool> {
        {
            let mut berths = self.berths.lock();
            if berths.gone || !berths.full || berths.needed > 0 {
                return Ok(berths.gone);
            }
            berths.gone = true;
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
            self.berths.lock().full = true;
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
impl Marked for Shelf {
    async fn settle(&self) -> Result<()> {
        self.marked.store(false, Ordering::Release);
        if self.berths.lock().gone {
            return Ok(());
        }
        self.sync().await
    }
}

/// A place for one file's bytes.
#[derive(Clone, Debug)]
pub struct Berth {
    shelf: Arc<Shelf>,
    index: u64,
}

impl Berth {
    /// Where it begins in the shelf's file.
    pub fn start(&self) -> u64 {
        self.index * BERTH
    }

    /// The shelf's path, and which berth of it.
    pub fn path(&self) -> PathBuf {
        let mut path = self.shelf.path.clone().into_os_string();
        path.push(format!("#{}", self.index));
        path.into()
    }

    /// What notes call it.
    pub fn id(&self) -> String {
        let shelf = self.shelf.path.file_stem().unwrap_or_default().to_string_lossy();
        format!("{shelf}-{}", self.index)
    }

    /// The shelf's file, for as long as it is held.
    pub async fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.shelf.file().await
    }

    /// Makes durable what is in the shelf.
    pub async fn sync(&self) -> Result<()> {
        self.shelf.sync().await
    }

    /// Nobody needs it any more, which it will say, now or later: once for each.
    pub async fn leave(&self) -> io::Result<()> {
        self.shelf.leave(Some(self.start())).await
    }

    /// Nobody needed it: once for each.
    pub async fn give_back(&self) -> io::Result<()> {
        self.shelf.berths.lock().needed -= 1;
        self.shelf.tidy().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::Disk;
    use crate::base::rt::sim::{Sim, SimDisk};

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
        assert_eq!(Extent::of(&Extent { len: ROOM + 1, touched: 0 }.bytes()), None, "longer than a berth");
        assert_eq!(Extent::of(&Extent::GONE.bytes()), Some(Extent::GONE));
    }

    #[test]
    fn a_shelf_goes_when_all_of_it_was_given_out_and_came_back() {
        on_disk(async |_, disk| {
            let (shelf, file) = Shelf::create(&Folder::on(&disk), "/s/a.shelf".into()).await.unwrap();
            let berths: Vec<_> = std::iter::from_fn(|| shelf.give()).collect();
            assert_eq!(berths.len() as u64, BERTHS);
            assert_eq!(berths[63].start() + BERTH, file.size().await.unwrap());
            assert_eq!((berths[7].id().as_str(), berths[7].path()), ("a-7", "/s/a.shelf#7".into()));
            let (last, others) = berths.split_last().unwrap();
            for berth in others {
                berth.give_back().await.unwrap();
            }
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["a.shelf"]);
            last.give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);

            let (shelf, _file) = Shelf::create(&Folder::on(&disk), "/s/b.shelf".into()).await.unwrap();
            let berth = shelf.give().unwrap();
            shelf.close().await.unwrap();
            assert!(shelf.give().is_none(), "it is closed");
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["b.shelf"]);
            berth.give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);

            let (shelf, _file) = Shelf::create(&Folder::on(&disk), "/s/c.shelf".into()).await.unwrap();
            shelf.give().unwrap().give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["c.shelf"], "others are to come");
            shelf.close().await.unwrap();
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
        });
    }

    #[test]
    fn what_an_earlier_run_left_goes_when_all_of_it_came_back() {
        on_disk(async |_, disk| {
            drop(Shelf::create(&Folder::on(&disk), "/s/a.shelf".into()).await.unwrap());
            // A crash between the making and the growing.
            disk.open(Path::new("/s/b.shelf"), OpenHow::CreateNew).await.unwrap();
            assert_eq!(Shelf::open(&Folder::on(&disk), "/s/b.shelf".into()).await.unwrap().len(), 0);
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), ["a.shelf"]);
            let berths = Shelf::open(&Folder::on(&disk), "/s/a.shelf".into()).await.unwrap();
            assert_eq!(berths.len() as u64, BERTHS);
            assert!(berths[0].shelf.give().is_none(), "each serves once");
            for berth in berths {
                berth.give_back().await.unwrap();
            }
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
        });
    }

    #[test]
    fn a_sync_that_failed_spoils_a_shelf() {
        on_disk(async |sim, disk| {
            let (shelf, _file) = Shelf::create(&Folder::on(&disk), "/s/a.shelf".into()).await.unwrap();
            let (one, two) = (shelf.give().unwrap(), shelf.give().unwrap());
            one.sync().await.unwrap();
            sim.faults(|f| f.sync_fails = 1000);
            assert_eq!(one.sync().await.unwrap_err().kind(), Kind::Io);
            sim.faults(|f| f.sync_fails = 0);
            let why = two.sync().await.unwrap_err().to_string();
            assert!(why.starts_with("/s/a.shelf may have lost what was written to it"), "{why}");
            assert!(shelf.give().is_none(), "and others get berths elsewhere");
        });
    }
}
