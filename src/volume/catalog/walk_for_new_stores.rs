//! Taking a store in as a witness (protocol §1.7, steps 4 and 5; model `repair`): its saying that it has no part of a chunk
//! counts only after every chunk that may have been acknowledged was walked and completed with it in the pool.
//!
//! Any process may do it, for volumes that others own too; it claims nothing and ends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::volumes::Volumes;
use crate::base::{ChunkId, Error, Generation, Kind, Name, Result, Seq, VolumeId};
use crate::pool::Probe;
use crate::store::Cause;
use crate::volume::head::Head;

/// How long a chunk that can't be decided, or is being written, is asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);

/// What a chunk's probe comes to.
enum Step {
    Next,
    /// The volume's newest part is merged by now: on after it.
    After(Seq),
    Through,
}

impl Volumes {
    /// Every volume takes the pool's stores as they are now for witnesses.
    pub async fn admit_stores(&self) -> Result<()> {
        // Twice: a volume that is renamed while names are listed may be on none of the pages that were read.
        let listed = [self.engine.pool.list().await?, self.engine.pool.list().await?].concat();
        let volumes: BTreeMap<VolumeId, Name> = listed.into_iter().map(|(name, id)| (id, name)).collect();
        for (id, name) in volumes {
            self.admit_to(&name, id).await.map_err(|e| e.context(format!("volume {name}")))?;
        }
        Ok(())
    }

    async fn admit_to(&self, name: &Name, id: VolumeId) -> Result<()> {
        let (pool, cell) = (&self.engine.pool, self.engine.cell(id));
        let (generation, stores) = (pool.generation(), pool.incarnations());
        let head = match cell.confirm().await {
            Ok(head) => head,
            // Its creation was never finished.
            Err(e) if e.is(Kind::NotFound) => return Ok(()),
            Err(e) => return Err(e),
        };
        if head.removed || stores.iter().all(|s| head.witnesses.contains(s)) {
            return Ok(());
        }
        self.walk(head).await?;
        cell.change(|head| {
            self.unchanged(generation, name)?;
            head.join(&stores)
        })
        .await
        .map(|_| ())
    }

    fn unchanged(&self, generation: Generation, name: &Name) -> Result<()> {
        match self.engine.pool.generation() == generation {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the pool's stores were changed again while volume {name} was looked through: try again"
                ),
            )),
        }
    }

    async fn walk(&self, mut head: Head) -> Result<()> {
        let mut seq = head.checkpoint.position.next();
        loop {
            let ended = head.active.released && seq > head.checkpoint.top.max(head.active_starts_after());
            if ended {
                return Ok(());
            }
            match self.admit_chunk(&mut head, seq).await? {
                Step::Next => seq = seq.next(),
                Step::After(position) => seq = position.next(),
                Step::Through => return Ok(()),
            }
        }
    }

    async fn admit_chunk(&self, head: &mut Head, seq: Seq) -> Result<Step> {
        let (pool, rt) = (&self.engine.pool, &self.engine.rt);
        let id = ChunkId { volume: head.volume, epoch: head.epoch_of(seq), seq };
        let began = rt.now();
        loop {
            let probe = pool.probe(&id, &head.witnesses, Cause::Walk).await;
            let w = usize::from(head.active.w);
            let certain = seq <= head.checkpoint.top || head.ends.last().is_some_and(|e| seq <= e.last);
            if probe.good >= w {
                if probe.good < pool.layout().n() {
                    pool.remember_missing(id, &probe);
                }
                return Ok(Step::Next);
            }
            if probe.good >= pool.layout().k() {
                match self.complete(&id, &probe, w).await {
                    // Deleted since the probe, perhaps: by who took the volume over and let it end before this.
                    Err(e) if e.is(Kind::Corrupt) && rt.now().since(began) < PATIENCE => {
                        rt.sleep(AGAIN).await;
                        continue;
                    }
                    done => return done.map(|()| Step::Next),
                }
            }
            // Not readable: it ends here, unless a checkpoint has passed it meanwhile and its chunk is gone.
            let now = self.engine.cell(head.volume).read().await?;
            let now = now.ok_or_else(|| Error::new(Kind::NotFound, "the volume's description is gone"))?;
            let passed = now.checkpoint.position >= seq;
            *head = now;
            if passed {
                return Ok(Step::After(head.checkpoint.position));
            }
            if head.removed || probe.good + probe.unknown < w && !certain {
                return Ok(Step::Through);
            }
            if rt.now().since(began) >= PATIENCE {
                return Err(Error::new(
                    Kind::Unavailable,
                    "too few stores answer to look through its newest writes: bring stores back, or, where they are gone \
                     for good, use `windlass volume take-over --accept-loss`; then repair again",
                ));
            }
            rt.sleep(AGAIN).await;
        }
    }

    async fn complete(&self, id: &ChunkId, probe: &Probe, w: usize) -> Result<()> {
        let pool = &self.engine.pool;
        let payload = pool.payload(id, probe, Cause::Repair).await?;
        let upload = pool.complete(&payload);
        match self.engine.rt.timeout(PATIENCE, upload.wait(w)).await {
            Some(done) => done,
            None => Err(Error::new(Kind::Unavailable, "too few stores take writes: bring stores back")),
        }
    }
}
