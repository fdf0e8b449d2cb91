//! From a URL to a bucket that is ready for use: the place itself, counted, with retries.

use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};

use super::{BucketRef, Counted, FileStore, Patience, Retrying, S3Store, StoreUrl};

/// Opens a store. Nothing is written; a place that isn't there is an error that names it.
pub async fn open(rt: &Rt, url: &StoreUrl) -> Result<BucketRef> {
    let bucket = match url {
        StoreUrl::File { dir } => FileStore::open(rt, dir).await?,
        StoreUrl::S3(place) => S3Store::open(rt, place).await?,
        StoreUrl::Mem { .. } => {
            return Err(Error::new(
                Kind::Usage,
                format!("{url} lives in one process and is gone with it: use a file:/// or s3:// store"),
            ));
        }
    };
    Ok(Retrying::new(rt, Counted::new(rt, bucket), Patience::default()))
}

/// Opens a pool's store, which may be away: its operations say so until it is there.
pub async fn expect(rt: &Rt, url: &StoreUrl) -> Result<BucketRef> {
    match url {
        StoreUrl::File { dir } => Ok(FileStore::expected(rt, dir)),
        _ => open(rt, url).await,
    }
}

/// Makes the empty folder that a `file://` store needs; no other kind of store is made by us. Parents must exist.
pub async fn create_root(rt: &Rt, url: &StoreUrl) -> Result<()> {
    match url {
        StoreUrl::File { dir } => FileStore::create_root(rt, dir).await,
        _ => Ok(()),
    }
}
