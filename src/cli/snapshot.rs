//! `windlass snapshot …`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::snapshot_hooks::Hooks;
use super::volume::RemoveFlags;
use super::{Global, done, forgive, output, reach_engine};
use crate::daemon::answers::{SnapshotLine, TrashedSnapshotLine};
use crate::daemon::api::{SnapshotCopy, SnapshotLock, SnapshotPath, Verb, VolumePath};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::{parse_duration, show_bytes, show_size};
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_volume::TrashedSnapshot;

#[derive(Subcommand, Debug)]
pub enum Snapshot {
    /// Take a snapshot of a volume, or of several volumes at one instant
    Create {
        /// POOL/VOLUME@SNAPSHOT, several for one consistent group
        #[arg(required = true)]
        paths: Vec<SnapshotPath>,
        /// Return when the snapshot is on this host's disk, before it is in the pool
        #[arg(long)]
        no_wait: bool,
        /// Succeed when it exists
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        hooks: Hooks,
    },
    /// List a volume's snapshots, and what comes back when they are removed
    #[command(visible_alias = "ls")]
    List {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// WITH OLDER begins at this snapshot instead of the oldest
        #[arg(long, value_name = "SNAPSHOT")]
        from: Option<Name>,
        /// Those in the trash (`pool set POOL trash=24h`), until when they are kept
        #[arg(long, conflicts_with = "from")]
        trash: bool,
    },
    /// Copy a snapshot into another volume, of another pool mostly: what changed since the newest snapshot that both have, or
    /// all of it. Cut off, the same command goes on
    Copy {
        from: SnapshotPath,
        /// POOL/VOLUME, made if there is none; it gets the snapshot when the copy is whole
        to: VolumePath,
        /// Give up what was written to the copy since the newest common snapshot
        #[arg(long)]
        rollback: bool,
        /// What is read from both sides and compared at the end
        #[arg(long, value_enum, default_value_t)]
        verify: VerifyWhat,
    },
    /// Make the volume what the snapshot was (the same as `windlass volume rollback`)
    #[command(alias = "roll-back")]
    Rollback(super::volume::Rollback),
    /// Remove a snapshot that no clone needs: into the trash, where the pool has one (`pool set POOL trash=24h`)
    #[command(visible_alias = "rm")]
    Remove {
        path: SnapshotPath,
        /// Succeed when it does not exist
        #[arg(long)]
        if_exists: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        how: RemoveFlags,
    },
    /// Keep a snapshot from removal, by whichever host: until a date, which can be made later and never earlier
    Lock {
        path: SnapshotPath,
        /// In UTC, as 2027-01-31 or 2027-01-31T07:15
        #[arg(long, value_name = "DATE", value_parser = read_date, required_unless_present = "duration")]
        until: Option<u64>,
        /// From now on, as 30d or 12h
        #[arg(long = "for", id = "duration", value_name = "TIME", value_parser = parse_duration, conflicts_with = "until")]
        duration: Option<Duration>,
    },
    /// Bring back a snapshot from the trash: of several of one name, the one that was removed last
    Restore {
        path: SnapshotPath,
        /// Give it another name
        #[arg(long, value_name = "NEW")]
        to: Option<Name>,
    },
}

/// What is compared when a snapshot was copied.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyWhat {
    /// What has changed on either side
    #[default]
    Changed,
    /// All of both
    Full,
}

/// Reads a date, or a time of one; a date alone means its first moment.
fn read_date(text: &str) -> Result<u64> {
    let time = if text.contains('T') { "" } else { "T00:00" };
    utc::read(&format!("{text}{time}")).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("{text:?} is no date: write it in UTC, as 2027-01-31 or 2027-01-31T07:15"),
        )
    })
}

pub async fn run(global: &Global, args: Snapshot) -> Result<ExitCode> {
    let (verb, forgiven) = match args {
        Snapshot::Create { paths, no_wait, if_absent, hooks } => {
            if !hooks.is_empty() {
                let forgiven = if_absent.then_some(Kind::Exists);
                return forgive(between(global, &hooks, paths, no_wait).await, forgiven);
            }
            (
                Verb::SnapshotCreate { paths, no_wait, if_absent, held: false, same_as: None },
                if_absent.then_some(Kind::Exists),
            )
        }
        Snapshot::List { path, trash: true, .. } => {
            let outcome = reach_engine::ask(global, Verb::SnapshotTrash { path }).await?;
            output::report(global, &outcome, trashed)?;
            return Ok(done(&outcome));
        }
        Snapshot::List { path, from, trash: false } => (Verb::SnapshotList { path, from }, None),
        Snapshot::Copy { from, to, rollback, verify } => {
            let verify_all = verify == VerifyWhat::Full;
            (Verb::SnapshotCopy(SnapshotCopy { from, to, roll_back: rollback, verify_all }), None)
        }
        Snapshot::Rollback(args) => return super::volume::roll_back(global, args).await,
        Snapshot::Remove { path, if_exists, dry_run, how } => {
            let verb = Verb::SnapshotRemove { path, if_exists, dry_run, mode: how.mode() };
            (verb, if_exists.then_some(Kind::NotFound))
        }
        Snapshot::Lock { path, until, duration } => {
            let for_ms = duration.map(|time| time.as_millis() as u64);
            (Verb::SnapshotLock(SnapshotLock { path, until_ms: until, for_ms }), None)
        }
        Snapshot::Restore { path, to } => (Verb::SnapshotRestore { path, to }, None),
    };
    forgive(ask(global, verb).await, forgiven)
}

/// Takes the snapshots between two commands of the user's. What the commands quiet waits for the mark alone,
/// not for the stores.
async fn between(
    global: &Global,
    hooks: &Hooks,
    paths: Vec<SnapshotPath>,
    no_wait: bool,
) -> Result<ExitCode> {
    let rt = Rt::new(RealRuntime::current());
    // Nothing is quieted for what can't be.
    for path in &paths {
        let listed =
            reach_engine::ask(global, Verb::SnapshotList { path: path.volume.clone(), from: None }).await?;
        let there: Vec<SnapshotLine> = listed.answer()?;
        if there.iter().any(|line| line.info.name == path.snapshot) {
            return Err(Error::new(Kind::Exists, format!("the snapshot {path} exists already")));
        }
    }
    let mark = Verb::SnapshotCreate {
        paths: paths.clone(),
        no_wait: true,
        if_absent: false,
        held: false,
        same_as: None,
    };
    let (marked, after) = hooks.around(&rt, &paths, reach_engine::ask(global, mark)).await;
    let marked = match (marked, &after) {
        (Err(error), Err(also)) => return Err(Error::new(error.kind(), format!("{error}; then {also}"))),
        (marked, _) => marked?,
    };
    if !no_wait {
        reach_engine::ask(global, Verb::SnapshotPromise { paths }).await?;
    }
    output::notes(global, &marked);
    after.map_err(|e| e.context("the snapshot was taken, but"))?;
    Ok(done(&marked))
}

async fn ask(global: &Global, verb: Verb) -> Result<ExitCode> {
    let listing = matches!(verb, Verb::SnapshotList { .. });
    let outcome = reach_engine::ask(global, verb).await?;
    match listing {
        true => output::report(global, &outcome, list)?,
        false => output::notes(global, &outcome),
    }
    Ok(done(&outcome))
}

fn trashed(all: Vec<TrashedSnapshotLine>) {
    let row = |line: TrashedSnapshotLine| {
        let TrashedSnapshot { name, size, created_ms, .. } = line.snapshot;
        vec![name.to_string(), show_size(size), utc::show(created_ms), line.removed, line.until]
    };
    let heading = ["SNAPSHOT", "SIZE", "CREATED", "REMOVED", "KEPT UNTIL"];
    output::table(&heading, all.into_iter().map(row).collect());
}

fn list(all: Vec<SnapshotLine>) {
    let row = |line: SnapshotLine| {
        let clones = Some(line.info.clones.join(", ")).filter(|all| !all.is_empty());
        let size = show_size(line.info.size);
        let frees = [line.frees_bytes, line.frees_with_older_bytes];
        let [frees, with_older] = frees.map(|bytes| output::or_dash(bytes.map(show_bytes)));
        let locked = output::or_dash(line.info.locked_until_ms.map(utc::show));
        let name = line.info.name.to_string();
        vec![name, size, line.created, frees, with_older, locked, output::or_dash(clones)]
    };
    let heading = ["SNAPSHOT", "SIZE", "CREATED", "FREES", "WITH OLDER", "LOCKED UNTIL", "CLONES"];
    output::table(&heading, all.into_iter().map(row).collect());
}
