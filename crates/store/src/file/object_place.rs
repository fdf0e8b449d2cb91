//! Where an object is put: its place found under the key's lock, the folders on the way made and removed, and all of it made
//! durable.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Stat, fstat, fsync, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::key::{DISPLACED, KeyPath};
use super::key_lock::lock_key;
use super::root::{FileLife, Root, dir_life, open_dir, present_ok};
use windlass_base::{Error, Kind, Result};

/// Number of times that a put is tried while others make and remove its folders.
const TURNS: usize = 1000;
/// Age from which on a change survives a power cut without our help: the system writes everything out within half of this.
const YOUNG_MS: u64 = 60_000;

fn life(stat: &Stat) -> FileLife {
    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec as i64)
}

/// Returns the kind of what has a name in a folder, not of what it links to; `None` where nothing has the name.
fn kind_at(dir: impl AsFd, name: &str) -> rustix::io::Result<Option<FileType>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        // Or an object took the place of a folder on the way.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The place where an object is to be put.
#[derive(Debug)]
pub(super) struct Spot {
    pub dir: OwnedFd,
    /// A folder has the object's name: it lives in `.%f`.
    pub displaced: Option<OwnedFd>,
}

impl Spot {
    pub fn dir_of_object(&self) -> &OwnedFd {
        self.displaced.as_ref().unwrap_or(&self.dir)
    }
}

impl Root {
    /// Makes the folders on the way to an object where they are missing. An object that has the name of such a folder moves
    /// aside.
    fn make_folders(&self, root: &OwnedFd, path: &KeyPath) -> Result<()> {
        let doing = || format!("making the folder of {:?}", path.key());
        for (folder, key) in path.folders() {
            match self.make_dir(root, root, &folder) {
                Ok(()) => continue,
                // Removed meanwhile, or something that is no folder is on the way: the caller comes again.
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(self.failed(&doing(), e)),
            }
            match kind_at(root, &folder).map_err(|e| self.failed(&doing(), e))? {
                Some(FileType::RegularFile) if key.is_some() => {
                    let inner = KeyPath::of(key.expect("just seen"))?;
                    self.displace(root, &inner).map_err(|e| e.context(doing()))?;
                }
                Some(FileType::Directory) | None => {}
                Some(_) => return Err(self.foreign(&folder)),
            }
        }
        Ok(())
    }

    fn foreign(&self, path: &str) -> Error {
        Error::new(
            Kind::Refused,
            format!("store {}: {path:?} is neither a plain file nor a folder; remove it first", self.url),
        )
    }

    /// Moves the object aside and puts a folder in its place.
    fn displace(&self, root: &OwnedFd, path: &KeyPath) -> Result<()> {
        let _lock = lock_key(self, root, path.key())?;
        let go = || -> rustix::io::Result<()> {
            let dir = open_dir(root, &path.folder())?;
            if kind_at(&dir, path.name())? != Some(FileType::RegularFile) {
                return Ok(());
            }
            present_ok(self.make_dir(root, &dir, DISPLACED))?;
            let aside = open_dir(&dir, DISPLACED)?;
            renameat(&dir, path.name(), &aside, path.name())?;
            present_ok(self.make_dir(root, &dir, path.name()))?;
            fsync(&aside)?;
            fsync(&dir)
        };
        match go() {
            // Removed or replaced meanwhile: the caller looks again.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::EXIST) => Ok(()),
            Err(e) => Err(self.failed(&format!("moving {:?} aside", path.key()), e)),
        }
    }

    /// Finds the place for an object, tells it to `put` under the key's lock, and makes it durable. `put` is called
    /// again when the place has changed meanwhile; it answers `None` when nothing was put.
    pub fn place<T>(
        &self,
        path: &KeyPath,
        mut put: impl FnMut(&OwnedFd, &Spot) -> Result<Result<Option<T>, Errno>>,
    ) -> Result<Option<(T, rustix::io::Result<()>)>> {
        let root = self.open()?;
        let doing = format!("writing {:?}", path.key());
        let folder = path.folder();
        for turn in 0..TURNS {
            if turn > 0 {
                self.make_folders(&root, path)?;
            }
            let lock = lock_key(self, &root, path.key())?;
            let tried = match self.spot(&root, path, &folder)? {
                Ok(spot) => put(&root, &spot)?.map(|out| out.map(|out| (out, spot))),
                Err(e) => Err(e),
            };
            drop(lock);
            match tried {
                Ok(None) => return Ok(None),
                Ok(Some((out, spot))) => return Ok(Some((out, self.settle(&root, &folder, &spot)))),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::EXIST) => {}
                Err(Errno::LOOP) => return Err(self.foreign(&folder)),
                Err(e) => return Err(self.failed(&doing, e)),
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("store {}: {doing}: other programs keep changing its folder", self.url),
        ))
    }

    fn spot(&self, root: &OwnedFd, path: &KeyPath, folder: &str) -> Result<Result<Spot, Errno>> {
        let find = || -> rustix::io::Result<(OwnedFd, Option<FileType>)> {
            let dir = open_dir(root, folder)?;
            let kind = kind_at(&dir, path.name())?;
            Ok((dir, kind))
        };
        let (dir, kind) = match find() {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        match kind {
            None | Some(FileType::RegularFile) => Ok(Ok(Spot { dir, displaced: None })),
            Some(FileType::Directory) => {
                let made = present_ok(self.make_dir(root, &dir, DISPLACED));
                let aside = made.and_then(|()| open_dir(&dir, DISPLACED));
                Ok(aside.map(|aside| Spot { dir, displaced: Some(aside) }))
            }
            Some(_) => Err(self.foreign(&path.path())),
        }
    }

    /// Makes a new entry survive a power cut: the folder, and once in a folder's life those above it.
    fn settle(&self, root: &OwnedFd, folder: &str, spot: &Spot) -> rustix::io::Result<()> {
        if let Some(aside) = &spot.displaced {
            fsync(aside)?;
        }
        fsync(&spot.dir)?;
        let life = dir_life(&spot.dir)?;
        if self.durable.lock().get(&life).is_some() {
            return Ok(());
        }
        if folder != "." {
            let ends = folder.match_indices('/').map(|(at, _)| &folder[..at]);
            for above in ends.chain(["."]) {
                match open_dir(root, above) {
                    Ok(dir) => fsync(dir)?,
                    // Another has deleted the object since, and its folders with it.
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        }
        self.durable.lock().put(life, ());
        Ok(())
    }

    /// Notes a file that was just put here, durably.
    pub fn note_settled(&self, file: &OwnedFd) {
        if let Ok(stat) = fstat(file) {
            self.settled.lock().put(life(&stat), ());
        }
    }

    /// Makes an object durable that was read. Another process may have moved it to its place and not made that durable yet,
    /// and whoever builds on what he reads (a register's majority, a takeover's count) needs that it stays.
    pub fn settle_what_was_read(
        &self,
        root: &OwnedFd,
        (file, stat): (&OwnedFd, &Stat),
        path: &KeyPath,
    ) -> Result<()> {
        let changed_ms = u64::try_from(stat.st_ctime).unwrap_or(0) * 1000;
        if self.rt.wall_ms().saturating_sub(changed_ms) > YOUNG_MS
            || self.settled.lock().get(&life(stat)).is_some()
        {
            return Ok(());
        }
        let folder = path.folder();
        let go = || -> rustix::io::Result<()> {
            rustix::fs::fdatasync(file)?;
            let dir = open_dir(root, &folder)?;
            let displaced = open_dir(&dir, DISPLACED).ok();
            self.settle(root, &folder, &Spot { dir, displaced })
        };
        match go() {
            // Deleted meanwhile: what was read was there.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {
                self.settled.lock().put(life(stat), ());
                Ok(())
            }
            Err(e) => Err(self.failed(&format!("making {:?} durable", path.key()), e)),
        }
    }

    /// Removes what has become empty on the way up from `folder`, and makes the removal durable.
    pub fn prune(&self, root: &OwnedFd, folder: &str) -> rustix::io::Result<()> {
        let above = |at: &str| at.rsplit_once('/').map_or(".", |(above, _)| above).to_owned();
        let mut at = folder.to_owned();
        loop {
            let aside = if at == "." { DISPLACED.to_owned() } else { format!("{at}/{DISPLACED}") };
            let _ = unlinkat(root, aside.as_str(), AtFlags::REMOVEDIR);
            // Not empty, or gone already: both end the way up.
            if at == "." || unlinkat(root, at.as_str(), AtFlags::REMOVEDIR).is_err() {
                break;
            }
            at = above(&at);
        }
        loop {
            match open_dir(root, &at) {
                Ok(dir) => return fsync(dir),
                // Another has removed it too.
                Err(Errno::NOENT | Errno::NOTDIR) if at != "." => at = above(&at),
                Err(e) => return Err(e),
            }
        }
    }
}
