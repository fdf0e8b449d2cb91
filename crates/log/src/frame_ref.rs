//! Where a frame lies, as maps and tables write it down.

use serde::{Deserialize, Serialize};

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::{Epoch, Result, Seq};

/// A frame's address: the volume as an index into the root-first list of a volume's ancestors and itself, so that
/// pages shared with clones keep their meaning; then chunk, virtual offset and stored length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FrameRef {
    pub volume: u16,
    pub epoch: Epoch,
    pub seq: Seq,
    pub offset: u64,
    pub len: u32,
}

impl FrameRef {
    /// Tells whether both frames lie in one data shard of one chunk.
    pub fn same_object(&self, other: &FrameRef) -> bool {
        let object = |at: &FrameRef| (at.volume, at.epoch, at.seq, at.offset / SHARD_SPAN);
        object(self) == object(other)
    }

    pub fn encode(&self, w: &mut Writer) {
        w.varint(self.volume.into())
            .varint(self.epoch.0)
            .varint(self.seq.0)
            .varint(self.offset)
            .varint(self.len.into());
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<FrameRef> {
        let volume = u16::try_from(r.varint()?).map_err(|_| r.bad("a volume index is too large"))?;
        let (epoch, seq, offset) = (Epoch(r.varint()?), Seq(r.varint()?), r.varint()?);
        let len = u32::try_from(r.varint()?).map_err(|_| r.bad("a frame length is too large"))?;
        Ok(FrameRef { volume, epoch, seq, offset, len })
    }
}
