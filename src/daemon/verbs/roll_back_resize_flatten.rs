//! Verbs that change a volume that is there.

use serde_json::json;

use crate::daemon::api::{Outcome, SnapshotPath, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use crate::daemon::volume_clients::Visitor;
use windlass_base::units::{show_bytes, show_size};
use windlass_base::{Name, Result};
use windlass_volume::{Flattened, Flattening};

/// Rolls a volume back. All that may be refused is refused before a client is hung up on. `held`: who asks holds the
/// volume alone.
pub async fn roll_back(
    state: &EngineState,
    to: &SnapshotPath,
    keep: Option<&Name>,
    (disconnect, held): (bool, bool),
) -> Result<Outcome> {
    let (path, volumes) = (&to.volume, &state.pools.get(&to.volume.pool).await?.volumes);
    let open = volumes.check_roll_back(&path.volume, &to.snapshot, keep).await?;
    let check_others = async || if held { Ok(()) } else { volumes.check_unattached(&path.volume).await };
    check_others().await?;
    let mut alone = match held {
        true => state.sessions.join_filling(path, volumes, &open)?,
        false => state.sessions.alone(path, volumes, "rolled back", disconnect).await?,
    };
    alone.opened(&open)?;
    // Nor does another host get it, and write to it, before this is done.
    let filling = open.fill().await?;
    check_others().await?;
    // A task of its own: once begun it goes on when nobody waits any more, and nobody may connect until it is done.
    let work = {
        let (volumes, volume, to, keep) =
            (volumes.clone(), path.volume.clone(), to.snapshot.clone(), keep.cloned());
        // Another host may give the name to another volume, whose clients nobody has asked.
        let this = Some(open.id());
        async move {
            let done = volumes.roll_back_this((&volume, this), &to, keep.as_ref()).await;
            drop((filling, alone));
            done
        }
    };
    state.host_context.rt.spawn(work).await??;
    let kept = keep.map(|name| format!("{path}@{name}"));
    let value = json!({"path": path.to_string(), "snapshot": to.to_string(), "kept": kept});
    let what = match kept {
        Some(kept) => format!("{path} is what {to} was; what it held since is {kept}"),
        None => format!("{path} is what {to} was; what it held since is gone"),
    };
    Ok(Outcome { value, ..Outcome::default() }.note(what))
}

pub async fn resize(state: &EngineState, path: &VolumePath, size: u64, disconnect: bool) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let _session = state.sessions.enter(path, volumes, Visitor::Command("a resize"))?;
    volumes.resize(&path.volume, size).await?;
    let value = json!({"path": path.to_string(), "size": size});
    let outcome = Outcome { value, ..Outcome::default() }.note(format!("{path} has {} now", show_size(size)));
    if disconnect && state.sessions.hang_up(path) > 0 {
        return Ok(outcome.note("its clients were hung up on, to connect again and see it"));
    }
    Ok(match state.sessions.clients(path) {
        // This command.
        1 => outcome,
        _ => outcome.note("clients that are connected see it when they connect again"),
    })
}

/// Flattens a clone. If this is cut off, the next call goes on.
pub async fn flatten(
    state: &EngineState,
    path: &VolumePath,
    rate: u64,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let _session = state.sessions.enter(path, volumes, Visitor::Command("a flattening"))?;
    let size = volumes.info(&path.volume).await?.size;
    let told = |done: u64| progress.tell("flattening", done, size);
    let how = Flattening { rate: (rate > 0).then_some(rate), progress: &told };
    let Flattened { bytes, holders } = volumes.flatten(&path.volume, how).await?;
    let holders: Vec<String> = holders.iter().map(|name| format!("{path}@{name}")).collect();
    let value = json!({"path": path.to_string(), "bytes": bytes, "holders": holders});
    let note = match holders.is_empty() {
        true => format!("{path} needs no parent any more; {} were written again", show_bytes(bytes)),
        false => format!(
            "{path} needs no parent any more, but its snapshots from before do: {}; when they are removed the parent is let go",
            holders.join(", ")
        ),
    };
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}
