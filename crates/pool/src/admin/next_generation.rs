//! A plan for the pool's next generation: new stores are labelled, then the pool register is sealed (protocol §2.8;
//! model `next_generation`).
//!
//! Several may be made at once, for the same stores: by two hosts, or by one that goes on where another was killed. What a
//! killed one left behind must be put over, and what a slow one is about to seal, or has sealed, must never be: what is
//! acknowledged on a store whose label is lost, is lost. Steps, in this order:
//!
//! 1. *judge*: each new store's label is looked at: there is none, or one that the pool doesn't list.
//! 2. *register*: a CAS makes this the pool's plan, if the stores listed are still those that were judged by.
//! 3. *label*: a fresh incarnation, put once on each new store over exactly what was judged, and seen by a get.
//! 4. *seal*: the pool's next generation, if this is still the pool's plan.
//!
//! So whatever a plan puts its labels over was put by plans which its registration ended: no seal will ever list it. And what
//! is put later, by a plan registered since, is not what was judged: the put is refused.
//!
//! It doesn't say which stores are to be others; nor does it bring what belongs on them (`replace`, `recover`).

use bytes::Bytes;
use futures::future::BoxFuture;

use super::handle::Pool;
use crate::register::Change;
use crate::stores::PoolConfig;
use crate::stores::PoolStore;
use crate::stores::labelled;
use crate::stores::{Instead, instead_of_label};
use crate::stores::{LABELS, Label, label_key};
use crate::stores::{Named, PROBES, parse};
use windlass_base::{Error, Kind, Nonce, PoolId, Result};
use windlass_store::{Cause, ConditionalPuts, List, Put, When};

/// A look at so many objects tells whether a place is empty.
const LIST_PAGE: usize = 1000;

/// A store that may be labelled for its place in the pool, as long as it is as it was judged.
#[derive(Debug)]
pub struct Place {
    store: PoolStore,
    index: usize,
    /// What its label may be put over.
    when: When,
    /// How it was found to keep the conditions of writes.
    conditions: ConditionalPuts,
}

impl Place {
    pub(super) fn store(&self) -> &PoolStore {
        &self.store
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn conditions(&self) -> ConditionalPuts {
        self.conditions
    }

    /// Nothing of the pool's was there.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.when, When::Absent)
    }
}

/// From one generation to the next. See the module.
#[derive(Debug)]
pub struct Plan<'a> {
    /// By which the places were judged.
    pub now: &'a PoolConfig,
    /// Lists an incarnation for each of the places that nobody has used yet.
    pub next: &'a PoolConfig,
    /// What the new labels tell those who know nothing.
    pub hint: &'a PoolConfig,
    pub places: Vec<Place>,
}

impl Pool {
    /// Looks whether this store may be taken in. `None`: the listed store is there, nothing is to be replaced.
    /// Errors: `Refused` (it is another's, or not empty), and what the store says. Changes nothing but what tells whether
    /// the store keeps its promises.
    pub(crate) async fn judge(
        &self,
        new: &PoolStore,
        index: usize,
        now: &PoolConfig,
    ) -> Result<Option<Place>> {
        // First the etag: what is there later, whoever put it, is not what was judged.
        let key = label_key(self.id());
        let mut found = new.bucket.head(&key, Cause::Label).await?;
        // The pool's own, under the key of before.
        if found.is_none()
            && let Ok(Instead::Brought(_)) = instead_of_label(&new.bucket, self.id()).await
        {
            found = new.bucket.head(&key, Cause::Label).await?;
        }
        let label = labelled(new, self.id(), self.key()).await?;
        let when = match (found, label) {
            (Some(head), Some(label)) if label.pool == self.id() && label.index == index => {
                if label.incarnation == now.stores[index].incarnation {
                    if now.stores[index].url == new.url {
                        return Ok(None);
                    }
                    let text = format!("store {} is the one to be replaced, under another name", new.url);
                    return Err(Error::new(Kind::Refused, text));
                }
                // Left by a plan that came to nothing, or will once this one is registered; its incarnation may not be
                // used by us.
                When::Matches(head.etag)
            }
            (Some(_), _) => {
                let text = format!("store {} belongs to a pool, or is not empty: give an empty one", new.url);
                return Err(Error::new(Kind::Refused, text));
            }
            (None, _) => {
                check_free(new, self.id(), now.stores[index].url == new.url).await?;
                When::Absent
            }
        };
        let trial = self.context().roster().trial();
        let fitness = windlass_store::probe_fitness(self.rt(), &*new.bucket, PROBES, trial).await?;
        if let Some(why) = &fitness.why {
            tracing::warn!(store = %new.url, "it is taken for data only, since it can't hold registers: {why}");
        }
        if let Some(server) = new.bucket.server() {
            self.context().proven_servers().add(&new.url, &server).await;
        }
        Ok(Some(Place { store: new.clone(), index, when, conditions: fitness.conditions }))
    }

    /// Makes the plan's next generation the pool's. False: another plan was first; what this one put on its places lists
    /// nobody. Errors: `Owned` (a place was labelled by another meanwhile), `Unavailable`.
    pub(crate) async fn carry_out(&self, plan: &Plan<'_>) -> Result<bool> {
        match self.begin(plan).await? {
            Some(nonce) => self.seal(plan, nonce).await,
            None => Ok(false),
        }
    }

    /// All but the seal, which needs the nonce that is returned.
    pub(super) async fn begin(&self, plan: &Plan<'_>) -> Result<Option<Nonce>> {
        let nonce = Nonce(self.rt().random128());
        if !self.register_plan(plan.now, nonce).await? {
            return Ok(None);
        }
        for place in &plan.places {
            self.put_first_label(place, plan).await?;
        }
        Ok(Some(nonce))
    }

    /// From now on no plan that was registered before seals this generation. False: it is sealed already.
    pub(crate) async fn register_plan(&self, now: &PoolConfig, plan: Nonce) -> Result<bool> {
        let step = |current: Option<&Bytes>| {
            let mut current = decode(current)?;
            if !is_same(&current, now) {
                return Ok(Change::Keep(false));
            }
            Ok(match current.plan.replace(plan) == Some(plan) {
                true => Change::Keep(true),
                false => Change::Put(current.encode(), true),
            })
        };
        self.register(PoolConfig::register(self.id())).change(step).await
    }

    pub(crate) async fn put_first_label(&self, place: &Place, plan: &Plan<'_>) -> Result<()> {
        let Place { store, index, when, conditions } = place;
        let label = Label::new(self.id(), *index, plan.next.stores[*index].incarnation, plan.hint.clone());
        let (key, bytes) = (label_key(self.id()), label.encode(self.key()));
        let mut when = when.clone();
        if !conditions.are_held() {
            // A look is all that such a store has. One that puts between the look and the put is put over: its store is out then,
            // and is read all the same, until it is taken in anew (protocol §2.15).
            let there = store.bucket.head(&key, Cause::Label).await?.map(|head| head.etag);
            let is_judged = match &when {
                When::Matches(etag) => there.as_ref() == Some(etag),
                When::Absent | When::Always => there.is_none(),
            };
            if !is_judged {
                return Err(taken(store));
            }
            when = When::Always;
        }
        let put = store.bucket.put(&key, bytes, when, Cause::Label).await?;
        match labelled(store, self.id(), self.key()).await? {
            Some(seen) if seen.incarnation == label.incarnation => {
                let alone = check_alone(store, self.id()).await;
                if let (Err(_), Put::Stored(etag)) = (&alone, put)
                    && let Err(e) = store.bucket.delete_same(&[(key, etag)], Cause::Label).await
                {
                    tracing::warn!("store {} keeps a label of pool {}: {e}", store.url, plan.now.name);
                }
                alone
            }
            _ => Err(match put {
                Put::Unknown(e) => e,
                _ => taken(store),
            }),
        }
    }

    /// False: another plan was first, or was registered since.
    pub(crate) async fn seal(&self, plan: &Plan<'_>, nonce: Nonce) -> Result<bool> {
        let register = self.register(PoolConfig::register(self.id()));
        register
            .seal(|current| {
                let current = decode(current)?;
                let Plan { now, next, .. } = plan;
                if current.generation == next.generation && current.stores == next.stores {
                    return Ok(Change::Keep(true));
                }
                if !is_same(&current, now) || current.plan != Some(nonce) {
                    return Ok(Change::Keep(false));
                }
                // PoolSettings may have been changed since they were read.
                let mut next = PoolConfig::clone(next);
                next.settings = current.settings;
                Ok(Change::Put(next.encode(), true))
            })
            .await
    }
}

fn decode(current: Option<&Bytes>) -> Result<PoolConfig> {
    PoolConfig::decode(current.map(|b| b.as_ref()).unwrap_or_default())
}

/// The same generation, as far along.
fn is_same(current: &PoolConfig, now: &PoolConfig) -> bool {
    current.generation == now.generation && current.before == now.before
}

/// Nothing is there but what a check of its promises left behind, or (`own`: where the pool's store was) only what the pool
/// itself put there before or since.
pub fn check_free<'f>(store: &'f PoolStore, pool: PoolId, own: bool) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        let list = List { max: LIST_PAGE, ..List::default() };
        let page = store.bucket.list_some(&list, Cause::Probe).await?;
        let foreign = |key: &str| match parse(key) {
            Named::Label(of) => !own || of != pool,
            Named::Foreign => true,
            _ => !own && !key.starts_with(PROBES),
        };
        match page.objects.iter().find(|o| foreign(&o.key)) {
            None => Ok(()),
            // Not so a moment ago.
            Some(_) if page.objects.iter().any(|o| o.key == label_key(pool)) => Err(taken(store)),
            Some(object) => Err(Error::new(
                Kind::Refused,
                format!("store {} is not empty (it has {}): choose an empty place", store.url, object.key),
            )),
        }
    })
}

/// Looks for labels of other pools once this pool's label is there. Two pools that take a place at the same moment both found
/// it empty. Each has put its label before it looks, so that at least the later one sees the other.
pub async fn check_alone(store: &PoolStore, pool: PoolId) -> Result<()> {
    match other_label(store, pool).await? {
        None => Ok(()),
        Some(key) => Err(Error::new(
            Kind::Refused,
            format!(
                "store {} was taken by another pool at the same moment (it has {key}): choose an empty place, or try again",
                store.url
            ),
        )),
    }
}

/// Returns the key of another pool's label in the store's place, if there is one.
pub fn other_label<'f>(store: &'f PoolStore, pool: PoolId) -> BoxFuture<'f, Result<Option<String>>> {
    Box::pin(async move {
        // Labels alone: what the other pool has stored by now comes before them.
        let list = List { prefix: LABELS.to_owned(), max: LIST_PAGE, ..List::default() };
        let page = store.bucket.list_some(&list, Cause::Label).await?;
        let is_other = |key: &str| matches!(parse(key), Named::Label(of) if of != pool);
        Ok(page.objects.into_iter().map(|object| object.key).find(|key| is_other(key)))
    })
}

fn taken(store: &PoolStore) -> Error {
    Error::new(Kind::Owned, format!("store {} was taken by another: try again", store.url))
}
