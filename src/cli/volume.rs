//! `windlass volume …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde::de::DeserializeOwned;

use super::{Global, done, forgive, output, reach_engine};
use crate::base::size::{parse_size, show_bytes, show_size, show_time};
use crate::base::{Kind, Name, Result, utc};
use crate::daemon::answers::{VolumeAnswer, VolumeLine, word};
use crate::daemon::api::{Verb, VolumeCreate, VolumePath};
use crate::volume::Parent;

#[derive(Subcommand, Debug)]
pub enum Volume {
    /// Create an empty volume
    Create {
        /// POOL/VOLUME
        path: VolumePath,
        /// For example 10G; a multiple of 512 bytes, at most 64T
        #[arg(long, value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        settings: Box<SettingFlags>,
        /// Succeed when the volume exists with the given size and settings
        #[arg(long)]
        if_absent: bool,
    },
    /// List the volumes of a pool, or of all pools
    #[command(alias = "ls")]
    List { pool: Option<Name> },
    /// Show one volume: sizes, owner, what is not in the pool yet
    Info { path: VolumePath },
    /// Change settings, all or none; they hold at once, for connected clients too
    ///
    /// flush=local|pool, compression=lz4|zstd|none, max-tail=TIME, journal-size=SIZE; on-outage=hold|error[:TIME]: whether
    /// I/O waits for stores that are away, or fails; iops, read-iops, write-iops=N[:BURST] and bps, read-bps,
    /// write-bps=SIZE[:BURST], a second (0 or none: no limit); quota=SIZE: what may be mapped (0 or none: the whole size); template=true: only clones from then on
    Set {
        path: VolumePath,
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
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

/// What `volume set` changes.
#[derive(clap::Args, Debug)]
pub struct SettingFlags {
    /// What a flush waits for: this host's disk, or the pool
    #[arg(long, value_parser = ["local", "pool"])]
    flush: Option<String>,
    /// What data are compressed with before they are stored
    #[arg(long, value_parser = ["lz4", "zstd", "none"])]
    compression: Option<String>,
    /// With --flush local: the newest flushed writes that the loss of this host may cost, in time
    #[arg(long, value_name = "TIME")]
    max_tail: Option<String>,
    /// Local disk space that unsent writes may take
    #[arg(long, value_name = "SIZE")]
    journal_size: Option<String>,
    /// I/O that waits for stores: waits on, or fails after TIME (30s): hold, error, error:TIME
    #[arg(long, value_name = "WHAT")]
    on_outage: Option<String>,
    /// What may be mapped: writes that need more fail with ENOSPC
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// Operations a second, and how many at once after a pause: N[:BURST]
    #[arg(long, value_name = "RATE")]
    iops: Option<String>,
    /// Bytes a second, and how many at once after a pause: SIZE[:BURST]
    #[arg(long, value_name = "RATE")]
    bps: Option<String>,
    /// The same, of reads alone
    #[arg(long, value_name = "RATE")]
    read_iops: Option<String>,
    #[arg(long, value_name = "RATE")]
    read_bps: Option<String>,
    /// The same, of writes alone
    #[arg(long, value_name = "RATE")]
    write_iops: Option<String>,
    #[arg(long, value_name = "RATE")]
    write_bps: Option<String>,
}

impl SettingFlags {
    fn assignments(self: Box<Self>) -> Vec<String> {
        let all = [
            ("flush", self.flush),
            ("compression", self.compression),
            ("max-tail", self.max_tail),
            ("journal-size", self.journal_size),
            ("on-outage", self.on_outage),
            ("quota", self.quota),
            ("iops", self.iops),
            ("bps", self.bps),
            ("read-iops", self.read_iops),
            ("read-bps", self.read_bps),
            ("write-iops", self.write_iops),
            ("write-bps", self.write_bps),
        ];
        all.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect()
    }
}

pub async fn run(global: &Global, args: Volume) -> Result<ExitCode> {
    match args {
        Volume::Create { path, size, settings, if_absent } => {
            let create = VolumeCreate { path, size, settings: settings.assignments(), if_absent };
            plain(global, Verb::VolumeCreate(create)).await
        }
        Volume::List { pool } => show(global, Verb::VolumeList { pool }, list).await,
        Volume::Info { path } => show(global, Verb::VolumeInfo { path }, info).await,
        Volume::Set { path, assignments } => plain(global, Verb::VolumeSet { path, assignments }).await,
        Volume::Release { path } => plain(global, Verb::VolumeRelease { path }).await,
        Volume::Check { path } => plain(global, Verb::VolumeCheck { path }).await,
        Volume::Collect { path } => plain(global, Verb::VolumeCollect { path }).await,
        Volume::TakeOver { path, accept_loss } => {
            plain(global, Verb::VolumeTakeOver { path, accept_loss }).await
        }
        Volume::Salvage { journal, to, force } => {
            let journal = super::mount::absolute(&journal)?;
            plain(global, Verb::VolumeSalvage { journal, to, force }).await
        }
        Volume::Remove { path, if_exists, dry_run } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(plain(global, Verb::VolumeRemove { path, if_exists, dry_run }).await, forgiven)
        }
        Volume::Clone(args) => super::clone::run(global, args).await,
    }
}

async fn plain(global: &Global, verb: Verb) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

async fn show<T: DeserializeOwned>(global: &Global, verb: Verb, human: fn(T)) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, verb).await?;
    output::report(global, &outcome, human)?;
    Ok(done(&outcome))
}

fn list(volumes: Vec<VolumeLine>) {
    let row = |line: VolumeLine| match line {
        VolumeLine::Known(v) => {
            let owner = output::or_dash(v.info.owner);
            let [mapped, stored] = [v.info.mapped_bytes, v.info.stored_bytes].map(show_bytes);
            vec![v.path.to_string(), show_size(v.info.size), mapped, stored, owner, v.state.into_owned()]
        }
        VolumeLine::Unknown { path, state } => {
            let [size, mapped, stored, owner] = ["-"; 4].map(str::to_owned);
            vec![path.to_string(), size, mapped, stored, owner, state.into_owned()]
        }
    };
    let heading = ["VOLUME", "SIZE", "MAPPED", "STORED", "OWNER", "STATE"];
    output::table(&heading, volumes.into_iter().map(row).collect());
}

/// What people look for first stands first. Journals that are kept are told by notes.
fn info(answer: VolumeAnswer) {
    let VolumeAnswer { path, state, clients, writers: _, info } = answer;
    let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
    let time = |ms: Option<u64>| output::or_dash(ms.map(show_time));
    let bytes = |n: Option<u64>| output::or_dash(n.map(show_bytes));
    let line = |name: &str, shown: String| output::line(&format!("{name:<14} {shown}"));
    let settings = info.settings();
    line("path", path.to_string());
    line("state", state.into_owned());
    info.trouble.into_iter().for_each(|why| line("trouble", why));
    line("size", show_size(info.size));
    line("flush", word(&info.flush));
    line("meaning", info.meaning);
    line("owner", output::or_dash(info.owner));
    line("owner id", output::or_dash(info.owner_id));
    line("owner since", utc::show(info.owner_since_ms));
    line("clients", clients.to_string());
    line("unsent", show_bytes(info.unsent_bytes));
    line("unsent age", time(info.unsent_age_ms));
    line("clones", output::or_dash(info.clones));
    line("compression", word(&info.compression));
    line("created", utc::show(info.created_ms));
    line("degraded", yes(info.degraded));
    line("exclusive", bytes(info.exclusive_bytes));
    line("full in", time(info.full_in_ms));
    line("id", info.id.to_string());
    line("journal", show_bytes(info.journal_bytes));
    line("journal size", show_size(info.journal_size));
    line("limits", output::or_dash(settings.show_limits()));
    line("live", bytes(info.live_bytes));
    line("logged", show_bytes(info.logged_bytes));
    line("map", show_bytes(info.map_bytes));
    line("mapped", show_bytes(info.mapped_bytes));
    line("max tail", show_time(info.max_tail_ms));
    line("on outage", settings.show("on-outage"));
    line("open here", yes(info.open_here));
    line("packed", show_bytes(info.packed_bytes));
    line("parent", output::or_dash(info.parent.map(of_parent)));
    line("quota", output::or_dash(info.quota_bytes.map(show_size)));
    line("released", yes(info.released));
    line("retired objects", info.retired_objects.to_string());
    line("room", bytes(info.room_bytes));
    line("shared", bytes(info.shared_bytes));
    line("snapshots", info.snapshots.to_string());
    line("stored", show_bytes(info.stored_bytes));
    line("with parity", show_bytes(info.stored_with_parity_bytes));
    line("template", yes(info.template));
}

fn of_parent(Parent { volume, name, snapshot, .. }: Parent) -> String {
    let volume = name.map_or_else(|| volume.to_string(), |name| name.to_string());
    format!("{volume}@{snapshot}")
}
