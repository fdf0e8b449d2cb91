//! `windlass volume apply-diff`: what `export --since` wrote goes onto a volume that stands at the snapshot it began with.
//!
//! The volume stands there when nothing in it changed since; so the diff fits, and what the volume held is the snapshot.
//! Whatever goes wrong after the first write, the volume is rolled back to it; one that was empty, for a diff that begins with
//! nothing, is zeroed. From before the first write until the snapshot
//! is taken, or all is undone, one connection holds the volume alone: what ends the work is refused without it. A process that
//! is killed can't undo: then the volume has changed, and the next attempt refuses it and says how to roll it back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use serde::Serialize;

use super::export::{ALLOCATION, DIRTY, IS_DIRTY, READS_AS_ZEROS};
use super::reach_engine::{Door, or_interrupted};
use super::transfer_bar::TransferBar;
use super::{Global, output};
use crate::daemon::answers::{SnapshotLine, VolumeAnswer};
use crate::daemon::api::{Outcome, SameAs, SnapshotPath, Verb, VolumePath};
use windlass_base::rt::{Disk as _, DiskFile, OpenHow, RealDisk, RealRuntime, Rt};
use windlass_base::units::{show_bytes, show_size};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _, StateId};
use windlass_image::diff_lineage::{Between, SnapshotIdentity};
use windlass_image::diff_source::{ByteSource, Change, Changes, RbdChanges};
use windlass_image::{LocalFile, Opened, Overlay, qcow2_writer, rbd_diff_codec};
use windlass_nbd::Client;
use windlass_volume::{SnapshotInfo, VolumeInfo, applied_mark, copy_mark, is_applied_mark};

/// Most writes that are under way, each of at most 1 MiB.
const IN_FLIGHT: usize = 32;
/// Most bytes that are asked about, or zeroed, at once.
const RANGE_MAX: u64 = 2 << 30;
const READ: usize = 1 << 20;
/// Longest wait for the end of the connection.
const CLOSE: Duration = Duration::from_secs(30);

#[derive(clap::Args, Debug)]
pub struct ApplyDiff {
    /// POOL/VOLUME, which stands at the snapshot that the diff begins with
    path: VolumePath,
    /// An rbd-diff or qcow2 that `export --since` wrote; - for an rbd-diff on stdin
    file: PathBuf,
    /// The snapshot to take at the end (default: of the name that the diff says)
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<Name>,
}

/// Result of the command, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Applied {
    path: String,
    since: Option<String>,
    snapshot: Option<Name>,
    size: u64,
    written_bytes: u64,
    zeroed_bytes: u64,
    /// True if the volume's snapshot of that name is known to be the one that the diff begins with. `None`:
    /// nothing tells.
    same: Option<bool>,
}

pub async fn run(global: &Global, args: ApplyDiff) -> Result<ExitCode> {
    let ApplyDiff { path, file, snapshot } = args;
    let rt = Rt::new(RealRuntime::current());
    let mut door = Door::open(global).await?;
    let applied = onto(&rt, &mut door, &path, &file, snapshot).await;
    output::notes(global, &door.close(applied).await?);
    Ok(ExitCode::SUCCESS)
}

/// Applies the diff in a file, or the one that comes by stdin (`-`).
pub async fn onto(
    rt: &Rt,
    door: &mut Door,
    path: &VolumePath,
    file: &Path,
    snapshot: Option<Name>,
) -> Result<Outcome> {
    let shown = file.display();
    let mut changes = open(rt, file).await.context(|| format!("reading {shown}"))?;
    let applied = apply(door, path, &mut *changes, snapshot).await;
    let done = applied.context(|| format!("applying {shown} to {path}"))?;
    let [written, zeroed] = [done.written_bytes, done.zeroed_bytes].map(show_bytes);
    let now = done.snapshot.as_ref().map_or(String::new(), |name| format!(", now {name}"));
    let unsure = done.since.as_ref().filter(|_| done.same.is_none()).map(|since| {
        format!("nothing tells whether {path}@{since} is the snapshot that the diff begins with: their names are the same")
    });
    let note = format!("{}{now}: {written} written, {zeroed} zeroed", done.path);
    Ok(Outcome::of(&done)?.note(note).note_all(unsure))
}

/// Tells whether this is a local file that `export --since` wrote.
pub async fn is_diff(path: &Path) -> bool {
    let head = async {
        let file = RealDisk::start().open(path, OpenHow::Read).await?;
        file.pread(0, qcow2_writer::CLUSTER as usize).await
    };
    head.await
        .is_ok_and(|head| head.starts_with(rbd_diff_codec::MAGIC) || qcow2_writer::lineage(&head).is_some())
}

/// Opens a diff: a qcow2 if its first bytes say so, else an rbd-diff.
async fn open(rt: &Rt, path: &Path) -> Result<Box<dyn Changes>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(RbdChanges::open(Box::new(Stdin(rt.clone()))).await?));
    }
    let file = RealDisk::start().open(path, OpenHow::Read).await?;
    if file.pread(0, 4).await?[..] == *b"QFI\xfb" {
        return match LocalFile::open(rt, path)? {
            Opened::File(file) => Ok(Box::new(Overlay::open(Arc::new(file)).await?)),
            Opened::Pipe(_) => Err(Error::new(Kind::Usage, "a qcow2 is read from a file, not from a pipe")),
        };
    }
    Ok(Box::new(RbdChanges::open(Box::new(FileBytes { file, at: 0 })).await?))
}

struct FileBytes {
    file: Arc<dyn DiskFile>,
    at: u64,
}

#[async_trait]
impl ByteSource for FileBytes {
    async fn read(&mut self) -> Result<Bytes> {
        let bytes = self.file.pread(self.at, READ).await?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

struct Stdin(Rt);

#[async_trait]
impl ByteSource for Stdin {
    async fn read(&mut self) -> Result<Bytes> {
        let read = || -> std::io::Result<Bytes> {
            let mut bytes = vec![0; READ];
            let n = std::io::Read::read(&mut std::io::stdin().lock(), &mut bytes)?;
            bytes.truncate(n);
            Ok(bytes.into())
        };
        self.0.cpu(read).await?.context(|| "reading stdin".into())
    }
}

async fn apply(
    door: &mut Door,
    path: &VolumePath,
    changes: &mut dyn Changes,
    snapshot: Option<Name>,
) -> Result<Applied> {
    let header = changes.header().clone();
    let end = match (snapshot, &header.to) {
        (Some(name), _) => Some(name),
        (None, Some(name)) => Some(name.parse().context(|| "the diff ends with a snapshot".into())?),
        (None, None) => None,
    };
    let from: Option<Name> = match &header.from {
        Some(name) => Some(name.parse().context(|| "the diff begins with a snapshot".into())?),
        None => None,
    };
    if let Some(end) = &end {
        absent(door, path, end).await?;
    }
    same(door, path, from.as_ref(), changes.between()).await?;
    let mut client = stands(door, path, from.as_ref()).await?;
    if let Some(size) = header.size.filter(|size| *size != client.info().size) {
        resize(door, path, client, size).await?;
        // Somebody may have been there meanwhile.
        let grown = || format!("{path} has {} now, and nothing of the diff", show_size(size));
        client = stands(door, path, from.as_ref()).await.context(grown)?;
    }
    let size = client.info().size;
    let mut done = Applied {
        path: path.to_string(),
        since: header.from,
        snapshot: end.clone(),
        size,
        ..Applied::default()
    };
    let mut under_way = FuturesUnordered::new();
    let written = or_interrupted(write(&client, changes, &mut done, &mut under_way)).await;
    // Requests that nobody waits for any more come to their end first. A server that hangs is not waited for.
    let _ = door.rt().timeout(CLOSE, async { while under_way.next().await.is_some() {} }).await;
    drop(under_way);
    // Of a stream it is known by now which snapshot it begins with.
    let same = match written {
        Ok(()) => same(door, path, from.as_ref(), changes.between()).await,
        Err(error) => Err(error),
    };
    let finished = match (same, end) {
        (Ok(is_same), Some(snapshot)) => {
            done.same = is_same;
            take(door, path, snapshot, changes.between()).await
        }
        (same, _) => same.map(|is_same| done.same = is_same),
    };
    let finished = match finished {
        Ok(()) => Ok(done),
        Err(error) => Err(undone(door, &client, path, from, error).await),
    };
    // Others may come from now on.
    let _ = door.rt().timeout(CLOSE, client.close()).await;
    finished
}

/// Takes the snapshot at the end, with the mark that it is the same as the one that the diff ends with.
async fn take(door: &mut Door, path: &VolumePath, snapshot: Name, between: &Between) -> Result<()> {
    let paths = vec![SnapshotPath { volume: path.clone(), snapshot }];
    let same_as = between.to_id.clone().map(|SnapshotIdentity { volume, snapshot, created_ms }| SameAs {
        volume,
        snapshot,
        created_ms,
    });
    let take = Verb::SnapshotCreate { paths, no_wait: false, if_absent: false, held: true, same_as };
    door.ask(take).await.map(drop)
}

/// Tells whether the volume's snapshot of this name is the one that the diff begins with. `None`: nothing
/// tells.
///
/// # Errors
/// `Refused`: it is another snapshot of the same name.
async fn same(
    door: &mut Door,
    path: &VolumePath,
    from: Option<&Name>,
    between: &Between,
) -> Result<Option<bool>> {
    let (Some(name), Some(told)) = (from, &between.since_id) else { return Ok(None) };
    let volume: VolumeAnswer =
        door.ask(Verb::VolumeInfo { path: path.clone(), walk: false }).await?.answer()?;
    let all: Vec<SnapshotLine> =
        door.ask(Verb::SnapshotList { path: path.clone(), from: None }).await?.answer()?;
    let Some(line) = all.iter().find(|line| line.info.name == *name) else { return Ok(None) };
    match is_same(&volume.info, &line.info, told)? {
        Some(false) => {
            let why = format!(
                "{path}@{name} is not the snapshot that the diff begins with, though it has its name: one of the two was taken \
                 anew. Apply the diffs between both, or copy the volume again"
            );
            Err(Error::new(Kind::Refused, why))
        }
        same => Ok(same),
    }
}

/// Tells whether a snapshot is the one that the diff names. `None`: it was taken by hand, and says of no
/// other that it is the same.
fn is_same(volume: &VolumeInfo, there: &SnapshotInfo, told: &SnapshotIdentity) -> Result<Option<bool>> {
    let (of, snapshot, created_ms) = (told.volume.parse()?, StateId(told.snapshot), told.created_ms);
    if volume.id == of {
        // Ids come again where all stores were put back from a backup.
        return Ok(Some(there.id == snapshot && there.created_ms == created_ms));
    }
    let is = [copy_mark, applied_mark].iter().any(|mark| mark(of, snapshot, created_ms) == there.mark);
    Ok(match is {
        true => Some(true),
        false => is_applied_mark(there.mark).then_some(false),
    })
}

async fn absent(door: &mut Door, path: &VolumePath, name: &Name) -> Result<()> {
    let listed = door.ask(Verb::SnapshotList { path: path.clone(), from: None }).await?;
    let all: Vec<SnapshotLine> = listed.answer()?;
    match all.iter().any(|line| line.info.name == *name) {
        true => {
            Err(Error::new(Kind::Exists, format!("{path}@{name} exists: the diff may be applied already")))
        }
        false => Ok(()),
    }
}

/// Connects to the volume as its only client, and tries for two seconds. A client that has just left, such as
/// this command's own connection before, may be counted for another moment.
async fn connect_alone(door: &Door, path: &VolumePath, context: &str) -> Result<Client> {
    let mut connected = door.export_alone(path, &[context]).await;
    for _ in 0..20 {
        if !connected.as_ref().is_err_and(|e| e.is(Kind::Refused)) {
            break;
        }
        door.rt().sleep(Duration::from_millis(100)).await;
        connected = door.export_alone(path, &[context]).await;
    }
    connected
}

/// Connects to the volume, which nobody else may use as long as the connection lasts. Checks that nothing in
/// the volume is other than the diff supposes.
async fn stands(door: &Door, path: &VolumePath, from: Option<&Name>) -> Result<Client> {
    let (context, bit, wanted) = match from {
        Some(from) => (format!("{DIRTY}{from}"), IS_DIRTY, 0),
        None => (ALLOCATION.to_owned(), READS_AS_ZEROS, READS_AS_ZEROS),
    };
    let refused = |why: String| Err(Error::new(Kind::Refused, why));
    let client = match (connect_alone(door, path, &context).await, from) {
        (Err(error), Some(from)) if error.is(Kind::NotFound) => {
            door.export(&path.to_string(), &[]).await?.close().await?;
            return refused(format!("the diff begins with the snapshot {from}, which {path} does not have"));
        }
        (connected, _) => connected?,
    };
    let (mut at, size) = (0, client.info().size);
    while at < size {
        for extent in client.extents(&context, at, RANGE_MAX.min(size - at) as u32).await? {
            if extent.flags & bit != wanted {
                return refused(match from {
                    Some(from) => format!(
                        "{path} has changed since {from}, with which the diff begins: `windlass volume rollback \
                         {path}@{from}` takes that back"
                    ),
                    None => format!(
                        "the diff begins with nothing, and {path} holds data: apply it to an empty volume"
                    ),
                });
            }
            at += extent.len;
        }
    }
    Ok(client)
}

async fn resize(door: &mut Door, path: &VolumePath, client: Client, size: u64) -> Result<()> {
    let now = client.info().size;
    if size < now {
        let (size, now) = (show_size(size), show_size(now));
        let why =
            format!("{path} has {now}, and {size} when the diff ends: a volume does not become smaller");
        return Err(Error::new(Kind::Refused, why));
    }
    client.close().await?;
    door.ask(Verb::VolumeResize { path: path.clone(), size, disconnect: false }).await.map(drop)
}

/// Writes that are on their way to the volume.
type UnderWay<'a> = FuturesUnordered<BoxFuture<'a, Result<()>>>;

/// Writes all changes, and flushes. Changes that lie behind each other go side by side. If it is stopped
/// midway it leaves some `under_way`.
async fn write<'a>(
    client: &'a Client,
    changes: &mut dyn Changes,
    done: &mut Applied,
    under_way: &mut UnderWay<'a>,
) -> Result<()> {
    let size = client.info().size;
    let mut bar = TransferBar::new(format!("applying to {}", done.path), size);
    let mut reached = 0;
    while let Some(change) = changes.next().await? {
        let (offset, len) = change.range();
        let Some(end) = offset.checked_add(len).filter(|end| *end <= size) else {
            let why = format!("the diff changes {len} bytes at {offset}, and the volume has {size}");
            return Err(Error::new(Kind::Invalid, why));
        };
        // One that may lie over an earlier one comes after it.
        let most = if offset < reached { 0 } else { IN_FLIGHT - 1 };
        while under_way.len() > most {
            if let Some(written) = under_way.next().await {
                let () = written?;
            }
        }
        match &change {
            Change::Data { .. } => done.written_bytes += len,
            Change::Zero { .. } => done.zeroed_bytes += len,
        }
        under_way.push(put(client, change).boxed());
        reached = end.max(reached);
        bar.reach(end);
    }
    while let Some(written) = under_way.next().await {
        written?;
    }
    client.flush().await
}

async fn put(client: &Client, change: Change) -> Result<()> {
    match change {
        Change::Data { offset, bytes } => client.write(offset, bytes, false).await,
        Change::Zero { offset, len } => zero(client, offset, len).await,
    }
}

async fn zero(client: &Client, offset: u64, len: u64) -> Result<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let n = RANGE_MAX.min(end - at);
        client.write_zeroes(at, n as u32, false, false).await?;
        at += n;
    }
    Ok(())
}

/// Undoes what was written, and returns the error with what the volume is now. `client` has held the volume
/// since before the first write, so that nobody else's writes are undone.
async fn undone(
    door: &mut Door,
    client: &Client,
    path: &VolumePath,
    from: Option<Name>,
    error: Error,
) -> Error {
    let (back, state, cure) = match from {
        Some(snapshot) => {
            let to = SnapshotPath { volume: path.clone(), snapshot };
            let (state, cure) =
                (format!("{path} is again what {to} is"), format!("windlass volume rollback {to}"));
            let roll_back = Verb::VolumeRollBack { to, keep: None, disconnect: false, held: true };
            (door.ask(roll_back).await.map(drop), state, cure)
        }
        None => {
            let emptied = async {
                zero(client, 0, client.info().size).await?;
                client.flush().await
            };
            let cure = format!("windlass volume remove {path}");
            let size = show_size(client.info().size);
            (emptied.await, format!("{path} is empty again, and has {size}"), cure)
        }
    };
    let what = match back {
        Ok(()) => format!("{error}; {state}"),
        Err(also) => format!("{error}; {path} holds a part of the diff ({also}): `{cure}` clears that away"),
    };
    Error::new(error.kind(), what)
}
