//! Which bytes of volumes and snapshots lie in chunks that are lost.
//!
//! By the maps of each volume's last checkpoint, its own and its snapshots'. A clone reads its parent's chunks, so the maps of
//! all volumes are gone through that descend from one that lost something. A page of a map may be lost itself: then what comes
//! after it isn't told.

use std::collections::BTreeSet;
use std::ops::Range;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use crate::catalog::volumes::Volumes;
use crate::head::Head;
use crate::read::View;
use windlass_base::format_limits::BLOCK;
use windlass_base::{ChunkId, Name, Result, VolumeId};
use windlass_map::{Step, Tree};

/// Largest number of ranges that are told of one map.
const RANGES_MAX: usize = 16;
/// Pages and extents of one map that are gone through at most.
const STEPS_MAX: usize = 10_000_000;
/// Steps of a walk after which other tasks get their turn.
const STEPS_AT_ONCE: usize = 1024;
/// Number of volumes that are looked at at a time.
const AT_ONCE: usize = 8;
/// Number of times that a volume is gone through, each time by a newer checkpoint.
const TRIES: usize = 3;

struct Lost<'a> {
    chunks: &'a BTreeSet<ChunkId>,
    /// Volumes that own the lost chunks.
    volumes: &'a BTreeSet<VolumeId>,
    /// Volumes of which it isn't known what their packs hold.
    unplaced: &'a BTreeSet<VolumeId>,
}

/// Bytes of a volume, or of a snapshot of it, that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub volume: Name,
    pub snapshot: Option<Name>,
    /// Ranges in bytes, in order; the first ones, when there are more than are told.
    pub ranges: Vec<Range<u64>>,
    /// Sum of all ranges in bytes, told or not.
    pub bytes: u64,
    /// Extent to which the map was gone through: unless it is `Whole`, there may be more.
    pub told: MapWalk,
}

/// Extent to which a map was gone through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapWalk {
    Whole,
    /// The map is longer than what is gone through for a message.
    TooLong,
    /// A page of the map, or the tables that say where packed chunks lie, can't be read.
    Unreadable,
}

impl Volumes {
    /// Returns which bytes of volumes and snapshots can't be read while these chunks can't.
    ///
    /// # Errors
    /// The pool's names can't be read.
    pub fn unreadable<'f>(&'f self, lost: &'f BTreeSet<ChunkId>) -> BoxFuture<'f, Result<Vec<Unreadable>>> {
        Box::pin(async move {
            if lost.is_empty() {
                return Ok(Vec::new());
            }
            let of: BTreeSet<VolumeId> = lost.iter().map(|id| id.volume).collect();
            let places = &self.engine.memory.places;
            let mut unplaced = BTreeSet::new();
            for id in &of {
                match self.engine.chunk_table(*id).await {
                    Ok(Some((_, chunk_table))) => places.know(*id, chunk_table.packed(*id)),
                    // Its clones may read packs of which nobody knows what they hold.
                    _ => drop(unplaced.insert(*id)),
                }
            }
            let lost = Lost { chunks: lost, volumes: &of, unplaced: &unplaced };
            let names = self.engine.pool.list().await?;
            let looks = stream::iter(names).map(|(name, id)| {
                let lost = &lost;
                async move {
                    let told = self.unreadable_of(&name, id, lost).await;
                    told.unwrap_or_else(|error| {
                        tracing::debug!(volume = %name, %error, "what is lost isn't told");
                        let mut none = Unreadable::new(name, None);
                        none.told = MapWalk::Unreadable;
                        vec![none]
                    })
                }
            });
            let told: Vec<_> = looks.buffered(AT_ONCE).collect().await;
            Ok(told.into_iter().flatten().collect())
        })
    }

    /// Looks through one volume. A checkpoint may be recorded meanwhile, and what it retires be deleted: then the look begins
    /// anew by the newer head.
    async fn unreadable_of(&self, name: &Name, id: VolumeId, lost: &Lost<'_>) -> Result<Vec<Unreadable>> {
        let mut tries = 0;
        loop {
            let Some(head) = self.engine.cell(id).read().await? else { return Ok(Vec::new()) };
            if head.removed || !head.volumes().iter().any(|v| lost.volumes.contains(v)) {
                return Ok(Vec::new());
            }
            let done = self.unreadable_by(name, &head, lost).await;
            tries += 1;
            let is_sure =
                done.as_ref().is_ok_and(|all| all.iter().all(|one| one.told != MapWalk::Unreadable));
            if is_sure || tries == TRIES {
                return done;
            }
            let now = self.engine.cell(id).read().await?;
            if now.is_some_and(|now| now.checkpoint.nonce == head.checkpoint.nonce) {
                return done;
            }
        }
    }

    async fn unreadable_by(&self, name: &Name, head: &Head, lost: &Lost<'_>) -> Result<Vec<Unreadable>> {
        let view = self.engine.view(head);
        let tables = view.tables(head).await?;
        let is_placed = !head.volumes().iter().any(|v| lost.unplaced.contains(v));
        let maps = tables.with_trash().map(|(name, state)| (Some(name), &state.tree));
        let mut all = Vec::new();
        for (snapshot, tree) in std::iter::once((None, &tables.tip().tree)).chain(maps) {
            let mut one = Unreadable::new(name.clone(), snapshot.cloned());
            one.told = self.walk_lost(head, &view, tree, lost, &mut one).await;
            if !is_placed {
                one.told = MapWalk::Unreadable;
            }
            if one.bytes > 0 || one.told == MapWalk::Unreadable {
                all.push(one);
            }
        }
        Ok(all)
    }

    async fn walk_lost(
        &self,
        head: &Head,
        view: &View,
        tree: &Tree,
        lost: &Lost<'_>,
        told: &mut Unreadable,
    ) -> MapWalk {
        let volumes = head.volumes();
        let mut walk = tree.walk(view.pages(), view.page_cache(), 0..u64::MAX);
        for taken in 1..=STEPS_MAX {
            if taken.is_multiple_of(STEPS_AT_ONCE) {
                self.engine.rt.give_way().await;
            }
            let extent = match walk.step().await {
                Ok(Some(Step::Mapped(extent))) => extent,
                Ok(Some(Step::Page { .. })) => continue,
                Ok(None) => return MapWalk::Whole,
                Err(_) => return MapWalk::Unreadable,
            };
            let at = extent.at.expect("a walk shows what is mapped").frame;
            let Some(&volume) = volumes.get(usize::from(at.volume)) else { return MapWalk::Unreadable };
            let chunk = ChunkId { volume, epoch: at.epoch, seq: at.seq };
            let object = self.engine.memory.places.find(&chunk).map_or(chunk, |packed| packed.pack);
            if lost.chunks.contains(&object) {
                told.add(extent.block * BLOCK..extent.end() * BLOCK);
            }
        }
        MapWalk::TooLong
    }
}

impl Unreadable {
    fn new(volume: Name, snapshot: Option<Name>) -> Unreadable {
        Unreadable { volume, snapshot, ranges: Vec::new(), bytes: 0, told: MapWalk::Whole }
    }

    fn add(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        if let Some(last) = self.ranges.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
        } else if self.ranges.len() < RANGES_MAX {
            self.ranges.push(range);
        }
    }
}
