//! `windlass volume …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{Global, client, done, forgive, output, parse_duration_ms};
use crate::base::size::parse_size;
use crate::base::{Kind, Name, Result};
use crate::daemon::api::{Verb, VolumeCreate, VolumePath};

#[derive(Subcommand, Debug)]
pub enum Volume {
    /// Create an empty volume
    Create {
        /// POOL/VOLUME
        path: VolumePath,
        /// For example 10G; a multiple of 512 bytes, at most 64T
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// What a flush waits for: this host's disk, or the pool
        #[arg(long, value_parser = ["local", "pool"])]
        flush: Option<String>,
        #[arg(long, value_parser = ["lz4", "none"])]
        compression: Option<String>,
        /// With --flush local: the newest flushed writes that the loss of this host may cost, in time
        #[arg(long, value_parser = parse_duration_ms, value_name = "TIME")]
        max_tail: Option<u64>,
        /// Local disk space that unsent writes may take
        #[arg(long, value_parser = parse_size, value_name = "SIZE")]
        journal_size: Option<u64>,
        /// Succeed when the volume exists with the given size and settings
        #[arg(long)]
        if_absent: bool,
    },
    /// List the volumes of a pool, or of all pools
    #[command(alias = "ls")]
    List { pool: Option<Name> },
    /// Show one volume: sizes, owner, what is not in the pool yet
    Info { path: VolumePath },
    /// Store all writes, and let any host open the volume
    Release { path: VolumePath },
    /// Walk all maps, and compare what they need with what collection has counted
    Check { path: VolumePath },
    /// Free unneeded space now, and wait for it (the grace period included)
    #[command(alias = "gc")]
    Collect { path: VolumePath },
    /// Take the volume from another host, which is shut out
    TakeOver {
        path: VolumePath,
        /// Even if nobody can tell whether the newest writes were acknowledged: they may be lost
        #[arg(long)]
        accept_loss: bool,
    },
    /// Make a volume of a journal that was kept when another host took the volume over
    Salvage {
        /// The journal's folder, as the message or `volume info` names it
        #[arg(value_name = "JOURNAL")]
        journal: PathBuf,
        #[arg(value_name = "POOL/NEW")]
        to: VolumePath,
        /// Even if only the journal's own blocks are available
        #[arg(long)]
        force: bool,
    },
    /// Remove a volume that no clone needs
    #[command(alias = "rm")]
    Remove {
        path: VolumePath,
        #[arg(long)]
        if_exists: bool,
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a volume from a snapshot (the same as `windlass clone`)
    #[command(hide = true)]
    Clone(super::clone::Clone),
}

pub async fn run(global: &Global, args: Volume) -> Result<ExitCode> {
    match args {
        Volume::Create { path, size, flush, compression, max_tail, journal_size, if_absent } => {
            let create = VolumeCreate {
                path,
                size,
                flush,
                compression,
                max_tail_ms: max_tail,
                journal_size,
                if_absent,
            };
            show(global, Verb::VolumeCreate(create), |_| {}).await
        }
        Volume::List { pool } => show(global, Verb::VolumeList { pool }, list).await,
        Volume::Info { path } => show(global, Verb::VolumeInfo { path }, info).await,
        Volume::Release { path } => show(global, Verb::VolumeRelease { path }, |_| {}).await,
        Volume::Check { path } => show(global, Verb::VolumeCheck { path }, |_| {}).await,
        Volume::Collect { path } => show(global, Verb::VolumeCollect { path }, |_| {}).await,
        Volume::TakeOver { path, accept_loss } => {
            show(global, Verb::VolumeTakeOver { path, accept_loss }, |_| {}).await
        }
        Volume::Salvage { journal, to, force } => {
            let journal = super::mount::absolute(&journal)?;
            show(global, Verb::VolumeSalvage { journal, to, force }, |_| {}).await
        }
        Volume::Remove { path, if_exists, dry_run } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(show(global, Verb::VolumeRemove { path, if_exists, dry_run }, |_| {}).await, forgiven)
        }
        Volume::Clone(args) => super::clone::run(global, args).await,
    }
}

async fn show(global: &Global, verb: Verb, human: fn(&Value)) -> Result<ExitCode> {
    let outcome = client::ask(global, verb).await?;
    output::report(global, &outcome, human);
    Ok(done(&outcome))
}

fn list(value: &Value) {
    let row = |v: &Value| {
        vec![
            output::text(v, "path"),
            output::size(v, "size"),
            output::text(v, "owner"),
            output::text(v, "state"),
        ]
    };
    output::table(&["VOLUME", "SIZE", "OWNER", "STATE"], &output::rows(value, row));
}

/// What people look for first, in this order; then the rest.
const FIRST: [&str; 12] = [
    "path",
    "state",
    "trouble",
    "size",
    "flush",
    "meaning",
    "owner",
    "owner_id",
    "owner_since_ms",
    "clients",
    "unsent_bytes",
    "unsent_age_ms",
];
/// Said by another field, or by a note.
const LEFT_OUT: [&str; 3] = ["name", "trouble_ms", "kept_journals"];

fn info(value: &Value) {
    let Some(fields) = value.as_object() else { return };
    let rest = fields.keys().map(String::as_str).filter(|f| !FIRST.contains(f) && !LEFT_OUT.contains(f));
    for field in FIRST.into_iter().chain(rest) {
        let shown = match (field, &value[field]) {
            ("trouble", Value::Null) => continue,
            ("parent", Value::Object(parent)) => of_parent(parent),
            (_, Value::Array(_) | Value::Object(_)) => continue,
            _ => output::field(value, field),
        };
        let name = field.trim_end_matches("_bytes").trim_end_matches("_ms").replace('_', " ");
        output::line(&format!("{name:<14} {shown}"));
    }
}

fn of_parent(parent: &serde_json::Map<String, Value>) -> String {
    let text = |field: &str| parent.get(field).and_then(Value::as_str).map(str::to_owned);
    let volume = text("name").or_else(|| text("volume")).unwrap_or_default();
    format!("{volume}@{}", text("snapshot").unwrap_or_default())
}
