//! `windlass snapshot …`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Global, done, forgive, output, reach_engine};
use crate::base::size::{show_bytes, show_size};
use crate::base::{Kind, Name, Result};
use crate::daemon::answers::SnapshotLine;
use crate::daemon::api::{SnapshotPath, Verb, VolumePath};

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
    },
    /// List a volume's snapshots, and what comes back when they are removed
    #[command(visible_alias = "ls")]
    List {
        path: VolumePath,
        /// WITH OLDER begins at this snapshot instead of the oldest
        #[arg(long, value_name = "SNAPSHOT")]
        from: Option<Name>,
    },
    /// Make the volume what the snapshot was (the same as `windlass volume rollback`)
    #[command(alias = "roll-back")]
    Rollback(super::volume::Rollback),
    /// Remove a snapshot that no clone needs
    #[command(visible_alias = "rm")]
    Remove {
        path: SnapshotPath,
        /// Succeed when it does not exist
        #[arg(long)]
        if_exists: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

pub async fn run(global: &Global, args: Snapshot) -> Result<ExitCode> {
    let (verb, forgiven) = match args {
        Snapshot::Create { paths, no_wait, if_absent } => {
            (Verb::SnapshotCreate { paths, no_wait, if_absent }, if_absent.then_some(Kind::Exists))
        }
        Snapshot::List { path, from } => (Verb::SnapshotList { path, from }, None),
        Snapshot::Rollback(args) => return super::volume::roll_back(global, args).await,
        Snapshot::Remove { path, if_exists, dry_run } => {
            (Verb::SnapshotRemove { path, if_exists, dry_run }, if_exists.then_some(Kind::NotFound))
        }
    };
    forgive(ask(global, verb).await, forgiven)
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

fn list(all: Vec<SnapshotLine>) {
    let row = |line: SnapshotLine| {
        let clones = Some(line.info.clones.join(", ")).filter(|all| !all.is_empty());
        let size = show_size(line.info.size);
        let frees = [line.frees_bytes, line.frees_with_older_bytes];
        let [frees, with_older] = frees.map(|bytes| output::or_dash(bytes.map(show_bytes)));
        vec![line.info.name.to_string(), size, line.created, frees, with_older, output::or_dash(clones)]
    };
    let heading = ["SNAPSHOT", "SIZE", "CREATED", "FREES", "WITH OLDER", "CLONES"];
    output::table(&heading, all.into_iter().map(row).collect());
}
