//! Which bytes of volumes and snapshots lie in chunks that are lost.
//!
//! By the maps of each volume's last checkpoint, its own and its snapshots'. A clone reads its parent's chunks, so the maps of
//! all volumes are gone through that descend from one that lost something. A page of a map may be lost itself: then what it
//! covers isn't told.

use std::collections::BTreeSet;
use std::ops::Range;

use futures::StreamExt as _;
use futures::stream;

use super::volumes::Volumes;
use crate::base::size::BLOCK;
use crate::base::{ChunkId, Name, Result, VolumeId};
use crate::map::{Step, Tree};
use crate::volume::head::Head;
use crate::volume::read::View;

/// Ranges that are told of one map.
const RANGES_MAX: usize = 16;
/// Pages and extents of one map that are gone through.
const STEPS_MAX: usize = 10_000_000;
/// Steps before others get their turn.
const STEPS_AT_ONCE: usize = 1024;
/// Volumes at a time.
const AT_ONCE: usize = 8;

/// Bytes of a volume, or of a snapshot of it, that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub volume: Name,
    pub snapshot: Option<Name>,
    /// In bytes, in order; the first ones, when there are more than are told.
    pub ranges: Vec<Range<u64>>,
    /// All of them together.
    pub bytes: u64,
    /// The map could not be gone through to its end: there may be more.
    pub partly: bool,
}

impl Volumes {
    /// What can't be read while these chunks can't. A volume whose head or tables can't be read either is left out.
    ///
    /// # Errors
    /// The pool's names can't be read.
    pub async fn unreadable(&self, lost: &BTreeSet<ChunkId>) -> Result<Vec<Unreadable>> {
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let of: BTreeSet<VolumeId> = lost.iter().map(|id| id.volume).collect();
        let places = &self.engine.memory.places;
        for id in &of {
            if let Some((_, chunk_table)) = self.engine.chunk_table(*id).await.ok().flatten() {
                places.know(*id, chunk_table.packed(*id));
            }
        }
        let names = self.engine.pool.list().await?;
        let looks = stream::iter(names).map(|(name, id)| {
            let of = &of;
            async move {
                let told = self.unreadable_of(&name, id, of, lost).await;
                told.inspect_err(|error| tracing::debug!(volume = %name, %error, "what is lost isn't told"))
            }
        });
        let told: Vec<_> = looks.buffered(AT_ONCE).collect().await;
        Ok(told.into_iter().filter_map(Result::ok).flatten().collect())
    }

    async fn unreadable_of(
        &self,
        name: &Name,
        id: VolumeId,
        of: &BTreeSet<VolumeId>,
        lost: &BTreeSet<ChunkId>,
    ) -> Result<Vec<Unreadable>> {
        let Some(head) = self.engine.cell(id).read().await? else { return Ok(Vec::new()) };
        if head.removed || !head.volumes().iter().any(|v| of.contains(v)) {
            return Ok(Vec::new());
        }
        let view = self.engine.view(&head);
        let tables = view.tables(&head).await?;
        let maps = tables.snapshots().map(|(name, state)| (Some(name), &state.tree));
        let mut all = Vec::new();
        for (snapshot, tree) in std::iter::once((None, &tables.tip().tree)).chain(maps) {
            let (volume, snapshot) = (name.clone(), snapshot.cloned());
            let mut told = Unreadable { volume, snapshot, ranges: Vec::new(), bytes: 0, partly: false };
            told.partly = !self.walk_lost(&head, &view, tree, lost, &mut told).await;
            if told.bytes > 0 || told.partly {
                all.push(told);
            }
        }
        Ok(all)
    }

    /// Whether the walk came to its end.
    async fn walk_lost(
        &self,
        head: &Head,
        view: &View,
        tree: &Tree,
        lost: &BTreeSet<ChunkId>,
        told: &mut Unreadable,
    ) -> bool {
        let volumes = head.volumes();
        let mut walk = tree.walk(view.pages(), view.page_cache(), 0..u64::MAX);
        for taken in 1..=STEPS_MAX {
            if taken.is_multiple_of(STEPS_AT_ONCE) {
                self.engine.rt.give_way().await;
            }
            let extent = match walk.step().await {
                Ok(Some(Step::Mapped(extent))) => extent,
                Ok(Some(Step::Page { .. })) => continue,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let at = extent.at.expect("a walk shows what is mapped").frame;
            let Some(&volume) = volumes.get(usize::from(at.volume)) else { return false };
            let chunk = ChunkId { volume, epoch: at.epoch, seq: at.seq };
            let object = self.engine.memory.places.find(&chunk).map_or(chunk, |packed| packed.pack);
            if lost.contains(&object) {
                told.add(extent.block * BLOCK..extent.end() * BLOCK);
            }
        }
        false
    }
}

impl Unreadable {
    fn add(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        if let Some(last) = self.ranges.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
        } else if self.ranges.len() < RANGES_MAX {
            self.ranges.push(range);
        }
    }
}
