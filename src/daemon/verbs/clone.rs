//! Verbs that make clones, one or many.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use futures::stream;
use serde_json::json;

use super::volume::{check_same, shown};
use crate::daemon::api::{CloneMany, Outcome, SnapshotPath, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use windlass_base::{Error, Kind, Result};
use windlass_volume::{CloneAs, VolumeInfo, Volumes};

/// Clones that are made at a time: each is a few round trips, and they meet at one snapshot's list of pins.
const AT_ONCE: usize = 16;

pub async fn clone(
    state: &EngineState,
    from: &SnapshotPath,
    to: &VolumePath,
    wish: CloneAs<'_>,
    if_absent: bool,
) -> Result<Outcome> {
    if from.volume.pool != to.pool {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "a clone shares its parent's objects, so it stays in its pool: name it {}/{}",
                from.volume.pool, to.volume
            ),
        ));
    }
    let volumes = &state.pools.get(&to.pool).await?.volumes;
    let (info, _) = clone_or_find(volumes, from, to, wish, if_absent).await?;
    Outcome::of(&shown(state, to, &info))
}

/// Makes the clone. Returns it, and whether it was there before (only with `if_absent`).
async fn clone_or_find(
    volumes: &Volumes,
    from: &SnapshotPath,
    to: &VolumePath,
    wish: CloneAs<'_>,
    if_absent: bool,
) -> Result<(VolumeInfo, bool)> {
    let exists = match volumes.clone_as(&from.volume.volume, &from.snapshot, &to.volume, wish).await {
        Ok(made) => return Ok((made, false)),
        // The snapshot may be gone since.
        Err(e) if (e.is(Kind::Exists) || e.is(Kind::NotFound)) && if_absent => {
            match volumes.info(&to.volume).await {
                Err(also) if also.is(Kind::NotFound) => return Err(e),
                exists => exists?,
            }
        }
        Err(e) => return Err(e),
    };
    if !is_clone_of(volumes, &exists, from).await? {
        return Err(Error::new(Kind::Exists, format!("volume {to} exists, but is no clone of {from}")));
    }
    check_same(to, wish.size, wish.settings, &exists)?;
    Ok((exists, true))
}

/// Tells whether the volume is a clone of the snapshot. A volume and a snapshot of these names may be others by now
/// than the clone was made of: their ids tell. A snapshot that is gone is known by its name only.
async fn is_clone_of(volumes: &Volumes, clone: &VolumeInfo, from: &SnapshotPath) -> Result<bool> {
    let Some(parent) = &clone.parent else { return Ok(false) };
    match volumes.snapshot_id(&from.volume.volume, &from.snapshot).await {
        Ok(id) => Ok(id == (parent.volume, parent.snapshot_id)),
        Err(e) if e.is(Kind::NotFound) => match volumes.info(&from.volume.volume).await {
            Ok(volume) => Ok(volume.id == parent.volume && from.snapshot == parent.snapshot),
            Err(e) if e.is(Kind::NotFound) => Ok(false),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Makes many clones at once. After the first error no further clone is begun, and those that are under way are
/// waited for: so it can be said which were made.
pub async fn clone_many(state: &EngineState, args: &CloneMany, progress: &ProgressSink) -> Result<Outcome> {
    let (paths, from) = (args.paths()?, &args.from);
    let volumes = &state.pools.get(&from.volume.pool).await?.volumes;
    let failed = AtomicBool::new(false);
    let to_make = paths.clone().into_iter().enumerate();
    let until_failed = to_make.take_while(|_| !failed.load(Ordering::Relaxed));
    let work = stream::iter(until_failed).map(|(at, path)| {
        let failed = &failed;
        async move {
            let done = clone_or_find(volumes, from, &path, CloneAs::default(), args.if_absent).await;
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            (at, done.map(|(_, was_there)| was_there))
        }
    });
    let mut work = work.buffer_unordered(AT_ONCE);
    let (mut made, mut there, mut error) = (Vec::new(), Vec::new(), None);
    while let Some((at, done)) = work.next().await {
        match done {
            Ok(false) => made.push(at),
            Ok(true) => there.push(at),
            Err(e) => error = error.or(Some(e)),
        }
        progress.tell("cloning", (made.len() + there.len()) as u64, paths.len() as u64);
    }
    made.sort_unstable();
    there.sort_unstable();
    match error {
        None => many(&paths, from, &made, &there),
        Some(e) => Err(Error::new(e.kind(), format!("{e}; {}", what_was_made(&paths, &made)))),
    }
}

fn many(paths: &[VolumePath], from: &SnapshotPath, made: &[usize], there: &[usize]) -> Result<Outcome> {
    let named = |of: &[usize]| of.iter().map(|at| paths[*at].to_string()).collect::<Vec<_>>();
    let outcome = Outcome::of(&json!({"from": from, "made": named(made), "existed": named(there)}))?;
    let existed = match there.len() {
        0 => String::new(),
        n => format!(", {n} existed already"),
    };
    Ok(outcome.note(format!("{} clones of {from} made{existed}", made.len())))
}

/// Tells which clones a command made before an error cut it short: runs of paths by their first and last.
fn what_was_made(paths: &[VolumePath], made: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in made {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *at => *last = *at,
            _ => runs.push((*at, *at)),
        }
    }
    let run = |(first, last): &(usize, usize)| match first == last {
        true => paths[*first].to_string(),
        false => format!("{} to {}", paths[*first], paths[*last]),
    };
    match runs.is_empty() {
        true => "none was made".into(),
        false => {
            let runs: Vec<String> = runs.iter().map(run).collect();
            let (count, all) = (made.len(), paths.len());
            format!("made so far are {count} of {all}: {}; --if-absent goes on", runs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told_in_runs() {
        let path = |n| format!("p/w-{n}").parse().unwrap();
        let paths: Vec<VolumePath> = (1..=9).map(path).collect();
        assert_eq!(what_was_made(&paths, &[]), "none was made");
        let said = what_was_made(&paths, &[0, 1, 2, 4, 8]);
        assert_eq!(said, "made so far are 5 of 9: p/w-1 to p/w-3, p/w-5, p/w-9; --if-absent goes on");
    }
}
