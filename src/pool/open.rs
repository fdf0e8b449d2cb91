//! Making a pool, and finding one by its stores' labels.

use std::sync::Arc;
use std::time::Duration;

use super::config::{PoolConfig, Settings, StoreEntry};
use super::fleet::{Fleet, Membership, PoolHost};
use super::handle::Pool;
use super::hints::Hints;
use super::key::PROBES;
use super::label::{LABEL_KEY, LABEL_MAX, Label};
use super::layout::Layout;
use super::member::Member;
use super::register::Change;
use crate::base::rt::Rt;
use crate::base::{Error, Incarnation, Kind, Name, PoolId, Result};
use crate::store::{BucketRef, ByteRange, Cause, List, Put, When};

/// A store whose label isn't read by then counts as away when a pool is opened.
const LABEL_WAIT: Duration = Duration::from_secs(2);
/// Opening says who does not answer after this.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// A store as the user names it.
#[derive(Clone, Debug)]
pub struct StoreSpec {
    pub url: String,
    pub zone: Option<String>,
    pub bucket: BucketRef,
}

#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub settings: Settings,
    /// Also with a layout that the loss of one zone breaks.
    pub force: bool,
}

impl Pool {
    /// Makes a pool of stores whose places are empty, and opens it.
    pub async fn create(
        host: PoolHost,
        name: Name,
        layout: Layout,
        stores: Vec<StoreSpec>,
        options: CreateOptions,
    ) -> Result<Arc<Pool>> {
        let rt = host.rt.clone();
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
        if config.settings.ack_zone && stores.iter().any(|s| s.zone.is_none()) {
            return Err(Error::new(Kind::Usage, "--ack zone needs a zone for every store (URL,zone=NAME)"));
        }
        for outcome in futures::future::join_all(stores.iter().map(check_empty)).await {
            outcome?;
        }
        let probes = stores.iter().map(|s| crate::store::probe(&rt, &*s.bucket, PROBES));
        for outcome in futures::future::join_all(probes).await {
            outcome?;
        }
        let labels = stores.iter().enumerate().map(|(index, store)| put_label(store, index, &config));
        let labelled = futures::future::join_all(labels).await;
        let made = match labelled.into_iter().collect::<Result<Vec<()>>>() {
            Ok(_) => found(&host, &stores, &config).await,
            Err(e) => Err(e),
        };
        if let Err(e) = made {
            withdraw_labels(&stores, &config).await;
            return Err(e.context(format!("pool {} was not created", config.name)));
        }
        let opened = Pool::open(host, stores).await;
        opened.map_err(|e| e.context(format!("pool {} is made, but can't be opened yet", config.name)))
    }

    /// Opens a pool from its stores' labels. A store that is away, emptied or another pool's doesn't hinder, as long as a
    /// majority of those that hold registers answer.
    pub async fn open(host: PoolHost, stores: Vec<StoreSpec>) -> Result<Arc<Pool>> {
        let labels = stores.iter().map(|s| read_label(&host.rt, s));
        let labels = futures::future::join_all(labels).await;
        let mut config = best_hint(&stores, &labels)?;
        let seats = seat(&config, &stores, &labels)?;
        loop {
            let membership = membership(&host.rt, &config, &stores, &seats);
            let register =
                membership.register(&host.rt, PoolConfig::register(config.pool)).with_deadline(OPEN_WAIT);
            let Some(value) = register.read().await? else {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "pool {} was never finished: empty the stores' places and create it again",
                        config.name
                    ),
                ));
            };
            let current = PoolConfig::decode(&value)?;
            if current.pool != config.pool {
                return Err(Error::new(Kind::Corrupt, "the stores disagree about which pool they are of"));
            }
            let same = current.stores == config.stores && current.acceptors == config.acceptors;
            if same && current.generation == config.generation {
                let hints = Hints::open(&host.rt, host.disk.clone(), &host.folder, current.pool).await?;
                return Pool::new(&current, Fleet::new(host.rt, current.layout, membership, hints));
            }
            if current.generation <= config.generation {
                return Err(Error::new(
                    Kind::Corrupt,
                    "the stores' labels and the pool's description disagree",
                ));
            }
            config = current;
        }
    }
}

async fn check_empty(store: &StoreSpec) -> Result<()> {
    let list = List { max: 1, ..List::default() };
    let page = store.bucket.list(&list, Cause::Probe).await?;
    if let Some(object) = page.objects.first() {
        return Err(Error::new(
            Kind::Refused,
            format!("store {} is not empty (it has {}): choose an empty place", store.url, object.key),
        ));
    }
    Ok(())
}

async fn put_label(store: &StoreSpec, index: usize, config: &PoolConfig) -> Result<()> {
    let label = Label::new(config.pool, index, config.stores[index].incarnation, config.clone());
    let answer = store.bucket.put(LABEL_KEY, label.encode(), When::Absent, Cause::Label).await?;
    let taken = || {
        Error::new(
            Kind::Refused,
            format!("store {} has become another pool's, or is given twice: give each store once", store.url),
        )
    };
    match answer {
        Put::Stored(_) => Ok(()),
        // Only a look tells whose it is.
        Put::Refused | Put::Unknown(_) => match labelled(store).await? {
            Some(found) if found.incarnation == label.incarnation => Ok(()),
            Some(_) => Err(taken()),
            None => Err(match answer {
                Put::Unknown(e) => e,
                _ => taken(),
            }),
        },
    }
}

async fn labelled(store: &StoreSpec) -> Result<Option<Label>> {
    let found = store.bucket.get(LABEL_KEY, ByteRange::Whole { max: LABEL_MAX }, Cause::Label).await?;
    found.map(|f| Label::decode(&f.body)).transpose()
}

/// Writes the pool's first value, once every store shows its label.
async fn found(host: &PoolHost, stores: &[StoreSpec], config: &PoolConfig) -> Result<()> {
    let seats: Vec<Option<usize>> = (0..stores.len()).map(Some).collect();
    let membership = membership(&host.rt, config, stores, &seats);
    for attested in futures::future::join_all(membership.members.iter().map(|m| m.attest())).await {
        attested?;
    }
    let register = membership.register(&host.rt, PoolConfig::register(config.pool));
    let value = config.encode();
    register
        .change(|current| {
            Ok(if current.is_none() { Change::Put(value.clone(), ()) } else { Change::Keep(()) })
        })
        .await
}

/// Takes back the labels of a pool that could not be made. What fails here is left: the next attempt names it.
async fn withdraw_labels(stores: &[StoreSpec], config: &PoolConfig) {
    for (store, entry) in stores.iter().zip(&config.stores) {
        let ours = matches!(labelled(store).await, Ok(Some(label)) if label.incarnation == entry.incarnation);
        let keys = [LABEL_KEY.to_owned(), super::key::register_key(PoolConfig::register(config.pool))];
        if ours && let Err(e) = store.bucket.delete(&keys, Cause::Label).await {
            tracing::warn!("store {} keeps the label of a pool that was not made: {e}", store.url);
        }
    }
}

/// What a store says about itself when a pool is opened.
enum Found {
    Label(Box<Label>),
    /// No label, or not one of ours.
    Other(Error),
    Silent(Error),
}

async fn read_label(rt: &Rt, store: &StoreSpec) -> Found {
    match rt.timeout(LABEL_WAIT, labelled(store)).await {
        Some(Ok(Some(label))) if label.hint.check().is_ok() && label.hint.pool == label.pool => {
            Found::Label(Box::new(label))
        }
        Some(Ok(Some(_))) => Found::Other(Error::new(Kind::Invalid, "its label is malformed")),
        Some(Ok(None)) => Found::Other(Error::new(Kind::NotFound, "it has no label")),
        Some(Err(e)) if matches!(e.kind(), Kind::Invalid | Kind::Unsupported) => Found::Other(e),
        Some(Err(e)) => Found::Silent(e),
        None => Found::Silent(Error::new(Kind::Timeout, "it does not answer")),
    }
}

/// The newest description of the pool that most stores belong to.
fn best_hint(stores: &[StoreSpec], labels: &[Found]) -> Result<PoolConfig> {
    let known = || labels.iter().filter_map(|l| if let Found::Label(l) = l { Some(l) } else { None });
    let votes = |pool: PoolId| known().filter(|l| l.pool == pool).count();
    let best = known().max_by_key(|l| (votes(l.pool), l.hint.generation, std::cmp::Reverse(l.index)));
    if let Some(best) = best {
        if known().any(|l| l.pool != best.pool && votes(l.pool) == votes(best.pool)) {
            return Err(Error::new(
                Kind::Refused,
                "the stores are of different pools: give the stores of one",
            ));
        }
        return Ok(best.hint.clone());
    }
    let mut why: Vec<String> = Vec::new();
    let mut kind = Kind::NotFound;
    for (store, label) in stores.iter().zip(labels) {
        match label {
            Found::Silent(e) => {
                kind = Kind::Unavailable;
                why.push(format!("{}: {e}", store.url));
            }
            Found::Other(e) => {
                if e.is(Kind::Unsupported) {
                    kind = Kind::Unsupported;
                }
                why.push(format!("{}: {e}", store.url));
            }
            Found::Label(_) => {}
        }
    }
    Err(Error::new(kind, format!("no store shows a pool: {}", why.join("; "))))
}

/// For each place in the pool, which of the given stores is meant: by label and URL, by label, by URL, by what is left over.
fn seat(config: &PoolConfig, stores: &[StoreSpec], labels: &[Found]) -> Result<Vec<Option<usize>>> {
    let says = |place: usize, store: usize| {
        matches!(&labels[store], Found::Label(l) if l.pool == config.pool && l.index == place
            && l.incarnation == config.stores[place].incarnation)
    };
    let is_url = |place: usize, store: usize| stores[store].url == config.stores[place].url;
    let mut seats: Vec<Option<usize>> = vec![None; config.stores.len()];
    let mut free: Vec<usize> = (0..stores.len()).collect();
    let mut take = |seats: &mut Vec<Option<usize>>, fits: &dyn Fn(usize, usize) -> bool| {
        for (place, seat) in seats.iter_mut().enumerate().filter(|(_, seat)| seat.is_none()) {
            if let Some(at) = free.iter().position(|store| fits(place, *store)) {
                *seat = Some(free.remove(at));
            }
        }
        free.clone()
    };
    let free = take(&mut seats, &|place, store| says(place, store) && is_url(place, store));
    for place in (0..seats.len()).filter(|place| seats[*place].is_none()) {
        let claims: Vec<usize> = free.iter().copied().filter(|store| says(place, *store)).collect();
        if let [one, other, ..] = claims[..] {
            let (one, other) = (&stores[one].url, &stores[other].url);
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "stores {one} and {other} have the same label, one is a copy: give only the right one"
                ),
            ));
        }
    }
    take(&mut seats, &says);
    take(&mut seats, &is_url);
    take(&mut seats, &|_, _| true);
    Ok(seats)
}

fn membership(rt: &Rt, config: &PoolConfig, stores: &[StoreSpec], seats: &[Option<usize>]) -> Membership {
    let members = config.stores.iter().zip(seats).enumerate().map(|(index, (entry, seat))| {
        let spec = seat.and_then(|at| stores.get(at));
        let url = spec.map_or(&entry.url, |s| &s.url).clone();
        let bucket = spec.map(|s| s.bucket.clone());
        Member::new(rt.clone(), config.pool, index, entry.incarnation, entry.zone.clone(), url, bucket)
    });
    Membership {
        generation: config.generation,
        members: members.collect(),
        acceptors: config.acceptors.clone(),
    }
}
