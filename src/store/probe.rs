//! Checks by behaviour that a store keeps the promises that pools stand on. Some servers accept conditions and
//! ignore them: used as a pool's store they would lose acknowledged data, so they are refused by name.

use bytes::Bytes;

use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};

use super::{Bucket, ByteRange, Cause, Etag, Put, When};

const BODY: &[u8] = b"windlass probe: which bytes are these?";

/// Refuses a store that breaks a promise, naming both. Its objects lie below `prefix` and are removed again.
pub async fn probe(rt: &Rt, bucket: &dyn Bucket, prefix: &str) -> Result<()> {
    let key = format!("{prefix}windlass-probe-{:032x}", rt.random128());
    let run = Probe { bucket, key: &key };
    let out = run.all().await;
    let cleaned = match bucket.delete(std::slice::from_ref(&key), Cause::Probe).await {
        // No promise that a pool stands on: without that right its objects pile up, this one too.
        Err(e) if e.is(Kind::Denied) => Ok(()),
        cleaned => cleaned,
    };
    out.and(cleaned).map_err(|e| match e.kind() {
        // The sentence already names the store.
        Kind::Refused => e,
        _ => e.context(format!("checking what {} promises", bucket.url())),
    })
}

/// Refuses a store that sends all of an object to whoever asks for a part of it; its error says so and names it.
pub(super) fn no_ranges(e: &Error) -> Error {
    Error::new(Kind::Refused, format!("it can't be used: {e}"))
}

struct Probe<'a> {
    bucket: &'a dyn Bucket,
    key: &'a str,
}

impl Probe<'_> {
    fn broken(&self, promise: &str) -> Error {
        let url = self.bucket.url();
        Error::new(
            Kind::Refused,
            format!(
                "{url} can't be used: {promise}; choose a store that keeps what S3 promises, conditional writes above all"
            ),
        )
    }

    async fn put(&self, body: &Bytes, when: When) -> Result<Option<Etag>> {
        match self.bucket.put(self.key, body.clone(), when, Cause::Probe).await? {
            Put::Stored(etag) => Ok(Some(etag)),
            Put::Refused => Ok(None),
            Put::Unknown(e) => Err(e),
        }
    }

    async fn reads(&self, range: ByteRange, want: &[u8], offset: usize, what: &str) -> Result<()> {
        let found = match self.bucket.get(self.key, range, Cause::Probe).await {
            Err(e) if e.is(Kind::Unsupported) => return Err(no_ranges(&e)),
            found => found?,
        };
        match found {
            Some(f) if f.body == want && f.offset == offset as u64 && f.head.size == BODY.len() as u64 => {
                Ok(())
            }
            _ => Err(self.broken(what)),
        }
    }

    async fn all(&self) -> Result<()> {
        let first = Bytes::from_static(b"first");
        let body = Bytes::from_static(BODY);
        let Some(old) = self.put(&first, When::Absent).await? else {
            return Err(self.broken("a write that must create an object is refused although none is there"));
        };
        if self.put(&body, When::Absent).await?.is_some() {
            return Err(self.broken("it overwrites an object although the write asked for none to be there"));
        }
        let Some(new) = self.put(&body, When::Matches(old.clone())).await? else {
            return Err(self.broken("it refuses to replace an object whose version was named rightly"));
        };
        if new == old {
            return Err(self.broken("two different contents of an object have the same etag"));
        }
        if self.put(&first, When::Matches(old)).await?.is_some() {
            return Err(self.broken("it overwrites an object although the write named another version of it"));
        }
        let whole = ByteRange::Whole { max: 1 << 20 };
        self.reads(whole, BODY, 0, "a read right after a write does not show it").await?;
        let middle = ByteRange::At { offset: 9, len: 5 };
        self.reads(middle, &BODY[9..14], 9, "a read of a range gives other bytes").await?;
        let last = BODY.len() - 7;
        self.reads(ByteRange::Last(7), &BODY[last..], last, "a read of the last bytes gives others").await?;
        match self.bucket.head(self.key, Cause::Probe).await? {
            Some(head) if head.etag == new && head.size == BODY.len() as u64 => Ok(()),
            _ => Err(self.broken("an object's description does not match what was written")),
        }
    }
}
