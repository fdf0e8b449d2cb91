//! What earlier mounts left in their sub-folders of the staging folder: found and judged. Nothing here deletes bytes that are
//! nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_stage::{Edits, FileStage};
use super::note::Note;
use super::removal_log::{Left, RemovalLog};
use super::rename_intent::RenameIntent;
use super::slab::Slab;
use super::slab_stage::{self, SlabStage};
use super::stage::Stage;
use super::unsynced_removals::StagingDir;
use crate::object::ByteRanges;
use windlass_base::Result;
use windlass_base::rt::OpenHow;

pub const LOCK: &str = "lock";
pub(super) const STAGE: &str = ".stage";
const EDITS: &str = ".edits";
pub(super) const SLAB: &str = ".slab";
pub(super) const INTENT: &str = ".rename";
pub(super) const REMOVALS: &str = ".removals";
const INTENT_LEN_MAX: usize = 1 << 16;
/// Key that is shown for staged bytes that have lost their note.
pub const UNKNOWN: &str = "(unknown)";

/// Staged bytes that could not be sent; they stay where they are and are tried again at the next mount.
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
    /// True if the machine was started anew since the note, which the bytes may not have survived.
    pub may_be_torn: bool,
}

/// Everything that earlier mounts left in their sub-folders.
#[derive(Default)]
pub struct FoundStages {
    pub files: Vec<FoundFile>,
    /// Stages that were not synced when the power went, and their notes where those can be told.
    pub lost: Vec<(Stage, Option<Note>)>,
    pub unsent: Vec<Unsent>,
    pub renames: Vec<(PathBuf, RenameIntent)>,
    /// Paths of logs of removals, each with what has not ended.
    pub removals: Vec<(PathBuf, Left)>,
}

impl FoundStages {
    /// Adds what is left in a sub-folder whose lock is held; returns true when there is any.
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
        for name in names.iter().filter(|n| n.ends_with(REMOVALS)) {
            let path = dir.join(name);
            let removals = RemovalLog::read(folder, &path).await?;
            self.removals.push((path, removals));
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

    /// Returns the latest generation of all notes and renames that were found; 0 if there are none.
    pub(super) fn generation(&self) -> u64 {
        let lost = self.lost.iter().filter_map(|(_, note)| note.as_ref());
        let staged = self.files.iter().map(|left| &left.note).chain(lost).map(|note| note.generation);
        let renames = self.renames.iter().filter_map(|(_, intent)| intent.generation);
        staged.chain(renames).max().unwrap_or(0)
    }

    fn count(&self) -> usize {
        self.files.len() + self.lost.len() + self.unsent.len() + self.renames.len() + self.removals.len()
    }
}
