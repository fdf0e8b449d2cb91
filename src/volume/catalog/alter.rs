//! Changes of a volume that is there: back to what a snapshot shows, more bytes at its end.

use super::volumes::{OpenMode, Volumes};
use crate::base::size::show_size;
use crate::base::{Error, Kind, Name, Nonce, Result};
use crate::volume::session::no_snapshot;

impl Volumes {
    /// What `roll_back` would refuse, without doing it. Opens the volume, and so refuses what another host owns.
    pub async fn check_roll_back(&self, volume: &Name, to: &Name, keep: Option<&Name>) -> Result<()> {
        let title = self.engine.title(volume);
        let open = self.open(volume, OpenMode::Normal).await?;
        let tables = self.newest_tables(volume, open.id()).await?;
        tables.snapshot(to).ok_or_else(|| no_snapshot(&title, to))?;
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
