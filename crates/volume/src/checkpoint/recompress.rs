//! What is cold is compressed anew by zstd, where the volume is to (`recompress=zstd`): in the packs that are made anyway, and
//! where nothing is to be packed, in packs of its own (docs/decisions.md).
//!
//! *Cold* is a chunk of data that was written long enough ago; that it is read says nothing. A frame keeps its place and its
//! contents, so that every state that names it reads it as before, and no map changes. Each chunk is tried once: the chunk
//! table keeps that it is *settled*. Packs of this kind are made one after another and at a bounded rate, and wait for stores
//! that are away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::session::Session;
use crate::space::{ChunkTable, Entry, Object};
use windlass_base::rt::Instant;
use windlass_base::{ChunkId, Result};
use windlass_frame::{Place, Recompressor};
use windlass_log::PackFrame;
use windlass_pool::ChunkKind;

/// Bytes of chunks that are gone through a second, at most: more than 1 TB a day.
const RATE: u64 = 16 << 20;
/// Pause between two looks at what has become cold.
pub const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Pause while stores are away.
pub const AWAY_AGAIN: Duration = Duration::from_secs(30);
/// An object of which packing would save less than this part stays as it is.
const GAIN_PART: u64 = 10;
/// Objects of one pack, at most: each of them is read whole.
const OBJECTS_MAX: usize = 2048;
/// Frames that are compressed at once: other work waits for no more than that.
const FRAMES_AT_ONCE: usize = 16;
const MS_AN_HOUR: u64 = 60 * 60 * 1000;

/// Measure of which chunks are cold now.
#[derive(Clone, Copy, Debug)]
pub struct Cold {
    now_ms: u64,
    age_ms: u64,
}

impl Cold {
    /// Tells whether the chunk is cold: the hour in which it was counted has ended, and so much time has passed since.
    fn is_cold(&self, entry: &Entry) -> bool {
        let written_ms = (u64::from(entry.hour) + 1) * MS_AN_HOUR;
        self.age_ms == 0 || written_ms.saturating_add(self.age_ms) <= self.now_ms
    }

    /// Tells whether there may be something in the chunk to compress anew.
    pub fn wants(&self, entry: &Entry) -> bool {
        entry.kind == ChunkKind::Data && !entry.settled && entry.live() > 0 && self.is_cold(entry)
    }

    /// Chooses objects to compress anew, of so many bytes at most, but one at least: all data in each is cold or settled.
    pub fn choose(&self, chunk_table: &ChunkTable, room: u64, failed: &BTreeSet<Object>) -> BTreeSet<Object> {
        /// Sums over the chunks of one object.
        #[derive(Default)]
        struct Found {
            live: u64,
            wanted: bool,
            warm: bool,
        }
        let mut all: BTreeMap<Object, Found> = BTreeMap::new();
        for (seq, entry) in chunk_table.packable().filter(|(_, entry)| entry.live() > 0) {
            let found = all.entry(entry.object(seq)).or_default();
            let wanted = self.wants(entry);
            found.live += entry.live();
            found.wanted |= wanted;
            found.warm |= !wanted && !entry.settled && entry.kind == ChunkKind::Data;
        }
        let mut chosen = BTreeSet::new();
        let mut bytes = 0;
        for (object, found) in all {
            if !found.wanted || found.warm || failed.contains(&object) {
                continue;
            }
            bytes += found.live;
            if bytes > room && !chosen.is_empty() || chosen.len() == OBJECTS_MAX {
                break;
            }
            chosen.insert(object);
        }
        chosen
    }
}

/// State of recompression that a session remembers.
#[derive(Debug, Default)]
pub struct ColdWork {
    /// Time when the next pack may be made.
    pub turn: Instant,
    /// Objects that can't be read: told once, and left alone.
    pub failed: BTreeSet<Object>,
}

impl ColdWork {
    /// Puts the next turn off: objects of so many bytes were gone through since then.
    pub fn went_through(&mut self, bytes: u64, since: Instant) {
        self.turn = since + Duration::from_secs_f64(bytes as f64 / RATE as f64);
    }
}

/// Tells whether it is worth packing an object, for what that saves.
pub fn gains(stored: u64, after: u64) -> bool {
    after + stored / GAIN_PART <= stored
}

impl Session {
    /// Returns the measure of what is cold, if that is to be compressed anew.
    pub fn cold(&self) -> Option<Cold> {
        let age_ms = self.context.settings().recompress_after_ms?;
        Some(Cold { now_ms: self.context.rt().wall_ms(), age_ms })
    }

    /// Compresses a chunk's frames anew, each where that gains enough.
    pub async fn compress_anew(&self, chunk: ChunkId, mut frames: Vec<PackFrame>) -> Result<Vec<PackFrame>> {
        let (access, rt) = (self.context.access(), self.context.rt());
        let salt = self.context.key.as_ref().map_or(0, |_| rt.random128());
        let (mut recompressor, mut done) = (Recompressor::new(access, &chunk, salt), 0);
        while done < frames.len() {
            let end = frames.len().min(done + FRAMES_AT_ONCE);
            let job = move || {
                for f in &mut frames[done..end] {
                    let Some(address) = f.address.filter(|_| f.is_data) else { continue };
                    let place = Place { chunk, offset: f.from, address };
                    if let Some(smaller) = recompressor.smaller(&f.data, &place) {
                        f.data = smaller;
                    }
                }
                (recompressor, frames)
            };
            (recompressor, frames) = self.context.rt().cpu(job).await?;
            done = end;
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Home;
    use windlass_base::{Epoch, Era, Seq};

    fn entry(hour: u32, settled: bool, kind: ChunkKind) -> Entry {
        let (epoch, era, counted, home) = (Epoch(1), Era(1), true, Home::Own);
        Entry { epoch, era, kind, counted, total: 100, dead: 10, home, hour, settled, saved: 0, key: 0 }
    }

    #[test]
    fn what_is_cold_and_not_settled_is_chosen_until_a_pack_is_full() {
        let mut chunk_table = ChunkTable::default();
        let object = |n| Object { epoch: Epoch(1), seq: Seq(n) };
        let pack = Object { epoch: Epoch(1), seq: Seq::pack(1) };
        let packed = Home::Pack { pack, at: 0, len: 9, packed: 1 };
        chunk_table.insert(Seq(1), entry(100, false, ChunkKind::Data));
        chunk_table.insert(Seq(2), entry(100, true, ChunkKind::Data));
        chunk_table.insert(Seq(3), entry(100, false, ChunkKind::Map));
        chunk_table.insert(Seq(4), entry(102, false, ChunkKind::Data));
        chunk_table.insert(Seq(5), entry(0, false, ChunkKind::Data));
        chunk_table.insert(Seq(6), Entry { home: packed, ..entry(99, false, ChunkKind::Data) });
        chunk_table.insert(Seq(7), Entry { home: packed, ..entry(105, false, ChunkKind::Data) });
        let choose = |now: u64, room| {
            let cold = Cold { now_ms: now * MS_AN_HOUR, age_ms: 2 * MS_AN_HOUR };
            cold.choose(&chunk_table, room, &[object(9)].into())
        };
        assert_eq!(choose(102, 1000), [object(5)].into(), "where it is not known it was long ago");
        assert_eq!(choose(103, 1000), [object(1), object(5)].into());
        assert_eq!(choose(103, 100), [object(1)].into());
        assert_eq!(choose(103, 1), [object(1)].into(), "one at least");
        assert_eq!(choose(105, 1000), [object(1), object(4), object(5)].into());
        assert_eq!(choose(108, 1000), [object(1), object(4), object(5), pack].into(), "all of it is cold");
    }
}
