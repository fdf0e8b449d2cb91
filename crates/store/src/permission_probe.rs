//! What credentials may do with a store, found out by doing it with an object of our own. It is removed again where they may
//! delete.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Bucket, ByteRange, Cause, List, Put, StoreUrl, When, open};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

const BODY: &[u8] = b"windlass doctor looks what it may do here";
/// Longest time for which an answer to somebody without credentials is waited for.
const LOOK: Duration = Duration::from_secs(10);

/// A right that a pool or a mount needs, by what it does with objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Right {
    List,
    Put,
    Head,
    Get,
    Delete,
}

/// One right, tried.
#[derive(Debug)]
pub struct TriedRight {
    pub right: Right,
    pub outcome: Result<()>,
}

/// Tries each right below `prefix`: to list first, and when the store does not answer that, nothing else; to read only
/// what could be written.
///
/// Whether objects may be deleted is tried before one is written, with a key that has none. So without that right at most one object is
/// left behind, however often this runs.
pub fn try_rights<'f>(rt: &'f Rt, bucket: &'f dyn Bucket, prefix: &'f str) -> BoxFuture<'f, Vec<TriedRight>> {
    Box::pin(async move {
        let list = List { prefix: prefix.to_owned(), max: 1, ..List::default() };
        let mut tried = Vec::new();
        let mut note = |right, outcome| tried.push(TriedRight { right, outcome });
        let listed = bucket.list(&list, Cause::Probe).await.map(drop);
        let silent = listed.as_ref().is_err_and(Error::is_transient);
        note(Right::List, listed);
        if silent {
            return tried;
        }
        let fresh = format!("{prefix}windlass-doctor-{:032x}", rt.random128());
        let deletes = bucket.delete(std::slice::from_ref(&fresh), Cause::Probe).await;
        let key = if deletes.is_ok() { fresh } else { format!("{prefix}windlass-doctor-kept") };
        let put = stored(bucket.put(&key, Bytes::from_static(BODY), When::Always, Cause::Probe).await);
        if put.is_ok() {
            let size = BODY.len() as u64;
            let head = bucket.head(&key, Cause::Probe).await;
            note(Right::Head, head.and_then(|head| same(head.is_some_and(|head| head.size == size))));
            let got = bucket.get(&key, ByteRange::Whole { max: 4 * size }, Cause::Probe).await;
            note(Right::Get, got.and_then(|found| same(found.is_some_and(|found| found.body == BODY))));
        }
        note(Right::Put, put);
        let deletes = match deletes {
            Ok(()) => bucket.delete(std::slice::from_ref(&key), Cause::Probe).await,
            denied => denied,
        };
        note(Right::Delete, deletes);
        tried.sort_by_key(|one| one.right);
        tried
    })
}

fn stored(put: Result<Put>) -> Result<()> {
    match put? {
        Put::Stored(_) => Ok(()),
        Put::Refused => {
            Err(Error::new(Kind::Refused, "a put without a condition was refused as if it had one"))
        }
        Put::Unknown(e) => Err(e),
    }
}

fn same(yes: bool) -> Result<()> {
    match yes {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Corrupt, "an object that was just put is not there, or is another one"))
        }
    }
}

/// Tells whether somebody without credentials may list the store, or read this object of it; `None` when that can't be told.
pub fn is_public<'f>(rt: &'f Rt, url: &'f StoreUrl, key: &'f str) -> BoxFuture<'f, Option<bool>> {
    Box::pin(async move {
        let StoreUrl::S3(place) = url else { return None };
        if place.anonymous == Some(true) {
            return None;
        }
        let mut place = place.clone();
        (place.anonymous, place.passwd_file, place.profile, place.sse) = (Some(true), None, None, None);
        let look = async {
            let bucket = open(rt, &StoreUrl::S3(place)).await.ok()?;
            let list = List { max: 1, ..List::default() };
            match bucket.list(&list, Cause::Probe).await {
                Ok(_) => return Some(true),
                Err(e) if !e.is(Kind::Denied) => return None,
                Err(_) => {}
            }
            match bucket.head(key, Cause::Probe).await {
                Ok(found) => Some(found.is_some()),
                Err(e) => e.is(Kind::Denied).then_some(false),
            }
        };
        rt.timeout(LOOK, look).await.flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reach, SimStore, Store as _};
    use windlass_base::rt::sim::Sim;

    #[test]
    fn each_right_is_tried_and_nothing_is_left() {
        let sim = Sim::new(5);
        let (rt, store) = (sim.rt(), SimStore::new(&sim, "s"));
        sim.run(async move {
            let tried = try_rights(&rt, &*store, "probe/").await;
            let rights: Vec<Right> = tried.iter().map(|one| one.right).collect();
            assert_eq!(rights, [Right::List, Right::Put, Right::Head, Right::Get, Right::Delete]);
            assert!(tried.iter().all(|one| one.outcome.is_ok()), "{tried:?}");
            let list = List { max: 9, ..List::default() };
            assert!(store.list(&list, Cause::Probe).await.unwrap().objects.is_empty());
            store.faults(|f| f.reach = Reach::Denies);
            let tried = try_rights(&rt, &*store, "probe/").await;
            assert!(tried.iter().all(|one| one.outcome.as_ref().is_err_and(|e| e.is(Kind::Denied))));
            assert_eq!(tried.len(), 3);
            store.faults(|f| f.reach = Reach::Refuses);
            assert_eq!(try_rights(&rt, &*store, "probe/").await.len(), 1);
        })
        .unwrap();
    }
}
