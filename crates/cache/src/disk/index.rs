//! Which frames the cache's file has, and where: 16 bytes of memory each, and what the map takes around them. A key is known
//! by its hash alone, and of two keys with one hash the later one stays: what lies in the file says whose it is.

use windlass_base::FastMap;

/// Bytes of memory that an entry of the map may take, its growth by doubling included.
pub const INDEX_ENTRY: u64 = 40;
/// More uses than this are not counted.
const USES_MAX: u8 = 3;

const SEGMENT_BITS: u32 = 16;
const AT_BITS: u32 = 23;
const LEN_BITS: u32 = 21;
/// Most segments, most bytes of one, and most bytes of a frame: so that a place fits a word.
pub const SEGMENTS_MAX: u64 = 1 << SEGMENT_BITS;
pub const SEGMENT_MAX: u64 = 8 << AT_BITS;
pub const FRAME_LEN_MAX: usize = (1 << LEN_BITS) - 1;

/// Place of a frame in the file, and how often it was asked for there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    pub segment: u16,
    /// Offset in the segment, a multiple of 8.
    pub at: u32,
    pub len: u32,
    pub uses: u8,
}

impl Spot {
    fn pack(self) -> u64 {
        let Spot { segment, at, len, uses } = self;
        u64::from(segment) << 48 | u64::from(at / 8) << 25 | u64::from(len) << 4 | u64::from(uses)
    }

    fn unpack(word: u64) -> Spot {
        Spot {
            segment: (word >> 48) as u16,
            at: (word >> 25 & ((1 << AT_BITS) - 1)) as u32 * 8,
            len: (word >> 4 & ((1 << LEN_BITS) - 1)) as u32,
            uses: (word & 0xf) as u8,
        }
    }

    fn is_at(&self, other: &Spot) -> bool {
        (self.segment, self.at) == (other.segment, other.at)
    }
}

/// The map of frames, see the module. It also remembers hashes of frames that went.
#[derive(Debug)]
pub struct Index {
    spots: FastMap<u64, u64>,
    entries_max: usize,
    bytes: u64,
    /// Parts of the hashes of frames that went without having been asked for again.
    gone: Vec<u32>,
}

impl Index {
    pub fn new(memory: u64, gone: usize) -> Index {
        let entries_max = (memory / INDEX_ENTRY) as usize;
        Index { spots: FastMap::default(), entries_max, bytes: 0, gone: vec![0; gone.max(1)] }
    }

    /// Takes out all frames.
    pub fn clear(&mut self) {
        self.spots.clear();
        self.bytes = 0;
    }

    pub fn len(&self) -> usize {
        self.spots.len()
    }

    /// Returns the bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_full(&self) -> bool {
        self.spots.len() >= self.entries_max
    }

    pub fn has(&self, hash: u64) -> bool {
        self.spots.contains_key(&hash)
    }

    /// Returns a frame's place, and counts that the frame was asked for.
    pub fn used(&mut self, hash: u64) -> Option<Spot> {
        let word = self.spots.get_mut(&hash)?;
        let mut spot = Spot::unpack(*word);
        if spot.uses < USES_MAX {
            spot.uses += 1;
            *word = spot.pack();
        }
        Some(spot)
    }

    /// Adds a frame. False: there is no room for it.
    pub fn insert(&mut self, hash: u64, spot: Spot) -> bool {
        // A length of what was never verified may be anything.
        if spot.len as usize > FRAME_LEN_MAX || self.is_full() && !self.has(hash) {
            return false;
        }
        self.bytes += u64::from(spot.len);
        if let Some(old) = self.spots.insert(hash, spot.pack()) {
            self.bytes -= u64::from(Spot::unpack(old).len);
        }
        true
    }

    /// Takes a frame out, if it is still at this place.
    pub fn remove_at(&mut self, hash: u64, there: &Spot) -> Option<Spot> {
        let spot = Spot::unpack(*self.spots.get(&hash)?);
        if !spot.is_at(there) {
            return None;
        }
        self.spots.remove(&hash);
        self.bytes -= u64::from(spot.len);
        Some(spot)
    }

    /// Takes out all frames of a segment whose table can't be read.
    pub fn remove_segment(&mut self, segment: u16) {
        let bytes = &mut self.bytes;
        self.spots.retain(|_, word| {
            let spot = Spot::unpack(*word);
            if spot.segment == segment {
                *bytes -= u64::from(spot.len);
            }
            spot.segment != segment
        });
    }

    fn place_of(&self, hash: u64) -> (usize, u32) {
        (hash as usize % self.gone.len(), (hash >> 32) as u32 | 1)
    }

    pub fn remember(&mut self, hash: u64) {
        let (at, mark) = self.place_of(hash);
        self.gone[at] = mark;
    }

    pub fn remembers(&self, hash: u64) -> bool {
        let (at, mark) = self.place_of(hash);
        self.gone[at] == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_fit_a_word() {
        let largest = Spot {
            segment: u16::MAX,
            at: (SEGMENT_MAX - 8) as u32,
            len: FRAME_LEN_MAX as u32,
            uses: USES_MAX,
        };
        for spot in [largest, Spot { segment: 1, at: 64, len: 2, uses: 0 }] {
            assert_eq!(Spot::unpack(spot.pack()), spot);
        }
        assert_eq!(SEGMENT_BITS + AT_BITS + LEN_BITS + 4, 64);
    }

    #[test]
    fn it_is_bounded_and_knows_its_bytes() {
        let mut index = Index::new(3 * INDEX_ENTRY, 8);
        let spot = |segment| Spot { segment, at: 64, len: 10, uses: 0 };
        assert!(index.insert(1, spot(1)) && index.insert(2, spot(1)) && index.insert(3, spot(2)));
        assert!(!index.insert(4, spot(1)), "full");
        assert!(!index.insert(3, Spot { len: FRAME_LEN_MAX as u32 + 1, ..spot(1) }), "no frame is so long");
        assert!(index.insert(3, spot(3)), "replaced");
        assert_eq!((index.len(), index.bytes()), (3, 30));
        assert_eq!((0..9).filter_map(|_| index.used(1)).last().unwrap().uses, 3);
        assert!(index.remove_at(3, &spot(2)).is_none(), "it has moved");
        index.remove_segment(1);
        assert_eq!((index.len(), index.bytes()), (1, 10));
        assert!(index.remove_at(3, &spot(3)).is_some() && index.used(3).is_none());
        assert!(!index.remembers(77));
        index.remember(77);
        assert!(index.remembers(77) && !index.remembers(78));
    }
}
