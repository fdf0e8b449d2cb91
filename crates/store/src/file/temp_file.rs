//! Temporary files: what is written is put together in one, and moved to its place whole.
//!
//! Whoever writes one holds a lock on it, which ends with the process: one that nobody holds was left by a crash, and the next
//! process that uses the store removes it.

use std::sync::atomic::Ordering;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, Stat, fchmod, flock, linkat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::key::HIDDEN;
use super::ownership::{give, is_named};
use super::root::{FILE_MODE, Root, is_dir, is_file, open_dir};
use windlass_base::Result;
use windlass_base::known_time::age_ms;

/// Age from which on temporary files were left by a crash, where the filesystem can't tell whether somebody holds them.
const STALE_MS: u64 = 24 * 3600 * 1000;

/// A file under `.%windlass/tmp`, gone again unless it was moved to its place.
#[derive(Debug)]
pub(super) struct Temp {
    root: OwnedFd,
    pub file: OwnedFd,
    path: String,
    moved: bool,
}

impl Temp {
    /// Gives it `name` below the root too; `EXIST`: something has that.
    pub fn link(&self, name: &str) -> rustix::io::Result<()> {
        linkat(&self.root, self.path.as_str(), &self.root, name, AtFlags::empty())
    }

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
            // Left behind, the next process removes it.
            let _ = unlinkat(&self.root, self.path.as_str(), AtFlags::empty());
        }
    }
}

fn lock(file: &OwnedFd) -> rustix::io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

impl Root {
    pub fn temp(&self) -> Result<Temp> {
        self.temp_in(self.open()?).map_err(|e| self.failed("making a temporary file", e))
    }

    pub(super) fn temp_in(&self, root: OwnedFd) -> rustix::io::Result<Temp> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let path = format!("{HIDDEN}/tmp/{:032x}", self.rt.random128());
            let open = || openat(&root, path.as_str(), flags, FILE_MODE);
            let file = self.in_hidden(&root, "tmp", open)?;
            // Another process that tidies may have found it before it was locked, and removed it.
            let taken = matches!(lock(&file), Err(Errno::WOULDBLOCK));
            if !taken && is_named(&root, &path, &file)? {
                let temp = Temp { root, file, path, moved: false };
                give(&temp.root, &temp.file)?;
                return Ok(temp);
            }
        }
    }

    /// Removes, once a process, the temporary files that a crash left. What can't be removed is only clutter.
    pub(super) fn tidy(&self, root: &OwnedFd) {
        if self.tidied.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(names) = open_dir(root, &format!("{HIDDEN}/tmp")).and_then(Dir::new) else { return };
        for entry in names.flatten() {
            let path = format!("{HIDDEN}/tmp/{}", entry.file_name().to_string_lossy());
            let Ok(stat) = statat(root, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            // Held until it is removed: who has just made it, and takes the lock in between, would go on with what is gone.
            let held = is_file(&stat).then(|| self.left(root, &path, &stat)).flatten();
            if held.is_some() {
                let _ = unlinkat(root, path.as_str(), AtFlags::empty());
            }
            // A folder that root was about to name.
            if is_dir(&stat) && self.is_stale(&stat) && !matches!(path.rsplit('/').next(), Some("." | "..")) {
                let _ = unlinkat(root, path.as_str(), AtFlags::REMOVEDIR);
            }
        }
    }

    /// Opens the file, if nobody writes it any more: locked, where the filesystem can do that.
    fn left(&self, root: &OwnedFd, path: &str, stat: &Stat) -> Option<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(root, path, flags, Mode::empty()).ok()?;
        let left = match lock(&file) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK | Errno::INTR) => false,
            Err(_) => self.is_stale(stat),
        };
        left.then_some(file)
    }

    fn is_stale(&self, stat: &Stat) -> bool {
        let age = age_ms(stat.st_mtime.max(0) as u64 * 1000, self.rt.wall_ms());
        age.is_some_and(|age| age > STALE_MS)
    }
}
