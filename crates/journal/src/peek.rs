//! What a journal's folder holds, told without opening it: nothing is locked and nothing is changed. For people; what
//! is to be trusted is found by opening.

use std::path::Path;

use super::batch_reader::{Batch, Window};
use super::format::{ALIGN, Header, SEGMENT_HEAD, SegmentHead};
use super::recover::read_header;
use super::segment::segment_number;
use windlass_base::rt::{Disk, OpenHow};
use windlass_base::{Epoch, JournalId, Lsn, Result, ResultExt as _, VolumeId};

/// The contents of a journal's folder, as far as a look without a lock tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    pub volume: VolumeId,
    /// Is true if the journal belongs to an encrypted volume: its records are sealed.
    pub sealed: bool,
    /// Epochs that continue each other here, oldest first.
    pub lineage: Vec<Epoch>,
    /// Bytes that all records take.
    pub used: u64,
    /// Bytes of the records after the given lsn; more where older records share a segment with them.
    pub after: u64,
    /// Is true if there are records after the given lsn.
    pub any_after: bool,
    /// Lsn of the last record of all.
    pub last: Lsn,
}

/// Tells what the folder holds, and how much of it comes after `stored`; `None` when there is no journal.
pub async fn peek(disk: &dyn Disk, dir: &Path, stored: Lsn) -> Result<Option<Peek>> {
    let Some(header) = read_header(disk, dir).await? else { return Ok(None) };
    let doing = || format!("looking into {}", dir.display());
    let mut heads = Vec::new();
    for name in disk.list(dir).await.context(doing)? {
        if segment_number(&name).is_none() {
            continue;
        }
        let file = disk.open(&dir.join(&name), OpenHow::Read).await.context(doing)?;
        let first = file.pread(0, ALIGN as usize).await.context(doing)?;
        if let Some(head) = SegmentHead::decode(&first, header.journal) {
            heads.push((head, file));
        }
    }
    heads.sort_by_key(|(head, _)| head.lap);
    let run = heads.windows(2).rposition(|pair| pair[0].0.lap + 1 != pair[1].0.lap).map_or(0, |n| n + 1);
    let live = &heads[run..];
    let Header { volume, sealed, lineage, .. } = header.clone();
    let mut found = Peek { volume, sealed, lineage, ..Peek::default() };
    for pair in live.windows(2) {
        found.last = pair[1].0.before;
        let bytes = pair[1].0.before_end.saturating_sub(SEGMENT_HEAD);
        found.add(bytes, if pair[1].0.before > stored { bytes } else { 0 }, pair[1].0.before > stored);
    }
    if let Some((head, file)) = live.last() {
        let mut window = Window::new(file.clone());
        found.add_tail(&mut window, header.journal, head, stored).await.context(doing)?;
    }
    Ok(Some(found))
}

/// Tells whether there is a journal in the folder. Once its owner has discarded it or set it aside there is none.
pub async fn is_there(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    let names = disk.list_if_there(dir).await.context(|| format!("looking into {}", dir.display()))?;
    Ok(names.iter().any(|name| name == "header"))
}

impl Peek {
    fn add(&mut self, used: u64, after: u64, any_after: bool) {
        self.used += used;
        self.after += after;
        self.any_after |= any_after;
    }

    /// Counts the batches of the last segment, up to the first that isn't one.
    async fn add_tail(
        &mut self,
        window: &mut Window,
        journal: JournalId,
        head: &SegmentHead,
        stored: Lsn,
    ) -> std::io::Result<()> {
        let (mut at, mut before) = (SEGMENT_HEAD, head.before);
        while let Some(batch) = Batch::at(window, journal, at).await? {
            if (batch.head.lap, batch.head.salt, batch.head.before) != (head.lap, head.salt, before) {
                break;
            }
            let later = batch.records.iter().filter(|r| r.lsn > stored);
            let after = later.map(|r| u64::from(r.len)).sum();
            self.add(batch.end() - at, after, batch.last() > stored);
            self.last = batch.last();
            (at, before) = (batch.end(), batch.last());
        }
        Ok(())
    }
}
