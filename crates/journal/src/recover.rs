//! Opening: which segments are in use, where the records end, and whether that end is a torn tail or damage.
//!
//! Only the last segment can have a tail: the one before was synced before it was begun. Its batches are read until
//! one isn't right. If anything behind says that this or a later lsn was synced, bytes were damaged and no record is
//! changed; else what follows was never promised, and it is zeroed so that no leftover can ever follow a new batch.
//! What no batch says was synced is written once more: a page that an earlier, failed sync dropped still reads well
//! until the power goes.
//!
//! The first segment may be all trimmed and half overwritten: when the power went while its next lap was begun, its old
//! head can be there and other pages not. So it counts only when all of it is right.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::batch_reader::{Batch, Window, next_used};
use super::format::{ALIGN, HEADER_MAX, Header, Opener, SEGMENT_HEAD, SegmentHead};
use super::segment::{segment_number, zero};
use super::state::{Live, Segment};
use windlass_base::rt::{Disk, OpenHow};
use windlass_base::{Error, Kind, Lsn, Result, ResultExt as _};

/// Bytes without a batch after which an unused file is read no further: more than two of the largest batches
/// take. A large file that was only made ready is not read to its end.
const SILENCE: u64 = 10 << 20;

/// The state of a journal, as recovery found it in the folder.
#[derive(Debug)]
pub struct Found {
    pub header: Header,
    pub live: VecDeque<Live>,
    pub fresh: Vec<Segment>,
    /// The number of the next new segment.
    pub next_number: u64,
    pub end: Lsn,
    pub mark: Lsn,
    /// Path and offset at which the first segment is damaged, so that the records before the rest are not here.
    pub spoilt: Option<(PathBuf, u64)>,
    /// Is true if some of `fresh` may hold records that somebody needs: laps do not follow each other up to the
    /// last, or there are batches without a head.
    pub doubtful: bool,
}

struct Tail {
    end: u64,
    last: Lsn,
    mark: Lsn,
    /// Offset from which on no batch says that these bytes were synced.
    unsure: u64,
}

impl Tail {
    /// Returns the tail of a segment of which no batch has been looked at.
    fn of(live: &Live) -> Tail {
        Tail { end: SEGMENT_HEAD, last: live.head.before, mark: live.head.mark, unsure: SEGMENT_HEAD }
    }
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    header: Header,
    opener: Opener,
}

/// Reads the header; `None` when there is no journal.
pub async fn read_header(disk: &dyn Disk, dir: &std::path::Path) -> Result<Option<Header>> {
    let path = dir.join("header");
    let bytes = match disk.read(&path, HEADER_MAX).await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| format!("reading {}", path.display()))?,
    };
    let damaged = |e: Error| match e.kind() {
        Kind::Unsupported => e,
        _ => Error::new(Kind::Corrupt, format!("{} is damaged ({e}). {STAYS}", path.display())),
    };
    Header::decode(&bytes).map(Some).map_err(damaged)
}

/// The advice that each error of damage gives. Whatever else can be done depends on why the journal is opened:
/// the caller adds that.
const STAYS: &str = "It was left as it is: bring back an intact copy";

pub fn damaged(path: &std::path::Path, offset: u64) -> Error {
    let why = format!("the journal is damaged at byte {offset} of {}. {STAYS}", path.display());
    Error::new(Kind::Corrupt, why)
}

/// Finds out which segments and records there are, and makes the tail safe to append to.
pub async fn recover(disk: &dyn Disk, dir: PathBuf, header: Header, opener: Opener) -> Result<Found> {
    let doing = || format!("opening the journal in {}", dir.display());
    Recovery { disk, dir: dir.clone(), header, opener }.run().await.map_err(|e| e.context(doing()))
}

impl Recovery<'_> {
    async fn run(self) -> Result<Found> {
        let mut used = Vec::new();
        let mut unused = Vec::new();
        let mut next_number = 1;
        for name in self.disk.list(&self.dir).await? {
            let Some(number) = segment_number(&name) else { continue };
            next_number = next_number.max(number + 1);
            match self.open_segment(name).await? {
                Some((segment, Some(head))) => used.push((segment, head)),
                Some((segment, None)) => unused.push(segment),
                None => {}
            }
        }
        if self.header.is_void() {
            return self.nothing(unused, next_number).await;
        }
        // Segments are made before the header, and some always stay: where there is none, its records are lost.
        if used.is_empty() && unused.is_empty() {
            let why = format!("{} has a header and none of its segments. {STAYS}", self.dir.display());
            return Err(Error::new(Kind::Corrupt, why));
        }
        used.sort_by_key(|(_, head)| head.lap);
        // Laps are overwritten oldest first: those in use follow each other up to the last one.
        let run = used.windows(2).rposition(|pair| pair[0].1.lap + 1 != pair[1].1.lap).map_or(0, |n| n + 1);
        let fresh: Vec<Segment> = used.drain(..run).map(|(segment, _)| segment).collect();
        let mut live = VecDeque::new();
        let mut used = used.into_iter().peekable();
        while let Some((segment, head)) = used.next() {
            let (end, last) =
                used.peek().map_or((SEGMENT_HEAD, head.before), |(_, n)| (n.before_end, n.before));
            live.push_back(Live { segment, head, end, last });
        }
        let mut end = Lsn(self.header.first_lsn.0 - 1);
        let mut mark = self.header.mark;
        let mut doubtful = run > 0;
        if let Some(current) = live.back_mut() {
            let tail = self.scan(current).await?;
            doubtful |= self.refuse_evidence(&unused, tail.last).await?;
            self.settle(current, &tail).await?;
            (current.end, current.last) = (tail.end, tail.last);
            (end, mark) = (tail.last, mark.max(tail.mark));
        } else {
            doubtful |= self.refuse_evidence(&unused, end).await?;
        }
        let mut spoilt = None;
        // A loss of power while the oldest segment was overwritten leaves it damaged. A further loss may have
        // damaged the next one.
        while live.len() > 1
            && let Some(at) = self.spoilt_at(&live[0]).await?
            && let Some(first) = live.pop_front()
        {
            spoilt = Some((self.dir.join(&first.segment.name), at));
            unused.push(first.segment);
        }
        unused.extend(fresh);
        Ok(Found { header: self.header, live, fresh: unused, next_number, end, mark, spoilt, doubtful })
    }

    /// Removes all segments: a void journal has no records, and its disk has no room for them.
    async fn nothing(self, unused: Vec<Segment>, next_number: u64) -> Result<Found> {
        for Segment { name, .. } in unused {
            let path = self.dir.join(name);
            self.disk.remove(&path).await.context(|| format!("removing {}", path.display()))?;
        }
        let (end, mark) = (Lsn(self.header.first_lsn.0 - 1), self.header.mark);
        let (live, fresh, spoilt) = (VecDeque::new(), Vec::new(), None);
        Ok(Found { header: self.header, live, fresh, next_number, end, mark, spoilt, doubtful: false })
    }

    /// Returns the offset at which a segment that others follow differs from what it was when they were begun;
    /// `None` when all of it is right.
    async fn spoilt_at(&self, live: &Live) -> Result<Option<u64>> {
        let doing = || format!("reading {}", self.dir.join(&live.segment.name).display());
        let mut window = Window::new(live.segment.file.clone());
        let mut tail = Tail::of(live);
        while tail.end < live.end {
            let batch = self.good_batch(&mut window, live, &tail).await.context(doing)?;
            let Some(batch) = batch.filter(|b| b.end() <= live.end) else { return Ok(Some(tail.end)) };
            (tail.end, tail.last) = (batch.end(), batch.last());
        }
        Ok((tail.last != live.last).then_some(tail.end))
    }

    /// Opens a segment and reads its head, if it has one. `None` when the file was only half made: it is removed then.
    async fn open_segment(&self, name: String) -> Result<Option<(Segment, Option<SegmentHead>)>> {
        let path = self.dir.join(&name);
        let doing = || format!("opening {}", path.display());
        let file = self.disk.open_log(&path, OpenHow::Write).await.context(doing)?;
        let first = file.pread(0, ALIGN as usize).await.context(doing)?;
        let head = SegmentHead::decode(&first, self.header.journal);
        if head.is_some_and(|head| !head.is_counted()) {
            return Err(damaged(&path, 0));
        }
        let size = file.size().await.context(doing)? / ALIGN * ALIGN;
        let bytes = head.map_or(size, |head| head.bytes);
        // No segment was ever made smaller than the header says: promises of room count on that.
        if size < bytes || bytes < self.header.segment {
            if head.is_some() {
                return Err(damaged(&path, size));
            }
            self.disk.remove(&path).await.context(doing)?;
            return Ok(None);
        }
        Ok(Some((Segment { name, file, bytes }, head)))
    }

    /// Reads the batches of the last segment up to the first that isn't right. Refuses when a batch behind says
    /// that lost records were synced.
    async fn scan(&self, live: &Live) -> Result<Tail> {
        let path = self.dir.join(&live.segment.name);
        let doing = || format!("reading {}", path.display());
        let mut window = Window::new(live.segment.file.clone());
        let mut tail = Tail::of(live);
        // Offsets at which batches end, and the last lsn of each.
        let mut ends: VecDeque<(u64, Lsn)> = VecDeque::new();
        let mut synced = live.head.before;
        while let Some(batch) = self.good_batch(&mut window, live, &tail).await.context(doing)? {
            (tail.end, tail.last, tail.mark) = (batch.end(), batch.last(), tail.mark.max(batch.head.mark));
            synced = synced.max(batch.head.synced);
            // A batch without records has no lsn of its own: the sync of the next batch with records covers it.
            if batch.head.records > 0 {
                ends.push_back((tail.end, tail.last));
            }
            while ends.front().is_some_and(|(_, last)| *last <= synced) {
                tail.unsure = ends.pop_front().map_or(tail.unsure, |(end, _)| end);
            }
        }
        self.refuse_words(&mut window, tail.end..live.segment.bytes, tail.last, &path, u64::MAX).await?;
        Ok(tail)
    }

    async fn good_batch(&self, window: &mut Window, live: &Live, tail: &Tail) -> io::Result<Option<Batch>> {
        let bytes = live.segment.bytes;
        if tail.end + ALIGN > bytes {
            return Ok(None);
        }
        let Some(batch) = Batch::at(window, self.header.journal, tail.end).await? else { return Ok(None) };
        let head = &batch.head;
        let here = (head.lap, head.salt, head.before) == (live.head.lap, live.head.salt, tail.last);
        if !here || batch.end() > bytes || !batch.is_ordered() {
            return Ok(None);
        }
        let mut opener = self.opener.clone();
        let records = batch.whole(window, self.header.journal, &mut opener).await?;
        Ok(records.map(|_| batch))
    }

    /// Refuses when a batch from the start of the range on says that more than `last` was synced. Else returns
    /// whether there is any batch. Stops looking after `silence` bytes without one.
    async fn refuse_words(
        &self,
        window: &mut Window,
        range: Range<u64>,
        last: Lsn,
        path: &std::path::Path,
        silence: u64,
    ) -> Result<bool> {
        let doing = || format!("reading {}", path.display());
        let (mut at, mut heard, mut any) = (range.start, range.start, false);
        loop {
            let end = range.end.min(heard.saturating_add(silence));
            let Some(page) = next_used(window, at, end).await.context(doing)? else { return Ok(any) };
            if let Some(batch) = Batch::at(window, self.header.journal, page).await.context(doing)? {
                if batch.head.synced > last {
                    return Err(damaged(path, range.start));
                }
                (heard, any) = (page, true);
            }
            at = page + ALIGN;
        }
    }

    /// Refuses when a batch in an unused segment says that more than `last` was synced: a segment whose head is
    /// damaged looks unused, but its batches still speak. Returns whether there is any batch in them.
    async fn refuse_evidence(&self, unused: &[Segment], last: Lsn) -> Result<bool> {
        let mut any = false;
        for segment in unused {
            let mut window = Window::new(Arc::clone(&segment.file));
            let path = self.dir.join(&segment.name);
            any |= self.refuse_words(&mut window, 0..segment.bytes, last, &path, SILENCE).await?;
        }
        Ok(any)
    }

    /// Makes the records that were found durable, and zeroes what follows them.
    async fn settle(&self, live: &Live, tail: &Tail) -> Result<()> {
        let path = self.dir.join(&live.segment.name);
        let doing = || format!("writing {}", path.display());
        let file = &live.segment.file;
        let mut window = Window::new(file.clone());
        let mut at = if tail.unsure == SEGMENT_HEAD { 0 } else { tail.unsure };
        while at < tail.end {
            let len = (tail.end - at).min(1 << 20);
            let bytes = window.read(at, len).await.context(doing)?;
            file.pwrite(at, vec![bytes], false).await.context(doing)?;
            at += len;
        }
        file.sync().await.context(doing)?;
        let (mut from, mut to) = (None, tail.end);
        while let Some(page) = next_used(&mut window, to, live.segment.bytes).await.context(doing)? {
            from = from.or(Some(page));
            to = page + ALIGN;
        }
        if let Some(from) = from {
            zero(&**file, from, to).await.context(doing)?;
        }
        Ok(())
    }
}
