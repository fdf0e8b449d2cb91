//! A pool that is open: the whole of it in one place, each verb done by the room that it belongs to.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::chunk::{Chunk, ChunkKind, DeletionCheck, Inventory, ReadCaches};
use crate::chunk::{Layout, Zoning};
use crate::io::Catalog;
use crate::io::Clocks;
use crate::io::PoolContext;
use crate::io::QuotaRoom;
use crate::io::Verify;
use crate::io::prove_servers;
use crate::io::refresh;
use crate::io::{Condition, Need, availability};
use crate::io::{Directory, NameEntry};
use crate::io::{Known, Upload};
use crate::io::{Payload, Probe, Told};
use crate::io::{PoolStatus, status};
use crate::local::LastScrub;
use crate::local::{RepairReport, ScrubOptions, ScrubReport, Watch};
use crate::register::{Change, Register};
use crate::repair::handoff;
use crate::repair::older;
use crate::repair::repair_findings;
use crate::repair::scrub;
use crate::repair::verify_damage;
use crate::repair::{Unneeded, sweep};
use crate::stores::Membership;
use crate::stores::{PoolConfig, PoolSettings, guesses};
use windlass_base::rt::Rt;
use windlass_base::{
    ChunkId, Error, Generation, Incarnation, Kind, Name, PoolId, RegisterId, Result, VolumeId,
};
use windlass_keys::PoolKey;
use windlass_store::Cause;

/// Pause between looks at stores of which too few answer.
const READY_AGAIN: Duration = Duration::from_millis(500);
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const IDLE_WAIT: Duration = Duration::from_secs(2);

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    id: PoolId,
    name: Name,
    settings: Mutex<PoolSettings>,
    directory: Directory,
    quota: QuotaRoom,
    context: Arc<PoolContext>,
}

/// How long the list of missing shards may take to be written.
const WRITTEN_WAIT: Duration = Duration::from_secs(5);

impl Pool {
    /// From what its register says, on these stores.
    pub(crate) fn new(config: &PoolConfig, context: Arc<PoolContext>) -> Arc<Pool> {
        let pool = Pool::still(config, context);
        handoff::start(&pool.context);
        verify_damage::start(&pool.context);
        prove_servers::start(&pool.context);
        refresh::keep_up(&pool.context, config.pool);
        pool.context.roster().keep_looking();
        pool
    }

    /// The same without anything that goes on by itself.
    pub(crate) fn still(config: &PoolConfig, context: Arc<PoolContext>) -> Arc<Pool> {
        Arc::new(Pool {
            id: config.pool,
            name: config.name.clone(),
            settings: Mutex::new(config.settings.clone()),
            directory: Directory::new(config, &context),
            quota: QuotaRoom::default(),
            context,
        })
    }

    pub(crate) fn context(&self) -> &Arc<PoolContext> {
        &self.context
    }
    /// By which its labels and registers are signed.
    pub(crate) fn key(&self) -> Option<&PoolKey> {
        self.context.roster().pool_key()
    }
    pub fn has_key(&self) -> bool {
        self.key().is_some()
    }
    pub fn id(&self) -> PoolId {
        self.id
    }
    pub fn name(&self) -> &Name {
        &self.name
    }
    pub fn layout(&self) -> Layout {
        self.context.layout()
    }
    /// Whether a store is no folder of this host: what is asked of it costs a request over a network.
    pub fn is_afar(&self) -> bool {
        self.context.membership().members.iter().any(|member| !member.url().starts_with("file://"))
    }
    pub fn settings(&self) -> PoolSettings {
        self.settings.lock().clone()
    }
    /// What its quota leaves to write.
    pub fn quota(&self) -> &QuotaRoom {
        &self.quota
    }
    /// Shards that make a chunk stored while the pool isn't degraded.
    pub fn w(&self) -> usize {
        let is_by_zone = self.settings.lock().ack_zone;
        let zoning = is_by_zone.then(|| self.zoning()).flatten();
        zoning.map_or(self.layout().w(), |zoning| zoning.w_zone())
    }
    /// Of the stores as they are now: one in another's place may be in another zone.
    fn zoning(&self) -> Option<Zoning> {
        let now = self.context.membership();
        let zones = now.members.iter().map(|m| m.zone().map(str::to_owned)).collect::<Vec<_>>();
        Some(Zoning::new(self.layout(), &zones).ok()?.with_acceptors(&now.acceptors))
    }
    pub fn membership(&self) -> Arc<Membership> {
        self.context.membership()
    }
    pub fn generation(&self) -> Generation {
        self.context.membership().generation
    }
    /// How often `force-recover` has decided its registers by guess.
    pub fn guesses(&self) -> u64 {
        guesses(self.generation())
    }
    /// The incarnations of this generation, by index: the witnesses of what is recorded in it.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        self.context.incarnations()
    }
    /// What the pool survives when every store is there, for people, a line each.
    pub fn survives(&self) -> Vec<String> {
        self.zoning().map(|zoning| zoning.survives(self.w())).unwrap_or_default()
    }
    pub fn rt(&self) -> &Rt {
        self.context.rt()
    }
    /// Reads every store's label, so that `status` tells the present. Takes some seconds at most.
    pub fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let now = self.membership();
            let before = (0..now.members.len()).filter_map(|index| now.predecessor(index));
            let all: Vec<_> = now.members.iter().chain(before).collect();
            futures::future::join_all(all.into_iter().map(|m| m.attest())).await;
        })
    }
    /// Asks every store for the room that is left on it.
    pub fn measure(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let members = self.context.members();
            futures::future::join_all(members.iter().map(|m| m.measure())).await;
        })
    }
    /// What time it is, by this host's clock and the stores', which are asked.
    pub async fn clocks(&self) -> Result<Clocks> {
        // On the heap: who asks is deep in other futures, and an unoptimized build's stack is small.
        Box::pin(self.context.clocks()).await
    }

    /// What time it is for what ages. Asks the stores once a day.
    ///
    /// # Errors
    /// `Refused`: a store's clock and this host's differ by minutes. `Unavailable`: no store that has a clock answers.
    pub fn time(&self) -> BoxFuture<'_, Result<Clocks>> {
        Box::pin(async move { Box::pin(self.context.time()).await })
    }
    /// The latest that it may be by the clocks that can be asked now: what is dated by it is not older than it seems.
    pub async fn latest_ms(&self) -> u64 {
        Box::pin(self.context.latest_ms()).await
    }
    /// Requests made to its stores so far.
    pub fn requests(&self) -> u64 {
        self.context.members().iter().map(|m| m.traffic().requests()).sum()
    }
    /// What is known; asks nobody.
    pub fn status(&self) -> PoolStatus {
        let (name, id) = (self.name.clone(), self.id);
        let survives = self.whole_condition().survives(self.survives());
        let settings = (self.settings(), self.has_key());
        status::of(&self.context, name, id, self.w(), settings, survives)
    }

    /// The same as `condition`, with what is known of single objects.
    pub fn whole_condition(&self) -> Condition {
        let mut condition = self.condition();
        self.context
            .missing_shards()
            .each_lacking(|id, left_out, damaged| condition.add(id, left_out, damaged));
        condition
    }

    /// What it can do now, by what is known of its stores; asks nobody.
    pub fn condition(&self) -> Condition {
        Condition::of(&self.membership(), self.layout(), self.stored_at())
    }

    /// What could not go on if this store were lost now; `None`: all could.
    pub fn hurt_by_loss_of(&self, store: usize) -> Option<&'static str> {
        let (membership, layout) = (self.membership(), self.layout());
        let deciding = membership.acceptors.iter().filter(|acceptor| **acceptor != store).count();
        if layout.m() == 0 {
            return Some("not all data can be read");
        }
        if deciding < membership.acceptors.len() / 2 + 1 {
            return Some("nothing can be decided: no volume can be opened");
        }
        (layout.n() - 1 < self.stored_at()).then_some("nothing can be stored")
    }

    /// Stores that must take a chunk's shards, however long one waits.
    fn stored_at(&self) -> usize {
        match self.settings().degrade_after() {
            Some(_) => self.layout().k(),
            None => self.w(),
        }
    }

    /// Whether enough stores show now that they are there, as soon as that can be told.
    pub fn is_there(&self, need: Need) -> BoxFuture<'_, bool> {
        Box::pin(async move { availability::there(&self.membership(), self.stored_at(), need).await })
    }

    /// Returns when enough stores have shown, since this call, that they are there.
    pub fn ready(&self, need: Need) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while !self.is_there(need).await {
                self.rt().sleep(READY_AGAIN).await;
            }
        })
    }

    /// Checks by behaviour what the stores that are in promise; one that breaks a promise is out from now on. Puts and
    /// deletes a few small objects on each: for daemons, not for every command. The errors of those that failed.
    pub fn check_promises(&self) -> BoxFuture<'_, Vec<Error>> {
        Box::pin(async move {
            let members = self.context.members();
            let checks = members.iter().map(|m| prove_servers::prove(&self.context, m));
            futures::future::join_all(checks).await.into_iter().filter_map(Result::err).collect()
        })
    }

    /// A handle on a register. Keep it: a handle that wrote last writes again in one round trip.
    pub fn register(&self, id: RegisterId) -> Register {
        self.context.register(id)
    }

    /// Hears what other hosts have set. Puts nothing.
    pub fn refresh_settings(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let value = self.register(PoolConfig::register(self.id)).read().await?;
            self.take_settings(PoolConfig::decode(&value.ok_or_else(|| self.lost_description())?)?.settings);
            Ok(())
        })
    }

    fn lost_description(&self) -> Error {
        Error::new(Kind::Corrupt, format!("pool {} has lost its description", self.name))
    }

    /// What holds from now on. A limit that is another is counted anew.
    fn take_settings(&self, now: PoolSettings) {
        let mut known = self.settings.lock();
        let other = known.quota_bytes != now.quota_bytes || known.capacity_bytes != now.capacity_bytes;
        *known = now;
        drop(known);
        if other {
            self.quota.ask();
        }
    }

    /// Changes the settings for all hosts.
    pub async fn set(&self, change: impl Fn(&mut PoolSettings) -> Result<()> + Send + Sync) -> Result<()> {
        let step = |value: Option<&Bytes>| {
            let mut config = PoolConfig::decode(value.ok_or_else(|| self.lost_description())?)?;
            let before = config.settings.clone();
            change(&mut config.settings)?;
            config.check_settings()?;
            // PoolSettings that hold already need no write, whoever wrote them.
            if config.settings == before {
                return Ok(Change::Keep(before));
            }
            Ok(Change::Put(config.encode(), config.settings))
        };
        let now = self.register(PoolConfig::register(self.id)).change(step).await?;
        self.take_settings(now);
        Ok(())
    }

    /// Begins to store a chunk; encoding and puts go on in the background.
    pub fn put_chunk(&self, chunk: Chunk) -> Upload {
        let cause = match chunk.kind {
            ChunkKind::Data => Cause::Write,
            ChunkKind::Map | ChunkKind::Pack => Cause::Checkpoint,
        };
        Upload::start(&self.context, chunk, Known::default(), cause)
    }

    /// The bytes at a virtual offset, inside one data shard. `verify` judges them last. `Corrupt`: more than m shards are
    /// gone or unreadable for sure; `Unavailable`: too few stores answer.
    pub fn read<'f>(
        &'f self,
        id: &'f ChunkId,
        offset: u64,
        len: u32,
        cause: Cause,
        verify: Verify<'f>,
    ) -> BoxFuture<'f, Result<Bytes>> {
        Box::pin(async move { self.context.read(id, offset, len, cause, verify).await })
    }

    /// Asks every store for the chunk's footer, then for its label. `witnesses`: the incarnations whose absence counts.
    /// A store that is known to be away is not asked.
    pub fn probe<'f>(
        &'f self,
        id: &'f ChunkId,
        witnesses: &'f [Incarnation],
        cause: Cause,
    ) -> BoxFuture<'f, Probe> {
        Box::pin(async move { self.context.probe(id, witnesses, cause).await })
    }

    /// The same, until what the stores have answered tells enough: then the others have as long again, and at least `hedge`.
    /// Those that are late count as silent.
    pub async fn probe_until(
        &self,
        id: &ChunkId,
        witnesses: &[Incarnation],
        cause: Cause,
        hedge: Duration,
        told: impl Fn(&Probe) -> Told,
    ) -> Probe {
        self.context.probe_until(id, witnesses, cause, hedge, told).await
    }

    /// What a probe found, after a look at every byte of the shards whose footers are right.
    pub async fn verified(&self, id: &ChunkId, probe: &Probe, cause: Cause) -> Probe {
        self.context.verified(id, probe, cause).await
    }

    /// Fetches and verifies the whole chunk, first of all from the shards that the probe found good.
    pub async fn payload(&self, id: &ChunkId, probe: &Probe, cause: Cause) -> Result<Payload> {
        self.context.payload(id, probe, cause).await
    }

    /// Puts what is missing or rotten of a chunk that was fetched; shards that are good already count as stored.
    pub fn complete(&self, payload: &Payload) -> Upload {
        payload.complete(&self.context)
    }

    /// Goes on to the newest membership that any store knows of which answers, also where the others agree on an older one:
    /// `force-recover` may have given them up. `Ok` where none answers; an error where one that isn't away did not answer.
    pub async fn hear_of_newer(&self) -> Result<()> {
        self.register(PoolConfig::register(self.id())).hear_of_newer().await
    }

    /// From now on this is asked before anything is deleted that was found dead earlier. Until then all of it stays.
    pub fn check_deletions_by(&self, check: Weak<dyn DeletionCheck>) {
        self.context.check_deletions_by(check);
    }

    /// From now on these are emptied when a shard's contents were replaced by others.
    pub fn empties(&self, caches: Weak<dyn ReadCaches>) {
        self.context.empties(caches);
    }

    /// Deletes all shards of these chunks from the stores that answer; what others keep is remembered. For who has just heard
    /// that no recorded state needs the chunks.
    pub fn delete<'f>(&'f self, ids: &'f [ChunkId]) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move { self.context.delete(ids).await })
    }

    /// The same for who has known it for a while: those stay that are not dead by a look that begins now.
    pub async fn delete_checked(&self, ids: &[ChunkId]) -> Result<()> {
        let dead = self.context.check_deletion(&ids.iter().copied().collect()).await?.dead;
        self.context.delete(&dead.into_iter().collect::<Vec<_>>()).await
    }

    /// What stores missed to delete of this volume stays there: the user takes a state of the volume that may need it.
    pub fn forget_deletions(&self, volume: VolumeId) {
        self.context.missing_shards().change_leaving(|l| l.forget(volume));
    }

    /// The stores (indices) that are neither out nor down, as far as is known.
    pub fn usable(&self) -> Vec<usize> {
        let members = self.context.members();
        members.iter().filter(|m| m.standing().usable()).map(|m| m.index()).collect()
    }

    /// Looks through one store and deletes there what nobody needs of some volumes; how many shards that were. Some requests
    /// for each thousand objects of the store. An error: not all of it was looked through.
    pub async fn sweep(&self, store: usize, unneeded: &Unneeded<'_>) -> Result<u64> {
        sweep::sweep(&self.context, store, unneeded).await
    }

    /// Stores that have been failing for at least so long.
    pub fn out_for(&self, d: Duration) -> usize {
        self.context.out_for(d)
    }

    /// Shards that are known to be left out.
    pub fn pending(&self) -> usize {
        self.context.missing_shards().pending().0
    }

    /// Waits for what is known to be left out to be put, so long at most; how many shards still are.
    pub fn settled(&self, patience: Duration) -> BoxFuture<'_, usize> {
        Box::pin(async move {
            match self.rt().timeout(patience, self.context.missing_shards().none()).await {
                Some(()) => 0,
                None => self.pending(),
            }
        })
    }

    /// Remembers the shards that a probe did not find, so that they are put when their stores are back. A process that
    /// was killed may have known of them and not have written it down.
    pub fn remember_missing(&self, id: ChunkId, probe: &Probe) {
        self.context.missing_shards().found(id, probe.not_good(self.layout()));
    }

    /// Returns when what is known to be missing is written down on this host (or that takes too long: scrub finds it).
    pub async fn missing_written(&self) {
        if self.rt().timeout(WRITTEN_WAIT, self.context.missing_shards().flushed()).await.is_none() {
            tracing::warn!(
                "pool {}: the list of missing shards can't be written; `pool repair` finds them",
                self.name()
            );
        }
    }

    /// Looks through all stores. Changes nothing.
    pub fn scrub<'f>(
        &'f self,
        inventory: &'f dyn Inventory,
        options: ScrubOptions,
        watch: Watch<'f>,
    ) -> BoxFuture<'f, Result<ScrubReport>> {
        Box::pin(async move {
            let report = scrub::scrub(&self.context, inventory, options, watch).await?;
            self.context.scrub_cursor().ended(&report, self.context.rt().wall_ms()).await;
            Ok(report)
        })
    }

    /// Whether a store's copies of registers were found older than the others', and nobody has looked yet for what it lacks.
    pub fn has_older(&self) -> bool {
        self.membership().members.iter().any(|m| m.older().is_some())
    }

    /// Looks for what such stores lack, by their listings, so that it is put back; how many shards that are.
    pub async fn look_at_older(&self, inventory: &dyn Inventory) -> Result<usize> {
        older::look(&self.context, inventory).await
    }

    /// What the last scrub or repair on this host found, or left.
    pub fn last_scrub(&self) -> BoxFuture<'_, Option<LastScrub>> {
        Box::pin(async move { self.context.scrub_cursor().last().await })
    }

    /// Mends everything that a scrub finds.
    pub fn repair<'f>(
        &'f self,
        inventory: &'f dyn Inventory,
        options: ScrubOptions,
        watch: Watch<'f>,
    ) -> BoxFuture<'f, Result<RepairReport>> {
        Box::pin(async move {
            let done = repair_findings::repair(&self.context, inventory, options, watch).await?;
            self.context.scrub_cursor().ended(&done.left, self.context.rt().wall_ms()).await;
            Ok(done)
        })
    }

    /// The id of the volume of this name.
    pub fn lookup<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<Option<VolumeId>>> {
        Box::pin(async move { Ok(self.directory.lookup(name).await?.map(|entry| entry.volume)) })
    }
    /// What the name leads to, and since which of the volume's renames.
    pub async fn name_entry(&self, name: &Name) -> Result<Option<NameEntry>> {
        self.directory.lookup(name).await
    }
    /// Gives a volume a name; `Exists` when another has it, nothing when this one does.
    pub fn insert<'f>(&'f self, name: &'f Name, id: VolumeId) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move { self.directory.insert(name, id).await })
    }
    /// Puts an entry where the name has none, or exactly `old`; what it has then.
    pub async fn insert_name(
        &self,
        name: &Name,
        new: NameEntry,
        old: Option<NameEntry>,
    ) -> Result<NameEntry> {
        self.directory.insert_over(name, new, old).await
    }
    /// Takes an entry away; nothing when the name has another.
    pub async fn remove_name(&self, name: &Name, old: NameEntry) -> Result<()> {
        self.directory.remove(name, old).await
    }
    /// All names, sorted, also several of one volume.
    pub async fn name_entries(&self) -> Result<Vec<(Name, NameEntry)>> {
        self.directory.list().await
    }
    /// All volumes with one name each, sorted by that: of one that has several, the newest.
    pub fn list(&self) -> BoxFuture<'_, Result<Vec<(Name, VolumeId)>>> {
        Box::pin(async move {
            let mut newest: BTreeMap<VolumeId, (u64, Name)> = BTreeMap::new();
            for (name, NameEntry { volume, serial }) in self.directory.list().await? {
                if newest.get(&volume).is_none_or(|(known, _)| *known < serial) {
                    newest.insert(volume, (serial, name));
                }
            }
            let mut names: Vec<_> = newest.into_iter().map(|(volume, (_, name))| (name, volume)).collect();
            names.sort();
            Ok(names)
        })
    }

    /// The directory comes along into the pool's generation; all volumes that have a name.
    pub(crate) async fn bring_names(&self) -> Result<Vec<VolumeId>> {
        Ok(self.directory.bring().await?.into_iter().map(|(_, entry)| entry.volume).collect())
    }

    /// A map of the user's own over registers, by the id of its root. Keep it: it knows its way then.
    pub fn catalog(&self, root: RegisterId) -> Catalog {
        Catalog::new(&self.context, root)
    }

    /// Ends what runs in the background, after what is to be remembered is on disk.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // A register's copy that is missing would only be one more thing to repair.
            self.context.roster().end();
            let _ = self.rt().timeout(IDLE_WAIT, self.context.roster().idle()).await;
            // A disk that fails must not hold up the end; scrub finds without it what is missing.
            let _ = self.rt().timeout(CLOSE_WAIT, self.context.missing_shards().flushed()).await;
            self.context.missing_shards().close();
        })
    }
}
