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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blocks::Blocks;
use super::remote::{Base, Remote};
use crate::base::rt::Rt;
use crate::base::{Error, Result};

/// The first part that is read ahead; each next one doubles.
const FIRST: u64 = 256 << 10;
const LARGEST: u64 = 8 << 20;
/// Parts fetched at once for one reader.
const PARTS: usize = 8;
/// What is fetched ahead of a reader that has only begun; later as much as it has read in order, up to `PARTS` parts.
const BEGINNING: u64 = 2 << 20;
/// The kernel's own readahead comes out of order by so much.
const BEHIND: u64 = 1 << 20;
/// Bytes that all readers of a mount may hold beyond what is asked for.
pub const AHEAD_BUDGET: usize = 256 << 20;

type Fetch = Shared<BoxFuture<'static, Result<Bytes, Arc<Error>>>>;

#[derive(Clone)]
struct Part {
    range: Range<u64>,
    fetch: Fetch,
    _held: Option<Arc<OwnedSemaphorePermit>>,
}

#[derive(Default)]
struct Window {
    base: Option<Base>,
    parts: VecDeque<Part>,
    /// The next part's size; 0 while nothing shows that the reader goes on in order.
    ahead: u64,
    /// Where the last request ended.
    end: u64,
    /// Where the reader began to read in order.
    begun: u64,
}

/// What every reader needs of its mount.
#[derive(Clone, Debug)]
pub struct Ahead {
    pub rt: Rt,
    pub remote: Remote,
    pub blocks: Blocks,
    pub budget: Arc<Semaphore>,
    /// Which version is read; none: the object.
    pub version: Option<String>,
}

#[derive(Default)]
pub struct Reader(Mutex<Window>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Ahead {
    fn start(&self, key: &str, base: &Base, range: Range<u64>, held: Option<OwnedSemaphorePermit>) -> Part {
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
    pub fn prime(&self, base: &Base, offset: u64, bytes: Bytes) {
        let range = offset..offset + bytes.len() as u64;
        let fetch = futures::future::ready(Ok(bytes)).boxed().shared();
        let parts = VecDeque::from([Part { range, fetch, _held: None }]);
        *self.0.lock() = Window { base: Some(base.clone()), parts, ..Window::default() };
    }

    /// The bytes of `range`, which lies within the object.
    pub async fn read(&self, ahead: &Ahead, key: &str, base: &Base, range: Range<u64>) -> Result<Bytes> {
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

    /// The same, if all of it is here already.
    pub fn read_now(&self, ahead: &Ahead, key: &str, base: &Base, range: &Range<u64>) -> Option<Bytes> {
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
    /// The parts that together hold `range`, fetched from here on if need be; and what is worth fetching after them.
    fn plan(&mut self, ahead: &Ahead, key: &str, base: &Base, range: &Range<u64>) -> Vec<Part> {
        if self.base.as_ref() != Some(base) {
            *self = Window { base: Some(base.clone()), ..Window::default() };
        }
        let first = self.parts.front().map_or(self.end, |p| p.range.start);
        let last = self.parts.back().map_or(self.end, |p| p.range.end);
        let goes_on = range.start >= first.min(self.end) && range.start <= last.max(self.end) + BEHIND;
        if !goes_on {
            *self =
                Window { base: self.base.take(), end: range.end, begun: range.start, ..Window::default() };
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

    /// Parts lie one behind the other without gaps; what is asked for is appended to them.
    fn cover(&mut self, ahead: &Ahead, key: &str, base: &Base, range: &Range<u64>) {
        if self.parts.front().is_none_or(|p| p.range.start > range.start) {
            self.parts.clear();
        }
        let from = self.parts.back().map_or(range.start, |p| p.range.end);
        if from < range.end {
            let to = self.end_of_part(from, base).max(range.end);
            self.parts.push_back(ahead.start(key, base, from..to, None));
        }
    }

    /// Where a part ends that begins here.
    fn end_of_part(&self, from: u64, base: &Base) -> u64 {
        let to = from + self.ahead;
        let aligned = if self.ahead == 0 { to } else { to / self.ahead * self.ahead };
        aligned.min(base.size)
    }

    fn fetch_ahead(&mut self, ahead: &Ahead, key: &str, base: &Base) {
        let until = self.end + (self.end - self.begun).max(BEGINNING);
        loop {
            let from = self.parts.back().map_or(self.end, |p| p.range.end);
            let waiting = self.parts.iter().filter(|p| p.range.end > self.end).count();
            if self.ahead == 0 || from >= base.size || waiting >= PARTS || from >= until {
                return;
            }
            let to = self.end_of_part(from, base);
            let Ok(held) = ahead.budget.clone().try_acquire_many_owned((to - from) as u32) else { return };
            self.parts.push_back(ahead.start(key, base, from..to, Some(held)));
            self.ahead = (self.ahead * 2).min(LARGEST);
        }
    }
}
