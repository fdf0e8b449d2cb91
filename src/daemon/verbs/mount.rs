//! Verbs of mounts.

use crate::base::Result;
use crate::daemon::api::Outcome;
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;

pub async fn mount(desk: &Desk, url: &str, dir: &str, options: &[String]) -> Result<Outcome> {
    let url = desk.config.store_url(url)?;
    desk.mounts.add(&desk.seat, &url, dir, options).await?;
    Ok(Outcome::default())
}

pub async fn unmount(desk: &Desk, dir: &str, progress: &ProgressSink) -> Result<Outcome> {
    let watch = |done, of| progress.tell("uploading", done, of);
    desk.mounts.remove(&desk.seat, dir, &watch).await?;
    Ok(Outcome::default())
}

pub async fn ended(desk: &Desk, dir: &str) -> Result<Outcome> {
    desk.mounts.ended(Some(dir)).await;
    Ok(Outcome::default())
}
