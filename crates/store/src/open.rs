//! From a URL to a bucket that is ready for use: the place itself, counted, with retries.

use futures::future::BoxFuture;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

use super::{BucketRef, Counted, FileStore, Patience, Retrying, S3Store, StoreUrl, Switched};

/// Opens a store. Nothing is written; a place that isn't there is an error that names it.
pub fn open<'f>(rt: &'f Rt, url: &'f StoreUrl) -> BoxFuture<'f, Result<BucketRef>> {
    Box::pin(async move { open_with(rt, url, Patience::default()).await })
}

/// Opens a store as `open` does, for programs that don't try again by themselves, as those that use files.
pub fn open_patiently<'f>(rt: &'f Rt, url: &'f StoreUrl) -> BoxFuture<'f, Result<BucketRef>> {
    Box::pin(async move { open_with(rt, url, Patience::of_files()).await })
}

async fn open_with(rt: &Rt, url: &StoreUrl, patience: Patience) -> Result<BucketRef> {
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
    Ok(Retrying::new(rt, Switched::new(Counted::new(rt, bucket)), patience))
}

/// Looks at a place that is to become a pool's store: it must be there. Nothing is written.
pub fn adopt<'f>(rt: &'f Rt, url: &'f StoreUrl) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        match url {
            StoreUrl::File { dir } => FileStore::adopt(rt, dir).await,
            _ => open(rt, url).await.map(|_| ()),
        }
    })
}

/// Opens a pool's store, which may be away: its operations say so until it is there.
pub fn expect<'f>(rt: &'f Rt, url: &'f StoreUrl) -> BoxFuture<'f, Result<BucketRef>> {
    Box::pin(async move {
        match url {
            // What fails in a folder fails again at once: nothing is repeated.
            StoreUrl::File { dir } => {
                let bucket: BucketRef = Switched::new(Counted::new(rt, FileStore::expected(rt, dir)));
                Ok(bucket)
            }
            _ => open(rt, url).await,
        }
    })
}
