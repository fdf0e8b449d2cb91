//! Taking a store in as a witness (protocol §1.7, steps 4 and 5; model `repair`): its saying that it has no part of a chunk
//! counts only after every chunk that may have been acknowledged was walked and completed with it in the pool.
//!
//! Any process may do it, for volumes that others own too; it claims nothing and ends nothing. The same walk is made before a
//! store is taken in, changing nothing (`Walk::Tries`): a plan whose walks can't end would leave the pool between two generations.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::catalog::volumes::Volumes;
use crate::head::Head;
use windlass_base::{ChunkId, Error, Generation, Kind, Name, Result, Seq, VolumeId};
use windlass_pool::Probe;
use windlass_store::Cause;

/// Time for which a chunk that can't be decided, or is being written, is asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);
/// Volumes walked at a time.
const AT_ONCE: usize = 8;

/// Purpose of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// Every chunk that may have been acknowledged is completed.
    Completes,
    /// The walk only tells whether every chunk could be completed now, and changes nothing.
    Tries,
}

/// Result of a chunk's probe.
enum Step {
    Next,
    /// A checkpoint has passed this chunk meanwhile: the walk goes on after the checkpoint's position.
    After(Seq),
    Through,
}

/// Makes every volume take the pool's stores as they are now for witnesses. Returns an error for each volume where that can't
/// be done now: one that is damaged holds no other up.
pub fn admit_stores<'f>(volumes: &'f Volumes) -> BoxFuture<'f, Result<Vec<Error>>> {
    Box::pin(async move { volumes.walk_each(Walk::Completes).await })
}

/// Tells whether every volume could be walked now, with no more stores than answer: a sentence for each that could not.
pub async fn try_walks(volumes: &Volumes) -> Result<Vec<Error>> {
    volumes.walk_each(Walk::Tries).await
}

impl Volumes {
    async fn walk_each(&self, why: Walk) -> Result<Vec<Error>> {
        // Twice: a volume that is renamed while names are listed may be on none of the pages that were read.
        let listed = [self.engine.pool.list().await?, self.engine.pool.list().await?].concat();
        let volumes: BTreeMap<VolumeId, Name> = listed.into_iter().map(|(name, id)| (id, name)).collect();
        let volumes: Vec<(VolumeId, Name)> = volumes.into_iter().collect();
        let mut left = Vec::new();
        for some in volumes.chunks(AT_ONCE) {
            let walks = some.iter().map(|(id, name)| async move {
                match why {
                    Walk::Completes => (name, self.admit_to(name, *id).await),
                    Walk::Tries => (name, self.try_walk(*id).await),
                }
            });
            for (name, done) in futures::future::join_all(walks).await {
                left.extend(done.err().map(|e| e.context(format!("volume {name}"))));
            }
        }
        Ok(left)
    }

    /// Returns the head of a volume that is there: not removed, and not one whose creation was never finished.
    async fn living(&self, id: VolumeId) -> Result<Option<Head>> {
        match self.engine.cell(id).confirm().await {
            Ok(head) => Ok(Some(head).filter(|head| !head.removed)),
            Err(e) if e.is(Kind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn try_walk(&self, id: VolumeId) -> Result<()> {
        match self.living(id).await? {
            Some(head) => self.walk(head, Walk::Tries).await,
            None => Ok(()),
        }
    }

    async fn admit_to(&self, name: &Name, id: VolumeId) -> Result<()> {
        let (pool, cell) = (&self.engine.pool, self.engine.cell(id));
        let (generation, stores) = (pool.generation(), pool.incarnations());
        let Some(head) = self.living(id).await? else { return Ok(()) };
        if stores.iter().all(|s| head.witnesses.contains(s)) {
            return Ok(());
        }
        self.walk(head, Walk::Completes).await?;
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

    async fn walk(&self, mut head: Head, why: Walk) -> Result<()> {
        let mut seq = head.checkpoint.position.next();
        loop {
            let ended = head.active.released && seq > head.checkpoint.top.max(head.active_starts_after());
            if ended {
                return Ok(());
            }
            match self.admit_chunk(&mut head, seq, why).await? {
                Step::Next => seq = seq.next(),
                Step::After(position) => seq = position.next(),
                Step::Through => return Ok(()),
            }
        }
    }

    async fn admit_chunk(&self, head: &mut Head, seq: Seq, why: Walk) -> Result<Step> {
        let (pool, rt) = (&self.engine.pool, &self.engine.rt);
        let id = ChunkId { volume: head.volume, epoch: head.epoch_of(seq), seq };
        let began = rt.now();
        loop {
            let probe = pool.probe(&id, &head.witnesses, Cause::Walk).await;
            let w = usize::from(head.active.w);
            let certain = seq <= head.checkpoint.top || head.ends.last().is_some_and(|e| seq <= e.last);
            let k = pool.layout().k();
            if probe.good >= w {
                if probe.good < pool.layout().n() && why == Walk::Completes {
                    pool.remember_missing(id, &probe);
                    // No table names it yet, so that nobody else would look for it.
                    self.bring(&id).await?;
                }
                return Ok(Step::Next);
            }
            if probe.readable() >= k && why == Walk::Tries {
                // The one that is to be taken in is yet to come.
                return match pool.usable().len() + 1 >= w {
                    true => Ok(Step::Next),
                    false => Err(no_takers()),
                };
            }
            if probe.readable() >= k {
                match self.complete(&id, &probe, w).await {
                    // Deleted since the probe, perhaps: by who took the volume over and let it end before this.
                    Err(e) if e.is(Kind::Corrupt) && rt.now().since(began) < PATIENCE => {
                        rt.sleep(AGAIN).await;
                        continue;
                    }
                    done => done?,
                }
                self.bring(&id).await?;
                return Ok(Step::Next);
            }
            // Not readable: it ends here, unless a checkpoint has passed it meanwhile and its chunk is gone.
            let now = self.engine.cell(head.volume).read().await?;
            let now = now.ok_or_else(|| Error::new(Kind::NotFound, "the volume's description is gone"))?;
            let passed = now.checkpoint.position >= seq;
            *head = now;
            if passed {
                return Ok(Step::After(head.checkpoint.position));
            }
            if head.removed || probe.readable() + probe.unknown < w && !certain {
                return Ok(Step::Through);
            }
            if certain && probe.readable() + probe.unknown < k {
                // Lost, whatever comes back: nobody can take its absence for the log's end.
                return Ok(Step::Next);
            }
            let can_come = probe.readable() + probe.waiting() >= k;
            match rt.now().since(began) >= PATIENCE {
                true if can_come => return Err(out_of_reach()),
                true if why == Walk::Tries => return Ok(Step::Through),
                true => return Err(damaged()),
                false => {}
            }
            rt.sleep(AGAIN).await;
        }
    }

    /// Brings the chunk's shards to the stores that are to be filled.
    async fn bring(&self, id: &ChunkId) -> Result<()> {
        match self.engine.pool.fill_chunk(id).await {
            // What is damaged holds nothing up: scrub names it.
            Err(e) if e.is(Kind::Corrupt) => Ok(()),
            done => done,
        }
    }

    async fn complete(&self, id: &ChunkId, probe: &Probe, w: usize) -> Result<()> {
        let pool = &self.engine.pool;
        let payload = pool.payload(id, probe, Cause::Repair).await?;
        let upload = pool.complete(&payload);
        match self.engine.rt.timeout(PATIENCE, upload.wait(w)).await {
            Some(done) => done,
            None => Err(no_takers()),
        }
    }
}

fn out_of_reach() -> Error {
    Error::new(
        Kind::Unavailable,
        "too few stores answer to look through its newest writes: bring stores back, or, where they are gone for good, use \
         `windlass volume take-over --accept-loss`; then repair again",
    )
}

/// Error for a chunk that no store can complete, also none that is away.
fn damaged() -> Error {
    Error::new(
        Kind::Corrupt,
        "its newest writes are damaged: where they end is decided by `windlass volume take-over --accept-loss`",
    )
}

fn no_takers() -> Error {
    Error::new(Kind::Unavailable, "too few stores take writes: bring stores back")
}
