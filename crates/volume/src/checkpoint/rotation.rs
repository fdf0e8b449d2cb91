//! Changing the data key of an encrypted volume: from one change of the head on, what is written is sealed by a new one, and the
//! collector seals anew what older ones have sealed, until nothing is left and they go from the head (model `rotate`).
//!
//! A frame keeps its place, contents and length, so that every state and every clone that names it reads it as before, and no map
//! changes. The chunk table tells of each chunk the oldest data key that may have sealed something of it. That a rotation is
//! under way is nothing but a second data key in the head: whoever owns the volume goes on with it. It ends when by a recorded
//! table, which covers all of the log that older keys sealed, nothing of theirs is left. Journals have nothing to do with it: their
//! key comes from the volume key.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::head::Stop;
use crate::session::Session;
use crate::space::{ChunkTable, Object};
use windlass_base::rt::Instant;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_frame::Place;
use windlass_keys::{ChunkSeal, KeyAccess};
use windlass_log::PackFrame;

/// Objects of one pack, at most: each of them is read whole.
const OBJECTS_MAX: usize = 2048;
/// Checkpoints in a row that may leave something to an older key and nothing to pack: each passes the chunks of the one before.
const FRUITLESS_MAX: u32 = 4;

/// State of a rotation that a session remembers.
#[derive(Debug, Default)]
pub struct RotationWork {
    /// Objects of a pack that could not be made: each is tried alone.
    alone: BTreeSet<Object>,
    /// Objects that can't be read.
    failed: BTreeSet<Object>,
    /// Time when the objects that can't be read are tried again.
    pub again: Instant,
    fruitless: u32,
}

impl RotationWork {
    /// Chooses objects to seal anew by this key, of so many live bytes at most, but one at least.
    pub fn choose(&mut self, chunk_table: &ChunkTable, key: u8, room: u64) -> BTreeSet<Object> {
        let is_old = |object: &Object| !self.failed.contains(object);
        let old = chunk_table.packable().filter(|(_, e)| e.key < key && e.live() > 0);
        let old: BTreeSet<Object> = old.map(|(seq, e)| e.object(seq)).filter(is_old).collect();
        let mut live = chunk_table.live_of(&old);
        let (mut chosen, mut bytes) = (BTreeSet::new(), 0);
        for object in old {
            let fits = bytes + live.remove(&object).unwrap_or_default();
            if !chosen.is_empty() && (self.alone.contains(&object) || fits > room) {
                break;
            }
            bytes = fits;
            chosen.insert(object);
            if chosen.len() == OBJECTS_MAX || self.alone.contains(&object) {
                break;
            }
        }
        if !chosen.is_empty() {
            self.fruitless = 0;
        }
        chosen
    }

    /// Notes that no pack was made of these objects. Each of several is tried alone then; one that was alone can't be read.
    pub fn could_not(&mut self, chosen: BTreeSet<Object>) {
        match chosen.len() {
            1 => self.failed.extend(chosen),
            _ => self.alone.extend(chosen),
        }
    }

    /// Tells whether a checkpoint may bring the rotation on, where there is nothing to pack, and yet something is left to older
    /// keys.
    pub fn wants_checkpoint(&mut self) -> bool {
        self.fruitless += 1;
        self.failed.is_empty() && self.fruitless <= FRUITLESS_MAX
    }

    /// Forgets what failed, so that all is tried again.
    pub fn begin_again(&mut self) {
        *self = RotationWork { again: self.again, ..RotationWork::default() };
    }
}

/// Seals a chunk's frames anew that older data keys have sealed. What can't be stays as it is, and counts as theirs.
pub fn sealed_anew(
    frames: &mut [PackFrame],
    chunk: ChunkId,
    access: &KeyAccess,
    seal: &ChunkSeal,
) -> Result<()> {
    for f in frames.iter_mut().filter(|f| windlass_frame::data_key_of(&f.data) < seal.number()) {
        let Some(address) = f.address else { continue };
        let place = Place { chunk, offset: f.from, address };
        f.data = windlass_frame::seal_anew(&f.data, &place, access, seal)?;
    }
    Ok(())
}

impl Session {
    /// Seals what is written from now on by a new data key. Returns the key's number. `Refused`: the volume is not encrypted,
    /// or older keys still seal too much.
    pub async fn rotate_keys(self: &Arc<Self>) -> Result<u8, Stop> {
        let head = self.head.lock().clone();
        let root = self.context.engine.volume_key(&head).ok_or_else(KeyAccess::locked)?;
        let Some(keys) = &head.keys else {
            return Err(Error::new(Kind::Refused, "the volume is not encrypted: it has no keys").into());
        };
        let new = keys.next_data_key(self.context.rt(), self.context.id, &root)?;
        let (epoch, number) = (self.epoch, new.number);
        self.change(move |head| head.add_data_key(epoch, &new)).await?;
        self.learn_keys()?;
        self.collect.notify_waiters();
        Ok(number)
    }

    /// Seals by the newest data key that the head is known to have. Returns its number while older ones are there.
    pub fn learn_keys(&self) -> Result<Option<u8>, Stop> {
        let Some(key) = &self.context.key else { return Ok(None) };
        let (newest, oldest) = self.head.lock().data_keys();
        if newest > key.number() {
            let head = self.head.lock().clone();
            self.context.learn_keys(&head)?;
            // A chunk that has its number already may be sealed by either.
            self.new_chunks.lock().sealed_behind(self.writer.given(), newest);
        }
        Ok((oldest < newest).then_some(newest))
    }

    /// Tells whether nothing is left that older data keys than this one have sealed: by this table, and in the log behind it.
    pub fn is_sealed_by(&self, chunk_table: &ChunkTable, key: u8) -> bool {
        let before = self.new_chunks.lock().last_before(key);
        chunk_table.position.seq >= before && chunk_table.sealed_before(key).next().is_none()
    }

    /// Takes data keys older than this one out of the head, of which nothing is left in the stores.
    pub async fn end_rotation(self: &Arc<Self>, key: u8) -> Result<(), Stop> {
        let epoch = self.epoch;
        self.change(move |head| head.drop_data_keys(epoch, key)).await?;
        self.context.key.iter().for_each(|known| known.forget_below(key));
        tracing::info!(volume = %self.context.name(), key, "the older data keys are gone");
        Ok(())
    }

    /// Returns how far the rotation is: bytes as stored that older data keys still seal, as the recorded table tells; `None`:
    /// none is under way.
    pub fn left_to_rotate(&self) -> Option<u64> {
        let (newest, oldest) = self.head.lock().data_keys();
        let sealed = self.chunk_table.lock().sealed_bytes();
        (oldest < newest).then(|| sealed.range(..newest).map(|(_, bytes)| bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Entry, Home};
    use windlass_base::{Epoch, Era, Seq};
    use windlass_pool::ChunkKind;

    #[test]
    fn old_objects_are_taken_until_a_pack_is_full_and_those_that_fail_alone() {
        let mut chunk_table = ChunkTable::default();
        let object = |n| Object { epoch: Epoch(1), seq: Seq(n) };
        let entry = |key| {
            let (epoch, era, kind, home) = (Epoch(1), Era(1), ChunkKind::Map, Home::Own);
            let (counted, settled) = (true, false);
            Entry { epoch, era, kind, counted, total: 100, dead: 10, home, hour: 0, settled, saved: 0, key }
        };
        (1..=6).for_each(|n| chunk_table.insert(Seq(n), entry(if n == 2 { 3 } else { 1 })));
        chunk_table.insert(Seq(7), Entry { counted: false, ..entry(1) });
        let mut work = RotationWork::default();
        assert_eq!(work.choose(&chunk_table, 3, 200), [object(1), object(3)].into());
        assert_eq!(work.choose(&chunk_table, 3, 1), [object(1)].into(), "one at least");
        work.could_not([object(1), object(3)].into());
        assert_eq!(work.choose(&chunk_table, 3, 1000), [object(1)].into());
        work.could_not([object(1)].into());
        assert_eq!(work.choose(&chunk_table, 3, 1000), [object(3)].into());
        chunk_table.remove(Seq(3));
        assert_eq!(work.choose(&chunk_table, 3, 1000), [object(4), object(5), object(6)].into());
        [4, 5, 6].into_iter().for_each(|n| {
            chunk_table.remove(Seq(n));
        });
        assert!(work.choose(&chunk_table, 3, 1000).is_empty() && !work.wants_checkpoint());
        work.begin_again();
        assert_eq!(work.choose(&chunk_table, 3, 1000), [object(1)].into());
    }
}
