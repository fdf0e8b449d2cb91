//! Clones, and the ends of volumes: pins, names, registers, in the order that the model `pin` found safe.
//!
//! A name is taken first, so that two creators of one name know of each other; then the pin, then the register under its
//! random id, which is never used again. A creator that does not know how far it came cancels its own register (empty →
//! removed) before it drops the pin. What is broken off leaves a name or a pin without a volume: whoever meets one cancels
//! the register first, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::handle::Known;
use super::head::{Base, Head, Pin};
use super::info::VolumeInfo;
use super::settings::Settings;
use super::snapshot::no_snapshot;
use super::space::Object;
use super::states::root_ref;
use super::volumes::Volumes;
use crate::base::size::{CHUNKS_AHEAD, VOLUME_MAX, WALK_WINDOW, show_size};
use crate::base::{ChunkId, Epoch, Error, Kind, Name, Nonce, Result, Seq, VolumeId};
use crate::store::Cause;

/// How long a volume that has a name and no register is taken for one that is being created.
const CREATION: Duration = Duration::from_secs(3);
/// How often a parent may change between a look at its snapshots and the pin.
const PIN_TRIES: usize = 20;

impl Volumes {
    /// Checks that a volume of this size can be.
    fn check_size(size: u64) -> Result<()> {
        if size == 0 || !size.is_multiple_of(512) || size > VOLUME_MAX {
            let size = show_size(size);
            let why =
                format!("a volume can't have a size of {size}: use a multiple of 512 bytes, at most 64T");
            return Err(Error::new(Kind::Usage, why));
        }
        Ok(())
    }

    /// A new empty volume, born released. `Exists` when the name is taken.
    pub async fn create(&self, name: &Name, size: u64, settings: Settings) -> Result<VolumeInfo> {
        Volumes::check_size(size)?;
        settings.check()?;
        let id = VolumeId(self.deps.rt.random128());
        self.claim_name(name, id).await?;
        let head = self.new_head(id, size, settings)?;
        if let Err(e) = self.deps.cell(id).create(&head).await {
            self.give_up_creation(name, &head).await;
            return Err(e.context(format!("creating volume {}", self.deps.title(name))));
        }
        self.info(name).await
    }

    pub(super) fn new_head(&self, id: VolumeId, size: u64, settings: Settings) -> Result<Head> {
        let pool = &self.deps.pool;
        let w = u8::try_from(pool.w())
            .map_err(|_| Error::new(Kind::Internal, "a layout has at most 64 shards"))?;
        Ok(Head::new(id, self.deps.rt.wall_ms(), size, settings, w, pool.incarnations()))
    }

    /// Gives the new volume its name. One that a broken-off creation or removal left behind is taken over.
    pub(super) async fn claim_name(&self, name: &Name, id: VolumeId) -> Result<()> {
        let pool = &self.deps.pool;
        let taken = match pool.insert(name, id).await {
            Err(e) if e.is(Kind::Exists) => pool.lookup(name).await?,
            done => return done,
        };
        let exists = || Error::new(Kind::Exists, format!("volume {} exists", self.deps.title(name)));
        let Some(other) = taken else { return pool.insert(name, id).await };
        let cell = self.deps.cell(other);
        if cell.read().await?.is_none() {
            self.deps.rt.sleep(CREATION).await;
        }
        let gone = match cell.read().await? {
            Some(head) => head.removed,
            None => cell.cancel(&self.new_head(other, 512, Settings::default())?).await?,
        };
        if !gone {
            return Err(exists());
        }
        pool.remove(name, other).await?;
        pool.insert(name, id).await.map_err(|e| if e.is(Kind::Exists) { exists() } else { e })
    }

    /// After an error in between: the register is cancelled, then the name given back. What can't be done is left for
    /// whoever meets it.
    pub(super) async fn give_up_creation(&self, name: &Name, head: &Head) {
        let undone = async {
            if self.deps.cell(head.volume).cancel(head).await? {
                if let (Some(base), Some(parent)) = (&head.base, head.volumes().iter().rev().nth(1)) {
                    let nonce = base.pin;
                    self.deps.cell(*parent).change(move |h| h.unpin(nonce)).await?;
                }
                self.deps.pool.remove(name, head.volume).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = undone.await {
            tracing::warn!(volume = %name, %error, "a creation that was broken off could not be undone yet");
        }
    }

    /// A new volume whose contents are the snapshot's: O(1) in time and bytes.
    pub async fn clone_snapshot(&self, volume: &Name, snapshot: &Name, new: &Name) -> Result<VolumeInfo> {
        let parent = self.id(volume).await?;
        let (_, tables) = self.tables_with(volume, parent, snapshot).await?;
        tables.snapshot(snapshot).ok_or_else(|| no_snapshot(&self.deps.title(volume), snapshot))?;
        let id = VolumeId(self.deps.rt.random128());
        self.claim_name(new, id).await?;
        let pin = Nonce(self.deps.rt.random128());
        let mut cancelled = self.new_head(id, 512, Settings::default())?;
        let made = async {
            let head = self.pin(volume, parent, snapshot, id, pin).await?;
            cancelled.base = head.base.clone();
            self.deps.cell(id).create(&head).await
        };
        if let Err(e) = made.await {
            self.drop_pin_of(parent, &cancelled, pin).await;
            self.give_up_creation(new, &cancelled).await;
            return Err(e.context(format!("cloning {}@{snapshot}", self.deps.title(volume))));
        }
        self.info(new).await
    }

    /// The pin may be there or not: after the register is cancelled it may go.
    async fn drop_pin_of(&self, parent: VolumeId, head: &Head, pin: Nonce) {
        let undone = async {
            if self.deps.cell(head.volume).cancel(head).await? {
                self.deps.cell(parent).change(move |h| h.unpin(pin)).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = undone.await {
            tracing::warn!(%error, "the pin of a clone that was not made stays for now");
        }
    }

    /// Pins the snapshot for the clone: judged in the tables under the very value that the CAS replaces.
    async fn pin(
        &self,
        volume: &Name,
        parent: VolumeId,
        snapshot: &Name,
        clone: VolumeId,
        nonce: Nonce,
    ) -> Result<Head> {
        for _ in 0..PIN_TRIES {
            let (head, tables) = self.recorded(volume, parent).await?;
            let state =
                tables.snapshot(snapshot).ok_or_else(|| no_snapshot(&self.deps.title(volume), snapshot))?;
            let pin = Pin { snapshot: state.id, clone, nonce };
            let judged = head.checkpoint.tables;
            match self.deps.cell(parent).change(move |h| h.pin(pin, judged)).await {
                Ok(_) => {}
                // Another table by now, or stores are away: a look tells.
                Err(e) if e.is(Kind::Unavailable) => continue,
                Err(e) => return Err(e),
            }
            let mut new = self.new_head(clone, state.size, head.settings.clone())?;
            new.base = Some(Base {
                ancestors: head.volumes(),
                parent_name: volume.clone(),
                snapshot: state.id,
                snapshot_name: snapshot.clone(),
                root: root_ref(&state.tree),
                mapped_blocks: state.mapped,
                pin: nonce,
            });
            return Ok(new);
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("volume {} changes too fast to be cloned now: try again", self.deps.title(volume)),
        ))
    }

    /// Pins of clones that don't exist, and never will, are dropped.
    pub(super) async fn drop_dangling_pins(&self, id: VolumeId) -> Result<()> {
        let cell = self.deps.cell(id);
        let Some(head) = cell.read().await? else { return Ok(()) };
        for pin in head.pins {
            let clone = self.deps.cell(pin.clone);
            let gone = match clone.read().await? {
                Some(head) => head.removed,
                None => {
                    // It may be on its way.
                    self.deps.rt.sleep(CREATION).await;
                    clone.cancel(&self.new_head(pin.clone, 512, Settings::default())?).await?
                }
            };
            if gone {
                cell.change(move |h| h.unpin(pin.nonce)).await?;
            }
        }
        Ok(())
    }

    /// The pins that hold something, as far as a look tells: those whose clone exists. Changes nothing.
    async fn holding(&self, pins: &[Pin]) -> Result<Vec<Pin>> {
        let mut holding = Vec::new();
        for pin in pins {
            if self.deps.cell(pin.clone).read().await?.is_some_and(|clone| !clone.removed) {
                holding.push(*pin);
            }
        }
        Ok(holding)
    }

    /// What `remove` would refuse, without doing it.
    pub async fn check_remove(&self, name: &Name) -> Result<()> {
        let id = self.id(name).await?;
        let mut head = self.head(name, id).await?;
        head.pins = self.holding(&head.pins).await?;
        let lineage = self.lineage(name, &head).await?;
        head.remove(&lineage).map(|_| ()).map_err(|e| e.context(format!("volume {}", self.deps.title(name))))
    }

    /// What `remove_snapshot` would refuse, without doing it: `NotFound`, and `Refused` with the clones' names.
    pub async fn check_remove_snapshot(&self, volume: &Name, snapshot: &Name) -> Result<()> {
        let id = self.id(volume).await?;
        let (head, tables) = (self.head(volume, id).await?, self.newest_tables(volume, id).await?);
        let title = self.deps.title(volume);
        let state = tables.snapshot(snapshot).ok_or_else(|| no_snapshot(&title, snapshot))?;
        let pins: Vec<Pin> = head.pins.into_iter().filter(|p| p.snapshot == state.id).collect();
        let names = if pins.is_empty() { BTreeMap::new() } else { self.names().await? };
        let mut clones = Vec::new();
        for pin in self.holding(&pins).await? {
            let named = names.get(&pin.clone);
            clones.push(named.map_or(pin.clone.to_string(), |name| self.deps.title(name)));
        }
        if clones.is_empty() {
            return Ok(());
        }
        let clones = clones.join(", ");
        let why = format!("{title}@{snapshot} is needed by its clones: {clones}; remove them first");
        Err(Error::new(Kind::Refused, why))
    }

    /// The epochs that this folder may speak for.
    async fn lineage(&self, name: &Name, head: &Head) -> Result<BTreeSet<Epoch>> {
        match self.here(head.volume).map(|v| v.known()) {
            Some(Known::Live(session)) => Ok([session.epoch].into()),
            _ if head.active.released => Ok(Default::default()),
            _ => {
                let cell = self.deps.cell(head.volume);
                let ground = super::deps::Ground::new(self.deps.clone(), name.clone(), head, cell);
                super::open::lineage(&ground).await
            }
        }
    }

    /// `Refused` while clones need it, `Owned` when another host does. With its snapshots.
    pub async fn remove(&self, name: &Name) -> Result<()> {
        let id = self.id(name).await?;
        let cell = self.deps.cell(id);
        match cell.read().await? {
            Some(head) if !head.removed => {
                self.drop_dangling_pins(id).await?;
                let lineage = self.lineage(name, &head).await?;
                cell.change(|h| h.remove(&lineage))
                    .await
                    .map_err(|e| e.context(format!("volume {}", self.deps.title(name))))?;
            }
            // Broken off, or removed by another just now.
            Some(_) => {}
            None => {
                cell.cancel(&self.new_head(id, 512, Settings::default())?).await?;
            }
        }
        if let Some(open) = self.here(id) {
            open.removed();
            open.let_go().await;
            self.forget(id);
        }
        self.deps.pool.remove(name, id).await?;
        let Some(head) = cell.read().await? else { return Ok(()) };
        if let (Some(base), Some(parent)) = (&head.base, head.volumes().iter().rev().nth(1)) {
            let nonce = base.pin;
            self.deps.cell(*parent).change(move |h| h.unpin(nonce)).await?;
        }
        self.forget_journal(id).await;
        self.delete_chunks(&head).await
    }

    /// The journal of a volume that is gone; those that were kept aside stay.
    async fn forget_journal(&self, id: VolumeId) {
        let dir = self.deps.folder(id).join("journal");
        for file in self.deps.disk.list(&dir).await.unwrap_or_default() {
            if let Err(error) = self.deps.disk.remove(&dir.join(file)).await {
                tracing::debug!(%error, "a file of a removed volume's journal stays");
            }
        }
    }

    /// All objects whose ids can be told; scrub finds others.
    async fn delete_chunks(&self, head: &Head) -> Result<()> {
        let pool = &self.deps.pool;
        let ledger = self.deps.view(head).books(head).await.map(|b| b.1).unwrap_or_default();
        let named: BTreeSet<Object> = ledger.entries().map(|(seq, e)| e.object(seq)).collect();
        let all: Vec<ChunkId> = named.union(&ledger.retired).map(|o| o.of(head.volume)).collect();
        for some in all.chunks(256) {
            pool.delete(some).await?;
        }
        // If the table can't be read, scrub must find what it names.
        let mut from = head.checkpoint.position.next();
        let id = |epoch, seq| ChunkId { volume: head.volume, epoch, seq: Seq(seq) };
        for end in &head.ends {
            for first in (from.0..=end.last.0).step_by(256) {
                let ids: Vec<_> = (first..=end.last.0.min(first + 255)).map(|s| id(end.epoch, s)).collect();
                pool.delete(&ids).await?;
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
            let found = futures::future::join_all(probes).await.iter().any(|p| p.good > 0);
            if !found && from.0 > head.checkpoint.top.0 + CHUNKS_AHEAD {
                return Ok(());
            }
            pool.delete(&ids).await?;
            from = Seq(from.0 + WALK_WINDOW);
        }
    }
}
