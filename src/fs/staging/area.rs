//! The folder where written bytes wait until the bucket has them.
//!
//! Each mount has a slot of its own in it, held by a lock; in it stand the mount's stages (see `stage`). They go when
//! the object is stored. A slot that nobody holds and that an earlier mount left stages in is held by the new mount as
//! well, which sends them. Nothing here deletes bytes that are nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::dir::Folder;
use super::file_stage::{Edits, Own};
use super::note::{Mark, Note};
use super::rename_intent::Move;
use super::slab::{self, Berth, ROOM, Shelf};
use super::slab_stage::{self, Docked};
use super::stage::Stage;
use crate::base::rt::{Disk, DiskLock, OpenHow, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};
use crate::fs::object::Ranges;

pub const LOCK: &str = "lock";
/// Mounts of one bucket at a time.
const SLOTS: usize = 64;
const STAGE: &str = ".stage";
const EDITS: &str = ".edits";
const SHELF: &str = ".shelf";
const MOVE: &str = ".move";
const MOVE_MAX: usize = 1 << 16;
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
pub struct Left {
    pub stage: Stage,
    pub note: Note,
    pub edits: Edits,
    /// The machine was started anew since, which its bytes may not have survived.
    pub unsure: bool,
}

#[derive(Debug)]
pub struct Staging {
    rt: Rt,
    folder: Folder,
    dir: PathBuf,
    url: String,
    life: u64,
    boot: Option<String>,
    locks: Mutex<Vec<Box<dyn DiskLock>>>,
    /// The shelf that gives out berths.
    shelf: Mutex<Option<slab::Held>>,
    /// Held while the next one is made.
    making: tokio::sync::Mutex<()>,
}

/// What earlier mounts left.
#[derive(Default)]
pub struct Found {
    pub left: Vec<Left>,
    /// What was not synced when the power went, and whose it was if that can be told.
    pub lost: Vec<(Stage, Option<Note>)>,
    pub unsent: Vec<Unsent>,
    pub moves: Vec<(PathBuf, Move)>,
}

impl Found {
    /// Adds what is left in a slot whose lock is held; true when there is any.
    pub async fn look(&mut self, folder: &Folder, dir: &Path) -> Result<bool> {
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
        for name in names.iter().filter(|n| n.ends_with(MOVE) && !n.starts_with('.')) {
            let path = dir.join(name);
            let text = disk.read(&path, MOVE_MAX).await?;
            match serde_json::from_slice(&text) {
                Ok(intent) => self.moves.push((path, intent)),
                Err(why) => {
                    tracing::warn!(path = %path.display(), %why, "this note of a rename can't be read")
                }
            }
        }
        for name in names.iter().filter(|n| n.ends_with(STAGE)) {
            let path = dir.join(name);
            match Own::open(folder, path.clone()).await? {
                Some((own, note, edits)) => {
                    let unsure = note.is_unsure(disk.boot().as_deref());
                    self.left.push(Left { stage: Stage::Own(own), note, edits, unsure });
                }
                None if Own::is_unborn(disk, &path).await? => {
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
        for name in names.iter().filter(|n| n.ends_with(SHELF)) {
            self.look_into(folder, dir.join(name)).await?;
        }
        Ok(self.count() > before)
    }

    async fn look_into(&mut self, folder: &Folder, shelf: PathBuf) -> Result<()> {
        let (disk, berths) = (folder.disk(), Shelf::open(folder, shelf).await?);
        let _open = match berths.first() {
            Some(berth) => Some(berth.file().await?),
            None => None,
        };
        for berth in berths {
            match Docked::open(berth.clone()).await? {
                slab_stage::Found::Free => berth.give_back().await?,
                slab_stage::Found::Left(docked, note, size) => {
                    let mut edits = Edits { local: Ranges::default(), base_len: 0, size };
                    edits.local.insert(0..size);
                    let unsure = note.sum.is_none() && note.is_unsure(disk.boot().as_deref());
                    self.left.push(Left { stage: Stage::Docked(docked), note, edits, unsure });
                }
                slab_stage::Found::Lost(docked, note) => self.lost.push((Stage::Docked(docked), note)),
            }
        }
        Ok(())
    }

    /// The latest that any note is of.
    fn life(&self) -> u64 {
        let lost = self.lost.iter().filter_map(|(_, note)| note.as_ref());
        self.left.iter().map(|left| &left.note).chain(lost).map(|note| note.life).max().unwrap_or(0)
    }

    fn count(&self) -> usize {
        self.left.len() + self.lost.len() + self.unsent.len() + self.moves.len()
    }
}

/// Moves the slots of another folder in which something is left to the end of this one, where the next mount finds them;
/// says how many. What can't be moved stays as it was. A slot that a mount holds is that mount's.
pub async fn take_over(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<usize> {
    let doing = || format!("moving what is not sent yet from {} to {}", from.display(), to.display());
    let slots = match disk.list(from).await {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        slots => slots.context(doing)?,
    };
    let (mut taken, mut free) = (0, 0_usize);
    for slot in slots {
        let slot = from.join(slot);
        if disk.list(&slot).await.context(doing)?.iter().all(|name| name == LOCK) {
            continue;
        }
        let held = match disk.lock(&slot.join(LOCK), "being moved").await {
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
            lock => lock.context(doing)?,
        };
        disk.create_dir(to).await.context(doing)?;
        // They are looked at in turn, up to the first that isn't there.
        while disk.list(&to.join(free.to_string())).await.is_ok() {
            free += 1;
        }
        if free >= SLOTS {
            let full = format!("{} has {SLOTS} slots already", to.display());
            return Err(Error::new(Kind::NoSpace, full).context(doing()));
        }
        disk.rename(&slot, &to.join(free.to_string())).await.context(doing)?;
        disk.sync_dir(to).await.context(doing)?;
        disk.sync_dir(from).await.context(doing)?;
        drop(held);
        taken += 1;
    }
    Ok(taken)
}

impl Staging {
    /// Takes the first free slot of the folder (mounts of one bucket live side by side), and says what earlier mounts
    /// left in it and in the other slots that nobody uses.
    pub async fn open(rt: Rt, disk: Arc<dyn Disk>, folder: PathBuf, url: &str) -> Result<(Staging, Found)> {
        let (mut mine, mut locks, mut found) = (None, Vec::new(), Found::default());
        let held = Folder::on(&disk);
        for slot in 0..SLOTS {
            let dir = folder.join(slot.to_string());
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
                format!("{url} is mounted {SLOTS} times already with {}", folder.display()),
            )
        })?;
        let (url, locks) = (url.to_owned(), Mutex::new(locks));
        let (shelf, making) = Default::default();
        let (life, boot) = (found.life().saturating_add(1), disk.boot());
        let folder = held;
        Ok((Staging { rt, folder, dir, url, life, boot, locks, shelf, making }, found))
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Makes durable what has left.
    pub async fn settle(&self) -> Result<()> {
        self.folder.settle().await
    }

    /// The mount is over: another may have the folder.
    pub async fn close(&self) {
        let last = self.shelf.lock().take();
        if let Some((shelf, _)) = last
            && let Err(why) = shelf.close().await
        {
            tracing::warn!(?shelf, %why, "a shelf that nobody needs can't be removed");
        }
        self.folder.settle_or_say().await;
        self.folder.ring();
        self.locks.lock().clear();
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// See `Note::life`.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// See `Disk::boot`.
    pub fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
    }

    /// A new place for the bytes of a file that is about to have `len` of them.
    pub async fn stage(&self, note: &Note, edits: Option<&Edits>, len: u64) -> Result<Stage> {
        if edits.is_none() && len.max(note.size) <= ROOM {
            return Ok(Stage::Docked(Docked::create(self.berth().await?, note).await?));
        }
        let path = self.dir.join(format!("{:016x}{STAGE}", self.rt.random()));
        Ok(Stage::Own(Own::create(&self.folder, path, note, edits, None).await?))
    }

    /// A larger place for a file whose bytes are in `old`, all of them. The next mount drops it, unless its note says
    /// by then whose it is.
    pub async fn larger(&self, note: &Note, old: &Stage) -> Result<Stage> {
        let bytes = old.read(0, note.size as usize).await?;
        let (mark, outgrown) = (Mark::Sent, Some(old.id()));
        // It takes nothing's place yet.
        let note = Note { mark, outgrown, partly: false, upload: None, over: None, ..note.clone() };
        let path = self.dir.join(format!("{:016x}{STAGE}", self.rt.random()));
        Ok(Stage::Own(Own::create(&self.folder, path, &note, None, Some(bytes)).await?))
    }

    async fn berth(&self) -> Result<Berth> {
        let next = || self.shelf.lock().as_ref().and_then(|(shelf, _)| shelf.give());
        if let Some(berth) = next() {
            return Ok(berth);
        }
        let _one = self.making.lock().await;
        loop {
            if let Some(berth) = next() {
                return Ok(berth);
            }
            let path = self.dir.join(format!("{:016x}{SHELF}", self.rt.random()));
            let made = Shelf::create(&self.folder, path).await;
            *self.shelf.lock() = Some(made.context(|| format!("staging in {}", self.dir.display()))?);
        }
    }

    /// Writes down a directory's rename before it begins, durably; and where.
    pub async fn intend(&self, intent: &Move) -> Result<PathBuf> {
        let path = self.dir.join(format!("{:016x}{MOVE}", self.rt.random()));
        self.intend_otherwise(&path, intent).await?;
        Ok(path)
    }

    pub async fn intend_otherwise(&self, path: &Path, intent: &Move) -> Result<()> {
        let text = serde_json::to_vec(intent).expect("an intent has only string keys");
        let doing = || format!("writing down a rename at {}", path.display());
        self.folder.disk().write_atomic(path, text.into()).await.context(doing)
    }

    /// It is done, or undone.
    pub async fn settled(&self, path: &Path) {
        let gone = async {
            self.folder.disk().remove(path).await?;
            // It must not come back, and do the same to what is there by then.
            self.folder.disk().sync_dir(&self.dir).await
        };
        if let Err(why) = gone.await {
            tracing::warn!(path = %path.display(), %why, "a finished rename's note can't be removed");
        }
    }

    /// The bucket has the bytes, or nobody wants them.
    pub async fn done(&self, stage: Stage) {
        if let Err(why) = stage.forget().await {
            tracing::warn!(path = %stage.path().display(), %why, "a staged file that was sent can't be removed");
        }
    }
}
