//! Where a pool's stores may be: apart from each other and from every other pool's. A pool takes all that lies in its stores
//! for its own or for foreign, and moves aside what is foreign: a store inside another would be taken apart.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;

use super::state_dir::{HostContext, KnownPool};
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{LABEL_BEFORE, LABEL_MAX, LABELS, Label, pool_of_label};
use windlass_store::{ByteRange, Cause, List, StoreSpec, StoreUrl};

/// Most places above a new store in which a pool's label is looked for; the nearest ones count.
const ABOVE_MAX: usize = 32;
/// Most names that are looked at since they may be a label's.
const LABELS_MAX: usize = 8;
/// Longest time for which a label is looked for. A place that does not answer by then is passed over, as is one that
/// this user may not read.
const LOOK: Duration = Duration::from_secs(5);

/// Returns the store of a known pool that overlaps this place.
pub fn overlapped(known: &[KnownPool], place: &StoreUrl) -> Option<(StoreUrl, Name)> {
    each_store(known).find(|(store, _)| store.overlaps(place)).map(|(store, pool)| (store, pool.clone()))
}

fn each_store(known: &[KnownPool]) -> impl Iterator<Item = (StoreUrl, &Name)> {
    let stores = |pool: &'_ KnownPool| -> Vec<StoreUrl> {
        pool.stores.iter().filter_map(|s| Some(s.parse::<StoreSpec>().ok()?.url)).collect()
    };
    known.iter().flat_map(move |pool| stores(pool).into_iter().map(move |store| (store, &pool.name)))
}

/// Returns the label of the store that this folder is, if it is one.
pub async fn label_in(host_context: &HostContext, dir: &Path) -> Option<Label> {
    let max = usize::try_from(LABEL_MAX).ok()?;
    let names = host_context.disk.list(dir).await.ok()?;
    let name = names.into_iter().find(|name| pool_of_label(name).is_some() || name == LABEL_BEFORE)?;
    let bytes = host_context.disk.read(&dir.join(name), max).await.ok()?;
    Label::decode(&bytes).ok()
}

/// Returns the label of the store at any place. Most places have none, and what can't be read tells nothing.
async fn label_at(host_context: &HostContext, place: &StoreUrl) -> Option<Label> {
    if let StoreUrl::File { dir } = place {
        return label_in(host_context, dir).await;
    }
    let look = async {
        let bucket = windlass_store::open(&host_context.rt, place).await.ok()?;
        let list = List { prefix: LABELS.to_owned(), max: LABELS_MAX, ..List::default() };
        let page = bucket.list(&list, Cause::Label).await.ok()?;
        let key = page.objects.into_iter().map(|object| object.key).find(|key| pool_of_label(key).is_some());
        let key = key.unwrap_or_else(|| LABEL_BEFORE.to_owned());
        bucket.get(&key, ByteRange::Whole { max: LABEL_MAX }, Cause::Label).await.ok()?
    };
    let found = host_context.rt.timeout(LOOK, look).await??;
    Label::decode(&found.body).ok()
}

/// Refuses new stores that overlap one another or a store of a pool that this host knows, or that lie in one that
/// shows its label. `of` is the pool that they are to join; a store that it lists already is not new, and not judged
/// here.
pub async fn check_new(
    host_context: &HostContext,
    known: &[KnownPool],
    of: &Name,
    new: &[StoreUrl],
) -> Result<()> {
    for (at, place) in new.iter().enumerate() {
        if let Some(other) = new[..at].iter().find(|other| other.overlaps(place)) {
            let why = match other == place {
                true => format!("store {place} is given twice: give each store once"),
                false => format!("stores {other} and {place} overlap: give each a place of its own"),
            };
            return Err(Error::new(Kind::Usage, why));
        }
    }
    for place in new {
        if each_store(known).any(|(store, pool)| pool == of && store == *place) {
            continue;
        }
        if let Some((store, pool)) = overlapped(known, place) {
            let why = format!(
                "{place} overlaps the store {store} of pool {pool}: one would take the other apart. Choose an empty place \
                 beside it (`windlass pool forget {pool}` if that pool is no more)"
            );
            return Err(Error::new(Kind::Refused, why));
        }
        check_above(host_context, place).await?;
    }
    Ok(())
}

/// Refuses a place that lies in a store of some pool, also of one that this host does not know: the labels above it
/// tell.
async fn check_above(host_context: &HostContext, place: &StoreUrl) -> Result<()> {
    let mut above = place.above();
    above.truncate(ABOVE_MAX);
    let labels = join_all(above.iter().map(|place| label_at(host_context, place))).await;
    for (store, label) in above.iter().zip(labels) {
        if let Some(label) = label {
            let why = format!(
                "{place} lies in {store}, which by its label is a store of pool {}: that pool would take it apart. Choose \
                 an empty place beside it",
                label.hint.name
            );
            return Err(Error::new(Kind::Refused, why));
        }
    }
    Ok(())
}
