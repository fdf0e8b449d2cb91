//! Records that no chunk holds yet, in lsn order.

use std::collections::VecDeque;
use std::time::Duration;

use windlass_base::log_record::{Op, Record};
use windlass_base::rt::Instant;
use windlass_base::{Era, Held, Lsn};
use windlass_log::Draft;

#[derive(Debug)]
struct Item {
    record: Record,
    /// Era of the state that was the tip when the record was taken in.
    era: Era,
    /// Memory that is given back when the record's chunk is stored.
    held: Option<Held>,
    at: Instant,
    /// Is true if a chunk must end after the record.
    ends: bool,
}

/// The records that no chunk holds yet, in lsn order.
#[derive(Debug, Default)]
pub struct Pending {
    items: VecDeque<Item>,
    bytes: u64,
    /// Number of items after which a chunk must end.
    ends: usize,
    /// Record up to which everything is to be cut at once.
    wanted: Lsn,
}

/// The records of one chunk.
#[derive(Debug)]
pub struct Taken {
    pub draft: Draft,
    pub era: Era,
    pub held: Vec<Held>,
    /// Time at which the first of the records was taken in.
    pub oldest: Instant,
}

impl Pending {
    pub fn push(&mut self, record: Record, era: Era, held: Option<Held>, at: Instant) {
        self.bytes += record.op.payload().len() as u64;
        let ends = matches!(record.op, Op::Mark(_));
        self.ends += usize::from(ends);
        self.items.push_back(Item { record, era, held, at, ends });
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns when the oldest record was taken in.
    pub fn oldest(&self) -> Option<Instant> {
        self.items.front().map(|i| i.at)
    }

    /// Makes a chunk end after the newest record.
    pub fn end_here(&mut self) {
        if let Some(last) = self.items.back_mut().filter(|i| !i.ends) {
            last.ends = true;
            self.ends += 1;
        }
    }

    /// Asks that all up to this record be cut without waiting for more.
    pub fn want(&mut self, upto: Lsn) {
        self.wanted = self.wanted.max(upto);
    }

    /// Returns when a chunk of `target` bytes is to be cut. `None`: there is nothing to cut yet.
    pub fn due(&self, target: u64, age_max: Duration) -> Option<Instant> {
        let front = self.items.front()?;
        let now = self.bytes >= target || self.ends > 0 || self.wanted >= front.record.lsn;
        Some(if now { Instant::default() } else { front.at + age_max })
    }

    /// Takes the records of the next chunk, of `target` bytes at most.
    pub fn take(&mut self, target: u64) -> Option<Taken> {
        let (era, oldest) = self.items.front().map(|i| (i.era, i.at))?;
        let mut taken = Taken { draft: Draft::default(), era, held: Vec::new(), oldest };
        while let Some(item) = self.items.front() {
            if !taken.draft.takes(item.record.op.payload().len() as u64, target) {
                break;
            }
            let item = self.items.pop_front().expect("it was just seen");
            assert!(item.era == era, "a mark ends its chunk, and only marks raise the era");
            self.bytes -= item.record.op.payload().len() as u64;
            taken.draft.push(item.record);
            taken.held.extend(item.held);
            if item.ends {
                self.ends -= 1;
                break;
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::format_limits::BLOCK;

    const MAX: u64 = 8 << 20;

    fn write(lsn: u64, blocks: u64) -> Record {
        let data = vec![1; (blocks * BLOCK) as usize].into();
        Record { lsn: Lsn(lsn), op: Op::Write { block: 0, data } }
    }

    #[test]
    fn chunks_end_where_they_must() {
        let (mut p, age) = (Pending::default(), Duration::from_secs(2));
        let at = |s| Instant(Duration::from_secs(s));
        assert!(p.due(MAX, age).is_none() && p.take(MAX).is_none());
        p.push(write(1, 1), Era(1), None, at(5));
        p.push(write(2, 1), Era(1), None, at(6));
        assert_eq!((p.due(MAX, age), p.oldest()), (Some(at(7)), Some(at(5))));
        p.want(Lsn(1));
        assert_eq!(p.due(MAX, age), Some(at(0)));
        p.end_here();
        p.push(write(3, 1), Era(1), None, at(6));
        assert_eq!(p.take(MAX).unwrap().draft.span(), Some((Lsn(1), Lsn(2))));
        assert_eq!((p.bytes(), p.due(MAX, age)), (BLOCK, Some(at(8))));
        for lsn in 4..8 {
            p.push(write(lsn, 600), Era(1), None, at(9));
        }
        assert_eq!(p.due(MAX, age), Some(at(0)), "more than 8 MiB");
        assert_eq!(p.take(MAX).unwrap().draft.span(), Some((Lsn(3), Lsn(6))));
        assert_eq!(p.take(MAX).unwrap().draft.span(), Some((Lsn(7), Lsn(7))));
        assert!(p.is_empty() && p.bytes() == 0);
    }
}
