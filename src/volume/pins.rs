//! Pins: which clones hold a snapshot (protocol.md §4.4, model `pin`).
//!
//! Those of one snapshot are a catalog (`pool::catalog`): key = the clone's id, 16 bytes little-endian, value = the pin's nonce.
//! Its root's register id = xxh3-128(`windlass pins` ‖ the volume's id, 16 bytes ‖ the snapshot's id, 8 bytes, both
//! little-endian). They are not in the head, which would grow with them.
//!
//! A pin counts from the moment when the head, looked at after the pin was made, shows the snapshot, `cloned`, and no gate on
//! it. What is removed is first put behind a gate, then looked for pins, then removed in one change of the head, which
//! requires the same gate.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use xxhash_rust::xxh3::xxh3_128;

use super::family::CREATION;
use super::head::Head;
use super::settings::Settings;
use super::states::Tables;
use super::volumes::Volumes;
use crate::base::{Error, Kind, Name, Nonce, RegisterId, Result, StateId, VolumeId};
use crate::pool::{Catalog, Pool};

/// Catalogs of pins that an engine keeps at hand; each may keep thousands of registers.
const KEPT_MAX: usize = 8;
/// Clones looked at at a time.
const AT_ONCE: usize = 32;
/// Clones that a refusal names.
const NAMED_MAX: usize = 16;

/// The pins of one snapshot.
pub fn of(pool: &Pool, volume: VolumeId, snapshot: StateId) -> Catalog {
    let text = [&b"windlass pins"[..], &volume.0.to_le_bytes(), &snapshot.0.to_le_bytes()].concat();
    pool.catalog(RegisterId(xxh3_128(&text)))
}

pub fn key(clone: VolumeId) -> [u8; 16] {
    clone.0.to_le_bytes()
}

/// The clone that a pin's key names.
fn clone_of(key: &[u8]) -> Result<VolumeId> {
    let id = key.try_into().map_err(|_| Error::new(Kind::Corrupt, "a pin names no clone"))?;
    Ok(VolumeId(u128::from_le_bytes(id)))
}

impl Volumes {
    /// The same as `of`, knowing its way when it was asked for a moment ago.
    pub(super) fn pins(&self, volume: VolumeId, snapshot: StateId) -> Catalog {
        let mut kept = self.pins.lock();
        if !kept.contains_key(&(volume, snapshot)) && kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        let new = || of(&self.deps.pool, volume, snapshot);
        kept.entry((volume, snapshot)).or_insert_with(new).clone()
    }

    /// The pins on each of these snapshots; of a volume that was never cloned nothing is asked.
    pub(super) async fn pins_on(
        &self,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
    ) -> Result<Vec<(StateId, VolumeId, Nonce)>> {
        if !head.cloned {
            return Ok(Vec::new());
        }
        let looks = stream::iter(snapshots)
            .map(|snapshot| async move { (snapshot, self.pins(head.volume, snapshot).all().await) });
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut all = Vec::new();
        for (snapshot, pins) in looks {
            for (key, nonce) in pins? {
                all.push((snapshot, clone_of(&key)?, Nonce(nonce)));
            }
        }
        Ok(all)
    }

    /// Clones that need one of these snapshots; not all when there are many. `clean`: a pin without a clone is dropped, after
    /// it is certain that the clone will never be.
    async fn holders(
        &self,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
        clean: bool,
    ) -> Result<Vec<VolumeId>> {
        let pins = self.pins_on(head, snapshots).await?;
        let looks = stream::iter(pins).map(|(snapshot, clone, nonce)| async move {
            if self.may_need(clone, clean).await? {
                return Ok(Some(clone));
            }
            if clean {
                self.unpin(head.volume, snapshot, clone, nonce).await?;
            }
            Ok::<_, Error>(None)
        });
        let (mut looks, mut held) = (looks.buffered(AT_ONCE), Vec::new());
        while let Some(clone) = looks.next().await {
            held.extend(clone?);
            // One more than is named says that there are others.
            if held.len() > NAMED_MAX {
                break;
            }
        }
        Ok(held)
    }

    /// Whether the clone exists. `settle`: if not, it never will.
    async fn may_need(&self, clone: VolumeId, settle: bool) -> Result<bool> {
        let cell = self.deps.cell(clone);
        match cell.read().await? {
            Some(head) => Ok(!head.removed),
            None if !settle => Ok(false),
            None => {
                // It may be on its way.
                self.deps.rt.sleep(CREATION).await;
                Ok(!cell.cancel(&self.new_head(clone, 512, Settings::default())?).await?)
            }
        }
    }

    pub(super) async fn unpin(
        &self,
        parent: VolumeId,
        snapshot: StateId,
        clone: VolumeId,
        nonce: Nonce,
    ) -> Result<()> {
        self.pins(parent, snapshot).remove(&key(clone), nonce.0).await
    }

    /// `Refused`, with their names, when clones need one of the snapshots of `what`.
    pub(super) async fn refuse_if_held(
        &self,
        what: &str,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
        clean: bool,
    ) -> Result<()> {
        let held = self.holders(head, snapshots, clean).await?;
        if held.is_empty() {
            return Ok(());
        }
        let names: BTreeMap<VolumeId, Name> = self.names().await?;
        let named = |id: &VolumeId| names.get(id).map_or(id.to_string(), |name| self.deps.title(name));
        let mut clones: Vec<String> = held.iter().take(NAMED_MAX).map(named).collect();
        if held.len() > NAMED_MAX {
            clones.push("and others".into());
        }
        let why = format!("{what} is needed by its clones: {}; remove them first", clones.join(", "));
        Err(Error::new(Kind::Refused, why))
    }
}

/// All states that clones can pin.
pub fn snapshots_of(tables: &Tables) -> Vec<StateId> {
    tables.snapshots().map(|(_, state)| state.id).collect()
}
