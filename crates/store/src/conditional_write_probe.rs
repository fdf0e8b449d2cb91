//! Whether a store heeds the conditions of writes. Some take a condition and ignore it; some refuse every request that
//! has one. A pool can't stand on such a store (`probe`); a mount can, if it looks before it writes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Attrs, Bucket, ByteRange, Cause, Etag, Put, When};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// A store's way with the condition of a write. The greater, the less is heeded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Heeds {
    #[default]
    Yes,
    /// The write happens whether its condition holds or not.
    Ignores,
    /// The write fails because it has a condition.
    Refuses,
}

/// A store's way with the conditions of each kind of write.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Conditions {
    pub puts: Heeds,
    /// Conditions on what a copy replaces.
    pub copies: Heeds,
    /// Conditions on what a copy is made of.
    pub sources: Heeds,
    /// Conditions at the end of an upload in parts.
    pub completions: Heeds,
}

impl Conditions {
    pub fn all(heeds: Heeds) -> Conditions {
        Conditions { puts: heeds, copies: heeds, sources: heeds, completions: heeds }
    }

    /// Describes what is done instead, for the store's user; none where all conditions are heeded.
    pub fn told(&self, url: &str) -> Option<String> {
        let verbs = [
            (self.puts, "puts"),
            (self.copies.max(self.sources), "copies"),
            (self.completions, "uploads in parts"),
        ];
        let not: Vec<&str> =
            verbs.iter().filter(|(heeds, _)| *heeds != Heeds::Yes).map(|(_, verb)| *verb).collect();
        (!not.is_empty()).then(|| {
            format!(
                "{url} does not heed the conditions of {}: an object is looked at just before it is replaced instead, so \
                 what another client stores between the two is overwritten without a word; let one mount write a file, or \
                 use a store that does",
                not.join(" and ")
            )
        })
    }
}

/// Tries each kind of write on objects of its own, whose names begin with `prefix`. They are removed again, as far as
/// the credentials may. `Denied`: these may not put objects. A kind that they may not try counts as not heeded. `Refused`:
/// the store gives no parts of objects, so nothing can be read by a mount.
pub async fn conditions(rt: &Rt, bucket: &dyn Bucket, prefix: &str) -> Result<Conditions> {
    let stem = format!("{prefix}windlass-probe-{:032x}", rt.random128());
    let keys = [format!("{stem}-1"), format!("{stem}-2")];
    let out = tried(bucket, &keys[0], &keys[1]).await;
    if let Err(why) = bucket.delete(&keys, Cause::Probe).await {
        tracing::warn!(%why, ?keys, "the objects with which conditional writes were tried could not be removed from {}", bucket.url());
    }
    out.map_err(|e| e.context(format_args!("trying conditional writes on {}", bucket.url())))
}

async fn tried(bucket: &dyn Bucket, one: &str, two: &str) -> Result<Conditions> {
    let body = Bytes::from_static(b"windlass probe: are conditions heeded?");
    for key in [one, two] {
        if let Put::Unknown(e) = bucket.put(key, body.clone(), When::Always, Cause::Probe).await? {
            return Err(e);
        }
    }
    let none = Etag("0".repeat(32));
    let mut found = Conditions::default();
    for when in [When::Absent, When::Matches(none.clone())] {
        let put = bucket.put(one, body.clone(), when.clone(), Cause::Probe).await;
        found.puts = found.puts.max(judged(put)?);
    }
    // A store that copies nothing has no conditions of copies.
    if can(bucket.copy(one, two, None, None, When::Always, Cause::Probe).await)? {
        for when in [When::Absent, When::Matches(none.clone())] {
            let copied = bucket.copy(one, two, None, None, when.clone(), Cause::Probe).await;
            found.copies = found.copies.max(judged(copied)?);
        }
        found.sources = judged(bucket.copy(one, two, Some(&none), None, When::Always, Cause::Probe).await)?;
    }
    for when in [When::Absent, When::Matches(none)] {
        let upload = match bucket.multipart_create(two, &Attrs::default(), Cause::Probe).await {
            Err(why) if is_no(&why) => break,
            upload => upload?,
        };
        let completed = async {
            let part = bucket.multipart_put(two, &upload, 1, body.clone(), Cause::Probe).await?;
            bucket.multipart_complete(two, &upload, &[part], when, Cause::Probe).await
        };
        let completed = completed.await;
        if !matches!(completed, Ok(Put::Stored(_)))
            && let Err(why) = bucket.multipart_abort(two, &upload, Cause::Probe).await
        {
            tracing::warn!(%why, upload, key = two, "an upload that was begun to try it stays");
        }
        found.completions = found.completions.max(judged(completed)?);
    }
    match bucket.get(one, ByteRange::At { offset: 9, len: 5 }, Cause::Probe).await {
        Err(e) if e.is(Kind::Unsupported) => Err(no_ranges(&e)),
        // Who may only write reads nothing.
        Err(e) if !e.is(Kind::Denied) => Err(e),
        _ => Ok(found),
    }
}

/// Refuses a store that sends all of an object to whoever asks for a part of it; its error says so and names it.
fn no_ranges(e: &Error) -> Error {
    Error::new(Kind::Refused, format!("it can't be used: {e}"))
}

/// Tells whether the store says no, whatever it would have done.
fn is_no(why: &Error) -> bool {
    matches!(why.kind(), Kind::Unsupported | Kind::Invalid | Kind::Denied)
}

fn can(answer: Result<Put>) -> Result<bool> {
    match answer {
        Ok(Put::Stored(_)) => Ok(true),
        Ok(Put::Refused) => Ok(false),
        Ok(Put::Unknown(why)) | Err(why) => {
            if is_no(&why) {
                Ok(false)
            } else {
                Err(why)
            }
        }
    }
}

/// Judges the answer to a write whose condition does not hold, and which would be done without one.
fn judged(answer: Result<Put>) -> Result<Heeds> {
    let why = match answer {
        Ok(Put::Refused) => return Ok(Heeds::Yes),
        Ok(Put::Stored(_)) => return Ok(Heeds::Ignores),
        Ok(Put::Unknown(why)) | Err(why) => why,
    };
    match why.kind() {
        Kind::Unsupported | Kind::Invalid => Ok(Heeds::Refuses),
        Kind::Denied => Ok(Heeds::Ignores),
        _ => Err(why),
    }
}
