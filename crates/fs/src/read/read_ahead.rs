//! Reading an object ahead: who reads on gets ever larger parts fetched before they are asked for; who jumps about
//! gets exactly what is asked.
//!
//! Large parts begin and end where parts of uploads do (at multiples of their size), so that a store gets each of its own
//! pieces asked for once. One reader a handle. All readers of a mount share a budget for what is fetched ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::disk_cache::BlockCache;
use crate::bucket::BucketClient;
use crate::object::Base;
use windlass_base::rt::Rt;
use windlass_base::{Budget, Error, Held, Result};

/// Size of the first part that is read ahead, in bytes; each next one doubles.
const FIRST: u64 = 256 << 10;
const LARGEST: u64 = 8 << 20;
/// Largest number of parts fetched at once for one reader.
const PARTS: usize = 8;
/// Bytes fetched ahead of a reader that has only begun. Later it is as much as it has read in order, up to
/// `PARTS` parts.
const BEGINNING: u64 = 2 << 20;
/// Number of bytes by which requests of the kernel's own readahead come out of order.
const BEHIND: u64 = 1 << 20;

type Fetch = Shared<BoxFuture<'static, Result<Bytes, Arc<Error>>>>;

#[derive(Clone)]
struct Part {
    range: Range<u64>,
    fetch: Fetch,
    _held: Option<Arc<Held>>,
}

#[derive(Default)]
struct Window {
    base: Option<Base>,
    /// Key of the object when the parts were asked for. Fetches under way from that key fail once the object
    /// has moved.
    key: String,
    parts: VecDeque<Part>,
    /// Size of the next part; 0 while nothing shows that the reader goes on in order.
    ahead: u64,
    /// End of the furthest request since the reader began to read in order.
    end: u64,
    /// Offset at which the reader began to read in order.
    begun: u64,
}

/// Parts of a mount that every reader needs.
#[derive(Clone, Debug)]
pub struct ReadAhead {
    pub rt: Rt,
    pub remote: BucketClient,
    pub blocks: BlockCache,
    /// Bytes that all readers together may hold beyond what is asked for.
    pub budget: Budget,
    /// Id of the version that is read; `None`: the object itself.
    pub version: Option<String>,
}

#[derive(Default)]
pub struct Reader(Mutex<Window>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl ReadAhead {
    fn start(&self, key: &str, base: &Base, range: Range<u64>, held: Option<Held>) -> Part {
        let (remote, blocks, version) = (self.remote.clone(), self.blocks.clone(), self.version.clone());
        let (key, base) = (key.to_owned(), base.clone());
        let (offset, len) = (range.start, range.end - range.start);
        let fetch =
            async move { blocks.get_of(&remote, (&key, version.as_deref()), &base, offset, len).await };
        let task = self.rt.spawn(fetch);
        let fetch = async move { task.await.flatten().map_err(Arc::new) }.boxed().shared();
        Part { range, fetch, _held: held.map(Arc::new) }
    }
}

impl Reader {
    /// Gives the reader bytes that came with the answer to open(2).
    pub fn prime(&self, key: &str, base: &Base, offset: u64, bytes: Bytes) {
        let range = offset..offset + bytes.len() as u64;
        let fetch = futures::future::ready(Ok(bytes)).boxed().shared();
        let parts = VecDeque::from([Part { range, fetch, _held: None }]);
        *self.0.lock() = Window { base: Some(base.clone()), key: key.to_owned(), parts, ..Window::default() };
    }

    /// Returns the bytes of `range`, which lies within the object.
    pub async fn read(&self, ahead: &ReadAhead, key: &str, base: &Base, range: Range<u64>) -> Result<Bytes> {
        let parts = self.0.lock().plan(ahead, key, base, &range);
        match collect(&parts, &range).await {
            Err(why) => {
                // The next attempt asks the store again.
                *self.0.lock() = Window::default();
                Err(why.share())
            }
            Ok(bytes) => Ok(bytes),
        }
    }

    /// Returns the bytes of `range` without waiting, if one part that was fetched already holds all of them.
    pub fn read_now(&self, ahead: &ReadAhead, key: &str, base: &Base, range: &Range<u64>) -> Option<Bytes> {
        let mut window = self.0.lock();
        if window.base.as_ref() != Some(base) {
            return None;
        }
        let part = window.parts.iter().find(|p| p.range.start <= range.start && range.end <= p.range.end)?;
        let bytes = part.fetch.peek()?.as_ref().ok()?;
        let at = (range.start - part.range.start) as usize;
        let bytes = bytes.slice(at..at + (range.end - range.start) as usize);
        window.plan(ahead, key, base, range);
        Some(bytes)
    }
}

async fn collect(parts: &[Part], range: &Range<u64>) -> Result<Bytes, Arc<Error>> {
    let mut out = BytesMut::new();
    for part in parts {
        let bytes = part.fetch.clone().await?;
        let from = range.start.max(part.range.start) - part.range.start;
        let to = range.end.min(part.range.end) - part.range.start;
        let slice = bytes.slice(from as usize..to as usize);
        if parts.len() == 1 {
            return Ok(slice);
        }
        out.extend_from_slice(&slice);
    }
    Ok(out.freeze())
}

impl Window {
    /// Returns the parts that together hold `range`. Begins to fetch those that are missing, and what is
    /// worth fetching after them.
    fn plan(&mut self, ahead: &ReadAhead, key: &str, base: &Base, range: &Range<u64>) -> Vec<Part> {
        if self.base.as_ref() != Some(base) || self.key != key {
            *self = Window { base: Some(base.clone()), key: key.to_owned(), ..Window::default() };
        }
        let first = self.parts.front().map_or(self.end, |p| p.range.start);
        let last = self.parts.back().map_or(self.end, |p| p.range.end);
        let goes_on = range.start >= first.min(self.end) && range.start <= last.max(self.end) + BEHIND;
        if !goes_on {
            let (was, at) = (self.base.take(), std::mem::take(&mut self.key));
            *self = Window { base: was, key: at, end: range.end, begun: range.start, ..Window::default() };
            let part = ahead.start(key, base, range.clone(), None);
            self.parts.push_back(part.clone());
            return vec![part];
        }
        if range.end > self.end {
            self.ahead = self.ahead.max(FIRST);
            self.end = range.end;
        }
        self.cover(ahead, key, base, range);
        self.fetch_ahead(ahead, key, base);
        let out: Vec<_> = self
            .parts
            .iter()
            .filter(|p| p.range.start < range.end && range.start < p.range.end)
            .cloned()
            .collect();
        let keep_from = self.end.saturating_sub(BEHIND);
        while self.parts.front().is_some_and(|p| p.range.end < keep_from) {
            self.parts.pop_front();
        }
        out
    }

    /// Appends to the parts what `range` still needs, so that parts lie one behind the other without gaps.
    fn cover(&mut self, ahead: &ReadAhead, key: &str, base: &Base, range: &Range<u64>) {
        if self.parts.front().is_none_or(|p| p.range.start > range.start) {
            self.parts.clear();
        }
        let from = self.parts.back().map_or(range.start, |p| p.range.end);
        if from < range.end {
            let part = self.next_part(ahead, from, base).filter(|(part, _)| part.end > range.end);
            let (part, held) = part.map_or((from..range.end, None), |(part, held)| (part, Some(held)));
            self.parts.push_back(ahead.start(key, base, part, held));
        }
    }

    /// Returns the part that begins at `from`, as large as the reader has come to and the budget has left.
    /// `None`: too little is left.
    fn next_part(&self, ahead: &ReadAhead, from: u64, base: &Base) -> Option<(Range<u64>, Held)> {
        let left = ahead.budget.room();
        let size = self.ahead.min(1 << left.checked_ilog2()?);
        if size < FIRST {
            return None;
        }
        let to = ((from + size) / size * size).min(base.size);
        let held = ahead.budget.try_take(to - from)?;
        Some((from..to, held))
    }

    fn fetch_ahead(&mut self, ahead: &ReadAhead, key: &str, base: &Base) {
        let until = self.end + (self.end - self.begun).max(BEGINNING);
        loop {
            let from = self.parts.back().map_or(self.end, |p| p.range.end);
            let waiting = self.parts.iter().filter(|p| p.range.end > self.end).count();
            // Who holds much gets no more while little is left for others: n readers come to hold an (n+1)th each
            // (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
            let fair = from.saturating_sub(self.end) <= ahead.budget.room();
            if from >= base.size || waiting >= PARTS || from >= until || !fair {
                return;
            }
            let Some((part, held)) = self.next_part(ahead, from, base) else { return };
            self.parts.push_back(ahead.start(key, base, part, Some(held)));
            self.ahead = (self.ahead * 2).min(LARGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use windlass_base::rt::sim::Sim;
    use windlass_cache::DiskCache;
    use windlass_store::{Attrs, Bucket as _, Cause, MemStore, Put, When};

    const MIB: u64 = 1 << 20;

    /// Reads one object's first bytes by so many readers in turn, a MiB at a time; returns what each is ahead
    /// in the end.
    fn read_by_turns(readers: usize, budget: u64, until: u64) -> Vec<u64> {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let store = MemStore::new("m");
            let body: Bytes = (0..64 * MIB).map(|at| (at / 4096 * 7 + at % 251) as u8).collect();
            let put = store.put_with("a", body.clone(), &Attrs::default(), When::Always, Cause::File).await;
            let Put::Stored(etag) = put.unwrap() else { panic!("not stored") };
            let base = Base { etag, size: 64 * MIB };
            let remote = BucketClient::new(rt.clone(), store, Duration::from_secs(60));
            let blocks = BlockCache::new(DiskCache::off(), "m");
            let budget = Budget::new(budget);
            let ahead = ReadAhead { rt, remote, blocks, budget, version: None };
            let readers: Vec<Reader> = (0..readers).map(|_| Reader::default()).collect();
            for at in (0..until).step_by(MIB as usize) {
                for reader in &readers {
                    let got = reader.read(&ahead, "a", &base, at..at + MIB).await.unwrap();
                    assert!(got == body.slice(at as usize..(at + MIB) as usize));
                }
            }
            readers.iter().map(|r| r.0.lock().parts.back().unwrap().range.end - until).collect()
        })
        .unwrap()
    }

    #[test]
    fn who_reads_on_is_read_ahead_by_aligned_parts() {
        let ahead = read_by_turns(1, 256 * MIB, 24 * MIB);
        assert_eq!(ahead, [24 * MIB], "as much again as was read, to a multiple of 8 MiB");
    }

    #[test]
    fn readers_share_what_there_is() {
        let ahead = read_by_turns(3, 16 * MIB, 24 * MIB);
        assert!(ahead.iter().all(|n| (2 * MIB..=8 * MIB).contains(n)), "{ahead:?}");
        let ahead = read_by_turns(50, 4 * MIB, 3 * MIB);
        assert!(ahead.iter().sum::<u64>() <= 4 * MIB, "{ahead:?}");
    }
}
