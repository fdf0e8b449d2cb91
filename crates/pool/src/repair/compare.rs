//! Do a chunk's shards agree? Each may be right in itself and be another's all the same: whoever can write one store can put
//! a shard there whose checksums hold.
//!
//! What is compared are the footers of shards whose every byte was right: what they say of the chunk, and whether the hashes
//! of the data shards give the payload hash. So a false data shard is found, and a false copy of a mirrored chunk; not a
//! false parity shard beside k data shards (k > 1), which no hash covers. Where reads have met such a shard, `sound_parity` judges
//! the shard by its bytes.

use bytes::Bytes;

use crate::chunk::{Footer, ShardSet};
use crate::io::{PoolContext, rebuild_data};
use crate::stores::At;
use windlass_base::ChunkId;
use windlass_store::Cause;

/// Judgement on a chunk's shards by what they say of each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The shards agree, as far as they tell.
    Agree,
    /// These shards are not what was stored.
    False(ShardSet),
    /// These shards contradict each other, and nobody can tell which are right.
    Contradict(ShardSet),
    /// One of the data shards is false, and only their bytes tell which.
    OneOf(ShardSet),
}

fn indices<'a>(footers: impl IntoIterator<Item = &'a Footer>) -> ShardSet {
    footers.into_iter().map(|footer| footer.index).collect()
}

/// Judges shards by what their footers say alone.
pub fn judge(k: usize, footers: &[Footer]) -> Verdict {
    let votes = |footer: &Footer| footers.iter().filter(|other| other.about == footer.about).count();
    let Some(most) = footers.iter().max_by_key(|footer| votes(footer)) else { return Verdict::Agree };
    let (same, odd): (Vec<&Footer>, Vec<&Footer>) =
        footers.iter().partition(|footer| footer.about == most.about);
    if !odd.is_empty() {
        let clear = same.len() >= k && odd.iter().all(|footer| votes(footer) < same.len());
        return match clear {
            true => Verdict::False(indices(odd)),
            false => Verdict::Contradict(indices(footers)),
        };
    }
    if k == 1 {
        let is_false =
            |footer: &&Footer| footer.about.hash(&[footer.shard_hash]) != footer.about.payload_hash;
        return match indices(footers.iter().filter(is_false)) {
            none if none.is_empty() => Verdict::Agree,
            some => Verdict::False(some),
        };
    }
    let mut data: Vec<&Footer> = same.into_iter().filter(|footer| footer.index < k).collect();
    data.sort_by_key(|footer| footer.index);
    let hashes: Vec<u128> = data.iter().map(|footer| footer.shard_hash).collect();
    match hashes.len() == k && most.about.hash(&hashes) != most.about.payload_hash {
        true => Verdict::OneOf(indices(data)),
        false => Verdict::Agree,
    }
}

/// Judges shards as `judge` does, and reads their bytes where the footers don't suffice.
pub async fn compare(context: &PoolContext, id: &ChunkId, footers: &[Footer]) -> Verdict {
    let verdict = judge(context.layout().k(), footers);
    let Verdict::OneOf(data) = verdict else { return verdict };
    let mut whole: Vec<(usize, Footer, Bytes)> = Vec::new();
    for footer in footers {
        let (member, index) = (context.holder(id, footer.index), footer.index);
        if let Ok((footer, bytes, _)) = (At { member: &member, id, index }).whole(Cause::Scrub).await {
            whole.push((index, footer, bytes));
        }
    }
    for suspect in data.iter() {
        let others: Vec<_> = whole.iter().filter(|(index, ..)| *index != suspect).cloned().collect();
        // Any parity shard may stand in for it; one of those may be false too.
        for parity in others.iter().filter(|(index, ..)| !data.has(*index)) {
            let from: Vec<_> =
                others.iter().filter(|(index, ..)| data.has(*index) || *index == parity.0).cloned().collect();
            if from.len() == context.layout().k() && makes_the_whole(context, from).await {
                return Verdict::False(ShardSet::default().with(suspect));
            }
        }
    }
    Verdict::Contradict(data)
}

/// Returns those of these parity shards that are what the data shards make, by every byte.
pub async fn sound_parity(context: &PoolContext, id: &ChunkId, shards: ShardSet) -> ShardSet {
    if shards.is_empty() {
        return shards;
    }
    let whole = async |index: usize| {
        let member = context.holder(id, index);
        let shown = (At { member: &member, id, index }).whole(Cause::Scrub).await;
        shown.ok().map(|(footer, bytes, _)| (index, footer, bytes))
    };
    let (mut data, mut parity) = (Vec::new(), Vec::new());
    for index in 0..context.layout().k() {
        let Some(shard) = whole(index).await else { return ShardSet::default() };
        data.push(shard);
    }
    for index in shards.iter() {
        parity.extend(whole(index).await);
    }
    let codec = context.codec().clone();
    let compared = move || -> ShardSet {
        let from: Vec<(usize, &[u8])> =
            data.iter().map(|(index, _, bytes)| (*index, bytes.as_ref())).collect();
        let sound =
            parity.iter().filter(|(index, _, bytes)| codec.rebuild(*index, bytes.len(), &from) == *bytes);
        sound.map(|(index, ..)| *index).collect()
    };
    context.rt().cpu(compared).await.unwrap_or_default()
}

async fn makes_the_whole(context: &PoolContext, from: Vec<(usize, Footer, Bytes)>) -> bool {
    let codec = context.codec().clone();
    let made = context.rt().cpu(move || rebuild_data(&codec, &from[0].1.about, &from).is_some()).await;
    made.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{About, Chunk, ChunkKind, Layout};
    use windlass_base::{Epoch, Era, Seq, VolumeId};

    fn footers(layout: &str, of: u128) -> Vec<Footer> {
        let layout: Layout = layout.parse().unwrap();
        let chunk = Chunk {
            id: ChunkId { volume: VolumeId(1), epoch: Epoch(1), seq: Seq(1) },
            era: Era(1),
            kind: ChunkKind::Data,
            shards: vec![Bytes::from_static(b"bytes"); layout.k()],
            toc_offset: 0,
            toc_len: 0,
        };
        let hashes: Vec<u128> =
            (0..layout.n() as u128).map(|i| if layout.k() == 1 { of } else { of + i }).collect();
        let about = About::of(&chunk, layout, &hashes[..layout.k()]);
        let footer = |(index, hash): (usize, &u128)| Footer {
            about: about.clone(),
            index,
            shard_hash: *hash,
            checks: Vec::new(),
        };
        hashes.iter().enumerate().map(footer).collect()
    }

    fn set(indices: &[usize]) -> ShardSet {
        indices.iter().copied().collect()
    }

    #[test]
    fn what_was_stored_together_agrees() {
        for layout in ["1+0", "1+1", "1+2", "2+1", "4+2", "3+0"] {
            let all = footers(layout, 100);
            let k = all[0].about.layout.k();
            assert_eq!(judge(k, &all), Verdict::Agree, "{layout}");
            for some in 0..all.len() {
                assert_eq!(judge(k, &all[some..]), Verdict::Agree, "{layout}");
            }
        }
    }

    #[test]
    fn a_shard_of_other_contents_is_found_where_the_others_are_more() {
        let (mut all, other) = (footers("4+2", 100), footers("4+2", 200));
        all[1] = other[1].clone();
        assert_eq!(judge(4, &all), Verdict::False(set(&[1])));
        all[5] = other[5].clone();
        assert_eq!(judge(4, &all), Verdict::False(set(&[1, 5])));
        all[4] = other[4].clone();
        assert_eq!(judge(4, &all), Verdict::Contradict(set(&[0, 1, 2, 3, 4, 5])));
        let (mut two, other) = (footers("1+1", 100), footers("1+1", 200));
        two[0] = other[0].clone();
        assert_eq!(judge(1, &two), Verdict::Contradict(set(&[0, 1])));
        let (mut three, other) = (footers("1+2", 100), footers("1+2", 200));
        three[0] = other[0].clone();
        assert_eq!(judge(1, &three), Verdict::False(set(&[0])));
    }

    #[test]
    fn a_shard_that_only_repeats_what_the_others_say_is_found_by_its_hash() {
        let mut all = footers("4+2", 100);
        all[2].shard_hash += 1;
        assert_eq!(judge(4, &all), Verdict::OneOf(set(&[0, 1, 2, 3])));
        let mut copies = footers("1+1", 100);
        copies[1].shard_hash += 1;
        assert_eq!(judge(1, &copies), Verdict::False(set(&[1])));
    }
}
