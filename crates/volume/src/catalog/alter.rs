//! Changes of a volume that is there: back to what a snapshot shows, more bytes at its end, free of its parent, other settings.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;

use super::volumes::{OpenMode, Volumes};
use crate::checkpoint::Flattening;
use crate::handle::{Known, Volume};
use crate::head::{Head, VolumeSettings, check_size, is_template};
use crate::read::EngineContext;
use crate::session::{drop_base, no_snapshot};
use crate::space::pins;
use windlass_base::units::show_size;
use windlass_base::{Error, Kind, Name, Nonce, Result, VolumeId};
use windlass_pool::CatalogEntry;

/// Result of flattening a clone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flattened {
    /// Bytes that the clone took from its ancestors and that were written again.
    pub bytes: u64,
    /// Snapshots that still need the parent.
    pub holders: Vec<Name>,
}

impl Volumes {
    /// Checks that `roll_back` would not be refused, and changes nothing; the error is the one that `roll_back` would give.
    /// Opens the volume, and so refuses one that another host owns.
    pub fn check_roll_back<'f>(
        &'f self,
        volume: &'f Name,
        to: &'f Name,
        keep: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<Arc<Volume>>> {
        Box::pin(async move {
            let title = self.engine.title(volume);
            let open = self.open(volume, OpenMode::Normal).await?;
            let tables = self.newest_tables(volume, open.id()).await?;
            tables.snapshot(to).ok_or_else(|| no_snapshot(&title, to))?;
            if open.settings().template {
                return Err(Error::new(Kind::Refused, is_template(&title)));
            }
            let fits = keep.map_or_else(|| tables.check_room(), |keep| tables.check_new(keep));
            fits.map(|()| open).map_err(|e| e.context(format!("volume {title}")))
        })
    }

    /// Rolls the volume back to what the snapshot shows, O(1) in time and bytes; newer snapshots stay. What the volume held
    /// since is kept as snapshot `keep`, or freed. Nobody may read or write the volume meanwhile: a request that is under way
    /// may be there in part.
    pub fn roll_back<'f>(
        &'f self,
        volume: &'f Name,
        to: &'f Name,
        keep: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move { self.roll_back_this((volume, None), to, keep).await })
    }

    /// Rolls back as `roll_back` does; with an id, only this volume. `Owned`: another volume has the name by now.
    pub fn roll_back_this<'f>(
        &'f self,
        (volume, this): (&'f Name, Option<VolumeId>),
        to: &'f Name,
        keep: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let open = self.check_roll_back(volume, to, keep).await?;
            self.check_this(volume, open.id(), this)?;
            let nonce = Nonce(self.engine.rt.random128());
            open.ask(|session| async move { session.roll_back(to, keep, nonce).await }).await?;
            tracing::info!(volume = %self.engine.title(volume), snapshot = %to, "the volume was rolled back");
            Ok(())
        })
    }

    /// Writes again what a clone takes from its ancestors, beside reads and writes. Then the parent is let go, unless snapshots
    /// from before need it. Dropped midway, another call goes on with what is left. `Refused`: it is no clone.
    pub fn flatten<'f>(&'f self, volume: &'f Name, how: Flattening<'f>) -> BoxFuture<'f, Result<Flattened>> {
        Box::pin(async move {
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
        })
    }

    /// Gives the volume more bytes at its end, which read as zeros. Clients may go on meanwhile. `Refused`: the volume would
    /// shrink.
    pub fn resize<'f>(&'f self, volume: &'f Name, size: u64) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
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
        })
    }
}

impl Volumes {
    /// Changes settings: all of the assignments (`KEY=VALUE`) or none. The owner changes them in its session, which follows at
    /// once; those of a released volume are changed by any host. `Owned`: another host owns it.
    pub fn set<'f>(&'f self, name: &'f Name, assignments: &'f [String]) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
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
        })
    }

    /// Changes the settings of a released volume in its head. `None`: somebody owns it.
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

/// Gives back the pin on the parent where nothing needs the parent any more; else returns the snapshots that do.
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

/// Lets go of a flattened clone's parent after a snapshot was removed, which may have been the last that needed the parent. If
/// this fails, it is done with the next removal, or by whoever removes the parent.
pub async fn let_go_in_time(engine: &EngineContext, open: &Volume) {
    if let Known::Live(session) = open.known()
        && session.head.lock().base.as_ref().is_some_and(|base| base.flat.is_some())
        && let Err(error) = let_go_of_parent(engine, open).await
    {
        tracing::warn!(volume = %open.title(), %error, "the parent of a flattened clone is let go of later");
    }
}
