//! Labels that were lost, written anew from the registers (`pool repair --labels`).
//!
//! A store without its label is out, and a pool of which most stores are out can't be opened, though all that it held is there.
//! The pool's description is a register: it says which stores there are, and every store that holds registers has a copy.
//!
//! Invariant: a label is written only where the store shows by what it holds that it is the listed one in the listed life. One that
//! holds registers has the newest copy of the description; every one has shards that belong on it, and none that belong on others.
//! Of a sample of the chunks that other stores hold it has nearly all shards that belong on it: an emptied place may have some, which
//! were written before its label was missed. Taken for the store again it would have forgotten what it promised (protocol.md §1.7).
//!
//! It works on places alone, since nothing can be decided by stores that are out. Nothing is deleted or put over.

use std::collections::BTreeSet;

use futures::future::{BoxFuture, join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::register::{Told, description_in};
use crate::stores::{Label, label_key, labelled, pools_in};
use crate::stores::{Named, REGISTERS, parse, place, register_key, shard_key, shard_on};
use crate::stores::{PoolConfig, PoolHost, PoolStore};
use windlass_base::{ChunkId, Error, Kind, Name, PoolId, RegisterId, Result};
use windlass_keys::{PoolKey, RegisterPlace};
use windlass_store::{ByteRange, Cause, List, Put, When};

/// Names looked at in a store to tell whose shards are there.
const NAMES: usize = 1000;
/// Registers looked at in a store for the pool's description, where nothing else tells its id.
const REGISTERS_MAX: usize = 10_000;
/// Descriptions are no larger.
const DESCRIPTION_MAX: u64 = 1 << 20;

/// Chunks of which a store is asked for its shard, at most.
const SAMPLE: usize = 200;
/// Of these, asked for at a time.
const AT_ONCE: usize = 16;

/// What became of each store's label.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Relabelled {
    /// URLs of stores whose labels were written anew.
    pub written: Vec<String>,
    /// Of those that have theirs.
    pub right: Vec<String>,
    /// Others, and why none was written there.
    pub left: Vec<(String, String)>,
}

/// Writes labels anew that were lost. `known`: ids that the pool of this name may have, as this host remembers them.
pub fn relabel<'f>(
    host: &'f PoolHost,
    name: &'f Name,
    stores: &'f [PoolStore],
    known: &'f BTreeSet<PoolId>,
) -> BoxFuture<'f, Result<Relabelled>> {
    Box::pin(async move {
        let key = host.key.as_ref();
        let newest = newest_description(name, stores, known, key).await?;
        let config = &newest.config;
        let places = join_all(config.stores.iter().map(|entry| async move {
            let given = stores.iter().find(|store| store.url == entry.url).cloned();
            match given {
                Some(store) => Ok(store),
                None => host.opener.open(&entry.url).await.map(|bucket| PoolStore {
                    url: entry.url.clone(),
                    zone: entry.zone.clone(),
                    bucket,
                }),
            }
        }))
        .await;
        // A store that does not list tells of no chunk.
        let held = join_all(places.iter().map(|place| async move {
            match place {
                Ok(store) => chunks_on(store).await.unwrap_or_default(),
                Err(_) => BTreeSet::new(),
            }
        }))
        .await;
        let looks = places.iter().enumerate().map(|(index, place)| {
            let (newest, sample) = (&newest, sample_for(index, &held));
            async move {
                match place {
                    Ok(store) => write_one(store, index, newest, &sample, key).await,
                    Err(e) => Err(e.share()),
                }
            }
        });
        let mut done = Relabelled::default();
        for (entry, out) in config.stores.iter().zip(join_all(looks).await) {
            match out {
                Ok(true) => done.written.push(entry.url.clone()),
                Ok(false) => done.right.push(entry.url.clone()),
                Err(e) => done.left.push((entry.url.clone(), e.to_string())),
            }
        }
        Ok(done)
    })
}

/// The newest description that any store holds, of the pool of this name.
async fn newest_description(
    name: &Name,
    stores: &[PoolStore],
    known: &BTreeSet<PoolId>,
    key: Option<&PoolKey>,
) -> Result<Told> {
    let mut newest: Option<Told> = None;
    let mut why = Vec::new();
    for (index, store) in stores.iter().enumerate() {
        let found = match descriptions(store, index, known, key).await {
            Ok(found) => found,
            Err(e) => {
                why.push(format!("{}: {e}", store.url));
                continue;
            }
        };
        for told in found.into_iter().filter(|told| told.config.name == *name) {
            if let Some(known) = &newest
                && known.config.pool != told.config.pool
            {
                let why = format!("the stores hold more than one pool {name}: give the stores of one");
                return Err(Error::new(Kind::Refused, why));
            }
            if newest.as_ref().is_none_or(|known| known.at < told.at) {
                newest = Some(told);
            }
        }
    }
    newest.ok_or_else(|| {
        why.insert(0, format!("none of the stores holds the description of a pool {name}"));
        Error::new(Kind::NotFound, why.join("; "))
    })
}

/// The pools' descriptions in one store. `index`: its place in the list that this host keeps, which is the pool's order.
async fn descriptions(
    store: &PoolStore,
    index: usize,
    known: &BTreeSet<PoolId>,
    key: Option<&PoolKey>,
) -> Result<Vec<Told>> {
    let mut ids: BTreeSet<RegisterId> = known.iter().map(|pool| PoolConfig::register(*pool)).collect();
    ids.extend(pools_in(&store.bucket).await?.into_iter().map(PoolConfig::register));
    let mut found = Vec::new();
    for id in &ids {
        found.extend(description(store, *id, index, key).await?);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let mut list = List { prefix: REGISTERS.to_owned(), max: NAMES, ..List::default() };
    let mut looked = 0;
    loop {
        let page = store.bucket.list(&list, Cause::Register).await?;
        for object in &page.objects {
            if let Named::Register(id) = parse(&object.key) {
                found.extend(description(store, id, index, key).await?);
            }
        }
        looked += page.objects.len();
        list.after = page.next;
        if list.after.is_none() || !found.is_empty() || looked >= REGISTERS_MAX {
            return Ok(found);
        }
    }
}

/// What a store has under this register, where that is a pool's description.
async fn description(
    store: &PoolStore,
    id: RegisterId,
    index: usize,
    key: Option<&PoolKey>,
) -> Result<Option<Told>> {
    let range = ByteRange::Whole { max: DESCRIPTION_MAX };
    let Some(found) = store.bucket.get(&register_key(id), range, Cause::Register).await? else {
        return Ok(None);
    };
    let place = RegisterPlace { pool: PoolId(id.0), register: id, index };
    Ok(description_in(&found.body, place, key))
}

/// Whether a label was written; `false`: it is there.
async fn write_one(
    store: &PoolStore,
    index: usize,
    newest: &Told,
    sample: &[ChunkId],
    key: Option<&PoolKey>,
) -> Result<bool> {
    let config = &newest.config;
    let refuse = |why: String| Err(Error::new(Kind::Refused, why));
    match labelled(store, config.pool, key).await? {
        Some(label) if label.destroyed => return refuse("its pool is being destroyed".to_owned()),
        Some(label) if label.incarnation == config.stores[index].incarnation && label.index == index => {
            return Ok(false);
        }
        Some(_) => {
            return refuse("it has the label of another store, or of another life: it stays".to_owned());
        }
        None => {}
    }
    let others: Vec<PoolId> =
        pools_in(&store.bucket).await?.into_iter().filter(|pool| *pool != config.pool).collect();
    if !others.is_empty() {
        return refuse(format!("it has the label of another pool, {}", others[0]));
    }
    if config.acceptors.contains(&index) {
        let own = description(store, PoolConfig::register(config.pool), index, key).await?;
        if own.is_none_or(|own| own.at < newest.at) {
            return refuse(
                "its copy of the pool's description is older than others, or gone: it may have been emptied or put back; `windlass \
                 pool repair` takes it in once the pool is open"
                    .to_owned(),
            );
        }
    }
    check_shards(store, index, config).await?;
    check_sample(store, index, sample, config.stores.len()).await?;
    let label = Label::new(config.pool, index, config.stores[index].incarnation, config.clone());
    // It was looked at just now: there is none. Whoever else writes it anew writes the same.
    let when = if config.stores[index].is_data_only() { When::Always } else { When::Absent };
    match store.bucket.put(&label_key(config.pool), label.encode(key), when, Cause::Label).await? {
        Put::Stored(_) => Ok(true),
        Put::Refused => refuse("another has put a label there meanwhile".to_owned()),
        Put::Unknown(e) => Err(e),
    }
}

/// What is there belongs there. One that holds no registers must have something, or it may be an empty place.
async fn check_shards(store: &PoolStore, index: usize, config: &PoolConfig) -> Result<()> {
    let list = List { max: NAMES, ..List::default() };
    let page = store.bucket.list(&list, Cause::Label).await?;
    let shards = page.objects.iter().filter_map(|object| match parse(&object.key) {
        Named::Shard(id, shard) => Some(place(&id, shard, config.stores.len())),
        _ => None,
    });
    let shards: Vec<usize> = shards.collect();
    if let Some(other) = shards.iter().find(|place| **place != index) {
        let why = format!("it holds shards of the pool's store {other}, at the place of store {index}");
        return Err(Error::new(Kind::Refused, why));
    }
    if shards.is_empty() && !config.acceptors.contains(&index) {
        let why = "it holds nothing by which it could be known: `windlass pool repair` takes it in once the pool is open";
        return Err(Error::new(Kind::Refused, why));
    }
    Ok(())
}

/// Chunks of which a store lists shards, of its first names.
async fn chunks_on(store: &PoolStore) -> Result<BTreeSet<ChunkId>> {
    let list = List { max: NAMES, ..List::default() };
    let page = store.bucket.list(&list, Cause::Label).await?;
    let chunk = |key: &str| match parse(key) {
        Named::Shard(id, _) => Some(id),
        _ => None,
    };
    Ok(page.objects.iter().filter_map(|object| chunk(&object.key)).collect())
}

/// Some of the chunks that other stores than this one hold, old and new ones.
fn sample_for(index: usize, held: &[BTreeSet<ChunkId>]) -> Vec<ChunkId> {
    let others = held.iter().enumerate().filter(|(other, _)| *other != index);
    let all: BTreeSet<ChunkId> = others.flat_map(|(_, chunks)| chunks).copied().collect();
    let step = all.len().div_ceil(SAMPLE).max(1);
    all.into_iter().step_by(step).collect()
}

/// The store has its shards of what the others hold, but for what it may have missed lately, or is no longer needed.
async fn check_sample(store: &PoolStore, index: usize, sample: &[ChunkId], n: usize) -> Result<()> {
    let looks = sample.iter().copied().map(|id| async move {
        let key = shard_key(&id, shard_on(&id, index, n));
        store.bucket.head(&key, Cause::Label).await.map(|head| usize::from(head.is_some()))
    });
    let there: Vec<usize> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    let (there, of) = (there.into_iter().sum::<usize>(), sample.len());
    if there * 10 < of * 9 {
        let why = format!(
            "of {of} objects that other stores hold a part of it has only {there}: it may have been emptied or put back; `windlass pool \
             repair` takes it in once the pool is open"
        );
        return Err(Error::new(Kind::Refused, why));
    }
    Ok(())
}
