//! Whose it is what is made below the folder, and what a probe has made.
//!
//! What root makes below a folder of another user is given to that user, before it has its final name: the daemon's user could
//! not open root's lock files and folders, and its store would fail at each key that root has touched.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, fchown, flock, fstat, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::key::HIDDEN;
use super::root::{FOLDER_MODE, Root};

type Owner = (Option<Uid>, Option<Gid>);

/// Returns the folder's owner, where this process is root and the folder is not. `None`: what is made stays its maker's.
pub(super) fn heir(root: &OwnedFd) -> rustix::io::Result<Option<Owner>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let folder = fstat(root)?;
    let owner = (Some(Uid::from_raw(folder.st_uid)), Some(Gid::from_raw(folder.st_gid)));
    Ok((folder.st_uid != 0).then_some(owner))
}

/// Gives a file that was just made to the folder's owner. A filesystem that has made it somebody else's, as an NFS server does
/// with root's, has decided that itself.
pub(super) fn give(root: &OwnedFd, file: &OwnedFd) -> rustix::io::Result<()> {
    match heir(root)? {
        Some(owner) => give_to(owner, file),
        None => Ok(()),
    }
}

/// Gives a file that root has made to this owner. Where root may not give anything away (a container without that capability),
/// the file stays root's.
fn give_to((user, group): Owner, file: &OwnedFd) -> rustix::io::Result<()> {
    if fstat(file)?.st_uid != 0 {
        return Ok(());
    }
    match fchown(file, user, group) {
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        given => given,
    }
}

impl Root {
    /// Makes a folder; `EXIST`: something has that name. Root's is made under another name and given away first.
    pub(super) fn make_dir(&self, root: &OwnedFd, dir: impl AsFd, path: &str) -> rustix::io::Result<()> {
        let Some(owner) = heir(root)? else { return mkdirat(dir, path, FOLDER_MODE) };
        if statat(&dir, path, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EXIST);
        }
        let number = self.rt.random128();
        let fresh = match path.starts_with(HIDDEN) {
            true => format!("{HIDDEN}-{number:032x}"),
            false => format!("{HIDDEN}/tmp/{number:032x}"),
        };
        let make = || mkdirat(root, fresh.as_str(), FOLDER_MODE);
        if path.starts_with(HIDDEN) { make() } else { self.in_hidden(root, "tmp", make) }?;
        // An empty folder that another has made there meanwhile is replaced: who uses that one looks again.
        let named = give_dir(root, &fresh, owner).and_then(|()| renameat(root, fresh.as_str(), &dir, path));
        named.map_err(|e| {
            // Left behind it is empty and hidden.
            let _ = unlinkat(root, fresh.as_str(), AtFlags::REMOVEDIR);
            if e == Errno::NOTEMPTY { Errno::EXIST } else { e }
        })
    }

    /// Notes what was made for this store's own use, so that a probe can take it away.
    pub(super) fn note_made(&self, path: &str) {
        self.made.lock().insert(path.to_owned());
    }

    /// Takes away the lock files and hidden folders that this process has made, as far as nobody uses them. What can't be taken
    /// away is only clutter.
    pub(super) fn clear_what_was_made(&self, root: &OwnedFd) {
        // The longest paths first: a folder goes after what is in it.
        let mut made: Vec<String> = std::mem::take(&mut *self.made.lock()).into_iter().collect();
        made.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
        for path in made {
            match remove(root, &path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => self.note_made(&path),
            }
        }
    }
}

/// Gives a folder that was just made to this owner, by its descriptor: what has the name by now may be another's.
fn give_dir(root: &OwnedFd, path: &str, owner: Owner) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    give_to(owner, &openat(root, path, flags, Mode::empty())?)
}

/// Removes a lock file or a hidden folder. A lock file is removed only by who holds its lock: whoever waits for it sees that
/// the file has no name any more, and makes another.
fn remove(root: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    if !path.contains("/locks/") {
        return unlinkat(root, path, AtFlags::REMOVEDIR);
    }
    let file = openat(root, path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Another file may have the name, where somebody else has removed this one.
    match is_named(root, path, &file)? {
        true => unlinkat(root, path, AtFlags::empty()),
        false => Ok(()),
    }
}

/// Tells whether the file still has this name. The number of its names would not tell on a filesystem (NFS) that gives a file
/// which is removed while it is open another name.
pub(super) fn is_named(root: &OwnedFd, path: &str, file: &OwnedFd) -> rustix::io::Result<bool> {
    let open = fstat(file)?;
    match statat(root, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
