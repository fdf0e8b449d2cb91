//! Keys of encrypted volumes: the slots that open one, and data keys that are rotated.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::volumes::{OpenMode, Volumes};
use crate::head::{Head, Stop};
use crate::session::Session;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Name, Result};
use windlass_keys::{Argon2Costs, DataKey, KeyAccess, KeyTable, Offered, Secret, Slot};

/// A data key of an encrypted volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataKeyUse {
    pub number: u8,
    pub made_ms: u64,
    /// True for the key by which what is written is sealed.
    pub seals: bool,
    /// Live bytes, as stored, of objects of which this key may have sealed something, and no older one.
    pub bytes: u64,
}

/// Pause between two looks at a rotation.
const ROTATION_LOOK: Duration = Duration::from_millis(250);

/// Keys of encrypted volumes.
impl Volumes {
    fn keys_of(&self, name: &Name, head: &Head) -> Result<KeyTable> {
        head.keys.clone().ok_or_else(|| {
            let title = self.engine.title(name);
            Error::new(Kind::Refused, format!("volume {title} is not encrypted: it has no keys"))
        })
    }

    /// Opens an encrypted volume's keys, which are here until the process ends. Returns the number of the slot. `Denied` names
    /// the slots that were tried. `Refused`: the volume is not encrypted.
    pub fn unlock<'f>(&'f self, name: &'f Name, offered: &'f Offered) -> BoxFuture<'f, Result<u8>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let head = self.head(name, id).await?;
            let (key, slot) = self.unlocked(name, &head, offered).await?;
            self.engine.keys.put(id, key);
            Ok(slot)
        })
    }

    async fn unlocked(&self, name: &Name, head: &Head, offered: &Offered) -> Result<(Secret, u8)> {
        let (keys, offered) = (self.keys_of(name, head)?, offered.clone());
        let unlocked = self.engine.rt.cpu(move || keys.unlock(&offered)).await?;
        unlocked.map_err(|e| e.context(format!("volume {}", self.engine.title(name))))
    }

    /// Returns the slots of an encrypted volume.
    pub fn key_slots<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<Vec<Slot>>> {
        Box::pin(async move {
            let head = self.head(name, self.id(name).await?).await?;
            Ok(self.keys_of(name, &head)?.slots().to_vec())
        })
    }

    /// Lets `new` open the volume, by a slot of its own, for whoever opens the volume by `offered`. Returns the new slot's
    /// number.
    pub fn add_key<'f>(
        &'f self,
        name: &'f Name,
        offered: &'f Offered,
        new: &'f Offered,
    ) -> BoxFuture<'f, Result<u8>> {
        Box::pin(async move {
            self.change_keys(name, offered, move |keys, key, _, rt, costs| keys.add_slot(rt, key, new, costs))
                .await
        })
    }

    /// Puts `new` into the slot that `offered` opens, in place of `offered`. Returns the slot's number.
    pub fn change_key<'f>(
        &'f self,
        name: &'f Name,
        offered: &'f Offered,
        new: &'f Offered,
    ) -> BoxFuture<'f, Result<u8>> {
        Box::pin(async move {
            self.change_keys(name, offered, move |keys, key, slot, rt, costs| {
                keys.replace_slot(rt, key, slot, new, costs)?;
                Ok(slot)
            })
            .await
        })
    }

    /// Removes a slot, which opens the volume no more. `offered` must open the volume: else anybody who can reach the pool
    /// could lock all others out by mistake.
    pub fn remove_key<'f>(
        &'f self,
        name: &'f Name,
        offered: &'f Offered,
        slot: u8,
    ) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            self.change_keys(name, offered, move |keys, _, _, _, _| keys.remove_slot(slot)).await
        })
    }

    /// Seals what is written from now on by a new data key, and what there is anew. Returns the new key's number when that key
    /// is in force: what is left goes on wherever the volume is open. The volume's key is looked for as to open the volume,
    /// unless it is given.
    pub fn rotate_keys<'f>(
        &'f self,
        name: &'f Name,
        offered: Option<&'f Offered>,
    ) -> BoxFuture<'f, Result<u8>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let head = self.head(name, id).await?;
            self.keys_of(name, &head)?;
            if let Some(offered) = offered {
                let (key, _) = self.unlocked(name, &head, offered).await?;
                self.engine.keys.put(id, key);
            }
            let open = self.open(name, OpenMode::Normal).await?;
            let number = open.ask(|session| async move { session.rotate_keys().await }).await?;
            tracing::info!(volume = %self.engine.title(name), number, "what is written is sealed by a new data key");
            Ok(number)
        })
    }

    /// Waits until the data keys of an encrypted volume are one again. `told` hears from time to time how many bytes older ones
    /// still seal.
    pub async fn rotated(&self, name: &Name, told: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let open = self.open(name, OpenMode::Normal).await?;
        let look = |session: Arc<Session>| async move { Ok::<_, Stop>(session.left_to_rotate()) };
        while let Some(left) = open.ask(look).await? {
            told(left);
            self.engine.rt.sleep(ROTATION_LOOK).await;
        }
        Ok(())
    }

    /// Returns the data keys of an encrypted volume, and how much each of them seals, by the last checkpoint. Needs no key.
    pub fn data_keys<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<Vec<DataKeyUse>>> {
        Box::pin(async move {
            let found = self.engine.chunk_table(self.id(name).await?).await?;
            let Some((head, chunk_table)) = found else { return Ok(Vec::new()) };
            let keys = self.keys_of(name, &head)?;
            let (newest, sealed) = (keys.current(head.volume), chunk_table.sealed_bytes());
            let of = |key: &DataKey| DataKeyUse {
                number: key.number,
                made_ms: key.made_ms,
                seals: key.number == newest,
                bytes: sealed.get(&key.number).copied().unwrap_or_default(),
            };
            Ok(keys.data_keys_of(head.volume).map(of).collect())
        })
    }

    async fn change_keys<T>(
        &self,
        name: &Name,
        offered: &Offered,
        change: impl Fn(&mut KeyTable, &Secret, u8, &Rt, Argon2Costs) -> Result<T>,
    ) -> Result<T> {
        let id = self.id(name).await?;
        let cell = self.engine.cell_above(name, id).await;
        let head = self.existing(name, cell.read().await?)?;
        let before = self.keys_of(name, &head)?;
        let (key, slot) = self.unlocked(name, &head, offered).await?;
        let mut keys = before.clone();
        let done = change(&mut keys, &key, slot, &self.engine.rt, self.engine.keys.costs());
        let done = done.map_err(|e| e.context(format!("volume {}", self.engine.title(name))))?;
        cell.change(|head| head.set_keys(&before, &keys)).await?;
        Ok(done)
    }
}

/// Returns a new volume's head with keys of its own, which are here from then on.
pub async fn with_keys(volumes: &Volumes, head: Head, offered: &Offered) -> Result<Head> {
    let (rt, volume, offered) = (volumes.engine.rt.clone(), head.volume, offered.clone());
    let costs = volumes.engine.keys.costs();
    // To try a passphrase takes its time, which is what it is for.
    let draw = move || KeyTable::drawn(&rt, volume, &offered, costs);
    let (keys, key) = volumes.engine.rt.cpu(draw).await??;
    volumes.engine.keys.put(volume, key);
    head.with_keys(keys)
}

/// Returns a new clone's head with its parent's keys. `Denied`: they are not here.
pub fn with_keys_of(volumes: &Volumes, head: Head, parent: &Head) -> Result<Head> {
    let Some(keys) = &parent.keys else { return Ok(head) };
    let key = volumes.engine.volume_key(parent).ok_or_else(KeyAccess::locked)?;
    let table = keys.of_clone(&volumes.engine.rt, (parent.volume, &key), head.volume)?;
    volumes.engine.keys.put(head.volume, key);
    head.with_keys(table)
}
