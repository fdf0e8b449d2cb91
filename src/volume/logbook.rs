//! Which chunks of a volume's log count, told from its head and tables (protocol.md §5.7).

use super::head::{End, Head};
use super::states::Tables;
use crate::base::{ChunkId, Epoch, Seq, VolumeId};
use crate::pool::Fate;

/// The chunks of one volume, by the epoch that wrote them.
#[derive(Clone, Debug)]
pub struct Logbook {
    /// Epochs whose ends are recorded, oldest first.
    ends: Vec<End>,
    pub active: Epoch,
    /// Everything of the active epoch up to here is stored for certain.
    pub stored: Seq,
    /// Nothing of the active epoch follows.
    closed: bool,
    removed: bool,
}

impl Logbook {
    pub fn new(head: &Head, tables: Option<&Tables>) -> Logbook {
        let mut ends = tables.map(|t| t.ends.clone()).unwrap_or_default();
        let known = ends.last().map_or(Seq(0), |e| e.last);
        ends.extend(head.ends.iter().filter(|e| e.last > known));
        Logbook {
            ends,
            active: head.active.epoch,
            stored: head.checkpoint.top,
            closed: head.active.released,
            removed: head.removed,
        }
    }

    pub fn fate(&self, epoch: Epoch, seq: Seq) -> Fate {
        if self.removed {
            return Fate::Dead;
        }
        let mut first = Seq(1);
        for end in &self.ends {
            if end.epoch == epoch {
                return if (first..=end.last).contains(&seq) { Fate::Live } else { Fate::Dead };
            }
            if end.last >= seq && end.epoch > epoch {
                // That place in the log is another epoch's.
                return Fate::Dead;
            }
            first = end.last.next();
        }
        match epoch.cmp(&self.active) {
            // It is in no list: it wrote nothing that counts, or so long ago that it was forgotten.
            std::cmp::Ordering::Less if seq >= first => Fate::Dead,
            std::cmp::Ordering::Equal if seq >= first && seq <= self.stored => Fate::Live,
            std::cmp::Ordering::Equal if self.closed && seq > self.stored => Fate::Dead,
            _ => Fate::Unknown,
        }
    }

    /// Live chunks after this place.
    pub fn live_after(&self, volume: VolumeId, after: Seq, max: usize) -> Vec<ChunkId> {
        let mut live = Vec::new();
        let mut first = Seq(1);
        let active = End { epoch: self.active, last: self.stored };
        for end in self.ends.iter().chain([&active]) {
            let from = first.max(after.next());
            live.extend((from.0..=end.last.0).take(max - live.len()).map(|seq| ChunkId {
                volume,
                epoch: end.epoch,
                seq: Seq(seq),
            }));
            first = first.max(end.last.next());
        }
        if self.removed { Vec::new() } else { live }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Logbook {
        let end = |epoch, last| End { epoch: Epoch(epoch), last: Seq(last) };
        Logbook {
            ends: vec![end(1, 10), end(3, 15)],
            active: Epoch(5),
            stored: Seq(20),
            closed: false,
            removed: false,
        }
    }

    #[test]
    fn fates_follow_the_ends() {
        let b = book();
        let fate = |e, s| b.fate(Epoch(e), Seq(s));
        assert_eq!((fate(1, 1), fate(1, 10), fate(1, 11)), (Fate::Live, Fate::Live, Fate::Dead));
        assert_eq!((fate(3, 10), fate(3, 11), fate(3, 16)), (Fate::Dead, Fate::Live, Fate::Dead));
        assert_eq!((fate(2, 9), fate(2, 12), fate(4, 16)), (Fate::Dead, Fate::Dead, Fate::Dead));
        assert_eq!((fate(5, 16), fate(5, 20), fate(5, 21)), (Fate::Live, Fate::Live, Fate::Unknown));
        assert_eq!(fate(6, 21), Fate::Unknown);
        assert_eq!(Logbook { closed: true, ..book() }.fate(Epoch(5), Seq(21)), Fate::Dead);
        assert_eq!(Logbook { removed: true, ..book() }.fate(Epoch(5), Seq(1)), Fate::Dead);
    }

    #[test]
    fn live_chunks_are_listed_in_order() {
        let all = book().live_after(VolumeId(1), Seq(0), 100);
        let shape: Vec<_> = all.iter().map(|c| (c.epoch.0, c.seq.0)).collect();
        let expect =
            (1..=10).map(|s| (1, s)).chain((11..=15).map(|s| (3, s))).chain((16..=20).map(|s| (5, s)));
        assert_eq!(shape, expect.collect::<Vec<_>>());
        let some = book().live_after(VolumeId(1), Seq(9), 3);
        assert_eq!(some.iter().map(|c| c.seq.0).collect::<Vec<_>>(), [10, 11, 12]);
    }
}
