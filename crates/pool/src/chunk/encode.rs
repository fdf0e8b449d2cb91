//! From a chunk to the objects that are put: parity, hashes, footers.

use bytes::{Bytes, BytesMut};

use super::chunk_contents::Chunk;
use super::codec::Codec;
use super::footer::{About, CHECK_SPAN, FOOTER_MAX, Footer, Tally};
use super::shard_set::ShardSet;
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::spare_buffers::SHARDS;
use windlass_base::{Error, Kind, Result};

/// A chunk's objects, in order of their shards; `None` where none was wanted.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) about: About,
    pub(crate) objects: Vec<Option<Bytes>>,
}

/// Encodes a chunk: CPU-bound, belongs on `Rt::cpu`.
pub fn seal(codec: &Codec, mut chunk: Chunk, wanted: ShardSet) -> Result<Sealed> {
    let layout = codec.layout();
    if chunk.shards.len() != layout.k() || chunk.shards.iter().any(|s| s.len() as u64 > SHARD_SPAN) {
        let text = format!("chunk {} does not fit layout {layout}", chunk.id);
        return Err(Error::new(Kind::Internal, text));
    }
    let len = chunk.shards.iter().map(Bytes::len).max().unwrap_or(0);
    let parities = if (layout.k()..layout.n()).any(|i| wanted.has(i)) { layout.m() } else { 0 };
    let mut parity: Vec<Vec<u8>> = (0..parities).map(|_| SHARDS.take(len + FOOTER_MAX)).collect();
    parity.iter_mut().for_each(Vec::clear);
    let mut tallies = vec![Tally::default(); layout.k() + parities];
    // One pass: what is summed is in the cache.
    for at in (0..len).step_by(CHECK_SPAN) {
        let part = |shard: &'_ Bytes| shard.len().min(at)..shard.len().min(at + CHECK_SPAN);
        let parts: Vec<&[u8]> = chunk.shards.iter().map(|s| &s[part(s)]).collect();
        if parities > 0 {
            codec.extend_parity(&parts, &mut parity);
        }
        let parts = parts.into_iter().chain(parity.iter().map(|p| &p[at..]));
        tallies.iter_mut().zip(parts).for_each(|(tally, part)| tally.add(part));
    }
    let (hashes, checks): (Vec<u128>, Vec<Vec<u32>>) = tallies.into_iter().map(Tally::end).unzip();
    let about = About::of(&chunk, layout, &hashes[..layout.k()]);
    let shards = std::mem::take(&mut chunk.shards).into_iter().chain(parity.into_iter().map(Bytes::from));
    let mut objects = Vec::with_capacity(layout.n());
    for (index, ((shard, shard_hash), checks)) in shards.zip(hashes).zip(checks).enumerate() {
        let footer = Footer { about: about.clone(), index, shard_hash, checks };
        objects.push(wanted.has(index).then(|| with_footer_of(&footer, shard)));
    }
    objects.resize(layout.n(), None);
    Ok(Sealed { about, objects })
}

/// The object of a shard that this footer is of.
pub fn with_footer_of(footer: &Footer, shard: Bytes) -> Bytes {
    let footer = footer.encode();
    // In place when the buffer is ours alone and was made with room; else the one copy.
    let mut object = match shard.try_into_mut() {
        Ok(own) => own,
        Err(shared) => {
            let mut copy = BytesMut::with_capacity(shared.len() + footer.len());
            copy.extend_from_slice(&shared);
            copy
        }
    };
    object.extend_from_slice(&footer);
    object.freeze()
}

/// Encodes, hashes and makes footers, and drops what comes of it: for the benchmark of the pool.
pub fn sealing(layout: super::redundancy::Layout) -> impl Fn(Chunk) -> Result<()> {
    let codec = Codec::new(layout);
    move |chunk| {
        seal(&codec, chunk, ShardSet::all(layout.n())).map(|sealed| drop(std::hint::black_box(sealed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::chunk_contents::ChunkKind;
    use crate::chunk::redundancy::Layout;
    use windlass_base::{ChunkId, Epoch, Era, Seq, VolumeId};

    fn chunk(shards: Vec<Bytes>) -> Chunk {
        let id = ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(1) };
        Chunk { id, era: Era(1), kind: ChunkKind::Data, shards, toc_offset: 0, toc_len: 0 }
    }

    #[test]
    fn every_object_says_what_it_is() {
        let codec = Codec::new(Layout::new(2, 1).unwrap());
        let data = vec![Bytes::from(vec![1; 100_000]), Bytes::from_static(b"xy")];
        let sealed = seal(&codec, chunk(data.clone()), ShardSet::all(3)).unwrap();
        for (index, object) in sealed.objects.iter().enumerate() {
            let object = object.as_ref().unwrap();
            let footer = Footer::decode(object, object.len() as u64).unwrap();
            assert_eq!((footer.index, &footer.about), (index, &sealed.about));
            let len = footer.about.shard_len(index);
            assert!(footer.is_whole(&object[..len]));
            assert!(!footer.is_whole(&object[..len - 1]));
        }
        let one = seal(&codec, chunk(data), ShardSet::default().with(2)).unwrap();
        assert_eq!(one.objects, [None, None, sealed.objects[2].clone()]);
        assert!(seal(&codec, chunk(vec![Bytes::new()]), ShardSet::all(3)).is_err());
    }

    #[test]
    fn a_buffer_with_room_is_not_copied() {
        let codec = Codec::new(Layout::new(1, 0).unwrap());
        let mut buf = Vec::with_capacity(1000 + FOOTER_MAX);
        buf.resize(1000, 7);
        let at = buf.as_ptr();
        let sealed = seal(&codec, chunk(vec![buf.into()]), ShardSet::all(1)).unwrap();
        assert_eq!(sealed.objects[0].as_ref().unwrap().as_ptr(), at);
    }
}
