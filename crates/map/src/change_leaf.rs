//! A leaf and what changes in it: runs in, runs out.

use super::page::{Entry, SLOTS};
use super::tree::Extent;
use windlass_log::FrameRef;

/// The outcome of laying updates over a leaf.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Entries of the new leaf. Neighbouring slots that are in neighbouring blocks of one frame are one entry.
    pub entries: Vec<Entry>,
    /// Frames that had blocks here and have none any more, each once.
    pub died: Vec<FrameRef>,
    /// Number of blocks mapped now, less those mapped before.
    pub gained: i64,
}

/// Returns the frames sorted, each once.
pub fn frames(frames: impl Iterator<Item = FrameRef>) -> Vec<FrameRef> {
    let mut frames: Vec<_> = frames.collect();
    // Neighbouring blocks mostly lie in one frame.
    frames.dedup();
    frames.sort_unstable();
    frames.dedup();
    frames
}

/// Lays `updates` over the entries of the leaf whose first block is `first`. Both are in order, do not overlap,
/// and lie within the leaf. `None` when that changes nothing.
pub fn change(old: &[Entry], first: u64, updates: &[Extent]) -> Option<Change> {
    let mut entries = Runs(Vec::with_capacity((old.len() + 2 * updates.len()).min(SLOTS as usize)));
    // Frames that lose blocks. Most of them lose all that they have in this leaf.
    let mut losers = Vec::new();
    let mut rest = old.iter().copied();
    let mut next = rest.next();
    for update in updates {
        let (from, to) = ((update.block - first) as u16, (update.end() - first) as u16);
        while let Some(entry) = next.filter(|e| e.start < to) {
            entries.push(part(&entry, entry.start, entry.end().min(from)));
            if entry.end() > from {
                losers.push(entry.frame);
            }
            next = if entry.end() > to { part(&entry, to, entry.end()) } else { rest.next() };
        }
        entries.push(update.at.map(|at| Entry {
            start: from,
            count: to - from,
            skip: at.skip,
            frame: at.frame,
        }));
    }
    next.into_iter().chain(rest).for_each(|entry| entries.push(Some(entry)));
    let entries = entries.0;
    if entries == old {
        return None;
    }
    let losers = frames(losers.into_iter());
    let mut left = vec![false; losers.len()];
    for entry in entries.iter().filter(|_| !losers.is_empty()) {
        if let Ok(n) = losers.binary_search(&entry.frame) {
            left[n] = true;
        }
    }
    let died = losers.into_iter().zip(left).filter(|(_, left)| !left).map(|(frame, _)| frame).collect();
    let blocks = |entries: &[Entry]| entries.iter().map(|e| i64::from(e.count)).sum::<i64>();
    Some(Change { gained: blocks(&entries) - blocks(old), entries, died })
}

/// Returns the part of the entry that has its slots from `from` on up to `to`, if there are any.
fn part(entry: &Entry, from: u16, to: u16) -> Option<Entry> {
    let skip = entry.skip + from.checked_sub(entry.start)? as u8;
    (from < to).then(|| Entry { start: from, count: to - from, skip, ..*entry })
}

struct Runs(Vec<Entry>);

impl Runs {
    fn push(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        match self.0.last_mut() {
            Some(last)
                if last.end() == entry.start
                    && last.frame == entry.frame
                    && u16::from(last.skip) + last.count == u16::from(entry.skip) =>
            {
                last.count += entry.count;
            }
            _ => self.0.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Mapped;
    use windlass_base::format_limits::FRAME_BLOCKS;
    use windlass_base::{Epoch, Seq};

    const FIRST: u64 = 7 * SLOTS;

    /// Frame n of so many.
    fn frame(n: u64) -> FrameRef {
        FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(n % 3), offset: n * 100, len: 100 }
    }

    type Slots = Vec<Option<(FrameRef, u8)>>;

    fn slots(entries: &[Entry]) -> Slots {
        let mut out = vec![None; SLOTS as usize];
        for e in entries {
            for n in 0..e.count {
                out[usize::from(e.start + n)] = Some((e.frame, e.skip + n as u8));
            }
        }
        out
    }

    fn runs(slots: &Slots) -> Vec<Entry> {
        let mut out = Runs(Vec::new());
        for (n, at) in slots.iter().enumerate() {
            out.push(at.map(|(frame, skip)| Entry { start: n as u16, count: 1, skip, frame }));
        }
        out.0
    }

    /// Updates in order: a gap, a length, which frame (few, so that they come again) and where in it.
    fn updates(most: usize) -> impl Strategy<Value = Vec<Extent>> {
        let one = (0u64..30, 1..=FRAME_BLOCKS, prop::option::of(0u64..12), 0..FRAME_BLOCKS);
        prop::collection::vec(one, 0..most).prop_map(|steps| {
            let mut at = FIRST;
            let mut out = Vec::new();
            for (gap, count, frame_no, skip) in steps {
                let block = at + gap;
                let count = count.min(FRAME_BLOCKS - skip).min((FIRST + SLOTS).saturating_sub(block));
                if count == 0 {
                    break;
                }
                let at_frame = frame_no.map(|n| Mapped { frame: frame(n), skip: skip as u8 });
                out.push(Extent { block, count, at: at_frame });
                at = block + count;
            }
            out
        })
    }

    proptest! {
        #[test]
        fn runs_change_as_single_blocks_do(old in updates(40), new in updates(40)) {
            let over = |mut slots: Slots, updates: &[Extent]| {
                for u in updates {
                    for n in 0..u.count {
                        let at = u.at.map(|m| (m.frame, m.skip + n as u8));
                        slots[(u.block - FIRST + n) as usize] = at;
                    }
                }
                slots
            };
            let before = over(vec![None; SLOTS as usize], &old);
            let after = over(before.clone(), &new);
            let entries = runs(&before);
            prop_assert_eq!(&slots(&entries), &before);
            let Some(change) = change(&entries, FIRST, &new) else {
                prop_assert_eq!(before, after);
                return Ok(());
            };
            prop_assert_eq!(&change.entries, &runs(&after));
            let held = |slots: &Slots| frames(slots.iter().flatten().map(|(frame, _)| *frame));
            let died: Vec<_> = held(&before).into_iter().filter(|f| !held(&after).contains(f)).collect();
            prop_assert_eq!(change.died, died);
            let mapped = |slots: &Slots| slots.iter().flatten().count() as i64;
            prop_assert_eq!(change.gained, mapped(&after) - mapped(&before));
        }
    }
}
