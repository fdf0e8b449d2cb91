//! The store's folder: found, known again, and how paths in it are opened.
//!
//! Each operation opens the root by its path and goes on relative to it. So a folder that was moved away is
//! "not there" and never "empty", and nothing makes the root by writing into it. Nor is another folder that has its
//! path meanwhile (the empty one under a disk that was unmounted) ever taken for it, once it was seen (`check`).
//! Symbolic links below the root are neither followed nor objects.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fgetxattr, fstat, fstatvfs, fsync,
    makedev, openat, openat2, statx,
};
use rustix::io::Errno;

use super::change_stamp::Remembered;
use super::key::HIDDEN;
use crate::Space;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

const XATTR_PROBE: &str = "user.windlass.probe";
/// Number of times that hidden folders are made which others take away again.
const HIDDEN_TURNS: usize = 100;

/// A folder in one of its lives: device, inode and time of birth, where the filesystem keeps that. A folder made anew under
/// an old name, maybe with its inode, has another time. Two disks that were formatted at one time differ by the device only.
type DirLife = (u64, u64, i64, u32);

/// A file in one of its states: inode and change time.
pub(super) type FileLife = (u64, i64, i64);

pub(super) fn dir_life(dir: impl AsFd) -> rustix::io::Result<DirLife> {
    let seen = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let device = makedev(seen.stx_dev_major, seen.stx_dev_minor);
    Ok((device, seen.stx_ino, seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec))
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
    pub(super) durable: Mutex<lru::LruCache<DirLife, ()>>,
    /// Young objects that are known to survive a power cut.
    pub(super) settled: Mutex<lru::LruCache<FileLife, ()>>,
    pub(super) tidied: AtomicBool,
    /// One lock for each lock file.
    pub(super) turns: Vec<Mutex<()>>,
    pub remembered: Remembered,
    /// Lock files and hidden folders that this process has made.
    pub(super) made: Mutex<BTreeSet<String>>,
}

/// Mode of folders that are made here, as `FILE_MODE` of files: what is stored is its owner's alone. Others are let in by who
/// owns it (`chmod`): what exists keeps its permissions, and so does an object's file that is replaced.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

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

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Takes it as done where nothing is there; everything else that goes wrong is told.
pub(super) fn absent_ok(out: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match out {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Takes it as done where something is there already; everything else that goes wrong is told.
pub(super) fn present_ok(out: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match out {
        Err(Errno::EXIST) => Ok(()),
        other => other,
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
            made: Mutex::default(),
        }
    }

    /// Opens the folder itself. That it isn't there, or another is, is an error; that an object isn't is none.
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
        self.tidy(&root);
        Ok(root)
    }

    /// Returns the room on the folder's filesystem.
    pub fn space(&self) -> Result<Space> {
        let root = self.open()?;
        let look = || Ok((fstat(&root)?, fstatvfs(&root)?));
        let (stat, room) = look().map_err(|e| self.failed("asking for its room", e))?;
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        let used_bytes = bytes(room.f_blocks.saturating_sub(room.f_bfree));
        Ok(Space { filesystem: stat.st_dev, used_bytes, free_bytes: bytes(room.f_bavail) })
    }

    /// Returns when the folder that was opened was born, where its filesystem keeps that. Its device and some filesystems'
    /// inodes have other numbers at the next mount.
    pub fn born(&self) -> Option<String> {
        let (.., seconds, nanos) = *self.opened.get()?;
        (seconds != 0).then(|| format!("{seconds}.{nanos:09}"))
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

    /// Returns an error of the filesystem, with what was being done.
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

    /// Checks a place that is to become a store, and makes its name survive a power cut. The folder must be there, and is not
    /// made: a misspelt path would become a store.
    pub fn adopt(&self) -> Result<()> {
        self.check().map_err(|e| match e.kind() {
            Kind::NotFound => {
                let (url, dir) = (&self.url, self.dir.display());
                let why = match rustix::fs::stat(&self.dir) {
                    Ok(_) => format!("{dir} is no folder: name one"),
                    Err(_) => format!("its folder is not there: correct the path, or make {dir} first"),
                };
                Error::new(Kind::NotFound, format!("store {url}: {why}"))
            }
            _ => e,
        })?;
        let above = self.dir.parent().unwrap_or(Path::new("/"));
        openat(rustix::fs::CWD, above, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(fsync)
            .map_err(|e| self.failed("making its folder durable", e))
    }

    /// Runs `open` again after making the hidden folder `inner`, when that wasn't there. A probe that ends may take it away
    /// meanwhile, as long as it is empty.
    pub(super) fn in_hidden<T>(
        &self,
        root: &OwnedFd,
        inner: &str,
        open: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        for _ in 0..HIDDEN_TURNS {
            match open() {
                Err(Errno::NOENT) => {}
                other => return other,
            }
            for path in [HIDDEN, &format!("{HIDDEN}/{inner}")] {
                match self.make_dir(root, root, path) {
                    Ok(()) => self.note_made(path),
                    Err(Errno::EXIST | Errno::NOENT) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        open()
    }

    /// Opens a file under the hidden folder, or makes that folder first.
    pub fn hidden_dir(&self, root: &OwnedFd, inner: &str) -> Result<OwnedFd> {
        let path = format!("{HIDDEN}/{inner}");
        self.in_hidden(root, inner, || open_dir(root, &path))
            .map_err(|e| self.failed("opening its hidden folder", e))
    }
}
