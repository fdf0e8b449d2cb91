//! What holds a snapshot: the clones that need it, and its lock; and pins that hold nothing.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;

use super::volumes::Volumes;
use crate::base::{Error, Kind, Name, Nonce, Result, StateId, VolumeId, utc};
use crate::pool::{Catalog, CatalogEntry, Clocks};
use crate::volume::head::CREATION;
use crate::volume::head::Head;
use crate::volume::head::VolumeSettings;
use crate::volume::session::no_snapshot;
use crate::volume::space::Tables;
use crate::volume::space::pins::{clone_of, key, of};

/// Catalogs of pins that an engine keeps at hand; each may keep thousands of registers.
const KEPT_MAX: usize = 8;
/// Clones looked at at a time.
const AT_ONCE: usize = 32;
/// Clones that a refusal names.
const NAMED_MAX: usize = 16;

/// A lock is no longer than this: nobody takes one back that was a slip of the keyboard.
const LOCK_MAX_MS: u64 = 100 * 366 * 24 * 3_600_000;

/// Until when a snapshot is to be locked, in milliseconds: since 1970, or from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockEnd {
    At(u64),
    In(u64),
}

impl LockEnd {
    fn at(self, Clocks { latest_ms, .. }: Clocks) -> Result<u64> {
        let until = match self {
            LockEnd::At(ms) => ms,
            LockEnd::In(ms) => latest_ms.saturating_add(ms),
        };
        let bad =
            |why: &str| Err(Error::new(Kind::Usage, format!("a lock until {} {why}", utc::show(until))));
        match until.checked_sub(latest_ms) {
            None | Some(0) => bad("is over already: name a later date"),
            Some(ms) if ms > LOCK_MAX_MS => bad("can't be: name a date within the next 100 years"),
            Some(_) => Ok(until),
        }
    }
}

impl Volumes {
    /// Keeps a snapshot from removal until then, whoever wants that (model `lock`). Any host may lock, also while another owns the
    /// volume. Until when it is locked. `Refused`: for longer already, or clocks disagree.
    pub async fn lock_snapshot(&self, volume: &Name, snapshot: &Name, end: LockEnd) -> Result<u64> {
        let title = || format!("{}@{snapshot}", self.engine.title(volume));
        let id = self.id(volume).await?;
        let state = self.recorded_snapshot(volume, id, snapshot).await?;
        let clocks = self.engine.pool.clocks().await?;
        let until = end.at(clocks)?;
        let cell = self.engine.cell(id);
        let locked = cell.change(move |h| h.set_lock(state, until, clocks.earliest_ms)).await;
        locked.map_err(|e| e.context(title()))?;
        // A removal that did not meet the lock came before it.
        let (_, tables) = self.recorded(volume, id).await?;
        match tables.with_trash().any(|(_, s)| s.id == state) {
            true => Ok(until),
            false => {
                let why = format!("{} was removed just before it was locked", title());
                Err(Error::new(Kind::NotFound, why))
            }
        }
    }

    /// The id of a snapshot that is recorded: one whose mark is only in the log might not be there after a take-over.
    async fn recorded_snapshot(&self, volume: &Name, id: VolumeId, snapshot: &Name) -> Result<StateId> {
        let of = |tables: &Tables| tables.snapshot(snapshot).map(|state| state.id);
        if let Some(state) = of(&self.recorded_with_names(volume, id).await?.1) {
            return Ok(state);
        }
        let tables = self.tables_with(volume, id, snapshot).await?.1;
        of(&tables).ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))
    }

    /// `Refused`: a snapshot of the volume is locked.
    pub async fn check_unlocked(&self, volume: &Name) -> Result<()> {
        let head = self.head(volume, self.id(volume).await?).await?;
        let head = self.end_locks(head).await?;
        head.locks.allow_all().map_err(|e| e.context(format!("volume {}", self.engine.title(volume))))
    }

    /// The head without locks that are over by this host's clock and by those of the stores.
    pub(in crate::volume) async fn end_locks(&self, head: Head) -> Result<Head> {
        if !head.locks.any_over(self.engine.rt.wall_ms()) {
            return Ok(head);
        }
        let now = self.engine.pool.clocks().await?.earliest_ms;
        self.engine.cell(head.volume).change(move |h| h.end_locks(now)).await
    }

    /// The same as `of`, knowing its way when it was asked for a moment ago.
    pub(in crate::volume) fn pins(&self, volume: VolumeId, snapshot: StateId) -> Catalog {
        let mut kept = self.pins.lock();
        if !kept.contains_key(&(volume, snapshot)) && kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        let new = || of(&self.engine.pool, volume, snapshot);
        kept.entry((volume, snapshot)).or_insert_with(new).clone()
    }

    /// The pins on each of these snapshots; for those that were never cloned nothing is asked.
    pub(in crate::volume) async fn pins_on(
        &self,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
    ) -> Result<Vec<(StateId, VolumeId, Nonce)>> {
        let cloned = snapshots.into_iter().filter(|s| head.cloned.has(*s));
        let looks = stream::iter(cloned.collect::<Vec<_>>())
            .map(|snapshot| async move { (snapshot, self.pins(head.volume, snapshot).all().await) });
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut all = Vec::new();
        for (snapshot, pins) in looks {
            for (key, pin) in pins? {
                all.push((snapshot, clone_of(&key)?, Nonce(pin.value)));
            }
        }
        Ok(all)
    }

    /// Clones that need one of these snapshots; not all when there are many. `clean`: a pin without a clone is dropped, after
    /// it is certain that the clone will never be.
    async fn holders(
        &self,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
        clean: bool,
    ) -> Result<Vec<VolumeId>> {
        let pins = self.pins_on(head, snapshots).await?;
        let looks = stream::iter(pins).map(|(snapshot, clone, nonce)| async move {
            if self.may_need(clone, clean).await? {
                return Ok(Some(clone));
            }
            if clean {
                self.unpin(head.volume, snapshot, clone, nonce).await?;
            }
            Ok::<_, Error>(None)
        });
        let (mut looks, mut held) = (looks.buffered(AT_ONCE), Vec::new());
        while let Some(clone) = looks.next().await {
            held.extend(clone?);
            // One more than is named says that there are others.
            if held.len() > NAMED_MAX {
                break;
            }
        }
        Ok(held)
    }

    /// Whether the clone exists, and needs it. `settle`: if it doesn't exist, it never will.
    async fn may_need(&self, clone: VolumeId, settle: bool) -> Result<bool> {
        let cell = self.engine.cell(clone);
        match cell.read().await? {
            // A clone that was flattened has let go, whether its pin is gone yet or not.
            Some(head) => Ok(!head.removed && head.parent().is_some()),
            None if !settle => Ok(false),
            None => {
                // It may be on its way.
                self.engine.rt.sleep(CREATION).await;
                Ok(!cell.cancel(&self.new_head(clone, 512, VolumeSettings::default())?).await?)
            }
        }
    }

    pub(in crate::volume) async fn unpin(
        &self,
        parent: VolumeId,
        snapshot: StateId,
        clone: VolumeId,
        nonce: Nonce,
    ) -> Result<()> {
        self.pins(parent, snapshot).remove(&key(clone), CatalogEntry::of(nonce.0)).await
    }

    /// `Refused`, with their names, when clones need one of the snapshots of `what`.
    pub(in crate::volume) async fn refuse_if_held(
        &self,
        what: &str,
        head: &Head,
        snapshots: impl IntoIterator<Item = StateId>,
        clean: bool,
    ) -> Result<()> {
        let held = self.holders(head, snapshots, clean).await?;
        if held.is_empty() {
            return Ok(());
        }
        let names: BTreeMap<VolumeId, Name> = self.names().await?;
        let named = |id: &VolumeId| names.get(id).map_or(id.to_string(), |name| self.engine.title(name));
        let mut clones: Vec<String> = held.iter().take(NAMED_MAX).map(named).collect();
        if held.len() > NAMED_MAX {
            clones.push("and others".into());
        }
        let trashed = held.iter().any(|id| names.get(id).is_some_and(|name| name.trashed().is_some()));
        let trash = if trashed { " (from the trash: `windlass volume remove --trash`)" } else { "" };
        let why = format!("{what} is needed by its clones: {}; remove them first{trash}", clones.join(", "));
        Err(Error::new(Kind::Refused, why))
    }
}
