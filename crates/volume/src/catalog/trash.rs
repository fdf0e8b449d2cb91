//! The trash: what was removed and can be brought back for a while (`trash` of the pool's settings).
//!
//! What is put there is renamed: to a name that says since when, which no user can give and under which nothing is opened.
//! So the old name is free at once, and each step is safe as a rename is (models `rename`, `states`). Of volumes the directory
//! alone tells which are there. They are released before, and nobody can claim them; a snapshot stays a state of its volume,
//! which keeps its data. Whoever removes one for good requires that it is still there: it may just be brought back.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use serde::{Deserialize, Serialize};

use super::names::{one_each, rename, rename_moved, rename_this};
use super::snapshots::Removal;
use super::volumes::{OpenMode, Volumes};
use crate::handle::Known;
use crate::head::{Head, Moved, VolumeInfo};
use crate::session::no_snapshot;
use windlass_base::{Error, Kind, Name, Result, StateId, VolumeId};

/// Volumes looked at or removed at a time.
const AT_ONCE: usize = 8;
/// Number of tries for a name in the trash, a millisecond later each: others of one name may be removed in the same
/// millisecond.
const SAME_TIME_MAX: u64 = 64;

/// A snapshot in the trash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashedSnapshot {
    /// Name that the snapshot had.
    pub name: Name,
    pub size: u64,
    pub created_ms: u64,
    pub removed_ms: u64,
}

/// A volume in the trash.
#[derive(Debug)]
pub struct TrashedVolume {
    /// Name that the volume had.
    pub name: Name,
    pub removed_ms: u64,
    pub info: Result<VolumeInfo>,
}

/// Returns the one that was removed last of those that had this name, by the name that it has in the trash.
fn newest<'a>(all: impl Iterator<Item = &'a Name>, name: &Name) -> Option<Name> {
    let of =
        all.filter_map(|gone| gone.trashed().filter(|(_, had)| had == name).map(|(since, _)| (since, gone)));
    of.max().map(|(_, gone)| gone.clone())
}

/// Result of emptying a pool's trash.
#[derive(Debug)]
pub struct Emptied {
    /// Number of volumes and snapshots that were removed for good.
    pub gone: usize,
    /// Time since which the oldest of what is not due is in the trash, in ms since 1970.
    pub oldest_ms: Option<u64>,
    /// First error; emptying went on after it.
    pub failed: Result<()>,
}

/// The trash of a pool's volumes.
#[derive(Debug)]
pub struct Trash<'a>(pub &'a Volumes);

impl Trash<'_> {
    /// Puts a volume into the trash: stored, released, under another name. What `remove` refuses is refused. Returns false
    /// where there was nothing to keep, since its creation or removal had been broken off; then it is gone.
    pub async fn discard(&self, name: &Name) -> Result<bool> {
        self.discard_this(name, None).await
    }

    /// Puts a volume into the trash as `discard` does; with an id, only this volume. `Owned`: another volume has the name by
    /// now.
    pub fn discard_this<'f>(&'f self, name: &'f Name, this: Option<VolumeId>) -> BoxFuture<'f, Result<bool>> {
        Box::pin(async move {
            let id = self.0.id(name).await?;
            self.0.check_this(name, id, this)?;
            let Some(head) = self.0.engine.cell(id).read().await?.filter(|head| !head.removed) else {
                return self.0.remove_this(name, Some(id)).await.map(|()| false);
            };
            self.0.check_remove(name, false).await?;
            self.0.release(name).await?;
            self.put(name, &head).await?;
            Ok(true)
        })
    }

    /// Puts a volume that went on in another pool into the trash, also where clones need it: as long as they do it stays.
    pub async fn discard_moved(&self, name: &Name) -> Result<()> {
        let head = self.0.engine.cell(self.0.id(name).await?).read().await?;
        self.put(name, &self.0.existing_moved(name, head)?).await
    }

    async fn put(&self, name: &Name, head: &Head) -> Result<()> {
        // A clock that is behind must not have it removed at once.
        let since = self.latest_ms().await.max(head.active.since_ms).max(head.created_ms);
        for ms in since..since + SAME_TIME_MAX {
            let gone = name.in_trash(ms);
            let put = match head.moved {
                Some(_) => rename_moved(self.0, name, &gone).await,
                None => rename_this(self.0, (name, head.volume), &gone).await,
            };
            match put {
                Err(e) if e.is(Kind::Exists) => {}
                done => {
                    done?;
                    self.0.let_go_of_removed(head.volume).await;
                    return Ok(());
                }
            }
        }
        let why = format!("volumes {} are removed at the same time: try again", self.0.engine.title(name));
        Err(Error::new(Kind::Owned, why))
    }

    /// Returns the time by the clock that is ahead, where one can be asked.
    async fn latest_ms(&self) -> u64 {
        self.0.engine.pool.latest_ms().await
    }

    /// Returns where the volume went that was put into the trash last of those with this name. `None`: it did not move, or
    /// there is none.
    pub async fn moved_to(&self, name: &Name) -> Result<Option<Moved>> {
        let all = match self.discarded_as(name).await {
            Err(e) if e.is(Kind::NotFound) => return Ok(None),
            all => all?,
        };
        let gone = newest(all.iter(), name).expect("there is one: checked above");
        let head = self.0.engine.cell(self.0.id(&gone).await?).read().await?;
        Ok(head.and_then(|head| head.moved))
    }

    /// Returns the names of volumes in the trash, as they are there.
    async fn discarded(&self) -> Result<Vec<Name>> {
        let all = one_each(self.0, self.0.engine.pool.name_entries().await?).await;
        Ok(all.into_iter().map(|(name, _)| name).filter(|name| name.trashed().is_some()).collect())
    }

    /// Returns the names in the trash of the volumes that had this name. `NotFound`: there are none.
    async fn discarded_as(&self, name: &Name) -> Result<Vec<Name>> {
        let mut all = self.discarded().await?;
        all.retain(|gone| gone.trashed().is_some_and(|(_, had)| had == *name));
        if all.is_empty() {
            let why = format!("there is no volume {} in the trash", self.0.engine.title(name));
            return Err(Error::new(Kind::NotFound, why));
        }
        Ok(all)
    }

    /// Lists the volumes in the trash, in order of time. `Unavailable` when for `patience` nothing comes.
    pub fn list(&self, patience: Duration) -> BoxFuture<'_, Result<Vec<TrashedVolume>>> {
        Box::pin(async move {
            let rt = &self.0.engine.rt;
            let late = || {
                Error::new(
                    Kind::Unavailable,
                    format!("pool {}: too few stores answer", self.0.engine.pool.name()),
                )
            };
            let all = rt.timeout(patience, self.discarded()).await.unwrap_or_else(|| Err(late()))?;
            let looks = all.into_iter().filter_map(|gone| {
                let (removed_ms, name) = gone.trashed()?;
                // On the heap: what is buffered is moved from stack to stack, and an unoptimized build's stack is too small for it.
                Some(Box::pin(async move {
                    let asked = rt.timeout(patience, self.0.info(&gone)).await;
                    let info = asked.unwrap_or_else(|| Err(late()));
                    TrashedVolume {
                        info: info.map(|info| VolumeInfo { name: name.clone(), ..info }),
                        name,
                        removed_ms,
                    }
                }))
            });
            // One that was removed for good, and whose entry a crash left, is not there.
            let is_there = |one: &TrashedVolume| {
                std::future::ready(!one.info.as_ref().is_err_and(|error| error.is(Kind::NotFound)))
            };
            Ok(stream::iter(looks).buffered(AT_ONCE).filter(is_there).collect().await)
        })
    }

    /// Brings back the volume of this name that was removed last, under another name if `to` says one. `NotFound`: none is in
    /// the trash. `Exists`: the name is another's by now. `Refused`: it went on in another pool, so that what is there is an
    /// older copy, which comes back under a name that is said.
    pub fn restore<'f>(&'f self, name: &'f Name, to: Option<&'f Name>) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            if to.is_none()
                && let Some(moved) = self.moved_to(name).await?
            {
                let title = self.0.engine.title(name);
                let why = format!(
                    "volume {title} was moved to {}/{}: what the trash has is what it was then; --to NAME brings that back as a volume \
                 of its own",
                    moved.pool, moved.name
                );
                return Err(Error::new(Kind::Refused, why));
            }
            let all = self.discarded_as(name).await?;
            let gone = newest(all.iter(), name).expect("there is one: checked above");
            rename(self.0, &gone, to.unwrap_or(name)).await
        })
    }

    /// Removes for good the volumes in the trash that had this name. Returns how many these were.
    pub fn purge<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<usize>> {
        Box::pin(async move {
            let all = self.discarded_as(name).await?;
            for gone in &all {
                self.0.remove(gone).await?;
            }
            Ok(all.len())
        })
    }

    /// Removes for good what has been in the trash for so long, as `empty` does. The time is asked right before something goes
    /// for its age: where it can't be told, nothing goes.
    pub fn empty_old(&self, kept_ms: u64) -> BoxFuture<'_, Emptied> {
        Box::pin(async move {
            match self.0.engine.pool.time().await {
                Ok(clocks) => self.empty(clocks.earliest_ms.saturating_sub(kept_ms)).await,
                Err(error) => Emptied { gone: 0, oldest_ms: None, failed: Err(error) },
            }
        })
    }

    /// Removes for good what was put into the trash up to then (ms since 1970): volumes, and snapshots of the volumes that are
    /// open here. Goes on after errors.
    pub fn empty(&self, upto_ms: u64) -> BoxFuture<'_, Emptied> {
        Box::pin(async move {
            let (mut gone, mut failed, mut oldest) = (0, Ok(()), None::<u64>);
            let mut due = |name: &Name| match name.trashed() {
                Some((since, _)) if since > upto_ms => {
                    oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
                    false
                }
                trashed => trashed.is_some(),
            };
            let mut count = |done: Result<()>| match done {
                Ok(()) => gone += 1,
                // Another host was first, or its user; or it must stay: a template's, or a clone needs it.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Refused) => {}
                Err(e) if failed.is_ok() => failed = Err(e),
                Err(_) => {}
            };
            match self.discarded().await {
                Ok(mut all) => {
                    all.retain(&mut due);
                    for name in &all {
                        count(self.0.remove(name).await);
                    }
                }
                Err(e) => count(Err(e)),
            }
            for open in self.0.open_now() {
                let Known::Live(session) = open.known() else { continue };
                let mut all: Vec<Name> =
                    session.tip.lock().tables.with_trash().map(|(name, _)| name.clone()).collect();
                all.retain(&mut due);
                for name in &all {
                    count(self.0.remove_snapshot(&open.name(), name).await);
                }
            }
            Emptied { gone, oldest_ms: oldest, failed }
        })
    }
}

impl Trash<'_> {
    /// Puts a snapshot into the trash of its volume. What `remove_snapshot` refuses is refused.
    pub fn discard_snapshot<'f>(&'f self, volume: &'f Name, snapshot: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let removal = Removal { clean: true, for_good: false };
            self.0.check_remove_snapshot(volume, snapshot, removal).await?;
            let tables = self.0.newest_tables(volume, self.0.id(volume).await?).await?;
            let there = tables.snapshot(snapshot).map(|s| (s.id, s.created_ms));
            let (id, created_ms) =
                there.ok_or_else(|| no_snapshot(&self.0.engine.title(volume), snapshot))?;
            let since = self.latest_ms().await.max(created_ms);
            for ms in since..since + SAME_TIME_MAX {
                match self.rename_snapshot(volume, id, (snapshot, &snapshot.in_trash(ms))).await {
                    Err(e) if e.is(Kind::Exists) => {}
                    done => return done,
                }
            }
            let why = format!(
                "snapshots {}@{snapshot} are removed at the same time: try again",
                self.0.engine.title(volume)
            );
            Err(Error::new(Kind::Owned, why))
        })
    }

    async fn rename_snapshot(&self, volume: &Name, id: StateId, (from, to): (&Name, &Name)) -> Result<()> {
        let open = self.0.open(volume, OpenMode::Normal).await?;
        open.ask(|session| async move { session.rename_snapshot(id, from, to).await }).await
    }

    /// Returns a volume's snapshots in the trash, in order of time.
    pub fn snapshots<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<TrashedSnapshot>>> {
        Box::pin(async move {
            let tables = self.0.newest_tables(volume, self.0.id(volume).await?).await?;
            let one = |(name, state): (&Name, &crate::space::State)| {
                let (removed_ms, name) = name.trashed()?;
                Some(TrashedSnapshot { name, size: state.size, created_ms: state.created_ms, removed_ms })
            };
            let mut all: Vec<_> = tables.with_trash().filter_map(one).collect();
            all.sort_by_key(|one| one.removed_ms);
            Ok(all)
        })
    }

    /// Brings back the snapshot of this name that was removed last, as `restore` does a volume.
    pub fn restore_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
        to: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let all = self.trashed_as(volume, snapshot).await?;
            let gone = newest(all.keys(), snapshot).expect("there is one: checked above");
            self.rename_snapshot(volume, all[&gone], (&gone, to.unwrap_or(snapshot))).await
        })
    }

    /// Removes for good the snapshots in the trash that had this name, as `purge` does volumes. Returns how many these were.
    pub fn purge_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
    ) -> BoxFuture<'f, Result<usize>> {
        Box::pin(async move {
            let all = self.trashed_as(volume, snapshot).await?;
            for gone in all.keys() {
                self.0.remove_snapshot(volume, gone).await?;
            }
            Ok(all.len())
        })
    }

    /// Returns the snapshots in the trash that had this name. Their volume is opened for that: an owner that was shut out and
    /// has not heard of it knows an older trash.
    async fn trashed_as(&self, volume: &Name, snapshot: &Name) -> Result<BTreeMap<Name, StateId>> {
        self.0.open(volume, OpenMode::Normal).await?;
        let tables = self.0.newest_tables(volume, self.0.id(volume).await?).await?;
        let had = |name: &&Name| name.trashed().is_some_and(|(_, had)| had == *snapshot);
        let all = tables.with_trash().filter(|(name, _)| had(name)).map(|(name, s)| (name.clone(), s.id));
        let all: BTreeMap<Name, StateId> = all.collect();
        match all.is_empty() {
            true => {
                let title = self.0.engine.title(volume);
                Err(no_snapshot(&title, snapshot).context("in the trash"))
            }
            false => Ok(all),
        }
    }
}
