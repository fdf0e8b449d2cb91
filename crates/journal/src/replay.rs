//! Reading back what was here when the journal was opened, piece by piece.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::batch_reader::{Batch, Window};
use super::format::{Opener, SEGMENT_HEAD};
use super::recover::damaged;
use super::state::Live;
use windlass_base::log_record::Record;
use windlass_base::{Error, JournalId, Kind, Lsn, Result, ResultExt as _};

/// A walk over the records of a journal in lsn order. It holds one batch in memory.
pub struct Replay {
    dir: PathBuf,
    journal: JournalId,
    opener: Opener,
    after: Lsn,
    first: Lsn,
    /// Path and offset of the damage in the segment that held the records before the rest.
    spoilt: Option<(PathBuf, u64)>,
    segments: VecDeque<Live>,
    reading: Option<Reading>,
    records: VecDeque<Record>,
}

struct Reading {
    live: Live,
    window: Window,
    at: u64,
    last: Lsn,
}

impl Replay {
    pub(super) fn new(
        dir: PathBuf,
        (journal, opener): (JournalId, Opener),
        after: Lsn,
        first: Lsn,
        spoilt: Option<(PathBuf, u64)>,
        live: VecDeque<Live>,
    ) -> Replay {
        let segments = live.into_iter().filter(|l| l.last > after).collect();
        Replay {
            dir,
            journal,
            opener,
            after,
            first,
            spoilt,
            segments,
            reading: None,
            records: VecDeque::new(),
        }
    }

    /// Returns the next record; `None` after the last. `Corrupt` when a record that belongs here is damaged or
    /// missing; all records before it were right.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        if self.after.next() < self.first {
            if let Some((path, at)) = &self.spoilt {
                return Err(damaged(path, *at));
            }
            let why = format!(
                "the journal in {} begins at write {}, but those after {} are needed: it is not this volume's \
                 latest, or one of its files is missing",
                self.dir.display(),
                self.first,
                self.after
            );
            return Err(Error::new(Kind::Corrupt, why));
        }
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            if self.reading.is_none() {
                let Some(live) = self.segments.pop_front() else { return Ok(None) };
                let window = Window::new(live.segment.file.clone());
                self.reading = Some(Reading { at: SEGMENT_HEAD, last: live.head.before, window, live });
            }
            self.read_batch().await?;
        }
    }

    async fn read_batch(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let path = self.dir.join(&reading.live.segment.name);
        let at = reading.at;
        if at < reading.live.end {
            // An error changes nothing here: a second call reads this batch again and skips no record.
            let list = reading.batch(self.journal, &mut self.opener).await;
            let list = list.context(|| format!("reading {}", path.display()))?;
            let list = list.ok_or_else(|| damaged(&path, at))?;
            self.records.extend(list.into_iter().filter(|r| r.lsn > self.after));
        } else if reading.last == reading.live.last {
            self.reading = None;
        } else {
            return Err(damaged(&path, at));
        }
        Ok(())
    }
}

impl Reading {
    async fn batch(
        &mut self,
        journal: JournalId,
        opener: &mut Opener,
    ) -> std::io::Result<Option<Vec<Record>>> {
        let Some(batch) = Batch::at(&mut self.window, journal, self.at).await? else { return Ok(None) };
        let (head, live) = (&batch.head, &self.live);
        let here = (head.lap, head.salt, head.before) == (live.head.lap, live.head.salt, self.last);
        if !here || batch.end() > live.end || !batch.is_ordered() {
            return Ok(None);
        }
        let Some(records) = batch.whole(&mut self.window, journal, opener).await? else { return Ok(None) };
        (self.at, self.last) = (batch.end(), batch.last());
        Ok(Some(records))
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replay of {} after {}", self.dir.display(), self.after)
    }
}
