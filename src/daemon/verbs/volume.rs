//! Verbs of volumes, snapshots and clones.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::base::{Error, Kind, Name, Result};
use crate::daemon::api::{Outcome, SnapshotPath, VolumeCreate, VolumePath};
use crate::daemon::desk::Desk;
use crate::daemon::pools::OpenPool;
use crate::frame::Codec;
use crate::volume::{FlushMode, OpenMode, Settings, SnapshotInfo, Volume, VolumeInfo, snapshot_group};

fn settings(args: &VolumeCreate) -> Result<Settings> {
    let mut settings = Settings::default();
    match args.flush.as_deref() {
        None => {}
        Some("local") => settings.flush = FlushMode::Local,
        Some("pool") => settings.flush = FlushMode::Pool,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--flush {other:?} is unknown: use local or pool")));
        }
    }
    match args.compression.as_deref() {
        None => {}
        Some("lz4") => settings.compression = Codec::Lz4,
        Some("none") => settings.compression = Codec::None,
        Some(other) => {
            return Err(Error::new(
                Kind::Usage,
                format!("--compression {other:?} is unknown here: use lz4 or none"),
            ));
        }
    }
    if let Some(ms) = args.max_tail_ms {
        settings.max_tail_ms = ms;
    }
    if let Some(bytes) = args.journal_size {
        settings.journal_size = bytes;
    }
    Ok(settings)
}

/// A volume's description with its path in front and the engine's own knowledge behind.
fn shown(desk: &Desk, path: &VolumePath, info: &VolumeInfo) -> Result<Value> {
    let mut value = Outcome::of(info)?.value;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("path".into(), json!(path.to_string()));
        fields.insert("clients".into(), json!(desk.sessions.clients(path)));
        fields.insert("state".into(), json!(state(info)));
    }
    Ok(value)
}

fn state(info: &VolumeInfo) -> String {
    match (&info.trouble, info.degraded, info.open_here, info.released) {
        (Some(trouble), ..) => trouble.clone(),
        (None, true, ..) => "degraded".into(),
        (None, _, true, false) => "open".into(),
        (None, _, _, true) => "released".into(),
        (None, _, false, false) => "owned".into(),
    }
}

pub async fn create(desk: &Desk, args: VolumeCreate) -> Result<Outcome> {
    let settings = settings(&args)?;
    settings.check()?;
    let open = desk.pools.get(&args.path.pool).await?;
    let info = open.volumes.create(&args.path.volume, args.size, settings).await?;
    let outcome = Outcome { value: shown(desk, &args.path, &info)?, ..Outcome::default() };
    Ok(outcome.note(format!("a flush {}", info.meaning)))
}

pub async fn list(desk: &Desk, pool: Option<&Name>) -> Result<Outcome> {
    let names: Vec<Name> = match pool {
        Some(name) => vec![name.clone()],
        None => desk.pools.known().into_iter().map(|k| k.name).collect(),
    };
    let (mut rows, mut outcome) = (Vec::new(), Outcome::default());
    for pool in names {
        let open = desk.pools.get(&pool).await?;
        for (volume, info) in open.volumes.list().await? {
            let path = VolumePath { pool: pool.clone(), volume };
            match info {
                Ok(info) => rows.push(shown(desk, &path, &info)?),
                Err(error) => {
                    rows.push(json!({"path": path.to_string(), "state": error.to_string()}));
                    outcome.degraded = true;
                }
            }
        }
    }
    outcome.value = Value::Array(rows);
    Ok(outcome)
}

pub async fn info(desk: &Desk, path: &VolumePath) -> Result<Outcome> {
    let info = desk.pools.get(&path.pool).await?.volumes.info(&path.volume).await?;
    let mut outcome = Outcome { value: shown(desk, path, &info)?, ..Outcome::default() };
    for journal in &info.kept_journals {
        outcome =
            outcome.note(format!("writes that could not be replayed are kept in {}", journal.display()));
    }
    Ok(outcome.degraded(info.degraded || info.trouble.is_some()))
}

pub async fn release(desk: &Desk, path: &VolumePath) -> Result<Outcome> {
    desk.pools.get(&path.pool).await?.volumes.release(&path.volume).await?;
    Ok(Outcome::default().note(format!("{path} is released: any host may open it")))
}

pub async fn take_over(desk: &Desk, path: &VolumePath, accept_loss: bool) -> Result<Outcome> {
    let open = desk.pools.get(&path.pool).await?;
    let taken = open.volumes.take_over(&path.volume, accept_loss).await?;
    let mut outcome = Outcome::of(&taken)?;
    outcome = match (&taken.from, taken.already) {
        (_, true) => outcome.note(format!("{path} was free or ours already")),
        (Some(host), _) => outcome.note(format!("{path} was taken over from {host}")),
        (None, _) => outcome.note(format!("{path} was taken over")),
    };
    for note in &taken.notes {
        outcome = outcome.note(note.clone());
    }
    Ok(outcome)
}

pub async fn salvage(desk: &Desk, journal: &str, to: &VolumePath, force: bool) -> Result<Outcome> {
    let volumes = &desk.pools.get(&to.pool).await?.volumes;
    let done = volumes.salvage(Path::new(journal), &to.volume, force).await?;
    let on = match &done.base {
        Some((volume, snapshot)) => format!("on what {}/{volume}@{snapshot} keeps", to.pool),
        None => "on nothing: all else reads as zeros".into(),
    };
    let outcome = Outcome::of(&done)?;
    Ok(outcome.note(format!(
        "{to} holds {} writes ({} bytes) of the journal, {on}. The journal stays in {journal}: delete the folder when it is \
         not needed any more",
        done.records, done.bytes
    )))
}

pub async fn remove(desk: &Desk, path: &VolumePath, dry_run: bool) -> Result<Outcome> {
    let clients = desk.sessions.clients(path);
    if clients > 0 {
        return Err(Error::new(
            Kind::Owned,
            format!("{path} has {clients} clients connected: disconnect them first"),
        ));
    }
    let volumes = &desk.pools.get(&path.pool).await?.volumes;
    if dry_run {
        volumes.check_remove(&path.volume).await?;
        return Ok(Outcome::default().note(format!("{path} would be removed, with its snapshots")));
    }
    volumes.remove(&path.volume).await?;
    Ok(Outcome::default().note(format!("{path} is removed")))
}

#[derive(Serialize)]
struct SnapshotRow<'a> {
    path: String,
    created: String,
    #[serde(flatten)]
    info: &'a SnapshotInfo,
}

fn snapshot_row<'a>(volume: &VolumePath, info: &'a SnapshotInfo) -> SnapshotRow<'a> {
    SnapshotRow {
        path: format!("{volume}@{}", info.name),
        created: crate::base::clock::show(info.created_ms),
        info,
    }
}

pub async fn snapshots(desk: &Desk, path: &VolumePath) -> Result<Outcome> {
    let all = desk.pools.get(&path.pool).await?.volumes.snapshots(&path.volume).await?;
    Outcome::of(&all.iter().map(|s| snapshot_row(path, s)).collect::<Vec<_>>())
}

/// One barrier over all that are asked for; those that exist are left out with `--if-absent`.
pub async fn snapshot(desk: &Desk, paths: &[SnapshotPath], wait: bool, if_absent: bool) -> Result<Outcome> {
    let mut marks: Vec<(Arc<Volume>, Name)> = Vec::new();
    // Guards: the volumes must not be released under the barrier.
    let mut sessions = Vec::new();
    for path in paths {
        let open: Arc<OpenPool> = desk.pools.get(&path.volume.pool).await?;
        let there = open.volumes.snapshots(&path.volume.volume).await?;
        if there.iter().any(|s| s.name == path.snapshot) {
            if if_absent {
                continue;
            }
            return Err(Error::new(Kind::Exists, format!("the snapshot {path} exists already")));
        }
        sessions.push(desk.sessions.enter(&path.volume, &open.volumes));
        marks.push((open.volumes.open(&path.volume.volume, OpenMode::Normal).await?, path.snapshot.clone()));
    }
    let made = if marks.is_empty() { Vec::new() } else { snapshot_group(&marks, wait).await? };
    Outcome::of(&made)
}

pub async fn remove_snapshot(desk: &Desk, path: &SnapshotPath, dry_run: bool) -> Result<Outcome> {
    let volumes = &desk.pools.get(&path.volume.pool).await?.volumes;
    let all = volumes.snapshots(&path.volume.volume).await?;
    let Some(found) = all.iter().find(|s| s.name == path.snapshot) else {
        return Err(Error::new(Kind::NotFound, format!("there is no snapshot {path}")));
    };
    // Said here with their names; the volume itself refuses again if one comes meanwhile.
    if !found.clones.is_empty() {
        let clones = found.clones.join(", ");
        return Err(Error::new(
            Kind::Refused,
            format!("{path} is needed by its clones: {clones}; remove them first"),
        ));
    }
    if dry_run {
        return Ok(Outcome::default().note(format!("{path} would be removed")));
    }
    volumes.remove_snapshot(&path.volume.volume, &path.snapshot).await?;
    Ok(Outcome::default().note(format!("{path} is removed")))
}

pub async fn clone(desk: &Desk, from: &SnapshotPath, to: &VolumePath) -> Result<Outcome> {
    if from.volume.pool != to.pool {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "a clone stays in its pool: name it {}/{}, or export and import it",
                from.volume.pool, to.volume
            ),
        ));
    }
    let volumes = &desk.pools.get(&to.pool).await?.volumes;
    let info = volumes.clone_snapshot(&from.volume.volume, &from.snapshot, &to.volume).await?;
    Ok(Outcome { value: shown(desk, to, &info)?, ..Outcome::default() })
}
