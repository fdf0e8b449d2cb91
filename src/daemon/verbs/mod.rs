//! Each verb carried out.

mod mount;
mod pool;
mod volume;

use std::time::Duration;

use serde::Serialize;

use super::api::{Outcome, Verb};
use super::control::ProgressSink;
use super::desk::Desk;
use super::mounts::MountInfo;
use super::sessions::SessionInfo;
use crate::base::{Error, Kind, Result};

/// How long a verb that only looks waits for the stores.
const LOOK: Duration = Duration::from_secs(20);

/// Runs one verb to its end. One that only looks gives up when the stores do not answer; one that changes something
/// waits for them, since what it began must not be left half done.
pub async fn run(desk: &Desk, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
    let looks = matches!(
        verb,
        Verb::PoolList | Verb::VolumeList { .. } | Verb::VolumeInfo { .. } | Verb::SnapshotList { .. }
    );
    if !looks {
        return carry_out(desk, verb, progress).await;
    }
    match desk.seat.rt.timeout(LOOK, carry_out(desk, verb, progress)).await {
        Some(done) => done,
        None => Err(Error::new(
            Kind::Unavailable,
            format!(
                "too few stores answered within {LOOK:?}: `windlass pool status POOL` names those that are out"
            ),
        )),
    }
}

async fn carry_out(desk: &Desk, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::PoolCreate(args) => pool::create(desk, args).await,
        Verb::PoolAdd { name, stores } => pool::add(desk, name, &stores).await,
        Verb::PoolList => pool::list(desk).await,
        Verb::PoolStatus { name } => pool::status(desk, &name).await,
        Verb::PoolForget { name, .. } => pool::forget(desk, &name).await,
        Verb::PoolScrub { name } => pool::scrub(desk, &name, &progress).await,
        Verb::PoolRepair { name } => pool::repair(desk, &name, &progress).await,
        Verb::VolumeCreate(args) => volume::create(desk, args).await,
        Verb::VolumeList { pool } => volume::list(desk, pool.as_ref()).await,
        Verb::VolumeInfo { path } => volume::info(desk, &path).await,
        Verb::VolumeRelease { path } => volume::release(desk, &path).await,
        Verb::VolumeTakeOver { path, accept_loss } => volume::take_over(desk, &path, accept_loss).await,
        Verb::VolumeSalvage { journal, to, force } => volume::salvage(desk, &journal, &to, force).await,
        Verb::VolumeRemove { path, dry_run, .. } => volume::remove(desk, &path, dry_run).await,
        Verb::SnapshotCreate { paths, no_wait, if_absent } => {
            volume::snapshot(desk, &paths, !no_wait, if_absent).await
        }
        Verb::SnapshotList { path } => volume::snapshots(desk, &path).await,
        Verb::SnapshotRemove { path, dry_run, .. } => volume::remove_snapshot(desk, &path, dry_run).await,
        Verb::Clone { from, to, .. } => volume::clone(desk, &from, &to).await,
        Verb::Mount { url, dir, options } => mount::mount(desk, &url, &dir, &options).await,
        Verb::Unmount { dir } => mount::unmount(desk, &dir, &progress).await,
        Verb::MountEnded { dir } => mount::ended(desk, &dir).await,
        Verb::Status => status(desk).await,
    }
}

#[derive(Serialize)]
struct Status {
    home: String,
    host: String,
    nbd: Vec<String>,
    pools: Vec<pool::Line>,
    volumes: Vec<SessionInfo>,
    mounts: Vec<MountInfo>,
}

async fn status(desk: &Desk) -> Result<Outcome> {
    Outcome::of(&Status {
        home: desk.seat.home.root().display().to_string(),
        host: desk.seat.host.name.clone(),
        nbd: desk.nbd_addresses().iter().map(ToString::to_string).collect(),
        pools: pool::lines(desk),
        volumes: desk.sessions.list(),
        mounts: desk.mounts.list(),
    })
}
