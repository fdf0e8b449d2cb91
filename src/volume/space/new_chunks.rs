//! The chunks behind the checkpoint's position, until a checkpoint takes them into the chunk table.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::{Epoch, Era, Seq};
use crate::log::FrameRef;
use crate::pool::ChunkKind;

/// A chunk of the log that no table counts yet.
#[derive(Clone, Debug)]
pub struct NewChunk {
    pub epoch: Epoch,
    pub era: Era,
    pub kind: ChunkKind,
    /// Of its frames.
    pub bytes: u64,
    /// Offset and length of each frame of a data chunk.
    pub frames: Arc<[(u64, u32)]>,
    /// The attempt at a checkpoint that wrote a map chunk; none when an earlier owner did.
    attempt: Option<u64>,
    /// A recorded checkpoint wrote this map chunk. What others left is garbage.
    pub recorded: bool,
}

/// See the module. 16 bytes a frame that was written since the last checkpoint.
#[derive(Debug, Default)]
pub struct NewChunks {
    chunks: BTreeMap<Seq, NewChunk>,
    attempts: u64,
}

impl NewChunks {
    pub fn data(&mut self, epoch: Epoch, seq: Seq, era: Era, frames: impl Iterator<Item = (u64, u32)>) {
        let frames: Arc<[_]> = frames.collect();
        let bytes = frames.iter().map(|(_, len)| u64::from(*len)).sum();
        let birth =
            NewChunk { epoch, era, kind: ChunkKind::Data, bytes, frames, attempt: None, recorded: true };
        self.chunks.insert(seq, birth);
    }

    /// A map chunk that was found in the log.
    pub fn found_map(&mut self, epoch: Epoch, seq: Seq, era: Era, bytes: u64, recorded: bool) {
        let (kind, frames) = (ChunkKind::Map, Arc::from([]));
        self.chunks.insert(seq, NewChunk { epoch, era, kind, bytes, frames, attempt: None, recorded });
    }

    /// Begins an attempt at a checkpoint. Its pages must not share a chunk with another attempt's.
    pub fn attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    /// A map chunk was begun.
    pub fn map(&mut self, attempt: u64, epoch: Epoch, seq: Seq, era: Era) {
        let (kind, frames, attempt) = (ChunkKind::Map, Arc::from([]), Some(attempt));
        self.chunks.insert(seq, NewChunk { epoch, era, kind, bytes: 0, frames, attempt, recorded: false });
    }

    /// A page was appended to one.
    pub fn page(&mut self, attempt: u64, at: &FrameRef) {
        let birth = self.chunks.get_mut(&at.seq).filter(|b| b.attempt == Some(attempt));
        birth.expect("a map chunk is begun before it has pages, and is of one attempt").bytes +=
            u64::from(at.len);
    }

    /// The map chunks of an attempt.
    pub fn of(&self, attempt: u64) -> impl Iterator<Item = (Seq, &NewChunk)> {
        self.chunks.iter().filter(move |(_, b)| b.attempt == Some(attempt)).map(|(seq, b)| (*seq, b))
    }

    /// The attempt's checkpoint is recorded; chunks up to its position are the table's from now on.
    pub fn recorded(&mut self, attempt: u64, position: Seq) {
        for birth in self.chunks.values_mut().filter(|b| b.attempt == Some(attempt)) {
            birth.recorded = true;
        }
        self.chunks.retain(|seq, _| *seq > position);
    }

    pub fn get(&self, seq: Seq) -> Option<&NewChunk> {
        self.chunks.get(&seq)
    }

    pub fn range(&self, seqs: RangeInclusive<Seq>) -> Vec<(Seq, NewChunk)> {
        if seqs.is_empty() {
            return Vec::new();
        }
        self.chunks.range(seqs).map(|(seq, b)| (*seq, b.clone())).collect()
    }

    /// Bytes of all their frames.
    pub fn bytes(&self) -> u64 {
        self.chunks.values().map(|b| b.bytes).sum()
    }
}
