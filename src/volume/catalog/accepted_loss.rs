//! What a user gives up by `take-over --accept-loss` where stores show several heads of a volume.

use super::volumes::Volumes;
use crate::base::{Kind, Nonce, Result, VolumeId};

impl Volumes {
    /// By consent to loss. Where it is not proven that most stores were put back, what they show is taken only if what a newer head
    /// names is gone. What was put aside, if anything.
    pub(super) async fn take_what_most_show(&self, id: VolumeId) -> Result<Option<String>> {
        let cell = self.engine.cell(id);
        let Some(ahead) = cell.ahead_of_most().await else { return Ok(None) };
        if !ahead.proven {
            for (_, head) in &ahead.heads {
                match self.engine.is_whole(head).await {
                    Ok(()) => return Ok(None),
                    Err(e) if e.is(Kind::Corrupt) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let by = (&self.engine.host, Nonce(self.engine.rt.random128()), self.engine.rt.wall_ms());
        cell.take_what_most_show(ahead, by).await.map(Some)
    }
}
