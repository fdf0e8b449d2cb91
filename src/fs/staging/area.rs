//! The folder where written bytes wait until the bucket has them.
//!
//! Each mount has a sub-folder of its own in it, held by a lock; in it stand the mount's stages (see `stage`). They go when
//! the object is stored. A sub-folder that nobody holds and that an earlier mount left stages in is held by the new mount as
//! well, which sends them. Nothing here deletes bytes that are nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file_stage::{Edits, FileStage};
use super::note::{Mark, Note};
use super::rename_intent::RenameIntent;
use super::slab::{self, SLOT_DATA_MAX, Slab, Slot};
use super::slab_stage::{self, SlabStage};
use super::stage::Stage;
use super::unsynced_removals::StagingDir;
use crate::base::rt::{Disk, DiskLock, OpenHow, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};
use crate::fs::object::ByteRanges;

pub const LOCK: &str = "lock";
/// Mounts of one bucket at a time.
const MOUNTS_MAX: usize = 64;
const STAGE: &str = ".stage";
const EDITS: &str = ".edits";
const SLAB: &str = ".slab";
const INTENT: &str = ".rename";
const INTENT_LEN_MAX: usize = 1 << 16;
/// The key of what has lost its note.
pub const UNKNOWN: &str = "(unknown)";

/// Writes that could not be sent; they stay where they are and are tried again at the next mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    pub path: PathBuf,
    pub key: String,
    pub bytes: u64,
}

/// A file that an earlier mount left staged.
#[derive(Debug)]
pub struct FoundFile {
    pub stage: Stage,
    pub note: Note,
    pub edits: Edits,
    /// The machine was started anew since, which its bytes may not have survived.
    pub may_be_torn: bool,
}

#[derive(Debug)]
pub struct StagingArea {
    rt: Rt,
    pub folder: StagingDir,
    dir: PathBuf,
    pub url: String,
    /// See `Note::generation`.
    pub generation: u64,
    /// See `Disk::boot`.
    pub boot: Option<String>,
    locks: Mutex<Vec<Box<dyn DiskLock>>>,
    /// The slab that gives out slots.
    slab: Mutex<Option<slab::OpenSlab>>,
    /// Held while the next one is made, and while the last one goes.
    making: tokio::sync::Mutex<()>,
}

/// What earlier mounts left.
#[derive(Default)]
pub struct FoundStages {
    pub files: Vec<FoundFile>,
    /// What was not synced when the power went, and whose it was if that can be told.
    pub lost: Vec<(Stage, Option<Note>)>,
    pub unsent: Vec<Unsent>,
    pub renames: Vec<(PathBuf, RenameIntent)>,
}

impl FoundStages {
    /// Adds what is left in a sub-folder whose lock is held; true when there is any.
    pub async fn look(&mut self, folder: &StagingDir, dir: &Path) -> Result<bool> {
        let disk = folder.disk();
        let names = disk.list(dir).await?;
        for id in names.iter().filter_map(|n| n.strip_suffix(EDITS)) {
            // A crash between the two removals.
            if !names.contains(&format!("{id}{STAGE}")) {
                disk.remove(&dir.join(format!("{id}{EDITS}"))).await?;
            }
        }
        let before = self.count();
        for name in names.iter().filter(|n| n.starts_with('.') && n.ends_with(".tmp")) {
            // A note that was being written when the crash came: the one before it counts.
            disk.remove(&dir.join(name)).await?;
        }
        for name in names.iter().filter(|n| n.ends_with(INTENT) && !n.starts_with('.')) {
            let path = dir.join(name);
            let text = disk.read(&path, INTENT_LEN_MAX).await?;
            match serde_json::from_slice(&text) {
                Ok(intent) => self.renames.push((path, intent)),
                Err(why) => {
                    tracing::warn!(path = %path.display(), %why, "this note of a rename can't be read")
                }
            }
        }
        for name in names.iter().filter(|n| n.ends_with(STAGE)) {
            let path = dir.join(name);
            match FileStage::open(folder, path.clone()).await? {
                Some((own, note, edits)) => {
                    let may_be_torn = note.may_be_torn(disk.boot().as_deref());
                    self.files.push(FoundFile { stage: Arc::new(own), note, edits, may_be_torn });
                }
                None if FileStage::is_unborn(disk, &path).await? => {
                    disk.remove(&path).await?;
                    let edits = path.with_extension("edits");
                    if disk.open(&edits, OpenHow::Read).await.is_ok() {
                        disk.remove(&edits).await?;
                    }
                }
                // The disk has lost its beginning.
                None => {
                    let bytes = disk.open(&path, OpenHow::Read).await?.size().await?;
                    self.unsent.push(Unsent { path, key: UNKNOWN.to_owned(), bytes });
                }
            }
        }
        for name in names.iter().filter(|n| n.ends_with(SLAB)) {
            self.look_into(folder, dir.join(name)).await?;
        }
        Ok(self.count() > before)
    }

    async fn look_into(&mut self, folder: &StagingDir, slab: PathBuf) -> Result<()> {
        let (disk, slots) = (folder.disk(), Slab::open(folder, slab).await?);
        let _open = match slots.first() {
            Some(slot) => Some(slot.file().await?),
            None => None,
        };
        for slot in slots {
            match SlabStage::open(slot.clone()).await? {
                slab_stage::SlotContents::Free => slot.give_back().await?,
                slab_stage::SlotContents::File(slab_stage, note, size) => {
                    let mut edits = Edits { local: ByteRanges::default(), base_len: 0, size };
                    edits.local.insert(0..size);
                    let may_be_torn = note.checksum.is_none() && note.may_be_torn(disk.boot().as_deref());
                    self.files.push(FoundFile { stage: Arc::new(slab_stage), note, edits, may_be_torn });
                }
                slab_stage::SlotContents::Lost(slab_stage, note) => {
                    self.lost.push((Arc::new(slab_stage), note))
                }
            }
        }
        Ok(())
    }

    /// The latest that any note is of.
    fn generation(&self) -> u64 {
        let lost = self.lost.iter().filter_map(|(_, note)| note.as_ref());
        self.files.iter().map(|left| &left.note).chain(lost).map(|note| note.generation).max().unwrap_or(0)
    }

    fn count(&self) -> usize {
        self.files.len() + self.lost.len() + self.unsent.len() + self.renames.len()
    }
}

/// Moves the sub-folders of another folder in which something is left to the end of this one, where the next mount finds them;
/// says how many. What can't be moved stays as it was. A sub-folder that a mount holds is that mount's.
pub async fn take_over(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<usize> {
    let doing = || format!("moving what is not sent yet from {} to {}", from.display(), to.display());
    let subdirs = match disk.list(from).await {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        subdirs => subdirs.context(doing)?,
    };
    let (mut taken, mut free) = (0, 0_usize);
    for subdir in subdirs {
        let subdir = from.join(subdir);
        if disk.list(&subdir).await.context(doing)?.iter().all(|name| name == LOCK) {
            continue;
        }
        let held = match disk.lock(&subdir.join(LOCK), "being moved").await {
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
            lock => lock.context(doing)?,
        };
        disk.create_dir(to).await.context(doing)?;
        // They are looked at in turn, up to the first that isn't there.
        while disk.list(&to.join(free.to_string())).await.is_ok() {
            free += 1;
        }
        if free >= MOUNTS_MAX {
            let full = format!("{} has {MOUNTS_MAX} sub-folders already", to.display());
            return Err(Error::new(Kind::NoSpace, full).context(doing()));
        }
        disk.rename(&subdir, &to.join(free.to_string())).await.context(doing)?;
        disk.sync_dir(to).await.context(doing)?;
        disk.sync_dir(from).await.context(doing)?;
        drop(held);
        taken += 1;
    }
    Ok(taken)
}

impl StagingArea {
    /// Takes the first free sub-folder of the folder (mounts of one bucket live side by side), and says what earlier mounts
    /// left in it and in the other sub-folders that nobody uses.
    pub async fn open(
        rt: Rt,
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        url: &str,
    ) -> Result<(StagingArea, FoundStages)> {
        let (mut mine, mut locks, mut found) = (None, Vec::new(), FoundStages::default());
        let held = StagingDir::on(&disk);
        for subdir in 0..MOUNTS_MAX {
            let dir = folder.join(subdir.to_string());
            let doing = || format!("preparing the staging folder {}", dir.display());
            if mine.is_some() && disk.list(&dir).await.is_err() {
                break;
            }
            disk.create_dir(&dir).await.context(doing)?;
            let lock = match disk.lock(&dir.join(LOCK), url).await {
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
                lock => lock.context(doing)?,
            };
            let any = found.look(&held, &dir).await.context(doing)?;
            if any || mine.is_none() {
                locks.push(lock);
            }
            mine = mine.or(Some(dir));
        }
        let dir = mine.ok_or_else(|| {
            Error::new(
                Kind::Owned,
                format!("{url} is mounted {MOUNTS_MAX} times already with {}", folder.display()),
            )
        })?;
        let (url, locks) = (url.to_owned(), Mutex::new(locks));
        let (slab, making) = Default::default();
        let (generation, boot) = (found.generation().saturating_add(1), disk.boot());
        let folder = held;
        Ok((StagingArea { rt, folder, dir, url, generation, boot, locks, slab, making }, found))
    }

    /// The mount is over: another may have the folder. Whoever closes it a second time waits for the first: a folder let go
    /// of while a file in it is being removed would be looked at by the next mount with that file half gone.
    pub async fn close(&self) {
        let _one = self.making.lock().await;
        let last = self.slab.lock().take();
        if let Some((slab, _)) = last
            && let Err(why) = slab.close().await
        {
            tracing::warn!(?slab, %why, "a slab that nobody needs can't be removed");
        }
        self.folder.sync_removals_or_warn().await;
        self.folder.wake();
        self.locks.lock().clear();
    }

    /// A new place for the bytes of a file that is about to have `len` of them.
    pub async fn stage(&self, note: &Note, edits: Option<&Edits>, len: u64) -> Result<Stage> {
        if edits.is_none() && len.max(note.size) <= SLOT_DATA_MAX {
            return Ok(Arc::new(SlabStage::create(self.slot().await?, note).await?));
        }
        let path = self.dir.join(format!("{:016x}{STAGE}", self.rt.random()));
        Ok(Arc::new(FileStage::create(&self.folder, path, note, edits, None).await?))
    }

    /// A larger place for a file whose bytes are in `old`, all of them. The next mount drops it, unless its note says
    /// by then whose it is.
    pub async fn larger(&self, note: &Note, old: &Stage) -> Result<Stage> {
        let bytes = old.read(0, note.size as usize).await?;
        let (mark, outgrown_slot) = (Mark::Sent, Some(old.id()));
        // It takes nothing's place yet.
        let note = Note { mark, outgrown_slot, partly: false, upload: None, rewrites: None, ..note.clone() };
        let path = self.dir.join(format!("{:016x}{STAGE}", self.rt.random()));
        Ok(Arc::new(FileStage::create(&self.folder, path, &note, None, Some(bytes)).await?))
    }

    async fn slot(&self) -> Result<Slot> {
        let next = || self.slab.lock().as_ref().and_then(|(slab, _)| slab.give());
        if let Some(slot) = next() {
            return Ok(slot);
        }
        let _one = self.making.lock().await;
        loop {
            if let Some(slot) = next() {
                return Ok(slot);
            }
            let path = self.dir.join(format!("{:016x}{SLAB}", self.rt.random()));
            let made = Slab::create(&self.folder, path).await;
            *self.slab.lock() = Some(made.context(|| format!("staging in {}", self.dir.display()))?);
        }
    }

    /// Writes down a directory's rename before it begins, durably; and where.
    pub async fn write_intent(&self, intent: &RenameIntent) -> Result<PathBuf> {
        let path = self.dir.join(format!("{:016x}{INTENT}", self.rt.random()));
        self.rewrite_intent(&path, intent).await?;
        Ok(path)
    }

    pub async fn rewrite_intent(&self, path: &Path, intent: &RenameIntent) -> Result<()> {
        let text = serde_json::to_vec(intent).expect("an intent has only string keys");
        let doing = || format!("writing down a rename at {}", path.display());
        self.folder.disk().write_atomic(path, text.into()).await.context(doing)
    }

    /// It is done, or undone.
    pub async fn remove_intent(&self, path: &Path) {
        let gone = async {
            self.folder.disk().remove(path).await?;
            // It must not come back, and do the same to what is there by then.
            self.folder.disk().sync_dir(&self.dir).await
        };
        if let Err(why) = gone.await {
            tracing::warn!(path = %path.display(), %why, "a finished rename's note can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::{Sim, SimDisk};

    /// A mount's end is waited for by its daemon and by the mount that comes next.
    #[test]
    fn nothing_is_left_to_remove_when_either_of_two_that_close_it_is_through() {
        let sim = Sim::new(7);
        let (rt, disk) = (sim.rt(), SimDisk::new(&sim));
        sim.run(async move {
            let disk: Arc<dyn Disk> = Arc::new(disk);
            let (area, _) = StagingArea::open(rt, disk.clone(), "/s".into(), "url").await.unwrap();
            area.slot().await.unwrap().give_back().await.unwrap();
            assert_eq!(disk.list(Path::new("/s/0")).await.unwrap().len(), 2, "a lock and a slab");
            let close = async || {
                area.close().await;
                area.locks.lock().is_empty() && disk.list(Path::new("/s/0")).await.unwrap() == [LOCK]
            };
            assert_eq!(tokio::join!(close(), close()), (true, true));
        })
        .unwrap();
    }
}
