//! What one request after another shows. Some servers accept conditions and ignore them, send whole objects for a part,
//! or make an etag of an object's size and the second in which it was written.

use super::outcome::Promise;
use super::trial::Trial;
use crate::{ByteRange, Cause, When};
use windlass_base::Result;

/// Writes one after another, so that two at least come within one second.
const ETAGS: usize = 4;

/// How the promise is broken, if it is. An error `Refused` says that too.
pub(super) async fn broken(trial: &Trial<'_>, promise: Promise) -> Result<Option<&'static str>> {
    match promise {
        Promise::Creates => creates(trial).await,
        Promise::Replaces => replaces(trial).await,
        Promise::RefusesStale => refuses_stale(trial).await,
        Promise::RefusesMissing => refuses_missing(trial).await,
        Promise::Etags => etags(trial).await,
        Promise::Reads => reads(trial).await,
        Promise::Ranges => ranges(trial).await,
        Promise::Describes => describes(trial).await,
    }
}

async fn creates(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let key = trial.fresh_key();
    trial.make(&key, &trial.body()).await?;
    let again = trial.put(&key, &trial.body(), When::Absent).await?;
    Ok(again.map(|_| "it overwrites an object although the write asked for none to be there"))
}

async fn replaces(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let key = trial.fresh_key();
    let etag = trial.make(&key, &trial.body()).await?;
    trial.replace(&key, etag, &trial.body()).await.map(|_| None)
}

async fn refuses_stale(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let key = trial.fresh_key();
    let old = trial.make(&key, &trial.body()).await?;
    trial.replace(&key, old.clone(), &trial.body()).await?;
    let stale = trial.put(&key, &trial.body(), When::Matches(old)).await?;
    Ok(stale.map(|_| "it overwrites an object although the write named another version of it"))
}

async fn refuses_missing(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let etag = trial.make(&trial.fresh_key(), &trial.body()).await?;
    let put = trial.put(&trial.fresh_key(), &trial.body(), When::Matches(etag)).await?;
    Ok(put.map(|_| "it writes where no object is although the write named a version of it"))
}

async fn etags(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let key = trial.fresh_key();
    let mut known = vec![trial.make(&key, &trial.body()).await?];
    for _ in 1..ETAGS {
        let last = known[known.len() - 1].clone();
        let next = trial.replace(&key, last, &trial.body()).await?;
        if known.contains(&next) {
            return Ok(Some(
                "two different contents of an object that have one size and were written within a second have the same etag",
            ));
        }
        known.push(next);
    }
    Ok(None)
}

async fn reads(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let key = trial.fresh_key();
    let shows = async |wanted: &bytes::Bytes| {
        let found = trial.bucket.get(&key, ByteRange::Whole { max: 1 << 20 }, Cause::Probe).await?;
        Ok::<_, windlass_base::Error>(found.is_some_and(|found| found.body == *wanted && found.offset == 0))
    };
    let (first, second) = (trial.body(), trial.body());
    trial.write(&key, &first).await?;
    let shown = shows(&first).await?;
    trial.write(&key, &second).await?;
    let shown = shown && shows(&second).await?;
    Ok((!shown).then_some("a read right after a write does not show it"))
}

async fn ranges(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (key, body) = (trial.fresh_key(), trial.body());
    trial.write(&key, &body).await?;
    let (size, last) = (body.len(), 7);
    for (range, from, to, how) in [
        (ByteRange::At { offset: 9, len: 5 }, 9, 14, "a read of a range gives other bytes"),
        (ByteRange::Last(7), size - last, size, "a read of the last bytes gives others"),
    ] {
        let found = trial.bucket.get(&key, range, Cause::Probe).await?;
        let holds = found.is_some_and(|f| {
            f.body == body[from..to] && f.offset == from as u64 && f.head.size == size as u64
        });
        if !holds {
            return Ok(Some(how));
        }
    }
    Ok(None)
}

async fn describes(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (key, body) = (trial.fresh_key(), trial.body());
    let etag = trial.write(&key, &body).await?;
    let head = trial.bucket.head(&key, Cause::Probe).await?;
    let holds = head.is_some_and(|head| head.etag == etag && head.size == body.len() as u64);
    Ok((!holds).then_some("an object's description does not match what was written"))
}
