//! `windlass export`: a volume or snapshot as a file or stream.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use super::export_target::Target;
use super::reach_engine::{Door, or_interrupted};
use super::snapshot_or_time::Moment;
use super::transfer_bar::TransferBar;
use super::{Global, output};
use crate::daemon::answers::{SnapshotLine, VolumeAnswer};
use crate::daemon::api::{Outcome, SnapshotPath, Verb, VolumePath};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::{show_bytes, show_size};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _};
use windlass_image::diff_lineage::{Between, SnapshotIdentity};
use windlass_image::export::{Exported, Origin, Recipe, Sink, export};
use windlass_image::export_formats::{Qcow2, Raw, RbdDiff, lay_out};
use windlass_image::output::Output;
use windlass_image::portion_plan::{Class, changed};
use windlass_image::qcow2_writer::{Backing, Compression, Lineage, Shape};
use windlass_image::rbd_diff_codec::Header;
use windlass_nbd::Client;

/// Name of the NBD context that tells holes. `READS_AS_ZEROS` is the bit for them in its flags.
pub const ALLOCATION: &str = "base:allocation";
pub const READS_AS_ZEROS: u32 = 1 << 1;
/// Prefix of the NBD context that tells what changed since a snapshot; the snapshot's name follows.
pub const DIRTY: &str = "qemu:dirty-bitmap:";
pub const IS_DIRTY: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    Raw,
    Qcow2,
    /// The stream of `rbd export-diff`
    RbdDiff,
}

#[derive(clap::Args, Debug)]
pub struct Export {
    /// POOL/VOLUME, POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15
    from: State,
    /// Where to: a file, a block device, or - for stdout
    file: PathBuf,
    /// Default: qcow2 for --since and for a FILE that ends so, else raw
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Compress the clusters of a qcow2
    #[arg(long, value_name = "HOW", value_parser = ["zlib", "zstd"])]
    compress: Option<String>,
    /// Only what changed since this snapshot of the volume
    #[arg(long, value_name = "SNAPSHOT")]
    since: Option<Name>,
    /// With --since: the file that the qcow2 names as what lies beneath it
    #[arg(long, value_name = "NAME", requires = "since")]
    backing: Option<String>,
    /// The format of that file (default: by the end of its name)
    #[arg(long, value_name = "FORMAT", requires = "backing", value_parser = ["raw", "qcow2"])]
    backing_format: Option<String>,
    /// Replace FILE if it exists; needed to write onto a block device
    #[arg(long)]
    force: bool,
    /// Do not sum the bytes: holes of many terabytes take long to sum
    #[arg(long)]
    no_sum: bool,
}

/// The state that is exported: a volume as it is now, or as it was.
#[derive(Clone, Debug)]
pub enum State {
    Now(VolumePath),
    At(Moment),
}

impl FromStr for State {
    type Err = Error;
    fn from_str(text: &str) -> Result<State> {
        match text.contains('@') {
            true => text.parse().map(State::At),
            false => text.parse().map(State::Now),
        }
    }
}

/// A volume or snapshot that was found.
#[derive(Clone, Debug)]
pub struct Found {
    volume: VolumePath,
    snapshot: Option<Name>,
}

impl State {
    pub async fn find(self, global: &Global) -> Result<Found> {
        match self {
            State::Now(volume) => Ok(Found { volume, snapshot: None }),
            State::At(moment) => {
                let SnapshotPath { volume, snapshot } = moment.find(global).await?;
                Ok(Found { volume, snapshot: Some(snapshot) })
            }
        }
    }
}

impl Found {
    pub fn into_parts(self) -> (VolumePath, Option<Name>) {
        (self.volume, self.snapshot)
    }

    /// Returns the ids of the snapshots at both ends, by what their names stand for now.
    async fn between(&self, door: &mut Door, since: Option<&Name>) -> Result<Between> {
        if since.is_none() && self.snapshot.is_none() {
            return Ok(Between::default());
        }
        let path = self.volume.clone();
        let volume: VolumeAnswer =
            door.ask(Verb::VolumeInfo { path: path.clone(), walk: false }).await?.answer()?;
        let all: Vec<SnapshotLine> = door.ask(Verb::SnapshotList { path, from: None }).await?.answer()?;
        // Of what the volume has taken by itself nothing is told.
        let identity = |name: &Name| {
            let line = all.iter().find(|line| line.info.name == *name)?;
            let (volume, created_ms) = (volume.info.id.to_string(), line.info.created_ms);
            Some(SnapshotIdentity { volume, snapshot: line.info.id.0, created_ms })
        };
        Ok(Between { since_id: since.and_then(identity), to_id: self.snapshot.as_ref().and_then(identity) })
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => write!(f, "{}", self.volume),
        }
    }
}

/// Result of the command, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    path: String,
    file: String,
    format: &'static str,
    since: Option<Name>,
    size: u64,
    data_bytes: u64,
    blake3: Option<String>,
}

pub async fn run(global: &Global, args: Export) -> Result<ExitCode> {
    let plan = Plan::of(&args)?;
    let rt = Rt::new(RealRuntime::current());
    let found = args.from.find(global).await?;
    plan.check(&found)?;
    let to = args.file.display().to_string();
    let mut door = Door::open(global).await?;
    let mut unfinished = None;
    // The file is made where an interrupt is already listened for, so that none leaves it behind.
    let exported = or_interrupted(async {
        let (out, file) = Target::open(&rt, &args.file, args.force).await?.split();
        unfinished = file;
        write(&rt, &mut door, &found, &plan, out).await
    });
    let exported = exported.await;
    let exported = match (exported, unfinished) {
        (Ok((size, done)), Some(file)) => file.appear().await.map(|()| (size, done)),
        (Err(error), Some(file)) => {
            file.abandon().await;
            Err(error.context(format!("exporting {found} to {to}")))
        }
        (exported, None) => exported.context(|| format!("exporting {found} to {to}")),
    };
    let (size, Exported { data_bytes, sum }) = door.close(exported).await?;
    let format = plan.name();
    let report = Report {
        path: found.to_string(),
        file: to,
        format,
        since: plan.since,
        size,
        data_bytes,
        blake3: sum,
    };
    print(global, &report)
}

/// Prints the report: on stdout, or on stderr if the image went to stdout.
fn print(global: &Global, report: &Report) -> Result<ExitCode> {
    let mut lines = Vec::new();
    if global.json {
        lines.push(Outcome::of(report)?.value.to_string());
    } else {
        let Report { path, file, format, size, data_bytes, .. } = report;
        let (size, data) = (show_size(*size), show_bytes(*data_bytes));
        let since = report.since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
        lines.push(format!("{path}, {size}, {data} of data{since}, to {file} as {format}"));
        lines.extend(report.blake3.as_ref().map(|sum| format!("blake3 {sum}")));
    }
    match report.file == "-" {
        true => lines.iter().for_each(|line| eprintln!("{line}")),
        false => lines.iter().for_each(|line| output::line(line)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan of an export: what is written, and in which form.
#[derive(Debug)]
struct Plan {
    format: Format,
    compression: Option<Compression>,
    since: Option<Name>,
    backing: Option<Backing>,
    streams: bool,
    sum: bool,
}

impl Plan {
    fn of(args: &Export) -> Result<Plan> {
        let usage = |why: &str| Err(Error::new(Kind::Usage, why));
        let ends = args.file.extension().is_some_and(|end| end == "qcow2");
        let default = if args.since.is_some() || ends { Format::Qcow2 } else { Format::Raw };
        let format = args.format.unwrap_or(default);
        let compression = match args.compress.as_deref() {
            Some("zlib") => Some(Compression::Zlib),
            Some(_) => Some(Compression::Zstd),
            None => None,
        };
        let streams = args.file.as_os_str() == "-";
        if compression.is_some() && format != Format::Qcow2 {
            return usage("only a qcow2 is compressed: add --format qcow2");
        }
        if compression.is_some() && streams {
            return usage(
                "a compressed qcow2 can't be a stream: its tables come before the data. Name a file",
            );
        }
        match (format, &args.since, &args.backing) {
            (Format::Raw, Some(_), _) => {
                return usage(
                    "a raw image has no form for what is unchanged: use --format qcow2 or rbd-diff",
                );
            }
            (Format::Qcow2, Some(_), None) => {
                return usage("a qcow2 of what changed names the file beneath it: add --backing NAME");
            }
            (Format::RbdDiff, _, Some(_)) => {
                return usage("an rbd-diff has no backing file: leave --backing out");
            }
            _ => {}
        }
        let backing = args.backing.clone().map(|file| {
            let named = args.backing_format.as_deref();
            let qcow2 = named.map_or(file.ends_with(".qcow2"), |format| format == "qcow2");
            Backing { file, format: if qcow2 { "qcow2" } else { "raw" } }
        });
        let sum = !args.no_sum && args.since.is_none();
        Ok(Plan { format, compression, since: args.since.clone(), backing, streams, sum })
    }

    fn check(&self, found: &Found) -> Result<()> {
        if self.streams && self.format == Format::Qcow2 && found.snapshot.is_none() {
            let why = format!(
                "a qcow2 as a stream is read twice, and {found} may change in between: name a snapshot of it, or a file"
            );
            return Err(Error::new(Kind::Usage, why));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self.format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::RbdDiff => "rbd-diff",
        }
    }

    fn recipe(&self) -> Recipe {
        match self.format {
            Format::Raw | Format::RbdDiff => Recipe::raw(self.sum),
            Format::Qcow2 => Recipe::qcow2(self.compression, self.streams, self.sum),
        }
    }

    async fn sink(
        &self,
        origin: &Arc<Remote>,
        found: &Found,
        between: Between,
        out: Output,
    ) -> Result<Box<dyn Sink>> {
        let size = origin.size();
        let name = |name: &Name| name.to_string();
        let (from, to) = (self.since.as_ref().map(name), found.snapshot.as_ref().map(name));
        Ok(match self.format {
            Format::Raw => Box::new(Raw::new(out, size).await?),
            Format::RbdDiff => {
                Box::new(RbdDiff::new(out, &Header { from, to, size: Some(size) }, between).await?)
            }
            Format::Qcow2 => {
                let lineage = from.map(|since| Lineage { since, to, between });
                let backing = self.backing.clone();
                let shape = Shape { size, compression: self.compression, backing, lineage };
                if !self.streams {
                    return Ok(Box::new(Qcow2::new(out, shape)?));
                }
                let totals = lay_out(origin.clone(), shape.clone()).await?;
                Box::new(Qcow2::laid_out(out, shape, totals)?)
            }
        })
    }
}

/// Writes the image. Returns its size and what was exported.
async fn write(rt: &Rt, door: &mut Door, found: &Found, plan: &Plan, out: Output) -> Result<(u64, Exported)> {
    let asked = match plan.format {
        Format::Raw => Between::default(),
        Format::Qcow2 | Format::RbdDiff => found.between(door, plan.since.as_ref()).await?,
    };
    let origin = Arc::new(Remote::connect(door, found, plan.since.as_ref()).await?);
    // The names are looked up before and after the export was opened. Else a snapshot that was taken anew in between
    // would give its bytes under the identity of the old one.
    if plan.format != Format::Raw && found.between(door, plan.since.as_ref()).await? != asked {
        let why = format!("a snapshot of {} was taken anew at this moment: export again", found.volume);
        return Err(Error::new(Kind::Unavailable, why));
    }
    let size = origin.size();
    let mut sink = plan.sink(&origin, found, asked, out).await?;
    let mut bar = TransferBar::new(format!("exporting {found}"), size);
    let done = export(rt, origin, plan.recipe(), &mut *sink, |at| bar.reach(at)).await?;
    Ok((size, done))
}

/// An export that is read by NBD, with its map.
pub struct Remote {
    client: Client,
    size: u64,
    /// Name of the NBD context that tells what changed, for an increment.
    dirty: Option<String>,
}

impl Remote {
    pub async fn connect(door: &Door, found: &Found, since: Option<&Name>) -> Result<Remote> {
        let dirty = since.map(|since| format!("{DIRTY}{since}"));
        let contexts: Vec<&str> = std::iter::once(ALLOCATION).chain(dirty.as_deref()).collect();
        let client = match (door.export(&found.to_string(), &contexts).await, since) {
            (Err(error), Some(since)) if error.is(Kind::NotFound) => {
                // Either the export or the snapshot is missing: the first says so itself.
                door.export(&found.to_string(), &[]).await?;
                let why = format!("{} has no snapshot {since} that is older than {found}", found.volume);
                return Err(Error::new(Kind::NotFound, why));
            }
            (connected, _) => connected?,
        };
        let size = client.info().size;
        Ok(Remote { client, size, dirty })
    }

    async fn flags(&self, context: &str, offset: u64, len: u64, bit: u32) -> Result<Vec<(u64, bool)>> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let told = self.client.extents(context, offset, len).await?;
        Ok(told.into_iter().map(|extent| (extent.len, extent.flags & bit != 0)).collect())
    }
}

#[async_trait]
impl Origin for Remote {
    fn size(&self) -> u64 {
        self.size
    }

    async fn runs(&self, offset: u64, len: u64) -> Result<Vec<(u64, Class)>> {
        let zeros = self.flags(ALLOCATION, offset, len, READS_AS_ZEROS).await?;
        let Some(dirty) = &self.dirty else {
            let class = |zero| if zero { Class::Zero } else { Class::Data };
            return Ok(zeros.into_iter().map(|(len, zero)| (len, class(zero))).collect());
        };
        let dirty = self.flags(dirty, offset, len, IS_DIRTY).await?;
        let data: Vec<_> = zeros.into_iter().map(|(len, zero)| (len, !zero)).collect();
        Ok(changed(&dirty, &data))
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        self.client.read(offset, len).await
    }
}
