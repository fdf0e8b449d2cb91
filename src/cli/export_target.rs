//! A file that appears under its name when it is whole: until then it lies beside under a name of its own.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FlockOperation, Mode, OFlags};

use windlass_base::rt::{Disk, DiskFile, OpenHow, RealDisk, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_image::output::{ByteSink, Output};

/// The three places that an image can be written to.
pub enum Target {
    Stdout(Rt),
    Device(Arc<dyn DiskFile>),
    File(Arc<dyn DiskFile>, NewFile),
}

pub struct NewFile {
    disk: Arc<RealDisk>,
    temporary: PathBuf,
    path: PathBuf,
    replaces: bool,
    /// A lock that is held as long as somebody writes the file. A file that nobody has locked was left by a
    /// process that is gone.
    _lock: Option<OwnedFd>,
}

/// Suffix of the name of an unfinished file.
const UNFINISHED: &str = ".part";
/// Most attempts to draw a name for an unfinished file.
const NAMES_MAX: usize = 8;

impl Target {
    /// Opens the target; `-` is stdout.
    ///
    /// # Errors
    /// `Exists`: something has that name, and `force` was not given. `Refused`: what has it is neither a file
    /// nor a block device.
    pub async fn open(rt: &Rt, path: &Path, force: bool) -> Result<Target> {
        if path.as_os_str() == "-" {
            return Ok(Target::Stdout(rt.clone()));
        }
        let shown = path.display();
        let there = std::fs::symlink_metadata(path).is_ok();
        if there && !force {
            return Err(exists(path));
        }
        // A link goes on leading to what is replaced.
        let path = if there { path.canonicalize().context(|| format!("{shown}"))? } else { path.to_owned() };
        let kind = if there { Some(std::fs::metadata(&path)?.file_type()) } else { None };
        let disk = RealDisk::start();
        match kind {
            Some(kind) if kind.is_block_device() => {
                refuse_used(&path)?;
                let device = disk.open(&path, OpenHow::Write).await.context(|| format!("opening {shown}"))?;
                Ok(Target::Device(device))
            }
            Some(kind) if !kind.is_file() => {
                let why =
                    format!("{shown} is neither a file nor a block device: for a pipe use - and redirect it");
                Err(Error::new(Kind::Refused, why))
            }
            _ => {
                let unfinished = path.clone();
                rt.cpu(move || remove_unfinished(&unfinished)).await?;
                let (temporary, lock) = make_unfinished(rt, &path)?;
                let opened = disk.open(&temporary, OpenHow::Write).await;
                let file = opened.context(|| format!("opening {}", temporary.display()))?;
                Ok(Target::File(file, NewFile { disk, temporary, path, replaces: there, _lock: lock }))
            }
        }
    }

    pub fn split(self) -> (Output, Option<NewFile>) {
        match self {
            Target::Stdout(rt) => (Output::Stream { to: Box::new(Stdout(rt)), at: 0 }, None),
            Target::Device(device) => (Output::Device(device), None),
            Target::File(file, new) => (Output::File(file), Some(new)),
        }
    }
}

/// Refuses a device that is mounted, or a part of another: the kernel tells when the device is opened alone.
/// `--force` is no leave to write over such a device.
fn refuse_used(device: &Path) -> Result<()> {
    match rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::BUSY) => {
            let why = format!("{} is in use, mounted perhaps: it is not written over", device.display());
            Err(Error::new(Kind::Refused, why))
        }
        // Whatever else is wrong is told when it is opened to be written.
        _ => Ok(()),
    }
}

/// Returns the prefix of the names of this file's unfinished forerunners. The rest of each name is drawn.
fn stem(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("image");
    format!(".{name:.50}.")
}

/// Makes a new empty file. Returns it with its lock, where the filesystem has locks.
fn make_unfinished(rt: &Rt, path: &Path) -> Result<(PathBuf, Option<OwnedFd>)> {
    for _ in 0..NAMES_MAX {
        let temporary = path.with_file_name(format!("{}{:016x}{UNFINISHED}", stem(path), rt.random()));
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&temporary, how, Mode::from_raw_mode(0o600));
        let file =
            opened.map_err(std::io::Error::from).context(|| format!("making {}", temporary.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok((temporary, None));
        }
        // Before it was locked, somebody may have taken it for one that was left.
        if rustix::fs::fstat(&file).is_ok_and(|found| found.st_nlink > 0) {
            return Ok((temporary, Some(file)));
        }
    }
    Err(Error::new(Kind::Unavailable, format!("{} can't be begun: somebody removes it", path.display())))
}

/// Removes what exports that were killed have left of this file.
fn remove_unfinished(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = stem(path);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let drawn = name.to_str().and_then(|name| name.strip_prefix(&stem)?.strip_suffix(UNFINISHED));
        if !drawn.is_some_and(|drawn| drawn.len() == 16 && drawn.bytes().all(|b| b.is_ascii_hexdigit())) {
            continue;
        }
        let left = entry.path();
        let Ok(file) = rustix::fs::open(&left, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match std::fs::remove_file(&left) {
                Ok(()) => {
                    tracing::info!("removed {}, which an export that was killed has left", left.display())
                }
                Err(error) => tracing::warn!(%error, "{} stays", left.display()),
            }
        }
    }
}

fn exists(path: &Path) -> Error {
    let why = format!("{} exists: give another name, or replace it with --force", path.display());
    Error::new(Kind::Exists, why)
}

impl NewFile {
    /// Gives the file its name, durably. The caller has written all of it and synced it.
    pub async fn appear(self) -> Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let done = async {
            if self.replaces {
                self.disk.rename(&self.temporary, &self.path).await?;
            } else if let Err(error) = self.take_name() {
                let error = match error.kind() {
                    // Whoever made a file of that name meanwhile keeps it.
                    std::io::ErrorKind::AlreadyExists => exists(&self.path),
                    _ => error.into(),
                };
                self.abandon().await;
                return Err(error);
            }
            self.disk.sync_dir(folder.unwrap_or(Path::new("."))).await.map_err(Error::from)
        };
        done.await.context(|| format!("giving {} its name", self.path.display()))
    }

    /// Gives the file its name, unless something has that name. A filesystem that can't rename so (NFS) makes
    /// another link.
    fn take_name(&self) -> std::io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, &self.temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::hard_link(&self.temporary, &self.path)?;
                std::fs::remove_file(&self.temporary)
            }
            done => Ok(done?),
        }
    }

    /// Removes the file, which is not whole.
    pub async fn abandon(&self) {
        if let Err(error) = self.disk.remove(&self.temporary).await {
            tracing::warn!(%error, "{} stays", self.temporary.display());
        }
    }
}

/// This process's stdout.
struct Stdout(Rt);

impl Stdout {
    async fn does(
        &self,
        work: impl FnOnce(&mut std::io::StdoutLock) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let done = self.0.cpu(move || work(&mut std::io::stdout().lock())).await?;
        done.context(|| "writing to stdout".into())
    }
}

#[async_trait]
impl ByteSink for Stdout {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.does(move |out| out.write_all(&bytes)).await
    }
    async fn flush(&mut self) -> Result<()> {
        self.does(|out| out.flush()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::RealRuntime;

    #[tokio::test]
    async fn of_two_files_of_one_name_the_first_appears() {
        let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
        let path = dir.path().join("image.raw");
        let mut begun = Vec::new();
        for n in 0..2 {
            let (output, file) = Target::open(&rt, &path, false).await.unwrap().split();
            let Output::File(out) = output else { panic!("a file") };
            out.pwrite(0, vec![Bytes::from(vec![n; 512])], true).await.unwrap();
            begun.push(file.unwrap());
        }
        // The two of them at the same moment: each has seen that there is none.
        let appeared = futures::future::join_all(begun.into_iter().map(NewFile::appear)).await;
        assert!(appeared[0].is_ok(), "{appeared:?}");
        assert!(appeared[1].as_ref().is_err_and(|e| e.is(Kind::Exists)), "{appeared:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn what_a_killed_export_left_goes_at_the_next() {
        let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
        let path = dir.path().join("image.raw");
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let (_output, alive) = Target::open(&rt, &path, false).await.unwrap().split();
        let (temporary, lock) = make_unfinished(&rt, &path).unwrap();
        // As the end of its process does.
        drop(lock);
        for other in [".image.raw.0123.part", ".other.raw.0123456789abcdef.part", "image.raw.part"] {
            drop(
                rustix::fs::open(
                    dir.path().join(other),
                    OFlags::CREATE | OFlags::WRONLY,
                    Mode::from_raw_mode(0o600),
                )
                .unwrap(),
            );
        }
        assert_eq!(count(), 5);
        let (_output, next) = Target::open(&rt, &path, false).await.unwrap().split();
        assert!(!temporary.exists() && count() == 5, "one is gone, one begun");
        next.unwrap().abandon().await;
        alive.unwrap().appear().await.unwrap();
        assert!(path.exists() && count() == 4);
    }
}
