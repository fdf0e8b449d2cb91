//! A key's lock: whoever changes an object holds it, in this process and among all that use the folder.

use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::thread::{Timespec, nanosleep};
use xxhash_rust::xxh3::xxh3_64;

use super::key::HIDDEN;
use super::ownership::{heir, is_named};
use super::root::{FILE_MODE, Root};
use windlass_base::{Error, Kind, Result};

/// Time after which a lock is given up. Holders need microseconds; one that is suspended must not take all worker threads with
/// it.
const LOCK_WAIT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });

/// A key's lock, shared with every other process that uses this folder.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    // The fields are dropped in this order.
    file: OwnedFd,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Closing the file is not enough: a program that is being started has a copy of the descriptor until its exec,
        // and with it the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Waits for the key's lock. Held for a few system calls only, never while data is written.
pub(super) fn lock_key<'a>(root: &'a Root, dir: &OwnedFd, key: &str) -> Result<Lock<'a>> {
    let at = xxh3_64(key.as_bytes()) as u8;
    let path = format!("{HIDDEN}/locks/{at:02x}");
    let held = || {
        Error::new(
            Kind::Unavailable,
            format!("store {}: another process holds {path} for {LOCK_WAIT:?}; is it suspended?", root.url),
        )
    };
    // In turn within this process: only the first asks the system.
    let turn = root.turns[usize::from(at)].try_lock_for(LOCK_WAIT).ok_or_else(held)?;
    let start = root.rt.now();
    let mut pause_ns = 50_000;
    loop {
        if let Some(file) = try_flock(root, dir, &path).map_err(|e| root.failed("taking a lock", e))? {
            return Ok(Lock { file, _turn: turn });
        }
        if root.rt.now().since(start) > LOCK_WAIT {
            return Err(held());
        }
        // Cut short by a signal it only looks sooner.
        let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: pause_ns });
        pause_ns = (pause_ns * 2).min(5_000_000);
    }
}

/// Locks a lock file, which is made if absent. `None` while another process has it.
fn try_flock(root: &Root, dir: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let file = match openat(dir, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => match make(root, dir, path) {
                Err(Errno::EXIST) => continue,
                made => made?,
            },
            opened => opened?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other?,
        }
        // A lock on a file that somebody removed meanwhile excludes nobody.
        if is_named(dir, path, &file)? {
            return Ok(Some(file));
        }
    }
}

/// Makes a new lock file; `EXIST`: another has made it meanwhile. One that root makes for the folder's owner is his before it
/// has its name: in between, his process could not open it.
fn make(root: &Root, dir: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let linked = match heir(dir)? {
        Some(_) => linked(root, dir, path)?,
        None => None,
    };
    let file = match linked {
        Some(file) => file,
        None => root.in_hidden(dir, "locks", || openat(dir, path, flags, FILE_MODE))?,
    };
    root.note_made(path);
    Ok(file)
}

/// Makes a lock file under a temporary name, then links it to its name. `None` on a filesystem without hard links.
fn linked(root: &Root, dir: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let temp = root.temp_in(dup(dir)?)?;
    match root.in_hidden(dir, "locks", || temp.link(path)) {
        // Held by this process until it is let go of, as any temporary file is.
        Ok(()) => dup(&temp.file).map(Some),
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

fn dup(file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(file, 0)
}
