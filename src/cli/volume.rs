//! `windlass volume …`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::pool::parse_rate;
use super::snapshot_or_time::Moment;
use super::take_over::TakeOver;
use super::volume_key::KeyFlags;
use super::{Global, done, forgive, output, reach_engine, take_over, volume_key, volume_list_order};
use crate::daemon::answers::{HistoryLine, TrashLine, VolumeAnswer, VolumeLine, word};
use crate::daemon::api::{GivenKey, Outcome, RemoveMode, Verb, VolumeCreate, VolumeMove, VolumePath};
use windlass_base::units::{parse_size, show_bytes, show_size, show_time};
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_volume::{MirrorInfo, Parent, Rotation, VolumeInfo};

#[derive(Subcommand, Debug)]
pub enum Volume {
    /// Create an empty volume
    Create {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// For example 10G; a multiple of 512 bytes, at most 64T
        #[arg(long, value_parser = parse_size, allow_hyphen_values = true)]
        size: u64,
        #[command(flatten)]
        settings: Box<SettingFlags>,
        /// Succeed when the volume exists with the given size and settings
        #[arg(long)]
        if_absent: bool,
        /// Encrypt what stores hold of it: only hosts that are given the key can read it, and nobody ever without it
        #[arg(long)]
        encrypt: bool,
        #[command(flatten)]
        key: KeyFlags,
    },
    /// List the volumes of a pool, or of all pools
    #[command(visible_alias = "ls")]
    List {
        pool: Option<Name>,
        /// Those in the trash (`pool set POOL trash=24h`), until when they are kept
        #[arg(long)]
        trash: bool,
        /// Those whose import is under way or was cut off
        #[arg(long, conflicts_with = "trash")]
        importing: bool,
    },
    /// Show one volume: sizes, owner, what is not in the pool yet
    Info {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// Count its clones and show all that it comes from, some requests to the stores for each
        #[arg(long)]
        walk: bool,
    },
    /// Change settings, all or none; they hold at once, for connected clients too
    ///
    /// flush=local|pool|mirror: what a flush has survived, the crash of this host, its loss by the pool, or its loss by a peer;
    /// mirror-loss=pool|hold: what flushes wait for while no peer has all; compression=lz4|zstd|none, recompress=none|zstd[:TIME]: what was written TIME ago (1d) is compressed
    /// anew in the background; max-tail=TIME, journal-size=SIZE; on-outage=hold|error[:TIME]: whether
    /// I/O waits for stores that are away, or fails; iops, read-iops, write-iops=N[:BURST] and bps, read-bps,
    /// write-bps=SIZE[:BURST], a second (0 or none: no limit); quota=SIZE: what may be mapped (0 or none: the whole size); template=true: only clones from then on;
    /// history=EVERY:FOR,…: snapshots that the volume takes by itself, as 1m:1h,1h:1d, or none; boot-trace=record|off: whether
    /// the first boot of the next clone is recorded, and first boots of clones are fetched ahead by what was;
    /// handover=never|ask: whether another host that has it attached gets it by its first read or write; clients=any|one: whether
    /// a second client may write to it while the first is connected
    Set {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
    /// List the snapshots that a volume took by itself (`volume set POOL/VOL history=1m:1h,1h:1d,1d:30d`)
    History {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
    },
    /// The keys of an encrypted volume
    #[command(subcommand)]
    Key(volume_key::Key),
    /// Give the daemon the key of an encrypted volume, until it ends; windlass.toml names one for good
    Unlock {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        #[command(flatten)]
        key: KeyFlags,
    },
    /// Give a volume another name in its pool; who uses it goes on
    #[command(visible_alias = "mv")]
    Rename {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// The new name, or POOL/NEW
        #[arg(value_name = "NEW")]
        to: NewName,
    },
    /// Bring a volume to another pool while it is used: clients go on with it there after a pause of less than a second, and
    /// what it was goes into the trash. Cut off, the same command goes on
    Move {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// The other pool
        #[arg(value_name = "POOL")]
        to: Name,
        /// Leave its snapshots with what it was
        #[arg(long)]
        no_snapshots: bool,
        /// Give up what an unfinished move has copied
        #[arg(long, conflicts_with = "no_snapshots")]
        abort: bool,
    },
    /// Store all writes, and let any host open the volume
    Release {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
    },
    /// Make a volume what one of its snapshots was; newer snapshots stay
    #[command(alias = "roll-back")]
    Rollback(Rollback),
    /// Make a volume larger, also while it is used
    Resize {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// For example 20G, or +5G to what it is; a multiple of 512 bytes, at most 64T, not less than it is
        #[arg(allow_hyphen_values = true)]
        size: NewSize,
        /// End the connections of clients, so that they connect again and see the new size
        #[arg(long)]
        disconnect: bool,
    },
    /// Make a clone independent of its parent, while it is used; run again, it goes on where it was cut off
    Flatten {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// Bytes a second; 0: as fast as it goes
        #[arg(long, value_name = "SIZE", default_value = "100M", value_parser = parse_rate)]
        rate: u64,
    },
    /// Walk all maps, and compare what they need with what collection has counted
    Check {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
    },
    /// Free unneeded space now, and wait for it (the grace period included)
    #[command(visible_alias = "gc")]
    Collect {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
    },
    /// Take the volume from another host, which is shut out
    TakeOver(TakeOver),
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
    /// Remove a volume that no clone needs: into the trash, where the pool has one (`pool set POOL trash=24h`)
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// Succeed when it does not exist
        #[arg(long)]
        if_exists: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        how: RemoveFlags,
        /// Its snapshots go with it: without this a volume that has some is refused
        #[arg(long, conflicts_with_all = ["importing", "trash"])]
        with_snapshots: bool,
        /// Remove what an import that was cut off has left
        #[arg(long, conflicts_with_all = ["now", "trash"])]
        importing: bool,
    },
    /// Bring back a volume from the trash: of several of one name, the one that was removed last
    Restore {
        #[arg(value_name = "POOL/VOLUME")]
        path: VolumePath,
        /// Give it another name
        #[arg(long, value_name = "NEW")]
        to: Option<NewName>,
    },
    /// Write a diff of `export --since` onto a volume that stands where the diff begins
    ApplyDiff(super::apply_diff::ApplyDiff),
    /// Sum the bytes of a volume or snapshot with blake3, as b3sum would those of a raw export
    Checksum(super::checksum::Checksum),
    /// Make a volume from a snapshot (the same as `windlass clone`)
    Clone(super::clone::Clone),
}

/// What becomes of what is removed.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct RemoveFlags {
    /// Do not keep it in the trash
    #[arg(long)]
    now: bool,
    /// Remove for good what is in the trash under this name
    #[arg(long, conflicts_with_all = ["now", "dry_run"])]
    trash: bool,
}

impl RemoveFlags {
    pub fn mode(self) -> RemoveMode {
        match self {
            RemoveFlags { trash: true, .. } => RemoveMode::FromTrash,
            RemoveFlags { now: true, .. } => RemoveMode::Now,
            _ => RemoveMode::Trash,
        }
    }
}

#[derive(clap::Args, Debug)]
pub struct Rollback {
    /// POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15: the newest snapshot of what it was then
    to: Moment,
    /// Keep what the volume holds now as a snapshot of this name; otherwise it is freed
    #[arg(long, value_name = "NAME")]
    keep: Option<Name>,
    /// End the connections of clients first: stop what uses the volume before
    #[arg(long)]
    disconnect: bool,
}

/// The new size of a volume, as the user says it.
#[derive(Clone, Copy, Debug)]
pub enum NewSize {
    To(u64),
    /// The volume grows by so many bytes.
    By(u64),
}

impl FromStr for NewSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<NewSize> {
        match text.strip_prefix('+') {
            Some(more) => parse_size(more).map(NewSize::By),
            None => parse_size(text).map(NewSize::To),
        }
    }
}

impl NewSize {
    async fn of(self, global: &Global, path: &VolumePath) -> Result<u64> {
        match self {
            NewSize::To(size) => Ok(size),
            NewSize::By(more) => {
                let asked = Verb::VolumeInfo { path: path.clone(), walk: false };
                let is: VolumeAnswer = reach_engine::ask(global, asked).await?.answer()?;
                is.info
                    .size
                    .checked_add(more)
                    .ok_or_else(|| Error::new(Kind::Usage, "no volume is that large"))
            }
        }
    }
}

pub async fn roll_back(global: &Global, args: Rollback) -> Result<ExitCode> {
    let Rollback { to, keep, disconnect } = args;
    let to = to.find(global).await?;
    plain(global, Verb::VolumeRollBack { to, keep, disconnect, held: false }).await
}

/// What `volume set` changes.
#[derive(clap::Args, Debug)]
pub struct SettingFlags {
    /// What a flush waits for: this host's disk, the pool, or the disks of this host and of its peer
    #[arg(long, value_parser = ["local", "pool", "mirror"])]
    flush: Option<String>,
    /// What data are compressed with before they are stored
    #[arg(long, value_parser = ["lz4", "zstd", "none"])]
    compression: Option<String>,
    /// What was written TIME ago (1d) is compressed anew in the background: none, zstd, zstd:TIME
    #[arg(long, value_name = "WHAT")]
    recompress: Option<String>,
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
            ("recompress", self.recompress),
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

/// A volume's new name, alone or with its pool.
#[derive(Clone, Debug)]
pub struct NewName {
    pool: Option<Name>,
    name: Name,
}

impl FromStr for NewName {
    type Err = Error;
    fn from_str(s: &str) -> Result<NewName> {
        match s.contains('/') {
            true => s.parse().map(|path: VolumePath| NewName { pool: Some(path.pool), name: path.volume }),
            false => Ok(NewName { pool: None, name: s.parse()? }),
        }
    }
}

impl NewName {
    /// Returns the name, if it is one in this volume's pool.
    fn within(self, path: &VolumePath) -> Result<Name> {
        match self.pool.filter(|pool| *pool != path.pool) {
            None => Ok(self.name),
            Some(_) => {
                let (pool, name) = (&path.pool, &self.name);
                let why = format!("a volume stays in its pool: name it {pool}/{name}");
                Err(Error::new(Kind::Usage, why))
            }
        }
    }
}

pub async fn run(global: &Global, args: Volume) -> Result<ExitCode> {
    match args {
        Volume::Create { path, size, settings, if_absent, encrypt, key } => {
            let key = key_of_new(encrypt, &key).await?;
            let create = VolumeCreate { path, size, settings: settings.assignments(), if_absent, key };
            plain(global, Verb::VolumeCreate(create)).await
        }
        Volume::List { pool, trash: true, .. } => show(global, Verb::VolumeTrash { pool }, trash).await,
        Volume::List { pool, importing, .. } => {
            show(global, Verb::VolumeList { pool, importing }, list).await
        }
        Volume::Info { path, walk } => show(global, Verb::VolumeInfo { path, walk }, info).await,
        Volume::Set { path, assignments } => plain(global, Verb::VolumeSet { path, assignments }).await,
        Volume::Key(args) => volume_key::run(global, args).await,
        Volume::Unlock { path, key } => volume_key::unlock(global, path, key).await,
        Volume::History { path } => show(global, Verb::VolumeHistory { path }, history).await,
        Volume::Rename { path, to } => {
            let to = to.within(&path)?;
            plain(global, Verb::VolumeRename { path, to }).await
        }
        Volume::Move { path, to, no_snapshots, abort } => {
            plain(global, Verb::VolumeMove(VolumeMove { path, to, no_snapshots, abort })).await
        }
        Volume::Release { path } => plain(global, Verb::VolumeRelease { path }).await,
        Volume::Rollback(args) => roll_back(global, args).await,
        Volume::Resize { path, size, disconnect } => {
            let size = size.of(global, &path).await?;
            plain(global, Verb::VolumeResize { path, size, disconnect }).await
        }
        Volume::Flatten { path, rate } => plain(global, Verb::VolumeFlatten { path, rate }).await,
        Volume::Check { path } => plain(global, Verb::VolumeCheck { path }).await,
        Volume::Collect { path } => plain(global, Verb::VolumeCollect { path }).await,
        Volume::TakeOver(args) => take_over::run(global, args).await,
        Volume::Salvage { journal, to, force } => {
            let journal = super::mount::absolute(&journal)?;
            plain(global, Verb::VolumeSalvage { journal, to, force }).await
        }
        Volume::Remove { path, if_exists, dry_run, importing: true, .. } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(give_up_import(global, &path, dry_run).await, forgiven)
        }
        Volume::Remove { path, if_exists, dry_run, how, with_snapshots, .. } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            let verb = Verb::VolumeRemove { path, if_exists, dry_run, mode: how.mode(), with_snapshots };
            forgive(plain(global, verb).await, forgiven)
        }
        Volume::Restore { path, to } => {
            let to = to.map(|to| to.within(&path)).transpose()?;
            plain(global, Verb::VolumeRestore { path, to }).await
        }
        Volume::ApplyDiff(args) => super::apply_diff::run(global, args).await,
        Volume::Checksum(args) => super::checksum::checksum(global, args).await,
        Volume::Clone(args) => super::clone::run(global, args).await,
    }
}

/// Reads the key of a volume that is made, if it is to be encrypted.
pub async fn key_of_new(encrypt: bool, key: &KeyFlags) -> Result<Option<GivenKey>> {
    match (encrypt, key.is_given()) {
        (true, _) => key.read().await.map(Some),
        (false, true) => Err(Error::new(
            Kind::Usage,
            "a key is given, and the volume is not to be encrypted: add --encrypt",
        )),
        (false, false) => Ok(None),
    }
}

/// Removes what an import that was cut off has left. Without the volume its note in the state folder tells
/// nothing.
async fn give_up_import(global: &Global, path: &VolumePath, dry_run: bool) -> Result<ExitCode> {
    let hidden = path.while_imported();
    let mode = RemoveMode::Now;
    let verb = Verb::VolumeRemove { path: hidden, if_exists: false, dry_run, mode, with_snapshots: true };
    let outcome = reach_engine::ask(global, verb).await?;
    let (degraded, did) = (outcome.degraded, if dry_run { "would be removed" } else { "is removed" });
    let value = json!({"path": path.to_string(), "removed": !dry_run, "dry_run": dry_run});
    let outcome =
        Outcome { value, ..Outcome::default() }.note(format!("the unfinished import of {path} {did}"));
    let outcome = outcome.degraded(degraded);
    output::notes(global, &outcome);
    Ok(done(&outcome))
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

fn history(marks: Vec<HistoryLine>) {
    let row = |line: HistoryLine| {
        let locked = output::or_dash(line.mark.locked_until_ms.map(utc::show));
        vec![line.mark.name.to_string(), show_size(line.mark.size), line.created, locked]
    };
    output::table(&["SNAPSHOT", "SIZE", "CREATED", "LOCKED UNTIL"], marks.into_iter().map(row).collect());
}

fn trash(all: Vec<TrashLine>) {
    let row = |line: TrashLine| {
        let [size, stored] =
            [line.size.map(show_size), line.stored_bytes.map(show_bytes)].map(output::or_dash);
        vec![line.path.to_string(), size, stored, output::or_dash(line.snapshots), line.removed, line.until]
    };
    let heading = ["VOLUME", "SIZE", "STORED", "SNAPSHOTS", "REMOVED", "KEPT UNTIL"];
    output::table(&heading, all.into_iter().map(row).collect());
}

fn list(volumes: Vec<VolumeLine>) {
    let row = |(depth, line): (usize, VolumeLine)| {
        let shown = |path: VolumePath| format!("{:1$}{path}", "", 2 * depth);
        match line {
            VolumeLine::Known(v) => {
                let (owner, origin) = (output::or_dash(v.info.owner), output::or_dash(v.origin));
                let [mapped, stored] = [v.info.mapped_bytes, v.info.stored_bytes].map(show_bytes);
                let (size, state) = (show_size(v.info.size), v.state.into_owned());
                vec![shown(v.path), size, mapped, stored, owner, state, origin]
            }
            VolumeLine::Unknown { path, state } => {
                let [size, mapped, stored, owner, origin] = ["-"; 5].map(str::to_owned);
                vec![shown(path), size, mapped, stored, owner, state.into_owned(), origin]
            }
        }
    };
    let heading = ["VOLUME", "SIZE", "MAPPED", "STORED", "OWNER", "STATE", "ORIGIN"];
    output::table(&heading, volume_list_order::in_order(volumes).into_iter().map(row).collect());
}

fn of_parent(Parent { volume, name, snapshot, .. }: &Parent) -> String {
    let volume = name.as_ref().map_or_else(|| volume.to_string(), ToString::to_string);
    format!("{volume}@{snapshot}")
}

fn rotation_line(rotation: &Rotation) -> String {
    let Rotation { key, oldest, left_bytes } = rotation;
    let goes_on = match left_bytes {
        Some(left) => format!("{} are yet to be sealed anew", show_bytes(*left)),
        None => "what they sealed is sealed anew while the volume is open".to_owned(),
    };
    format!("{key}; older ones from {oldest} on are to go: {goes_on}")
}

/// Prints a volume's groups of lines; what people look for first stands first. Journals that are kept are
/// told by notes.
fn info(answer: VolumeAnswer) {
    for (title, lines) in info_groups(answer) {
        output::line(title);
        for (name, shown) in lines {
            output::line(&format!("  {name:<17} {shown}"));
        }
    }
}

/// The lines on one subject: its title, and each value with its name.
type InfoGroup = (&'static str, Vec<(&'static str, String)>);

fn info_groups(answer: VolumeAnswer) -> Vec<InfoGroup> {
    let VolumeAnswer { path, state, clients, writers, origin, replica, under_way, info } = answer;
    let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
    let mut identity = vec![("path", path.to_string()), ("state", state.into_owned())];
    identity.extend(info.trouble.iter().map(|why| ("trouble", why.clone())));
    identity.extend(under_way.iter().map(|work| ("under way", super::status::how_far(work))));
    identity.push(("degraded", yes(info.degraded)));
    identity.push(("id", info.id.to_string()));
    identity.push(("created", utc::show(info.created_ms)));
    identity.push(("origin", output::or_dash(origin)));
    // What the origin comes from.
    let above = info.chain.iter().skip(1).map(of_parent).collect::<Vec<_>>().join(", ");
    identity.push(("ancestors", output::or_dash(Some(above).filter(|all| !all.is_empty()))));
    identity.push(("template", yes(info.template)));

    let mut used_by = vec![
        ("clients", clients.to_string()),
        ("writers", output::or_dash(Some(writers.join(", ")).filter(|all| !all.is_empty()))),
        ("open here", yes(info.open_here)),
        ("owner", output::or_dash(info.owner.as_ref())),
        ("owner id", output::or_dash(info.owner_id)),
        ("owner since", utc::show(info.owner_since_ms)),
        ("released", yes(info.released)),
    ];
    used_by.extend(replica.map(|it| ("copy", format!("{}, {} behind", it.to, show_time(it.lag_ms)))));
    vec![
        ("identity", identity),
        ("size and use", size_and_use(&info)),
        ("not in the pool yet", unsent(&info)),
        ("settings", settings_shown(&info)),
        ("protection", protection(&info)),
        ("clients and owner", used_by),
    ]
}

fn size_and_use(info: &VolumeInfo) -> Vec<(&'static str, String)> {
    let bytes = |n: Option<u64>| output::or_dash(n.map(show_bytes));
    vec![
        ("size", show_size(info.size)),
        ("mapped", show_bytes(info.mapped_bytes)),
        ("stored", show_bytes(info.stored_bytes)),
        ("with parity", show_bytes(info.stored_with_parity_bytes)),
        ("live", bytes(info.live_bytes)),
        ("exclusive", bytes(info.exclusive_bytes)),
        ("shared", bytes(info.shared_bytes)),
        ("logged", show_bytes(info.logged_bytes)),
        ("map", show_bytes(info.map_bytes)),
        ("packed", show_bytes(info.packed_bytes)),
        ("retired objects", info.retired_objects.to_string()),
    ]
}

fn unsent(info: &VolumeInfo) -> Vec<(&'static str, String)> {
    let time = |ms: Option<u64>| output::or_dash(ms.map(show_time));
    vec![
        ("unsent", show_bytes(info.unsent_bytes)),
        ("unsent age", time(info.unsent_age_ms)),
        ("journal", show_bytes(info.journal_bytes)),
        ("room", output::or_dash(info.room_bytes.map(show_bytes))),
        ("full in", time(info.full_in_ms)),
    ]
}

fn settings_shown(info: &VolumeInfo) -> Vec<(&'static str, String)> {
    let settings = info.settings();
    vec![
        ("compression", word(&info.compression)),
        ("recompress", settings.show("recompress")),
        ("max tail", show_time(info.max_tail_ms)),
        ("journal size", show_size(info.journal_size)),
        ("on outage", settings.show("on-outage")),
        ("quota", output::or_dash(info.quota_bytes.map(show_size))),
        ("limits", output::or_dash(settings.show_limits())),
        ("boot trace", info.boot_trace.to_string()),
        ("handover, clients", format!("{}, {}", settings.show("handover"), settings.show("clients"))),
    ]
}

fn protection(info: &VolumeInfo) -> Vec<(&'static str, String)> {
    let settings = info.settings();
    let mut lines = vec![
        ("flush", word(&info.flush)),
        ("meaning", info.meaning.clone()),
        ("mirror", output::or_dash(info.mirror.as_ref().map(mirror_line))),
        ("mirror loss", settings.show("mirror-loss")),
        ("encrypted", if info.encrypted { "yes" } else { "no" }.to_owned()),
    ];
    lines.extend(info.rotation.as_ref().map(|rotation| ("data key", rotation_line(rotation))));
    lines.extend([
        ("snapshots", info.snapshots.to_string()),
        ("clones", output::or_dash(info.clones)),
        ("history", info.history.to_string()),
        ("history marks", info.history_marks.to_string()),
        ("locked snapshots", info.locked_snapshots.to_string()),
        ("locked until", output::or_dash(info.locked_until_ms.map(utc::show))),
    ]);
    lines
}

fn mirror_line(mirror: &MirrorInfo) -> String {
    let mut said = Vec::new();
    match (&mirror.host, mirror.epoch) {
        (Some(host), Some(epoch)) => said.push(format!("named {host}, epoch {epoch}")),
        _ => said.push("names nobody".to_owned()),
    }
    said.extend(mirror.peer.as_ref().map(|peer| format!("peer {peer}")));
    said.extend(mirror.state.clone());
    said.push(format!("{} behind", show_bytes(mirror.lag_bytes)));
    said.extend(mirror.why.clone());
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_shows_each_thing_once_and_in_its_group() {
        let VolumeLine::Known(answer) = volume_list_order::tests::line("v", 7, None) else {
            panic!("a volume")
        };
        let groups = info_groups(*answer);
        let of = |name: &str| {
            let found = groups.iter().filter(|(_, lines)| lines.iter().any(|(of, _)| *of == name));
            found.map(|(title, _)| *title).collect::<Vec<_>>()
        };
        for (name, group) in [
            ("path", "identity"),
            ("stored", "size and use"),
            ("unsent", "not in the pool yet"),
            ("compression", "settings"),
            ("encrypted", "protection"),
            ("locked until", "protection"),
            ("owner", "clients and owner"),
        ] {
            assert_eq!(of(name), [group], "{name}");
        }
        let mut names: Vec<_> =
            groups.iter().flat_map(|(_, lines)| lines.iter().map(|(name, _)| name)).collect();
        assert!(names.iter().all(|name| name.len() <= 17), "a name is longer than its column");
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!((names.len(), all), (all, 51));
    }

    #[test]
    fn a_new_name_is_given_with_or_without_the_pool() {
        let path: VolumePath = "p/v".parse().unwrap();
        let named = |text: &str| text.parse::<NewName>().and_then(|new| new.within(&path));
        for text in ["w", "p/w"] {
            assert_eq!(named(text).unwrap().as_str(), "w");
        }
        let elsewhere = named("q/w").unwrap_err();
        assert!(elsewhere.is(Kind::Usage) && elsewhere.to_string().contains("p/w"), "{elsewhere}");
        for bad in ["", "W", "p/", "/w", "p/w/x"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
