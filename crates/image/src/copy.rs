//! From a source to a target: many pieces at a time, zeros left out, and where it stands told in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::piece_source::{Content, Piece, Source};
use windlass_base::Result;
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::{Rt, Task};

/// Most bytes of zeros that are given to a target at once, and most bytes of which a target is asked what it holds.
const ZEROS_MAX: u64 = 1 << 30;

/// A disk that an image is written to.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    async fn read(&self, offset: u64, len: u64) -> Result<Bytes>;
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;
    async fn zero(&self, offset: u64, len: u64) -> Result<()>;
    async fn flush(&self) -> Result<()>;
    /// Returns the parts of the range that hold data, in order; all else reads as zeros.
    async fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>>;
}

/// Progress of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilledTo {
    /// Offset up to which all of the disk is in the target, if not yet flushed.
    pub position: u64,
    /// Bytes of the source that are not zero and were not in the target already as a base.
    pub written: u64,
}

/// An observer of a copy, which also does what is due from time to time.
#[async_trait]
pub trait CopyWatch: Send {
    /// Tells that the disk has at least so many bytes. It is called where the size shows only while the disk
    /// is read.
    async fn grow(&mut self, size: u64) -> Result<()>;
    async fn reached(&mut self, copied: FilledTo) -> Result<()>;
}

pub struct DiskCopy {
    pub rt: Rt,
    pub target: Arc<dyn Target>,
    /// The target holds something already: only what differs is written. Otherwise it reads as zeros, or as
    /// the source where an earlier run was cut off.
    pub has_base: bool,
}

impl DiskCopy {
    /// Copies all that the source has, from `from` on. The target is not flushed afterwards.
    pub fn run<'f>(
        &'f self,
        source: &'f mut dyn Source,
        from: u64,
        watch: &'f mut dyn CopyWatch,
    ) -> BoxFuture<'f, Result<FilledTo>> {
        Box::pin(async move {
            let pieces_max = source.pieces_max().max(2);
            let is_open_ended = source.size().is_none();
            let mut copied = FilledTo { position: from, written: 0 };
            let (mut under_way, mut ended) = (VecDeque::new(), false);
            source.skip_to(from);
            while !ended {
                // Growing costs a few round trips to the stores: a disk of no known size does it seldom.
                let batch = if is_open_ended { pieces_max / 2 } else { 1 };
                let mut pieces = Vec::with_capacity(batch);
                while pieces.len() < batch && !ended {
                    match source.next().await? {
                        Some(piece) => pieces.push(piece),
                        None => ended = true,
                    }
                }
                if let Some(last) = pieces.last().filter(|_| is_open_ended) {
                    watch.grow(last.offset + last.len).await?;
                }
                for piece in pieces {
                    if under_way.len() >= pieces_max {
                        self.take(&mut under_way, &mut copied, watch, true).await?;
                    }
                    let end = piece.offset + piece.len;
                    under_way.push_back((end, self.begin(piece)));
                }
                while self.take(&mut under_way, &mut copied, watch, false).await? {}
            }
            while self.take(&mut under_way, &mut copied, watch, true).await? {}
            Ok(copied)
        })
    }

    /// Makes zeros of what the target has in the range.
    pub fn erase(&self, range: Range<u64>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { erase(&*self.target, range).await.map(drop) })
    }

    /// Takes the oldest piece under way: waits for it if `waits`, else takes it only if it is done. Returns
    /// whether one was taken.
    async fn take(
        &self,
        under_way: &mut VecDeque<(u64, Task<Result<u64>>)>,
        copied: &mut FilledTo,
        watch: &mut dyn CopyWatch,
        waits: bool,
    ) -> Result<bool> {
        // Pieces are taken in the order of the disk. The position must not pass a piece that is still under way: a run
        // that goes on from the position would never write that piece.
        let Some((end, oldest)) = under_way.front_mut() else { return Ok(false) };
        let done = match waits {
            true => oldest.await,
            false => match oldest.now_or_never() {
                Some(done) => done,
                None => return Ok(false),
            },
        };
        copied.written += done??;
        copied.position = *end;
        under_way.pop_front();
        watch.reached(*copied).await?;
        Ok(true)
    }

    fn begin(&self, piece: Piece) -> Task<Result<u64>> {
        let (target, has_base) = (self.target.clone(), self.has_base);
        self.rt.spawn(async move {
            let Piece { offset, len, content } = piece;
            match content {
                Content::Zero if has_base => erase(&*target, offset..offset + len).await,
                Content::Zero => Ok(0),
                Content::Data(read) if has_base => write_what_differs(&*target, offset, read.await?).await,
                Content::Data(read) => write_all(&*target, offset, read.await?).await,
            }
        })
    }
}

/// Makes zeros of what the target has in the range. Returns 0: zeros don't count as written.
async fn erase(target: &dyn Target, range: Range<u64>) -> Result<u64> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + ZEROS_MAX);
        for data in target.data(at..end).await? {
            target.zero(data.start, data.end - data.start).await?;
        }
        at = end;
    }
    Ok(0)
}

/// Writes all blocks but zeros, as runs.
async fn write_all(target: &dyn Target, offset: u64, data: Bytes) -> Result<u64> {
    let mut written = 0;
    for run in runs(offset, data.len(), |block| !is_zero(&data[block])) {
        written += (run.end - run.start) as u64;
        target.write(offset + run.start as u64, data.slice(run)).await?;
    }
    Ok(written)
}

/// Writes the blocks that differ from the target's, as runs. The target is read where it has data.
async fn write_what_differs(target: &dyn Target, offset: u64, data: Bytes) -> Result<u64> {
    let (end, mut at, mut written) = (offset + data.len() as u64, offset, 0);
    let part = |from: u64, to: u64| (from, data.slice((from - offset) as usize..(to - offset) as usize));
    for there in target.data(offset..end).await? {
        // Whole blocks: a part of one is no run of its own.
        let from = (there.start / BLOCK * BLOCK).max(at);
        let to = there.end.next_multiple_of(BLOCK).min(end);
        if from >= to {
            continue;
        }
        let (before, hole) = part(at, from);
        written += write_all(target, before, hole).await?;
        let (here, wanted) = part(from, to);
        let has = target.read(here, to - from).await?;
        for run in runs(here, wanted.len(), |b| wanted[b.clone()] != has[b.clone()] && is_zero(&wanted[b])) {
            target.zero(here + run.start as u64, (run.end - run.start) as u64).await?;
        }
        for run in runs(here, wanted.len(), |b| wanted[b.clone()] != has[b.clone()] && !is_zero(&wanted[b])) {
            written += (run.end - run.start) as u64;
            target.write(here + run.start as u64, wanted.slice(run)).await?;
        }
        at = to;
    }
    let (rest, hole) = part(at, end);
    Ok(written + write_all(target, rest, hole).await?)
}

/// Returns the runs of wanted blocks in `len` bytes that lie at `offset`. The runs are relative to `offset`.
fn runs(offset: u64, len: usize, wanted: impl Fn(Range<usize>) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < len {
        let end = (at + (BLOCK - (offset + at as u64) % BLOCK) as usize).min(len);
        if wanted(at..end) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw_source::Raw;
    use crate::read_at::InMemory;
    use parking_lot::Mutex;
    use windlass_base::rt::sim::Sim;

    /// A disk in memory, and what was asked of it.
    #[derive(Default)]
    struct Disk {
        bytes: Mutex<Vec<u8>>,
        written: Mutex<u64>,
        read: Mutex<u64>,
    }

    #[async_trait]
    impl Target for Disk {
        async fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
            *self.read.lock() += len;
            Ok(Bytes::copy_from_slice(&self.bytes.lock()[offset as usize..][..len as usize]))
        }
        async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
            *self.written.lock() += data.len() as u64;
            self.bytes.lock()[offset as usize..][..data.len()].copy_from_slice(&data);
            Ok(())
        }
        async fn zero(&self, offset: u64, len: u64) -> Result<()> {
            self.bytes.lock()[offset as usize..][..len as usize].fill(0);
            Ok(())
        }
        async fn flush(&self) -> Result<()> {
            Ok(())
        }
        async fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
            let bytes = self.bytes.lock();
            let part = &bytes[range.start as usize..range.end as usize];
            let runs = runs(range.start, part.len(), |block| !is_zero(&part[block]));
            Ok(runs.iter().map(|r| range.start + r.start as u64..range.start + r.end as u64).collect())
        }
    }

    struct Nobody(Vec<u64>);

    #[async_trait]
    impl CopyWatch for Nobody {
        async fn grow(&mut self, _: u64) -> Result<()> {
            Ok(())
        }
        async fn reached(&mut self, copied: FilledTo) -> Result<()> {
            self.0.push(copied.position);
            Ok(())
        }
    }

    fn copy(has_base: bool, target: &Arc<Disk>, image: &[u8], from: u64) -> FilledTo {
        let (target, image) = (target.clone(), Bytes::copy_from_slice(image));
        let sim = Sim::new(7);
        let rt = sim.rt();
        let run = async move {
            let mut source = Raw::new(Arc::new(InMemory(image)));
            let mut watch = Nobody(Vec::new());
            let copied = DiskCopy { rt, target, has_base }.run(&mut source, from, &mut watch).await.unwrap();
            assert!(watch.0.is_sorted() && watch.0.last() == Some(&copied.position));
            copied
        };
        sim.run(run).unwrap()
    }

    fn image() -> Vec<u8> {
        let mut image = vec![0; 5 << 20];
        for (at, byte) in [(0, 1), (9000, 2), (1 << 20, 3), ((4 << 20) + 5000, 4)] {
            image[at] = byte;
        }
        image
    }

    #[test]
    fn zeros_are_not_written() {
        let disk = Arc::new(Disk { bytes: Mutex::new(vec![0; 5 << 20]), ..Disk::default() });
        let copied = copy(false, &disk, &image(), 0);
        assert_eq!(copied, FilledTo { position: 5 << 20, written: 4 * 4096 });
        assert!(*disk.bytes.lock() == image());
        assert_eq!((*disk.written.lock(), *disk.read.lock()), (4 * 4096, 0));
    }

    #[test]
    fn of_a_base_only_what_differs_is_written() {
        let base: Vec<u8> = (0..5u32 << 20).map(|n| u8::from(n % (2 << 20) < 1 << 20)).collect();
        let disk = Arc::new(Disk { bytes: Mutex::new(base.clone()), ..Disk::default() });
        let mut patched = base;
        patched[100..300].fill(9);
        patched[(2 << 20)..(2 << 20) + 8192].fill(0);
        patched[(3 << 20) + 7] = 1;
        let copied = copy(true, &disk, &patched, 0);
        assert!(*disk.bytes.lock() == patched);
        assert_eq!(copied.written, 2 * 4096);
        assert_eq!(*disk.written.lock(), 2 * 4096);
        assert_eq!(*disk.read.lock(), 3 << 20, "where it holds nothing it is not read");
    }

    #[test]
    fn it_goes_on_from_where_it_was() {
        let disk = Arc::new(Disk { bytes: Mutex::new(vec![0; 5 << 20]), ..Disk::default() });
        copy(false, &disk, &image(), 1 << 20);
        assert!(disk.bytes.lock()[..1 << 20].iter().all(|b| *b == 0), "what lies before was not read");
        assert!(disk.bytes.lock()[1 << 20..] == image()[1 << 20..]);
    }
}
