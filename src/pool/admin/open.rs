//! Making a pool, and finding one by its stores' labels.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Pool;
use crate::base::{Error, Incarnation, Kind, Name, PoolId, Result};
use crate::keys::PoolKey;
use crate::pool::chunk::Layout;
use crate::pool::io::PoolContext;
use crate::pool::local::MissingShards;
use crate::pool::local::ScrubCursor;
use crate::pool::register::{Change, Register};
use crate::pool::stores::PROBES;
use crate::pool::stores::Roster;
use crate::pool::stores::{Found, find_all, hints, labelled, read_labels, refuse_destroyed};
use crate::pool::stores::{LABEL_KEY, Label};
use crate::pool::stores::{PoolConfig, PoolSettings, StoreEntry};
use crate::pool::stores::{PoolHost, PoolStore};
use crate::store::{Cause, List, Put, When};

/// How long the first value may take to be in every store, and how long opening waits for what every store says.
const EVERYWHERE: Duration = Duration::from_secs(2);
/// A look at so many objects tells whether a place is empty.
const LIST_PAGE: usize = 1000;
/// Opening says who does not answer after this.
const OPEN_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub settings: PoolSettings,
    /// Also with a layout that the loss of one zone breaks.
    pub force: bool,
}

impl Pool {
    /// Makes a pool of stores whose places are empty, and opens it.
    pub async fn create(
        host: PoolHost,
        name: Name,
        layout: Layout,
        stores: Vec<PoolStore>,
        options: CreateOptions,
    ) -> Result<Arc<Pool>> {
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
        });
        let config =
            PoolConfig::new(PoolId(rt.random128()), name, layout, entries.collect(), options.settings)?;
        if !options.force {
            config.zoning()?.check()?;
        }
        config.check_settings()?;
        for outcome in futures::future::join_all(stores.iter().map(|s| check_empty(s, key))).await {
            outcome?;
        }
        let probes = stores.iter().map(|s| crate::store::probe(&rt, &*s.bucket, PROBES));
        for outcome in futures::future::join_all(probes).await {
            outcome?;
        }
        let labels = stores.iter().enumerate().map(|(index, store)| put_label(store, index, &config, key));
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
    }

    /// Opens a pool from its stores' labels. A store that is away, emptied or another pool's doesn't hinder, as long as a
    /// majority of those that hold registers answer.
    ///
    /// A label only tells where to begin. Nobody writes a generation into one, without the generation before it, until it is
    /// known chosen: where a majority knows nothing of it that label is wrong, and the next one tells.
    pub async fn open(host: PoolHost, mut stores: Vec<PoolStore>) -> Result<Arc<Pool>> {
        let mut labels = read_labels(&host, &stores).await;
        refuse_destroyed(&labels, host.key.as_ref())?;
        let hints = hints(&stores, &labels)?;
        let given = stores.len();
        for hint in &hints {
            if let Some(pool) = Pool::open_by(&host, hint, &mut stores, &mut labels).await? {
                return Ok(pool);
            }
            // The others are those that this label listed.
            stores.truncate(given);
            labels.truncate(given);
            let (name, generation) = (&hint.name, hint.generation.0);
            let wrong: Vec<&str> = tell(&stores, &labels, hint).collect();
            tracing::warn!(pool = %name, generation, ?wrong, "no majority of the pool's stores knows what these labels tell");
        }
        Err(undecided(&stores, &labels, &hints[0]))
    }

    /// `None`: a majority of the stores that this label's description names has no description.
    async fn open_by(
        host: &PoolHost,
        hint: &PoolConfig,
        stores: &mut Vec<PoolStore>,
        labels: &mut Vec<Found>,
    ) -> Result<Option<Arc<Pool>>> {
        // While a replacement is under way registers may still be where they were before.
        let config = hint.predecessor().unwrap_or_else(|| hint.clone());
        let seats = find_all(host, &config, stores, labels).await?;
        let roster = Roster::new(host, &config, stores.clone(), &seats);
        for (member, seat) in roster.current().members.iter().zip(&seats) {
            if let Some(Found::Silent(why)) = seat.map(|at| &labels[at]) {
                // Waited for once is enough: it counts as away until it answers.
                member.was_silent(why);
            }
        }
        if hint.forced.is_some() {
            // Written after that generation was known chosen. The stores that it gave up may be back and tell another story.
            roster.learn(&hint.encode()).await?;
        }
        let register = Register::new(host.rt.clone(), roster.clone(), PoolConfig::register(config.pool));
        if config.acceptors.len() > 1 {
            // The same where the label of who could tell is behind: those that were given up would agree among themselves.
            register.hear_soon(EVERYWHERE).await?;
        }
        let Some(value) = register.with_deadline(OPEN_WAIT).read().await? else { return Ok(None) };
        let current = PoolConfig::decode(&value)?;
        roster.learn(&value).await?;
        if roster.current().generation != current.generation {
            return Err(Error::new(Kind::Corrupt, "the stores' labels and the pool's description disagree"));
        }
        let missing_shards =
            MissingShards::open(&host.rt, host.disk.clone(), &host.folder, current.pool).await?;
        let scrub_cursor = ScrubCursor::new(host.disk.clone(), &host.folder, current.pool);
        let rt = host.rt.clone();
        let context = PoolContext::new(rt, current.layout, roster, missing_shards, scrub_cursor);
        Pool::new(&current, context).map(Some)
    }
}

/// The URLs of the stores whose labels have this description.
fn tell<'a>(
    stores: &'a [PoolStore],
    labels: &'a [Found],
    hint: &'a PoolConfig,
) -> impl Iterator<Item = &'a str> {
    let of = move |(_, found): &(_, &Found)| found.label().is_some_and(|label| label.hint == *hint);
    stores.iter().zip(labels).filter(of).map(|(store, _)| store.url.as_str())
}

/// What is said where the stores have labels of a pool and no description. Not that anything may be deleted: labels can be
/// wrong, and then all of the pool is there.
fn undecided(stores: &[PoolStore], labels: &[Found], newest: &PoolConfig) -> Error {
    let wrong: Vec<&str> = tell(stores, labels, newest).collect();
    let why = format!(
        "pool {} has no description in its stores, though {} tell of its generation {}: either its creation was broken off, \
         then create it in other places; or these labels are wrong: delete nothing",
        newest.name,
        wrong.join(", "),
        newest.generation.0
    );
    Error::new(Kind::Invalid, why)
}

/// Nothing but what a creation that was broken off has left of its look at what the store promises.
async fn check_empty(store: &PoolStore, key: Option<&PoolKey>) -> Result<()> {
    let list = List { max: LIST_PAGE, ..List::default() };
    let page = store.bucket.list(&list, Cause::Probe).await?;
    let Some(object) = page.objects.iter().find(|o| !o.key.starts_with(PROBES)) else { return Ok(()) };
    let url = &store.url;
    let why = match labelled(store, key).await {
        Ok(Some(Label { hint, .. })) => format!(
            "store {url} has the label of a pool {}: choose an empty place; or empty this one, if that pool was never finished",
            hint.name
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
    let answer = store.bucket.put(LABEL_KEY, label.encode(key), When::Absent, Cause::Label).await?;
    let taken = || {
        Error::new(
            Kind::Refused,
            format!("store {} has become another pool's, or is given twice: give each store once", store.url),
        )
    };
    match answer {
        Put::Stored(_) => Ok(()),
        // Only a look tells whose it is.
        Put::Refused | Put::Unknown(_) => match labelled(store, key).await? {
            Some(found) if found.incarnation == label.incarnation => Ok(()),
            Some(_) => Err(taken()),
            None => Err(match answer {
                Put::Unknown(e) => e,
                _ => taken(),
            }),
        },
    }
}

/// Writes the pool's first value, once every store shows its label.
async fn found(host: &PoolHost, stores: &[PoolStore], config: &PoolConfig) -> Result<()> {
    let seats: Vec<Option<usize>> = (0..stores.len()).map(Some).collect();
    let roster = Roster::new(host, config, stores.to_vec(), &seats);
    let membership = roster.current();
    for attested in futures::future::join_all(membership.members.iter().map(|m| m.attest())).await {
        attested?;
    }
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
        let ours =
            matches!(labelled(store, key).await, Ok(Some(label)) if label.incarnation == entry.incarnation);
        let keys =
            [LABEL_KEY.to_owned(), crate::pool::stores::register_key(PoolConfig::register(config.pool))];
        if ours && let Err(e) = store.bucket.delete(&keys, Cause::Label).await {
            tracing::warn!("store {} keeps the label of a pool that was not made: {e}", store.url);
        }
    }
}
