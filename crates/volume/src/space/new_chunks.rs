//! The chunks behind the checkpoint's position, until a checkpoint takes them into the chunk table.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use windlass_base::{Epoch, Era, Seq};
use windlass_log::FrameRef;
use windlass_pool::ChunkKind;

/// A chunk of the log that no table counts yet.
#[derive(Clone, Debug)]
pub struct NewChunk {
    pub epoch: Epoch,
    pub era: Era,
    pub kind: ChunkKind,
    /// The oldest data key that may have sealed something in the chunk; 0: the volume is not encrypted.
    pub key: u8,
    /// Bytes of the chunk's frames.
    pub bytes: u64,
    /// Offset and length of each frame of a data chunk.
    pub frames: Arc<[(u64, u32)]>,
    /// The attempt at a checkpoint that wrote this map chunk; none when an earlier owner did.
    attempt: Option<u64>,
    /// Is true for a map chunk if a recorded checkpoint wrote it. Map chunks that other attempts left are
    /// garbage.
    pub recorded: bool,
}

/// The chunks of the log that no table counts yet. They take 16 bytes a frame that was written since the last
/// checkpoint.
#[derive(Debug, Default)]
pub struct NewChunks {
    chunks: BTreeMap<Seq, NewChunk>,
    attempts: u64,
    /// Each entry says: the chunks behind this number are sealed by this data key or a newer one. Ordered by
    /// number.
    keys: Vec<(Seq, u8)>,
}

impl NewChunks {
    /// Makes the list of an epoch that begins behind chunk `start`, with the numbers of the newest and of the
    /// oldest data key in its head.
    pub fn behind(start: Seq, (newest, oldest): (u8, u8)) -> NewChunks {
        NewChunks { keys: vec![(Seq(0), oldest), (start, newest)], ..NewChunks::default() }
    }

    /// Notes that the chunks behind this one are sealed by no older data key.
    pub fn sealed_behind(&mut self, seq: Seq, key: u8) {
        self.keys.push((seq, key));
    }

    /// Returns the oldest data key that may have sealed something in a chunk.
    pub fn key_of(&self, seq: Seq) -> u8 {
        self.keys.iter().rev().find(|(behind, _)| *behind < seq).map_or(0, |(_, key)| *key)
    }

    /// Returns the last chunk that an older data key than this one may have sealed.
    pub fn last_before(&self, key: u8) -> Seq {
        self.keys.iter().find(|(_, is)| *is >= key).map_or(Seq(u64::MAX), |(behind, _)| *behind)
    }

    pub fn data(&mut self, epoch: Epoch, seq: Seq, era: Era, frames: impl Iterator<Item = (u64, u32)>) {
        let frames: Arc<[_]> = frames.collect();
        let bytes = frames.iter().map(|(_, len)| u64::from(*len)).sum();
        let (kind, key, attempt) = (ChunkKind::Data, self.key_of(seq), None);
        let birth = NewChunk { epoch, era, kind, key, bytes, frames, attempt, recorded: true };
        self.chunks.insert(seq, birth);
    }

    /// Adds a map chunk that was found in the log.
    pub fn found_map(&mut self, epoch: Epoch, seq: Seq, era: Era, bytes: u64, recorded: bool) {
        let (kind, key, frames, attempt) = (ChunkKind::Map, self.key_of(seq), Arc::from([]), None);
        self.chunks.insert(seq, NewChunk { epoch, era, kind, key, bytes, frames, attempt, recorded });
    }

    /// Begins an attempt at a checkpoint. Its pages must not share a chunk with another attempt's.
    pub fn attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    /// Adds a map chunk that the attempt begins.
    pub fn map(&mut self, attempt: u64, epoch: Epoch, seq: Seq, era: Era) {
        let (kind, key, frames, attempt) = (ChunkKind::Map, self.key_of(seq), Arc::from([]), Some(attempt));
        let birth = NewChunk { epoch, era, kind, key, bytes: 0, frames, attempt, recorded: false };
        self.chunks.insert(seq, birth);
    }

    /// Counts a page that the attempt appended to one of its map chunks.
    pub fn page(&mut self, attempt: u64, at: &FrameRef) {
        let birth = self.chunks.get_mut(&at.seq).filter(|b| b.attempt == Some(attempt));
        birth.expect("a map chunk is begun before it has pages, and is of one attempt").bytes +=
            u64::from(at.len);
    }

    /// Returns the map chunks of an attempt.
    pub fn of(&self, attempt: u64) -> impl Iterator<Item = (Seq, &NewChunk)> {
        self.chunks.iter().filter(move |(_, b)| b.attempt == Some(attempt)).map(|(seq, b)| (*seq, b))
    }

    /// Notes that the attempt's checkpoint is recorded. Chunks up to its position are the table's from now
    /// on, and leave this list.
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

    /// Returns the bytes of all chunks' frames.
    pub fn bytes(&self) -> u64 {
        self.chunks.values().map(|b| b.bytes).sum()
    }
}
