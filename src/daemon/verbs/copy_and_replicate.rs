//! Copies of snapshots in other volumes, of other pools mostly; and copies of volumes that are kept up by them.

use xxhash_rust::xxh3::xxh3_64;

use crate::daemon::answers::{Replicated, SnapshotCopied};
use crate::daemon::api::{Outcome, Replicate, SnapshotCopy, SnapshotPath, Verb, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_volume::{Copied, Copying, Volumes};

/// Most snapshots of one volume for one copy that have the name of one second: clocks are set back, too.
const ROUNDS_A_SECOND: u32 = 1000;

/// A function that is told what is done, how many bytes were gone through, and how many there are.
type Told<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

/// Runs one of the verbs that copy.
pub async fn run(state: &EngineState, verb: Verb, progress: &ProgressSink) -> Result<Outcome> {
    match verb {
        Verb::SnapshotCopy(args) => Box::pin(copy_snapshot(state, &args, progress)).await,
        Verb::Replicate(args) => Box::pin(replicate_now(state, &args, progress)).await,
        _ => Err(Error::new(Kind::Internal, "the verb copies nothing")),
    }
}

/// Copies a snapshot. If this is cut off, the next call goes on with it. Nobody uses the copy meanwhile.
async fn copy_snapshot(state: &EngineState, args: &SnapshotCopy, progress: &ProgressSink) -> Result<Outcome> {
    let copied = copy(state, args, &|doing, done, total| progress.tell(doing, done, total)).await?;
    let answer = SnapshotCopied { from: args.from.clone(), to: args.to.clone(), copied };
    let note = said(&answer);
    Ok(Outcome::of(&answer)?.note(note))
}

async fn copy(state: &EngineState, args: &SnapshotCopy, progress: Told<'_>) -> Result<Copied> {
    let SnapshotCopy { from, to, roll_back, verify_all } = args;
    let source = &state.pools.get(&from.volume.pool).await?.volumes;
    let target = &state.pools.get(&to.pool).await?.volumes;
    let _alone = state.sessions.alone(to, target, "copied to", false).await?;
    target.check_unattached(&to.volume).await?;
    let how = Copying { roll_back: *roll_back, verify_all: *verify_all, progress };
    let from = (source, &from.volume.volume, &from.snapshot);
    windlass_volume::copy_snapshot(from, (target, &to.volume), how).await
}

fn said(SnapshotCopied { from, to, copied }: &SnapshotCopied) -> String {
    if copied.already {
        let compared = match copied.verified_bytes {
            0 => String::new(),
            bytes => format!(": {} compared on both sides", show_bytes(bytes)),
        };
        return format!("{to} has {from} already{compared}");
    }
    let on = match &copied.base {
        Some(base) => format!("on {to}@{base}"),
        None => "in full".into(),
    };
    format!(
        "{from} was copied to {to}@{}, {on}: {} written, {} zeroed, {} compared on both sides",
        from.snapshot,
        show_bytes(copied.copied_bytes),
        show_bytes(copied.zeroed_bytes),
        show_bytes(copied.verified_bytes)
    )
}

/// Returns the prefix of the names of snapshots that are taken to keep up this copy: each copy of a volume has its
/// own.
fn stem(to: &VolumePath) -> String {
    format!("replica-{:08x}-", xxh3_64(to.to_string().as_bytes()) as u32)
}

/// Returns the volume's snapshots with this prefix and the times at which they were taken, oldest first; none if the
/// volume is not there.
async fn own(volumes: &Volumes, volume: &Name, stem: &str) -> Result<Vec<(Name, u64)>> {
    let all = match volumes.snapshot_times(volume).await {
        Err(e) if e.is(Kind::NotFound) => Vec::new(),
        all => all?,
    };
    Ok(all.into_iter().filter(|(name, _)| name.as_str().starts_with(stem)).collect())
}

/// Returns when the newest snapshot was taken that both volumes have.
pub async fn newest_copied(state: &EngineState, from: &VolumePath, to: &VolumePath) -> Result<Option<u64>> {
    let stem = stem(to);
    let ours = own(&state.pools.get(&from.pool).await?.volumes, &from.volume, &stem).await?;
    let theirs = own(&state.pools.get(&to.pool).await?.volumes, &to.volume, &stem).await?;
    Ok(ours.into_iter().rev().find(|one| theirs.contains(one)).map(|(_, ms)| ms))
}

/// Brings a copy up to date: with the snapshot that an earlier attempt took and did not copy whole, or a new one.
pub async fn replicate(
    state: &EngineState,
    from: &VolumePath,
    to: &VolumePath,
    progress: Told<'_>,
) -> Result<Replicated> {
    let stem = stem(to);
    let source = &state.pools.get(&from.pool).await?.volumes;
    let target = &state.pools.get(&to.pool).await?.volumes;
    let snapshot = match unfinished(state, from, to).await? {
        Some(name) => name,
        None => take(state, from, &stem).await?,
    };
    let from = SnapshotPath { volume: from.clone(), snapshot };
    let args = SnapshotCopy { from, to: to.clone(), roll_back: false, verify_all: false };
    let copied = copy(state, &args, progress).await?;
    let SnapshotCopy { from, to, .. } = args;
    let mut removed = thin(source, &from.volume, &stem, &from.snapshot).await?;
    removed.extend(thin(target, &to, &stem, &from.snapshot).await?);
    let taken = own(source, &from.volume.volume, &stem).await?;
    let created_ms = taken.into_iter().find(|(name, _)| *name == from.snapshot).map(|(_, ms)| ms);
    let created_ms = created_ms.ok_or_else(|| {
        Error::new(Kind::Removed, format!("{from} was removed when it was copied: nothing stands on it"))
    })?;
    Ok(Replicated { copied: SnapshotCopied { from, to, copied }, removed, created_ms })
}

/// Returns the newest snapshot that was taken for this copy, where the copy does not have it: a round that was cut
/// off.
async fn unfinished(state: &EngineState, from: &VolumePath, to: &VolumePath) -> Result<Option<Name>> {
    let stem = stem(to);
    let theirs = own(&state.pools.get(&to.pool).await?.volumes, &to.volume, &stem).await?;
    let ours = own(&state.pools.get(&from.pool).await?.volumes, &from.volume, &stem).await?;
    Ok(ours.into_iter().next_back().filter(|newest| !theirs.contains(newest)).map(|(name, _)| name))
}

/// Takes a new snapshot, whatever there is: one that was taken a moment ago has nothing of what was flushed since.
async fn take(state: &EngineState, from: &VolumePath, stem: &str) -> Result<Name> {
    let now = utc::compact(state.host_context.rt.wall_ms());
    let how = super::snapshot::Taking { wait: true, if_absent: false, held: false };
    for nth in 1..=ROUNDS_A_SECOND {
        let name = if nth == 1 { format!("{stem}{now}") } else { format!("{stem}{now}-{nth}") };
        let snapshot: Name = name.parse()?;
        let path = SnapshotPath { volume: from.clone(), snapshot: snapshot.clone() };
        match super::snapshot::snapshot(state, &[path], how).await {
            Err(e) if e.is(Kind::Exists) => {}
            done => return done.map(|_| snapshot),
        }
    }
    let why = format!("{from} has {ROUNDS_A_SECOND} snapshots of this second: try again");
    Err(Error::new(Kind::Unavailable, why))
}

/// Removes the copy's snapshots that are older than this one. A snapshot that is cloned stays until its clones are
/// gone.
async fn thin(volumes: &Volumes, path: &VolumePath, stem: &str, newest: &Name) -> Result<Vec<SnapshotPath>> {
    let mut removed = Vec::new();
    let older = own(volumes, &path.volume, stem).await?;
    for (name, _) in older.into_iter().take_while(|(name, _)| name != newest) {
        match volumes.remove_snapshot(&path.volume, &name).await {
            Ok(()) => removed.push(SnapshotPath { volume: path.clone(), snapshot: name }),
            Err(e) if matches!(e.kind(), Kind::Refused | Kind::NotFound) => {
                tracing::debug!(volume = %path, snapshot = %name, error = %e, "an older snapshot of a copy stays");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(removed)
}

async fn replicate_now(
    state: &EngineState,
    Replicate { from, to }: &Replicate,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let told: Told<'_> = &|doing, done, total| progress.tell(doing, done, total);
    // What an earlier round left is brought to its end, and is not what is asked for: that is what is flushed by now.
    if unfinished(state, from, to).await?.is_some() {
        replicate(state, from, to, told).await?;
    }
    let done = replicate(state, from, to, told).await?;
    let note = said(&done.copied);
    Ok(Outcome::of(&done)?.note(note))
}
