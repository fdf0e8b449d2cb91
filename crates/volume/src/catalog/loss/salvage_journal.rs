//! A new volume from a journal that was put aside: what its owner had acknowledged and another owner's volume doesn't have.
//!
//! The take-over froze the volume as it found it (`snapshot::frozen_by_take_over`); a clone of that snapshot with the
//! journal's later records on top is what the host that was shut out showed its clients at its end. Where the snapshot is
//! gone, only what the journal holds can be had: blocks without the volume around them, which the user must ask for.

use std::path::Path;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::catalog::volumes::{OpenMode, Volumes};
use crate::head::VolumeSettings;
use crate::session::frozen_by_take_over;
use windlass_base::format_limits::BLOCK;
use windlass_base::log_record::{Op, Record};
use windlass_base::{Error, Kind, Lsn, Name, Result, VolumeId};
use windlass_journal::{Journal, JournalConfig, Peek, Recovered, peek};
use windlass_keys::JournalKey;

/// Result of making a new volume from a journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Salvaged {
    /// The volume's name and the snapshot that the writes were made on; none: the rest reads as zeros.
    pub base: Option<(Name, Name)>,
    /// Writes and zeroings of the journal.
    pub records: u64,
    pub bytes: u64,
}

/// The snapshot onto which the journal's records are replayed, and the last record that the snapshot has.
struct VolumeContext {
    volume: Name,
    snapshot: Name,
    has: Lsn,
}

impl Volumes {
    /// Makes `new` of the journal in `dir`, which stays as it is. `Refused`: the journal is still its volume's, or (without
    /// `force`) there is nothing to put it on. All of it is in the pool on return, and the new volume released.
    pub fn salvage<'f>(
        &'f self,
        dir: &'f Path,
        new: &'f Name,
        force: bool,
    ) -> BoxFuture<'f, Result<Salvaged>> {
        Box::pin(async move {
            let engine = &self.engine;
            let key = self.key_of_journal(dir).await?;
            let config = JournalConfig { dir: dir.to_owned(), size: 1 << 40, segment: None, key };
            let Some((journal, found)) =
                Journal::open(engine.rt.clone(), engine.disk.clone(), config).await?
            else {
                let why =
                    format!("{} holds no journal: give the folder that the message named", dir.display());
                return Err(Error::new(Kind::NotFound, why));
            };
            let done = self.salvage_from(&journal, &found, dir, new, force).await;
            journal.close().await?;
            done
        })
    }

    /// Returns the key of the journal in `dir`; `None`: the journal is not sealed.
    async fn key_of_journal(&self, dir: &Path) -> Result<Option<JournalKey>> {
        let Some(Peek { volume, sealed: true, .. }) = peek(&*self.engine.disk, dir, Lsn(0)).await? else {
            return Ok(None);
        };
        let head =
            self.engine.cell(volume).read().await?.filter(|head| head.keys.is_some()).ok_or_else(|| {
                let why = format!(
                    "the journal in {} is of an encrypted volume that is gone, with its keys",
                    dir.display()
                );
                Error::new(Kind::NotFound, why)
            })?;
        if let Some(name) = self.named(volume).await? {
            self.engine.check_open(&name, &head).await?;
        }
        let keys = self.engine.keyring(&head)?;
        keys.access(volume).key().map(|_| keys.journal_key().cloned())
    }

    async fn salvage_from(
        &self,
        journal: &Journal,
        found: &Recovered,
        dir: &Path,
        new: &Name,
        force: bool,
    ) -> Result<Salvaged> {
        let context = self.ground_of(found, dir).await?;
        let after = match &context {
            Some(context) => context.has,
            None if force => Lsn(found.first_lsn.0.saturating_sub(1)),
            None => {
                let why = format!(
                    "there is no snapshot of what the volume was when it was taken over from the writer of {}: with \
                     --force the new volume holds what is in the journal alone and reads as zeros elsewhere",
                    dir.display()
                );
                return Err(Error::new(Kind::Refused, why));
            }
        };
        match &context {
            Some(g) => self.clone_snapshot(&g.volume, &g.snapshot, new).await?,
            None if journal.is_sealed() => {
                let why = format!(
                    "the journal in {} is of an encrypted volume, and what is made of it alone would not be: --force does not \
                     go with that",
                    dir.display()
                );
                return Err(Error::new(Kind::Refused, why));
            }
            None => self.create(new, extent(journal, after).await?, VolumeSettings::default()).await?,
        };
        let base = context.map(|g| (g.volume, g.snapshot));
        let filled = self.fill(journal, after, new).await.map_err(|e| {
            let new = self.engine.title(new);
            e.context(format!("{new} has only a part of the journal: remove it, then try again"))
        });
        filled.map(|(records, bytes)| Salvaged { base, records, bytes })
    }

    /// Replays the journal onto `new` and stores it; says how many records and bytes that were.
    async fn fill(&self, journal: &Journal, after: Lsn, new: &Name) -> Result<(u64, u64)> {
        let volume = self.open(new, OpenMode::Normal).await?;
        let (mut records, mut bytes) = (0, 0);
        let mut replay = journal.replay(after);
        while let Some(record) = replay.next().await? {
            let (start, end) = bytes_of(&record);
            let end = end.min(volume.size());
            if start >= end {
                continue;
            }
            match record.op {
                Op::Write { data, .. } => volume.write(start, data.slice(..(end - start) as usize)).await?,
                Op::Zero { .. } => volume.zero(start, end - start).await?,
                Op::Mark(_) => continue,
            }
            records += 1;
            bytes += end - start;
        }
        volume.release().await?;
        Ok((records, bytes))
    }

    /// Finds the snapshot that was frozen when the journal's last owner was shut out.
    async fn ground_of(&self, found: &Recovered, dir: &Path) -> Result<Option<VolumeContext>> {
        let Some(volume) = self.named(found.volume).await? else { return Ok(None) };
        let head = self.head(&volume, found.volume).await?;
        if found.lineage.contains(&head.active.epoch) {
            let why = format!(
                "the journal in {} belongs to volume {volume} as it is: opening the volume replays it, nothing is to be \
                 salvaged",
                dir.display()
            );
            return Err(Error::new(Kind::Refused, why));
        }
        let (_, tables) = self.recorded(&volume, found.volume).await?;
        let frozen = tables.snapshots().filter_map(|(name, state)| Some((name, frozen_by_take_over(state)?)));
        let of_ours = frozen.filter(|(_, (ended, _))| found.lineage.contains(ended));
        let last = of_ours.max_by_key(|(_, (ended, _))| *ended);
        Ok(last.map(|(name, (_, has))| VolumeContext { volume, snapshot: name.clone(), has }))
    }

    async fn named(&self, id: VolumeId) -> Result<Option<Name>> {
        Ok(self.engine.pool.list().await?.into_iter().find(|(_, other)| *other == id).map(|(name, _)| name))
    }
}

/// Returns the bytes of a record's blocks: from the first byte to behind the last.
fn bytes_of(record: &Record) -> (u64, u64) {
    let (block, blocks) = record.op.blocks();
    (block.saturating_mul(BLOCK), block.saturating_add(blocks).saturating_mul(BLOCK))
}

/// Returns the size of a volume that can hold all records.
async fn extent(journal: &Journal, after: Lsn) -> Result<u64> {
    let (mut size, mut replay) = (BLOCK, journal.replay(after));
    while let Some(record) = replay.next().await? {
        if let Op::Write { .. } = record.op {
            size = size.max(bytes_of(&record).1);
        }
    }
    Ok(size)
}
