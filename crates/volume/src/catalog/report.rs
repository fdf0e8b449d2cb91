//! Filling in what is told about volumes and snapshots: from heads and tables, and from the sessions of this engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use super::marks_in_log::tables_to_the_end;
use super::names::one_each;
use super::space::shared;
use super::volumes::{OpenMode, Volumes};
use crate::handle::{Known, Volume};
use crate::head::{Cloned, Head};
use crate::head::{FlushMode, MirrorLoss};
use crate::head::{MirrorInfo, Parent, Rotation, SnapshotInfo, VolumeInfo};
use crate::mirroring::forget_stale;
use crate::read::passes;
use crate::session::Session;
use crate::session::frozen_by_take_over;
use crate::space::pins::snapshots_of;
use crate::space::{State, Tables};
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Instant;
use windlass_base::units::{MIB, show_bytes, show_size, show_time};
use windlass_base::{Error, JournalId, Kind, Name, Nonce, Result, ResultExt as _, StateId, VolumeId};
use windlass_journal::{Peek, peek};
use windlass_pool::Pool;

/// Shortest age of unsent writes, in ms, by which their pace is told: the pace of a shorter one says little.
const PACE_OVER_MS: u64 = 5_000;
/// Least room in bytes: with less of it writes wait.
const ROOM_LEAST: u64 = MIB;
/// Number of volumes that are looked at at a time.
const LOOKS_AT_ONCE: usize = 64;

/// Largest number of ancestors of a clone that are told.
const CHAIN_MAX: usize = 1024;
/// Groups of which an engine remembers that they are whole.
const WHOLE_MAX: usize = 4096;

/// Facts that are the same for all volumes of a listing.
struct Surroundings {
    names: BTreeMap<VolumeId, Name>,
    /// Volumes of which this host's disk holds something.
    local: BTreeSet<VolumeId>,
}

/// Extent to which a volume's surroundings are told with it.
#[derive(Clone, Copy)]
enum Around<'a> {
    /// A volume of a listing: what the others of the listing tell.
    Listed(&'a Surroundings),
    /// Facts that cost few requests.
    Near,
    /// All facts.
    Walked,
}

/// Counts of the members of a group of snapshots.
#[derive(Clone, Copy, Default, Debug)]
struct Members {
    /// Number of volumes that have a snapshot of the group.
    marked: u32,
    /// Number of those volumes whose snapshot is recorded under a checkpoint, and so stored for certain.
    recorded: u32,
    /// True if one of them remembers that all were stored.
    whole: bool,
}

impl VolumeInfo {
    pub(crate) fn of(name: &Name, head: &Head, tables: &Tables) -> VolumeInfo {
        let settings = &head.settings;
        VolumeInfo {
            name: name.clone(),
            id: head.volume,
            size: head.size,
            created_ms: head.created_ms,
            flush: settings.flush,
            meaning: settings.meaning(),
            compression: settings.compression,
            recompress_after_ms: settings.recompress_after_ms,
            max_tail_ms: settings.max_tail_ms,
            journal_size: settings.journal_size,
            error_after_ms: settings.error_after_ms,
            limits: settings.limits,
            quota_bytes: settings.quota_bytes,
            template: settings.template,
            boot_trace: settings.boot_trace,
            handover: settings.handover,
            mirror_loss: settings.mirror_loss,
            clients_allowed: settings.clients,
            mirror: mirror_of(head),
            owner: head.active.owner.as_ref().map(|h| h.name.clone()),
            owner_id: head.active.owner.as_ref().map(|h| h.id),
            owner_since_ms: head.active.since_ms,
            released: head.active.released,
            encrypted: head.keys.is_some(),
            rotation: rotation_of(head),
            open_here: false,
            degraded: false,
            trouble: None,
            trouble_ms: None,
            mapped_bytes: tables.tip().mapped * BLOCK,
            stored_bytes: tables.stored_bytes,
            stored_with_parity_bytes: 0,
            shared_bytes: None,
            exclusive_bytes: None,
            live_bytes: None,
            logged_bytes: 0,
            map_bytes: 0,
            packed_bytes: 0,
            retired_objects: 0,
            unsent_bytes: 0,
            unsent_age_ms: Some(0),
            journal_bytes: 0,
            room_bytes: None,
            full_in_ms: None,
            reads: Default::default(),
            kept_journals: Vec::new(),
            snapshots: by_name(tables).count() as u64,
            locked_snapshots: head.locks.count() as u64,
            locked_until_ms: head.locks.last(),
            not_whole_since_ms: head.round.map(|round| round.since_ms),
            history: settings.history,
            history_marks: (tables.snapshots().count() - by_name(tables).count()) as u64,
            clones: None,
            parent: parent_of(head),
            chain: Vec::new(),
        }
    }

    /// Adds what the state of the stores means for this volume now.
    fn add_pool(&mut self, pool: &Pool, now: Instant) {
        let (layout, condition) = (pool.layout(), pool.condition());
        self.stored_with_parity_bytes = self.stored_bytes * layout.n() as u64 / layout.k() as u64;
        let slow = self.unsent_age_ms.is_some_and(|age| age > 2 * self.max_tail_ms);
        let stuck = condition.trouble();
        if slow || stuck.is_some() {
            self.full_in_ms = self.full_in();
        }
        if self.trouble.is_some() {
            return;
        }
        if let Some((since, why)) = stuck {
            let ms = now.since(since).as_millis() as u64;
            self.trouble_ms = Some(ms);
            let flushes = if self.flush == FlushMode::Pool { ", and flushes wait" } else { "" };
            self.trouble = Some(format!("{why} for {}{flushes}{}", show_time(ms), self.outlook()));
        } else if slow {
            let age = show_time(self.unsent_age_ms.unwrap_or(0));
            self.trouble = Some(format!(
                "the stores do not keep up: the oldest unsent write is {age} old{}",
                self.outlook()
            ));
        } else {
            self.trouble = condition.archived();
        }
    }

    /// Returns in how many ms writes will wait: the room divided by the pace at which unsent writes have grown.
    fn full_in(&self) -> Option<u64> {
        let (room, age) = (self.room_bytes?, self.unsent_age_ms?);
        (self.unsent_bytes > 0).then(|| {
            let ms = u128::from(room) * u128::from(age.max(PACE_OVER_MS)) / u128::from(self.unsent_bytes);
            u64::try_from(ms).unwrap_or(u64::MAX)
        })
    }

    fn outlook(&self) -> String {
        let Some(room) = self.room_bytes else { return String::new() };
        let unsent = format!("; {} are not in the pool", show_bytes(self.unsent_bytes));
        match self.full_in_ms {
            _ if room < ROOM_LEAST => format!("{unsent}, and writes wait, as there is no room for more"),
            Some(ms) => {
                format!("{unsent}, writes wait in about {}, after {} more", show_time(ms), show_bytes(room))
            }
            None => format!("{unsent}, writes wait after {}", show_bytes(room)),
        }
    }

    fn add_open(&mut self, volume: &Volume, full_w: usize) {
        if let Some((since, why)) = volume.trouble() {
            self.trouble_ms = since.map(|at| volume.now().since(at).as_millis() as u64);
            self.trouble = Some(why);
        }
        self.reads = volume.reads();
        let Known::Live(session) = volume.known() else { return };
        self.open_here = true;
        self.add_session(&session, full_w);
    }

    fn add_session(&mut self, session: &Session, full_w: usize) {
        self.degraded = *session.w.borrow() < full_w;
        self.stored_bytes = session.stored_bytes();
        self.live_bytes = Some(session.pace.live.load(Ordering::Relaxed));
        self.map_bytes = session.writer.map_bytes();
        self.logged_bytes = session.writer.stored_bytes() - self.map_bytes;
        self.packed_bytes = session.packed_bytes.load(Ordering::Relaxed);
        self.retired_objects = session.retired.lock().waiting() as u64;
        let usage = session.journal.usage();
        self.journal_bytes = usage.used;
        self.rotation = rotation_of(&session.head.lock());
        if let Some(rotation) = &mut self.rotation {
            rotation.left_bytes = session.left_to_rotate();
        }
        self.add_mirror(session);
        let tip = session.tip.lock();
        self.snapshots = by_name(&tip.tables).count() as u64;
        self.history_marks = tip.tables.snapshots().count() as u64 - self.snapshots;
        let (bytes, oldest) = tip.unsent();
        drop(tip);
        let now = session.context.rt().now();
        self.unsent_bytes = bytes;
        self.unsent_age_ms = Some(oldest.map_or(0, |at| now.since(at).as_millis() as u64));
        if session.near_quota.load(Ordering::Relaxed)
            && let Some(quota) = self.quota_bytes
        {
            let why = format!(
                "90 % of its quota of {} or more is used: writes above it fail; trim or remove something in it, or raise it by \
                 `windlass volume set {}/{} quota=SIZE`",
                show_size(quota),
                session.context.engine.pool.name(),
                session.context.name()
            );
            self.trouble.get_or_insert(why);
        }
        let memory = session.context.engine.memory.overlay.room();
        self.room_bytes = Some(memory);
        match session.journal.failed() {
            Some(error) => {
                if self.flush != FlushMode::Pool {
                    self.meaning = session.context.settings().meaning_without_journal();
                }
                let means = match session.journal.is_void() {
                    true => {
                        "a flush waits until all is in the pool, until this host's disk takes a journal again"
                    }
                    false => "flushes wait until all is in the pool",
                };
                let waits = || format!("{error}; {means}");
                let why = session.unmended().map_or_else(waits, |e| e.to_string());
                self.trouble.get_or_insert(why);
            }
            None => self.room_bytes = Some(memory.min(usage.size.saturating_sub(usage.used))),
        }
        // What the pool's trouble means for the volume is said where that is looked at, and matters more.
        if session.context.engine.pool.condition().trouble().is_none()
            && let Some(why) = &*session.history.failed.lock()
        {
            self.trouble.get_or_insert(format!("its history can't be kept up, and is tried again: {why}"));
        }
    }

    fn add_mirror(&mut self, session: &Session) {
        if self.flush != FlushMode::Mirror {
            return;
        }
        let (standing, context) = (session.mirror.standing(), &session.context);
        let mirror = self.mirror.get_or_insert_default();
        mirror.peer = context.engine.mirror.dial.as_ref().map(|dial| dial.place());
        let state = match (standing.named, standing.connected) {
            (true, _) => "mirrored",
            (false, true) => "catching-up",
            (false, false) => "lost",
        };
        (mirror.state, mirror.lag_bytes) = (Some(state.to_owned()), standing.lag_bytes);
        if let Some(why) = standing.why.filter(|_| !standing.named) {
            let waits = match self.mirror_loss {
                MirrorLoss::Pool => "flushes wait for the pool",
                MirrorLoss::Hold => "flushes wait until it is (`mirror-loss=pool`: for the pool)",
            };
            let cure = "start the peer (`windlass serve --mirror-listen`), or choose flush=pool";
            self.trouble.get_or_insert(format!("its journal is not mirrored, and {waits}: {why}; {cure}"));
            mirror.why = Some(why);
        }
    }

    /// Adds what this host's journal holds of a volume that isn't open. `moves`: the journal is still to be put aside.
    fn add_journal(&mut self, head: &Head, tables: &Tables, dir: PathBuf, peek: &Peek, moves: bool) {
        self.journal_bytes = peek.used;
        if peek.lineage.contains(&head.active.epoch) {
            if peek.any_after && !head.active.released {
                (self.unsent_bytes, self.unsent_age_ms) = (peek.after, None);
            }
        } else if peek.used > 0 && !moves {
            // Another owner ended its epoch, and gave the same numbers to writes of its own since: what of it is stored tells
            // the snapshot of that moment alone. The next opening here puts it aside.
            let frozen = tables.snapshots().filter_map(|(_, state)| frozen_by_take_over(state));
            let ours = frozen.filter(|(ended, _)| peek.lineage.contains(ended)).map(|(_, has)| has);
            if ours.max().is_none_or(|has| peek.last > has) {
                self.kept_journals.push(dir);
            }
        }
    }
}

impl SnapshotInfo {
    fn of(name: &Name, state: &State) -> SnapshotInfo {
        SnapshotInfo {
            name: name.clone(),
            id: state.id,
            mark: state.group,
            size: state.size,
            created_ms: state.created_ms,
            ready: state.built,
            partial: false,
            clones: Vec::new(),
            locked_until_ms: None,
        }
    }
}

fn rotation_of(head: &Head) -> Option<Rotation> {
    let (key, oldest) = head.data_keys();
    (oldest < key).then_some(Rotation { key, oldest, left_bytes: None })
}

fn mirror_of(head: &Head) -> Option<MirrorInfo> {
    let (host, epoch) = match &head.mirror {
        Some(named) => (Some(named.host.name.clone()), Some(named.session.0)),
        None if head.settings.flush == FlushMode::Mirror => (None, None),
        None => return None,
    };
    Some(MirrorInfo { host, epoch, ..MirrorInfo::default() })
}

/// Returns the snapshots that the volume did not take by itself.
fn by_name(tables: &Tables) -> impl Iterator<Item = (&Name, &State)> {
    tables.snapshots().filter(|(_, state)| !state.history)
}

fn parent_of(head: &Head) -> Option<Parent> {
    let (volume, base) = head.parent()?;
    let (snapshot, mapped_bytes) = (base.snapshot_name.clone(), base.mapped_blocks * BLOCK);
    Some(Parent { volume, name: None, snapshot, snapshot_id: base.snapshot, mapped_bytes })
}

/// Counts the clones of each volume, by the clones' own heads.
fn count_clones(all: &mut [(Name, Result<VolumeInfo>)]) {
    let mut clones: BTreeMap<VolumeId, u64> = BTreeMap::new();
    for parent in all.iter().filter_map(|(_, info)| info.as_ref().ok()?.parent.as_ref()) {
        *clones.entry(parent.volume).or_default() += 1;
    }
    for info in all.iter_mut().filter_map(|(_, info)| info.as_mut().ok()) {
        info.clones = Some(clones.get(&info.id).copied().unwrap_or(0));
    }
}

impl Volumes {
    /// Lists all volumes that are not in the trash, in order of their names, by their heads, in one pass; opens nothing. `Err`
    /// beside a name: its head cannot be read. `Unavailable` when for `patience` nothing comes; how long the whole takes
    /// depends on how many there are.
    pub fn list(&self, patience: Duration) -> BoxFuture<'_, Result<Vec<(Name, Result<VolumeInfo>)>>> {
        Box::pin(async move {
            let rt = &self.engine.rt;
            let late = || {
                let pool = self.engine.pool.name();
                Error::new(
                    Kind::Unavailable,
                    format!("pool {pool}: too few stores answer ({patience:?} without one)"),
                )
            };
            let listed = async {
                let entries = self.engine.pool.name_entries().await?;
                Ok(one_each(self, entries).await)
            };
            let names = rt.timeout(patience, listed).await.unwrap_or_else(|| Err(late()))?;
            let known = Surroundings {
                names: names.iter().map(|(name, id)| (*id, name.clone())).collect(),
                local: self.engine.local().await?,
            };
            let names = names.into_iter().filter(|(name, _)| name.trashed().is_none());
            let looks = names.map(|(name, id)| {
                let known = &known;
                async move {
                    let info = self.info_of(&name, id, Around::Listed(known)).await;
                    (name, info)
                }
            });
            let mut looks = stream::iter(looks).buffered(LOOKS_AT_ONCE);
            let mut all = Vec::new();
            while let Some((name, info)) = rt.timeout(patience, looks.next()).await.ok_or_else(late)? {
                // A name whose volume is gone, or not there yet, is none of the volumes.
                if !info.as_ref().is_err_and(|e| e.is(Kind::NotFound)) {
                    all.push((name, info));
                }
            }
            count_clones(&mut all);
            Ok(all)
        })
    }

    /// Describes a volume by what few requests tell, whatever else there is. When the stores don't answer and the volume is
    /// open here, it tells what is known here.
    pub fn info<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move { self.info_with(name, false).await })
    }

    /// Describes a volume as `info` does; `walk`: with its clones counted, and all of its ancestors, which costs some requests
    /// for each of them.
    pub fn info_with<'f>(&'f self, name: &'f Name, walk: bool) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move {
            let asked = async {
                let id = self.id(name).await?;
                self.info_of(name, id, if walk { Around::Walked } else { Around::Near }).await
            };
            let Some(known) = self.glance(name) else { return asked.await };
            match self.unless_away(asked).await {
                Some(Err(e)) if !passes(&e) => Err(e),
                Some(Ok(info)) => Ok(info),
                None | Some(Err(_)) => {
                    Ok(VolumeInfo { kept_journals: self.kept_journals(known.id).await?, ..known })
                }
            }
        })
    }

    /// Describes a volume by what this engine knows, where it has the volume open as its owner; asks nobody.
    pub fn glance(&self, name: &Name) -> Option<VolumeInfo> {
        let volume = self.open_now().into_iter().find(|v| v.name() == *name)?;
        let Known::Live(session) = volume.known() else { return None };
        let head = session.head.lock().clone();
        let mut info = VolumeInfo::of(name, &head, &session.tip.lock().tables);
        info.add_open(&volume, self.engine.pool.w());
        info.add_pool(&self.engine.pool, self.engine.rt.now());
        Some(info)
    }

    /// Returns the names of volumes that are open here and have writes which are not in the pool yet, whether anybody uses them
    /// or not.
    pub fn with_unsent(&self) -> Vec<Name> {
        let has_unsent = |volume: &Arc<Volume>| match volume.known() {
            Known::Live(session) => session.tip.lock().unsent().0 > 0,
            _ => false,
        };
        self.open_now().into_iter().filter(has_unsent).map(|volume| volume.name()).collect()
    }

    /// Returns why I/O on a volume that this engine has open fails or waits.
    pub fn failure(&self, name: &Name) -> Option<String> {
        let volume = self.open_now().into_iter().find(|v| v.name() == *name)?;
        volume.trouble().map(|(_, why)| why)
    }

    /// Describes the volume of this id: its name may be taken by another meanwhile.
    async fn info_of(&self, name: &Name, id: VolumeId, around: Around<'_>) -> Result<VolumeInfo> {
        let (head, tables) = match around {
            Around::Listed(_) => self.recorded(name, id).await?,
            // Of a volume alone also what its log has.
            Around::Near | Around::Walked => tables_to_the_end(self, name, id).await?,
        };
        let mut info = VolumeInfo::of(name, &head, &tables);
        if let Some(open) = self.here(id) {
            info.add_open(&open, self.engine.pool.w());
        }
        let is_local = match around {
            Around::Listed(known) => known.local.contains(&id),
            Around::Near | Around::Walked => true,
        };
        if is_local {
            self.add_local(&mut info, &head, &tables).await;
        }
        info.add_pool(&self.engine.pool, self.engine.rt.now());
        let walk = match around {
            Around::Listed(known) => {
                info.parent.iter_mut().for_each(|p| p.name = known.names.get(&p.volume).cloned());
                return Ok(info);
            }
            Around::Near => false,
            Around::Walked => true,
        };
        let cloned = self.add_clones(&mut info, &head, &tables, walk).await?;
        if let Some(Known::Live(session)) = self.here(id).map(|open| open.known()) {
            info.mapped_bytes = session.mapped().await.map_or(info.mapped_bytes, |blocks| blocks * BLOCK);
            if let Some(cloned) = cloned {
                let chunk_table = session.chunk_table.lock().clone();
                let (shared, own) = shared(&chunk_table, &tables, &cloned);
                (info.shared_bytes, info.exclusive_bytes) = (Some(shared), Some(own));
            }
        }
        info.chain = self.chain(&head, if walk { CHAIN_MAX } else { 1 }).await?;
        info.parent = info.chain.first().cloned();
        Ok(info)
    }

    /// Adds how many clones the volume has, and returns the snapshots that may have some. The head alone tells whether it ever
    /// had any; how many it has is counted for who walks. `None`: any of its snapshots may have some.
    async fn add_clones(
        &self,
        info: &mut VolumeInfo,
        head: &Head,
        tables: &Tables,
        walk: bool,
    ) -> Result<Option<Vec<StateId>>> {
        if walk || !head.was_cloned() {
            let pins = self.pins_on(head, snapshots_of(tables)).await?;
            info.clones = Some(pins.len() as u64);
            return Ok(Some(pins.into_iter().map(|(snapshot, ..)| snapshot).collect()));
        }
        Ok(match &head.cloned {
            Cloned::Of(some) => Some(some.iter().copied().collect()),
            Cloned::Any => None,
        })
    }

    /// Returns the ancestors of a clone, the nearest first, `most` of them at most.
    async fn chain(&self, head: &Head, most: usize) -> Result<Vec<Parent>> {
        let (mut chain, mut head) = (Vec::new(), head.clone());
        // A head that was forged may name its own child.
        while let Some((volume, base)) = head.parent().filter(|_| chain.len() < most) {
            let name = self.name_of(&base.parent_name, volume).await;
            chain.extend(parent_of(&head).map(|parent| Parent { name, ..parent }));
            if chain.len() == most {
                break;
            }
            let Some(above) = self.engine.cell(volume).read().await? else { break };
            head = above;
        }
        Ok(chain)
    }

    /// Returns a volume's name by now; `was`: one that it had.
    async fn name_of(&self, was: &Name, id: VolumeId) -> Option<Name> {
        let now = self.engine.pool.lookup(was).await.ok()?;
        if now == Some(id) {
            return Some(was.clone());
        }
        self.engine.cell(id).read().await.ok()??.naming.name.filter(|name| name.trashed().is_none())
    }

    /// Adds what this host's disk holds of the volume.
    async fn add_local(&self, info: &mut VolumeInfo, head: &Head, tables: &Tables) {
        let id = head.volume;
        if !info.open_here {
            let dir = self.engine.journal(id, &head.settings).dir;
            let held = self.held_journal(id);
            let found = peek(&*self.engine.disk, &dir, head.checkpoint.last_lsn).await;
            // Where it may have moved meanwhile.
            let moves = held.or_else(|| self.held_journal(id)).is_some();
            match found {
                Ok(Some(found)) => info.add_journal(head, tables, dir, &found, moves),
                Ok(None) => {}
                Err(error) => info.trouble = info.trouble.take().or(Some(error.to_string())),
            }
        }
        match self.kept_journals(id).await {
            Ok(kept) => info.kept_journals.extend(kept),
            Err(error) => info.trouble = info.trouble.take().or(Some(error.to_string())),
        }
    }

    /// Returns the volumes that this state folder owned when it was cut off, and those of which that can't be told now; asks
    /// nothing where there are none.
    pub fn left_open(&self) -> BoxFuture<'_, Result<Vec<Name>>> {
        Box::pin(async move {
            let mut left = Vec::new();
            for id in self.engine.local().await? {
                if self.engine.has_journal(id).await? {
                    left.push(id);
                }
            }
            if left.is_empty() {
                return Ok(Vec::new());
            }
            let mut names = self.names().await?;
            let named = left.into_iter().filter_map(|id| Some((id, names.remove(&id)?)));
            let looks = stream::iter(named).map(|(id, name)| async move {
                // One whose head can't be read now is no reason to leave the others: opening it says why.
                let is_ours =
                    |head: Head| !head.removed && !head.active.released && self.engine.host_owns(&head);
                let head = self.engine.cell(id).read().await;
                head.map_or(true, |head| head.is_some_and(is_ours)).then_some(name)
            });
            Ok(looks.buffered(LOOKS_AT_ONCE).filter_map(|name| async { name }).collect().await)
        })
    }

    /// Removes what is mirrored here of volumes that have gone on without it.
    pub fn forget_stale_sessions(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let local = self.engine.local().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "old sessions of mirrors stay for now");
                BTreeSet::new()
            });
            for id in local {
                if let Err(error) = forget_stale(&self.engine, id).await {
                    tracing::debug!(volume = %id, %error, "old sessions of a mirror stay for now");
                }
            }
        })
    }

    /// Returns the journals of the volume that were put aside on this host.
    async fn kept_journals(&self, id: VolumeId) -> Result<Vec<PathBuf>> {
        let dir = self.engine.folder(id);
        let doing = || format!("looking into {}", dir.display());
        let mut names = self.engine.disk.list_if_there(&dir).await.context(doing)?;
        // Asked after the names: one that is being moved is still locked.
        let held = self.held_journal(id).map(|journal| format!(".{journal}"));
        names.retain(|n| n.starts_with("journal.") && !held.as_ref().is_some_and(|held| n.ends_with(held)));
        Ok(names.iter().map(|n| dir.join(n)).collect())
    }

    fn held_journal(&self, id: VolumeId) -> Option<JournalId> {
        self.here(id)?.held_journal()
    }

    /// Returns a volume's snapshots, oldest first, without those that it took by itself.
    pub fn snapshots<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            self.snapshots_of(volume, id).await
        })
    }

    /// Returns names and sizes of a volume's snapshots, oldest first: what is known without asking for other volumes.
    pub fn snapshot_sizes<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<(Name, u64)>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (_, tables) = tables_to_the_end(self, volume, id).await?;
            Ok(tables.snapshots().map(|(name, state)| (name.clone(), state.size)).collect())
        })
    }

    /// Returns what `snapshot_names` does, before the volume goes with them. A snapshot may be in this host's journal alone:
    /// then the volume is opened, which brings it to the pool.
    pub fn snapshots_at_stake<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<Name>>> {
        Box::pin(async move {
            if self.owned_here(volume).is_none() && self.info(volume).await?.unsent_bytes > 0 {
                self.open(volume, OpenMode::Normal).await?;
            }
            self.snapshot_names(volume).await
        })
    }

    /// Returns the names of a volume's snapshots, and when they were taken, oldest first.
    pub fn snapshot_times<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<(Name, u64)>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (_, tables) = tables_to_the_end(self, volume, id).await?;
            Ok(tables.snapshots().map(|(name, state)| (name.clone(), state.created_ms)).collect())
        })
    }

    /// Returns the names of the snapshots that the volume did not take by itself.
    pub fn snapshot_names<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<Name>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (_, tables) = tables_to_the_end(self, volume, id).await?;
            Ok(by_name(&tables).map(|(name, _)| name.clone()).collect())
        })
    }

    /// Returns the names of a volume's snapshots, or of those older than one of them, newest first; those that the volume took
    /// by itself come last. What changed since each of them can be told.
    pub fn snapshots_before<'f>(
        &'f self,
        volume: &'f Name,
        before: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<Vec<Name>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (_, tables) = tables_to_the_end(self, volume, id).await?;
            let end = before.and_then(|name| tables.snapshot(name)).map_or(tables.tip, |state| state.id);
            let mut older: Vec<_> = tables.snapshots().filter(|(_, state)| state.id < end).collect();
            older.sort_by_key(|(_, state)| (state.history, std::cmp::Reverse(state.id)));
            Ok(older.into_iter().map(|(name, _)| name.clone()).collect())
        })
    }

    async fn snapshots_of(&self, volume: &Name, id: VolumeId) -> Result<Vec<SnapshotInfo>> {
        let (head, tables) = tables_to_the_end(self, volume, id).await?;
        let doubtful = tables.snapshots().filter(|(_, s)| !s.whole).map(|(_, s)| (s.group, s.group_size));
        let whole = self.whole_groups(doubtful.collect()).await?;
        let pins = self.pins_on(&head, snapshots_of(&tables)).await?;
        let names = if pins.is_empty() { BTreeMap::new() } else { self.names().await? };
        let mut clones: BTreeMap<StateId, Vec<String>> = BTreeMap::new();
        for (snapshot, clone, _) in pins {
            let named = names.get(&clone).map_or(clone.to_string(), |n| n.to_string());
            clones.entry(snapshot).or_default().push(named);
        }
        let mut all = Vec::new();
        for (name, state) in by_name(&tables) {
            let mut info = SnapshotInfo::of(name, state);
            info.partial = !state.whole && !whole.contains(&state.group);
            info.clones = clones.remove(&state.id).unwrap_or_default();
            info.clones.sort();
            info.locked_until_ms = head.locks.until(state.id);
            all.push(info);
        }
        all.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        Ok(all)
    }

    /// Returns those of these groups, given by id and size, that all their members have. What is certain is remembered: by this
    /// engine, and in the tables of the members that are open here.
    async fn whole_groups(&self, mut doubtful: BTreeMap<Nonce, u32>) -> Result<BTreeSet<Nonce>> {
        let mut whole: BTreeSet<Nonce> = {
            let known = self.whole.lock();
            doubtful.keys().copied().filter(|group| known.contains(group)).collect()
        };
        doubtful.retain(|group, _| !whole.contains(group));
        if doubtful.is_empty() {
            return Ok(whole);
        }
        let found = self.members(&doubtful).await?;
        for (group, size) in doubtful {
            let members = found.get(&group).copied().unwrap_or_default();
            if members.whole || members.recorded >= size {
                let mut known = self.whole.lock();
                if known.len() >= WHOLE_MAX {
                    known.pop_first();
                }
                known.insert(group);
                drop(known);
                self.open_now().iter().for_each(|v| v.settle_group(group));
            }
            if members.whole || members.marked >= size {
                whole.insert(group);
            }
        }
        Ok(whole)
    }

    /// Counts which of the pool's volumes have a snapshot of these groups: in one pass for all groups, and another for those
    /// that lack some, as what was taken last may be in logs alone.
    async fn members(&self, groups: &BTreeMap<Nonce, u32>) -> Result<BTreeMap<Nonce, Members>> {
        let names = self.engine.pool.list().await?;
        let mut found = self.members_by(&names, groups, false).await;
        let is_short = |(group, size): &(&Nonce, &u32)| {
            found.get(group).is_none_or(|members| !members.whole && members.marked < **size)
        };
        let short: BTreeMap<Nonce, u32> = groups.iter().filter(is_short).map(|(g, n)| (*g, *n)).collect();
        if !short.is_empty() {
            found.extend(self.members_by(&names, &short, true).await);
        }
        Ok(found)
    }

    /// Counts members in one pass over these volumes; `to_the_end`: by logs too.
    async fn members_by(
        &self,
        names: &[(Name, VolumeId)],
        groups: &BTreeMap<Nonce, u32>,
        to_the_end: bool,
    ) -> BTreeMap<Nonce, Members> {
        let looks = stream::iter(names.to_vec()).map(|(name, id)| async move {
            match to_the_end {
                true => tables_to_the_end(self, &name, id).await.map(|(_, tables)| tables),
                false => self.newest_tables(&name, id).await,
            }
        });
        let looks = looks.buffer_unordered(LOOKS_AT_ONCE);
        let count = async |mut found: BTreeMap<Nonce, Members>, tables: Result<Tables>| {
            let Ok(tables) = tables else { return found };
            for (_, state) in tables.with_trash().filter(|(_, s)| groups.contains_key(&s.group)) {
                let members = found.entry(state.group).or_default();
                members.marked += 1;
                members.recorded += u32::from(state.built);
                members.whole |= state.whole;
            }
            found
        };
        looks.fold(BTreeMap::new(), count).await
    }
}
