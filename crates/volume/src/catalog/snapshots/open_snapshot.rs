//! Snapshots as they are read: brought to the tables by who owns the volume, and told by others as far as they are built.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::catalog::marks_in_log::tables_to_the_end;
use crate::catalog::volumes::{OpenMode, Volumes};
use crate::handle::{Known, SnapshotView};
use crate::head::Head;
use crate::session::no_snapshot;
use crate::space::{SnapshotId, Tables};
use windlass_base::{Error, Kind, Name, Result, VolumeId};

impl Volumes {
    /// Opens a snapshot, read-only, whoever owns the volume. Waits for its map when this engine is the owner. `Unavailable`:
    /// another host is, and the map isn't written yet.
    pub fn open_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
    ) -> BoxFuture<'f, Result<Arc<SnapshotView>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            self.open_snapshot_of(id, volume, snapshot).await
        })
    }

    async fn open_snapshot_of(
        &self,
        id: VolumeId,
        volume: &Name,
        snapshot: &Name,
    ) -> Result<Arc<SnapshotView>> {
        // What is known before the head is read: the volume may go on meanwhile.
        let known = self.engine.cell_above(volume, id).await;
        let (head, tables) = tables_with(self, volume, id, snapshot).await?;
        let head = known.check(head).await?;
        let state =
            tables.snapshot(snapshot).ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))?;
        let (engine, shown) = (self.engine.clone(), format!("{volume}@{snapshot}"));
        Ok(Arc::new(SnapshotView::new(engine, shown, &head, state)))
    }

    /// Opens a snapshot for a client of another process of this host, whatever it and its volume are called by now. `volume`
    /// and `snapshot` are what they were called then.
    ///
    /// # Errors
    /// `Removed`: it is not there any more.
    pub fn open_snapshot_again<'f>(
        &'f self,
        id: VolumeId,
        held: &'f SnapshotId,
        (volume, snapshot): (&'f Name, &'f Name),
    ) -> BoxFuture<'f, Result<Arc<SnapshotView>>> {
        Box::pin(async move {
            let volume = self.name_now(id, volume).await?;
            let gone = || {
                let title = self.engine.title(&volume);
                Error::new(Kind::Removed, format!("snapshot {title}@{snapshot} was removed"))
            };
            let tables = self.newest_tables(&volume, id).await?;
            let name = tables.find(held).map(|(name, _)| name.clone()).ok_or_else(gone)?;
            let view = self.open_snapshot_of(id, &volume, &name).await?;
            if view.id() == *held { Ok(view) } else { Err(gone()) }
        })
    }

    /// Returns when a snapshot that is there is in the pool and confirmed. One that only the log shows may be that of a host
    /// which was killed before it had promised anything.
    pub fn promise_snapshot<'f>(&'f self, volume: &'f Name, snapshot: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            if let Some(open) = self.owned_here(volume) {
                return open.promise_snapshot(snapshot).await;
            }
            let id = self.id(volume).await?;
            let (head, tables) = self.recorded_with_names(volume, id).await?;
            if tables.snapshot(snapshot).is_some() {
                return Ok(());
            }
            if !self.engine.host_owns(&head) {
                return Err(not_built_yet(self, volume, snapshot, &head));
            }
            self.open(volume, OpenMode::Normal).await?.promise_snapshot(snapshot).await
        })
    }
}

/// Returns the head and its tables, with the snapshot in them if this engine can bring it there.
pub async fn tables_with(
    volumes: &Volumes,
    volume: &Name,
    id: VolumeId,
    snapshot: &Name,
) -> Result<(Head, Tables)> {
    if let Some(open) = volumes.here(id)
        && let Known::Live(session) = open.known()
    {
        match open.ask(|session| async move { session.build_snapshot(snapshot).await }).await {
            // Another host may have the volume, and have taken the snapshot.
            Err(e)
                if matches!(e.kind(), Kind::NotFound | Kind::Fenced) && volumes.is_over(&session).await => {}
            done => done?,
        }
    }
    if volumes.engine.awaits_key(volume, id) {
        // With the key forged tables are told from the owner's, and made up from other stores.
        let head = volumes.head(volume, id).await?;
        volumes.engine.check_open(volume, &head).await?;
    }
    let (head, tables) = volumes.recorded_with_names(volume, id).await?;
    volumes.engine.check_open(volume, &head).await?;
    if tables.snapshot(snapshot).is_some() || head.active.released {
        return Ok((head, tables));
    }
    if !volumes.engine.host_owns(&head) {
        let (newer, to_the_end) = tables_to_the_end(volumes, volume, id).await?;
        return match to_the_end.snapshot(snapshot) {
            None => Ok((head, tables)),
            Some(state) if state.built => volumes.recorded_with_names(volume, id).await,
            Some(_) => Err(not_built_yet(volumes, volume, snapshot, &newer)),
        };
    }
    // Owned by this folder and not open: its log may have a mark that no checkpoint has built.
    let open = volumes.open(volume, OpenMode::Normal).await?;
    open.ask(|session| async move { session.build_snapshot(snapshot).await }).await?;
    volumes.recorded(volume, id).await
}

/// Error for a snapshot that is stored only as a mark in the owner's log: what the snapshot shows is told by the owner's next
/// checkpoint.
pub fn not_built_yet(volumes: &Volumes, volume: &Name, snapshot: &Name, head: &Head) -> Error {
    let title = volumes.engine.title(volume);
    let owner = head.active.owner.as_ref().map_or("its owner", |host| host.name.as_str());
    let why = format!(
        "{title}@{snapshot} was taken by {owner} a moment ago, and other hosts can use it from the next checkpoint on, within about \
         a minute: try again then; if {owner} is gone, `windlass volume take-over {title}` makes one"
    );
    Error::new(Kind::Unavailable, why)
}
