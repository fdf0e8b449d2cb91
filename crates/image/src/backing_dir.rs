//! The one folder in which files that an image names may be opened.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::local_file::{LocalFile, Opened};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

#[derive(Debug)]
pub struct BackingDir {
    dir: OwnedFd,
    path: PathBuf,
}

impl BackingDir {
    pub fn open(path: &Path) -> Result<BackingDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let dir = dir.context(|| format!("--backing-dir {}", path.display()))?;
        Ok(BackingDir { dir, path: path.to_owned() })
    }

    /// Opens the file of this name below the folder. The kernel sees to it that no `..`, no absolute path and
    /// no symbolic link leads out of the folder.
    pub(super) fn file(&self, rt: &Rt, name: &str) -> Result<LocalFile> {
        let shown = self.path.join(name.trim_start_matches('/')).display().to_string();
        // A pipe that nobody writes to would be waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), resolve);
        let fd = match opened {
            Ok(fd) => fd,
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => {
                let dir = self.path.display();
                let why =
                    format!("the image is built on {name:?}, which leads out of {dir}: it is not opened");
                return Err(Error::new(Kind::Refused, why));
            }
            Err(e) => return Err(Error::from(io::Error::from(e)).context(format!("backing file {shown}"))),
        };
        match LocalFile::of(rt, fd, shown.clone())? {
            Opened::File(file) => Ok(file),
            Opened::Pipe(_) => Err(Error::new(Kind::Invalid, format!("backing file {shown} is no file"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn nothing_outside_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("images");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        for name in ["secret", "images/base.raw", "images/sub/deep.raw"] {
            let flags = OFlags::CREATE | OFlags::RDWR;
            rustix::fs::open(root.path().join(name), flags, Mode::RUSR | Mode::WUSR).unwrap();
        }
        symlink("../secret", dir.join("out")).unwrap();
        symlink("base.raw", dir.join("in")).unwrap();
        let sim = Sim::new(1);
        let (rt, dir) = (sim.rt(), BackingDir::open(&dir).unwrap());
        for good in ["base.raw", "sub/deep.raw", "sub/../base.raw", "./base.raw", "in"] {
            dir.file(&rt, good).unwrap();
        }
        let secret = root.path().join("secret").display().to_string();
        for bad in ["../secret", "out", "sub/../../secret", "/etc/passwd", secret.as_str()] {
            assert!(dir.file(&rt, bad).unwrap_err().is(Kind::Refused), "{bad}");
        }
        for bad in ["", "nothing", "sub", "/proc/self/fd/0"] {
            assert!(dir.file(&rt, bad).is_err(), "{bad}");
        }
    }
}
