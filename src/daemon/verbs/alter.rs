//! Verbs that change a volume that is there.

use serde_json::json;

use crate::base::size::show_size;
use crate::base::{Name, Result};
use crate::daemon::api::{Outcome, SnapshotPath, VolumePath};
use crate::daemon::engine_tables::EngineState;

/// All that may be refused is refused before a client is hung up on.
pub async fn roll_back(
    state: &EngineState,
    to: &SnapshotPath,
    keep: Option<&Name>,
    disconnect: bool,
) -> Result<Outcome> {
    let (path, volumes) = (&to.volume, &state.pools.get(&to.volume.pool).await?.volumes);
    volumes.check_roll_back(&path.volume, &to.snapshot, keep).await?;
    let _alone = state.sessions.alone(path, volumes, "rolled back", disconnect).await?;
    volumes.roll_back(&path.volume, &to.snapshot, keep).await?;
    let kept = keep.map(|name| format!("{path}@{name}"));
    let value = json!({"path": path.to_string(), "snapshot": to.to_string(), "kept": kept});
    let what = match kept {
        Some(kept) => format!("{path} is what {to} was; what it held since is {kept}"),
        None => format!("{path} is what {to} was; what it held since is gone"),
    };
    Ok(Outcome { value, ..Outcome::default() }.note(what))
}

pub async fn resize(state: &EngineState, path: &VolumePath, size: u64) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    volumes.resize(&path.volume, size).await?;
    let value = json!({"path": path.to_string(), "size": size});
    let outcome = Outcome { value, ..Outcome::default() }.note(format!("{path} has {} now", show_size(size)));
    Ok(match state.sessions.clients(path) {
        0 => outcome,
        _ => outcome.note("clients that are connected see the new size when they connect again"),
    })
}
