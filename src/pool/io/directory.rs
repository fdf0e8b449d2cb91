//! The directory: names of volumes, in a catalog (`catalog`): key = the name, value = the volume's id.
//!
//! Its root's register id = xxh3-128(`windlass names` ‖ pool id, 16 bytes little-endian).

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::catalog::{Catalog, Entries, malformed};
use super::context::PoolContext;
use crate::base::{Error, Kind, Name, RegisterId, Result, VolumeId};
use crate::pool::stores::PoolConfig;

/// The names of one pool's volumes.
#[derive(Debug)]
pub struct Directory {
    pool: Name,
    catalog: Catalog,
}

fn sorted(entries: Entries) -> Result<Vec<(Name, VolumeId)>> {
    let one = |(key, id): (Vec<u8>, u128)| {
        let bad = |e: &dyn std::fmt::Display| malformed("the list of the pool's volumes", e);
        let text = String::from_utf8(key).map_err(|e| bad(&e))?;
        let name = text.parse::<Name>().map_err(|e| bad(&e))?;
        Ok((name, VolumeId(id)))
    };
    // Names sort as their bytes do.
    entries.into_iter().map(one).collect()
}

impl Directory {
    pub(in crate::pool) fn new(config: &PoolConfig, context: &Arc<PoolContext>) -> Directory {
        let root = xxh3_128(&[&b"windlass names"[..], &config.pool.0.to_le_bytes()].concat());
        Directory { pool: config.name.clone(), catalog: Catalog::new(context, RegisterId(root)) }
    }

    /// The id of the volume of this name.
    pub(in crate::pool) async fn lookup(&self, name: &Name) -> Result<Option<VolumeId>> {
        Ok(self.catalog.get(name.as_str().as_bytes()).await?.map(VolumeId))
    }

    /// Gives a volume a name; `Exists` when another has it, nothing when this one does.
    pub(in crate::pool) async fn insert(&self, name: &Name, id: VolumeId) -> Result<()> {
        // The id was drawn for this volume alone, so it also tells our own earlier success.
        if self.catalog.insert(name.as_str().as_bytes(), id.0).await? == id.0 {
            return Ok(());
        }
        let text = format!("{}/{name} exists already: choose another name", self.pool);
        Err(Error::new(Kind::Exists, text))
    }

    /// Takes a name from a volume; nothing when it isn't that volume's.
    pub(in crate::pool) async fn remove(&self, name: &Name, id: VolumeId) -> Result<()> {
        self.catalog.remove(name.as_str().as_bytes(), id.0).await
    }

    /// All names, sorted.
    pub(in crate::pool) async fn list(&self) -> Result<Vec<(Name, VolumeId)>> {
        sorted(self.catalog.all().await?)
    }

    /// The same, after all of it has come along into the pool's generation.
    pub(in crate::pool) async fn bring(&self) -> Result<Vec<(Name, VolumeId)>> {
        sorted(self.catalog.bring().await?)
    }
}
