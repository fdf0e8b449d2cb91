//! The user whose daemon reads the files that windlass.toml names, and what that user may read. Root may read everything, so
//! root's own try would tell nothing of a daemon that has a user of its own, as the package's has.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::daemon::StateDir;
use windlass_base::Accounts;

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;

/// Kinds of files, by which it is told who else may read one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// A key or a passphrase: the file's owner alone reads it.
    Secret,
    /// A file that others may read too, a certificate for example.
    Anything,
}

/// The daemon's user, see the module.
#[derive(Debug)]
pub struct DaemonUser {
    uid: u32,
    groups: BTreeSet<u32>,
    accounts: Accounts,
}

impl DaemonUser {
    /// Returns the user who owns the lock of the state folder, which is the daemon's from before its first
    /// start. Without a lock this is the user who asks.
    pub fn of(home: &StateDir) -> DaemonUser {
        let own = rustix::process::geteuid().as_raw();
        let lock = rustix::fs::stat(home.root().join("lock"));
        DaemonUser::new(lock.map_or(own, |lock| lock.st_uid), Accounts::load())
    }

    fn new(uid: u32, accounts: Accounts) -> DaemonUser {
        DaemonUser { uid, groups: accounts.groups_of(uid), accounts }
    }

    pub fn name(&self) -> String {
        self.accounts.name_of(self.uid)
    }

    /// Returns the reason why this user can't read the file, and the cure. `None` also where this process
    /// can't see the file itself.
    pub fn unread(&self, file: &Path, holds: Holds) -> Option<String> {
        let name = self.name();
        let (at, shown) = self.refused(file, READ)?;
        if at != file {
            let at = at.display();
            let what = format!("the daemon's user {name} can't reach {}: {shown}", file.display());
            return Some(format!("{what}: move the file, or `chmod o+x {at}`"));
        }
        let at = at.display();
        let cure = match holds {
            Holds::Secret => format!("`chown {name}: {at}; chmod 600 {at}`"),
            Holds::Anything => format!("`chown {name}: {at}`, or `chmod o+r {at}`"),
        };
        Some(format!("the daemon's user {name} can't read it: {shown}: {cure}"))
    }

    /// Returns the reason why this user can't write into the folder.
    pub fn unwritten(&self, dir: &Path) -> Option<String> {
        let (_, shown) = self.refused(dir, READ | WRITE | SEARCH)?;
        Some(format!("the daemon's user {} can't write there: {shown}", self.name()))
    }

    /// Finds the first thing on the way that shuts the user out, with its mode and owner.
    fn refused(&self, path: &Path, wanted: u32) -> Option<(PathBuf, String)> {
        if self.uid == 0 {
            return None;
        }
        // A link's target is what is read; what leads to it must be open too.
        let real = path.canonicalize().ok()?;
        let above = real.ancestors().skip(1).collect::<Vec<_>>();
        let way = above.into_iter().rev().map(|dir| (dir, SEARCH));
        let shut = way.chain([(real.as_path(), wanted)]).find(|(at, bits)| self.lacks(at, *bits))?;
        let meta = std::fs::metadata(shut.0).ok()?;
        let (mode, owner) = (meta.mode() & 0o7777, self.accounts.name_of(meta.uid()));
        let what = if shut.0 == real { path } else { shut.0 };
        Some((what.to_owned(), format!("{} has mode {mode:03o} and is {owner}'s", what.display())))
    }

    fn lacks(&self, at: &Path, bits: u32) -> bool {
        let Ok(meta) = std::fs::metadata(at) else { return false };
        let shift = match () {
            () if meta.uid() == self.uid => 6,
            () if self.groups.contains(&meta.gid()) => 3,
            () => 0,
        };
        // With an access list the bits do not tell who else may.
        let listed = rustix::fs::getxattr(at, "system.posix_acl_access", &mut [0u8; 1024][..]).is_ok();
        (meta.mode() >> shift) & bits != bits && !listed
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // files as a user makes them
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// One who is nobody here, with a group of this process's.
    fn stranger(gid: u32) -> DaemonUser {
        let passwd = format!("windlass:x:64711:{gid}::/:\n");
        DaemonUser::new(64_711, Accounts::parse(&passwd, ""))
    }

    #[test]
    fn a_file_is_judged_by_the_mode_and_owner_that_the_daemons_user_meets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vm1.key");
        std::fs::write(&file, [7; 32]).unwrap();
        set(dir.path(), 0o755);
        let (meta, windlass) = (std::fs::metadata(&file).unwrap(), stranger(64_712));
        set(&file, 0o600);
        let why = windlass.unread(&file, Holds::Secret).unwrap();
        let shown = file.display();
        for words in ["user windlass", "mode 600", &format!("`chown windlass: {shown}; chmod 600 {shown}`")] {
            assert!(why.contains(words), "{words}: {why}");
        }
        assert!(windlass.unread(&file, Holds::Anything).unwrap().contains("chmod o+r"));
        set(&file, 0o640);
        assert!(windlass.unread(&file, Holds::Anything).is_some());
        assert_eq!(stranger(meta.gid()).unread(&file, Holds::Anything), None, "its group may");
        set(&file, 0o604);
        assert_eq!(windlass.unread(&file, Holds::Anything), None);
        set(dir.path(), 0o700);
        let why = windlass.unread(&file, Holds::Secret).unwrap();
        assert!(
            why.contains("mode 700") && why.contains(&format!("`chmod o+x {}`", dir.path().display())),
            "{why}"
        );
        let (owner, root) =
            (DaemonUser::new(meta.uid(), Accounts::default()), DaemonUser::new(0, Accounts::default()));
        assert_eq!((owner.unread(&file, Holds::Secret), root.unread(&file, Holds::Secret)), (None, None));
        assert_eq!(windlass.unread(&dir.path().join("none"), Holds::Secret), None, "that is another trouble");
    }

    #[test]
    fn a_folder_of_another_user_is_not_written_into() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), 0o755);
        assert!(stranger(64_712).unwritten(dir.path()).unwrap().contains("user windlass can't write"));
        set(dir.path(), 0o777);
        assert_eq!(stranger(64_712).unwritten(dir.path()), None);
    }

    #[test]
    fn the_daemons_user_is_who_has_the_lock_of_the_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(DaemonUser::of(&StateDir::at(dir.path())).uid, own);
        let lock = dir.path().join("lock");
        std::fs::write(&lock, "").unwrap();
        let other = if own == 0 { 64_711 } else { own };
        std::os::unix::fs::chown(&lock, Some(other), None).unwrap();
        assert_eq!(DaemonUser::of(&StateDir::at(dir.path())).uid, other);
    }
}
