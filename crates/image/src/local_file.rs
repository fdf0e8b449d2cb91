//! Files of this host.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};

use super::read_at::ReadAt;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// A regular file or a block device.
#[derive(Debug)]
pub struct LocalFile {
    rt: Rt,
    fd: Arc<OwnedFd>,
    size: u64,
    identity: Option<String>,
    /// Size and dates of the file when it was opened. `None`: it is a block device, of which nothing tells
    /// that it changed.
    version: Option<String>,
    name: String,
}

/// The two things that a path may lead to.
#[derive(Debug)]
pub enum Opened {
    File(LocalFile),
    /// A pipe, a terminal, a socket: it can be read once, from start to end.
    Pipe(OwnedFd),
}

impl LocalFile {
    pub fn open(rt: &Rt, path: &Path) -> Result<Opened> {
        let name = path.display().to_string();
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .context(|| name.clone())?;
        LocalFile::of(rt, fd, name)
    }

    pub fn of(rt: &Rt, fd: OwnedFd, name: String) -> Result<Opened> {
        let stat = rustix::fs::fstat(&fd).map_err(io::Error::from).context(|| name.clone())?;
        let (size, version) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (stat.st_size as u64, Some(version(&stat))),
            FileType::BlockDevice => {
                let size = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(io::Error::from);
                // Dates are of the node, not of what is written to the device.
                (size.context(|| name.clone())?, None)
            }
            FileType::Directory => {
                return Err(Error::new(Kind::Usage, format!("{name} is a folder, not an image")));
            }
            _ => return Ok(Opened::Pipe(fd)),
        };
        let identity = version.is_some().then(|| {
            format!(
                "file {}:{} size {size} changed {}.{:09}",
                stat.st_dev, stat.st_ino, stat.st_mtime, stat.st_mtime_nsec
            )
        });
        Ok(Opened::File(LocalFile { rt: rt.clone(), fd: Arc::new(fd), size, identity, version, name }))
    }

    /// Returns a reader of the file from start to end.
    pub fn into_reader(self) -> impl io::Read + Send + 'static {
        PositionedReader { fd: self.fd, at: 0 }
    }

    fn seek(fd: &OwnedFd, to: SeekFrom) -> io::Result<Option<u64>> {
        match rustix::fs::seek(fd, to) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Describes a version of a file: each write makes another one. The second date is the kernel's, which no
/// program sets back.
fn version(stat: &Stat) -> String {
    let (modified, changed) = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
    format!("{} {modified:?} {changed:?}", stat.st_size)
}

/// Reads up to `len` bytes into memory that is not cleared before.
fn read_fully(fd: &OwnedFd, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(fd, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}

#[async_trait]
impl ReadAt for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let fd = self.fd.clone();
        let len = len.min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let read = self.rt.cpu(move || read_fully(&fd, offset, len)).await?;
        let bytes = read.context(|| format!("reading {}", self.name))?;
        match bytes.len() == len {
            true => Ok(bytes),
            false => {
                Err(Error::new(Kind::Invalid, format!("{} became shorter while it was read", self.name)))
            }
        }
    }

    async fn data_after(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.size {
            return Ok(None);
        }
        let fd = self.fd.clone();
        let look = move || {
            let Some(start) = LocalFile::seek(&fd, SeekFrom::Data(offset))? else { return Ok(None) };
            Ok::<_, io::Error>(LocalFile::seek(&fd, SeekFrom::Hole(start))?.map(|end| start..end))
        };
        match self.rt.cpu(look).await? {
            // A device, or a filesystem that knows of no holes.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                Ok(Some(offset..self.size))
            }
            found => found.context(|| format!("looking for holes of {}", self.name)),
        }
    }

    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    async fn unchanged(&self) -> Result<()> {
        let Some(before) = &self.version else { return Ok(()) };
        let fd = self.fd.clone();
        let stat = self.rt.cpu(move || rustix::fs::fstat(&fd).map_err(io::Error::from)).await?;
        match version(&stat.context(|| self.name.clone())?) == *before {
            true => Ok(()),
            false => Err(Error::new(Kind::Invalid, format!("{} changed while it was read", self.name))),
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

struct PositionedReader {
    fd: Arc<OwnedFd>,
    at: u64,
}

impl io::Read for PositionedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = rustix::io::pread(&self.fd, into, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A reader of a pipe, from its start.
pub(super) struct PipeReader(pub OwnedFd);

impl io::Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, into)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Timespec, Timestamps, ftruncate, open};
    use std::time::Duration;
    use windlass_base::rt::RealRuntime;

    #[test]
    fn holes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let flags = OFlags::RDWR | OFlags::CREATE;
        let fd = open(&path, flags, Mode::RUSR | Mode::WUSR).unwrap();
        ftruncate(&fd, 8 << 20).unwrap();
        rustix::io::pwrite(&fd, &[7; 4096], 4 << 20).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let rt = Rt::new(RealRuntime::current());
            let Opened::File(file) = LocalFile::open(&rt, &path).unwrap() else { panic!("a file") };
            assert_eq!(file.size(), 8 << 20);
            let data = file.data_after(0).await.unwrap().unwrap();
            assert!(data.contains(&(4 << 20)) && data.end - data.start <= 4 << 20, "{data:?}");
            assert_eq!(file.data_after(data.end).await.unwrap(), None);
            assert_eq!(file.read_at((8 << 20) - 10, 4096).await.unwrap().len(), 10);
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = open(&path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::pwrite(&disk, &[7; 8192], 0).unwrap();
        let rt = Rt::new(RealRuntime::current());
        let opened = || match LocalFile::open(&rt, &path).unwrap() {
            Opened::File(file) => file,
            Opened::Pipe(_) => panic!("a file"),
        };
        let modified = rustix::fs::fstat(&disk).unwrap();
        let file = opened();
        file.unchanged().await.unwrap();
        // The kernel's clock for dates of files has ticks.
        rt.sleep(Duration::from_millis(50)).await;
        rustix::io::pwrite(&disk, b"other", 100).unwrap();
        let date = Timespec { tv_sec: modified.st_mtime, tv_nsec: modified.st_mtime_nsec as _ };
        let dates = Timestamps { last_access: date, last_modification: date };
        rustix::fs::futimens(&disk, &dates).unwrap();
        let told = file.unchanged().await.unwrap_err();
        assert!(told.is(Kind::Invalid) && told.to_string().contains("disk changed while"), "{told}");
        let file = opened();
        ftruncate(&disk, 4096).unwrap();
        let told = file.read_at(0, 8192).await.unwrap_err();
        assert!(told.is(Kind::Invalid) && told.to_string().contains("became shorter"), "{told}");
    }
}
