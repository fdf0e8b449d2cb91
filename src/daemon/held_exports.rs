//! What a client of NBD holds, as one daemon tells the next one of the same state folder: which pool, which volume or
//! snapshot, and under which ownership the client has seen it. Names are for messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::api::{Outcome, SnapshotPath, VolumePath};
use super::engine_tables::EngineState;
use super::pools::OpenPool;
use super::volume_uses::VolumeKey;
use windlass_base::{Epoch, Error, Kind, PoolId, Result, VolumeId};
use windlass_nbd::{ConnectionState, HeldDisk, Holding, PausedServer};
use windlass_volume::{Passage, Since, SnapshotId, SnapshotView, Volume};

/// Export that a client holds, as one daemon tells it to the next. See the module.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HeldExport {
    Volume {
        pool: PoolId,
        volume: VolumeId,
        /// Epochs of ownership: while one of them is in force, the volume is what the client has seen. Null: any
        /// ownership will do.
        under: Option<Vec<Epoch>>,
        /// Is true if the client has written, which counts where only one client may write. Older versions do not
        /// tell it.
        #[serde(default, skip_serializing_if = "is_default")]
        writes: bool,
    },
    Snapshot {
        pool: PoolId,
        volume: VolumeId,
        snapshot: SnapshotId,
    },
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Returns the clients of these servers that hold a volume: the volume, the client's address or process, and whether
/// it has written.
pub fn holders(servers: &[PausedServer]) -> Vec<(VolumeKey, String, bool)> {
    let clients = servers.iter().flat_map(|server| &server.clients).map(|client| client.client.state());
    let of = |client: ConnectionState| match HeldExport::of(client.held()?).ok()? {
        HeldExport::Volume { pool, volume, writes, .. } => Some(((pool, volume), client.peer, writes)),
        HeldExport::Snapshot { .. } => None,
    };
    clients.filter_map(of).collect()
}

impl HeldExport {
    pub fn told(&self) -> HeldDisk {
        HeldDisk(serde_json::to_value(self).expect("it has only string keys"))
    }

    pub fn of(held: &HeldDisk) -> Result<HeldExport> {
        let wrong = |e| Error::new(Kind::Invalid, format!("what a client holds is not understood: {e}"));
        serde_json::from_value(held.0.clone()).map_err(wrong)
    }
}

/// Returns how the next daemon is told of the snapshot since which a client is told changes.
pub fn told_since(since: &Since) -> HeldDisk {
    HeldDisk(serde_json::to_value(since.snapshot).expect("it has only string keys"))
}

pub fn snapshot_of(held: &HeldDisk) -> Result<SnapshotId> {
    let wrong = |e| Error::new(Kind::Invalid, format!("the snapshot of a client is not understood: {e}"));
    serde_json::from_value(held.0.clone()).map_err(wrong)
}

/// Returns the pool of this id, whose name is in `called`.
///
/// # Errors
/// `Fenced`: another pool has that name now. `Unavailable`: the pool does not open, for whatever reason. A folder
/// that is not mounted looks as if the pool had never been there, and may be mounted later.
pub async fn pool_of(state: &EngineState, called: &VolumePath, id: PoolId) -> Result<Arc<OpenPool>> {
    let waits = |e: Error| if e.is(Kind::Closed) { e } else { Error::new(Kind::Unavailable, e.to_string()) };
    let open = state.pools.get(&called.pool).await.map_err(waits)?;
    if open.pool.id() == id {
        return Ok(open);
    }
    let why = format!("{called} is in another pool of that name now");
    Err(Error::new(Kind::Fenced, why))
}

/// A volume that a client holds: the one to which its requests went last.
pub struct HeldVolume {
    pub volume: Arc<Volume>,
    pub passage: Arc<Passage>,
    /// Is true once the client has written.
    pub writes: Arc<AtomicBool>,
}

impl Holding for HeldVolume {
    fn held(&self) -> Result<HeldDisk> {
        let volume = self.passage.leads_to(&self.volume);
        let under = volume.held()?;
        let writes = self.writes.load(Ordering::Acquire);
        Ok(HeldExport::Volume { pool: volume.pool(), volume: volume.id(), under, writes }.told())
    }
}

/// A snapshot that a client has open.
pub struct HeldSnapshot(pub Arc<SnapshotView>);

impl Holding for HeldSnapshot {
    fn held(&self) -> Result<HeldDisk> {
        let (pool, volume, snapshot) = (self.0.pool(), self.0.volume(), self.0.id());
        Ok(HeldExport::Snapshot { pool, volume, snapshot }.told())
    }
}

/// Returns what a client of this export holds. If `held` is given, which a client held of another process, the export
/// is compared to that.
///
/// # Errors
/// `Fenced`: who held that is on another disk here, or has missed something. `NotFound`: no such volume is open here.
pub async fn of_export(
    state: &EngineState,
    export: &str,
    held: Option<&serde_json::Value>,
) -> Result<Outcome> {
    let now = match export.contains('@') {
        true => {
            let SnapshotPath { volume: path, snapshot } = export.parse()?;
            let open = state.pools.get(&path.pool).await?;
            let view = open.volumes.open_snapshot(&path.volume, &snapshot).await?;
            let now = HeldSnapshot(view.clone()).held()?;
            if held.is_some_and(|held| *held != now.0) {
                return Err(another(export));
            }
            now
        }
        false => {
            let path: VolumePath = export.parse()?;
            let open = state.pools.get(&path.pool).await?;
            let volume = open.volumes.open_here(&path.volume);
            let nobody = || Error::new(Kind::NotFound, format!("{export} is not open here"));
            let volume = volume.ok_or_else(nobody)?;
            if let Some(held) = held {
                check(export, &volume, HeldExport::of(&HeldDisk(held.clone()))?)?;
            }
            let (pool, id, under) = (volume.pool(), volume.id(), volume.held()?);
            HeldExport::Volume { pool, volume: id, under, writes: false }.told()
        }
    };
    Outcome::of(&now)
}

fn check(export: &str, volume: &Volume, held: HeldExport) -> Result<()> {
    match held {
        HeldExport::Volume { pool, volume: id, under, .. } if pool == volume.pool() && id == volume.id() => {
            match under.is_none_or(|under| volume.goes_on_from(&under)) {
                true => Ok(()),
                false => {
                    let why = format!("others have had {export} since it was attached");
                    Err(Error::new(Kind::Fenced, why))
                }
            }
        }
        _ => Err(another(export)),
    }
}

fn another(export: &str) -> Error {
    Error::new(Kind::Fenced, format!("{export} is another one by now"))
}
