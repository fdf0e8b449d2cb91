//! What was read of objects, on this host's disk: the same bytes need no second request, also after a restart, for as
//! long as the object has the same etag.
//!
//! Whole blocks only, each by a hash of bucket, key, etag and size: another object under the same key is never found, and
//! nothing has to be invalidated. The cache verifies what it gives.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};
use sha2::{Digest as _, Sha256};

use crate::bucket::BucketClient;
use crate::object::Base;
use windlass_base::{ChunkId, Epoch, Error, Result, Seq, VolumeId};
use windlass_cache::{DiskCache, FrameKey};

/// Bytes of one block: what the kernel asks for at once.
pub const BLOCK: u64 = 128 << 10;
/// Largest number of gaps between cached blocks that are fetched one by one; with more, all is fetched as
/// one.
const GAPS_MAX: usize = 4;

/// Cached blocks of one bucket's objects.
#[derive(Clone, Debug)]
pub struct BlockCache {
    disk: DiskCache,
    url: String,
}

impl BlockCache {
    pub fn new(disk: DiskCache, url: &str) -> BlockCache {
        BlockCache { disk, url: url.to_owned() }
    }

    /// Returns the cache's id of an object: a hash of URL, key, etag and size. Etags are unique to their key,
    /// not to their contents, and anybody who may write to the bucket chooses both. So the hash must be one
    /// that nobody finds collisions of.
    fn of(&self, key: &str, base: &Base) -> ChunkId {
        let mut hash = Sha256::new();
        for part in [&self.url, key, &base.etag.0] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(base.size.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| digest[at + n]));
        let volume = u128::from(word(0)) << 64 | u128::from(word(8));
        ChunkId { volume: VolumeId(volume), epoch: Epoch(word(16)), seq: Seq(word(24)) }
    }

    /// Tells whether the object's beginning seems to be cached: then it need not come with the answer to
    /// open(2).
    pub fn has_first(&self, key: &str, base: &Base) -> bool {
        self.disk.is_on() && self.disk.has(&FrameKey { chunk: self.of(key, base), offset: 0 })
    }

    /// Takes in the whole blocks of what was read from `offset` on.
    pub fn put(&self, key: &str, base: &Base, offset: u64, bytes: &Bytes) {
        if self.disk.is_on() {
            self.take_in(self.of(key, base), base, offset, bytes);
        }
    }

    fn take_in(&self, object: ChunkId, base: &Base, offset: u64, bytes: &Bytes) {
        let read = offset..offset + bytes.len() as u64;
        for block in blocks(&read, base.size).filter(|b| read.start <= b.start && b.end <= read.end) {
            let part = (block.start - offset) as usize..(block.end - offset) as usize;
            self.disk.put(&FrameKey { chunk: object, offset: block.start }, &bytes[part]);
        }
    }

    /// Reads bytes as `BucketClient::get_of` does, but asks the bucket only for those that aren't cached.
    pub async fn get_of(
        &self,
        remote: &BucketClient,
        object: (&str, Option<&str>),
        base: &Base,
        offset: u64,
        len: u64,
    ) -> Result<Bytes> {
        if !self.disk.is_on() {
            return remote.get_of(object, base, offset, len).await;
        }
        let (id, wanted) = (self.of(object.0, base), offset..offset + len);
        let here = join_all(blocks(&wanted, base.size).map(|block| self.look(id, block))).await;
        let mut gaps = gaps(&wanted, here.iter().flatten().map(|(block, _)| block.clone()));
        if gaps.len() > GAPS_MAX {
            gaps = vec![wanted.clone()];
        }
        let fetch = |gap: Range<u64>| async move {
            let bytes = remote.get_of(object, base, gap.start, gap.end - gap.start).await?;
            self.take_in(id, base, gap.start, &bytes);
            Ok::<_, Error>((gap, bytes))
        };
        let mut fetched = try_join_all(gaps.into_iter().map(fetch)).await?;
        if fetched.len() == 1 && fetched[0].0 == wanted {
            return Ok(fetched.swap_remove(0).1);
        }
        let mut out = BytesMut::zeroed(len as usize);
        for (range, bytes) in here.iter().flatten().chain(&fetched) {
            let (from, to) = (range.start.max(wanted.start), range.end.min(wanted.end));
            let part = &bytes[(from - range.start) as usize..(to - range.start) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(out.freeze())
    }

    async fn look(&self, object: ChunkId, block: Range<u64>) -> Option<(Range<u64>, Bytes)> {
        let key = FrameKey { chunk: object, offset: block.start };
        let bytes = self.disk.get(&key).await?;
        (bytes.len() as u64 == block.end - block.start).then_some((block, bytes))
    }
}

/// Returns the blocks that a range touches, of an object of `size` bytes.
fn blocks(range: &Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (first, end) = (range.start / BLOCK, range.end.min(size).div_ceil(BLOCK));
    (first..end).map(move |n| n * BLOCK..((n + 1) * BLOCK).min(size))
}

/// Returns the parts of the range that none of these blocks, which are in order, holds.
fn gaps(range: &Range<u64>, here: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = range.start;
    for block in here {
        if at < block.start {
            out.push(at..block.start);
        }
        at = block.end;
    }
    if at < range.end {
        out.push(at..range.end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_blocks_leave() {
        let wanted = BLOCK / 2..3 * BLOCK + 5;
        let all: Vec<_> = blocks(&wanted, 3 * BLOCK + 7).collect();
        assert_eq!(all, [0..BLOCK, BLOCK..2 * BLOCK, 2 * BLOCK..3 * BLOCK, 3 * BLOCK..3 * BLOCK + 7]);
        assert_eq!(gaps(&wanted, std::iter::empty()), std::slice::from_ref(&wanted));
        assert_eq!(gaps(&wanted, all.iter().cloned()), []);
        assert_eq!(
            gaps(&wanted, [all[0].clone(), all[2].clone()].into_iter()),
            [all[1].clone(), 3 * BLOCK..wanted.end]
        );
        assert_eq!(gaps(&wanted, [all[1].clone()].into_iter()), [BLOCK / 2..BLOCK, 2 * BLOCK..wanted.end]);
    }
}
