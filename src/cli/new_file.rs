//! A file that appears under its name when it is whole: until then it lies beside under a name of its own.

use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::rt::{Disk, DiskFile, OpenHow, RealDisk, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};
use crate::image::output::{ByteSink, Output};

/// Where an image is written to.
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
}

impl Target {
    /// `-` is stdout.
    ///
    /// # Errors
    /// `Exists`: something has that name, and `force` was not given. `Refused`: what has it is neither a file nor a block
    /// device.
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
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("image");
                let temporary = path.with_file_name(format!(".{name:.50}.{:016x}.part", rt.random()));
                let opened = disk.open(&temporary, OpenHow::CreateNew).await;
                let file = opened.context(|| format!("making {}", temporary.display()))?;
                Ok(Target::File(file, NewFile { disk, temporary, path, replaces: there }))
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

    /// Nothing was written.
    pub async fn abandon(self) {
        if let Target::File(_, new) = self {
            new.abandon().await;
        }
    }
}

/// The kernel tells of a device that is opened alone whether it is mounted, or a part of another. `--force` is no leave to
/// write over that.
fn refuse_used(device: &Path) -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    match rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::BUSY) => {
            let why = format!("{} is in use, mounted perhaps: it is not written over", device.display());
            Err(Error::new(Kind::Refused, why))
        }
        // Whatever else is wrong is told when it is opened to be written.
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> Error {
    let why = format!("{} exists: give another name, or replace it with --force", path.display());
    Error::new(Kind::Exists, why)
}

impl NewFile {
    /// It is whole, and was synced.
    pub async fn appear(self) -> Result<()> {
        // Whoever made a file of that name meanwhile keeps it.
        if !self.replaces && std::fs::symlink_metadata(&self.path).is_ok() {
            let error = exists(&self.path);
            self.abandon().await;
            return Err(error);
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let done = async {
            self.disk.rename(&self.temporary, &self.path).await?;
            self.disk.sync_dir(folder.unwrap_or(Path::new("."))).await
        };
        done.await.context(|| format!("giving {} its name", self.path.display()))
    }

    /// It is not whole, and goes.
    pub async fn abandon(self) {
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
