//! `checksum`: the sum of the bytes of a volume or snapshot, which this engine reads by itself.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;

use crate::daemon::api::{Outcome, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use crate::daemon::volume_clients::Visitor;
use windlass_base::units::MIB;
use windlass_base::{Error, Kind, Name, Result};
use windlass_image::export::{Nowhere, Origin, Recipe, export};
use windlass_image::portion_plan::Class;
use windlass_volume::{OpenMode, SnapshotView, Volume};

/// Most runs of data and holes that are asked for at once.
const RUNS: usize = 1024;

/// A volume or snapshot whose bytes are summed.
enum Summed {
    Volume(Arc<Volume>),
    Snapshot(Arc<SnapshotView>),
}

#[async_trait]
impl Origin for Summed {
    fn size(&self) -> u64 {
        match self {
            Summed::Volume(volume) => volume.size(),
            Summed::Snapshot(view) => view.size(),
        }
    }

    async fn runs(&self, offset: u64, len: u64) -> Result<Vec<(u64, Class)>> {
        let runs = match self {
            Summed::Volume(volume) => volume.allocation(offset, len, RUNS).await?,
            Summed::Snapshot(view) => view.allocation(offset, len, RUNS).await?,
        };
        let class = |is_data| if is_data { Class::Data } else { Class::Zero };
        Ok(runs.into_iter().map(|(len, is_data)| (len, class(is_data))).collect())
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        match self {
            Summed::Volume(volume) => volume.read(offset, u64::from(len)).await,
            Summed::Snapshot(view) => view.read(offset, u64::from(len)).await,
        }
    }
}

/// Sums the bytes; answers `{"path", "size", "blake3"}`. Sums run one at a time: each holds some parts of the image
/// in memory.
pub async fn checksum(
    state: &EngineState,
    path: &VolumePath,
    snapshot: Option<&Name>,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = state.pools.get(&path.pool).await?;
    let (title, summed, _session, _reading);
    match snapshot {
        Some(snapshot) => {
            title = format!("{path}@{snapshot}");
            summed = Summed::Snapshot(open.volumes.open_snapshot(&path.volume, snapshot).await?);
        }
        None => {
            title = path.to_string();
            _session = state.sessions.enter(path, &open.volumes, Visitor::Command("a checksum"))?;
            let volume = open.volumes.open(&path.volume, OpenMode::Attach).await;
            let volume = super::explained(state, path, volume).await?;
            _reading = volume.read_by_client(false).await?;
            summed = Summed::Volume(volume);
        }
    }
    let (rt, size) = (&state.host_context.rt, summed.size());
    let sum = async {
        let _turn = state.at_work.sum_turn.lock().await;
        let told = |at: u64| progress.tell("summing MiB", at / MIB, size / MIB);
        export(rt, Arc::new(summed), Recipe::sum(), &mut Nowhere, told).await
    };
    let given_up = || Error::new(Kind::Closed, format!("summing {title} was given up"));
    let summed = progress.given_up().run_until_cancelled(sum).await.ok_or_else(given_up)??;
    Outcome::of(&json!({ "path": title, "size": size, "blake3": summed.sum.unwrap_or_default() }))
}
