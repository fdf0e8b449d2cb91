//! What tells whether a file is still the one that was looked at.

use parking_lot::Mutex;
use rustix::fs::Stat;

use crate::Etag;

/// The facts of a file that tell whether it is still the one whose etag was noted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Stamp {
    pub size: u64,
    pub mtime_ns: i128,
    pub inode: u64,
}

impl Stamp {
    pub fn of(stat: &Stat) -> Stamp {
        let mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Stamp { size: stat.st_size as u64, mtime_ns, inode: stat.st_ino }
    }
    pub fn modified_ms(self) -> u64 {
        u64::try_from(self.mtime_ns / 1_000_000).unwrap_or(0)
    }
}

/// Etags of files that can't take an attribute (read-only, another user's), so that they are read once.
pub(super) type Remembered = Mutex<lru::LruCache<(u64, u64), (Stamp, Etag)>>;
