//! Snapshots that are stored and that no checkpoint has yet: of a volume that another host owns, or whose daemon was killed, they
//! are read from the log behind the checkpoint. Claims nothing, changes nothing.

use std::time::Duration;

use futures::future::BoxFuture;

use super::volumes::Volumes;
use crate::head::Head;
use crate::space::Tables;
use windlass_base::{ChunkId, Error, Kind, Name, Result, Seq, VolumeId};
use windlass_keys::KeyAccess;
use windlass_log::Toc;
use windlass_pool::{Probe, Told};
use windlass_store::Cause;

/// Number of times that reading a log begins anew, each time with a newer head.
const TRIES: usize = 3;
/// Chunks read of one log at most: an owner records a checkpoint before there are so many.
const CHUNKS_MAX: u64 = 1 << 14;

/// Returns the head, and the tables as of its log's end: those of the checkpoint, with the snapshots that were taken since.
/// Where this engine is the owner, they are the tables that it knows.
pub async fn tables_to_the_end(volumes: &Volumes, volume: &Name, id: VolumeId) -> Result<(Head, Tables)> {
    let (mut head, mut tables) = volumes.recorded_with_names(volume, id).await?;
    if let Some(newer) = volumes.newer_here(&head) {
        return Ok((head, newer));
    }
    for _ in 0..TRIES {
        let error = match volumes.add_marks(&head, tables).await {
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => e,
            done => return done.map(|tables| (head, tables)),
        };
        // Merged and deleted meanwhile, or sealed by a data key that came since?
        let read = (head.checkpoint.position, head.keys.take());
        (head, tables) = volumes.recorded_with_names(volume, id).await?;
        if (head.checkpoint.position, &head.keys) == (read.0, &read.1) {
            return Err(error);
        }
    }
    let title = volumes.engine.title(volume);
    let why = format!("volume {title} is being changed faster than its log can be read from here: try again");
    Err(Error::new(Kind::Unavailable, why))
}

impl Volumes {
    /// Tells whether the log of a volume whose key is not here goes on behind its checkpoint: only the key tells which
    /// snapshots were taken since. True also when stores that do not answer may have more of the log.
    pub fn has_sealed_marks<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<bool>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (head, _) = self.recorded_with_names(volume, id).await?;
            let is_locked = matches!(self.engine.view(&head).keys().access(head.volume), KeyAccess::Locked);
            if !is_locked || head.active.released || head.removed || self.newer_here(&head).is_some() {
                return Ok(false);
            }
            let seq = head.checkpoint.position.next();
            let id = ChunkId { volume: head.volume, epoch: head.epoch_of(seq), seq };
            let told = |probe: &Probe| if probe.about.is_some() { Told::All } else { Told::Nothing };
            let pool = &self.engine.pool;
            let probe = pool.probe_until(&id, &head.witnesses, Cause::Walk, Duration::ZERO, told).await;
            // Stores that do not answer may have it.
            Ok(probe.about.is_some() || probe.unknown >= usize::from(head.active.w))
        })
    }

    async fn add_marks(&self, head: &Head, mut tables: Tables) -> Result<Tables> {
        let view = self.engine.view(head);
        let access = view.keys().access(head.volume).clone();
        if head.active.released || head.removed || matches!(access, KeyAccess::Locked) {
            return Ok(tables);
        }
        let mut seq = head.checkpoint.position.next();
        while seq.0 - head.checkpoint.position.0 < CHUNKS_MAX {
            match self.toc_of(head, seq, &access).await? {
                Some(toc) => toc.mark.iter().try_for_each(|mark| tables.mark(mark))?,
                None => break,
            }
            seq = seq.next();
        }
        Ok(tables)
    }

    /// Returns the table of contents of one chunk of the log. `None`: the log ends before this chunk, as far as can be told.
    /// `Unavailable`: the chunk may be there, on stores that do not answer.
    async fn toc_of(&self, head: &Head, seq: Seq, access: &KeyAccess) -> Result<Option<Toc>> {
        let pool = &self.engine.pool;
        let id = ChunkId { volume: head.volume, epoch: head.epoch_of(seq), seq };
        let told = |probe: &Probe| match probe.about {
            Some(_) => Told::All,
            None => Told::Nothing,
        };
        let probe = pool.probe_until(&id, &head.witnesses, Cause::Walk, Duration::ZERO, told).await;
        let w = usize::from(head.active.w);
        let Some(about) = &probe.about else {
            return match probe.unknown < w {
                true => Ok(None),
                false => Err(Error::new(
                    Kind::Unavailable,
                    "too few stores answer to tell which snapshots were taken last: bring stores back (`windlass pool status` names \
                     them)",
                )),
            };
        };
        let at = about.toc_offset;
        let sound = |bytes: &[u8]| Toc::verify(bytes, &id, at, access);
        match pool.read(&id, at, about.toc_len, Cause::Walk, &sound).await {
            Ok(bytes) => return Toc::open(&bytes, &id, at, access).map(Some),
            Err(e) if !matches!(e.kind(), Kind::Corrupt | Kind::Unavailable) => return Err(e),
            Err(_) => {}
        }
        // Of a chunk that is on its way, or past the end, nobody was told what is in it.
        let whole = pool.probe(&id, &head.witnesses, Cause::Walk).await;
        if whole.readable() + whole.unknown < w {
            return Ok(None);
        }
        // Shards that were not there for the read may have come since: only now a damage is one.
        match pool.read(&id, at, about.toc_len, Cause::Walk, &sound).await {
            Ok(bytes) => Toc::open(&bytes, &id, at, access).map(Some),
            Err(e) if whole.waiting() > 0 && e.is(Kind::Corrupt) => {
                Err(Error::new(Kind::Unavailable, e.to_string()))
            }
            Err(e) => Err(e),
        }
    }
}
