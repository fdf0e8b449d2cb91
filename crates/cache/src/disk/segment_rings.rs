//! The cache's file: filling segments, and choosing which is filled anew when none is free.
//!
//! Two queues of segments, oldest first. What is fetched goes to the *new* ones; what was asked for there before its segment
//! is needed again is moved to the *proven* ones, and so is what comes back soon after it went. New segments are used up
//! first while they are more than a tenth: who reads much once can't push out what is read again and again (S3-FIFO, a
//! segment at a time). A proven frame stays another round when it was asked for in the last one.
//!
//! One free segment is kept, so that what is moved out of one always has room.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, END, ENTRY, End, HEAD, Head, ROW, Ring, Row};
use super::index::Spot;
use super::shared::{Item, NAME, Shared};
use crate::FrameKey;
use windlass_base::rt::{DiskFile, OpenHow};
use windlass_base::{Result, ResultExt as _};

/// Share of the new segments in all, one in so many, above which a new one is used up first.
const NEW_SHARE: usize = 10;
/// Number of new segments that stay, however few there are in all.
const NEW_MIN: usize = 2;
/// Bytes of one write.
const WRITE: usize = 512 << 10;
/// Rounds in which frames are moved to make one segment free; after that they are dropped.
const MOVES: u32 = 4;

/// A segment that is being filled.
#[derive(Debug)]
struct Filling {
    ring: Ring,
    segment: u16,
    generation: u64,
    /// Bytes of the segment that are written; `waiting` follows them.
    at: u64,
    waiting: Vec<u8>,
    /// Number in `rows` of the first frame that waits. The index learns of these frames once they are
    /// written.
    waiting_from: usize,
    rows: Vec<Row>,
}

/// The file's segments, see the module.
#[derive(Debug)]
pub(super) struct Segments {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    generation: u64,
    free: Vec<u16>,
    new: VecDeque<u16>,
    proven: VecDeque<u16>,
    filling: [Option<Filling>; 2],
}

/// A segment as a restart finds it.
struct FoundSegment {
    segment: u16,
    head: Head,
    rows: Vec<Row>,
}

impl Segments {
    /// Opens the file and finds again what is in it.
    pub async fn open(shared: &Arc<Shared>) -> Result<Segments> {
        let path = shared.dir.join(NAME);
        let doing = || format!("opening {}", path.display());
        shared.disk.create_dir(&shared.dir).await.context(doing)?;
        let file = shared.disk.open(&path, OpenHow::Create).await.context(doing)?;
        let bytes_max = u64::from(shared.count) * shared.segment;
        let size = file.size().await.context(doing)?;
        if size > bytes_max {
            file.set_len(bytes_max).await.context(doing)?;
        }
        let mut segments = Segments {
            shared: shared.clone(),
            file,
            generation: 0,
            free: Vec::new(),
            new: VecDeque::new(),
            proven: VecDeque::new(),
            filling: [None, None],
        };
        segments.recover(size.min(bytes_max)).await?;
        Ok(segments)
    }

    pub fn file(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    async fn pread(&self, segment: u16, at: u64, len: usize) -> Result<Bytes> {
        Ok(self.file.pread(u64::from(segment) * self.shared.segment + at, len).await?)
    }

    async fn pwrite(&self, segment: u16, at: u64, bytes: Vec<u8>) -> Result<()> {
        let at = u64::from(segment) * self.shared.segment + at;
        self.file.pwrite(at, vec![bytes.into()], false).await.context(|| "writing to it".to_owned())
    }

    async fn recover(&mut self, size: u64) -> Result<()> {
        let mut found = Vec::new();
        for segment in 0..self.shared.count {
            let begun = u64::from(segment) * self.shared.segment < size;
            match if begun { self.look_at(segment).await? } else { None } {
                Some(one) => found.push(one),
                None => self.free.push(segment),
            }
        }
        // The lowest first: a file that was never full stays as small as it can.
        self.free.reverse();
        found.sort_by_key(|f| f.head.generation);
        for FoundSegment { segment, head, rows } in found {
            self.generation = self.generation.max(head.generation);
            let mut state = self.shared.state.lock();
            for Row { hash, at, len } in rows {
                state.index.insert(hash, Spot { segment, at, len, uses: 0 });
            }
            drop(state);
            self.ring(head.ring).push_back(segment);
        }
        Ok(())
    }

    fn ring(&mut self, ring: Ring) -> &mut VecDeque<u16> {
        match ring {
            Ring::New => &mut self.new,
            Ring::Proven => &mut self.proven,
        }
    }

    async fn look_at(&self, segment: u16) -> Result<Option<FoundSegment>> {
        let Some(head) = Head::decode(&self.pread(segment, 0, HEAD).await?) else { return Ok(None) };
        if head.size != self.shared.segment {
            return Ok(None);
        }
        if let Some(rows) = self.table(segment, head.generation).await? {
            return Ok(Some(FoundSegment { segment, head, rows }));
        }
        let rows = self.walk(segment, head.generation).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let at = rows.last().map_or(HEAD as u64, |r| u64::from(r.at) + format::room(r.len as usize));
        self.close(segment, head.generation, at, &rows).await?;
        Ok(Some(FoundSegment { segment, head, rows }))
    }

    /// Reads the table of a segment that was closed.
    async fn table(&self, segment: u16, generation: u64) -> Result<Option<Vec<Row>>> {
        let size = self.shared.segment;
        let end = End::decode(&self.pread(segment, size - END as u64, END).await?);
        let fits = |e: &End| u64::from(e.at) + e.table_len() <= size - END as u64;
        let Some(end) = end.filter(|e| e.generation == generation && fits(e)) else { return Ok(None) };
        let table = self.pread(segment, end.at.into(), end.table_len() as usize).await?;
        let sound = |r: &Row| u64::from(r.at) + (ENTRY as u64) + u64::from(r.len) <= u64::from(end.at);
        Ok(end.rows(&table).filter(|rows| rows.iter().all(sound)))
    }

    /// Walks the entries of a segment that was not closed.
    async fn walk(&self, segment: u16, generation: u64) -> Result<Vec<Row>> {
        let (mut rows, mut at) = (Vec::new(), HEAD as u64);
        loop {
            let bytes = self.pread(segment, at, ENTRY).await?;
            let Some((key, len)) = format::entry_head(&bytes, generation) else { return Ok(rows) };
            let next = at + format::room(len as usize);
            if next + ((rows.len() + 1) * ROW + END) as u64 > self.shared.segment {
                return Ok(rows);
            }
            rows.push(Row { hash: format::hash(&key), at: at as u32, len });
            at = next;
        }
    }

    async fn close(&self, segment: u16, generation: u64, at: u64, rows: &[Row]) -> Result<()> {
        let table = format::encode_table(rows);
        let end = End::of(generation, at as u32, &table).encode();
        self.pwrite(segment, at, table).await?;
        self.pwrite(segment, self.shared.segment - END as u64, end).await
    }

    /// Writes these frames.
    pub async fn take(&mut self, items: Vec<Item>) -> Result<()> {
        for Item { key, hash, frame, proven } in items {
            if self.shared.is_off() {
                return Ok(());
            }
            let ring = if proven { Ring::Proven } else { Ring::New };
            self.append(ring, &key, hash, &frame).await?;
        }
        self.write_out(Ring::New).await?;
        self.write_out(Ring::Proven).await
    }

    async fn append(&mut self, ring: Ring, key: &FrameKey, hash: u64, frame: &[u8]) -> Result<()> {
        // The index is full before the file is: single blocks.
        for may_move in [true, false] {
            if self.shared.state.lock().index.is_full() {
                self.empty_oldest(may_move).await?;
            }
        }
        if !self.fits(ring, frame.len()) {
            self.finish(ring).await?;
            let segment = self.free_segment().await?;
            self.begin(ring, segment);
            if !self.fits(ring, frame.len()) {
                return Ok(());
            }
        }
        if self.add(ring, key, hash, frame) >= WRITE {
            self.write_out(ring).await?;
        }
        Ok(())
    }

    /// Tells whether the segment that is being filled has room for a frame of `len` bytes.
    fn fits(&self, ring: Ring, len: usize) -> bool {
        self.filling[ring as usize].as_ref().is_some_and(|f| {
            let rows = ((f.rows.len() + 1) * ROW + END) as u64;
            f.at + f.waiting.len() as u64 + format::room(len) + rows <= self.shared.segment
        })
    }

    /// Adds a frame to the segment that is being filled. Returns the bytes that wait to be written now.
    fn add(&mut self, ring: Ring, key: &FrameKey, hash: u64, frame: &[u8]) -> usize {
        let f = self.filling[ring as usize].as_mut().expect("a segment is begun before it is filled");
        let at = (f.at + f.waiting.len() as u64) as u32;
        format::put_entry(&mut f.waiting, f.generation, key, frame);
        f.rows.push(Row { hash, at, len: frame.len() as u32 });
        f.waiting.len()
    }

    fn begin(&mut self, ring: Ring, segment: u16) {
        self.generation += 1;
        let head = Head { ring, generation: self.generation, size: self.shared.segment };
        self.filling[ring as usize] = Some(Filling {
            ring,
            segment,
            generation: self.generation,
            at: 0,
            waiting: head.encode(),
            waiting_from: 0,
            rows: Vec::new(),
        });
    }

    /// Writes what waits. The index learns of the frames after that.
    async fn write_out(&mut self, ring: Ring) -> Result<()> {
        let Some(f) = self.filling[ring as usize].as_mut().filter(|f| !f.waiting.is_empty()) else {
            return Ok(());
        };
        let (segment, at, bytes) = (f.segment, f.at, std::mem::take(&mut f.waiting));
        let from = std::mem::replace(&mut f.waiting_from, f.rows.len());
        f.at += bytes.len() as u64;
        // The index learns of frames only when they lie in the file: a look-up would read what was there before, and
        // count it as damage.
        self.pwrite(segment, at, bytes).await?;
        if let Some(f) = &self.filling[ring as usize] {
            let mut state = self.shared.state.lock();
            for Row { hash, at, len } in &f.rows[from..] {
                state.index.insert(*hash, Spot { segment, at: *at, len: *len, uses: 0 });
            }
        }
        Ok(())
    }

    /// Closes the segment that is being filled.
    async fn finish(&mut self, ring: Ring) -> Result<()> {
        self.write_out(ring).await?;
        if let Some(f) = self.filling[ring as usize].take() {
            self.close(f.segment, f.generation, f.at, &f.rows).await?;
            self.ring(f.ring).push_back(f.segment);
        }
        Ok(())
    }

    /// Returns a segment to fill, and leaves one free.
    async fn free_segment(&mut self) -> Result<u16> {
        let mut rounds = 0;
        while self.free.len() < 2 {
            if !self.empty_oldest(rounds < MOVES).await? {
                // All are being filled but this one.
                break;
            }
            rounds += 1;
        }
        Ok(self.free.pop().expect("four segments at least, two of them being filled"))
    }

    /// Makes the segment free whose turn it is. False: none is full yet.
    async fn empty_oldest(&mut self, may_move: bool) -> Result<bool> {
        let all = self.new.len() + self.proven.len();
        let from_new = self.new.len() > (all / NEW_SHARE).max(NEW_MIN) || self.proven.is_empty();
        let ring = if from_new { Ring::New } else { Ring::Proven };
        match self.ring(ring).pop_front() {
            Some(segment) => self.empty(segment, ring, may_move).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes the frames of a segment out of it. Those that were asked for are moved, if `may_move`.
    async fn empty(&mut self, segment: u16, ring: Ring, may_move: bool) -> Result<()> {
        let head = Head::decode(&self.pread(segment, 0, HEAD).await?);
        let rows = match head {
            Some(head) => self.table(segment, head.generation).await?,
            None => None,
        };
        let Some(rows) = rows else {
            self.shared.state.lock().index.remove_segment(segment);
            self.free.insert(0, segment);
            return Ok(());
        };
        for Row { hash, at, len } in rows {
            let there = Spot { segment, at, len, uses: 0 };
            let Some(spot) = self.shared.state.lock().index.remove_at(hash, &there) else { continue };
            if spot.uses > 0 && may_move {
                self.keep(spot, hash).await?;
            } else if ring == Ring::New {
                self.shared.state.lock().index.remember(hash);
            }
        }
        self.write_out(Ring::Proven).await?;
        self.free.insert(0, segment);
        Ok(())
    }

    async fn keep(&mut self, spot: Spot, hash: u64) -> Result<()> {
        let Some((key, frame)) = self.shared.read(&*self.file, &spot).await? else { return Ok(()) };
        if !self.fits(Ring::Proven, frame.len()) {
            self.finish(Ring::Proven).await?;
            // The one that was kept for this.
            let Some(segment) = self.free.pop() else { return Ok(()) };
            self.begin(Ring::Proven, segment);
        }
        if self.add(Ring::Proven, &key, hash, &frame) >= WRITE {
            self.write_out(Ring::Proven).await?;
        }
        Ok(())
    }
}
