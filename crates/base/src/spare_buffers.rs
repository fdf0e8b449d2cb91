//! Large buffers that are used again. Fresh ones come from the kernel, which clears each page at its first touch: that costs
//! more than what is then written there (docs/decisions.md, "A chunk's buffers are used again").
//!
//! What is kept is bounded, and no part of the memory budget. Of buffers that nobody takes any more the oldest go first.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// Shorter buffers are the allocator's own business.
const LEAST: usize = 256 << 10;
/// Capacities are multiples of this: lengths that differ a little share buffers.
const STEP: usize = 512 << 10;

/// Those of a chunk's shards, from when they are filled until their stores have them.
pub static SHARDS: SpareBuffers = SpareBuffers::new(32 << 20);

/// See the module.
#[derive(Debug)]
pub struct SpareBuffers {
    bytes_max: usize,
    /// The one that was given last comes last.
    kept: Mutex<VecDeque<Vec<u8>>>,
}

impl SpareBuffers {
    /// Keeps so many bytes at most.
    pub const fn new(bytes_max: usize) -> SpareBuffers {
        SpareBuffers { bytes_max, kept: Mutex::new(VecDeque::new()) }
    }

    /// A buffer with room for so many bytes. It may hold what somebody else wrote: `clear` it, or write before reading.
    pub fn take(&self, room: usize) -> Vec<u8> {
        if room < LEAST {
            return Vec::with_capacity(room);
        }
        let mut kept = self.kept.lock();
        // One that is much larger would take more memory than its user accounts for.
        let fitting = kept.iter().enumerate().filter(|(_, b)| (room..=2 * room).contains(&b.capacity()));
        match fitting.min_by_key(|(_, b)| b.capacity()).map(|(n, _)| n) {
            Some(n) => kept.remove(n).unwrap_or_default(),
            None => {
                drop(kept);
                Vec::with_capacity(room.next_multiple_of(STEP))
            }
        }
    }

    /// Nobody uses it any more.
    pub fn give(&self, buffer: Vec<u8>) {
        if !(LEAST..=self.bytes_max).contains(&buffer.capacity()) {
            return;
        }
        let mut old = Vec::new();
        let mut kept = self.kept.lock();
        kept.push_back(buffer);
        let mut bytes: usize = kept.iter().map(Vec::capacity).sum();
        while bytes > self.bytes_max
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.capacity();
            old.push(oldest);
        }
        drop(kept);
        // Not under the lock: the kernel takes back a whole mapping.
        drop(old);
    }

    /// The caller has no use for these bytes any more; somebody else may.
    pub fn give_bytes(&self, mut bytes: Bytes) {
        if bytes.len() >= LEAST && bytes.is_unique() {
            // Else what it holds would be moved to where it lies already.
            bytes.clear();
            self.give(bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_by_those_whom_it_fits() {
        let spare = SpareBuffers::new(8 << 20);
        let mut first = spare.take(3 << 20);
        first.extend_from_slice(&[7; 1000]);
        let at = first.as_ptr();
        spare.give(first);
        let (small, large) = (spare.take(1 << 20), spare.take(4 << 20));
        assert_ne!(small.as_ptr(), at, "three times what is asked for");
        assert_ne!(large.as_ptr(), at, "too small");
        let again = spare.take((2 << 20) + 1);
        assert_eq!((again.as_ptr(), again.len()), (at, 1000));
        let other = spare.take(3 << 20);
        assert_ne!(other.as_ptr(), at, "it is in use");
        spare.give(Vec::with_capacity(100));
        assert!(spare.kept.lock().is_empty(), "small ones are not kept");
    }

    #[test]
    fn no_more_is_kept_than_there_may_be() {
        let spare = SpareBuffers::new(8 << 20);
        (2..6).for_each(|mib| spare.give(Vec::with_capacity(mib << 20)));
        let kept = |spare: &SpareBuffers| -> Vec<usize> {
            spare.kept.lock().iter().map(|b| b.capacity() >> 20).collect()
        };
        assert_eq!(kept(&spare), [5], "the oldest have gone");
        spare.give(Vec::with_capacity(9 << 20));
        assert_eq!(kept(&spare), [5]);
    }

    #[test]
    fn bytes_that_others_hold_are_not_given_away() {
        let spare = SpareBuffers::new(8 << 20);
        let mut buffer = spare.take(1 << 20);
        buffer.resize(LEAST, 7);
        let at = buffer.as_ptr();
        let bytes = Bytes::from(buffer);
        let other = bytes.clone();
        spare.give_bytes(bytes);
        assert!(spare.kept.lock().is_empty());
        spare.give_bytes(other);
        let again = spare.take(1 << 20);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
    }
}
