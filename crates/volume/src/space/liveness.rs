//! Which objects of a volume count, told from its head and tables (protocol.md §5.7).
//!
//! Up to the checkpoint's position, the chunk table decides: what it does not name is dead for ever. Behind it, the ends of
//! epochs do. A pack that the table does not name is dead when its epoch is over, and else may be on its way into it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::head::{End, Head};
use crate::space::{ChunkTable, Object};
use windlass_base::{ChunkId, Epoch, Seq, VolumeId};
use windlass_pool::Fate;

/// The objects of one volume.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// Objects that the chunk table names.
    named: Arc<BTreeSet<Object>>,
    /// Objects that the owner deletes when their time has come: neither needed nor left over.
    retired: Arc<BTreeSet<Object>>,
    /// Last chunk up to which the table is complete.
    position: Seq,
    /// Epochs whose ends behind the position are recorded, oldest first.
    ends: Vec<End>,
    active: Epoch,
    /// Last chunk of the active epoch up to which everything is stored for certain.
    stored: Seq,
    /// Is true if the volume was released: nothing of the active epoch follows.
    closed: bool,
    removed: bool,
}

impl Liveness {
    pub fn new(head: &Head, chunk_table: &ChunkTable) -> Liveness {
        let position = head.checkpoint.position;
        let counted = chunk_table.entries().filter(|(seq, _)| *seq <= position);
        Liveness {
            named: Arc::new(counted.map(|(seq, e)| e.object(seq)).collect()),
            retired: Arc::new(chunk_table.retired.clone()),
            position,
            ends: head.ends.clone(),
            active: head.active.epoch,
            stored: head.checkpoint.top,
            closed: head.active.released,
            removed: head.removed,
        }
    }

    /// Notes that everything of this epoch up to `seq` was found stored, though the head tells of less:
    /// whoever takes over goes on behind it.
    pub fn goes_on(&mut self, epoch: Epoch, seq: Seq) {
        if epoch == self.active && !self.closed {
            self.stored = self.stored.max(seq);
        }
    }

    pub fn fate(&self, epoch: Epoch, seq: Seq) -> Fate {
        if self.removed {
            return Fate::Dead;
        }
        if self.named.contains(&Object { epoch, seq }) {
            return Fate::Live;
        }
        if self.retired.contains(&Object { epoch, seq }) {
            return Fate::Leaving;
        }
        // Of an owner that this head has yet to hear of, or of one after a recovery by guess.
        if epoch > self.active {
            return Fate::Unknown;
        }
        if seq.as_pack().is_some() {
            return if epoch < self.active { Fate::Dead } else { Fate::Unknown };
        }
        if seq <= self.position {
            return Fate::Dead;
        }
        let mut first = self.position.next();
        for end in &self.ends {
            if end.epoch == epoch {
                return if (first..=end.last).contains(&seq) { Fate::Live } else { Fate::Dead };
            }
            if end.last >= seq && end.epoch > epoch {
                // That place in the log is another epoch's.
                return Fate::Dead;
            }
            first = first.max(end.last.next());
        }
        match epoch.cmp(&self.active) {
            // It is in no list: it wrote nothing that counts.
            std::cmp::Ordering::Less if seq >= first => Fate::Dead,
            std::cmp::Ordering::Equal if seq >= first && seq <= self.stored => Fate::Live,
            std::cmp::Ordering::Equal if self.closed && seq > self.stored => Fate::Dead,
            _ => Fate::Unknown,
        }
    }

    /// Returns live objects after this one, in order, at most `max`.
    pub fn live_after(&self, volume: VolumeId, after: Option<Object>, max: usize) -> Vec<ChunkId> {
        if self.removed {
            return Vec::new();
        }
        let mut tail = Vec::new();
        let mut first = self.position.next();
        let active = End { epoch: self.active, last: self.stored };
        for end in self.ends.iter().chain([&active]) {
            tail.extend((first.0..=end.last.0).map(|seq| Object { epoch: end.epoch, seq: Seq(seq) }));
            first = first.max(end.last.next());
        }
        let later = |o: &&Object| after.is_none_or(|a| **o > a);
        let mut live: Vec<Object> = self.named.iter().filter(later).take(max).copied().collect();
        live.extend(tail.iter().filter(later).copied());
        live.sort_unstable();
        live.into_iter().take(max).map(|o| o.of(volume)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(epoch: u64, seq: Seq) -> Object {
        Object { epoch: Epoch(epoch), seq }
    }

    /// Returns a volume of which the table decides up to 8. Epoch 1 wrote up to 10 and epoch 3 up to 15;
    /// epoch 5 goes on.
    fn book() -> Liveness {
        let end = |epoch, last| End { epoch: Epoch(epoch), last: Seq(last) };
        let named = [object(1, Seq(2)), object(1, Seq(7)), object(3, Seq::pack(1))];
        Liveness {
            named: Arc::new(named.into()),
            retired: Arc::new([object(1, Seq(4))].into()),
            position: Seq(8),
            ends: vec![end(1, 10), end(3, 15)],
            active: Epoch(5),
            stored: Seq(20),
            closed: false,
            removed: false,
        }
    }

    #[test]
    fn fates_follow_the_table_and_the_ends() {
        let b = book();
        let fate = |e, s| b.fate(Epoch(e), Seq(s));
        assert_eq!(
            (fate(1, 2), fate(1, 3), fate(2, 2), fate(1, 8)),
            (Fate::Live, Fate::Dead, Fate::Dead, Fate::Dead)
        );
        assert_eq!(fate(1, 4), Fate::Leaving);
        assert_eq!((fate(1, 9), fate(1, 10), fate(1, 11)), (Fate::Live, Fate::Live, Fate::Dead));
        assert_eq!((fate(3, 10), fate(3, 11), fate(3, 16)), (Fate::Dead, Fate::Live, Fate::Dead));
        assert_eq!((fate(2, 9), fate(2, 12), fate(4, 16)), (Fate::Dead, Fate::Dead, Fate::Dead));
        assert_eq!((fate(5, 16), fate(5, 20), fate(5, 21)), (Fate::Live, Fate::Live, Fate::Unknown));
        assert_eq!(fate(6, 21), Fate::Unknown);
        let after = |epoch, closed| {
            let mut b = Liveness { closed, ..book() };
            b.goes_on(Epoch(epoch), Seq(22));
            [21, 22, 23].map(|seq| b.fate(Epoch(5), Seq(seq)))
        };
        assert_eq!(after(5, false), [Fate::Live, Fate::Live, Fate::Unknown]);
        assert_eq!(after(4, false), [Fate::Unknown; 3]);
        assert_eq!(after(5, true), [Fate::Dead; 3], "what was written is under the checkpoint");
        let pack = |e, n| b.fate(Epoch(e), Seq::pack(n));
        assert_eq!(
            (pack(3, 1), pack(3, 2), pack(4, 1), pack(5, 1)),
            (Fate::Live, Fate::Dead, Fate::Dead, Fate::Unknown)
        );
        assert_eq!(Liveness { closed: true, ..book() }.fate(Epoch(5), Seq(21)), Fate::Dead);
        assert_eq!(Liveness { removed: true, ..book() }.fate(Epoch(5), Seq(20)), Fate::Dead);
    }

    #[test]
    fn live_objects_are_listed_in_order() {
        let all = book().live_after(VolumeId(1), None, 100);
        let mut expect = vec![object(1, Seq(2)), object(1, Seq(7)), object(1, Seq(9)), object(1, Seq(10))];
        expect.extend((11..=15).map(|s| object(3, Seq(s))));
        expect.push(object(3, Seq::pack(1)));
        expect.extend((16..=20).map(|s| object(5, Seq(s))));
        assert_eq!(all, expect.iter().map(|o| o.of(VolumeId(1))).collect::<Vec<_>>());
        let mut got = Vec::new();
        while let some @ [_, ..] = &book().live_after(VolumeId(1), got.last().copied(), 4)[..] {
            got.extend(some.iter().map(|c| Object { epoch: c.epoch, seq: c.seq }));
        }
        assert_eq!(got, expect, "page by page");
    }
}
