//! The directory: names of volumes, in a catalog (`catalog`): key = the name, value = the volume's id, serial = which of the
//! volume's renames gave it that name (model `rename`); 0: its creation. A volume has several names while it is renamed, or
//! after that was broken off: its head tells which one counts.
//!
//! Its root's register id = xxh3-128(`windlass names` ‖ pool id, 16 bytes little-endian).

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::context::PoolContext;
use super::register_tree::{Catalog, CatalogEntry, Entries, malformed};
use crate::stores::PoolConfig;
use windlass_base::{Error, Kind, Name, RegisterId, Result, VolumeId};

/// The names of one pool's volumes.
#[derive(Debug)]
pub struct Directory {
    pool: Name,
    catalog: Catalog,
}

/// The directory's entry for a name: the volume that the name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameEntry {
    pub volume: VolumeId,
    /// Number of the entry, greater than those of all earlier entries of the volume.
    pub serial: u64,
}

impl NameEntry {
    /// Makes the entry of a volume that is created.
    pub fn first(volume: VolumeId) -> NameEntry {
        NameEntry { volume, serial: 0 }
    }

    fn in_catalog(self) -> CatalogEntry {
        CatalogEntry { value: self.volume.0, serial: self.serial }
    }
}

impl From<CatalogEntry> for NameEntry {
    fn from(CatalogEntry { value, serial }: CatalogEntry) -> NameEntry {
        NameEntry { volume: VolumeId(value), serial }
    }
}

fn sorted(entries: Entries) -> Result<Vec<(Name, NameEntry)>> {
    let one = |(key, entry): (Vec<u8>, CatalogEntry)| {
        let bad = |e: &dyn std::fmt::Display| malformed("the list of the pool's volumes", e);
        let text = String::from_utf8(key).map_err(|e| bad(&e))?;
        let name = Name::stored(&text).map_err(|e| bad(&e))?;
        Ok((name, entry.into()))
    };
    // Names sort as their bytes do.
    entries.into_iter().map(one).collect()
}

impl Directory {
    pub(crate) fn new(config: &PoolConfig, context: &Arc<PoolContext>) -> Directory {
        let root = xxh3_128(&[&b"windlass names"[..], &config.pool.0.to_le_bytes()].concat());
        Directory { pool: config.name.clone(), catalog: Catalog::new(context, RegisterId(root)) }
    }

    pub(crate) async fn lookup(&self, name: &Name) -> Result<Option<NameEntry>> {
        Ok(self.catalog.get(name.as_str().as_bytes()).await?.map(NameEntry::from))
    }

    /// Gives a volume a name; `Exists` when another has it, nothing when this one does.
    pub(crate) async fn insert(&self, name: &Name, id: VolumeId) -> Result<()> {
        // The id was drawn for this volume alone, so it also tells our own earlier success.
        let new = NameEntry::first(id);
        if self.insert_over(name, new, None).await? == new {
            return Ok(());
        }
        let text = format!("{}/{name} exists already: choose another name", self.pool);
        Err(Error::new(Kind::Exists, text))
    }

    /// Puts an entry where the name has none, or exactly `old`; what it has then.
    pub(crate) async fn insert_over(
        &self,
        name: &Name,
        new: NameEntry,
        old: Option<NameEntry>,
    ) -> Result<NameEntry> {
        let (key, old) = (name.as_str().as_bytes(), old.map(NameEntry::in_catalog));
        Ok(self.catalog.insert_over(key, new.in_catalog(), old).await?.into())
    }

    /// Takes an entry away; nothing when the name has another.
    pub(crate) async fn remove(&self, name: &Name, old: NameEntry) -> Result<()> {
        self.catalog.remove(name.as_str().as_bytes(), old.in_catalog()).await
    }

    /// Returns all names, sorted.
    pub(crate) async fn list(&self) -> Result<Vec<(Name, NameEntry)>> {
        sorted(self.catalog.all().await?)
    }

    /// Returns all names, sorted, after all of the directory has come along into the pool's generation.
    pub(crate) async fn bring(&self) -> Result<Vec<(Name, NameEntry)>> {
        sorted(self.catalog.bring().await?)
    }
}
