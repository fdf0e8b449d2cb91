//! Temporary files: what is written is put together in one, and moved to its place whole. What a crash left of them is removed.

use std::sync::atomic::Ordering;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, renameat, statat, unlinkat};

use super::key::HIDDEN;
use super::root::{FILE_MODE, Root, is_file, open_dir};
use crate::base::Result;

/// Temporary files that are older than this were left by a crash.
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

impl Root {
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
}
