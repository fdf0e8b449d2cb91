//! Whether a read that has to ask a store far away brings along what lies around it in the object, and what that is.
//!
//! A request there costs its latency, and a few hundred KiB more hardly anything. What lies side by side in an object was
//! written together, and is often read together; of a disk that fits the cache all is wanted sooner or later. But who reads
//! here and there on a large disk would pay for bytes that nobody asks for.
//!
//! So each open volume has a *credit* of bytes. What comes along is paid with it, and each byte of it that is read after
//! all earns a multiple. Without credit a read gets what it asks for, and one in a few tries again.
//!
//! Stores in folders are asked for nothing more: the kernel reads ahead there.

use parking_lot::Mutex;

use windlass_base::Budget;
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::units::MIB;
use windlass_log::{Along, Want};
use windlass_map::Extent;

/// Bytes of an object that one request brings, at most.
const SPAN: u64 = 256 << 10;
/// Bytes between two frames that are rather read than ends of it.
const GAP: u64 = 16 << 10;
/// The credit to begin with, of a volume that is larger than the cache; of others it is their size.
const TRIAL: u64 = 16 * MIB;
/// Bytes that may be fetched in vain for each that was not.
const WORTH: u64 = 16;
/// Without credit one read in so many tries again.
const RARELY: u32 = 64;
/// Memory of what is on its way is counted as stored and as contents.
const COPIES: u64 = 2;
/// How far around a block others are looked for: as far as one page of the map goes, then further where these are few.
pub(super) const REACH: [u64; 2] = [256, 1024];

/// See the module.
#[derive(Debug)]
pub(super) struct Around {
    budget: Budget,
    /// Bytes of the volume.
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: nothing was fetched yet.
    credit: Option<u64>,
    /// Of what was fetched ahead, what had been read when this was last looked at.
    used: u64,
    /// Reads without credit.
    poor: u32,
}

impl Around {
    /// `budget`: of what is fetched ahead.
    pub fn new(budget: Budget, size: u64) -> Around {
        Around { budget, size, state: Mutex::default() }
    }

    /// Whether a read that asks a store may bring more. `room`: bytes that caches have. `used`: bytes fetched ahead that were
    /// read until now.
    pub fn may(&self, room: u64, used: u64) -> bool {
        let most = if self.size <= room { self.size.max(TRIAL) } else { TRIAL };
        let mut state = self.state.lock();
        let earned = WORTH * used.saturating_sub(state.used);
        state.used = used;
        // No more than at first: what was read in order long ago does not pay for this.
        let credit = state.credit.unwrap_or(most).saturating_add(earned).min(most);
        state.credit = Some(credit);
        state.poor = if credit > 0 { 0 } else { (state.poor + 1) % RARELY };
        credit > 0 || state.poor == 0
    }

    /// Pays for these, if there is memory for them now.
    pub fn pay(&self, wants: Vec<Want>) -> Along {
        let bytes: u64 = wants.iter().map(|want| u64::from(want.at.len)).sum();
        // Who asks for more than there is would be given less.
        let fits = bytes > 0 && bytes * COPIES <= self.budget.total();
        let Some(held) = fits.then(|| self.budget.try_take(bytes * COPIES)).flatten() else {
            return Along::default();
        };
        let mut state = self.state.lock();
        state.credit = state.credit.map(|credit| credit.saturating_sub(bytes));
        Along { wants, held: Some(held) }
    }
}

/// What one request for `want` can bring along: frames of these extents that lie side by side with it, in one part of one
/// object.
pub(super) fn beside(want: &Want, extents: &[Extent]) -> Vec<Want> {
    let is_near = |other: &Want| {
        other.at.same_object(&want.at)
            && other.at.offset / SHARD_SPAN == want.at.offset / SHARD_SPAN
            && other.at.offset.abs_diff(want.at.offset) <= SPAN
    };
    let frame = |e: &Extent| e.at.map(|m| Want { at: m.frame, block: e.block.saturating_sub(m.skip.into()) });
    let mut near: Vec<Want> = extents.iter().filter_map(frame).filter(is_near).collect();
    near.push(*want);
    near.sort_unstable_by_key(|want| want.at.offset);
    near.dedup_by_key(|want| want.at.offset);
    let Ok(at) = near.binary_search_by_key(&want.at.offset, |want| want.at.offset) else { return Vec::new() };
    let range = span_of(&near, at);
    near[range].iter().filter(|other| other.at.offset != want.at.offset).copied().collect()
}

/// Of these, in order of their offsets, those around the one at `at` that one request brings.
fn span_of(near: &[Want], at: usize) -> std::ops::Range<usize> {
    let end = |want: &Want| want.at.offset + u64::from(want.at.len);
    let (mut first, mut last) = (at, at);
    let joins = |one: usize, next: usize| near[next].at.offset <= end(&near[one]) + GAP;
    loop {
        let before = first.checked_sub(1).filter(|before| joins(*before, first));
        let behind = Some(last + 1).filter(|behind| *behind < near.len() && joins(last, *behind));
        // The nearer end grows, so that about as much comes from both sides.
        let back = before.map(|before| near[at].at.offset - near[before].at.offset);
        let ahead = behind.map(|behind| end(&near[behind]) - near[at].at.offset);
        let grown = match (back, ahead) {
            (Some(back), ahead) if ahead.is_none_or(|ahead| back < ahead) => (first - 1, last),
            (_, Some(_)) => (first, last + 1),
            _ => return first..last + 1,
        };
        if end(&near[grown.1]) - near[grown.0].at.offset > SPAN {
            return first..last + 1;
        }
        (first, last) = grown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};
    use windlass_log::FrameRef;
    use windlass_map::Mapped;

    fn at(seq: u64, offset: u64, len: u32) -> FrameRef {
        FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(seq), offset, len }
    }

    fn extent(block: u64, skip: u8, frame: FrameRef) -> Extent {
        Extent { block, count: 1, at: Some(Mapped { frame, skip }) }
    }

    #[test]
    fn what_lies_side_by_side_in_one_part_of_one_object_comes_along() {
        const LEN: u64 = 4112;
        let frame = |n: u64| at(7, SHARD_SPAN + n * LEN, LEN as u32);
        let want = Want { at: frame(100), block: 500 };
        let mut extents: Vec<Extent> = (0..200).map(|n| extent(n * 5 + 3, 3, frame(n))).collect();
        let came = beside(&want, &extents);
        assert_eq!(came.len() as u64, SPAN / LEN - 1);
        let offsets: Vec<u64> = came.iter().map(|want| (want.at.offset - SHARD_SPAN) / LEN).collect();
        assert_eq!((offsets[0], offsets[offsets.len() - 1]), (69, 131), "from both sides alike");
        assert!(
            came.iter().all(|w| w.block == (w.at.offset - SHARD_SPAN) / LEN * 5),
            "by their first blocks"
        );
        // A gap ends it on its side, and the other side gets the rest.
        extents.retain(|e| e.at.is_none_or(|m| !(90..95).contains(&((m.frame.offset - SHARD_SPAN) / LEN))));
        let came = beside(&want, &extents);
        assert_eq!(((came[0].at.offset - SHARD_SPAN) / LEN, came.len() as u64), (95, SPAN / LEN - 1));
        // Another object, another shard, holes.
        let hole = Extent { block: 1, count: 9, at: None };
        let others = [extent(1, 0, at(8, SHARD_SPAN, 9)), extent(2, 0, at(7, LEN, 9)), hole];
        assert!(beside(&want, &others).is_empty());
    }

    #[test]
    fn a_disk_that_fits_is_brought_once_and_a_large_one_is_tried_rarely() {
        let budget = Budget::new(8 * MIB);
        let wants = || (0..64).map(|n| Want { at: at(1, n * 4096, 4096), block: n }).collect::<Vec<_>>();
        let try_all = |around: &Around, reads: u32, used: u64| {
            let tried = (0..reads).filter(|_| around.may(512 * MIB, used)).map(|_| around.pay(wants()));
            tried.map(|along| along.wants.len() as u64 * 4096).sum::<u64>()
        };
        let small = Around::new(budget.clone(), 256 * MIB);
        assert!(try_all(&small, 1024, 0) == 256 * MIB && !small.may(512 * MIB, 0));
        let large = Around::new(budget.clone(), 1 << 40);
        let first = try_all(&large, 64, 0);
        assert_eq!(first, TRIAL);
        let rarely = try_all(&large, 6400, 0);
        assert_eq!(rarely, 100 * SPAN, "one read in 64");
        // A sixteenth of it is used: it pays, for as long as that goes on.
        let mut used = 0;
        let paid: u64 = (0..1000).map(|_| (try_all(&large, 1, used), used += SPAN / 16).0).sum();
        assert!(paid >= 999 * SPAN);
        // What was used long before pays for no more than a trial.
        assert_eq!(try_all(&large, 64, used + (1 << 40)), TRIAL);
        assert_eq!(budget.used(), 0);
        let none = Around::new(Budget::new(1024), 256 * MIB);
        assert!(none.may(512 * MIB, 0) && none.pay(wants()).wants.is_empty(), "nobody waits for memory");
    }
}
