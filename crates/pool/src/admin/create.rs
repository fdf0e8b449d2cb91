//! Making a pool: its places looked at, its stores labelled, its first value written; and all taken back when that fails.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::handle::Pool;
use super::next_generation::check_alone;
use super::open::EVERYWHERE;
use crate::chunk::Layout;
use crate::local::ProvenServers;
use crate::register::{Change, Register};
use crate::stores::PROBES;
use crate::stores::Roster;
use crate::stores::{Found, labelled, read_label};
use crate::stores::{Label, label_key, register_key};
use crate::stores::{PoolConfig, PoolSettings, StoreEntry};
use crate::stores::{PoolHost, PoolStore};
use windlass_base::rt::Rt;
use windlass_base::{Error, Incarnation, Kind, Name, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::{Cause, ConditionalPuts, Fitness, List, Put, When};

/// A look at so many objects tells whether a place is empty.
const LIST_PAGE: usize = 1000;

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub settings: PoolSettings,
    /// Also with a layout that the loss of one zone breaks, and with no more stores that hold registers than may be lost.
    pub force: bool,
}

impl Pool {
    /// Makes a pool of stores whose places are empty, and opens it. Those that don't keep the conditions of writes hold data only.
    pub fn create(
        host: PoolHost,
        name: Name,
        layout: Layout,
        stores: Vec<PoolStore>,
        options: CreateOptions,
    ) -> BoxFuture<'static, Result<Arc<Pool>>> {
        Box::pin(async move {
            for (at, store) in stores.iter().enumerate() {
                if stores[..at].iter().any(|s| s.url == store.url) {
                    let text = format!("store {} is given twice: give each store once", store.url);
                    return Err(Error::new(Kind::Usage, text));
                }
            }
            let (rt, key) = (host.rt.clone(), host.key.as_ref());
            let entries = stores.iter().map(|s| StoreEntry {
                url: s.url.clone(),
                zone: s.zone.clone(),
                incarnation: Incarnation(rt.random128()),
                conditions: ConditionalPuts::Held,
            });
            let mut config =
                PoolConfig::new(PoolId(rt.random128()), name, layout, entries.collect(), options.settings)?;
            if !options.force {
                config.zoning()?.check()?;
            }
            config.check_settings()?;
            for outcome in futures::future::join_all(stores.iter().map(|s| check_empty(&rt, s, key))).await {
                outcome?;
            }
            let probes =
                stores.iter().map(|s| windlass_store::probe_fitness(&rt, &*s.bucket, PROBES, host.trial));
            let fitness: Vec<Fitness> =
                futures::future::join_all(probes).await.into_iter().collect::<Result<_>>()?;
            if fitness.iter().any(|fit| !fit.conditions.are_held()) {
                config = config.with_conditions(fitness.iter().map(|fit| fit.conditions)).map_err(|e| {
                    match fitness.into_iter().find_map(|fit| fit.why) {
                        Some(why) => e.context(why),
                        None => e,
                    }
                })?;
                if !options.force {
                    config.zoning()?.check()?;
                    config.zoning()?.check_acceptors()?;
                }
            }
            let proven = ProvenServers::new(host.disk.clone(), &host.folder, config.pool);
            for store in &stores {
                if let Some(server) = store.bucket.server() {
                    proven.add(&store.url, &server).await;
                }
            }
            let labels =
                stores.iter().enumerate().map(|(index, store)| put_label(store, index, &config, key));
            let labelled = futures::future::join_all(labels).await;
            let made = match labelled.into_iter().collect::<Result<Vec<()>>>() {
                Ok(_) => found(&host, &stores, &config).await,
                Err(e) => Err(e),
            };
            if let Err(e) = made {
                withdraw_labels(&stores, &config, key).await;
                return Err(e.context(format!("pool {} was not created", config.name)));
            }
            let opened = Pool::open(host, stores).await;
            opened.map_err(|e| e.context(format!("pool {} is made, but can't be opened yet", config.name)))
        })
    }
}

/// Nothing but what a creation that was broken off has left of its look at what the store promises.
async fn check_empty(rt: &Rt, store: &PoolStore, key: Option<&PoolKey>) -> Result<()> {
    let list = List { max: LIST_PAGE, ..List::default() };
    let page = store.bucket.list_some(&list, Cause::Probe).await?;
    let Some(object) = page.objects.iter().find(|o| !o.key.starts_with(PROBES)) else { return Ok(()) };
    let url = &store.url;
    let why = match read_label(rt, store, key, None).await {
        Found::Label(label) => format!(
            "store {url} has the label of a pool {}: choose an empty place; or empty this one, if that pool was never finished",
            label.hint.name
        ),
        _ => format!("store {url} is not empty (it has {}): choose an empty place", object.key),
    };
    Err(Error::new(Kind::Refused, why))
}

async fn put_label(
    store: &PoolStore,
    index: usize,
    config: &PoolConfig,
    key: Option<&PoolKey>,
) -> Result<()> {
    let label = Label::new(config.pool, index, config.stores[index].incarnation, config.clone());
    let own = label_key(config.pool);
    // Without a condition it may put over the label of a place that is given twice: `found` looks at all once more.
    let when = if config.stores[index].is_data_only() { When::Always } else { When::Absent };
    let answer = store.bucket.put(&own, label.encode(key), when, Cause::Label).await?;
    let taken = || {
        Error::new(
            Kind::Refused,
            format!("store {} has become another pool's, or is given twice: give each store once", store.url),
        )
    };
    match answer {
        Put::Stored(_) => Ok(()),
        // Only a look tells whose it is.
        Put::Refused | Put::Unknown(_) => match labelled(store, config.pool, key).await? {
            Some(found) if found.incarnation == label.incarnation => Ok(()),
            Some(_) => Err(taken()),
            None => Err(match answer {
                Put::Unknown(e) => e,
                _ => taken(),
            }),
        },
    }
}

/// Writes the pool's first value, once every store shows its label and no other pool's.
async fn found(host: &PoolHost, stores: &[PoolStore], config: &PoolConfig) -> Result<()> {
    let seats: Vec<Option<usize>> = (0..stores.len()).map(Some).collect();
    let roster = Roster::new(host, config, stores.to_vec(), &seats);
    let membership = roster.current();
    for attested in futures::future::join_all(membership.members.iter().map(|m| m.attest())).await {
        attested?;
    }
    futures::future::try_join_all(stores.iter().map(|store| check_alone(store, config.pool))).await?;
    let register = Register::new(host.rt.clone(), roster.clone(), PoolConfig::register(config.pool));
    let value = config.encode();
    register
        .change(|current| {
            Ok(if current.is_none() { Change::Put(value.clone(), ()) } else { Change::Keep(()) })
        })
        .await?;
    let _ = host.rt.timeout(EVERYWHERE, roster.idle()).await;
    Ok(())
}

/// Takes back the labels of a pool that could not be made. What fails here is left: the next attempt names it.
async fn withdraw_labels(stores: &[PoolStore], config: &PoolConfig, key: Option<&PoolKey>) {
    for (store, entry) in stores.iter().zip(&config.stores) {
        let ours = matches!(labelled(store, config.pool, key).await, Ok(Some(label)) if label.incarnation == entry.incarnation);
        // Keys of this pool alone: however late this arrives, no other pool has them.
        let keys = [label_key(config.pool), register_key(PoolConfig::register(config.pool))];
        if ours && let Err(e) = store.bucket.delete(&keys, Cause::Label).await {
            tracing::warn!("store {} keeps the label of a pool that was not made: {e}", store.url);
        }
    }
}
