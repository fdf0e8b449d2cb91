//! Changes of a volume that is there: back to what a snapshot shows, more bytes at its end, free of its parent.

use serde::Serialize;

use super::volumes::{OpenMode, Volumes};
use crate::base::size::show_size;
use crate::base::{Error, Kind, Name, Nonce, Result};
use crate::volume::checkpoint::Flattening;
use crate::volume::handle::{Known, Volume};
use crate::volume::head::is_template;
use crate::volume::session::no_snapshot;

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
    pub async fn check_roll_back(&self, volume: &Name, to: &Name, keep: Option<&Name>) -> Result<()> {
        let title = self.engine.title(volume);
        let open = self.open(volume, OpenMode::Normal).await?;
        let tables = self.newest_tables(volume, open.id()).await?;
        tables.snapshot(to).ok_or_else(|| no_snapshot(&title, to))?;
        if open.settings().template {
            return Err(Error::new(Kind::Refused, is_template(&title)));
        }
        keep.map_or(Ok(()), |keep| tables.check_new(keep)).map_err(|e| e.context(format!("volume {title}")))
    }

    /// The volume shows what the snapshot does, O(1) in time and bytes; newer snapshots stay. What it held since is kept as
    /// snapshot `keep`, or freed. For a volume that nobody reads or writes meanwhile: what is under way may be there in part.
    pub async fn roll_back(&self, volume: &Name, to: &Name, keep: Option<&Name>) -> Result<()> {
        self.check_roll_back(volume, to, keep).await?;
        let nonce = Nonce(self.engine.rt.random128());
        let open = self.open(volume, OpenMode::Normal).await?;
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
        let holders = self.let_go_of_parent(&open).await?;
        tracing::info!(volume = %self.engine.title(volume), bytes, held = !holders.is_empty(), "the volume was flattened");
        Ok(Flattened { bytes, holders })
    }

    /// Gives the pin on the parent back where nothing needs it; else the snapshots that do.
    async fn let_go_of_parent(&self, open: &Volume) -> Result<Vec<Name>> {
        let holders = open.ask(|session| async move { session.drop_base().await }).await?;
        let Some(head) = self.engine.cell(open.id()).read().await? else { return Ok(holders) };
        if let Some(base) = head.base.filter(|base| base.dropped)
            && let Some(parent) = base.ancestors.last()
        {
            self.unpin(*parent, base.snapshot, open.id(), base.pin).await?;
        }
        Ok(holders)
    }

    /// The same when a snapshot was removed, which may have been the last that needed it. What fails is done with the next one,
    /// or by who removes the parent.
    pub(super) async fn let_go_in_time(&self, open: &Volume) {
        if let Known::Live(session) = open.known()
            && session.head.lock().base.as_ref().is_some_and(|base| base.flat.is_some())
            && let Err(error) = self.let_go_of_parent(open).await
        {
            tracing::warn!(volume = %open.title(), %error, "the parent of a flattened clone is let go of later");
        }
    }

    /// More bytes at its end, which read as zeros. Clients may go on meanwhile. `Refused`: the volume would shrink.
    pub async fn resize(&self, volume: &Name, size: u64) -> Result<()> {
        Volumes::check_size(size)?;
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
