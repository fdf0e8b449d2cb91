//! Whether a store heeds the conditions of writes. Some take a condition and ignore it; some refuse every request that
//! has one. A pool can't stand on such a store (`probe`); a mount can, if it looks before it writes.

use bytes::Bytes;

use super::{Attrs, Bucket, Cause, Etag, Put, When};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};

/// What becomes of a condition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Heeds {
    #[default]
    Yes,
    /// The write happens whether it holds or not.
    Ignores,
    /// The write fails because it has one.
    Refuses,
}

/// The same of each kind of write.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Conditions {
    pub puts: Heeds,
    pub copies: Heeds,
    /// The end of an upload in parts.
    pub completions: Heeds,
}

impl Conditions {
    pub fn are_heeded(&self) -> bool {
        *self == Conditions::default()
    }

    /// What a mount does instead, for its user; none where nothing is to be said.
    pub fn told(&self, url: &str) -> Option<String> {
        let verbs = [(self.puts, "puts"), (self.copies, "copies"), (self.completions, "uploads in parts")];
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
/// the credentials may. `Denied`: these may not write.
pub async fn conditions(rt: &Rt, bucket: &dyn Bucket, prefix: &str) -> Result<Conditions> {
    let stem = format!("{prefix}windlass-probe-{:032x}", rt.random128());
    let keys = [format!("{stem}-1"), format!("{stem}-2")];
    let out = tried(bucket, &keys[0], &keys[1]).await;
    match bucket.delete(&keys, Cause::Probe).await {
        Err(e) if !e.is(Kind::Denied) => {
            out.and(Err(e.context(format_args!("removing what {} was tried with", bucket.url()))))
        }
        _ => out.map_err(|e| e.context(format_args!("trying conditional writes on {}", bucket.url()))),
    }
}

async fn tried(bucket: &dyn Bucket, one: &str, two: &str) -> Result<Conditions> {
    let body = Bytes::from_static(b"windlass probe: are conditions heeded?");
    for key in [one, two] {
        if let Put::Unknown(e) = bucket.put(key, body.clone(), When::Always, Cause::Probe).await? {
            return Err(e);
        }
    }
    let mut puts = Heeds::Yes;
    for when in [When::Absent, When::Matches(Etag("0".repeat(32)))] {
        match judged(bucket.put(one, body.clone(), when, Cause::Probe).await)? {
            Heeds::Yes => {}
            other => puts = other,
        }
    }
    let copied = bucket.copy(one, two, None, None, When::Absent, Cause::Probe).await;
    let upload = bucket.multipart_create(two, &Attrs::default(), Cause::Probe).await?;
    let completed = async {
        let part = bucket.multipart_put(two, &upload, 1, body, Cause::Probe).await?;
        bucket.multipart_complete(two, &upload, &[part], When::Absent, Cause::Probe).await
    };
    let completions = judged(completed.await);
    if !matches!(completions, Ok(Heeds::Ignores)) {
        bucket.multipart_abort(two, &upload, Cause::Probe).await?;
    }
    Ok(Conditions { puts, copies: judged(copied)?, completions: completions? })
}

/// Of a write whose condition does not hold.
fn judged(answer: Result<Put>) -> Result<Heeds> {
    let why: Error = match answer {
        Ok(Put::Refused) => return Ok(Heeds::Yes),
        Ok(Put::Stored(_)) => return Ok(Heeds::Ignores),
        Ok(Put::Unknown(why)) | Err(why) => why,
    };
    if why.is(Kind::Unsupported) { Ok(Heeds::Refuses) } else { Err(why) }
}
