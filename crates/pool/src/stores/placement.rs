//! Which store a shard belongs on (protocol §6.4).

use xxhash_rust::xxh3::xxh3_64;

use windlass_base::ChunkId;

/// Returns the store (index) that holds shard `shard` of a chunk in a pool of `n` stores.
pub fn place(id: &ChunkId, shard: usize, n: usize) -> usize {
    let start = (xxh3_64(&id.volume.0.to_le_bytes()) % n as u64 + id.seq.0 % n as u64) % n as u64;
    (start as usize + shard) % n
}

/// Returns the shard that store `index` holds of a chunk: the inverse of `place`.
pub fn shard_on(id: &ChunkId, index: usize, n: usize) -> usize {
    (index + n - place(id, 0, n)) % n
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq, VolumeId};

    fn id(seq: u64) -> ChunkId {
        ChunkId { volume: VolumeId(0x0123_4567_89ab_cdef), epoch: Epoch(3), seq: Seq(seq) }
    }

    #[test]
    fn places_are_as_written_down() {
        assert_eq!((place(&id(42), 0, 6), place(&id(42), 5, 6), place(&id(43), 0, 6)), (5, 4, 0));
    }

    #[test]
    fn each_shard_has_its_own_store_and_they_rotate() {
        for n in [1, 2, 6, 14, 64] {
            for seq in [1, 2, 77, u64::MAX] {
                let mut stores: Vec<_> = (0..n).map(|shard| place(&id(seq), shard, n)).collect();
                for (shard, store) in stores.iter().enumerate() {
                    assert_eq!(shard_on(&id(seq), *store, n), shard);
                }
                stores.sort_unstable();
                assert_eq!(stores, (0..n).collect::<Vec<_>>());
            }
            assert_eq!(place(&id(8), 0, n), (place(&id(7), 0, n) + 1) % n);
        }
    }
}
