//! A folder of this host: who may use it, on what filesystem it is, how much room is left there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Facts on a folder, see the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    pub uid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Device number of the filesystem, as stat(2) gives it.
    pub device: u64,
    /// Kind of the filesystem, where it matters: `tmpfs`, `nfs`, …
    pub kind: Option<&'static str>,
    pub free_bytes: u64,
    pub used_bytes: u64,
    /// Inodes that are free. `None`: the filesystem does not count them.
    pub free_inodes: Option<u64>,
}

/// Types of filesystems that lose data, or lock by rules of their own; by the numbers of statfs(2).
const KINDS: &[(i64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x6573_5546, "fuse"),
    (0x794c_7630, "overlay"),
];

/// Kinds of filesystems whose contents are gone with the machine's power, or with a container.
pub const FLEETING: &[&str] = &["tmpfs", "ramfs", "overlay"];
/// Kinds of filesystems that are served by other machines or programs.
pub const REMOTE: &[&str] = &["nfs", "cifs", "smb", "fuse"];

impl Folder {
    /// Looks at a folder.
    ///
    /// # Errors
    /// There is none, or it can't be looked at.
    pub fn look(dir: &Path) -> std::io::Result<Folder> {
        let meta = std::fs::metadata(dir)?;
        if !meta.is_dir() {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
        let (of, room) = (rustix::fs::statfs(dir)?, rustix::fs::statvfs(dir)?);
        Ok(Folder {
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
            device: meta.dev(),
            kind: KINDS.iter().find(|(magic, _)| *magic == of.f_type).map(|(_, kind)| *kind),
            free_bytes: room.f_bavail * room.f_frsize,
            used_bytes: room.f_blocks.saturating_sub(room.f_bfree) * room.f_frsize,
            free_inodes: (room.f_files > 0).then_some(room.f_favail),
        })
    }

    /// Returns how full the filesystem is, in percent of the room for users who are not root.
    pub fn percent(&self) -> u64 {
        percent(self.used_bytes, self.free_bytes)
    }

    pub fn is(&self, kinds: &[&str]) -> bool {
        self.kind.is_some_and(|kind| kinds.contains(&kind))
    }
}

pub fn percent(used: u64, free: u64) -> u64 {
    let all = u128::from(used) + u128::from(free);
    (u128::from(used) * 100).checked_div(all).map_or(100, |percent| percent as u64)
}

/// Returns the mount point that should hold `dir` by fstab(5), if nothing is mounted there now.
pub fn unmounted(dir: &Path, fstab: &str, mounts: &str) -> Option<PathBuf> {
    let places = |table: &str| -> Vec<PathBuf> {
        let lines = table.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from).collect()
    };
    let mounted = places(mounts);
    let wanted = places(fstab).into_iter();
    wanted
        .filter(|place| place.as_os_str() != "/" && dir.starts_with(place) && !mounted.contains(place))
        .max_by_key(|place| place.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_fstab_that_is_not_mounted_is_found() {
        let fstab = "# none\n/dev/a / ext4\n/dev/b /srv/b ext4 noauto\n/dev/c /srv ext4\nnone none swap\n";
        let at = |dir: &str, mounts: &str| unmounted(Path::new(dir), fstab, mounts);
        assert_eq!(at("/srv/b/s1", "/dev/a / ext4\n/dev/c /srv ext4"), Some("/srv/b".into()));
        assert_eq!(at("/srv/b/s1", "/dev/b /srv/b ext4\n/dev/c /srv ext4"), None);
        assert_eq!(at("/home/s1", ""), None);
    }

    #[test]
    fn a_folder_tells_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::look(dir.path()).unwrap();
        assert!(folder.free_bytes > 0 && folder.percent() <= 100);
        assert!(Folder::look(&dir.path().join("none")).is_err());
        assert_eq!((percent(0, 0), percent(9, 1)), (100, 90));
    }
}
