//! The store's folder: how paths in it are opened, made and made durable; temporary files; locks.
//!
//! Each operation opens the root by its path and goes on relative to it. So a folder that was moved away is
//! "not there" and never "empty", and nothing makes the root by writing into it. Nor is another folder that has its
//! path meanwhile (the empty one under a disk that was unmounted) ever taken for it, once it was seen (`check`).
//! Symbolic links below the root are neither followed nor objects.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fchmod, fgetxattr,
    flock, fstat, fstatvfs, fsync, makedev, mkdirat, openat, openat2, renameat, statat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::{Timespec, nanosleep};
use xxhash_rust::xxh3::xxh3_64;

use super::change_stamp::Remembered;
use super::key::{DISPLACED, HIDDEN, KeyPath};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};
use crate::store::Space;

/// Temporary files that are older than this were left by a crash.
const STALE_MS: u64 = 24 * 3600 * 1000;
/// Holders need microseconds; one that is suspended must not take all worker threads with it.
const LOCK_WAIT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// How often a put starts over because others made and removed its folders meanwhile.
const TURNS: usize = 1000;
const XATTR_PROBE: &str = "user.windlass.probe";

/// A folder in one of its lives: device, inode and time of birth, where the filesystem keeps that. A folder made anew under
/// an old name, maybe with its inode, has another time. Two disks that were formatted at one time differ by the device only.
type DirLife = (u64, u64, i64, u32);

/// A file in one of its states: inode and change time.
type FileLife = (u64, i64, i64);

/// What was changed longer ago survives a power cut: the system writes everything out within half of this.
const YOUNG_MS: u64 = 60_000;

fn dir_life(dir: impl AsFd) -> rustix::io::Result<DirLife> {
    let seen = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let device = makedev(seen.stx_dev_major, seen.stx_dev_minor);
    Ok((device, seen.stx_ino, seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec))
}

fn life(stat: &Stat) -> FileLife {
    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec as i64)
}

#[derive(Debug)]
pub(super) struct Root {
    dir: PathBuf,
    /// The folder that was found when the store was opened. A pool's store may be away then, and is known by its label
    /// instead: a folder that replaces a lost one is welcome there.
    opened: OnceLock<DirLife>,
    pub url: String,
    pub rt: Rt,
    /// Folders whose own entry is known to survive a power cut.
    durable: Mutex<lru::LruCache<DirLife, ()>>,
    /// Young objects that are known to survive one.
    settled: Mutex<lru::LruCache<FileLife, ()>>,
    tidied: AtomicBool,
    /// One a lock file.
    turns: Vec<Mutex<()>>,
    pub remembered: Remembered,
}

/// Of folders and files that are made here: what is stored is its owner's alone. Others are let in by who owns it (`chmod`):
/// what exists keeps its permissions, and so does an object's file that is replaced.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a path below the root, never through a symbolic link.
pub(super) fn open_at(root: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), beneath)
}

pub(super) fn open_dir(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    open_at(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// What has a name in a folder, itself and not what it links to.
fn kind_at(dir: impl AsFd, name: &str) -> rustix::io::Result<Option<FileType>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Absence is fine; everything else that goes wrong is told.
pub(super) fn absent_ok(out: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match out {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn make_dir(root: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<()> {
    match mkdirat(root, path, FOLDER_MODE) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// A file under `.%windlass/tmp`, gone again unless it was moved to its place.
#[derive(Debug)]
pub(super) struct Temp {
    root: OwnedFd,
    pub file: OwnedFd,
    path: String,
    moved: bool,
}

impl Temp {
    /// Moves it to `name` in `dir`, over whatever file is there, whose permissions it takes.
    pub fn install(&mut self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        if let Ok(there) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
            && is_file(&there)
        {
            let has = Mode::from_raw_mode(there.st_mode & 0o777);
            if has != FILE_MODE {
                fchmod(&self.file, has)?;
            }
        }
        renameat(&self.root, self.path.as_str(), dir, name)?;
        self.moved = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.moved {
            // Left behind, it is removed as stale one day.
            let _ = unlinkat(&self.root, self.path.as_str(), AtFlags::empty());
        }
    }
}

/// A key's lock, shared with every other process that uses this folder.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    // Let go of in this order.
    _file: OwnedFd,
    _turn: MutexGuard<'a, ()>,
}

/// Where an object is to be put.
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
    pub fn new(rt: &Rt, dir: &Path, url: String) -> Root {
        let room = |n| std::num::NonZeroUsize::new(n).expect("not zero");
        Root {
            dir: dir.to_owned(),
            opened: OnceLock::new(),
            url,
            rt: rt.clone(),
            durable: Mutex::new(lru::LruCache::new(room(4096))),
            settled: Mutex::new(lru::LruCache::new(room(16 << 10))),
            tidied: AtomicBool::new(false),
            turns: (0..=u8::MAX).map(|_| Mutex::new(())).collect(),
            remembered: Mutex::new(lru::LruCache::new(room(16 << 10))),
        }
    }

    /// The folder itself. That it isn't there, or another is, is an error; that an object isn't is none.
    pub fn open(&self) -> Result<OwnedFd> {
        let root = self.open_or(Kind::Unavailable)?;
        if let Some(opened) = self.opened.get()
            && *opened != self.life_of(&root)?
        {
            let (url, dir) = (&self.url, self.dir.display());
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "store {url}: {dir} is not the folder that was opened, another is in its place: mount its disk or \
                     put it back; if the other is meant, open the store anew (unmount and mount it)"
                ),
            ));
        }
        Ok(root)
    }

    /// The room on its filesystem.
    pub fn space(&self) -> Result<Space> {
        let root = self.open()?;
        let look = || Ok((fstat(&root)?, fstatvfs(&root)?));
        let (stat, room) = look().map_err(|e| self.failed("asking for its room", e))?;
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        let used_bytes = bytes(room.f_blocks.saturating_sub(room.f_bfree));
        Ok(Space { filesystem: stat.st_dev, used_bytes, free_bytes: bytes(room.f_bavail) })
    }

    fn life_of(&self, root: &OwnedFd) -> Result<DirLife> {
        dir_life(root).map_err(|e| self.failed("looking at its folder", e))
    }

    fn open_or(&self, kind: Kind) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(rustix::fs::CWD, &self.dir, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => {
                let what = format!("the folder of store {} is not there; mount or restore it", self.url);
                Error::new(kind, what)
            }
            e => self.failed("opening its folder", e),
        })
    }

    /// An error of the filesystem, with what was being done.
    pub fn failed(&self, doing: &str, e: Errno) -> Error {
        if e == Errno::OPNOTSUPP {
            return self.no_xattrs();
        }
        Error::from(std::io::Error::from(e)).context(format!("store {}: {doing}", self.url))
    }

    fn no_xattrs(&self) -> Error {
        Error::new(
            Kind::Unsupported,
            format!(
                "the filesystem that holds store {} keeps no user extended attributes; use ext4, xfs, btrfs or \
                 another that does",
                self.url
            ),
        )
    }

    /// Refuses a filesystem that can't keep metadata; writes nothing. From now on the store is this folder and no other.
    pub fn check(&self) -> Result<()> {
        let root = self.open_or(Kind::NotFound)?;
        let dir = open_dir(&root, ".").map_err(|e| self.failed("opening its folder", e))?;
        match fgetxattr(&dir, XATTR_PROBE, &mut [0u8; 16][..]) {
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => {}
            Err(e) => return Err(self.failed("reading an extended attribute", e)),
        }
        let life = self.life_of(&root)?;
        self.opened.get_or_init(|| life);
        Ok(())
    }

    /// For a place that is to become a store: it must be there, and survive a power cut. It is not made: a misspelt path
    /// would become a store.
    pub fn adopt(&self) -> Result<()> {
        self.check().map_err(|e| match e.kind() {
            Kind::NotFound => {
                let (url, dir) = (&self.url, self.dir.display());
                Error::new(
                    Kind::NotFound,
                    format!("store {url}: its folder is not there: correct the path, or make {dir} first"),
                )
            }
            _ => e,
        })?;
        let above = self.dir.parent().unwrap_or(Path::new("/"));
        openat(rustix::fs::CWD, above, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(fsync)
            .map_err(|e| self.failed("making its folder durable", e))
    }

    /// Runs `open` again after making the hidden folder `inner`, when that wasn't there.
    fn in_hidden<T>(
        &self,
        root: &OwnedFd,
        inner: &str,
        open: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match open() {
            Err(Errno::NOENT) => {
                make_dir(root, HIDDEN)?;
                make_dir(root, format!("{HIDDEN}/{inner}"))?;
                open()
            }
            other => other,
        }
    }

    pub fn temp(&self) -> Result<Temp> {
        let root = self.open()?;
        let path = format!("{HIDDEN}/tmp/{:032x}", self.rt.random128());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self
            .in_hidden(&root, "tmp", || openat(&root, path.as_str(), flags, FILE_MODE))
            .map_err(|e| self.failed("making a temporary file", e))?;
        self.tidy(&root);
        Ok(Temp { root, file, path, moved: false })
    }

    /// Removes, once a process, the temporary files that a crash left. What can't be removed is only clutter.
    fn tidy(&self, root: &OwnedFd) {
        if self.tidied.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(names) = open_dir(root, &format!("{HIDDEN}/tmp")).and_then(Dir::new) else { return };
        for entry in names.flatten() {
            let path = format!("{HIDDEN}/tmp/{}", entry.file_name().to_string_lossy());
            let Ok(stat) = statat(root, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let age_ms = self.rt.wall_ms().saturating_sub(stat.st_mtime.max(0) as u64 * 1000);
            if is_file(&stat) && age_ms > STALE_MS {
                let _ = unlinkat(root, path.as_str(), AtFlags::empty());
            }
        }
    }

    /// Waits for the key's lock. Held for a few system calls only, never while data is written.
    pub fn lock(&self, root: &OwnedFd, key: &str) -> Result<Lock<'_>> {
        let at = xxh3_64(key.as_bytes()) as u8;
        let path = format!("{HIDDEN}/locks/{at:02x}");
        let held = || {
            Error::new(
                Kind::Unavailable,
                format!(
                    "store {}: another process holds {path} for {LOCK_WAIT:?}; is it suspended?",
                    self.url
                ),
            )
        };
        // In turn within this process: only the first asks the system.
        let turn = self.turns[usize::from(at)].try_lock_for(LOCK_WAIT).ok_or_else(held)?;
        let start = self.rt.now();
        let mut pause_ns = 50_000;
        loop {
            if let Some(file) = self.try_flock(root, &path).map_err(|e| self.failed("taking a lock", e))? {
                return Ok(Lock { _file: file, _turn: turn });
            }
            if self.rt.now().since(start) > LOCK_WAIT {
                return Err(held());
            }
            // Cut short by a signal it only looks sooner.
            let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: pause_ns });
            pause_ns = (pause_ns * 2).min(5_000_000);
        }
    }

    /// `None` while another process has it.
    fn try_flock(&self, root: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let file = self.in_hidden(root, "locks", || openat(root, path, flags, FILE_MODE))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                other => other?,
            }
            // A lock on a file that somebody removed meanwhile excludes nobody.
            if fstat(&file)?.st_nlink > 0 {
                return Ok(Some(file));
            }
        }
    }

    /// The folders on the way to an object, made where they are missing. An object that has the name of such a
    /// folder moves aside.
    fn make_folders(&self, root: &OwnedFd, path: &KeyPath) -> Result<()> {
        let doing = || format!("making the folder of {:?}", path.key());
        for (folder, key) in path.folders() {
            match mkdirat(root, folder.as_str(), FOLDER_MODE) {
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
        let _lock = self.lock(root, path.key())?;
        let go = || -> rustix::io::Result<()> {
            let dir = open_dir(root, &path.folder())?;
            if kind_at(&dir, path.name())? != Some(FileType::RegularFile) {
                return Ok(());
            }
            make_dir(&dir, DISPLACED)?;
            let aside = open_dir(&dir, DISPLACED)?;
            renameat(&dir, path.name(), &aside, path.name())?;
            make_dir(&dir, path.name())?;
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
            let lock = self.lock(&root, path.key())?;
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
                let aside = make_dir(&dir, DISPLACED).and_then(|()| open_dir(&dir, DISPLACED));
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

    /// A file that was just put here, durably.
    pub fn note_settled(&self, file: &OwnedFd) {
        if let Ok(stat) = fstat(file) {
            self.settled.lock().put(life(&stat), ());
        }
    }

    /// Another process may have moved an object to its place and not made that durable yet. Whoever builds on what he
    /// reads (a register's majority, a takeover's count) needs that it stays.
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

    /// Opens a file under the hidden folder, or makes that folder first.
    pub fn hidden_dir(&self, root: &OwnedFd, inner: &str) -> Result<OwnedFd> {
        let path = format!("{HIDDEN}/{inner}");
        self.in_hidden(root, inner, || open_dir(root, &path))
            .map_err(|e| self.failed("opening its hidden folder", e))
    }
}
