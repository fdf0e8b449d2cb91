//! Filling in what is told about volumes and snapshots: from heads and tables, and from the sessions of this engine.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use futures::future::join_all;

use super::check::{CheckReport, check};
use super::handle::{Known, Volume};
use super::head::Head;
use super::info::{Parent, SnapshotInfo, VolumeInfo};
use super::session::Session;
use super::settings::FlushMode;
use super::snapshot::frozen_by_take_over;
use super::states::{State, Tables};
use super::view::passes;
use super::volumes::Volumes;
use crate::base::rt::Instant;
use crate::base::size::{BLOCK, MIB, show_bytes, show_time};
use crate::base::{Error, JournalId, Kind, Name, Nonce, Result, VolumeId};
use crate::journal::{Peek, peek};
use crate::pool::Condition;

/// The pace of what has waited for less than this says little.
const PACE_OVER_MS: u64 = 5_000;
/// With less room than this writes wait.
const ROOM_LEAST: u64 = MIB;
/// How often a check begins, each time with a newer checkpoint.
const CHECKS_MAX: usize = 5;

impl VolumeInfo {
    fn of(name: &Name, head: &Head, tables: &Tables) -> VolumeInfo {
        let settings = &head.settings;
        VolumeInfo {
            name: name.clone(),
            id: head.volume,
            size: head.size,
            created_ms: head.created_ms,
            flush: settings.flush,
            meaning: settings.meaning(),
            compression: settings.compression,
            max_tail_ms: settings.max_tail_ms,
            journal_size: settings.journal_size,
            owner: head.active.owner.as_ref().map(|h| h.name.clone()),
            owner_id: head.active.owner.as_ref().map(|h| h.id),
            owner_since_ms: head.active.since_ms,
            released: head.active.released,
            open_here: false,
            degraded: false,
            trouble: None,
            trouble_ms: None,
            mapped_bytes: tables.tip().mapped * BLOCK,
            stored_bytes: tables.stored_bytes,
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
            snapshots: tables.snapshots().count() as u64,
            clones: head.pins.len() as u64,
            parent: head.base.as_ref().and_then(|b| {
                let volume = *b.ancestors.last()?;
                Some(Parent { volume, name: None, snapshot: b.snapshot_name.clone() })
            }),
        }
    }

    /// What the stores mean for this volume, now.
    fn add_pool(&mut self, condition: &Condition, now: Instant) {
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
        }
    }

    /// Room divided by the pace at which unsent writes have grown.
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
        let tip = session.tip.lock();
        self.snapshots = tip.tables.snapshots().count() as u64;
        let (bytes, oldest) = tip.unsent();
        drop(tip);
        let now = session.ground.rt().now();
        self.unsent_bytes = bytes;
        self.unsent_age_ms = Some(oldest.map_or(0, |at| now.since(at).as_millis() as u64));
        let memory = session.ground.deps.memory.overlay.room();
        self.room_bytes = Some(memory);
        match session.journal.failed() {
            Some(error) => {
                let waits = || format!("{error}; flushes wait until all is in the pool");
                let why = session.unmended().map_or_else(waits, |e| e.to_string());
                self.trouble.get_or_insert(why);
            }
            None => self.room_bytes = Some(memory.min(usage.size.saturating_sub(usage.used))),
        }
    }

    /// Of a volume that isn't open: what this host's journal of it holds. `moves`: it is still to be put aside.
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
            size: state.size,
            created_ms: state.created_ms,
            ready: state.built,
            partial: false,
            clones: Vec::new(),
        }
    }
}

impl Volumes {
    /// All volumes in order of their names, by their heads; opens nothing. `Err` beside a name: its head cannot be read.
    pub async fn list(&self) -> Result<Vec<(Name, Result<VolumeInfo>)>> {
        let names = self.deps.pool.list().await?;
        let mut all = Vec::with_capacity(names.len());
        for some in names.chunks(16) {
            let infos = join_all(some.iter().map(|(name, id)| self.info_of(name, *id))).await;
            all.extend(some.iter().zip(infos).map(|((name, _), info)| (name.clone(), info)));
        }
        // A name whose volume is gone, or not there yet, is none of the volumes.
        all.retain(|(_, info)| !info.as_ref().is_err_and(|e| e.is(Kind::NotFound)));
        Ok(all)
    }

    /// When the stores don't answer and the volume is open here, what is known here.
    pub async fn info(&self, name: &Name) -> Result<VolumeInfo> {
        let asked = async {
            let id = self.id(name).await?;
            self.info_of(name, id).await
        };
        let Some(known) = self.glance(name) else { return asked.await };
        match self.unless_away(asked).await {
            Some(Err(e)) if !passes(&e) => Err(e),
            Some(Ok(info)) => Ok(info),
            None | Some(Err(_)) => {
                Ok(VolumeInfo { kept_journals: self.kept_journals(known.id).await, ..known })
            }
        }
    }

    /// What this engine knows of a volume that it has open; asks nobody.
    pub fn glance(&self, name: &Name) -> Option<VolumeInfo> {
        let volume = self.open_now().into_iter().find(|v| v.name() == name)?;
        let Known::Live(session) = volume.known() else { return None };
        let head = session.head.lock().clone();
        let mut info = VolumeInfo::of(name, &head, &session.tip.lock().tables);
        info.add_open(&volume, self.deps.pool.w());
        info.add_pool(&self.deps.pool.condition(), self.deps.rt.now());
        Some(info)
    }

    /// Why I/O on a volume that this engine has open fails or waits.
    pub fn failure(&self, name: &Name) -> Option<String> {
        let volume = self.open_now().into_iter().find(|v| v.name() == name)?;
        volume.trouble().map(|(_, why)| why)
    }

    /// Its name may be taken by another meanwhile: the id counts.
    async fn info_of(&self, name: &Name, id: VolumeId) -> Result<VolumeInfo> {
        let (head, tables) = self.recorded(name, id).await?;
        let mut info = VolumeInfo::of(name, &head, &tables);
        if let Some(open) = self.here(id) {
            info.add_open(&open, self.deps.pool.w());
        }
        if !info.open_here {
            let dir = self.deps.journal(id, &head.settings).dir;
            let held = self.held_journal(id);
            let found = peek(&*self.deps.disk, &dir, head.checkpoint.last_lsn).await;
            // Where it may have moved meanwhile.
            let moves = held.or_else(|| self.held_journal(id)).is_some();
            match found {
                Ok(Some(found)) => info.add_journal(&head, &tables, dir, &found, moves),
                Ok(None) => {}
                Err(error) => info.trouble = info.trouble.or(Some(error.to_string())),
            }
        }
        info.kept_journals.extend(self.kept_journals(id).await);
        info.add_pool(&self.deps.pool.condition(), self.deps.rt.now());
        if let Some(parent) = &mut info.parent {
            parent.name = self.name_of(parent.volume).await;
        }
        Ok(info)
    }

    /// Journals of the volume that were put aside on this host.
    async fn kept_journals(&self, id: VolumeId) -> Vec<PathBuf> {
        let dir = self.deps.folder(id);
        let mut names = self.deps.disk.list(&dir).await.unwrap_or_default();
        // Asked after the names: one that is being moved is still locked.
        let held = self.held_journal(id).map(|journal| format!(".{journal}"));
        names.retain(|n| n.starts_with("journal.") && !held.as_ref().is_some_and(|held| n.ends_with(held)));
        names.iter().map(|n| dir.join(n)).collect()
    }

    fn held_journal(&self, id: VolumeId) -> Option<JournalId> {
        self.here(id)?.held_journal()
    }

    pub(super) async fn name_of(&self, id: VolumeId) -> Option<Name> {
        let names = self.deps.pool.list().await.ok()?;
        names.into_iter().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// Recomputes from the maps of one recorded checkpoint what is needed, and compares it with that checkpoint's chunk table.
    /// Where the volume is open, nothing of it is deleted meanwhile; elsewhere its owner may delete what later checkpoints
    /// don't need, and then the newest of them is checked, from the beginning.
    pub async fn check(&self, name: &Name) -> Result<CheckReport> {
        let id = self.id(name).await?;
        let (mut tries, mut failed) = (0, None::<(Head, Error, bool)>);
        loop {
            // Before the head is read: all that it names stays.
            let kept = match self.here(id).map(|v| v.known()) {
                Some(Known::Live(session)) => Some(session.keep_retired()),
                _ => None,
            };
            let head = self.head(name, id).await?;
            if let Some((was, error, held)) = failed.take() {
                if was.checkpoint.nonce == head.checkpoint.nonce {
                    return Err(error);
                }
                if tries == CHECKS_MAX {
                    return Err(self.outrun(name, &head, error, held));
                }
                tracing::debug!(volume = %name, %error, "a newer checkpoint was made: the check begins anew");
            }
            tries += 1;
            match check(&self.deps, &head).await {
                // The next look at the head tells damage from what was deleted.
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unavailable | Kind::Removed) => {
                    failed = Some((head, e, kept.is_some_and(|kept| kept.holds())));
                }
                done => return done,
            }
        }
    }

    /// Why a check came to no end, though it began with a newer checkpoint every time. `held`: this host deleted nothing that
    /// the last one needed.
    fn outrun(&self, name: &Name, head: &Head, error: Error, held: bool) -> Error {
        let title = self.deps.title(name);
        let why = match &head.active.owner {
            Some(owner) if owner.id != self.deps.host.id => format!(
                "volume {title} is being changed by its owner {owner} faster than it can be checked from here: run \
                 `windlass volume check` on that host"
            ),
            _ if held => return error.context(format!("volume {title}")),
            _ => format!(
                "volume {title} is being changed faster than it can be checked: try again when less is written to it"
            ),
        };
        Error::new(Kind::Unavailable, why)
    }

    /// A volume's snapshots, oldest first.
    pub async fn snapshots(&self, volume: &Name) -> Result<Vec<SnapshotInfo>> {
        let id = self.id(volume).await?;
        self.snapshots_of(volume, id).await
    }

    async fn snapshots_of(&self, volume: &Name, id: VolumeId) -> Result<Vec<SnapshotInfo>> {
        let head = self.head(volume, id).await?;
        let tables = self.newest_tables(volume, id).await?;
        let mut all = Vec::new();
        for (name, state) in tables.snapshots() {
            let mut info = SnapshotInfo::of(name, state);
            if state.group_size > 1 {
                info.partial = self.members(state.group).await? < state.group_size;
            }
            for pin in head.pins.iter().filter(|p| p.snapshot == state.id) {
                info.clones
                    .push(self.name_of(pin.clone).await.map_or(pin.clone.to_string(), |n| n.to_string()));
            }
            all.push(info);
        }
        all.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        Ok(all)
    }

    /// As this engine knows them when it is the owner, else as they are recorded. Opens nothing.
    pub(super) async fn newest_tables(&self, volume: &Name, id: VolumeId) -> Result<Tables> {
        match self.here(id).map(|v| v.known()) {
            Some(Known::Live(session)) => Ok(session.tip.lock().tables.clone()),
            _ => Ok(self.recorded(volume, id).await?.1),
        }
    }

    /// How many volumes of the pool have a snapshot of this group.
    async fn members(&self, group: Nonce) -> Result<u32> {
        let mut members = 0;
        for (name, id) in self.deps.pool.list().await? {
            let has = |t: &Tables| t.snapshots().any(|(_, s)| s.group == group);
            members += u32::from(self.newest_tables(&name, id).await.is_ok_and(|tables| has(&tables)));
        }
        Ok(members)
    }
}
