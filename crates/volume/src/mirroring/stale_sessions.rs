//! Sessions of other hosts' volumes that nobody will ask for any more.

use crate::head::Head;
use crate::read::EngineContext;
use windlass_base::{Epoch, Result, VolumeId};

/// Removes a volume's sessions here that a take-over could not use: the volume was removed, or the head names another session or
/// another host, and its owner is a later one. A session of the present owner may be about to be named.
pub async fn forget_stale(engine: &EngineContext, volume: VolumeId) -> Result<()> {
    let sessions = engine.sessions(volume);
    let cell = engine.cell(volume);
    let Some(head) = cell.read().await? else { return Ok(()) };
    if !sessions.all().await?.iter().any(|epoch| is_stale(engine, &head, *epoch)) {
        return Ok(());
    }
    let _seat = engine.mirror.sit(volume).await?;
    // Nobody comes back from a removal.
    let head = if head.removed { head } else { cell.confirm().await? };
    let kept: Vec<Epoch> =
        sessions.all().await?.into_iter().filter(|epoch| !is_stale(engine, &head, *epoch)).collect();
    sessions.keep_only(&kept).await?;
    tracing::info!(%volume, "what was mirrored here of a volume that has gone on without it was removed");
    Ok(())
}

fn is_stale(engine: &EngineContext, head: &Head, session: Epoch) -> bool {
    let named = head.mirror.as_ref().is_some_and(|m| m.host.id == engine.host.id && m.session == session);
    head.removed || !named && session < head.active.epoch
}
