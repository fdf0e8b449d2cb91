//! The pools of one engine: those that this host knows, opened when first asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;

use super::api::VolumePath;
use super::key_places::ConfiguredKeys;
use super::state_dir::{HostContext, KnownPool};
use super::store_overlap;
use windlass_base::nearest::nearest_word;
use windlass_base::rt::{Dial, Rt};
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Name, PoolId, Result};
use windlass_keys::{OpenKeys, PoolKey};
use windlass_pool::{
    CreateOptions, Destruction, ForcedRecovery, Layout, Opener, Pool, PoolHost, PoolStore, Relabelled,
    StoreSwap, being_destroyed, lacks_key, relabel,
};
use windlass_store::{BucketRef, Effort, StoreUrl};
use windlass_volume::{EngineContext, Memory, MirrorHost, Tuning, Volume, Volumes};

/// Longest time for which an engine that ends tries to say that its clients read nothing any more.
const FORGET: Duration = Duration::from_secs(5);

/// A pool that is open here.
#[derive(Debug)]
pub struct OpenPool {
    pub pool: Arc<Pool>,
    pub volumes: Volumes,
}

/// One pool's place in the table: known, and perhaps open.
#[derive(Debug)]
struct Slot {
    known: Mutex<KnownPool>,
    /// The open pool, if it is open. Locked while it opens, so that all who ask share one opening.
    open: tokio::sync::Mutex<Option<Arc<OpenPool>>>,
    /// Reason why the last try to open the pool failed.
    closed: Mutex<Option<String>>,
    /// Key of the pool, where a command gave it to this process.
    key: Mutex<Option<PoolKey>>,
}

/// Pools of one engine, by name. See the module.
#[derive(Debug)]
pub struct Pools {
    host_context: HostContext,
    memory: Memory,
    keys: Arc<ConfiguredKeys>,
    /// The way to this host's peer.
    peer: Option<Arc<dyn Dial>>,
    slots: Mutex<BTreeMap<Name, Arc<Slot>>>,
    /// Lock that is held while the set of known pools changes.
    change: tokio::sync::Mutex<()>,
}

/// Opener of the stores that a pool lists, by the URLs that it lists. Whoever writes to one of its stores can write
/// such a URL.
#[derive(Debug)]
struct Doors {
    rt: Rt,
    /// The pool's stores as this host's user named them.
    told: Vec<StoreUrl>,
}

#[async_trait]
impl Opener for Doors {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        let url: StoreUrl = url.parse()?;
        if !url.is_covered_by(&self.told) {
            let why = format!(
                "the pool lists a store {url}, whose key file, keys, profile or authorities are this host's, and nobody \
                 said here that they are for that server: if they are, `windlass pool forget` the pool, and give this \
                 store to `windlass pool add` by --store, beside the others"
            );
            return Err(Error::new(Kind::Refused, why));
        }
        windlass_store::expect(&self.rt, &url).await
    }
}

/// Returns the places that a user named.
fn told(stores: &[String]) -> Vec<StoreUrl> {
    specs(stores).unwrap_or_default().into_iter().map(|spec| spec.url).collect()
}

/// Tells whether a store is a folder on the same disk as this one.
pub(super) fn is_on_disk_of(dir: &Path, url: &str) -> bool {
    let disk = |path: &Path| rustix::fs::stat(path).ok().map(|s| s.st_dev);
    match url.parse() {
        Ok(StoreUrl::File { dir: store }) => disk(&store).is_some_and(|it| disk(dir) == Some(it)),
        _ => false,
    }
}

/// Parses the stores as they are given.
fn specs(stores: &[String]) -> Result<Vec<windlass_store::StoreSpec>> {
    stores.iter().map(|s| s.parse()).collect()
}

impl Pools {
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub async fn new(
        host_context: HostContext,
        memory: Memory,
        keys: Arc<ConfiguredKeys>,
        peer: Option<Arc<dyn Dial>>,
    ) -> Result<Pools> {
        let known = host_context.home.known_pools(&*host_context.disk).await?;
        let slots = known.into_iter().map(|k| (k.name.clone(), Slot::new(k))).collect();
        Ok(Pools {
            host_context,
            memory,
            keys,
            peer,
            slots: Mutex::new(slots),
            change: tokio::sync::Mutex::default(),
        })
    }

    /// Returns where this host's peer is.
    pub fn mirror_place(&self) -> Option<String> {
        self.peer.as_ref().map(|peer| peer.place().to_owned())
    }

    pub fn known(&self) -> Vec<KnownPool> {
        self.slots.lock().values().map(|s| s.known.lock().clone()).collect()
    }

    /// Returns the id of the pool that this host knows by the name, where it was noted.
    pub fn known_id(&self, name: &Name) -> Option<PoolId> {
        self.slots.lock().get(name).and_then(|slot| slot.known.lock().id)
    }

    fn slot(&self, name: &Name) -> Result<Arc<Slot>> {
        let slots = self.slots.lock();
        slots.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = slots.keys().map(Name::as_str).collect();
            let near = nearest_word(name.as_str(), &names).map(|near| format!("; did you mean {near}?"));
            Error::new(
                Kind::NotFound,
                format!(
                    "this host knows no pool {name}: `windlass pool create` makes one, `windlass pool add` makes one known{}",
                    near.unwrap_or_default()
                ),
            )
        })
    }

    /// Returns the open pool, and opens it when it isn't open.
    pub async fn get(&self, name: &Name) -> Result<Arc<OpenPool>> {
        let slot = self.slot(name)?;
        let mut open = slot.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let KnownPool { stores: known, destroying, has_key, .. } = slot.known.lock().clone();
        if destroying.is_some() {
            return Err(being_destroyed(name));
        }
        let tried = self.try_open(name, &known, has_key).await;
        *slot.closed.lock() = tried.as_ref().err().map(ToString::to_string);
        let pool = tried?;
        let opened = open.insert(self.opened_as(pool)).clone();
        drop(open);
        if let Err(error) = self.remember_places(name, &opened).await {
            tracing::warn!(pool = %name, %error, "the addresses of the pool's stores could not be noted on this host");
        }
        Ok(opened)
    }

    /// Opens a pool whose destruction was begun, for whoever goes on with that and closes the pool after.
    pub async fn open_to_destroy(&self, name: &Name) -> Result<Arc<OpenPool>> {
        let KnownPool { stores, .. } = self.slot(name)?.known.lock().clone();
        let host = self.host(name, &stores, None).await?;
        let pool = Pool::open_to_destroy(host, self.buckets(&stores).await?).await;
        Ok(self.opened_as(pool.map_err(|e| e.context(format!("pool {name}")))?))
    }

    async fn try_open(&self, name: &Name, known: &[String], has_key: bool) -> Result<Arc<Pool>> {
        let host = self.host(name, known, None).await?;
        if has_key && host.key.is_none() {
            // What its labels say now may be forged.
            return Err(lacks_key(name));
        }
        let stores = self.buckets(known).await?;
        let pool = Pool::open(host, stores).await.map_err(|e| e.context(format!("pool {name}")))?;
        if pool.name() != name {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the stores known as pool {name} hold pool {}: forget it and add it under its name",
                    pool.name()
                ),
            ));
        }
        Ok(pool)
    }

    /// Returns why a pool could not be opened when that was tried last; `None` when it could, or nobody has tried.
    pub fn why_closed(&self, name: &Name) -> Option<String> {
        self.slots.lock().get(name).and_then(|slot| slot.closed.lock().clone())
    }

    /// Returns the pools that are open now.
    pub fn opened(&self) -> Vec<(Name, Arc<OpenPool>)> {
        let slots = self.slots.lock();
        let open = |s: &Arc<Slot>| s.open.try_lock().ok().and_then(|o| o.clone());
        slots.iter().filter_map(|(name, slot)| Some((name.clone(), open(slot)?))).collect()
    }

    /// Returns what a pool needs of this host. `stores` are as this host's user named them. `key` is one that a
    /// command gives; without it the pool's own is found.
    async fn host(&self, name: &Name, stores: &[String], key: Option<PoolKey>) -> Result<PoolHost> {
        let key = match key {
            Some(key) => Some(key),
            None => self.keys.pool_key(name).await?,
        };
        let given = || self.slots.lock().get(name).and_then(|slot| slot.key.lock().clone());
        let key = key.or_else(given);
        let folder = self.host_context.home.hints().join(name.as_str());
        let pool = self.slots.lock().get(name).and_then(|slot| slot.known.lock().id);
        let rt = self.host_context.rt.clone();
        let opener = Arc::new(Doors { rt: rt.clone(), told: told(stores) });
        let disk = self.host_context.disk.clone();
        Ok(PoolHost { opener, rt, disk, folder, pool, key, trial: Effort::SHORT })
    }

    /// Returns the memory that a pool's volumes share with all others, and their part of it. The cache on disk is
    /// left out where all that it could keep is on that disk.
    fn memory_for(&self, pool: &Pool) -> Memory {
        let here = self.host_context.home.root();
        let near = pool.membership().members.iter().all(|m| is_on_disk_of(here, m.url()));
        let memory = self.memory.for_pool();
        if near { memory.without_disk() } else { memory }
    }

    fn opened_as(&self, pool: Arc<Pool>) -> Arc<OpenPool> {
        let dir: PathBuf = self.host_context.home.volumes().join(pool.id().to_string());
        let engine = EngineContext {
            rt: self.host_context.rt.clone(),
            disk: self.host_context.disk.clone(),
            dir,
            host: self.host_context.host.clone(),
            memory: self.memory_for(&pool),
            pool: pool.clone(),
            tuning: Tuning::default(),
            sweeps: Arc::default(),
            keys: OpenKeys::with_source(self.keys.clone()),
            readers: Arc::default(),
            left: Arc::default(),
            mirror: MirrorHost::with_peer(self.peer.clone()),
        };
        Arc::new(OpenPool { volumes: Volumes::new(engine), pool })
    }

    async fn buckets(&self, stores: &[String]) -> Result<Vec<PoolStore>> {
        let mut buckets = Vec::new();
        for spec in specs(stores)? {
            let bucket = windlass_store::expect(&self.host_context.rt, &spec.url).await?;
            buckets.push(PoolStore { url: spec.url.to_string(), zone: spec.zone, bucket });
        }
        Ok(buckets)
    }

    pub async fn create(
        &self,
        name: &Name,
        layout: Option<Layout>,
        stores: Vec<String>,
        options: CreateOptions,
        key: Option<PoolKey>,
    ) -> Result<Arc<OpenPool>> {
        let _change = self.change.lock().await;
        self.check_unknown(name)?;
        let parsed = specs(&stores)?;
        let layout = layout.map_or_else(|| Layout::for_stores(parsed.len()), Ok)?;
        for spec in &parsed {
            // A place that can't be a store is told now, by name.
            windlass_store::adopt(&self.host_context.rt, &spec.url).await?;
        }
        let urls: Vec<StoreUrl> = parsed.into_iter().map(|spec| spec.url).collect();
        store_overlap::check_new(&self.host_context, &self.known(), name, &urls).await?;
        let buckets = self.buckets(&stores).await?;
        let host = self.host(name, &stores, key).await?;
        let key = host.key.clone();
        let pool = Pool::create(host, name.clone(), layout, buckets, options).await?;
        self.learn(name, stores, pool, key).await
    }

    /// Makes an existing pool known here.
    pub async fn add(&self, name: &Name, stores: Vec<String>, key: Option<PoolKey>) -> Result<Arc<OpenPool>> {
        let change = self.change.lock().await;
        self.check_unknown(name)?;
        let buckets = self.buckets(&stores).await?;
        let host = self.host(name, &stores, key).await?;
        let key = host.key.clone();
        let pool = Pool::open(host, buckets).await?;
        // One that is away is tried when it is back.
        if let Some(broken) = pool.check_promises().await.into_iter().find(|e| e.is(Kind::Refused)) {
            pool.close().await;
            return Err(broken.context(format!("pool {name} was not added")));
        }
        if pool.name() != name {
            return Err(Error::new(
                Kind::Usage,
                format!("these stores hold the pool {}, not {name}: add it under its own name", pool.name()),
            ));
        }
        let open = self.learn(name, stores, pool, key).await?;
        drop(change);
        self.remember_places(name, &open).await?;
        Ok(open)
    }

    fn check_unknown(&self, name: &Name) -> Result<()> {
        if self.slots.lock().contains_key(name) {
            return Err(Error::new(Kind::Exists, format!("this host knows a pool {name} already")));
        }
        Ok(())
    }

    async fn learn(
        &self,
        name: &Name,
        stores: Vec<String>,
        pool: Arc<Pool>,
        key: Option<PoolKey>,
    ) -> Result<Arc<OpenPool>> {
        let has_key = pool.has_key();
        let (name, id) = (name.clone(), Some(pool.id()));
        let known = KnownPool { format: 1, name: name.clone(), id, stores, destroying: None, has_key };
        // Noted on disk before anybody can use the pool: the next start must find what this one has served.
        self.host_context.home.remember(&*self.host_context.disk, &known).await?;
        let open = self.opened_as(pool);
        let slot = Slot {
            known: Mutex::new(known),
            open: tokio::sync::Mutex::new(Some(open.clone())),
            closed: Mutex::default(),
            key: Mutex::new(key),
        };
        self.slots.lock().insert(name, Arc::new(slot));
        Ok(open)
    }

    /// Returns the URL by which the pool lists a given store.
    pub fn url_of(&self, given: &str) -> Result<String> {
        Ok(given.parse::<windlass_store::StoreSpec>()?.url.to_string())
    }

    /// Returns the places of stores that are to join a pool, after a check that they may.
    pub async fn new_stores(&self, pool: &Name, given: &[String]) -> Result<Vec<PoolStore>> {
        let urls: Vec<StoreUrl> = specs(given)?.into_iter().map(|spec| spec.url).collect();
        for url in &urls {
            windlass_store::adopt(&self.host_context.rt, url).await?;
        }
        store_overlap::check_new(&self.host_context, &self.known(), pool, &urls).await?;
        self.buckets(given).await
    }

    /// Notes where the pool is now: the next start looks for it there. What is noted counts as named by this host's
    /// user, so a URL that was only listed, and refused, is not noted.
    pub async fn remember_places(&self, name: &Name, open: &OpenPool) -> Result<()> {
        let _change = self.change.lock().await;
        let slot = self.slot(name)?;
        let members = open.pool.membership().members.clone();
        let place = |m: &Arc<windlass_pool::Member>| match m.zone() {
            Some(zone) => format!("{},zone={zone}", m.url()),
            None => m.url().to_owned(),
        };
        let before = slot.known.lock().clone();
        let told = told(&before.stores);
        let is_covered = |url: &str| url.parse::<StoreUrl>().is_ok_and(|url| url.is_covered_by(&told));
        let kept = members.iter().filter(|m| m.has_place() || is_covered(m.url()));
        let stores: Vec<String> = kept.map(place).collect();
        let has_key = open.pool.has_key();
        let known = KnownPool { stores, has_key, id: Some(open.pool.id()), ..before };
        if known != *slot.known.lock() {
            self.host_context.home.remember(&*self.host_context.disk, &known).await?;
            *slot.known.lock() = known;
        }
        Ok(())
    }

    /// Finds what is lost of a pool that too few of its stores can decide; `None` if enough answer. Changes nothing.
    pub async fn recovery(&self, name: &Name, swaps: Vec<StoreSwap>) -> Result<Option<ForcedRecovery>> {
        let known = self.slot(name)?.known.lock().stores.clone();
        let stores = self.buckets(&known).await?;
        let found = ForcedRecovery::find(self.host(name, &known, None).await?, stores, swaps).await;
        found.map_err(|e| e.context(format!("pool {name}")))
    }

    /// Writes labels of the pool's stores anew that were lost.
    pub async fn relabel(&self, name: &Name) -> Result<Relabelled> {
        let known = self.slot(name)?.known.lock().stores.clone();
        let stores = self.buckets(&known).await?;
        let host = self.host(name, &known, None).await?;
        // What this host keeps of the pool of this name says its id.
        let files = host.disk.list(&host.folder).await.unwrap_or_default();
        let ids = files.iter().filter_map(|file| file.strip_prefix("pending.")?.parse().ok()).collect();
        relabel(&host, name, &stores, &ids).await.map_err(|e| e.context(format!("pool {name}")))
    }

    /// Forgets where a pool is. In its stores nothing changes but that its volumes are stored and released; a volume
    /// that can't be stored within `drain` has the pool stay known.
    pub async fn forget(&self, name: &Name, drain: Duration) -> Result<()> {
        let _change = self.change.lock().await;
        let slot = self.slot(name)?;
        let mut held = slot.open.lock().await;
        if let Some(open) = &*held {
            let refused =
                |why: String| Error::new(Kind::Owned, format!("pool {name} is not forgotten: {why}"));
            // It goes on with those that can't be stored.
            open.volumes.release_unless(&|_| false, drain).await;
            let unsent = open.volumes.with_unsent();
            if let Some(volume) = unsent.first() {
                return Err(refused(format!(
                    "{} {} writes that are in this host's journal alone, {name}/{volume} for one: they are stored by themselves \
                     once enough of its stores answer (`windlass pool status {name}`)",
                    show_count(unsent.len() as u64, "volume"),
                    if unsent.len() == 1 { "has" } else { "have" },
                )));
            }
            if let Some(sentence) = open.volumes.shutdown(drain).await.into_iter().next() {
                return Err(refused(sentence));
            }
            open.pool.close().await;
        }
        *held = None;
        self.host_context.home.forget(&*self.host_context.disk, name).await?;
        self.slots.lock().remove(name);
        Ok(())
    }

    /// Finds the stores of a pool that is to be deleted. Changes nothing.
    pub async fn destruction(&self, name: &Name) -> Result<Destruction> {
        let KnownPool { stores, destroying, .. } = self.slot(name)?.known.lock().clone();
        let host = self.host(name, &stores, None).await?;
        Destruction::find(host, name, self.buckets(&stores).await?, destroying).await
    }

    /// Notes that the pool is being destroyed, and closes it: from now on it is not opened here any more.
    pub async fn begin_destruction(&self, name: &Name, pool: PoolId) -> Result<()> {
        let _change = self.change.lock().await;
        let slot = self.slot(name)?;
        // Marked before it is closed: whoever asks for the pool in between would open it again.
        let known = KnownPool { destroying: Some(pool), ..slot.known.lock().clone() };
        self.host_context.home.remember(&*self.host_context.disk, &known).await?;
        *slot.known.lock() = known;
        if let Some(open) = slot.open.lock().await.take() {
            open.pool.close().await;
        }
        Ok(())
    }

    /// Forgets a pool that is deleted, and what was kept of it here but for journals that were put aside. Returns the
    /// paths of these.
    pub async fn forget_destroyed(&self, name: &Name, pool: PoolId) -> Result<Vec<PathBuf>> {
        let _change = self.change.lock().await;
        let kept = self.host_context.home.clear(&*self.host_context.disk, name, pool).await?;
        self.host_context.home.forget(&*self.host_context.disk, name).await?;
        self.slots.lock().remove(name);
        Ok(kept)
    }

    /// Stores what is unsent, while volumes go on.
    pub async fn store_unsent(&self, limit: Duration) {
        let open = self.opened();
        join_all(open.iter().map(|(_, open)| open.volumes.store_unsent(limit))).await;
    }

    /// Releases those volumes that nobody uses.
    pub async fn release_unless(
        &self,
        used: &(dyn Fn(&VolumePath, &Volume) -> bool + Sync),
        drain: Duration,
    ) {
        let open = self.opened();
        let released = open.iter().map(|(pool, open)| async move {
            let is_used =
                |volume: &Volume| used(&VolumePath { pool: pool.clone(), volume: volume.name() }, volume);
            open.volumes.release_unless(&is_used, drain).await;
        });
        join_all(released).await;
    }

    /// Keeps notes before clients leave for the next daemon of this state folder: see `Volumes::keep_notes`.
    pub fn keep_notes(&self) {
        self.opened().iter().for_each(|(_, open)| open.volumes.keep_notes());
    }

    /// Lets go of all volumes without giving them up, for the next daemon of this state folder. The pools stay open, and open
    /// no volume until `stay`.
    pub async fn leave(&self) {
        let open = self.opened();
        join_all(open.iter().map(|(_, open)| open.volumes.leave())).await;
    }

    pub fn stay(&self) {
        self.opened().iter().for_each(|(_, open)| open.volumes.stay());
    }

    /// Closes all pools; nobody has a volume open.
    pub async fn close(&self) {
        let open = self.opened();
        join_all(open.iter().map(|(_, open)| open.pool.close())).await;
    }

    /// Releases all volumes and closes the pools, each without waiting for others.
    pub async fn shutdown(&self, drain: Duration) -> Vec<String> {
        let open = self.opened();
        let ends = open.iter().map(|(_, open)| async {
            let stuck = open.volumes.shutdown(drain).await;
            let forgotten = open.volumes.forget_readers();
            let _ = self.host_context.rt.timeout(FORGET, forgotten).await;
            open.pool.close().await;
            stuck
        });
        join_all(ends).await.concat()
    }
}

/// Checks that this program, as it is configured, can open at least one store of each of these pools. Nothing is
/// changed there, and no pool is opened: another daemon may have it.
pub async fn check_stores(rt: &Rt, known: &[KnownPool]) -> Result<()> {
    for KnownPool { name, stores, .. } in known.iter().filter(|pool| pool.destroying.is_none()) {
        let opened =
            specs(stores)?.into_iter().map(|spec| async move { windlass_store::expect(rt, &spec.url).await });
        let mut why = None;
        for store in join_all(opened).await {
            match store {
                Ok(_) => why = Some(Ok(())),
                Err(error) => why = why.or(Some(Err(error))),
            }
        }
        if let Some(Err(error)) = why {
            return Err(error.context(format!("no store of pool {name} can be opened")));
        }
    }
    Ok(())
}

impl Slot {
    fn new(known: KnownPool) -> Arc<Slot> {
        Arc::new(Slot {
            known: Mutex::new(known),
            open: tokio::sync::Mutex::default(),
            closed: Mutex::default(),
            key: Mutex::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_on_this_very_disk_needs_no_cache_here() {
        let home = tempfile::tempdir().unwrap();
        let store = home.path().join("store");
        rustix::fs::mkdir(&store, rustix::fs::Mode::RWXU).unwrap();
        let near = |url: &str| is_on_disk_of(home.path(), url);
        assert!(near(&format!("file://{}", store.display())));
        for other in ["file:///proc", "file:///none/such", "s3://bucket/prefix", "mem:a", "no url"] {
            assert!(!near(other), "{other}");
        }
    }
}
