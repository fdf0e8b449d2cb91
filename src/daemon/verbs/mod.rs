//! Each verb carried out.

#[cfg(test)]
mod beside_tests;
mod checksum;
mod clone;
mod copy_and_replicate;
mod credentials;
mod destroy_pool;
mod drill_lose_store;
mod force_recover;
mod mount;
mod move_volume;
#[cfg(test)]
mod other_hosts_tests;
mod pool;
mod relabel_pool;
mod replace;
mod roll_back_resize_flatten;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod trash;
mod volume;
mod volume_key;
mod wait_for_stores;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use self::copy_and_replicate as copies;
pub use self::copy_and_replicate::{newest_copied, replicate};
pub use self::mount::{mount, troubles as mount_troubles};
pub use self::move_volume::{explained, finish_of_copy};
use self::roll_back_resize_flatten::{flatten, resize, roll_back};
pub use self::status::{ask_all, standing_troubles};
pub use self::trash::empty as empty_trash;
use self::trash::restore_snapshot;
use self::volume::take_over;
use self::wait_for_stores::Manner;
use super::api::{Outcome, Verb};
use super::audit_log;
use super::engine_tables::EngineState;
use super::held_exports;
use super::mounts::AskedBy;
use super::progress::ProgressSink;
use windlass_base::{Error, Kind, Result};
use windlass_volume::CloneAs;

/// Longest time for which a verb that only looks waits for the stores.
const LOOK: Duration = Duration::from_secs(20);
/// Longest time for which such a verb waits for one pool, where it looks at several.
const LOOK_ONE: Duration = Duration::from_secs(15);

/// Runs one verb to its end. A verb that only looks gives up when the stores do not answer. One that changes
/// something waits for them, and says so, until whoever asked gives up.
pub async fn run(state: &EngineState, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
    // Not the list of volumes: how long it takes depends on how many there are, so it bounds the silence itself.
    let looks = matches!(
        verb,
        Verb::PoolList
            | Verb::VolumeInfo { .. }
            | Verb::SnapshotTrash { .. }
            | Verb::SnapshotList { .. }
            | Verb::VolumeHistory { .. }
            | Verb::SnapshotAt { .. }
    );
    let (manner, deed) = (Manner::of(state, &verb), deed(&verb));
    let under_way = state.at_work.works.begin(&verb, state.host_context.rt.now());
    let progress = progress.kept(under_way.told.clone());
    let (asker, called) = (progress.asker(), audit_log::called(&verb));
    let work = Box::pin(manner.carry(state, &progress, boxed(state, verb, &progress)));
    if !looks {
        let done = work.await;
        if let Some(deed) = deed.or_else(|| manner.deed()) {
            match &done {
                Ok(_) => tracing::info!("{deed}"),
                Err(why) => tracing::info!("asked for, not done: {deed}: {why}"),
            }
            audit_log::note(state, asker, &called, &deed, &done).await;
        }
        return done;
    }
    match state.host_context.rt.timeout(LOOK, work).await {
        Some(done) => done,
        None => {
            let waits = manner.waits(state).join("; ");
            let why = format!("too few stores answered within {LOOK:?}: {waits}");
            Err(Error::new(Kind::Unavailable, why.trim_end_matches(": ")))
        }
    }
}

/// Returns what the log says of a verb that is done, where `Manner::deed` doesn't tell it.
fn deed(verb: &Verb) -> Option<String> {
    Some(match verb {
        Verb::PoolCreate(args) => format!("pool {} was made", args.name),
        Verb::PoolAdd { name, .. } => format!("pool {name} was added"),
        Verb::PoolForget { name, .. } => format!("pool {name} was forgotten"),
        Verb::PoolDestroy(args) if args.dry_run => {
            format!("it was asked what destroying pool {} takes", args.name)
        }
        Verb::DrillLoseStore(args) => format!("a drill: a store of pool {} was cut off", args.name),
        Verb::CredentialsSet(args) => format!("credentials were set for {}", args.target),
        Verb::CredentialsRemove { target } => format!("credentials were removed for {target}"),
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

/// Boxes the future by type: who runs a verb need not prove again that all that verbs do may change threads, which
/// takes the compiler long.
fn boxed<'a>(
    state: &'a EngineState,
    verb: Verb,
    progress: &'a ProgressSink,
) -> BoxFuture<'a, Result<Outcome>> {
    carry_out(state, verb, progress).boxed()
}

async fn carry_out(state: &EngineState, verb: Verb, progress: &ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::PoolCreate(args) => Box::pin(pool::create(state, args)).await,
        Verb::PoolAdd { name, stores, key } => Box::pin(pool::add(state, name, &stores, key)).await,
        Verb::PoolList => Box::pin(pool::list(state)).await,
        Verb::PoolStatus { name, walk } => Box::pin(pool::status(state, &name, walk)).await,
        Verb::PoolSet { name, assignments } => Box::pin(pool::set(state, &name, &assignments)).await,
        Verb::PoolForget { name, .. } => Box::pin(pool::forget(state, &name)).await,
        Verb::PoolDestroy(args) => Box::pin(destroy_pool::destroy(state, &args, progress)).await,
        Verb::PoolScrub { name, scrub } => Box::pin(pool::scrub(state, &name, scrub, progress)).await,
        Verb::PoolRepair { name, scrub, labels } => pool::repair(state, &name, scrub, labels, progress).await,
        Verb::PoolReplace { name, old, new, force } => {
            Box::pin(replace::replace(state, &name, (&old, &new), force, progress)).await
        }
        Verb::PoolForceRecover(args) => Box::pin(force_recover::force_recover(state, args, progress)).await,
        Verb::DrillLoseStore(args) => Box::pin(drill_lose_store::lose_store(state, args, progress)).await,
        Verb::VolumeCreate(args) => Box::pin(volume::create(state, args)).await,
        Verb::VolumeList { pool, importing } => Box::pin(volume::list(state, pool.as_ref(), importing)).await,
        Verb::VolumeInfo { path, walk } => Box::pin(volume::info(state, &path, walk)).await,
        Verb::VolumeSet { path, assignments } => Box::pin(volume::set(state, &path, &assignments)).await,
        Verb::VolumeRename { path, to } => Box::pin(volume::rename(state, &path, &to)).await,
        Verb::VolumeMove(args) => Box::pin(move_volume::run(state, &args, progress)).await,
        Verb::VolumeRelease { path } => Box::pin(volume::release(state, &path)).await,
        Verb::VolumeRollBack { to, keep, disconnect, held } => {
            Box::pin(roll_back(state, &to, keep.as_ref(), (disconnect, held))).await
        }
        Verb::VolumeResize { path, size, disconnect } => {
            Box::pin(resize(state, &path, size, disconnect)).await
        }
        Verb::VolumeFlatten { path, rate } => Box::pin(flatten(state, &path, rate, progress)).await,
        Verb::VolumeHistory { path } => Box::pin(snapshot::history(state, &path)).await,
        Verb::SnapshotAt { path, at_ms } => Box::pin(snapshot::snapshot_at(state, &path, at_ms)).await,
        Verb::VolumeChecksum { path, snapshot } => {
            Box::pin(checksum::checksum(state, &path, snapshot.as_ref(), progress)).await
        }
        Verb::VolumeCheck { path } => Box::pin(volume::check(state, &path)).await,
        Verb::VolumeCollect { path } => Box::pin(volume::collect(state, &path, progress)).await,
        Verb::VolumeTakeOver { path, accept_loss } => Box::pin(take_over(state, &path, accept_loss)).await,
        Verb::VolumeSalvage { journal, to, force } => {
            Box::pin(volume::salvage(state, &journal, &to, force)).await
        }
        Verb::VolumeTrash { pool } => Box::pin(trash::list(state, pool.as_ref())).await,
        Verb::VolumeRemove { path, dry_run, mode, with_snapshots, .. } => {
            Box::pin(volume::remove(state, &path, dry_run, (mode, with_snapshots))).await
        }
        Verb::VolumeRestore { path, to } => Box::pin(trash::restore(state, &path, to.as_ref())).await,
        Verb::SnapshotTrash { path } => Box::pin(trash::snapshots(state, &path)).await,
        Verb::SnapshotLock(args) => Box::pin(snapshot::lock_snapshot(state, &args)).await,
        Verb::SnapshotRestore { path, to } => Box::pin(restore_snapshot(state, &path, to.as_ref())).await,
        Verb::SnapshotCreate { paths, held, same_as: Some(same_as), .. } => {
            Box::pin(snapshot::snapshot_same_as(state, &paths, &same_as, held)).await
        }
        Verb::SnapshotCreate { paths, no_wait, if_absent, held, same_as: None } => {
            let how = snapshot::Taking { wait: !no_wait, if_absent, held };
            Box::pin(snapshot::snapshot(state, &paths, how)).await
        }
        Verb::SnapshotPromise { paths } => Box::pin(snapshot::promise_snapshots(state, &paths)).await,
        Verb::SnapshotList { path, from } => Box::pin(snapshot::snapshots(state, &path, from.as_ref())).await,
        Verb::SnapshotRemove { path, dry_run, mode, .. } => {
            Box::pin(snapshot::remove_snapshot(state, &path, dry_run, mode)).await
        }
        Verb::Clone { from, to, size, settings, if_absent } => {
            let wish = CloneAs { size, settings: &settings };
            Box::pin(clone::clone(state, &from, &to, wish, if_absent)).await
        }
        Verb::CloneMany(args) => Box::pin(clone::clone_many(state, &args, progress)).await,
        verb @ (Verb::SnapshotCopy(_) | Verb::Replicate(_)) => copies::run(state, verb, progress).await,
        verb => of_mounts_or_keys(state, verb, progress).await,
    }
}

/// Carries out the verbs of mounts and of credentials.
async fn of_mounts_or_keys(state: &EngineState, verb: Verb, progress: &ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::Mount { url, dir, options } => {
            Box::pin(mount::mount(state, &url, (&dir, AskedBy::Command), &options)).await
        }
        Verb::Unmount { dir } => Box::pin(mount::unmount(state, &dir, progress)).await,
        Verb::MountList => Box::pin(mount::list(state)).await,
        Verb::MountExport { url, to } => Box::pin(mount::export(state, &url, &to)).await,
        Verb::MountDrop { url, dry_run } => Box::pin(mount::drop_kept(state, &url, dry_run)).await,
        Verb::MountEnded { dir } => Box::pin(mount::ended(state, &dir)).await,
        Verb::CredentialsSet(args) => Box::pin(credentials::set(state, args)).await,
        Verb::CredentialsList => credentials::list(state),
        Verb::CredentialsRemove { target } => Box::pin(credentials::remove(state, &target)).await,
        verb => of_keys_or_engine(state, &verb, progress).await,
    }
}

/// Carries out the verbs of a volume's keys, and those of the engine itself.
async fn of_keys_or_engine(state: &EngineState, verb: &Verb, progress: &ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::VolumeUnlock { path, key } => Box::pin(volume_key::unlock(state, path, key)).await,
        Verb::VolumeKeys { path } => Box::pin(volume_key::key_slots(state, path)).await,
        Verb::VolumeKeyRotate { path, key, wait } => {
            Box::pin(volume_key::rotate_keys(state, path, key.as_ref(), (*wait, progress))).await
        }
        Verb::VolumeKeyChange(args) => Box::pin(volume_key::change_keys(state, args)).await,
        Verb::Status => Box::pin(status::status(state)).await,
        Verb::Watch => Outcome::of(&status::watch(state).await),
        Verb::Ping => Ok(ping(state)),
        Verb::ExportHeld { export, held } => {
            Box::pin(held_exports::of_export(state, export, held.as_ref())).await
        }
        _ => Err(Error::new(Kind::Unsupported, "only a daemon hands over")),
    }
}

/// Tells that the engine is alive: takes each table's lock once, and asks no store.
fn ping(state: &EngineState) -> Outcome {
    let pools = state.pools.known().len();
    let opened = state.pools.opened().len();
    let volumes = volume::in_use(state).len();
    let mounts = state.mounts.list().len();
    let value = serde_json::json!({"pools": pools, "opened": opened, "volumes": volumes, "mounts": mounts});
    Outcome { value, ..Outcome::default() }
}
