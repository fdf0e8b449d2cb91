//! Puts a bucket's filesystem into the host's tree, and takes it out again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::MountOptions;
use crate::base::rt::{Disk, Rt};
use crate::base::{Error, Kind, Result};
use crate::store::BucketRef;

/// Writes that an earlier run could not send; the file is kept until the user takes it away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    pub path: PathBuf,
    pub key: String,
    pub bytes: u64,
}

/// A mount that is up. Dropping it unmounts without waiting.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    unsent: Vec<Unsent>,
}

/// Mounts `bucket` at `dir`. Writes are staged in the folder `staging`, which belongs to this mount alone.
pub async fn mount(
    _rt: Rt,
    _disk: Arc<dyn Disk>,
    bucket: BucketRef,
    dir: &Path,
    _options: MountOptions,
    _staging: PathBuf,
) -> Result<Mounted> {
    Err(Error::new(
        Kind::Unsupported,
        format!("{} can't be mounted at {}: not in this version", bucket.url(), dir.display()),
    ))
}

impl Mounted {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What earlier runs left unsent in the staging folder.
    pub fn unsent(&self) -> &[Unsent] {
        &self.unsent
    }

    /// Waits for uploads, then unmounts. `Owned` while processes have files open or stand in it.
    pub async fn unmount(&self) -> Result<()> {
        Ok(())
    }

    /// Returns when the mount is gone, whoever took it away.
    pub async fn ended(&self) {}
}
