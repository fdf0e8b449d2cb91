//! A gate in a head keeps what is about to be removed from new clones and readers (protocol.md §4.4): here who comes then waits.

use std::time::Duration;

use super::engine_context::EngineContext;
use windlass_base::{Nonce, Result, VolumeId};

/// Time after which a gate is looked at again. After `LOOKS` such looks its remover is taken to be gone.
const LOOK: Duration = Duration::from_millis(250);
const LOOKS: u32 = 20;

/// Waits for a removal behind a gate, and lifts a gate at which nobody seems to be any more. `met`: the gate
/// met last, and how often.
pub async fn wait_at(
    engine: &EngineContext,
    volume: VolumeId,
    nonce: Nonce,
    met: &mut Option<(Nonce, u32)>,
) -> Result<()> {
    let times = met.filter(|(of, _)| *of == nonce).map_or(0, |(_, times)| times) + 1;
    *met = Some((nonce, times));
    if times > LOOKS {
        engine.cell(volume).change(move |head| head.lift_gate(nonce)).await?;
    }
    engine.rt.sleep(LOOK).await;
    Ok(())
}
