//! The service Controller's snapshots.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;

use crate::csi::{
    CreateSnapshotRequest, Empty, ListSnapshotsRequest, ListSnapshotsResponse, Snapshot, SnapshotEntry,
    SnapshotId, Timestamp,
};
use crate::daemon::{SnapshotInfo, VolumeInfo};
use crate::driver::Driver;
use crate::host;
use crate::names::{self, Id};
use crate::request::page;
use crate::status::{Code, Result, Status, required};

/// Time for which a call waits until the snapshot that it has taken is in the pool. Later calls of this name
/// tell whether it is.
const STORED_WITHIN: Duration = Duration::from_secs(10);
/// Number of volumes that are asked for their snapshots at a time.
const ASKED_AT_ONCE: usize = 8;

impl Driver {
    pub async fn create_snapshot(&self, request: CreateSnapshotRequest) -> Result<SnapshotEntry> {
        let name = names::snapshot_name(required(&request.name, "name")?);
        let source = required(&request.source_volume_id, "source_volume_id")?;
        if let Some(key) = request.parameters.keys().find(|key| !key.starts_with("csi.storage.k8s.io/")) {
            return Err(Status::invalid(format!("parameter {key:?} is not known: snapshots have none")));
        }
        let (volume, info) = self.existing(source).await?;
        if volume.snapshot.is_some() {
            return Err(Status::invalid(format!("{volume} is a snapshot already")));
        }
        let id = volume.at(&name);
        // One of this name in the whole pool: two calls for it must not pass each other.
        let _held = (self.busy.hold(format!("{}@{name}", volume.pool))?, self.busy.hold(volume.to_string())?);
        if self.daemon.snapshot(&info, &id).await?.is_none() {
            if let Some(elsewhere) = self.named(&volume.pool, &name).await? {
                return Err(Status::exists(format!("a snapshot of that name is {elsewhere}")));
            }
            self.daemon.take_snapshot(&info, &id).await?;
        }
        let stored = self.is_stored(&info, &id).await?;
        if stored {
            self.daemon.let_go(&info).await;
        }
        let lost = || {
            let why =
                format!("snapshot {id} is gone: it was lost with its host, or removed beside this call");
            Status::new(Code::Aborted, why)
        };
        let taken = self.daemon.snapshot(&info, &id).await?.ok_or_else(lost)?;
        Ok(SnapshotEntry { snapshot: Some(shown(&volume, &taken, stored)) })
    }

    /// Tells whether a snapshot is in the pool, and waits a while for that. Clones of it can be made then.
    async fn is_stored(&self, info: &VolumeInfo, id: &Id) -> Result<bool> {
        match host::within(STORED_WITHIN, self.daemon.promise_snapshot(info, id)).await {
            Some(Ok(())) => Ok(true),
            Some(Err(e)) if e.is("not_found") => Err(e.into()),
            Some(Err(e)) => {
                tracing::info!(snapshot = %id, error = e.message, "it is not known to be stored yet");
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Returns the snapshot of a name, whichever volume of the pool it is of. Windlass has names of snapshots
    /// for each volume, and orchestrators have one for all.
    async fn named(&self, pool: &str, name: &str) -> Result<Option<Id>> {
        let volumes = self.daemon.volumes_of(pool).await?;
        let found = self.all_of(volumes).await?;
        Ok(found.into_iter().find(|(id, _)| id.snapshot.as_deref() == Some(name)).map(|(id, _)| id))
    }

    /// Lists the snapshots of some volumes. Those of volumes that are removed meanwhile are left out.
    async fn all_of(&self, volumes: Vec<VolumeInfo>) -> Result<Vec<(Id, SnapshotInfo)>> {
        // What another host has taken since it last recorded its volume, the number does not tell.
        let may_have = |info: &VolumeInfo| info.snapshots > 0 || info.state == "owned";
        let asked = volumes.into_iter().filter(may_have).map(|info| async move {
            let Ok(volume) = info.path.parse::<Id>() else { return Ok(Vec::new()) };
            let mut listed = self.daemon.snapshots(&info).await;
            // A host that is gone must not hide what it had recorded, or all that others have.
            if listed.as_ref().is_err_and(|e| e.is("closed") || e.is("timeout")) {
                listed = self.daemon.recorded_snapshots(&info).await;
            }
            match listed {
                Ok(all) => Ok(all.into_iter().map(|one| (volume.at(&one.name), one)).collect()),
                Err(e) if e.is("not_found") || e.is("removed") => Ok(Vec::new()),
                Err(e) => Err(Status::from(e)),
            }
        });
        let lists: Vec<Result<Vec<_>>> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
        let lists: Vec<Vec<_>> = lists.into_iter().collect::<Result<_>>()?;
        Ok(lists.into_iter().flatten().collect())
    }

    pub async fn delete_snapshot(&self, request: SnapshotId) -> Result<Empty> {
        let id = required(&request.snapshot_id, "snapshot_id")?;
        // What was never ours is gone already.
        let Some(id) = id.parse::<Id>().ok().filter(|id| id.snapshot.is_some()) else { return Ok(Empty {}) };
        let _held = self.busy.hold(id.parent().to_string())?;
        let Some(info) = self.daemon.find(&id).await? else { return Ok(Empty {}) };
        if self.daemon.snapshot(&info, &id).await?.is_some() {
            self.daemon.remove_snapshot(&info, &id, false).await?;
            self.daemon.let_go(&info).await;
        }
        Ok(Empty {})
    }

    pub async fn list_snapshots(&self, request: ListSnapshotsRequest) -> Result<ListSnapshotsResponse> {
        let found = if !request.snapshot_id.is_empty() {
            self.one(&request.snapshot_id).await?.into_iter().collect()
        } else if !request.source_volume_id.is_empty() {
            match request.source_volume_id.parse::<Id>() {
                Ok(volume) if volume.snapshot.is_none() => {
                    let info = self.daemon.find(&volume).await?;
                    self.all_of(info.into_iter().collect()).await?
                }
                _ => Vec::new(),
            }
        } else {
            self.all_of(self.daemon.volumes().await?).await?
        };
        let of_source = |id: &Id| {
            request.source_volume_id.is_empty() || id.parent().to_string() == request.source_volume_id
        };
        let entries = found.into_iter().filter(|(id, _)| of_source(id) && !id.is_for_a_clone());
        let entry = |(id, one): (Id, SnapshotInfo)| {
            (id.to_string(), SnapshotEntry { snapshot: Some(shown(&id.parent(), &one, false)) })
        };
        let entries = entries.map(entry).collect();
        let (entries, next_token) = page(entries, &request.starting_token, request.max_entries)?;
        Ok(ListSnapshotsResponse { entries, next_token })
    }

    pub async fn get_snapshot(&self, request: SnapshotId) -> Result<SnapshotEntry> {
        let text = required(&request.snapshot_id, "snapshot_id")?;
        let absent = || Status::not_found(format!("there is no snapshot {text}"));
        let (id, one) = self.one(text).await?.ok_or_else(absent)?;
        Ok(SnapshotEntry { snapshot: Some(shown(&id.parent(), &one, false)) })
    }

    /// Returns the snapshot that has this id.
    async fn one(&self, id: &str) -> Result<Option<(Id, SnapshotInfo)>> {
        let Some(id) = id.parse::<Id>().ok().filter(|id| id.snapshot.is_some()) else { return Ok(None) };
        let Some(info) = self.daemon.find(&id).await? else { return Ok(None) };
        let Some(mut one) = self.daemon.snapshot(&info, &id).await? else { return Ok(None) };
        // Its owner has not recorded it yet. It may be in the pool all the same.
        one.ready = one.ready || self.is_stored(&info, &id).await?;
        Ok(Some((id, one)))
    }
}

fn shown(volume: &Id, one: &SnapshotInfo, stored: bool) -> Snapshot {
    Snapshot {
        size_bytes: one.size as i64,
        snapshot_id: volume.at(&one.name).to_string(),
        source_volume_id: volume.to_string(),
        creation_time: Some(Timestamp {
            seconds: (one.created_ms / 1000) as i64,
            nanos: (one.created_ms % 1000 * 1_000_000) as i32,
        }),
        ready_to_use: one.ready || stored,
    }
}
