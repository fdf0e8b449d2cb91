//! The folder where written bytes wait until the bucket has them.
//!
//! Each mount has a sub-folder of its own in it, held by a lock; in it stand the mount's stages (see `stage`). They go when
//! the object is stored. A sub-folder that nobody holds and that an earlier mount left stages in is held by the new mount as
//! well, which sends them. Nothing here deletes bytes that are nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file_stage::{Edits, FileStage};
use super::found_stages::{FoundStages, INTENT, LOCK, REMOVALS, SLAB, STAGE};
use super::note::{Mark, Note};
use super::removal_log::RemovalLog;
use super::rename_intent::RenameIntent;
use super::slab::{self, SLOT_DATA_MAX, Slab, Slot};
use super::slab_stage::SlabStage;
use super::stage::Stage;
use super::unsynced_removals::StagingDir;
use windlass_base::rt::{Disk, DiskLock, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Largest number of mounts of one bucket at a time.
const MOUNTS_MAX: usize = 64;

#[derive(Debug)]
pub struct StagingArea {
    rt: Rt,
    pub folder: StagingDir,
    dir: PathBuf,
    pub url: String,
    /// Generation of this mount's notes (see `Note::generation`).
    pub generation: u64,
    /// This run of the machine (see `Disk::boot`).
    pub boot: Option<String>,
    /// Log of what was removed and may be in the bucket still.
    pub removals: Arc<RemovalLog>,
    locks: Mutex<Vec<Box<dyn DiskLock>>>,
    /// The slab that gives out slots.
    slab: Mutex<Option<slab::OpenSlab>>,
    /// Held while the next slab is made, and while the last one goes.
    making: tokio::sync::Mutex<()>,
}

impl StagingArea {
    /// Takes the first free sub-folder of the folder (mounts of one bucket live side by side). Returns also
    /// what earlier mounts left in this one and in the other sub-folders that nobody uses.
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
        let removals = RemovalLog::at(&folder, dir.join(format!("{:016x}{REMOVALS}", rt.random())));
        let removals = Arc::new(removals);
        let area = StagingArea { rt, folder, dir, url, generation, boot, removals, locks, slab, making };
        Ok((area, found))
    }

    /// Lets go of all sub-folders, since the mount only reads. It stages nothing, and what earlier mounts
    /// left is for a mount that sends it.
    pub fn let_go(&self) {
        self.locks.lock().clear();
    }

    /// Ends the use of the folder with the mount: another may have it. Whoever closes it a second time waits
    /// for the first. A folder let go of while a file in it is being removed would be looked at by the next
    /// mount with that file half gone.
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

    /// Makes a new place for the bytes of a file that is about to have `len` of them.
    pub async fn stage(&self, note: &Note, edits: Option<&Edits>, len: u64) -> Result<Stage> {
        if edits.is_none() && len.max(note.size) <= SLOT_DATA_MAX {
            return Ok(Arc::new(SlabStage::create(self.slot().await?, note).await?));
        }
        let path = self.dir.join(format!("{:016x}{STAGE}", self.rt.random()));
        Ok(Arc::new(FileStage::create(&self.folder, path, note, edits, None).await?))
    }

    /// Makes a larger place for a file whose bytes are in `old`, all of them. The next mount drops it, unless
    /// its note says by then whose it is.
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

    /// Returns how many bytes the disk has left; `None` if that can't be told.
    pub async fn room(&self) -> Option<u64> {
        self.folder.disk().room(&self.dir).await
    }

    /// Writes down a directory's rename durably before it begins, and returns where.
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

    /// Removes what was written down of a rename that is done, or undone.
    pub async fn remove_intent(&self, path: &Path) {
        if let Err(why) = self.forget_intent(path).await {
            tracing::warn!(path = %path.display(), %why, "a finished rename's note can't be removed");
        }
    }

    /// Removes what was written down of a rename, if it is there still.
    pub async fn forget_intent(&self, path: &Path) -> Result<()> {
        let gone = match self.folder.disk().remove(path).await {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
            gone => gone,
        };
        gone?;
        // It must not come back, and do the same to what is there by then.
        Ok(self.folder.disk().sync_dir(path.parent().unwrap_or(&self.dir)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::{Sim, SimDisk};

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
