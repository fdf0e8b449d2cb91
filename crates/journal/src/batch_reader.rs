//! Reading segment files: the batches in them, each as it was found on the disk.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{ALIGN, BATCH_HEAD, BatchHead, Entry, Opener, RecordHead};
use super::state::ZEROS;
use windlass_base::JournalId;
use windlass_base::log_record::Record;
use windlass_base::rt::DiskFile;

/// Bytes read at once.
const WINDOW: u64 = 1 << 20;

/// A file that is read front to back with few and large reads.
pub struct Window {
    file: Arc<dyn DiskFile>,
    start: u64,
    bytes: Bytes,
}

impl Window {
    pub fn new(file: Arc<dyn DiskFile>) -> Window {
        Window { file, start: 0, bytes: Bytes::new() }
    }

    /// Reads `len` bytes from `at` on; fewer at the end of the file.
    pub async fn read(&mut self, at: u64, len: u64) -> std::io::Result<Bytes> {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at + len > end {
            self.bytes = self.file.pread(at, len.max(WINDOW) as usize).await?;
            self.start = at;
        }
        let from = ((at - self.start) as usize).min(self.bytes.len());
        let to = (from + len as usize).min(self.bytes.len());
        Ok(self.bytes.slice(from..to))
    }
}

/// A batch as found on the disk.
pub struct Batch {
    pub head: BatchHead,
    pub records: Vec<RecordHead>,
    at: u64,
}

impl Batch {
    /// Reads the heads of the batch that begins here; `None` when no batch of this journal does. Its bodies are not checked.
    pub async fn at(window: &mut Window, journal: JournalId, at: u64) -> std::io::Result<Option<Batch>> {
        let first = window.read(at, BATCH_HEAD as u64).await?;
        let Some(heads) = BatchHead::claims(&first) else { return Ok(None) };
        let bytes = window.read(at, heads as u64).await?;
        Ok(BatchHead::decode(&bytes, journal, at).map(|(head, records)| Batch { head, records, at }))
    }

    pub fn end(&self) -> u64 {
        self.at + self.head.size()
    }

    /// Reads the records of the batch with their bodies, as stored. `None` when lengths contradict each other
    /// or the file is too short.
    pub async fn entries(&self, window: &mut Window) -> std::io::Result<Option<Vec<Entry>>> {
        let from = self.at + self.head.bodies();
        let body = window.read(from, self.head.body.into()).await?;
        let mut at = 0usize;
        let mut out = Vec::with_capacity(self.records.len());
        for head in &self.records {
            let end = at.saturating_add(head.len as usize);
            if end > body.len() {
                return Ok(None);
            }
            out.push(Entry { head: *head, body: body.slice(at..end) });
            at = end;
        }
        Ok((at == self.head.body as usize).then_some(out))
    }

    /// Reads and opens the records of the batch; `None` when these bytes are not what was written. Each record
    /// has memory of its own: one read brings many records, and one that is kept would keep all of them in memory.
    pub async fn whole(
        &self,
        window: &mut Window,
        journal: JournalId,
        opener: &mut Opener,
    ) -> std::io::Result<Option<Vec<Record>>> {
        let Some(entries) = self.entries(window).await? else { return Ok(None) };
        let Some(seal) = opener.of(self.head.sealed) else { return Ok(None) };
        let own = |e: Entry| match seal {
            Some(_) => e,
            None => Entry { body: Bytes::copy_from_slice(&e.body), ..e },
        };
        Ok(entries.into_iter().map(|e| own(e).record(journal, seal.as_ref())).collect())
    }

    pub fn last(&self) -> windlass_base::Lsn {
        self.records.last().map_or(self.head.before, |r| r.lsn)
    }

    /// Tells whether lsns grow within the batch, from the lsn on that it says it follows.
    pub fn is_ordered(&self) -> bool {
        let before = std::iter::once(self.head.before).chain(self.records.iter().map(|r| r.lsn));
        before.zip(&self.records).all(|(before, r)| before < r.lsn) && self.last().is_counted()
    }
}

/// Finds the next page from `at` on that is not all zeros.
pub async fn next_used(window: &mut Window, mut at: u64, end: u64) -> std::io::Result<Option<u64>> {
    while at < end {
        let page = window.read(at, ALIGN).await?;
        if page.is_empty() {
            break;
        }
        if page != ZEROS[..page.len()] {
            return Ok(Some(at));
        }
        at += ALIGN;
    }
    Ok(None)
}
