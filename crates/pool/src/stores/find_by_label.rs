//! Which of the places that this host knows is which store of the pool: by their labels.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::config::PoolConfig;
use super::host_resources::{PoolHost, PoolStore};
use super::label::{LABEL_BEFORE, LABEL_MAX, LABELS, Label, label_key, pool_of_label};
use super::object_key::register_key;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Name, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::{BucketRef, ByteRange, Cause, List, Put, When};

/// A store that answers no request for its label by then counts as away when a pool is opened.
const LABEL_WAIT: Duration = Duration::from_secs(2);
/// Where enough others have shown theirs it is waited for as long again as those took, and at least this.
const LABEL_HEDGE: Duration = Duration::from_millis(600);

/// Labels looked at in one place: there is one, or what a pool left there that was never finished is beside it.
const LABELS_MAX: usize = 8;

/// Its label of this pool, as who has this key for the pool, or none, believes it.
pub fn labelled<'f>(
    store: &'f PoolStore,
    pool: PoolId,
    key: Option<&'f PoolKey>,
) -> BoxFuture<'f, Result<Option<Label>>> {
    Box::pin(async move {
        let range = ByteRange::Whole { max: LABEL_MAX };
        let found = store.bucket.get(&label_key(pool), range, Cause::Label).await?;
        found.map(|f| Label::read(&f.body, key)).transpose()
    })
}

/// The pools that have labels there.
pub async fn pools_in(bucket: &BucketRef) -> Result<Vec<PoolId>> {
    let list = List { prefix: LABELS.to_owned(), max: LABELS_MAX, ..List::default() };
    let page = bucket.list(&list, Cause::Label).await?;
    Ok(page.objects.iter().filter_map(|object| pool_of_label(&object.key)).collect())
}

/// What is there in place of a pool's label.
#[derive(Debug)]
pub enum Instead {
    /// The pool's, as it was under the key of before. It has its own key now.
    Brought(Bytes),
    Other(Box<Label>),
    Nothing,
}

/// Looks at what a store has that lacks this pool's label. A label of this pool from before its key had the pool's id is brought to
/// the key that it has now: only for who has opened the pool, or means to.
pub async fn instead_of_label(bucket: &BucketRef, pool: PoolId) -> Result<Instead> {
    let (before, pools) = join(label_of_before(bucket), pools_in(bucket)).await;
    let Some((of, found)) = before? else {
        let Some(other) = pools?.into_iter().find(|other| *other != pool) else {
            return Ok(Instead::Nothing);
        };
        let range = ByteRange::Whole { max: LABEL_MAX };
        let found = bucket.get(&label_key(other), range, Cause::Label).await?;
        let label = found.map(|found| Label::decode(&found.body)).transpose()?;
        return Ok(label.map_or(Instead::Nothing, |label| Instead::Other(Box::new(label))));
    };
    if of != pool {
        return Ok(Instead::Other(Box::new(Label::decode(&found.body)?)));
    }
    match bucket.put(&label_key(pool), found.body.clone(), When::Absent, Cause::Label).await? {
        Put::Stored(_) => {}
        Put::Unknown(error) => return Err(error),
        Put::Refused => {
            let why = "its label was brought to its new key by another: look again";
            return Err(Error::new(Kind::Unavailable, why));
        }
    }
    // Where it stays, it is read no more.
    let _ = bucket.delete_same(&[(LABEL_BEFORE.to_owned(), found.head.etag)], Cause::Label).await;
    Ok(Instead::Brought(found.body))
}

/// A label from before its key had the pool's id, and whose it is.
async fn label_of_before(bucket: &BucketRef) -> Result<Option<(PoolId, windlass_store::Found)>> {
    let range = ByteRange::Whole { max: LABEL_MAX };
    let found = bucket.get(LABEL_BEFORE, range, Cause::Label).await?;
    Ok(found.and_then(|found| Some((Label::pool_in(&found.body)?, found))))
}

/// The label of whatever pool is there. Of several, one of which the store has the description: the others were never finished.
async fn any_label(rt: &Rt, store: &PoolStore, key: Option<&PoolKey>) -> Result<Option<Label>> {
    let pools = in_time(rt, pools_in(&store.bucket)).await?;
    let Some(mut chosen) = pools.first().copied() else {
        let before = in_time(rt, label_of_before(&store.bucket)).await?;
        return before.map(|(_, found)| Label::read(&found.body, key)).transpose();
    };
    if pools.len() > 1 {
        for pool in &pools {
            let description = register_key(PoolConfig::register(*pool));
            if in_time(rt, store.bucket.head(&description, Cause::Label)).await?.is_some() {
                chosen = *pool;
                break;
            }
        }
    }
    in_time(rt, labelled(store, chosen, key)).await
}

/// What a store says about itself when a pool is opened.
#[derive(Debug)]
pub enum Found {
    Label(Box<Label>),
    /// No label, or not one of ours. `Refused`: one of a pool whose key is not here, or of another pool than is meant.
    Other(Error),
    Silent(Error),
}

impl Found {
    pub fn label(&self) -> Option<&Label> {
        if let Found::Label(label) = self { Some(label) } else { None }
    }
}

/// What a store says about itself. `pool`: the one that is meant; a store of another pool is none of its own.
pub async fn read_label(rt: &Rt, store: &PoolStore, key: Option<&PoolKey>, pool: Option<PoolId>) -> Found {
    let label = async {
        let own = match pool {
            Some(pool) => in_time(rt, labelled(store, pool, key)).await?,
            None => None,
        };
        if own.is_some() {
            return Ok(own);
        }
        any_label(rt, store, key).await
    };
    found(label.await, pool)
}

/// Of this pool.
pub async fn read_own_label(rt: &Rt, store: &PoolStore, pool: PoolId, key: Option<&PoolKey>) -> Found {
    found(in_time(rt, labelled(store, pool, key)).await, Some(pool))
}

async fn in_time<T: Send>(rt: &Rt, answer: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let late = || Err(Error::new(Kind::Timeout, "it does not answer"));
    rt.timeout(LABEL_WAIT, answer).await.unwrap_or_else(late)
}

fn found(label: Result<Option<Label>>, pool: Option<PoolId>) -> Found {
    match label {
        Ok(Some(label)) if label.hint.check().is_ok() && label.hint.pool == label.pool => {
            match pool.filter(|pool| *pool != label.pool) {
                Some(pool) => Found::Other(another_pool(&label, pool)),
                None => Found::Label(Box::new(label)),
            }
        }
        Ok(Some(_)) => Found::Other(Error::new(Kind::Invalid, "its label is malformed")),
        Ok(None) => Found::Other(Error::new(Kind::NotFound, "it has no label")),
        Err(e) if matches!(e.kind(), Kind::Invalid | Kind::Unsupported | Kind::Refused) => Found::Other(e),
        Err(e) => Found::Silent(e),
    }
}

/// Why a store of another pool is none of this one's (`Refused`: it is said by name, and is no store that is away).
fn another_pool(label: &Label, pool: PoolId) -> Error {
    let (name, other) = (&label.hint.name, label.pool);
    let why = format!(
        "it is a store of another pool, {name} ({other}), and this host knows pool {pool} there: were mount points, buckets or \
         endpoints exchanged? Put them right. If the other one is meant, `windlass pool forget` the pool and `windlass pool add` it"
    );
    Error::new(Kind::Refused, why)
}

/// What each store says about itself. When those that answer are enough to open their pool, the others have a moment more and
/// then count as silent: one that hangs must not hold up who opens the pool.
pub async fn read_labels(host: &PoolHost, stores: &[PoolStore]) -> Vec<Found> {
    let (rt, key, pool) = (&host.rt, host.key.as_ref(), host.pool);
    let begun = rt.now();
    let reads = stores
        .iter()
        .enumerate()
        .map(|(at, store)| async move { (at, read_label(rt, store, key, pool).await) });
    let mut reads: FuturesUnordered<_> = reads.collect();
    let late = || Found::Silent(Error::new(Kind::Timeout, "it does not answer"));
    let mut labels: Vec<Found> = stores.iter().map(|_| late()).collect();
    let mut answered = 0;
    while answered < stores.len() && !opens(&labels, stores.len() - answered) {
        let Some((at, label)) = reads.next().await else { break };
        labels[at] = label;
        answered += 1;
    }
    if answered == stores.len() {
        return labels;
    }
    let rest = async {
        while let Some((at, label)) = reads.next().await {
            labels[at] = label;
        }
    };
    // Whether the others came in time or not, what is there is used.
    let _ = rt.timeout(rt.now().since(begun).max(LABEL_HEDGE), rest).await;
    labels
}

/// Whether the stores that have shown their labels are enough to open their pool without waiting for those that have not.
///
/// More than m that hold registers must be among them: a recovery by force (`force-recover`) that none of those has
/// heard of gave up every one of them, and with so many the data. Or all that hold registers: one at least is left by
/// each recovery. With fewer, who could tell of such a recovery is waited for.
fn opens(labels: &[Found], waiting: usize) -> bool {
    let known: Vec<&Label> = labels.iter().filter_map(Found::label).collect();
    let Some(newest) = known.iter().max_by_key(|label| label.hint.generation) else { return false };
    let config = &newest.hint;
    let of = |label: &&&Label| {
        let listed = config.stores.get(label.index).map(|entry| entry.incarnation);
        label.pool == config.pool && listed == Some(label.incarnation) && !label.destroyed
    };
    let listed: BTreeSet<usize> = known.iter().filter(of).map(|label| label.index).collect();
    let deciding = config.acceptors.iter().filter(|index| listed.contains(index)).count();
    let (m, all) = (config.layout.m(), config.stores.len());
    let alone = config.before.is_none() && known.iter().all(|label| label.pool == config.pool);
    let acceptors = config.acceptors.len();
    let decides = deciding == acceptors || deciding > m.max(acceptors / 2);
    alone && decides && listed.len() + m >= all && waiting <= m
}

/// Refuses a pool whose stores say that it is being destroyed, unless the others are more: hosts go on with these until then, and
/// one that starts anew must find what it has stored there. Such a store is out for every host all the same.
pub fn refuse_destroyed(labels: &[Found]) -> Result<()> {
    let (condemned, others): (Vec<&Label>, Vec<&Label>) =
        labels.iter().filter_map(Found::label).partition(|label| label.destroyed);
    match condemned.first() {
        Some(label) if condemned.len() >= others.len() => Err(being_destroyed(&label.hint.name)),
        _ => Ok(()),
    }
}

/// What is said of a pool whose destruction was begun.
pub fn being_destroyed(pool: &Name) -> Error {
    let why = format!(
        "pool {pool} is being destroyed: `windlass pool destroy {pool} --yes-destroy {pool}` finishes that"
    );
    Error::new(Kind::Refused, why)
}

/// The newest description of the pool that most stores belong to.
pub fn best_hint(stores: &[PoolStore], labels: &[Found]) -> Result<PoolConfig> {
    hints(stores, labels).map(|hints| hints[0].clone())
}

/// The descriptions of the pool that most stores belong to, as their labels have them: each once, the newest first. One at
/// least.
pub fn hints(stores: &[PoolStore], labels: &[Found]) -> Result<Vec<PoolConfig>> {
    let known = || labels.iter().filter_map(Found::label);
    let is_locked = |label: &&Found| matches!(label, Found::Other(e) if e.is(Kind::Refused));
    // One store alone must not keep a pool closed that has no key.
    if let Some(Found::Other(e)) = labels.iter().find(is_locked)
        && labels.iter().filter(is_locked).count() >= known().count()
    {
        return Err(e.share());
    }
    let votes = |pool: PoolId| known().filter(|l| l.pool == pool).count();
    let best = known().max_by_key(|l| (votes(l.pool), l.hint.generation, std::cmp::Reverse(l.index)));
    if let Some(best) = best {
        if known().any(|l| l.pool != best.pool && votes(l.pool) == votes(best.pool)) {
            return Err(Error::new(
                Kind::Refused,
                "the stores are of different pools: give the stores of one",
            ));
        }
        let mut all: Vec<&Label> = known().filter(|l| l.pool == best.pool).collect();
        all.sort_by_key(|l| (std::cmp::Reverse(l.hint.generation), l.index));
        let mut hints: Vec<PoolConfig> = Vec::new();
        for label in all {
            if !hints.contains(&label.hint) {
                hints.push(label.hint.clone());
            }
        }
        return Ok(hints);
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

/// Whether a label says that its store is the one which the pool lists at this index.
fn is_of(label: &Found, config: &PoolConfig, index: usize) -> bool {
    matches!(label, Found::Label(l) if l.pool == config.pool && l.index == index
        && l.incarnation == config.stores[index].incarnation)
}

/// For each place in the pool, which of the given stores is meant: by label and URL, by label, by URL, by what is left over.
pub fn seat(config: &PoolConfig, stores: &[PoolStore], labels: &[Found]) -> Result<Vec<Option<usize>>> {
    let says = |place: usize, store: usize| is_of(&labels[store], config, place);
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

/// Where each of the pool's stores is, and why others can't be opened: those that nobody named here are opened as the pool
/// lists them.
pub fn find<'f>(
    host: &'f PoolHost,
    config: &'f PoolConfig,
    stores: &'f mut Vec<PoolStore>,
    labels: &'f mut Vec<Found>,
) -> BoxFuture<'f, Result<(Vec<Option<usize>>, Vec<String>)>> {
    Box::pin(async move {
        let seats = seat(config, stores, labels)?;
        let mut why = Vec::new();
        for (index, entry) in config.stores.iter().enumerate() {
            // One that has another label than the listed one, or shows none, is only what was left over: a store that was
            // replaced, perhaps.
            let settled = seats[index].is_some_and(|at| is_of(&labels[at], config, index));
            if settled || stores.iter().any(|s| s.url == entry.url) {
                continue;
            }
            match host.opener.open(&entry.url).await {
                Ok(bucket) => {
                    let spec = PoolStore { url: entry.url.clone(), zone: entry.zone.clone(), bucket };
                    labels.push(read_label(&host.rt, &spec, host.key.as_ref(), host.pool).await);
                    stores.push(spec);
                }
                Err(e) => {
                    tracing::warn!("store {} can't be reached from this host: {e}", entry.url);
                    why.push(format!("{}: {e}", entry.url));
                }
            }
        }
        Ok((seat(config, stores, labels)?, why))
    })
}

/// Those of a pool that is to be opened.
pub async fn find_all(
    host: &PoolHost,
    config: &PoolConfig,
    stores: &mut Vec<PoolStore>,
    labels: &mut Vec<Found>,
) -> Result<Vec<Option<usize>>> {
    let (seats, why) = find(host, config, stores, labels).await?;
    let known = config.acceptors.iter().filter(|i| seats[**i].is_some()).count();
    let needed = config.acceptors.len() / 2 + 1;
    if known < needed {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "too few stores of pool {} can be found from those that are given: give --store for each of its {} ({})",
                config.name,
                config.stores.len(),
                why.join("; ")
            ),
        ));
    }
    Ok(seats)
}
