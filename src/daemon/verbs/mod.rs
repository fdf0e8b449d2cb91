//! Each verb carried out.

mod mount;
mod pool;
mod recover;
mod replace;
#[cfg(test)]
mod tests;
mod volume;
mod waiting;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use self::waiting::Manner;
use super::api::{Outcome, Verb};
use super::control::ProgressSink;
use super::desk::Desk;
use super::mounts::MountInfo;
use crate::base::{Error, HostId, Kind, Result};
use crate::cache::{DiskStats, MemoryStats};

/// How long a verb that only looks waits for the stores.
const LOOK: Duration = Duration::from_secs(20);
/// And for one pool, where it looks at several.
const LOOK_ONE: Duration = Duration::from_secs(15);

/// Runs one verb to its end. One that only looks gives up when the stores do not answer; one that changes something
/// waits for them, and says so, until whoever asked gives up.
pub async fn run(desk: &Desk, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
    // Not the list of volumes: how long it takes depends on how many there are, so it bounds the silence itself.
    let looks = matches!(verb, Verb::PoolList | Verb::VolumeInfo { .. } | Verb::SnapshotList { .. });
    let (manner, deed) = (Manner::of(desk, &verb), deed(&verb));
    let work = Box::pin(manner.carry(desk, &progress, Box::pin(carry_out(desk, verb, &progress))));
    if !looks {
        let done = work.await;
        match (&done, deed.or_else(|| manner.deed())) {
            (Ok(_), Some(deed)) => tracing::info!("{deed}"),
            (Err(why), Some(deed)) => tracing::info!("asked for, not done: {deed}: {why}"),
            (_, None) => {}
        }
        return done;
    }
    match desk.seat.rt.timeout(LOOK, work).await {
        Some(done) => done,
        None => {
            let waits = manner.waits(desk).join("; ");
            let why = format!("too few stores answered within {LOOK:?}: {waits}");
            Err(Error::new(Kind::Unavailable, why.trim_end_matches(": ")))
        }
    }
}

/// What the log says of a verb that is done, where `Manner::deed` doesn't.
fn deed(verb: &Verb) -> Option<String> {
    Some(match verb {
        Verb::PoolCreate(args) => format!("pool {} was made", args.name),
        Verb::PoolAdd { name, .. } => format!("pool {name} was added"),
        Verb::PoolForget { name, .. } => format!("pool {name} was forgotten"),
        Verb::Mount { url, dir, .. } => format!("{url} was mounted at {dir}"),
        Verb::Unmount { dir } => format!("{dir} was unmounted"),
        Verb::MountExport { url, to } => format!("what is kept of {url} was copied to {to}"),
        Verb::MountDrop { url, dry_run: false } => format!("what was kept of {url} was dropped"),
        Verb::VolumeRemove { path, dry_run: true, .. } => format!("it was asked what removing {path} takes"),
        Verb::SnapshotRemove { path, dry_run: true, .. } => {
            format!("it was asked what removing {path} takes")
        }
        _ => return None,
    })
}

async fn carry_out(desk: &Desk, verb: Verb, progress: &ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::PoolCreate(args) => Box::pin(pool::create(desk, args)).await,
        Verb::PoolAdd { name, stores } => Box::pin(pool::add(desk, name, &stores)).await,
        Verb::PoolList => Box::pin(pool::list(desk)).await,
        Verb::PoolStatus { name } => Box::pin(pool::status(desk, &name)).await,
        Verb::PoolSet { name, assignments } => Box::pin(pool::set(desk, &name, &assignments)).await,
        Verb::PoolForget { name, .. } => Box::pin(pool::forget(desk, &name)).await,
        Verb::PoolScrub { name, tempo } => Box::pin(pool::scrub(desk, &name, tempo, progress)).await,
        Verb::PoolRepair { name, tempo } => Box::pin(pool::repair(desk, &name, tempo, progress)).await,
        Verb::PoolReplace { name, old, new, force } => {
            Box::pin(replace::replace(desk, &name, (&old, &new), force, progress)).await
        }
        Verb::PoolForceRecover(args) => Box::pin(recover::force_recover(desk, args, progress)).await,
        Verb::VolumeCreate(args) => Box::pin(volume::create(desk, args)).await,
        Verb::VolumeList { pool } => Box::pin(volume::list(desk, pool.as_ref())).await,
        Verb::VolumeInfo { path } => Box::pin(volume::info(desk, &path)).await,
        Verb::VolumeRelease { path } => Box::pin(volume::release(desk, &path)).await,
        Verb::VolumeCheck { path } => Box::pin(volume::check(desk, &path)).await,
        Verb::VolumeCollect { path } => Box::pin(volume::collect(desk, &path, progress)).await,
        Verb::VolumeTakeOver { path, accept_loss } => {
            Box::pin(volume::take_over(desk, &path, accept_loss)).await
        }
        Verb::VolumeSalvage { journal, to, force } => {
            Box::pin(volume::salvage(desk, &journal, &to, force)).await
        }
        Verb::VolumeRemove { path, dry_run, .. } => Box::pin(volume::remove(desk, &path, dry_run)).await,
        Verb::SnapshotCreate { paths, no_wait, if_absent } => {
            Box::pin(volume::snapshot(desk, &paths, !no_wait, if_absent)).await
        }
        Verb::SnapshotList { path } => Box::pin(volume::snapshots(desk, &path)).await,
        Verb::SnapshotRemove { path, dry_run, .. } => {
            Box::pin(volume::remove_snapshot(desk, &path, dry_run)).await
        }
        Verb::Clone { from, to, if_absent } => Box::pin(volume::clone(desk, &from, &to, if_absent)).await,
        Verb::Mount { url, dir, options } => Box::pin(mount::mount(desk, &url, &dir, &options)).await,
        Verb::Unmount { dir } => Box::pin(mount::unmount(desk, &dir, progress)).await,
        Verb::MountList => Box::pin(mount::list(desk)).await,
        Verb::MountExport { url, to } => Box::pin(mount::export(desk, &url, &to)).await,
        Verb::MountDrop { url, dry_run } => Box::pin(mount::drop_kept(desk, &url, dry_run)).await,
        Verb::MountEnded { dir } => Box::pin(mount::ended(desk, &dir)).await,
        Verb::Status => status(desk).await,
    }
}

#[derive(Serialize)]
struct Status {
    home: String,
    host: String,
    host_id: HostId,
    nbd: Vec<String>,
    pools: Vec<pool::Line>,
    volumes: Vec<volume::InUse>,
    mounts: Vec<MountInfo>,
    kept_files: Vec<mount::KeptOf>,
    kept_journals: Vec<PathBuf>,
    cache: Caches,
}

/// The cache of what is read.
#[derive(Serialize)]
struct Caches {
    memory: MemoryStats,
    /// None: there is none on disk.
    disk: Option<DiskStats>,
}

/// What is known here. Of stores only the labels are read, and none is waited for long.
async fn status(desk: &Desk) -> Result<Outcome> {
    pool::ask_all(desk).await;
    let seat = &desk.seat;
    let status = Status {
        home: seat.home.root().display().to_string(),
        host: seat.host.name.clone(),
        host_id: seat.host.id,
        nbd: desk.nbd_addresses().iter().map(ToString::to_string).collect(),
        pools: pool::lines(desk),
        volumes: volume::in_use(desk),
        mounts: desk.mounts.list(),
        kept_files: mount::by_bucket(&desk.mounts.kept(seat).await.unwrap_or_default()),
        kept_journals: seat.home.kept_journals(&*seat.disk).await,
        cache: Caches { memory: desk.pools.memory().frames.stats(), disk: desk.pools.memory().disk.stats() },
    };
    let attention = status.pools.iter().any(|p| p.trouble().is_some())
        || status.volumes.iter().any(|v| v.needs_attention());
    let mut outcome = Outcome::of(&status)?.degraded(attention);
    if status.nbd.is_empty() && status.mounts.is_empty() {
        outcome = outcome.note(format!("no daemon runs on {}: `windlass serve` starts one", status.home));
    }
    for pool in &status.pools {
        outcome =
            pool.trouble().iter().fold(outcome, |o, why| o.note(format!("pool {}: {why}", pool.name())));
    }
    for volume in &status.volumes {
        outcome = volume.trouble.iter().fold(outcome, |o, why| o.note(format!("{}: {why}", volume.path)));
    }
    if let Some(trouble) = status.cache.disk.as_ref().and_then(|disk| disk.trouble.as_ref()) {
        outcome = outcome.note(trouble.clone());
    }
    outcome = outcome.note_all(mount::kept_notes(&status.kept_files));
    for journal in &status.kept_journals {
        let kept = format!("writes that are in no volume are kept in {}", journal.display());
        outcome = outcome.note(kept);
    }
    Ok(outcome)
}
