//! Reading a part of a chunk: one ranged get, or the same range of k other shards, decoded.
//!
//! The quick way trusts the caller's `verify` alone. The other way verifies every piece by its shard's footer before it
//! is used, and `verify` comes last. It starts at once when the shard's store is known to be away or its bytes are bad,
//! and after the hedge delay when the store is slow (`hedge`). No more than the range's size is read of any object, whatever
//! it claims to be.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::context::PoolContext;
use crate::chunk::{About, CHECK_SPAN, Footer};
use crate::local::Damage;
use crate::stores::Member;
use crate::stores::SizeClass;
use crate::stores::hedge_policy;
use crate::stores::{At, Miss, place};
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_store::Cause;

/// Number of bytes below which decoding is done at once.
const DECODE_INLINE: usize = 256 << 10;
/// Number of choices of k pieces that are decoded at most each time another piece arrives.
const TRIES: usize = 64;

/// Judges bytes; the caller's own checksum.
pub type Verify<'a> = &'a (dyn Fn(&[u8]) -> bool + Send + Sync);

/// One part of one data shard.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    id: &'a ChunkId,
    shard: usize,
    /// Offset of the part in the shard.
    at: u64,
    len: u64,
    cause: Cause,
}

impl Part<'_> {
    /// Returns the part as it is asked of other stores than the one that has it: a read counts as a hedge.
    fn hedged(self) -> Self {
        let cause = if self.cause == Cause::Read { Cause::Hedge } else { self.cause };
        Part { cause, ..self }
    }

    fn class(&self) -> SizeClass {
        SizeClass::of(self.len)
    }
}

#[derive(Clone)]
struct Piece {
    footer: Arc<Footer>,
    shard: usize,
    bytes: Bytes,
}

impl Piece {
    fn about(&self) -> &About {
        &self.footer.about
    }

    /// Tells whether both pieces say that they belong to the same contents.
    fn is_like(&self, other: &Piece) -> bool {
        self.about().payload_hash == other.about().payload_hash
    }
}

/// The shards of a chunk that could not be used, by the reason.
#[derive(Debug, Default)]
pub struct Misses {
    absent: Vec<usize>,
    rotten: Vec<usize>,
    silent: Vec<Error>,
}

impl Misses {
    pub(crate) fn add(&mut self, shard: usize, miss: Miss) {
        match miss {
            Miss::Absent => self.absent.push(shard),
            Miss::Rot(_) => self.rotten.push(shard),
            Miss::Silent(e) => self.silent.push(e),
        }
    }

    /// Marks these shards for a closer look, since the chunk is readable without them; not those that have yet to come along.
    fn doubted(&self, context: &PoolContext, id: &ChunkId) {
        let here = self.absent.iter().chain(&self.rotten).filter(|shard| !context.is_coming(id, **shard));
        here.for_each(|shard| context.missing_shards().doubt(*id, *shard));
    }

    /// Returns the error that says why a chunk can't be read. An absence counts where the store attests after it, and where no
    /// predecessor of the store may still have the shard.
    pub(crate) async fn verdict(self, context: &PoolContext, id: &ChunkId) -> Error {
        let layout = context.layout();
        let asked = self.absent.iter().map(|shard| {
            let member = context.holder(id, *shard);
            async move {
                member.attest().await?;
                context.is_gone_before(id, *shard).await
            }
        });
        let (mut gone, mut silent) = (0, self.silent);
        for attested in futures::future::join_all(asked).await {
            match attested {
                Ok(()) => gone += 1,
                Err(e) => silent.push(e),
            }
        }
        let rotten = self.rotten.len();
        if gone + rotten > layout.m() {
            let n = layout.n();
            return Error::new(
                Kind::Corrupt,
                format!(
                    "chunk {id} is damaged: of its {n} shards {gone} are gone and {rotten} unreadable, more than {} can be made up for",
                    layout.m()
                ),
            );
        }
        let archived = !silent.is_empty() && silent.iter().all(|e| e.is(Kind::Archived));
        let mut reasons: Vec<String> = silent.iter().map(Error::to_string).collect();
        reasons.sort();
        reasons.dedup();
        let until = if archived { "its shards are restored from an archive" } else { "more stores answer" };
        Error::new(
            Kind::Unavailable,
            format!("chunk {id} is out of reach until {until}: {}", reasons.join("; ")),
        )
    }
}

impl PoolContext {
    /// Makes sure that the predecessor of a shard's store, as long as it may still have the shard, says that it has none. An
    /// error: that is unknown, or the predecessor has the shard.
    pub(crate) async fn is_gone_before(&self, id: &ChunkId, shard: usize) -> Result<()> {
        let store = place(id, shard, self.layout().n());
        let Some(old) = self.membership().may_still_have(store) else { return Ok(()) };
        match (At { member: &old, id, index: shard }).footer(Cause::Repair).await {
            Err(Miss::Absent | Miss::Rot(_)) => old.attest().await,
            Err(Miss::Silent(e)) => Err(e),
            Ok(_) => Err(Error::new(Kind::Unavailable, format!("store {} has just answered", old.url()))),
        }
    }

    /// Reads the bytes at a virtual offset, inside one data shard. `verify` judges them last. `Corrupt`: more than m shards
    /// are gone or unreadable for sure; `Unavailable`: too few stores answer.
    pub(crate) async fn read(
        &self,
        id: &ChunkId,
        offset: u64,
        len: u32,
        cause: Cause,
        verify: Verify<'_>,
    ) -> Result<Bytes> {
        let (shard, at) = ((offset / SHARD_SPAN) as usize, offset % SHARD_SPAN);
        let len = u64::from(len);
        if shard >= self.layout().k() || at + len > SHARD_SPAN {
            let text = format!("chunk {id} has no {len} bytes at {offset}");
            return Err(Error::new(Kind::Corrupt, text));
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        let part = Part { id, shard, at, len, cause };
        let member = self.holder(id, shard);
        if !member.standing().usable() && self.former_holder(id, shard).is_none() {
            let mut misses = Misses::default();
            misses.add(shard, Miss::Silent(member.why_not_usable()));
            return self.degraded(part, misses, verify).await;
        }
        self.hedges().asked(self.layout());
        let usual = self.usual(part.class());
        let direct = self.direct(part, verify);
        let around = self.degraded(part.hedged(), Misses::default(), verify);
        futures::pin_mut!(direct, around);
        if hedge_policy::is_surely_slow(&member, part.class(), usual) && self.hedges().spend() {
            self.try_slow(&member, part);
            let soon = self.rt().sleep(hedge_policy::delay(None, usual));
            match select(around.as_mut(), soon).await {
                Either::Left((Ok(bytes), _)) => return Ok(bytes),
                Either::Left((Err(_), _)) => return self.direct_alone(part, direct.await, verify).await,
                // The others are slow as well, perhaps for ever.
                Either::Right(_) => {}
            }
        } else {
            let slow = self.late(&member, part.class(), usual);
            futures::pin_mut!(slow);
            if let Either::Left((done, _)) = select(direct.as_mut(), slow).await {
                return self.direct_alone(part, done, verify).await;
            }
        }
        let miss = match select(direct, around).await {
            Either::Left((Ok(bytes), _)) | Either::Right((Ok(bytes), _)) => return Ok(bytes),
            Either::Left((Err(miss), around)) => match around.await {
                Ok(bytes) => {
                    let mut misses = Misses::default();
                    misses.add(part.shard, miss);
                    misses.doubted(self, part.id);
                    return Ok(bytes);
                }
                Err(_) => miss,
            },
            Either::Right((Err(_), direct)) => match direct.await {
                Ok(bytes) => return Ok(bytes),
                Err(miss) => miss,
            },
        };
        // Once more, knowing of both: only all misses together tell damaged from out of reach.
        self.direct_alone(part, Err(miss), verify).await
    }

    /// Returns the bytes if the store that has them gave them; else asks the other stores, which counts the first store's miss
    /// too.
    async fn direct_alone(
        &self,
        part: Part<'_>,
        direct: Result<Bytes, Miss>,
        verify: Verify<'_>,
    ) -> Result<Bytes> {
        let miss = match direct {
            Ok(bytes) => return Ok(bytes),
            Err(miss) => miss,
        };
        let mut misses = Misses::default();
        misses.add(part.shard, miss);
        self.degraded(part, misses, verify).await
    }

    /// Returns the time within which the middle store answers 95 % of its reads of this size: a few slow ones don't make
    /// everybody wait.
    pub(crate) fn usual(&self, class: SizeClass) -> Option<Duration> {
        let membership = self.membership();
        let times = membership.members.iter().filter_map(|m| hedge_policy::time_of(m, class));
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// Asks a slow store what nobody waits for, to see whether it still is.
    fn try_slow(&self, member: &Arc<Member>, part: Part<'_>) {
        if !member.traffic().try_now(self.rt().now(), hedge_policy::TRIAL_EVERY) {
            return;
        }
        let (member, id) = (member.clone(), *part.id);
        let Part { shard: index, at, len, cause, .. } = part.hedged();
        let trial = async move { At { member: &member, id: &id, index }.range(at, len, cause).await.is_ok() };
        self.rt().spawn(trial).detach();
    }

    /// Waits until other stores are to be asked as well, since this one is late.
    async fn late(&self, member: &Arc<Member>, class: SizeClass, usual: Option<Duration>) {
        let first = hedge_policy::delay(hedge_policy::time_of(member, class), usual);
        self.rt().sleep(first).await;
        if !self.hedges().spend() {
            self.rt().sleep(hedge_policy::DELAY_MAX.saturating_sub(first)).await;
        }
    }

    async fn direct(&self, part: Part<'_>, verify: Verify<'_>) -> Result<Bytes, Miss> {
        let member = self.holder(part.id, part.shard);
        let at = At { member: &member, id: part.id, index: part.shard };
        let mut answer = at.range(part.at, part.len, part.cause).await;
        if let (Err(_), Some(old)) = (&answer, self.former_holder(part.id, part.shard)) {
            let at = At { member: &old, id: part.id, index: part.shard };
            answer = at.range(part.at, part.len, part.cause).await;
        } else if let Err(Miss::Absent) = answer {
            // What should be there is not: perhaps the store was emptied.
            member.suspect();
        }
        let (bytes, etag) = answer?;
        if bytes.len() as u64 == part.len && verify(&bytes) { Ok(bytes) } else { Err(Miss::Rot(etag)) }
    }

    async fn degraded(&self, part: Part<'_>, mut misses: Misses, verify: Verify<'_>) -> Result<Bytes> {
        let (k, n) = (self.layout().k(), self.layout().n());
        // Stores in trouble come last, slow ones before them, else in order.
        let mut next: Vec<usize> = (0..n).filter(|i| *i != part.shard).collect();
        let class = part.class();
        let usual = self.usual(class);
        next.sort_by_cached_key(|i| {
            let member = self.holder(part.id, *i);
            (!self.answers(part.id, *i), hedge_policy::is_slow(&member, class, usual))
        });
        let mut next = next.into_iter();
        let mut running: FuturesUnordered<_> = next.by_ref().take(k).map(|i| self.piece(part, i)).collect();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut damaged = None;
        let mut hurry = self.rt().sleep(hedge_policy::delay(None, usual));
        let mut hurried = false;
        while !running.is_empty() {
            let (shard, piece) = if hurried {
                running.next().await.expect("it is not empty")
            } else {
                match select(running.next(), &mut hurry).await {
                    Either::Left((done, _)) => done.expect("it is not empty"),
                    Either::Right(_) => {
                        hurried = true;
                        running.extend(next.by_ref().map(|i| self.piece(part, i)));
                        continue;
                    }
                }
            };
            match piece {
                Ok(piece) => pieces.push(piece),
                Err(miss) => {
                    misses.add(shard, miss);
                    running.extend(next.by_ref().take(1).map(|i| self.piece(part, i)));
                    continue;
                }
            }
            match self.decode_any(part, &pieces, verify).await {
                Some(Ok((bytes, forged))) => {
                    self.proven_false(part.id, &forged);
                    misses.doubted(self, part.id);
                    return Ok(bytes);
                }
                Some(Err(e)) => damaged = Some(e),
                None => {}
            }
            if running.is_empty() {
                // Pieces of different contents, or one that is not what was stored: ask who is left.
                running.extend(next.by_ref().take(1).map(|i| self.piece(part, i)));
            }
        }
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        misses.rotten.extend(strangers(&pieces));
        Err(misses.verdict(self, part.id).await)
    }

    /// Fetches the range of the part from another shard, aligned to the checksums, and verifies it by that shard's footer.
    async fn piece(&self, part: Part<'_>, index: usize) -> (usize, Result<Piece, Miss>) {
        let out = self.piece_on(part, index, self.holder(part.id, index)).await;
        match (&out, self.former_holder(part.id, index)) {
            (Err(_), Some(old)) => (index, self.piece_on(part, index, old).await),
            _ => (index, out),
        }
    }

    async fn piece_on(&self, part: Part<'_>, index: usize, member: Arc<Member>) -> Result<Piece, Miss> {
        let at = At { member: &member, id: part.id, index };
        let (from, to) = aligned(part);
        let cause = if part.cause == Cause::Read { Cause::Degraded } else { part.cause };
        let range = at.range(from, to - from, cause);
        let piece = |footer: Arc<Footer>, bytes: &Bytes| {
            let len = (footer.about.shard_len(index) as u64).clamp(from, to) - from;
            let bytes = bytes.get(..len as usize).map(|part| bytes.slice_ref(part))?;
            let sound = footer.about.layout == self.layout() && footer.covers(from as usize, &bytes);
            sound.then_some(Piece { footer, shard: index, bytes })
        };
        let (footer, bytes, etag) = match self.footers().get(part.id, index) {
            Some(footer) => {
                let (bytes, etag) = range.await?;
                if let Some(piece) = piece(footer, &bytes) {
                    return Ok(piece);
                }
                // The footer may be that of a shard which a repair has replaced since, on whichever host.
                self.footers().forget(part.id, [index]);
                (at.footer(cause).await?.0, bytes, etag)
            }
            None => {
                let (footer, range) = futures::future::join(at.footer(cause), range).await;
                let ((footer, _), (bytes, etag)) = (footer?, range?);
                (footer, bytes, etag)
            }
        };
        piece(Arc::new(footer), &bytes).ok_or(Miss::Rot(etag))
    }

    /// Decodes the part from k pieces of one content, the last piece among them. A piece whose own checksums are right may
    /// still not be what was stored: where the bytes don't verify, other choices of k are tried. Returns the bytes with the
    /// shards that contradict the pieces which verified. `None`: too few pieces.
    async fn decode_any(
        &self,
        part: Part<'_>,
        pieces: &[Piece],
        verify: Verify<'_>,
    ) -> Option<Result<(Bytes, Vec<usize>)>> {
        let (last, others) = pieces.split_last()?;
        let same: Vec<&Piece> = others.iter().filter(|p| p.is_like(last)).collect();
        let mut out = None;
        for choice in choices(same.len(), self.layout().k() - 1).take(TRIES) {
            let chosen: Vec<Piece> = choice.iter().map(|at| same[*at]).chain([last]).cloned().collect();
            match self.decode(part, chosen.clone(), verify).await {
                Ok(bytes) => {
                    let forged = self.contradicting(part, &chosen, &same);
                    let proven = same.iter().copied().chain([last]).filter(|p| !forged.contains(&p.shard));
                    proven.for_each(|p| self.footers().put(part.id, p.shard, &p.footer));
                    return Some(Ok((bytes, forged)));
                }
                Err(e) => out = Some(Err(e)),
            }
        }
        out
    }

    /// Marks these shards as damaged: their checksums are right, so that no closer look at them alone would tell.
    fn proven_false(&self, id: &ChunkId, shards: &[usize]) {
        for shard in shards.iter().filter(|shard| !self.is_coming(id, **shard)) {
            self.missing_shards().damaged(*id, Damage::rotten(*shard));
        }
    }

    /// Returns the shards whose pieces differ from what the good pieces make, and warns of each.
    fn contradicting(&self, part: Part<'_>, good: &[Piece], pieces: &[&Piece]) -> Vec<usize> {
        let from: Vec<(usize, &[u8])> = good.iter().map(|p| (p.shard, p.bytes.as_ref())).collect();
        let differs = |p: &&&Piece| {
            from.iter().all(|(shard, _)| *shard != p.shard)
                && self.codec().rebuild(p.shard, p.bytes.len(), &from) != p.bytes
        };
        let forged: Vec<usize> = pieces.iter().filter(differs).map(|p| p.shard).collect();
        for shard in &forged {
            let store = self.holder(part.id, *shard);
            tracing::warn!(
                store = store.url(),
                "shard {shard} of chunk {} is not what was stored, though its own checksums are right",
                part.id
            );
        }
        forged
    }

    async fn decode(&self, part: Part<'_>, pieces: Vec<Piece>, verify: Verify<'_>) -> Result<Bytes> {
        let (from, to) = aligned(part);
        let shard_len = pieces[0].about().shard_len(part.shard) as u64;
        let damaged = |why: &str| {
            let text = format!(
                "chunk {} is damaged: {} bytes at {} of part {} {why}",
                part.id, part.len, part.at, part.shard
            );
            Error::new(Kind::Corrupt, text)
        };
        if part.at + part.len > shard_len {
            return Err(damaged("are past its end"));
        }
        let len = (to.min(shard_len) - from) as usize;
        let codec = self.codec().clone();
        let wanted = part.shard;
        let job = move || {
            let from: Vec<(usize, &[u8])> = pieces.iter().map(|p| (p.shard, p.bytes.as_ref())).collect();
            Bytes::from(codec.rebuild(wanted, len, &from))
        };
        let bytes = if len <= DECODE_INLINE { job() } else { self.rt().cpu(job).await? };
        let bytes = bytes.slice((part.at - from) as usize..(part.at + part.len - from) as usize);
        if verify(&bytes) { Ok(bytes) } else { Err(damaged("do not verify")) }
    }
}

fn aligned(part: Part<'_>) -> (u64, u64) {
    let span = CHECK_SPAN as u64;
    let from = part.at / span * span;
    (from, (part.at + part.len).next_multiple_of(span).max(from + 1))
}

/// Returns the ways to choose `take` of the numbers below `of`.
fn choices(of: usize, take: usize) -> impl Iterator<Item = Vec<usize>> {
    let first = (take <= of).then(|| (0..take).collect::<Vec<usize>>());
    std::iter::successors(first, move |last| {
        // The rightmost that can goes on, and those behind it begin right after it.
        let at = (0..take).rev().find(|at| last[*at] < of - take + at)?;
        let mut next = last.clone();
        next[at..].iter_mut().zip(last[at] + 1..).for_each(|(number, new)| *number = new);
        Some(next)
    })
}

/// Shards whose contents are not those that most have.
fn strangers(pieces: &[Piece]) -> Vec<usize> {
    let same = |p: &Piece| pieces.iter().filter(|q| q.is_like(p)).count();
    let Some(most) = pieces.iter().max_by_key(|p| same(p)) else { return Vec::new() };
    let odd = pieces.iter().filter(|p| !p.is_like(most));
    odd.map(|p| p.shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_comes_once() {
        let all = |of, take| choices(of, take).collect::<Vec<_>>();
        assert_eq!(all(4, 2), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!((all(3, 0), all(3, 3)), (vec![vec![]], vec![vec![0, 1, 2]]));
        assert_eq!((all(2, 3).len(), all(13, 9).len()), (0, 715));
    }
}
