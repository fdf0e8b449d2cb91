//! What a pool's volumes stand on: its stores and this host's disk, memory and keys; and how a volume's newest tables are read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;

use super::memory_shares::Memory;
use super::volume_reader::View;
use crate::head::Head;
use crate::head::HeadRegister;
use crate::head::{Floor, Record};
use crate::head::{Host, VolumeSettings};
use crate::mirror::{MirrorHost, Sessions};
use crate::space::ChunkTable;
use crate::space::Sweeps;
use crate::space::Tables;
use crate::space::pins::Readers;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{ChunkId, Error, Kind, Name, RegisterId, Result, ResultExt as _, VolumeId};
use windlass_journal::JournalConfig;
use windlass_keys::{FamilyKeys, KeyAccess, OpenKeys, Secret};
use windlass_log::{InPack, Places, Reader};
use windlass_pool::{Pool, ReadCaches};
use windlass_store::Cause;

/// The folder of a volume's journal, in the volume's local folder.
const JOURNAL: &str = "journal";

/// What a pool's volumes stand on.
#[derive(Clone, Debug)]
pub struct EngineContext {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    pub pool: Arc<Pool>,
    /// A folder of the state folder, of this pool's volumes alone: journals, one folder a volume.
    pub dir: PathBuf,
    pub host: Host,
    pub memory: Memory,
    pub tuning: Tuning,
    pub sweeps: Arc<Sweeps>,
    /// Of encrypted volumes, as far as users gave them.
    pub keys: OpenKeys,
    /// Volumes that clients use here, and what is noted of them for other hosts.
    pub readers: Arc<Readers>,
    /// Another process is about to open the volumes: none is claimed here meanwhile.
    pub left: Arc<AtomicBool>,
    /// Where journals are mirrored to, and whose are mirrored here.
    pub mirror: MirrorHost,
}

/// When checkpoints and collection are due, and how large journals are. The defaults are for use, others for tests.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Bytes of log that force a checkpoint: a share of what is live, within bounds.
    pub log_min: u64,
    pub log_max: u64,
    pub log_share: u64,
    /// Chunks since the last one that force one: small flushes make small chunks.
    pub chunks_max: u64,
    /// Blocks that one merges before what died of them is written out: so much of it is in memory, however much a trim
    /// takes away (protocol.md §5.2). About 100 bytes a block.
    pub merge_blocks: u64,
    /// States that the table's own page holds; more are in pages of their own.
    pub states_inline: usize,
    /// Bytes of a journal and of its segments, if not what the volume's settings say.
    pub journal: Option<(u64, u64)>,
    /// Bytes of what is left of others that go into one object, at most.
    pub pack_max: u64,
    /// Per mille of what is live that objects may take: when what was packed is far colder, and when all is alike.
    pub space_max: (u64, u64),
    /// Bytes that a pack must free at least: its checkpoint takes some itself.
    pub gain_min: u64,
    /// So many small objects become one; a fourth of them is enough when somebody waits for collection.
    pub small_min: usize,
    /// Between two looks at the stores of a volume that is open all the time.
    pub look_every: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            log_min: 16 << 20,
            log_max: 1 << 30,
            log_share: 32,
            chunks_max: 2048,
            merge_blocks: 1 << 19,
            states_inline: 256,
            pack_max: u64::MAX,
            space_max: (1280, 1400),
            gain_min: 1 << 20,
            small_min: 64,
            look_every: Duration::from_secs(24 * 60 * 60),
            journal: None,
        }
    }
}

impl EngineContext {
    /// How users name a volume.
    pub fn title(&self, name: &Name) -> String {
        format!("{}/{name}", self.pool.name())
    }

    /// A volume's head.
    pub fn cell(&self, id: VolumeId) -> HeadRegister {
        HeadRegister::new(self.pool.register(RegisterId(id.0)))
    }

    /// How far this host has seen a volume come.
    pub fn confirmed(&self, id: VolumeId) -> Record {
        Record::new(self.disk.clone(), &self.folder(id))
    }

    /// The same as `cell`, of which no head is taken that is older than that.
    pub async fn cell_above(&self, name: &Name, id: VolumeId) -> HeadRegister {
        let known = self.confirmed(id).load().await;
        self.cell(id).above(Floor { known, title: self.title(name) })
    }

    /// The access to a volume and its ancestors.
    pub fn keyring(&self, head: &Head) -> Result<FamilyKeys> {
        let key = self.volume_key(head);
        match &head.keys {
            Some(keys) => keys.keyring(head.volume, key.as_ref()),
            None if key.is_some() => Err(Error::new(
                Kind::Corrupt,
                "its description says that it is not encrypted, and it was: somebody has changed that",
            )),
            None => Ok(FamilyKeys::default()),
        }
    }

    /// As far as it is here.
    pub fn volume_key(&self, head: &Head) -> Option<Secret> {
        let known = self.keys.get(head.volume);
        let Some((keys, offered)) = head.keys.as_ref().zip(self.keys.for_all()) else { return known };
        known.or_else(|| {
            let (key, _) = keys.unlock(offered).ok()?;
            self.keys.put(head.volume, key.clone());
            Some(key)
        })
    }

    /// That the volume can be read here, once its key is looked for where users say that keys are. `Denied`: it is encrypted,
    /// and its key is not here.
    pub async fn check_open(&self, name: &Name, head: &Head) -> Result<()> {
        self.find_key(name, head).await.map_err(|e| e.context(format!("volume {}", self.title(name))))
    }

    /// Whether its key is not here yet, and users say where it is.
    pub fn awaits_key(&self, name: &Name, id: VolumeId) -> bool {
        let is_said = || self.keys.source().is_some_and(|source| source.has(&self.title(name)));
        self.keys.get(id).is_none() && is_said()
    }

    async fn find_key(&self, name: &Name, head: &Head) -> Result<()> {
        let (title, source) = (self.title(name), self.keys.source());
        let Some(keys) = &head.keys else {
            if source.is_some_and(|source| source.has(&title)) {
                let why = "it is not encrypted, and windlass.toml has a key for it: either it is another volume, or somebody has \
                           changed its description";
                return Err(Error::new(Kind::Refused, why));
            }
            return self.keyring(head).map(|_| ());
        };
        if self.volume_key(head).is_none()
            && let Some(source) = source
            && let Some(offered) = source.find(&title).await?
        {
            let keys = keys.clone();
            let (key, _) = self.rt.cpu(move || keys.unlock(&offered)).await??;
            self.keys.put(head.volume, key);
        }
        self.keyring(head)?.access(head.volume).key().map(|_| ())
    }

    /// Gives the data keys of `volume` that a head has to who opens what is its own, or an ancestor's.
    pub(super) fn learn_data_keys(&self, head: &Head, family: &FamilyKeys, root: &Secret) -> Result<bool> {
        let (Some(keys), KeyAccess::Sealed(known)) = (&head.keys, family.access(head.volume)) else {
            return Ok(false);
        };
        Ok(known.learn(keys.data_keys_for((head.volume, root), head.volume)?))
    }

    /// Takes in the data keys that the head of `volume` has by now, for a view of `holder`: itself, or a clone that comes from it,
    /// with the same volume key. Whether some were news.
    pub async fn look_for_keys(
        &self,
        (holder, family): (VolumeId, &FamilyKeys),
        volume: VolumeId,
    ) -> Result<bool> {
        let Some(root) = self.keys.get(holder) else { return Ok(false) };
        let Some(head) = self.cell(volume).read().await? else { return Ok(false) };
        self.learn_data_keys(&head, family, &root)
    }

    /// What can be read of a volume: where its key is not here, what stays readable.
    pub fn view(&self, head: &Head) -> View {
        let (pool, slices) = (self.pool.clone(), self.memory.places.slices.clone());
        let frames = (self.memory.frames.clone(), self.memory.disk.clone());
        let keys = self.keys_of(head);
        let newest = Newest { engine: self.clone(), holder: head.volume, keys: keys.clone() };
        let family = (head.volumes(), keys);
        let reader = Reader::new(self.rt.clone(), pool, frames, family, Arc::new(newest), slices);
        let ahead = (head.size, self.memory.ahead.budget.clone());
        View::new(self.rt.clone(), reader, self.memory.pages.clone(), self.cell(head.volume), ahead)
    }

    /// As `keyring`; of a damaged description all is locked.
    pub fn keys_of(&self, head: &Head) -> FamilyKeys {
        self.keyring(head).unwrap_or_else(|error| {
            tracing::warn!(volume = %head.volume, %error, "its keys can't be read");
            let locked = head.volumes().into_iter().map(|volume| (volume, KeyAccess::Locked));
            FamilyKeys::new(locked.collect())
        })
    }

    /// The newest head, with the tables under it; none: there is no such volume. What another owner replaces while it is
    /// being read is read again.
    pub async fn newest(&self, id: VolumeId) -> Result<Option<(Head, Tables)>> {
        let look = async |view: &View, head: &Head| match head.removed {
            true => Ok(Tables::born(head)),
            false => view.tables(head).await,
        };
        self.consistent(&self.cell(id), look).await
    }

    /// The newest head with its chunk table; an empty one of a volume that was removed.
    pub async fn chunk_table(&self, id: VolumeId) -> Result<Option<(Head, ChunkTable)>> {
        self.chunk_table_in(&self.cell(id)).await
    }

    /// The same of the head in this register.
    pub(super) async fn chunk_table_in(&self, cell: &HeadRegister) -> Result<Option<(Head, ChunkTable)>> {
        let look = async |view: &View, head: &Head| match head.removed {
            true => Ok(ChunkTable::default()),
            false => Ok(view.books(head).await?.1),
        };
        self.consistent(cell, look).await
    }

    /// Whether what this head names as its checkpoint is in the stores, whatever memory has of it; asks no register.
    ///
    /// # Errors
    /// `Corrupt`: it is gone. `Unavailable`: stores that may have it do not answer.
    pub async fn is_whole(&self, head: &Head) -> Result<()> {
        let Some(at) = head.checkpoint.tables.filter(|at| at.volume == head.own_index()) else {
            return Ok(());
        };
        let id = ChunkId { volume: head.volume, epoch: at.epoch, seq: at.seq };
        let (probe, k) =
            (self.pool.probe(&id, &head.witnesses, Cause::Checkpoint).await, self.pool.layout().k());
        let (kind, why) = match probe.readable() {
            readable if readable >= k => return Ok(()),
            readable if readable + probe.unknown < k => (Kind::Corrupt, "is gone"),
            _ => (Kind::Unavailable, "can't be told to be there, as too few stores answer: bring them back"),
        };
        Err(Error::new(kind, format!("what the newest head of volume {} names {why}", head.volume)))
    }

    async fn consistent<T>(
        &self,
        cell: &HeadRegister,
        look: impl AsyncFn(&View, &Head) -> Result<T>,
    ) -> Result<Option<(Head, T)>> {
        let mut head = cell.read().await?;
        loop {
            let Some(now) = head else { return Ok(None) };
            let error = match look(&self.view(&now), &now).await {
                Ok(seen) => return Ok(Some((now, seen))),
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unavailable) => e,
                Err(e) => return Err(e),
            };
            // Deleted, because another checkpoint is recorded by now?
            head = cell.read().await?;
            if head.as_ref().is_some_and(|h| h.checkpoint.nonce == now.checkpoint.nonce) {
                return Err(error);
            }
        }
    }

    /// This state folder was the last to own the volume.
    pub fn host_owns(&self, head: &Head) -> bool {
        head.active.owner.as_ref().is_some_and(|h| h.id == self.host.id)
    }

    /// A volume's local folder.
    pub fn folder(&self, id: VolumeId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// What this host keeps of a volume that another one owns.
    pub fn sessions(&self, id: VolumeId) -> Sessions {
        Sessions { rt: self.rt.clone(), disk: self.disk.clone(), folder: self.folder(id) }
    }

    /// Volumes that have a local folder.
    pub async fn local(&self) -> Result<BTreeSet<VolumeId>> {
        let doing = || format!("looking into {}", self.dir.display());
        let names = self.disk.list_if_there(&self.dir).await.context(doing)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Whether this host was the volume's owner and did not let go of it: its journal is still there.
    pub async fn has_journal(&self, id: VolumeId) -> Result<bool> {
        windlass_journal::is_there(&*self.disk, &self.folder(id).join(JOURNAL)).await
    }

    pub fn journal(&self, id: VolumeId, settings: &VolumeSettings) -> JournalConfig {
        let dir = self.folder(id).join(JOURNAL);
        let (size, segment) = match self.tuning.journal {
            Some((size, segment)) => (size, Some((segment, 4 * segment))),
            None => (settings.journal_size, None),
        };
        JournalConfig { dir, size, segment, key: None }
    }
}

#[async_trait]
impl ReadCaches for EngineContext {
    async fn empty(&self) {
        tracing::warn!(
            pool = %self.pool.name(),
            "a shard had other contents than were stored, and was replaced: the caches of this host are emptied"
        );
        self.memory.empty_caches().await;
    }
}

/// Looks into the newest tables, and for the newest data keys.
#[derive(Debug)]
struct Newest {
    engine: EngineContext,
    /// Whose view it is; the volume key that opens it opens its ancestors.
    holder: VolumeId,
    keys: FamilyKeys,
}

#[async_trait]
impl Places for Newest {
    fn find(&self, chunk: &ChunkId) -> Option<InPack> {
        self.engine.memory.places.find(chunk)
    }

    async fn look_again(&self, chunk: &ChunkId, was: Option<InPack>) -> Result<bool> {
        let places = &self.engine.memory.places;
        if places.find(chunk) != was {
            return Ok(true);
        }
        if let Some((_, chunk_table)) = self.engine.chunk_table(chunk.volume).await? {
            places.know(chunk.volume, chunk_table.packed(chunk.volume));
        }
        Ok(places.find(chunk) != was)
    }

    async fn look_for_keys(&self, volume: VolumeId) -> Result<bool> {
        self.engine.look_for_keys((self.holder, &self.keys), volume).await
    }
}
