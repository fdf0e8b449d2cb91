//! The directory: names of volumes, in 16 registers by the name's hash.
//!
//! A register's value is JSON: `{"format": 1, "names": {NAME: VOLUME ID…}}`. Name x is in register i = the highest four bits
//! of xxh3-64(x); that register's id = xxh3-128(`windlass names` ‖ pool id ‖ i), the id little-endian, i one byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::config::PoolConfig;
use super::register::{Change, Register};
use crate::base::{Error, Kind, Name, PoolId, RegisterId, Result, VolumeId};

const FORMAT: u32 = 1;
const REGISTERS: u8 = 16;

#[derive(Debug, Serialize, Deserialize)]
struct Names {
    format: u32,
    names: BTreeMap<Name, VolumeId>,
}

/// The directory's registers, in order.
pub(super) fn registers(pool: PoolId) -> impl Iterator<Item = RegisterId> {
    (0..REGISTERS).map(move |i| {
        let text = [&b"windlass names"[..], &pool.0.to_le_bytes(), &[i]].concat();
        RegisterId(xxh3_128(&text))
    })
}

fn decode(value: Option<&Bytes>) -> Result<Names> {
    let Some(value) = value else { return Ok(Names { format: FORMAT, names: BTreeMap::new() }) };
    let names: Names = serde_json::from_slice(value).map_err(|e| {
        Error::new(Kind::Corrupt, format!("the list of the pool's volumes is malformed: {e}"))
    })?;
    if names.format != FORMAT {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the pool lists its volumes in format {}, this version knows {FORMAT}: use a newer windlass",
                names.format
            ),
        ));
    }
    Ok(names)
}

fn encode(names: &Names) -> Bytes {
    serde_json::to_vec(names).expect("names are strings").into()
}

/// The names of one pool's volumes.
#[derive(Debug)]
pub(super) struct Directory {
    pool: Name,
    registers: Vec<Register>,
}

impl Directory {
    pub(super) fn new(config: &PoolConfig, register: impl Fn(RegisterId) -> Register) -> Directory {
        Directory { pool: config.name.clone(), registers: registers(config.pool).map(register).collect() }
    }

    fn of(&self, name: &Name) -> &Register {
        &self.registers[(xxh3_64(name.as_str().as_bytes()) >> 60) as usize]
    }

    /// The id of the volume of this name.
    pub(super) async fn lookup(&self, name: &Name) -> Result<Option<VolumeId>> {
        let value = self.of(name).read().await?;
        Ok(decode(value.as_ref())?.names.get(name).copied())
    }

    /// Gives a volume a name; `Exists` when another has it, nothing when this one does.
    pub(super) async fn insert(&self, name: &Name, id: VolumeId) -> Result<()> {
        let change = |value: Option<&Bytes>| {
            let mut names = decode(value)?;
            // The id was drawn for this volume alone, so it also tells our own earlier success.
            match names.names.get(name) {
                Some(other) if *other != id => {
                    let text = format!("{}/{name} exists already: choose another name", self.pool);
                    Err(Error::new(Kind::Exists, text))
                }
                Some(_) => Ok(Change::Keep(())),
                None => {
                    names.names.insert(name.clone(), id);
                    Ok(Change::Put(encode(&names), ()))
                }
            }
        };
        self.of(name).change(change).await
    }

    /// Takes a name from a volume; nothing when it isn't that volume's.
    pub(super) async fn remove(&self, name: &Name, id: VolumeId) -> Result<()> {
        let change = |value: Option<&Bytes>| {
            let mut names = decode(value)?;
            if names.names.get(name) != Some(&id) {
                return Ok(Change::Keep(()));
            }
            names.names.remove(name);
            Ok(Change::Put(encode(&names), ()))
        };
        self.of(name).change(change).await
    }

    /// All names, sorted.
    pub(super) async fn list(&self) -> Result<Vec<(Name, VolumeId)>> {
        let reads = self.registers.iter().map(Register::read);
        let mut all = Vec::new();
        for value in futures::future::join_all(reads).await {
            all.extend(decode(value?.as_ref())?.names);
        }
        all.sort();
        Ok(all)
    }
}
