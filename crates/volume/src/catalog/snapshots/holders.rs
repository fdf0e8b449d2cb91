//! Which clones need a snapshot, by their pins on it; and pins that hold nothing.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;

use crate::catalog::volumes::Volumes;
use crate::head::CREATION;
use crate::head::Head;
use crate::head::VolumeSettings;
use crate::space::pins::{clone_of, key, of};
use windlass_base::{Error, Kind, Name, Nonce, Result, StateId, VolumeId};
use windlass_pool::{Catalog, CatalogEntry};

/// Catalogs of pins that an engine keeps at hand; each may keep thousands of registers.
const KEPT_MAX: usize = 8;
/// Number of clones that are looked at at a time.
const AT_ONCE: usize = 32;
/// Largest number of clones that a refusal names.
const NAMED_MAX: usize = 16;

/// Way in which a snapshot, or a volume with its snapshots, is to be removed.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// Pins without a clone are dropped, after it is certain that the clone will never be.
    pub clean: bool,
    /// The removal does not go into the trash.
    pub for_good: bool,
}

impl Volumes {
    /// Returns the catalog of pins on a snapshot, as `of` does. A catalog that was asked for a moment ago is kept, and knows
    /// its way through the registers.
    pub(crate) fn pins(&self, volume: VolumeId, snapshot: StateId) -> Catalog {
        let mut kept = self.pins.lock();
        if !kept.contains_key(&(volume, snapshot)) && kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        let new = || of(&self.engine.pool, volume, snapshot);
        kept.entry((volume, snapshot)).or_insert_with(new).clone()
    }

    /// Returns the pins on each of these snapshots; for those that were never cloned nothing is asked.
    pub(crate) async fn pins_on(
        &self,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
    ) -> Result<Vec<(StateId, VolumeId, Nonce)>> {
        let cloned = snapshots.into_iter().filter(|s| head.cloned.has(*s));
        let looks = stream::iter(cloned.collect::<Vec<_>>())
            .map(|snapshot| async move { (snapshot, self.pins(head.volume, snapshot).all().await) });
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut all = Vec::new();
        for (snapshot, pins) in looks {
            for (key, pin) in pins? {
                all.push((snapshot, clone_of(&key)?, Nonce(pin.value)));
            }
        }
        Ok(all)
    }

    /// Returns clones that need one of these snapshots; not all when there are many. `clean`: a pin without a clone is dropped,
    /// after it is certain that the clone will never be.
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

    /// Tells whether the clone exists and needs its parent. `settle`: a clone that doesn't exist yet is cancelled, so that it
    /// never will.
    async fn may_need(&self, clone: VolumeId, settle: bool) -> Result<bool> {
        let cell = self.engine.cell(clone);
        match cell.read().await? {
            // A clone that was flattened has let go, whether its pin is gone yet or not.
            Some(head) => Ok(!head.removed && head.parent().is_some()),
            None if !settle => Ok(false),
            None => {
                // It may be on its way.
                self.engine.rt.sleep(CREATION).await;
                Ok(!cell.cancel(&self.new_head(clone, 512, VolumeSettings::default())?).await?)
            }
        }
    }

    pub(crate) async fn unpin(
        &self,
        parent: VolumeId,
        snapshot: StateId,
        clone: VolumeId,
        nonce: Nonce,
    ) -> Result<()> {
        self.pins(parent, snapshot).remove(&key(clone), CatalogEntry::of(nonce.0)).await
    }

    /// Fails with `Refused`, which names the clones, when clones need one of the snapshots of `what`. For a removal into the
    /// trash, clones that lie there themselves don't count: what they need stays there as long as they do.
    pub(crate) async fn refuse_if_held(
        &self,
        what: &str,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
        Removal { clean, for_good }: Removal,
    ) -> Result<()> {
        let held = self.holders(head, snapshots, clean).await?;
        if held.is_empty() {
            return Ok(());
        }
        let names: BTreeMap<VolumeId, Name> = self.names().await?;
        let in_trash = |id: &VolumeId| names.get(id).is_some_and(|name| name.trashed().is_some());
        if !for_good && held.len() <= NAMED_MAX && held.iter().all(in_trash) {
            return Ok(());
        }
        let named = |id: &VolumeId| names.get(id).map_or(id.to_string(), |name| self.engine.title(name));
        let mut clones: Vec<String> = held.iter().take(NAMED_MAX).map(named).collect();
        if held.len() > NAMED_MAX {
            clones.push("and others".into());
        }
        let trash = if held.iter().any(in_trash) {
            " (from the trash: `windlass volume remove --trash`)"
        } else {
            ""
        };
        let why = format!("{what} is needed by its clones: {}; remove them first{trash}", clones.join(", "));
        Err(Error::new(Kind::Refused, why))
    }
}
