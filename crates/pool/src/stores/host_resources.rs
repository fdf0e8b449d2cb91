//! What a pool is given by the host that opens it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use windlass_base::rt::{Disk, Rt};
use windlass_base::{Error, Kind, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::{BucketRef, Effort};

/// The things that a pool needs of its host.
#[derive(Clone, Debug)]
pub struct PoolHost {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    /// A folder of this pool's own, made if absent: hints of shards that are still to be put.
    pub folder: PathBuf,
    /// Opens stores that the pool lists and that nobody named here.
    pub opener: Arc<dyn Opener>,
    /// The pool that this host knows by its name, once it does: no other is taken for it, whatever its name and wherever its
    /// stores are.
    pub pool: Option<PoolId>,
    /// The key by which the pool's labels and registers are signed. What is not signed by it is not believed; without a key no
    /// pool is opened that has one.
    pub key: Option<PoolKey>,
    /// The effort that is made to try a store before the pool uses it.
    pub trial: Effort,
}

/// A store as the user names it.
#[derive(Clone, Debug)]
pub struct PoolStore {
    pub url: String,
    pub zone: Option<String>,
    pub bucket: BucketRef,
}

/// Opens a store that the pool lists and nobody named on this host.
#[async_trait]
pub trait Opener: std::fmt::Debug + Send + Sync {
    async fn open(&self, url: &str) -> Result<BucketRef>;
}

/// An opener that opens no store, for pools whose every store is named.
#[derive(Debug)]
pub struct OnlyNamed;

#[async_trait]
impl Opener for OnlyNamed {
    async fn open(&self, _: &str) -> Result<BucketRef> {
        Err(Error::new(Kind::NotFound, "this host was not told how to reach it"))
    }
}
