//! Verbs of the keys of encrypted volumes: what opens one, and what its data is sealed by.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::volume::origin;
use crate::daemon::answers::{DataKeyLine, KeyList, KeySlotLine};
use crate::daemon::api::{GivenKey, KeyChange, Outcome, SlotChange, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use crate::daemon::volume_clients::Visitor;
use windlass_base::{Result, utc};
use windlass_keys::Slot;
use windlass_volume::DataKeyUse;

/// Gives this engine a key, by which it opens the volume from now on.
pub async fn unlock(state: &EngineState, path: &VolumePath, key: &GivenKey) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let slot = volumes.unlock(&path.volume, &key.offered()?).await?;
    let outcome = Outcome::of(&json!({"path": path, "slot": slot}))?;
    Ok(outcome.note(format!("{path} is open to this engine by key slot {slot}, until it ends")))
}

pub async fn key_slots(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let slots = volumes.key_slots(&path.volume).await?;
    let line = |slot: &Slot| KeySlotLine {
        slot: slot.slot,
        kind: slot.kind,
        made: utc::show(slot.made_ms),
        made_ms: slot.made_ms,
    };
    let of = |key: DataKeyUse| DataKeyLine {
        number: key.number,
        made: if key.made_ms == 0 { String::new() } else { utc::show(key.made_ms) },
        made_ms: key.made_ms,
        seals: key.seals,
        bytes: key.bytes,
    };
    let data_keys = volumes.data_keys(&path.volume).await?.into_iter().map(of).collect();
    Outcome::of(&KeyList { slots: slots.iter().map(line).collect(), data_keys })
}

/// Gives a volume a new data key, and tells what that means for clones.
pub async fn rotate_keys(
    state: &EngineState,
    path: &VolumePath,
    key: Option<&GivenKey>,
    (wait, progress): (bool, &ProgressSink),
) -> Result<Outcome> {
    let (volumes, name) = (&state.pools.get(&path.pool).await?.volumes, &path.volume);
    let _session = state.sessions.enter(path, volumes, Visitor::Command("a change of its data key"))?;
    let offered = key.map(GivenKey::offered).transpose()?;
    let number = volumes.rotate_keys(name, offered.as_ref()).await?;
    let most = AtomicU64::new(0);
    let told = |left: u64| {
        let all = most.fetch_max(left, Ordering::Relaxed).max(left);
        progress.tell("sealing anew", all - left, all);
    };
    if wait {
        volumes.rotated(name, &told).await?;
    }
    let info = volumes.info(name).await?;
    let mut outcome = Outcome::of(&json!({"path": path, "data_key": number, "over": wait}))?.note(match wait {
        true => format!("{path}: data key {number} seals all of the volume, and the older ones are gone"),
        false => format!(
            "{path}: data key {number} seals what is written; what there is is sealed anew wherever the volume is open, and \
             `windlass volume key list {path}` shows how far that is"
        ),
    });
    if info.clones != Some(0) {
        outcome = outcome
            .note("clones of it read on: the volume key, which they share, opens the new data key too");
    }
    if let Some(parent) = &info.parent {
        outcome = outcome.note(format!(
            "what it shares with {} stays sealed by the data keys of that volume: change those too, or flatten the clone",
            origin(&path.pool, parent)
        ));
    }
    Ok(outcome)
}

pub async fn change_keys(state: &EngineState, args: &KeyChange) -> Result<Outcome> {
    let volumes = &state.pools.get(&args.path.pool).await?.volumes;
    let (name, offered) = (&args.path.volume, args.key.offered()?);
    let (slot, did) = match &args.change {
        SlotChange::Add(new) => (volumes.add_key(name, &offered, &new.offered()?).await?, "opens it too"),
        SlotChange::Replace(new) => {
            (volumes.change_key(name, &offered, &new.offered()?).await?, "takes the new key")
        }
        SlotChange::Remove(slot) => {
            volumes.remove_key(name, &offered, *slot).await?;
            (*slot, "is removed")
        }
    };
    let outcome = Outcome::of(&json!({"path": args.path, "slot": slot}))?;
    Ok(outcome.note(format!("{}: key slot {slot} {did}", args.path)))
}
