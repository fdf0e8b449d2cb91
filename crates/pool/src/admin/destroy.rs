//! Deleting a pool: everything below its prefix in each of its stores.
//!
//! Works by the stores' labels alone, so that a destruction that was broken off is repeated: registers may be gone by then.
//! Each step is done on all stores before the next one begins:
//! 1. *condemn*: every label says that the pool is being destroyed. From then on the store is out for every host (protocol
//!    §1.7): no register can be decided any more, and nothing that is put there counts.
//! 2. *data*: all objects but registers and the label.
//! 3. *registers*.
//! 4. *labels*: until then whoever repeats it knows which pool this was, and where its other stores are.
//!
//! A store that is full takes no new label: it goes without, where the others that are condemned are so many that without them nothing
//! can be decided or stored.
//!
//! Whether anybody still uses the pool's volumes is judged before, by who calls this: here nobody is asked. Where it was broken off
//! before so many stores were condemned, that is judged anew: other hosts may have made volumes since (`is_over`).

use std::collections::BTreeSet;

use futures::future::{BoxFuture, join_all, try_join_all};
use parking_lot::Mutex;

use super::next_generation::other_label;
use crate::local::{Progress, Watch};
use crate::stores::{Found, best_hint, labelled, read_label, read_own_label};
use crate::stores::{LABEL_MAX, Label, REGISTERS, label_key};
use crate::stores::{PoolConfig, PoolHost, PoolStore};
use windlass_base::rt::Rt;
use windlass_base::{Error, Incarnation, Kind, Name, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::{ByteRange, Cause, List, Listed, Put, When};

/// Names a page.
const PAGE: usize = 1000;
/// A store is gone through until nothing more is found, so often at most: then somebody still puts objects there.
const PASSES_MAX: usize = 8;
/// How often a label may change between a look at it and its replacement.
const LABEL_TRIES: usize = 5;

/// What was deleted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub objects: u64,
    pub bytes: u64,
}

/// The stores of a pool that is to be deleted, as they show themselves. See the module.
#[derive(Debug)]
pub struct Destruction {
    rt: Rt,
    key: Option<PoolKey>,
    pub id: PoolId,
    pub name: Name,
    /// As the newest label describes the pool; none when no label is left.
    pub config: Option<PoolConfig>,
    /// Those with the pool's label.
    stores: Vec<PoolStore>,
    /// Stores whose labels say that the pool is being destroyed: out for every host.
    out: BTreeSet<Incarnation>,
    /// Those that belong where nothing is (`empty`).
    gone: BTreeSet<Incarnation>,
    /// An earlier destruction has condemned a store.
    pub begun: bool,
    /// Stores with nothing in them: an earlier destruction has finished them, or their disks are not mounted.
    pub empty: Vec<String>,
    /// Stores that can't be deleted now, by URL, and why; what they hold stays.
    pub left: Vec<(String, String)>,
}

impl Destruction {
    /// Looks at a pool's stores: those that this host knows, and those that their labels list. `begun`: the pool whose
    /// destruction this host has begun; its labels may all be gone. Changes nothing.
    pub fn find<'f>(
        host: PoolHost,
        name: &'f Name,
        stores: Vec<PoolStore>,
        begun: Option<PoolId>,
    ) -> BoxFuture<'f, Result<Destruction>> {
        Box::pin(async move {
            let (rt, key) = (&host.rt, host.key.as_ref());
            let looks = stores.iter().map(|store| async move {
                match begun {
                    Some(id) => read_own_label(rt, store, id, key).await,
                    None => read_label(rt, store, key, host.pool).await,
                }
            });
            let labels = join_all(looks).await;
            let config = match (best_hint(&stores, &labels), begun) {
                (Ok(config), None) => Some(config),
                (Ok(config), Some(begun)) => Some(config).filter(|config| config.pool == begun),
                (Err(_), Some(_)) => None,
                (Err(e), None) => return Err(e),
            };
            if let Some(other) = config.as_ref().map(|config| &config.name).filter(|other| *other != name) {
                let why = format!(
                    "the stores known as pool {name} hold pool {other}: forget it and add it under its name"
                );
                return Err(Error::new(Kind::Invalid, why));
            }
            let Some(id) = begun.or(config.as_ref().map(|config| config.pool)) else {
                return Err(Error::new(Kind::Internal, "a pool without an id"));
            };
            let is_condemned =
                |label: &Found| label.label().is_some_and(|label| label.pool == id && label.destroyed);
            let mut found = Destruction {
                rt: host.rt.clone(),
                key: host.key.clone(),
                id,
                name: name.clone(),
                begun: begun.is_some() || labels.iter().any(is_condemned),
                config,
                stores: Vec::new(),
                out: BTreeSet::new(),
                gone: BTreeSet::new(),
                empty: Vec::new(),
                left: Vec::new(),
            };
            for (store, label) in stores.into_iter().zip(labels) {
                found.judge(store, label).await;
            }
            found.add_listed(&host).await;
            Ok(found)
        })
    }

    /// Stores of the pool that nobody named on this host.
    async fn add_listed(&mut self, host: &PoolHost) {
        let Some(config) = &self.config else { return };
        let listed: Vec<String> = config
            .stores
            .iter()
            .chain(config.before.iter().flatten())
            .map(|entry| entry.url.clone())
            .collect();
        for url in listed {
            let known = self.urls().chain(self.left.iter().map(|(url, _)| url.as_str()));
            if known.chain(self.empty.iter().map(String::as_str)).any(|known| known == url) {
                continue;
            }
            match host.opener.open(&url).await {
                Ok(bucket) => {
                    let store = PoolStore { url, zone: None, bucket };
                    let label = read_own_label(&host.rt, &store, self.id, host.key.as_ref()).await;
                    self.judge(store, label).await;
                }
                Err(e) => self.left.push((url, e.to_string())),
            }
        }
    }

    async fn judge(&mut self, store: PoolStore, label: Found) {
        let why = match label {
            Found::Label(label) if label.pool == self.id => {
                self.out.extend(label.destroyed.then_some(label.incarnation));
                return self.stores.push(store);
            }
            Found::Label(label) => format!("it has the label of a pool {} ({})", label.hint.name, label.pool),
            // An earlier destruction has finished it, or its disk is not mounted here.
            Found::Other(_) if self.begun && is_empty(&store).await => {
                let listed =
                    self.config.iter().flat_map(|c| c.stores.iter().chain(c.before.iter().flatten()));
                let here = listed.filter(|entry| entry.url == store.url).map(|entry| entry.incarnation);
                self.gone.extend(here.collect::<Vec<_>>());
                return self.empty.push(store.url);
            }
            Found::Other(e) | Found::Silent(e) => e.to_string(),
        };
        self.left.push((store.url, why));
    }

    /// The URLs of the stores whose contents are deleted.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.stores.iter().map(|store| store.url.as_str())
    }

    /// Whether so many stores are out for every host that nobody can store anything in the pool any more, or change what it
    /// has: then it need not be judged again who uses it.
    pub fn is_over(&self) -> bool {
        self.is_over_without(&BTreeSet::new())
    }

    /// `condemned`: stores that are out since this was found, too.
    fn is_over_without(&self, condemned: &BTreeSet<Incarnation>) -> bool {
        let Some(config) = &self.config else { return self.left.is_empty() };
        // Labels go last, when all say it. Beside one that does not, an empty place is one whose disk is not mounted here: other hosts
        // may have it.
        let is_gone = |incarnation: &Incarnation| {
            self.out.len() == self.stores.len() && self.gone.contains(incarnation)
        };
        let is_over = |config: &PoolConfig| {
            let is_there = |index: &usize| {
                let incarnation = config.stores[*index].incarnation;
                !self.out.contains(&incarnation)
                    && !condemned.contains(&incarnation)
                    && !is_gone(&incarnation)
            };
            let deciding = config.acceptors.iter().filter(|index| is_there(index)).count();
            let storing = (0..config.stores.len()).filter(is_there).count();
            deciding <= config.acceptors.len() / 2 || storing < config.layout.k()
        };
        // While a replacement is under way registers may still be where they were before.
        is_over(config) && config.predecessor().is_none_or(|before| is_over(&before))
    }

    /// Deletes everything, in the order that the module tells. Broken off or failed midway, it is called again. `force`: also where
    /// stores that are full keep so many labels as they are that other hosts may still write to the pool.
    pub fn run<'f>(&'f self, force: bool, watch: Watch<'f>) -> BoxFuture<'f, Result<Deleted>> {
        Box::pin(async move {
            try_join_all(self.stores.iter().map(|store| self.check_alone(store))).await?;
            self.condemn_all(force).await?;
            let count = Mutex::new(Deleted::default());
            let tell = |some: &[&Listed]| {
                let mut count = count.lock();
                count.objects += some.len() as u64;
                count.bytes += some.iter().map(|object| object.size).sum::<u64>();
                watch(Progress { done: count.objects, of: 0 });
            };
            for last in [false, true] {
                try_join_all(self.stores.iter().map(|store| self.empty(store, last, &tell))).await?;
            }
            let labels = self.stores.iter().map(|store| async move {
                // This pool's alone: however late it arrives, the label of a pool that is made here next has another key.
                let key = [label_key(self.id)];
                store
                    .bucket
                    .delete(&key, Cause::Delete)
                    .await
                    .map_err(|e| e.context(format!("store {}", store.url)))
            });
            try_join_all(labels).await?;
            Ok(count.into_inner())
        })
    }

    /// All that a place holds is deleted, whosever it is: so nobody else may have a label there.
    async fn check_alone(&self, store: &PoolStore) -> Result<()> {
        let Some(key) = other_label(store, self.id).await? else { return Ok(()) };
        let why = format!(
            "store {} has another pool's label too ({key}), and its data would go as well: nothing is deleted; take that object away \
             by hand if that pool was never finished",
            store.url
        );
        Err(Error::new(Kind::Refused, why))
    }

    async fn condemn_all(&self, force: bool) -> Result<()> {
        let puts = join_all(self.stores.iter().map(|store| self.condemn(store))).await;
        let (mut condemned, mut full) = (BTreeSet::new(), None);
        for (store, put) in self.stores.iter().zip(puts) {
            match put {
                Ok(incarnation) => condemned.extend(incarnation),
                Err(e) if e.is(Kind::NoSpace) => full = full.or(Some((store, e))),
                Err(e) => return Err(e.context(format!("store {}", store.url))),
            }
        }
        match full {
            Some((store, e)) if !force && !self.is_over_without(&condemned) => {
                let why = format!(
                    "store {} is full, so that it can't say that its pool is being destroyed, and too few others do: free a little \
                     space there; --force deletes what it has all the same",
                    store.url
                );
                Err(Error::new(e.kind(), format!("{why} ({e})")))
            }
            _ => Ok(()),
        }
    }

    /// Makes the store's label say that the pool is being destroyed; which store that is, unless another run has finished it.
    async fn condemn(&self, store: &PoolStore) -> Result<Option<Incarnation>> {
        for _ in 0..LABEL_TRIES {
            let range = ByteRange::Whole { max: LABEL_MAX };
            // Gone: another run of this has finished the store meanwhile.
            let key = label_key(self.id);
            let Some(found) = store.bucket.get(&key, range, Cause::Label).await? else { return Ok(None) };
            let label = Label::read(&found.body, self.key.as_ref())?;
            if label.pool != self.id {
                let why =
                    format!("store {} has become another pool's: nothing more is deleted there", store.url);
                return Err(Error::new(Kind::Refused, why));
            }
            if label.destroyed {
                return Ok(Some(label.incarnation));
            }
            let condemned = label.condemned().encode(self.key.as_ref());
            // Where conditions are not known, the label is this pool's all the same, and says so from then on.
            let refuses =
                |put: &Result<Put>| matches!(put, Ok(Put::Unknown(e)) | Err(e) if is_no_condition(e));
            let matches = When::Matches(found.head.etag);
            let mut put = store.bucket.put(&key, condemned.clone(), matches, Cause::Label).await;
            if refuses(&put) {
                put = store.bucket.put(&key, condemned, When::Always, Cause::Label).await;
            }
            // Whether it was stored shows the next look.
            match put? {
                Put::Unknown(e) if e.is(Kind::NoSpace) => return Err(e),
                Put::Unknown(_) | Put::Refused | Put::Stored(_) => {}
            }
        }
        let why = format!("the label of store {} keeps changing: try again", store.url);
        Err(Error::new(Kind::Unavailable, why))
    }

    /// Deletes what a store holds beside its label; registers only with the `last`.
    async fn empty(
        &self,
        store: &PoolStore,
        last: bool,
        tell: &(dyn Fn(&[&Listed]) + Send + Sync),
    ) -> Result<()> {
        let named = |e: Error| e.context(format!("store {}", store.url));
        for _ in 0..PASSES_MAX {
            if self.pass(store, last, tell).await.map_err(named)? == 0 {
                return Ok(());
            }
        }
        let why = format!(
            "objects keep coming to store {}: stop what puts them there, and run it again",
            store.url
        );
        Err(Error::new(Kind::Owned, why))
    }

    /// One look at all names; how many were deleted.
    async fn pass(
        &self,
        store: &PoolStore,
        last: bool,
        tell: &(dyn Fn(&[&Listed]) + Send + Sync),
    ) -> Result<u64> {
        let mut list = List { max: PAGE, ..List::default() };
        let (own, mut deleted) = (label_key(self.id), 0);
        loop {
            let page = store.bucket.list(&list, Cause::Delete).await?;
            let is_due = |object: &&Listed| object.key != own && (last || !object.key.starts_with(REGISTERS));
            let due: Vec<&Listed> = page.objects.iter().filter(is_due).collect();
            if !due.is_empty() {
                // Another pool may be made in an emptied place, which is looked at before each deletion.
                self.check_label(store).await?;
                let keys: Vec<String> = due.iter().map(|object| object.key.clone()).collect();
                store.bucket.delete(&keys, Cause::Delete).await?;
                tell(&due);
                deleted += due.len() as u64;
            }
            if page.next.is_none() {
                return Ok(deleted);
            }
            list.after = page.next;
            self.rt.give_way().await;
        }
    }

    async fn check_label(&self, store: &PoolStore) -> Result<()> {
        match labelled(store, self.id, self.key.as_ref()).await? {
            // One that is full could not say more.
            Some(label) if label.pool == self.id => Ok(()),
            _ => {
                let why = "it does not have the label of this pool any more: nothing more is deleted there";
                Err(Error::new(Kind::Refused, why))
            }
        }
    }
}

/// The store takes no write with a condition.
fn is_no_condition(e: &Error) -> bool {
    matches!(e.kind(), Kind::Unsupported | Kind::Invalid)
}

async fn is_empty(store: &PoolStore) -> bool {
    let list = List { max: 1, ..List::default() };
    store.bucket.list_some(&list, Cause::Delete).await.is_ok_and(|page| page.is_empty())
}
