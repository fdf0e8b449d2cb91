//! Verbs of mounts.

use std::path::Path;

use serde_json::json;

use crate::base::{Error, Kind, Result};
use crate::daemon::api::Outcome;
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;
use crate::daemon::places;
use crate::fs::MountOptions;
use crate::store::StoreUrl;

/// Folders below a `file://` bucket in which a pool's label is looked for.
const FOLDERS_MAX: usize = 1000;

/// Files of a bucket that holds a pool's stores are the pool's: whoever moved or removed one would damage it. What the
/// mount itself sees is only a label at its own top.
async fn apart_from_pools(desk: &Desk, url: &StoreUrl) -> Result<()> {
    let refused = |store: &str, pool: &str| {
        let why = format!(
            "{url} overlaps the store {store} of pool {pool}, whose files must not be touched: mount another"
        );
        Err(Error::new(Kind::Refused, why))
    };
    if let Some((store, pool)) = places::overlapped(&desk.pools.known(), url) {
        return refused(&store.to_string(), pool.as_str());
    }
    let StoreUrl::File { dir } = url else { return Ok(()) };
    for name in desk.seat.disk.list(dir).await.unwrap_or_default().iter().take(FOLDERS_MAX) {
        let store = dir.join(name);
        if let Some(label) = places::label_in(&desk.seat, &store).await {
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
    if url.overlaps(&at) {
        return refused("the bucket's own folder".to_owned());
    }
    if let Some((_, pool)) = places::overlapped(&desk.pools.known(), &at) {
        return refused(format!("a store's folder of pool {pool}"));
    }
    Ok(())
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
