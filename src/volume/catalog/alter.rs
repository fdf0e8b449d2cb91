//! Changes of a volume that is there: back to what a snapshot shows, more bytes at its end, free of its parent, other settings.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::volumes::{OpenMode, Volumes};
use crate::base::rt::Rt;
use crate::base::units::show_size;
use crate::base::{Error, Kind, Name, Nonce, Result, VolumeId};
use crate::keys::{Argon2Costs, DataKey, KeyAccess, KeyTable, Offered, Secret, Slot};
use crate::pool::CatalogEntry;
use crate::volume::checkpoint::Flattening;
use crate::volume::handle::{Known, Volume};
use crate::volume::head::{Head, Stop, VolumeSettings, check_size, is_template};
use crate::volume::read::EngineContext;
use crate::volume::session::{Session, drop_base, no_snapshot};
use crate::volume::space::pins;

/// What flattening a clone came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flattened {
    /// Written again.
    pub bytes: u64,
    /// Snapshots that still need the parent.
    pub holders: Vec<Name>,
}

impl Volumes {
    /// What `roll_back` would refuse, without doing it. Opens the volume, and so refuses what another host owns.
    pub async fn check_roll_back(
        &self,
        volume: &Name,
        to: &Name,
        keep: Option<&Name>,
    ) -> Result<Arc<Volume>> {
        let title = self.engine.title(volume);
        let open = self.open(volume, OpenMode::Normal).await?;
        let tables = self.newest_tables(volume, open.id()).await?;
        tables.snapshot(to).ok_or_else(|| no_snapshot(&title, to))?;
        if open.settings().template {
            return Err(Error::new(Kind::Refused, is_template(&title)));
        }
        let fits = keep.map_or_else(|| tables.check_room(), |keep| tables.check_new(keep));
        fits.map(|()| open).map_err(|e| e.context(format!("volume {title}")))
    }

    /// The volume shows what the snapshot does, O(1) in time and bytes; newer snapshots stay. What it held since is kept as
    /// snapshot `keep`, or freed. For a volume that nobody reads or writes meanwhile: what is under way may be there in part.
    pub async fn roll_back(&self, volume: &Name, to: &Name, keep: Option<&Name>) -> Result<()> {
        let open = self.check_roll_back(volume, to, keep).await?;
        let nonce = Nonce(self.engine.rt.random128());
        open.ask(|session| async move { session.roll_back(to, keep, nonce).await }).await?;
        tracing::info!(volume = %self.engine.title(volume), snapshot = %to, "the volume was rolled back");
        Ok(())
    }

    /// Writes again what a clone takes from its ancestors, beside reads and writes. Then the parent is let go, unless snapshots
    /// from before need it. Dropped midway, another call goes on with what is left. `Refused`: it is no clone.
    pub async fn flatten(&self, volume: &Name, how: Flattening<'_>) -> Result<Flattened> {
        let open = self.open(volume, OpenMode::Normal).await?;
        let head = self.head(volume, open.id()).await?;
        if head.base.is_none() {
            let why = format!("volume {} is no clone: it has no parent", self.engine.title(volume));
            return Err(Error::new(Kind::Refused, why));
        }
        let how = &how;
        let bytes = open.ask(|session| async move { session.flatten(how).await }).await?;
        let holders = let_go_of_parent(&self.engine, &open).await?;
        tracing::info!(volume = %self.engine.title(volume), bytes, held = !holders.is_empty(), "the volume was flattened");
        Ok(Flattened { bytes, holders })
    }

    /// More bytes at its end, which read as zeros. Clients may go on meanwhile. `Refused`: the volume would shrink.
    pub async fn resize(&self, volume: &Name, size: u64) -> Result<()> {
        check_size(size)?;
        let open = self.open(volume, OpenMode::Normal).await?;
        let (title, now) = (self.engine.title(volume), open.size());
        if size < now {
            let why = format!(
                "volume {title} has {}, and a volume does not shrink to {}: make the filesystem on it \
                 smaller, then copy it to a new volume of that size",
                show_size(now),
                show_size(size)
            );
            return Err(Error::new(Kind::Refused, why));
        }
        if size > now {
            open.ask(|session| async move { session.grow(size).await }).await?;
            tracing::info!(volume = %title, size, "the volume was resized");
        }
        Ok(())
    }
}

impl Volumes {
    /// All of the assignments (`KEY=VALUE`) or none. The owner changes them in its session, which follows at once; of a
    /// released volume anybody changes them. `Owned`: another host owns it.
    pub async fn set(&self, name: &Name, assignments: &[String]) -> Result<()> {
        VolumeSettings::default().assigned(assignments)?;
        let id = self.id_in_an_outage(name).await?;
        match self.set_released(name, id, assignments).await? {
            Some(changed) => {
                if let Some(here) = self.here(id) {
                    here.settings_were_changed(changed.settings);
                }
            }
            None => self.open(name, OpenMode::Normal).await?.change_settings(assignments).await?,
        }
        self.engine.memory.boots.forget(id);
        Ok(())
    }

    /// `None`: somebody owns it.
    async fn set_released(&self, name: &Name, id: VolumeId, assignments: &[String]) -> Result<Option<Head>> {
        let owned = |head: &Head| !head.active.released || head.standing().is_some();
        if matches!(self.here(id).map(|v| v.known()), Some(Known::Live(_)))
            || owned(&self.head(name, id).await?)
        {
            return Ok(None);
        }
        let cell = self.engine.cell_above(name, id).await;
        match cell.change(|head| head.set_settings(None, assignments)).await {
            Err(e) if e.is(Kind::Owned) => Ok(None),
            done => done.map(Some),
        }
    }
}

/// A data key of an encrypted volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataKeyUse {
    pub number: u8,
    pub made_ms: u64,
    /// What is written is sealed by it.
    pub seals: bool,
    /// Live bytes, as stored, of objects of which it may have sealed something, and no older one.
    pub bytes: u64,
}

/// Between two looks at a rotation.
const ROTATION_LOOK: Duration = Duration::from_millis(250);

/// Keys of encrypted volumes.
impl Volumes {
    /// A new volume's head with keys of its own, which are here from then on.
    pub(super) async fn with_keys(&self, head: Head, offered: &Offered) -> Result<Head> {
        let (rt, volume, offered) = (self.engine.rt.clone(), head.volume, offered.clone());
        let costs = self.engine.keys.costs();
        // To try a passphrase takes its time, which is what it is for.
        let draw = move || KeyTable::drawn(&rt, volume, &offered, costs);
        let (keys, key) = self.engine.rt.cpu(draw).await??;
        self.engine.keys.put(volume, key);
        head.with_keys(keys)
    }

    /// A new clone's head with its parent's keys. `Denied`: they are not here.
    pub(super) fn with_keys_of(&self, head: Head, parent: &Head) -> Result<Head> {
        let Some(keys) = &parent.keys else { return Ok(head) };
        let key = self.engine.volume_key(parent).ok_or_else(KeyAccess::locked)?;
        let table = keys.of_clone(&self.engine.rt, (parent.volume, &key), head.volume)?;
        self.engine.keys.put(head.volume, key);
        head.with_keys(table)
    }

    fn keys_of(&self, name: &Name, head: &Head) -> Result<KeyTable> {
        head.keys.clone().ok_or_else(|| {
            let title = self.engine.title(name);
            Error::new(Kind::Refused, format!("volume {title} is not encrypted: it has no keys"))
        })
    }

    /// Opens an encrypted volume's keys; the number of the slot. They are here until the process ends. `Denied` names the
    /// slots that were tried, `Refused`: the volume is not encrypted.
    pub async fn unlock(&self, name: &Name, offered: &Offered) -> Result<u8> {
        let id = self.id(name).await?;
        let head = self.head(name, id).await?;
        let (key, slot) = self.unlocked(name, &head, offered).await?;
        self.engine.keys.put(id, key);
        Ok(slot)
    }

    async fn unlocked(&self, name: &Name, head: &Head, offered: &Offered) -> Result<(Secret, u8)> {
        let (keys, offered) = (self.keys_of(name, head)?, offered.clone());
        let unlocked = self.engine.rt.cpu(move || keys.unlock(&offered)).await?;
        unlocked.map_err(|e| e.context(format!("volume {}", self.engine.title(name))))
    }

    /// The slots of an encrypted volume.
    pub async fn key_slots(&self, name: &Name) -> Result<Vec<Slot>> {
        let head = self.head(name, self.id(name).await?).await?;
        Ok(self.keys_of(name, &head)?.slots().to_vec())
    }

    /// Whoever opens the volume by `offered` lets `new` open it too; the new slot's number.
    pub async fn add_key(&self, name: &Name, offered: &Offered, new: &Offered) -> Result<u8> {
        self.change_keys(name, offered, move |keys, key, _, rt, costs| keys.add_slot(rt, key, new, costs))
            .await
    }

    /// The slot that `offered` opens takes `new` instead; its number.
    pub async fn change_key(&self, name: &Name, offered: &Offered, new: &Offered) -> Result<u8> {
        self.change_keys(name, offered, move |keys, key, slot, rt, costs| {
            keys.replace_slot(rt, key, slot, new, costs)?;
            Ok(slot)
        })
        .await
    }

    /// A slot opens the volume no more. `offered` must open the volume: else anybody who can reach the pool could lock all
    /// others out by mistake.
    pub async fn remove_key(&self, name: &Name, offered: &Offered, slot: u8) -> Result<()> {
        self.change_keys(name, offered, move |keys, _, _, _, _| keys.remove_slot(slot)).await
    }

    /// What is written from now on is sealed by a new data key, and what there is is sealed anew; the new one's number. Returns
    /// when the new key is in force: what is left goes on wherever the volume is open. The key is looked for as to open the
    /// volume, unless it is given.
    pub async fn rotate_keys(&self, name: &Name, offered: Option<&Offered>) -> Result<u8> {
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
    }

    /// Waits until the data keys of an encrypted volume are one again. `told`: bytes that older ones still seal, from time to
    /// time. Why it waits no longer though they are not: only a user can help.
    pub async fn rotated(&self, name: &Name, told: &(dyn Fn(u64) + Send + Sync)) -> Result<Option<String>> {
        let open = self.open(name, OpenMode::Normal).await?;
        loop {
            let look = |session: Arc<Session>| async move {
                Ok::<_, Stop>((session.left_to_rotate(), session.mending.kept.lock().clone()))
            };
            match open.ask(look).await? {
                (None, _) => return Ok(None),
                (Some(_), Some(why)) => return Ok(Some(why)),
                (Some(left), None) => told(left),
            }
            self.engine.rt.sleep(ROTATION_LOOK).await;
        }
    }

    /// The data keys of an encrypted volume, and how much each of them seals, by the last checkpoint. Needs no key.
    pub async fn data_keys(&self, name: &Name) -> Result<Vec<DataKeyUse>> {
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

/// Gives the pin on the parent back where nothing needs it; else the snapshots that do.
async fn let_go_of_parent(engine: &EngineContext, open: &Volume) -> Result<Vec<Name>> {
    let holders = open.ask(|session| async move { drop_base(&session).await }).await?;
    let Some(head) = engine.cell(open.id()).read().await? else { return Ok(holders) };
    if let Some(base) = head.base.filter(|base| base.dropped)
        && let Some(parent) = base.ancestors.last()
    {
        let (all, pin) = (pins::of(&engine.pool, *parent, base.snapshot), CatalogEntry::of(base.pin.0));
        all.remove(&pins::key(open.id()), pin).await?;
    }
    Ok(holders)
}

/// The same when a snapshot was removed, which may have been the last that needed it. What fails is done with the next one,
/// or by who removes the parent.
pub async fn let_go_in_time(engine: &EngineContext, open: &Volume) {
    if let Known::Live(session) = open.known()
        && session.head.lock().base.as_ref().is_some_and(|base| base.flat.is_some())
        && let Err(error) = let_go_of_parent(engine, open).await
    {
        tracing::warn!(volume = %open.title(), %error, "the parent of a flattened clone is let go of later");
    }
}
