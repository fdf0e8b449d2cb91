//! Verbs of mounts.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::base::{Error, Kind, Result};
use crate::daemon::api::Outcome;
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;
use crate::fs::MountOptions;
use crate::pool::{LABEL_KEY, Label};
use crate::store::{StoreSpec, StoreUrl};

/// Folders below a `file://` bucket in which a pool's label is looked for.
const FOLDERS_MAX: usize = 1000;
/// Longest label that is read, in bytes.
const LABEL_MAX: usize = 256 << 10;

/// Files of a bucket that holds a pool's stores are the pool's: whoever moved or removed one would damage it. What the
/// mount itself sees is only a label at its own top.
async fn apart_from_pools(desk: &Desk, url: &StoreUrl) -> Result<()> {
    let refused = |store: &str, pool: &str| {
        let why = format!(
            "{url} overlaps the store {store} of pool {pool}, whose files must not be touched: mount another"
        );
        Err(Error::new(Kind::Refused, why))
    };
    for known in desk.pools.known() {
        for store in &known.stores {
            if store.parse::<StoreSpec>().is_ok_and(|spec| overlap(url, &spec.url)) {
                return refused(store, known.name.as_str());
            }
        }
    }
    let StoreUrl::File { dir } = url else { return Ok(()) };
    let disk = &desk.seat.disk;
    for name in disk.list(dir).await.unwrap_or_default().iter().take(FOLDERS_MAX) {
        let store = dir.join(name);
        let Ok(bytes) = disk.read(&store.join(LABEL_KEY), LABEL_MAX).await else { continue };
        if let Ok(label) = Label::decode(&bytes) {
            return refused(&store.display().to_string(), label.hint.name.as_str());
        }
    }
    Ok(())
}

/// A mount over a folder that this daemon reads, or above one, would answer the daemon's own requests: it would wait for
/// itself for ever, and all else on the same disk with it. One inside a folder of objects would hide some of them.
fn beside_its_folders(desk: &Desk, url: &StoreUrl, at: &str) -> Result<()> {
    let at = StoreUrl::File { dir: Path::new(at).to_owned() };
    let refused = |what: String| {
        let why =
            format!("can't mount at {at}: it is, or lies in or above, {what}; choose another directory");
        Err(Error::new(Kind::Refused, why))
    };
    if overlap(url, &at) {
        return refused("the bucket's own folder".to_owned());
    }
    for known in desk.pools.known() {
        let specs = known.stores.iter().filter_map(|store| store.parse::<StoreSpec>().ok());
        if specs.into_iter().any(|spec| overlap(&spec.url, &at)) {
            return refused(format!("a store's folder of pool {}", known.name));
        }
    }
    Ok(())
}

/// One contains the other, or they are the same.
fn overlap(a: &StoreUrl, b: &StoreUrl) -> bool {
    match (a, b) {
        (StoreUrl::File { dir: a }, StoreUrl::File { dir: b }) => {
            let (a, b) = (real(a), real(b));
            a.starts_with(&b) || b.starts_with(&a)
        }
        (StoreUrl::S3(a), StoreUrl::S3(b)) => {
            let within = |a: &str, b: &str| a.is_empty() || a == b || b.starts_with(&format!("{a}/"));
            a.bucket == b.bucket
                && a.endpoint == b.endpoint
                && (within(&a.prefix, &b.prefix) || within(&b.prefix, &a.prefix))
        }
        _ => false,
    }
}

/// Without symbolic links, as far as it can be told.
fn real(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

pub async fn mount(desk: &Desk, url: &str, dir: &str, options: &[String]) -> Result<Outcome> {
    let url = desk.config.store_url(url)?;
    let mut place: StoreUrl = url.parse()?;
    for (name, value) in &MountOptions::parse(&options.join(","))?.1 {
        place.set(name, value)?;
    }
    apart_from_pools(desk, &place).await?;
    beside_its_folders(desk, &place, dir)?;
    let notes = desk.mounts.add(&desk.seat, &url, dir, options, &desk.pools.memory().disk).await?;
    Ok(Outcome { value: json!({"url": url, "dir": dir}), notes, ..Outcome::default() })
}

pub async fn unmount(desk: &Desk, dir: &str, progress: &ProgressSink) -> Result<Outcome> {
    let watch = |done, of| progress.tell("uploading", done, of);
    desk.mounts.remove(&desk.seat, dir, &watch).await?;
    Ok(Outcome { value: json!({"dir": dir, "unmounted": true}), ..Outcome::default() })
}

pub async fn ended(desk: &Desk, dir: &str) -> Result<Outcome> {
    desk.mounts.ended(Some(dir)).await;
    Ok(Outcome::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_overlap_when_one_holds_the_other() {
        let overlap = |a: &str, b: &str| overlap(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(overlap("file:///no/a", "file:///no/a/s1"));
        assert!(overlap("file:///no/a/s1/c-00", "file:///no/a/s1"));
        assert!(!overlap("file:///no/a", "file:///no/ab"));
        assert!(overlap("s3://b", "s3://b/pool"));
        assert!(overlap("s3://b/pool/x", "s3://b/pool"));
        assert!(!overlap("s3://b/poo", "s3://b/pool"));
        assert!(!overlap("s3://b/pool?endpoint=http://h", "s3://b/pool"));
        assert!(!overlap("s3://c/pool", "s3://b/pool"));
    }
}
