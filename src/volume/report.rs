//! Filling in what is told about volumes and snapshots: from heads and tables, and from the sessions of this engine.

use std::path::PathBuf;

use futures::future::join_all;

use super::check::{CheckReport, check};
use super::handle::{Known, Volume};
use super::head::Head;
use super::info::{Parent, SnapshotInfo, VolumeInfo};
use super::session::Session;
use super::states::{State, Tables};
use super::volumes::Volumes;
use crate::base::size::BLOCK;
use crate::base::{Kind, Name, Nonce, Result, VolumeId};

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
            owner_since_ms: head.active.since_ms,
            released: head.active.released,
            open_here: false,
            degraded: false,
            trouble: None,
            mapped_bytes: tables.tip().mapped * BLOCK,
            stored_bytes: tables.stored_bytes,
            unsent_bytes: 0,
            unsent_age_ms: 0,
            journal_bytes: 0,
            kept_journals: Vec::new(),
            snapshots: tables.snapshots().count() as u64,
            clones: head.pins.len() as u64,
            parent: head.base.as_ref().and_then(|b| {
                let volume = *b.ancestors.last()?;
                Some(Parent { volume, name: None, snapshot: b.snapshot_name.clone() })
            }),
        }
    }

    /// Says so when the stores don't keep up; `full`: how much of the journal is used, in percent.
    fn add_backlog(&mut self, full: u64) {
        if self.trouble.is_none() && self.unsent_age_ms > 2 * self.max_tail_ms {
            self.trouble = Some(format!(
                "the stores do not keep up: the oldest unsent write is {} s old, the journal is {full} % full",
                self.unsent_age_ms / 1000
            ));
        }
    }

    fn add_open(&mut self, volume: &Volume, full_w: usize) {
        self.trouble = volume.trouble();
        let Known::Live(session) = volume.known() else { return };
        self.open_here = true;
        self.add_session(&session, full_w);
    }

    fn add_session(&mut self, session: &Session, full_w: usize) {
        self.degraded = *session.w.borrow() < full_w;
        self.stored_bytes = session.stored_bytes();
        let usage = session.journal.usage();
        self.journal_bytes = usage.used;
        let tip = session.tip.lock();
        self.snapshots = tip.tables.snapshots().count() as u64;
        (self.unsent_bytes, self.unsent_age_ms) = {
            let (bytes, oldest) = tip.unsent();
            let now = session.ground.rt().now();
            (bytes, oldest.map_or(0, |at| now.since(at).as_millis() as u64))
        };
        drop(tip);
        self.add_backlog(usage.used * 100 / usage.size.max(1));
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

    pub async fn info(&self, name: &Name) -> Result<VolumeInfo> {
        let id = self.id(name).await?;
        self.info_of(name, id).await
    }

    /// Its name may be taken by another meanwhile: the id counts.
    async fn info_of(&self, name: &Name, id: VolumeId) -> Result<VolumeInfo> {
        let (head, tables) = self.recorded(name, id).await?;
        let mut info = VolumeInfo::of(name, &head, &tables);
        if let Some(open) = self.here(id) {
            info.add_open(&open, self.deps.pool.w());
        }
        info.kept_journals = self.kept_journals(id).await;
        if let Some(parent) = &mut info.parent {
            parent.name = self.name_of(parent.volume).await;
        }
        Ok(info)
    }

    async fn kept_journals(&self, id: VolumeId) -> Vec<PathBuf> {
        let dir = self.deps.folder(id);
        let names = self.deps.disk.list(&dir).await.unwrap_or_default();
        names.iter().filter(|n| n.starts_with("journal.")).map(|n| dir.join(n)).collect()
    }

    async fn name_of(&self, id: VolumeId) -> Option<Name> {
        let names = self.deps.pool.list().await.ok()?;
        names.into_iter().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// Recomputes from the recorded maps what is needed and compares it with the chunk table.
    pub async fn check(&self, name: &Name) -> Result<CheckReport> {
        let id = self.id(name).await?;
        // No checkpoint of this engine comes in between.
        let session = match self.here(id).map(|v| v.known()) {
            Some(Known::Live(session)) => Some(session),
            _ => None,
        };
        let _still = match &session {
            Some(session) => Some(session.checkpointing.lock().await),
            None => None,
        };
        let head = self.head(name, id).await?;
        let view = self.deps.view(&head);
        let (tables, ledger) = view.books(&head).await?;
        check(&view, head.own_index(), &tables, &ledger).await
    }

    /// A volume's snapshots, oldest first.
    pub async fn snapshots(&self, volume: &Name) -> Result<Vec<SnapshotInfo>> {
        let id = self.id(volume).await?;
        self.snapshots_of(volume, id).await
    }

    async fn snapshots_of(&self, volume: &Name, id: VolumeId) -> Result<Vec<SnapshotInfo>> {
        let head = self.head(volume, id).await?;
        let tables = match self.here(id).map(|v| v.known()) {
            Some(Known::Live(session)) => session.tip.lock().tables.clone(),
            _ => self.deps.view(&head).tables(&head).await?,
        };
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

    /// How many volumes of the pool have a snapshot of this group.
    async fn members(&self, group: Nonce) -> Result<u32> {
        let mut members = 0;
        for (name, id) in self.deps.pool.list().await? {
            let has = |t: &Tables| t.snapshots().any(|(_, s)| s.group == group);
            let found = match self.here(id).map(|v| v.known()) {
                Some(Known::Live(session)) => has(&session.tip.lock().tables),
                _ => self.recorded(&name, id).await.is_ok_and(|(_, tables)| has(&tables)),
            };
            members += u32::from(found);
        }
        Ok(members)
    }
}
