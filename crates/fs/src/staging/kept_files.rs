//! What earlier mounts could not store and no mount is at work on: listed, copied out, dropped.
//!
//! A sub-folder that a mount holds is that mount's, and not looked at.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::found_stages::{FoundFile, FoundStages, LOCK, UNKNOWN};
use super::note::Mark;
use super::unsynced_removals::StagingDir;
use windlass_base::rt::{Disk, DiskFile, DiskLock, OpenHow};
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Number of bytes copied at a time.
const PIECE: usize = 1 << 20;

/// A file that is kept on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptFile {
    pub url: String,
    pub key: String,
    pub bytes: u64,
    /// Path of the file's staged bytes.
    pub path: PathBuf,
    /// True if the file was not closed when the mount ended.
    pub unfinished: bool,
    /// True if only what was changed of the file is here: the object has the rest.
    pub partly: bool,
}

/// All kept files of the buckets whose folders are in `staging` and which nobody mounts.
pub struct KeptFiles {
    files: Vec<FoundFile>,
    /// Staged bytes of which can't be told whose they are.
    unknown: Vec<KeptFile>,
    folder: StagingDir,
    _locks: Vec<Box<dyn DiskLock>>,
}

fn shown(left: &FoundFile) -> KeptFile {
    KeptFile {
        url: left.note.url.clone(),
        key: left.note.key.clone(),
        bytes: left.edits.size,
        path: left.stage.path(),
        unfinished: left.note.mark == Mark::Open && !left.note.unsent_close,
        partly: left.stage.partly() || left.note.is_freed(),
    }
}

impl KeptFiles {
    /// Finds the kept files and locks their sub-folders. Until the value is dropped, a mount of such a bucket
    /// takes another sub-folder, and does not see what is in these.
    pub fn open<'f>(disk: &'f Arc<dyn Disk>, staging: &'f Path) -> BoxFuture<'f, Result<KeptFiles>> {
        Box::pin(async move {
            let folder = StagingDir::on(disk);
            let (mut found, mut locks) = (FoundStages::default(), Vec::new());
            let doing = || format!("looking for what is kept in {}", staging.display());
            for bucket in names(disk, staging).await.context(doing)? {
                for subdir in names(disk, &staging.join(&bucket)).await.context(doing)? {
                    let subdir = staging.join(&bucket).join(subdir);
                    if names(disk, &subdir).await.context(doing)?.iter().all(|name| name == LOCK) {
                        continue;
                    }
                    match disk.lock(&subdir.join(LOCK), "being looked at").await {
                        Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
                        lock => locks.push(lock.context(doing)?),
                    }
                    found.look(&folder, &subdir).await.context(doing)?;
                }
            }
            let lost = found
                .lost
                .iter()
                .map(|(stage, note)| (stage.path(), note.as_ref().map(|n| n.key.clone()), 0));
            let unsent = found.unsent.iter().map(|one| (one.path.clone(), Some(one.key.clone()), one.bytes));
            let unknown = lost.chain(unsent).map(|(path, key, bytes)| KeptFile {
                url: UNKNOWN.to_owned(),
                key: key.unwrap_or_else(|| UNKNOWN.to_owned()),
                bytes,
                path,
                unfinished: true,
                partly: true,
            });
            let unknown = unknown.collect();
            let mut left: Vec<FoundFile> =
                found.files.into_iter().filter(|left| left.note.mark != Mark::Sent).collect();
            // The latest of a name first.
            left.sort_by_cached_key(|left| (left.note.key.clone(), Reverse(left.note.generation)));
            Ok(KeptFiles { files: left, unknown, folder, _locks: locks })
        })
    }

    pub fn list(&self) -> Vec<KeptFile> {
        self.files.iter().map(shown).chain(self.unknown.iter().cloned()).collect()
    }

    /// Keeps the files of the bucket `url` alone in the list.
    pub fn only(mut self, url: &str) -> KeptFiles {
        self.files.retain(|left| left.note.url == url);
        self.unknown.clear();
        self
    }

    /// Copies the files below `to`, each under its key, earlier versions of it beside it. What is there
    /// already is not touched, which is an error, as is a file of which this host has only a part. The first
    /// error is told after all were tried.
    pub fn copy_out<'f>(&'f self, to: &'f Path) -> BoxFuture<'f, (Vec<PathBuf>, Result<()>)> {
        Box::pin(async move {
            let (mut copied, mut result) = (Vec::new(), Ok(()));
            for (n, left) in self.files.iter().enumerate() {
                let older = self.files[..n].iter().rev().take_while(|l| l.note.key == left.note.key).count();
                match self.copy(left, older, to).await {
                    Ok(path) => copied.push(path),
                    Err(why) => result = result.and(Err(why)),
                }
            }
            (copied, result)
        })
    }

    async fn copy(&self, left: &FoundFile, older: usize, to: &Path) -> Result<PathBuf> {
        let key = &left.note.key;
        if left.note.is_freed() {
            let why =
                format!("{key}: bytes of it were freed while it was being written: the rest is of no use");
            return Err(Error::new(Kind::Unsupported, why));
        }
        if left.stage.partly() {
            let why = format!(
                "{key}: only what was changed of it is on this host: mount its bucket to have it sent"
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
        // A key is no path: nothing may lead out of the folder.
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            let why = format!("{key:?} is no name of a file: copy {} by hand", left.stage.path().display());
            return Err(Error::new(Kind::Unsupported, why));
        }
        // An earlier version has the latest one beside it.
        let name = if older > 0 { format!("{key}.earlier-{older}") } else { key.clone() };
        let path = to.join(name);
        let doing = || format!("copying {key} to {}", path.display());
        let disk = self.folder.disk();
        let parent = path.parent().unwrap_or(to);
        disk.create_dir(parent).await.context(doing)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Also a file that nobody may read, or a link that leads nowhere.
        if disk.list(parent).await.context(doing)?.iter().any(|other| *other == name) {
            return Err(Error::new(Kind::Exists, format!("{} is there already", path.display())));
        }
        // Under its name only when it is whole. The name itself may be as long as names can be.
        let (part, file) = self.new_part(&path, &name).await.context(doing)?;
        let done = async {
            self.fill(left, &*file).await?;
            disk.rename(&part, &path).await?;
            disk.sync_dir(path.parent().unwrap_or(to)).await?;
            Ok(())
        };
        if let Err(why) = done.await {
            // It is not what is asked for, whether it can be removed or not.
            let _ = disk.remove(&part).await;
            return Err(Error::context(why, doing()));
        }
        left.stage.release_fds();
        Ok(path)
    }

    /// Makes an empty file beside `path`, under a name that nothing has: whatever is there is somebody's.
    async fn new_part(&self, path: &Path, name: &str) -> std::io::Result<(PathBuf, Arc<dyn DiskFile>)> {
        let short: String = name.chars().take(60).collect();
        let mut n = 0;
        loop {
            let part = path.with_file_name(format!(".{short}.{n}.part"));
            match self.folder.disk().open(&part, OpenHow::CreateNew).await {
                Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
                file => return Ok((part, file?)),
            }
        }
    }

    async fn fill(&self, left: &FoundFile, file: &dyn DiskFile) -> Result<()> {
        let size = left.edits.size;
        let mut at = 0;
        while at < size {
            let piece = left.stage.read(at, PIECE.min((size - at) as usize)).await?;
            let len = piece.len() as u64;
            if len == 0 {
                return Err(Error::new(Kind::Corrupt, format!("its bytes end at {at} of {size}")));
            }
            file.pwrite(at, vec![piece], false).await?;
            at += len;
        }
        file.sync().await?;
        Ok(())
    }

    /// Drops the files for good, and returns how many. The first error is told after all were tried.
    pub fn drop_all(self) -> BoxFuture<'static, (usize, Result<()>)> {
        Box::pin(async move {
            let (mut count, mut result) = (0, Ok(()));
            // The oldest first: cut off midway, what is left of a name is its latest.
            for left in self.files.iter().rev() {
                match left.stage.remove().await {
                    Ok(()) => count += 1,
                    Err(why) => result = result.and(Err(why)),
                }
            }
            (count, result.and(self.folder.sync_removals().await))
        })
    }
}

/// Returns the names in a folder; none where there is no folder.
async fn names(disk: &Arc<dyn Disk>, dir: &Path) -> std::io::Result<Vec<String>> {
    match disk.list(dir).await {
        Err(why)
            if matches!(why.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        names => names,
    }
}
