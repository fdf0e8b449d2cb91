//! Objects that the recorded table lists as retired: since when, and which of them are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::chunk_table::{ChunkTable, Object};
use windlass_base::rt::Instant;

/// Most objects that are deleted together.
const AT_ONCE: usize = 64;
/// Most objects that wait for readers. The page that lists them has room for about three times as many, and
/// without room there no checkpoint can be made. While there are more, no reader is waited for.
const KEPT_MAX: usize = 1 << 15;

/// The retired objects of one session.
#[derive(Debug, Default)]
pub struct Retired {
    /// Objects that wait to be deleted, each with the time since which the recorded table lists it.
    since: BTreeMap<Object, Instant>,
    /// Objects that were deleted; the next checkpoint forgets them.
    gone: BTreeSet<Object>,
    /// Readers of what a recorded head names, by number, each with the time at which it came: what is retired
    /// later stays for it.
    readers: BTreeMap<u64, Instant>,
    /// Number of the last reader that came.
    number: u64,
}

impl Retired {
    /// Takes up the objects that a table lists which is recorded now.
    pub fn recorded(&mut self, chunk_table: &ChunkTable, now: Instant) {
        self.gone.retain(|o| chunk_table.retired.contains(o));
        for object in chunk_table.retired.iter().filter(|o| !self.gone.contains(o)) {
            self.since.entry(*object).or_insert(now);
        }
    }

    /// Returns the objects that may be deleted now, and when the next may, as far as that is a matter of
    /// time.
    pub fn due(&mut self, now: Instant, grace: Duration) -> (Vec<Object>, Option<Instant>) {
        if self.since.len() > KEPT_MAX {
            self.readers.clear();
        }
        let ready = self.free().filter(|(_, at)| *at + grace <= now);
        let objects = ready.map(|(o, _)| o).take(AT_ONCE).collect();
        (objects, self.free().map(|(_, at)| at + grace).min())
    }

    /// Returns the objects that no reader needs: a head that is read after a table was recorded names nothing
    /// that this table lists.
    fn free(&self) -> impl Iterator<Item = (Object, Instant)> {
        // Numbers grow as time does.
        // So the reader of the lowest number is the one that came first, and the only one to compare with.
        let first = self.readers.values().next().copied();
        let all = self.since.iter().map(|(o, at)| (*o, *at));
        all.filter(move |(_, at)| first.is_none_or(|first| *at < first))
    }

    /// Lets a reader in, who reads the head after this call: what is retired from now on stays until the
    /// reader leaves. Returns its number.
    pub fn enter(&mut self, now: Instant) -> u64 {
        self.number += 1;
        self.readers.insert(self.number, now);
        self.number
    }

    /// Tells whether nothing was deleted that this reader may need.
    pub fn keeps_for(&self, reader: u64) -> bool {
        self.readers.contains_key(&reader)
    }

    pub fn leave(&mut self, reader: u64) {
        self.readers.remove(&reader);
    }

    pub fn deleted(&mut self, objects: &[Object]) {
        for object in objects {
            self.since.remove(object);
            self.gone.insert(*object);
        }
    }

    /// Takes the deleted objects off a table's list.
    pub fn forget_in(&self, chunk_table: &mut ChunkTable) {
        chunk_table.retired.retain(|o| !self.gone.contains(o));
    }

    /// Returns the number of objects that wait to be deleted.
    pub fn waiting(&self) -> usize {
        self.since.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};

    fn object(n: u64) -> Object {
        Object { epoch: Epoch(1), seq: Seq(n) }
    }

    fn at(secs: u64) -> Instant {
        Instant(Duration::from_secs(secs))
    }

    /// Makes a table that lists so many objects as retired.
    fn table(objects: u64) -> ChunkTable {
        let mut chunk_table = ChunkTable::default();
        chunk_table.retired.extend((0..objects).map(object));
        chunk_table
    }

    #[test]
    fn what_is_retired_after_a_reader_came_stays_until_it_leaves() {
        let (mut retired, grace) = (Retired::default(), Duration::from_secs(2));
        retired.recorded(&table(1), at(1));
        let first = retired.enter(at(2));
        retired.recorded(&table(2), at(3));
        let second = retired.enter(at(4));
        retired.recorded(&table(3), at(4));
        assert_eq!(retired.due(at(2), grace), (vec![], Some(at(3))));
        assert_eq!(retired.due(at(9), grace), (vec![object(0)], Some(at(3))));
        retired.deleted(&[object(0)]);
        assert_eq!(retired.due(at(9), grace), (vec![], None), "time alone frees nothing");
        assert_eq!(retired.waiting(), 2);
        retired.leave(first);
        assert_eq!(retired.due(at(9), grace), (vec![object(1)], Some(at(5))));
        retired.leave(second);
        assert_eq!(retired.due(at(9), grace).0, [object(1), object(2)]);
    }

    #[test]
    fn a_reader_is_not_waited_for_when_there_is_no_room_for_more() {
        let mut retired = Retired::default();
        let reader = retired.enter(at(1));
        retired.recorded(&table(KEPT_MAX as u64), at(2));
        assert!(retired.due(at(3), Duration::ZERO).0.is_empty() && retired.keeps_for(reader));
        retired.recorded(&table(KEPT_MAX as u64 + 1), at(3));
        assert!(!retired.due(at(3), Duration::ZERO).0.is_empty() && !retired.keeps_for(reader));
    }
}
