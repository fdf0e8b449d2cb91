//! Volumes begin, as new ones and as clones, and end: names, pins, registers, in the order that the model `pin` found safe.
//!
//! A name is taken first, so that two creators of one name know of each other; then the pin, then the register under its
//! random id, which is never used again. A creator that does not know how far it came cancels its own register (empty →
//! removed) before it drops the pin. What is broken off leaves a name or a pin without a volume: whoever meets one cancels
//! the register first, too.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use super::alter::let_go_in_time;
use super::marks_in_log::tables_to_the_end;
use super::names::take;
use super::readers::refuse_if_read;
use super::snapshots::{Removal, end_locks, not_built_yet, tables_with};
use super::volume_keys::{with_keys, with_keys_of};
use super::volumes::{OpenMode, Template, Volumes};
use crate::handle::Known;
use crate::head::HeadRegister;
use crate::head::VolumeInfo;
use crate::head::{Base, Gate, Head, NameStanding};
use crate::head::{BootTrace, VolumeSettings, check_size};
use crate::read::wait_at;
use crate::session::no_snapshot;
use crate::space::Object;
use crate::space::pins::{REMOVE_TRIES, key, snapshots_of};
use crate::space::{State, Tables, name_of_sealed, root_ref};
use windlass_base::format_limits::{CHUNKS_AHEAD, WALK_WINDOW};
use windlass_base::units::show_size;
use windlass_base::{ChunkId, Epoch, Error, Kind, Name, Nonce, Result, Seq, StateId, VolumeId};
use windlass_keys::Offered;
use windlass_pool::{CatalogEntry, NameEntry};
use windlass_store::Cause;

/// Number of tries to pin a snapshot whose parent changes between the look at its snapshots and the pin.
const PIN_TRIES: usize = 60;
/// Snapshots that were cloned a moment ago, of which an engine keeps what it knows.
const TEMPLATES_MAX: usize = 8;
/// Volumes looked at or ended at a time, of a pool that ends.
const ENDS_AT_ONCE: usize = 16;

/// A pin that may have been made.
pub struct Pin {
    parent: VolumeId,
    snapshot: StateId,
    nonce: Nonce,
}

/// Size and settings of a clone, where they are not those of the volume that the clone is made of.
#[derive(Clone, Copy, Default, Debug)]
pub struct CloneAs<'a> {
    /// Size in bytes, at least that of the snapshot; `None`: the snapshot's.
    pub size: Option<u64>,
    /// Settings of the clone, `KEY=VALUE` each.
    pub settings: &'a [String],
}

/// Returns the snapshot's name for a clone's head. A head is not encrypted, so that no name of an encrypted volume's snapshot
/// may stand in one.
fn name_in_heads(parent: &Head, state: &State, snapshot: &Name) -> Name {
    match parent.keys {
        Some(_) => name_of_sealed(state.id),
        None => snapshot.clone(),
    }
}

impl CloneAs<'_> {
    /// Size and settings of a clone of this state.
    fn of(&self, parent: &Head, state: &State) -> Result<(u64, VolumeSettings)> {
        let boot_trace = BootTrace::Off;
        let inherited = VolumeSettings { template: false, boot_trace, ..parent.settings };
        let settings = inherited.assigned(self.settings)?;
        settings.check_for(parent.keys.is_some())?;
        let size = self.size.unwrap_or(state.size);
        check_size(size)?;
        if size < state.size {
            let (least, wanted) = (show_size(state.size), show_size(size));
            let why =
                format!("a clone is not smaller than its snapshot, which has {least}: {wanted} is less");
            return Err(Error::new(Kind::Usage, why));
        }
        Ok((size, settings))
    }
}

/// Removal of everything: no trash, and pins without a clone are dropped.
const FOR_GOOD: Removal = Removal { clean: true, for_good: true };

impl Volumes {
    /// Creates an empty volume, born released. `Exists` when the name is taken.
    pub fn create<'f>(
        &'f self,
        name: &'f Name,
        size: u64,
        settings: VolumeSettings,
    ) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move { self.create_sealed(name, size, settings, self.engine.keys.for_all()).await })
    }

    /// Creates an empty volume as `create` does. If `offered` is given, the volume is encrypted, and `offered` opens it.
    pub fn create_sealed<'f>(
        &'f self,
        name: &'f Name,
        size: u64,
        settings: VolumeSettings,
        offered: Option<&'f Offered>,
    ) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move {
            check_size(size)?;
            settings.check()?;
            let id = VolumeId(self.engine.rt.random128());
            let mut head = self.new_head(id, size, settings)?;
            if let Some(offered) = offered {
                head = with_keys(self, head, offered).await?;
            }
            self.claim_name(name, id).await?;
            if let Err(e) = self.engine.cell(id).create(&head).await {
                self.give_up_creation(name, &head, &[]).await;
                return Err(e.context(format!("creating volume {}", self.engine.title(name))));
            }
            let info = self.info(name).await?;
            self.tally.made(&info);
            Ok(info)
        })
    }

    /// Gives the new volume its name. One that a broken-off creation or removal left behind is taken over.
    pub(crate) async fn claim_name(&self, name: &Name, id: VolumeId) -> Result<()> {
        take(self, name, NameEntry::first(id)).await
    }

    /// Undoes a creation after an error midway: the register is cancelled, then pins that may have been made go, and the name
    /// is given back. What can't be done is left for whoever meets it.
    pub(crate) async fn give_up_creation(&self, name: &Name, head: &Head, pins: &[Pin]) {
        let undone = async {
            if self.engine.cell(head.volume).cancel(head).await? {
                for pin in pins {
                    self.unpin(pin.parent, pin.snapshot, head.volume, pin.nonce).await?;
                }
                self.engine.pool.remove_name(name, NameEntry::first(head.volume)).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = undone.await {
            tracing::warn!(volume = %name, %error, "a creation that was broken off could not be undone yet");
        }
    }

    /// Makes a new volume whose contents are the snapshot's: O(1) in time and bytes.
    pub fn clone_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
        new: &'f Name,
    ) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move { self.clone_as(volume, snapshot, new, CloneAs::default()).await })
    }

    /// Clones as `clone_snapshot` does, with another size or other settings than those of the snapshot's volume.
    pub fn clone_as<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
        new: &'f Name,
        wish: CloneAs<'f>,
    ) -> BoxFuture<'f, Result<VolumeInfo>> {
        Box::pin(async move {
            let key = (volume.clone(), snapshot.clone());
            let known = self.templates.lock().get(&key).cloned();
            let (template, guessed) = match known {
                Some(known) => (known, true),
                None => (self.template(volume, snapshot).await?, false),
            };
            let id = VolumeId(self.engine.rt.random128());
            self.claim_name(new, id).await?;
            let mut pins = Vec::new();
            let made = async {
                let (head, template) = match self.pin(volume, template, snapshot, (id, wish), &mut pins).await
                {
                    // Another volume of that name by now, perhaps: what was pinned is none of this clone's.
                    Err(e) if guessed && e.is(Kind::NotFound) => {
                        while let Some(pin) = pins.last() {
                            self.unpin(pin.parent, pin.snapshot, id, pin.nonce).await?;
                            pins.pop();
                        }
                        let template = self.template(volume, snapshot).await?;
                        self.pin(volume, template, snapshot, (id, wish), &mut pins).await?
                    }
                    done => done?,
                };
                self.engine.cell(id).create(&head).await.map(|()| (head, template))
            };
            match made.await {
                Ok((head, template)) => {
                    self.keep_template(key, template);
                    let tables = Tables::born(&head);
                    let mut info = VolumeInfo::of(new, &head, &tables);
                    info.parent.iter_mut().for_each(|p| p.name = Some(volume.clone()));
                    self.tally.made(&info);
                    Ok(info)
                }
                Err(e) => {
                    self.templates.lock().remove(&key);
                    let cancelled = self.new_head(id, 512, VolumeSettings::default())?;
                    self.give_up_creation(new, &cancelled, &pins).await;
                    Err(e.context(format!("cloning {}@{snapshot}", self.engine.title(volume))))
                }
            }
        })
    }

    /// Pins the snapshot for the clone: the pin is made first, then it is seen that the snapshot is still there, with no gate
    /// on it. Pushes the pins that may have been made to `made`, also on failure.
    async fn pin(
        &self,
        volume: &Name,
        mut template: Template,
        snapshot: &Name,
        (clone, wish): (VolumeId, CloneAs<'_>),
        made: &mut Vec<Pin>,
    ) -> Result<(Head, Template)> {
        let (nonce, pool) = (Nonce(self.engine.rt.random128()), &self.engine.pool);
        let (parent, mut gate) = (template.parent, None);
        for _ in 0..PIN_TRIES {
            let seen = template.seen.clone();
            let state = seen.1.snapshot(snapshot);
            let state = state.ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))?.clone();
            if let Some(standing) = seen.0.gate.filter(|g| g.covers(state.id)) {
                wait_at(&self.engine, parent, standing.nonce, &mut gate).await?;
                template.seen = Arc::new(self.recorded(volume, parent).await?);
                continue;
            }
            let generation = pool.generation();
            if !made.iter().any(|pin| pin.parent == parent && pin.snapshot == state.id) {
                made.push(Pin { parent, snapshot: state.id, nonce });
            }
            self.pins(parent, state.id).insert(&key(clone), CatalogEntry::of(nonce.0)).await?;
            let after = self.look_after_pin(volume, &template.cell, state.id).await?;
            if after.naming != template.named.1
                && after.standing_of(volume, template.named.0) != NameStanding::Current
            {
                let why = format!("volume {} has another name by now", self.engine.title(volume));
                return Err(Error::new(Kind::NotFound, why));
            }
            if after.checkpoint.tables != seen.0.checkpoint.tables {
                template.seen = Arc::new(self.recorded(volume, parent).await?);
            } else if after != seen.0 {
                template.seen = Arc::new((after, seen.1.clone()));
            }
            let seen = &template.seen;
            let there = seen.1.snapshot(snapshot).is_some_and(|s| s.id == state.id);
            let gated = seen.0.gate.is_some_and(|g| g.covers(state.id));
            // Of another generation's stores a pin may be known that were replaced meanwhile: it is made again.
            if there && !gated && pool.generation() == generation {
                let (size, settings) = wish.of(&seen.0, &state)?;
                let mut new = self.new_head(clone, size, settings)?;
                if seen.0.keys.is_some() {
                    new = with_keys_of(self, new, &seen.0)?;
                }
                new.base = Some(Base {
                    ancestors: seen.0.volumes(),
                    parent_name: volume.clone(),
                    snapshot: state.id,
                    snapshot_name: name_in_heads(&seen.0, &state, snapshot),
                    root: root_ref(&state.tree),
                    mapped_blocks: state.mapped,
                    pin: nonce,
                    flat: None,
                    dropped: false,
                });
                return Ok((new, template));
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("volume {} changes too fast to be cloned now: try again", self.engine.title(volume)),
        ))
    }

    /// Returns the ids by which clones know this snapshot, whatever has its name later.
    pub fn snapshot_id<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
    ) -> BoxFuture<'f, Result<(VolumeId, StateId)>> {
        Box::pin(async move {
            let Template { parent, seen, .. } = self.template(volume, snapshot).await?;
            let state = seen.1.snapshot(snapshot);
            let state = state.ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))?;
            Ok((parent, state.id))
        })
    }

    /// Returns the snapshot that is to be cloned, with its volume, as they are now.
    async fn template(&self, volume: &Name, snapshot: &Name) -> Result<Template> {
        let NameEntry { volume: parent, serial } = self.entry(volume).await?;
        let seen = tables_with(self, volume, parent, snapshot).await?;
        seen.1.snapshot(snapshot).ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))?;
        let naming = seen.0.naming.clone();
        Ok(Template { parent, cell: self.engine.cell(parent), named: (serial, naming), seen: Arc::new(seen) })
    }

    fn keep_template(&self, key: (Name, Name), template: Template) {
        let mut kept = self.templates.lock();
        if !kept.contains_key(&key) && kept.len() >= TEMPLATES_MAX {
            kept.pop_first();
        }
        kept.insert(key, template);
    }

    /// Returns the parent's head as of a moment after the pin was made, in which the snapshot is among the cloned.
    async fn look_after_pin(&self, volume: &Name, cell: &HeadRegister, snapshot: StateId) -> Result<Head> {
        let head = self.existing(volume, cell.read().await?)?;
        if head.cloned.has(snapshot) {
            return Ok(head);
        }
        cell.change(|head| head.set_cloned(snapshot)).await
    }

    /// Checks that `remove` would not be refused, and removes nothing. Without `for_good` it checks that the volume may go into
    /// the trash.
    pub fn check_remove<'f>(&'f self, name: &'f Name, for_good: bool) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let (head, tables) = self.recorded(name, id).await?;
            let what = format!("volume {}", self.engine.title(name));
            let removal = Removal { clean: false, for_good };
            self.refuse_if_held(&what, &head, snapshots_of(&tables), removal).await?;
            refuse_if_read(self, name, &head).await?;
            let head = end_locks(self, head).await?;
            let lineage = self.lineage(name, &head).await?;
            head.may_remove(&lineage).map_err(|e| e.context(what))
        })
    }

    /// Removes a snapshot. `Refused` while clones need it, with their names.
    pub fn remove_snapshot<'f>(&'f self, volume: &'f Name, snapshot: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let mut tries = 0;
            loop {
                // Said with names; what a killed command left behind is no reason to refuse.
                self.check_remove_snapshot(volume, snapshot, FOR_GOOD).await?;
                let open = self.open(volume, OpenMode::Normal).await?;
                tries += 1;
                match open.ask(|session| async move { session.remove_snapshot(snapshot).await }).await {
                    Ok(()) => {
                        let_go_in_time(&self.engine, &open).await;
                        return Ok(());
                    }
                    // A clone came meanwhile, perhaps one that was broken off: a look tells.
                    Err(e) if e.is(Kind::Refused) && tries < REMOVE_TRIES => {}
                    done => return done,
                }
            }
        })
    }

    /// Checks that `remove_snapshot` would not be refused, and removes nothing: `NotFound`, and `Refused` with the clones'
    /// names or its lock. `clean`: pins without a clone are dropped.
    pub fn check_remove_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
        removal: Removal,
    ) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (head, tables) = self.recorded(volume, id).await?;
            let mut tables = self.newer_here(&head).unwrap_or(tables);
            if tables.snapshot(snapshot).is_none() && !head.active.released && self.engine.host_owns(&head) {
                // Where this host was cut off, its log may have a mark that no checkpoint has.
                self.open(volume, OpenMode::Normal).await?;
                tables = self.newest_tables(volume, id).await?;
            }
            if tables.snapshot(snapshot).is_none() && !head.active.released && !self.engine.host_owns(&head) {
                let (newer, to_the_end) = tables_to_the_end(self, volume, id).await?;
                if to_the_end.snapshot(snapshot).is_some_and(|state| !state.built) {
                    return Err(not_built_yet(self, volume, snapshot, &newer));
                }
            }
            let title = self.engine.title(volume);
            let state = tables.snapshot(snapshot).ok_or_else(|| no_snapshot(&title, snapshot))?;
            head.no_template().map_err(|e| e.context(format!("volume {title}")))?;
            if head.locks.until(state.id).is_some() {
                let now = end_locks(self, head.clone()).await?;
                now.locks.allow(state.id).map_err(|e| e.context(format!("{title}@{snapshot}")))?;
            }
            self.refuse_if_held(&format!("{title}@{snapshot}"), &head, [state.id], removal).await
        })
    }

    /// Returns the epochs that this folder may speak for.
    async fn lineage(&self, name: &Name, head: &Head) -> Result<BTreeSet<Epoch>> {
        match self.here(head.volume).map(|v| v.known()) {
            Some(Known::Live(session)) => Ok([session.epoch].into()),
            _ if head.active.released => Ok(Default::default()),
            _ => {
                let cell = self.engine.cell(head.volume);
                let context = crate::read::VolumeContext::new(self.engine.clone(), name.clone(), head, cell);
                crate::handle::lineage(&context).await
            }
        }
    }

    /// Removes a volume with its snapshots. `Refused` while clones need it, `Owned` when another host owns it.
    pub fn remove<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move { self.remove_this(name, None).await })
    }

    /// Removes as `remove` does; with an id, only this volume.
    ///
    /// # Errors
    /// `Owned`: another volume has the name by now.
    pub fn remove_this<'f>(&'f self, name: &'f Name, this: Option<VolumeId>) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let entry = self.entry(name).await?;
            let id = entry.volume;
            self.check_this(name, id, this)?;
            let cell = self.engine.cell(id);
            match cell.read().await? {
                Some(head) if !head.removed => self.mark_removed(name, &cell, head).await?,
                // Broken off, or removed by another just now.
                Some(_) => {}
                None => {
                    cell.cancel(&self.new_head(id, 512, VolumeSettings::default())?).await?;
                }
            }
            self.let_go_of_removed(id).await;
            self.tally.gone(id);
            self.engine.pool.remove_name(name, entry).await?;
            let Some(head) = cell.read().await? else { return Ok(()) };
            if let Some(current) = &head.naming.name {
                let entry = NameEntry { volume: id, serial: head.naming.serial };
                self.engine.pool.remove_name(current, entry).await?;
            }
            // The pin goes only when the head says *removed*: without it the parent's chunks could be deleted while the clone still
            // reads them.
            if let (Some(base), Some(parent)) = (&head.base, head.volumes().iter().rev().nth(1)) {
                self.unpin(*parent, base.snapshot, id, base.pin).await?;
            }
            self.forget_journal(id).await;
            self.delete_chunks(&head).await
        })
    }

    /// Ends the sessions that this engine has of a volume that is removed.
    pub(super) async fn let_go_of_removed(&self, id: VolumeId) {
        if let Some(open) = self.here(id) {
            open.removed();
            open.let_go().await;
            self.forget(id);
        }
    }

    /// Changes the volume's head to *removed*: behind a gate when it may have clones, so that none comes in between.
    pub(super) async fn mark_removed(&self, name: &Name, cell: &HeadRegister, mut head: Head) -> Result<()> {
        let title = || format!("volume {}", self.engine.title(name));
        let lineage = self.lineage(name, &head).await?;
        let mut tries = 0;
        if self.engine.pool.guesses() > 0 {
            head = cell.change(|h| h.doubt_cloned()).await?;
        }
        loop {
            head = end_locks(self, head).await?;
            head.may_remove(&lineage).map_err(|e| e.context(title()))?;
            let nonce = Nonce(self.engine.rt.random128());
            if head.was_cloned() {
                let gate = Gate { nonce, snapshot: None };
                let gated = cell.change(move |h| h.set_gate(gate)).await?;
                let tables = self.recorded(name, head.volume).await?.1;
                let free = self.refuse_if_held(&title(), &gated, snapshots_of(&tables), FOR_GOOD).await;
                let free = match free {
                    Ok(()) => refuse_if_read(self, name, &gated).await,
                    held => held,
                };
                if let Err(e) = free {
                    cell.change(move |h| h.lift_gate(nonce)).await?;
                    return Err(e);
                }
            }
            tries += 1;
            match cell.change(|h| h.naming.check_trashed(name).and_then(|()| h.remove(&lineage, nonce))).await
            {
                Err(e) if e.is(Kind::Refused) && tries < REMOVE_TRIES => {
                    head = self.head(name, head.volume).await?
                }
                done => return done.map(drop).map_err(|e| e.context(title())),
            }
        }
    }

    /// Deletes the journal of a volume that is gone, and the note how far this host has seen it come; journals that were kept
    /// aside stay.
    pub(super) async fn forget_journal(&self, id: VolumeId) {
        self.engine.confirmed(id).remove().await;
        let dir = self.engine.folder(id).join("journal");
        for file in self.engine.disk.list(&dir).await.unwrap_or_default() {
            if let Err(error) = self.engine.disk.remove(&dir.join(file)).await {
                tracing::debug!(%error, "a file of a removed volume's journal stays");
            }
        }
    }

    /// Deletes all objects whose ids can be told; scrub finds others.
    async fn delete_chunks(&self, head: &Head) -> Result<()> {
        let pool = &self.engine.pool;
        let chunk_table = self.engine.view(head).books(head).await.map(|b| b.1).unwrap_or_default();
        let named: BTreeSet<Object> = chunk_table.entries().map(|(seq, e)| e.object(seq)).collect();
        let all: Vec<ChunkId> = named.union(&chunk_table.retired).map(|o| o.of(head.volume)).collect();
        for some in all.chunks(256) {
            pool.delete_checked(some).await?;
        }
        // If the table can't be read, scrub must find what it names.
        let mut from = head.checkpoint.position.next();
        let id = |epoch, seq| ChunkId { volume: head.volume, epoch, seq: Seq(seq) };
        for end in &head.ends {
            for first in (from.0..=end.last.0).step_by(256) {
                let ids: Vec<_> = (first..=end.last.0.min(first + 255)).map(|s| id(end.epoch, s)).collect();
                pool.delete_checked(&ids).await?;
            }
            from = Seq(from.0.max(end.last.0 + 1));
        }
        if head.active.epoch == Epoch(0) {
            return Ok(());
        }
        // The last epoch's end is not recorded: until nothing comes for as long as a gap can be.
        loop {
            let ids: Vec<_> = (from.0..from.0 + WALK_WINDOW).map(|s| id(head.active.epoch, s)).collect();
            let probes = ids.iter().map(|id| pool.probe(id, &head.witnesses, Cause::Delete));
            let found = futures::future::join_all(probes).await.iter().any(|p| p.readable() > 0);
            if !found && from.0 > head.checkpoint.top.0 + CHUNKS_AHEAD {
                return Ok(());
            }
            pool.delete_checked(&ids).await?;
            from = Seq(from.0 + WALK_WINDOW);
        }
    }
}

/// Ends every volume of a pool that is to be destroyed as a whole. Only their heads are changed, each to *removed*, after which no
/// host can write to the volume any more; names and objects are deleted with the pool. A clone ends before its parent, as with any
/// removal. Broken off, it is done again. `Owned` where another host owns one; those that were ended before stay so.
pub async fn end_all(volumes: &Volumes, watch: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
    let mut ended = 0;
    loop {
        let there = living(volumes).await?;
        // Those that no other is a clone of: there is one, since a clone is younger than its parent.
        let parents: BTreeSet<VolumeId> =
            there.iter().flat_map(|(_, head)| head.volumes().into_iter().rev().skip(1)).collect();
        let leaves: Vec<_> = there.into_iter().filter(|(_, head)| !parents.contains(&head.volume)).collect();
        if leaves.is_empty() {
            return Ok(());
        }
        let ends = stream::iter(leaves).map(|(name, head)| async move { end(volumes, &name, head).await });
        let mut ends = ends.buffer_unordered(ENDS_AT_ONCE);
        while let Some(done) = ends.next().await {
            done?;
            ended += 1;
            watch(ended);
        }
    }
}

/// Checks that `end_all` would be refused for no volume because a client of another host has it open; asked before one is
/// ended.
pub fn check_unread<'f>(volumes: &'f Volumes) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        let names = volumes.engine.pool.list().await?;
        let looks = stream::iter(names).map(|(name, id)| async move {
            match volumes.engine.cell(id).read().await?.filter(|head| !head.removed) {
                Some(head) => refuse_if_read(volumes, &name, &head).await,
                None => Ok(()),
            }
        });
        let mut looks = looks.buffer_unordered(ENDS_AT_ONCE);
        while let Some(look) = looks.next().await {
            look?;
        }
        Ok(())
    })
}

/// Returns the pool's volumes by name and head; what is being created is cancelled.
async fn living(volumes: &Volumes) -> Result<Vec<(Name, Head)>> {
    let names = volumes.engine.pool.list().await?;
    let looks = stream::iter(names).map(|(name, id)| async move {
        let cell = volumes.engine.cell(id);
        let head = match cell.read().await? {
            Some(head) => Some(head),
            None if cell.cancel(&volumes.new_head(id, 512, VolumeSettings::default())?).await? => None,
            None => cell.read().await?,
        };
        Ok(head.filter(|head| !head.removed).map(|head| (name, head)))
    });
    let looks: Vec<Result<_>> = looks.buffer_unordered(ENDS_AT_ONCE).collect().await;
    looks.into_iter().filter_map(Result::transpose).collect()
}

async fn end(volumes: &Volumes, name: &Name, head: Head) -> Result<()> {
    let id = head.volume;
    // Where a rename was broken off it was listed under another.
    let name = &head.naming.name.clone().unwrap_or_else(|| name.clone());
    volumes.mark_removed(name, &volumes.engine.cell(id), head).await?;
    volumes.let_go_of_removed(id).await;
    volumes.forget_journal(id).await;
    Ok(())
}
