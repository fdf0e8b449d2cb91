//! What the stores hold of one chunk: counted for takeovers, fetched whole, completed.
//!
//! Counting is strict (protocol §1.6, §1.7): a good shard counts in D and an absence counts as none only when the store
//! attests after it, and an absence only of a witness. An object that is there but can't be read as the chunk's shard
//! counts in U, not as absent: something was written, and when in doubt a takeover refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::context::PoolContext;
use super::read::Misses;
use super::upload::{Known, Upload};
use crate::chunk::Chunk;
use crate::chunk::Layout;
use crate::chunk::ShardSet;
use crate::chunk::{About, Footer};
use crate::stores::{At, Miss};
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::{ChunkId, Error, Incarnation, Kind, Result};
use windlass_store::Cause;

/// The stores' answers about a chunk, counted. `good + absent + unknown` = N.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// D: number of stores that are in and hold a shard whose footer is right.
    pub good: usize,
    /// Number of stores that are in, count as witnesses, and have no shard.
    pub absent: usize,
    /// U: number of the other stores: no answer, out, not a witness, or an object that is not the chunk's shard.
    pub unknown: usize,
    /// Number of those among the unknown that had not answered when enough others had.
    pub late: usize,
    /// The facts about the chunk on which most of the good footers agree; `None` if no footer was good.
    pub about: Option<About>,
    /// Shards that are good only where their store was before, of which not all has come along: they can be read, and count as
    /// stored nowhere.
    former: ShardSet,
    good_mask: ShardSet,
    absent_mask: ShardSet,
    rotten: ShardSet,
}

impl Probe {
    /// Makes a probe as if all shards but these had been found good, which decides what is fetched first.
    pub(crate) fn all_but(bad: ShardSet, layout: Layout) -> Probe {
        Probe { good_mask: ShardSet::all(layout.n()).minus(bad), ..Probe::default() }
    }
}

impl Probe {
    /// Shards that can be read: with those whose store's predecessor has them.
    pub fn readable(&self) -> usize {
        self.good + self.former.count()
    }
    /// Shards that may be there on stores that do not answer, or whose word does not count.
    pub fn waiting(&self) -> usize {
        self.unknown.saturating_sub(self.rotten.count())
    }
    /// Shards that are not there for sure, and objects that are not the chunk's shards.
    pub(crate) fn absent_and_rotten(&self) -> (ShardSet, ShardSet) {
        (self.absent_mask, self.rotten)
    }
    /// Shards that are not there, or not known to be.
    pub(crate) fn not_good(&self, layout: Layout) -> ShardSet {
        ShardSet::all(layout.n()).minus(self.good_mask)
    }
}

/// Judgement on what the answers so far tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Nothing,
    /// The answers tell what was to be found out; one that is still to come may say more.
    Enough,
    /// No other answer changes anything.
    All,
}

/// One store's answer.
enum Seen {
    Good(Box<Footer>),
    Absent,
    Bad,
    Unknown,
    /// The store's predecessor has a good shard; the second value is what the store itself said.
    Former(Box<Footer>, Box<Seen>),
}

impl Seen {
    fn footer(&self) -> Option<&Footer> {
        match self {
            Seen::Good(footer) | Seen::Former(footer, _) => Some(footer),
            Seen::Absent | Seen::Bad | Seen::Unknown => None,
        }
    }
}

/// A chunk's contents as the stores hold them, verified by the payload hash.
#[derive(Clone, Debug)]
pub struct Payload {
    pub chunk: Chunk,
    pub about: About,
    /// Shards that were good in the probe, without those found rotten when they were read.
    good: ShardSet,
    rotten: ShardSet,
}

impl Payload {
    /// Returns the bytes at a virtual offset, when the chunk has them.
    pub fn slice(&self, offset: u64, len: u32) -> Option<Bytes> {
        let shard = self.chunk.shards.get((offset / SHARD_SPAN) as usize)?;
        let at = (offset % SHARD_SPAN) as usize;
        let end = at.checked_add(len as usize)?;
        (end <= shard.len()).then(|| shard.slice(at..end))
    }

    pub(crate) fn complete(&self, context: &Arc<PoolContext>) -> Upload {
        let known = Known { stored: self.good, rotten: self.rotten, look: true };
        Upload::start(context, self.chunk.clone(), known, Cause::Walk)
    }
}

impl PoolContext {
    /// Asks every store for the chunk's footer, then for its label. `witnesses`: the incarnations whose absence counts.
    /// A store that is known to be away is not asked.
    pub(crate) async fn probe(&self, id: &ChunkId, witnesses: &[Incarnation], cause: Cause) -> Probe {
        let looks = (0..self.layout().n()).map(|index| self.look(id, index, witnesses, cause));
        tally(&futures::future::join_all(looks).await)
    }

    /// Asks as `probe` does, but only until the answers tell enough. After each answer `told` judges the answers so far, in
    /// which a store that is still to answer counts as unknown. On `Told::All` the probe ends at once. On `Told::Enough` the
    /// other stores get as much time again, and no less than `hedge`; whoever is silent by then counts as unknown in the
    /// result too.
    pub(crate) async fn probe_until(
        &self,
        id: &ChunkId,
        witnesses: &[Incarnation],
        cause: Cause,
        hedge: Duration,
        told: impl Fn(&Probe) -> Told,
    ) -> Probe {
        let (begun, n) = (self.rt().now(), self.layout().n());
        let looks = (0..n).map(|index| async move { (index, self.look(id, index, witnesses, cause).await) });
        let mut looks: FuturesUnordered<_> = looks.collect();
        let mut seen: Vec<Seen> = (0..n).map(|_| Seen::Unknown).collect();
        let mut so_far = Told::Nothing;
        while so_far == Told::Nothing
            && let Some((index, look)) = looks.next().await
        {
            seen[index] = look;
            so_far = told(&tally(&seen));
        }
        if so_far == Told::Enough && !looks.is_empty() {
            let took = self.rt().now().since(begun);
            let rest = async {
                while so_far != Told::All
                    && let Some((index, look)) = looks.next().await
                {
                    seen[index] = look;
                    so_far = told(&tally(&seen));
                }
            };
            // Whether the others came in time or not, what is there is used.
            let _ = self.rt().timeout(took.max(hedge), rest).await;
        }
        Probe { late: looks.len(), ..tally(&seen) }
    }

    async fn look(&self, id: &ChunkId, index: usize, witnesses: &[Incarnation], cause: Cause) -> Seen {
        let seen = self.look_at_holder(id, index, witnesses, cause).await;
        let Some(old) = self.former_holder(id, index).filter(|_| !matches!(seen, Seen::Good(_))) else {
            return seen;
        };
        match (At { member: &old, id, index }).footer(cause).await {
            Ok((footer, _)) if footer.about.layout == self.layout() && old.attest().await.is_ok() => {
                Seen::Former(Box::new(footer), Box::new(seen))
            }
            _ => seen,
        }
    }

    async fn look_at_holder(
        &self,
        id: &ChunkId,
        index: usize,
        witnesses: &[Incarnation],
        cause: Cause,
    ) -> Seen {
        let member = self.holder(id, index);
        let seen = match (At { member: &member, id, index }).footer(cause).await {
            Ok((footer, _)) if footer.about.layout == self.layout() => Seen::Good(Box::new(footer)),
            Ok(_) | Err(Miss::Rot(_)) => Seen::Bad,
            Err(Miss::Absent) if witnesses.contains(&member.incarnation()) => Seen::Absent,
            Err(Miss::Absent | Miss::Silent(_)) => return Seen::Unknown,
        };
        if member.attest().await.is_ok() { seen } else { Seen::Unknown }
    }

    /// Reads every byte of the shards that the probe found good, and returns the probe corrected. A shard of which only the
    /// footer is right counts as one that can't be read.
    pub(crate) async fn verified(&self, id: &ChunkId, probe: &Probe, cause: Cause) -> Probe {
        let mut seen = probe.clone();
        // One at a time: a shard may have 16 MiB.
        for index in probe.good_mask.iter() {
            let member = self.holder(id, index);
            match (At { member: &member, id, index }).whole(cause).await {
                Ok((footer, ..)) if Some(&footer.about) == probe.about.as_ref() => continue,
                Ok(_) | Err(Miss::Rot(_)) => seen.rotten = seen.rotten.with(index),
                Err(Miss::Absent | Miss::Silent(_)) => {}
            }
            seen.good_mask = seen.good_mask.without(index);
            (seen.good, seen.unknown) = (seen.good - 1, seen.unknown + 1);
        }
        seen
    }

    /// Fetches and verifies the whole chunk, first of all from the shards that the probe found good.
    pub(crate) async fn payload(&self, id: &ChunkId, probe: &Probe, cause: Cause) -> Result<Payload> {
        let (k, n) = (self.layout().k(), self.layout().n());
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|i| (!probe.good_mask.or(probe.former).has(*i), !self.answers(id, *i)));
        let mut order = order.into_iter();
        let fetch = |index: usize| async move {
            let member = self.holder(id, index);
            let mut whole = At { member: &member, id, index }.whole(cause).await;
            if let (Err(_), Some(old)) = (&whole, self.former_holder(id, index)) {
                whole = At { member: &old, id, index }.whole(cause).await;
            }
            let ours = |footer: &Footer| footer.about.layout == self.layout();
            (
                index,
                whole.and_then(
                    |(footer, bytes, etag)| {
                        if ours(&footer) { Ok((footer, bytes)) } else { Err(Miss::Rot(etag)) }
                    },
                ),
            )
        };
        let mut running: FuturesUnordered<_> = order.by_ref().take(k).map(fetch).collect();
        let mut shards: Vec<(usize, Footer, Bytes)> = Vec::new();
        let (mut misses, mut rotten) = (Misses::default(), probe.rotten);
        while let Some((index, out)) = running.next().await {
            match out {
                Ok((footer, bytes)) => shards.push((index, footer, bytes)),
                Err(miss) => {
                    if matches!(miss, Miss::Rot(_)) {
                        rotten = rotten.with(index);
                    }
                    misses.add(index, miss);
                }
            }
            if let Some(same) = group(&mut shards, k) {
                let good = probe.good_mask.minus(rotten);
                return self.whole(same, good, rotten).await;
            }
            if running.is_empty() {
                running.extend(order.by_ref().take(1).map(fetch));
            }
        }
        Err(misses.verdict(self, id).await)
    }

    /// Makes the data shards from any k, and checks them against the payload hash.
    async fn whole(
        &self,
        from: Vec<(usize, Footer, Bytes)>,
        good: ShardSet,
        rotten: ShardSet,
    ) -> Result<Payload> {
        let about = from[0].1.about.clone();
        let codec = self.codec().clone();
        let of = about.clone();
        let shards = self.rt().cpu(move || rebuild_data(&codec, &of, &from)).await?;
        let Some(shards) = shards else {
            let text =
                format!("chunk {} is damaged: its parts do not make the whole that was stored", about.id);
            return Err(Error::new(Kind::Corrupt, text));
        };
        let chunk = Chunk {
            id: about.id,
            era: about.era,
            kind: about.kind,
            shards,
            toc_offset: about.toc_offset,
            toc_len: about.toc_len,
        };
        Ok(Payload { chunk, about, good, rotten })
    }
}

/// Makes the data shards from k others. None, if these do not make what was stored.
pub fn rebuild_data(
    codec: &crate::chunk::Codec,
    about: &About,
    from: &[(usize, Footer, Bytes)],
) -> Option<Vec<Bytes>> {
    let k = codec.layout().k();
    let all: Vec<(usize, &[u8])> = from.iter().map(|(i, _, bytes)| (*i, bytes.as_ref())).collect();
    let shard = |index: usize| match from.iter().find(|(i, ..)| *i == index) {
        Some((_, footer, bytes)) => (bytes.clone(), footer.shard_hash),
        None => {
            let bytes = codec.rebuild(index, about.shard_len(index), &all);
            let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
            (bytes.into(), hash)
        }
    };
    let (shards, hashes): (Vec<Bytes>, Vec<u128>) = (0..k).map(shard).unzip();
    (about.hash(&hashes) == about.payload_hash).then_some(shards)
}

fn tally(seen: &[Seen]) -> Probe {
    let (about, is_tied) = commonest(seen).map_or((None, false), |(about, is_tied)| (Some(about), is_tied));
    let mut probe = Probe { about, ..Probe::default() };
    for (index, seen) in seen.iter().enumerate() {
        let seen = match seen {
            Seen::Former(footer, own) => {
                if Some(&footer.about) == probe.about.as_ref() {
                    probe.former = probe.former.with(index);
                }
                own
            }
            own => own,
        };
        match seen {
            Seen::Good(footer) if Some(&footer.about) == probe.about.as_ref() => {
                probe.good += 1;
                probe.good_mask = probe.good_mask.with(index);
            }
            Seen::Absent => {
                probe.absent += 1;
                probe.absent_mask = probe.absent_mask.with(index);
            }
            // Nobody knows which of them is the chunk.
            Seen::Good(_) if is_tied => probe.unknown += 1,
            Seen::Good(_) | Seen::Bad => {
                probe.unknown += 1;
                probe.rotten = probe.rotten.with(index);
            }
            Seen::Unknown | Seen::Former(..) => probe.unknown += 1,
        }
    }
    debug_assert_eq!(probe.good + probe.absent + probe.unknown, seen.len());
    probe
}

/// Returns what most of the footers say, and whether others are as common. Of equally common ones, the one with the lowest
/// payload hash is returned.
fn commonest(seen: &[Seen]) -> Option<(About, bool)> {
    let mut votes: BTreeMap<u128, (usize, &About)> = BTreeMap::new();
    for one in seen {
        if let Some(footer) = one.footer() {
            votes.entry(footer.about.payload_hash).or_insert((0, &footer.about)).0 += 1;
        }
    }
    let most = votes.values().map(|(n, _)| *n).max()?;
    let mut first = votes.values().filter(|(n, _)| *n == most).map(|(_, about)| (*about).clone());
    Some((first.next()?, first.next().is_some()))
}

/// Takes out k shards or more of one content, when there are so many.
fn group(shards: &mut Vec<(usize, Footer, Bytes)>, k: usize) -> Option<Vec<(usize, Footer, Bytes)>> {
    let about = shards.last()?.1.about.clone();
    if shards.iter().filter(|s| s.1.about == about).count() < k {
        return None;
    }
    shards.retain(|s| s.1.about == about);
    Some(std::mem::take(shards))
}
