//! Verbs of volumes, from their creation to their removal.

use std::path::Path;

use serde_json::json;

use crate::daemon::answers::{VolumeAnswer, VolumeInUse, VolumeLine};
use crate::daemon::api::{GivenKey, Outcome, RemoveMode, VolumeCreate, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use crate::daemon::volume_clients::{Alone, Visitor};
use crate::daemon::volume_uses::SessionInfo;
use windlass_base::units::{show_bytes, show_count, show_size, show_time};
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_volume::{Parent, Trash, VolumeInfo, VolumeSettings, Volumes};

pub(super) fn shown(state: &EngineState, path: &VolumePath, info: &VolumeInfo) -> VolumeAnswer {
    VolumeAnswer {
        path: path.clone(),
        state: state_of(info).into(),
        clients: state.sessions.clients(path),
        writers: state.sessions.writers(path),
        origin: info.parent.as_ref().map(|parent| origin(&path.pool, parent)),
        replica: state.replica_lines().into_iter().find(|replica| replica.from == *path),
        under_way: state
            .at_work
            .works
            .list(state.host_context.rt.now())
            .into_iter()
            .filter(|work| work.of == path.to_string())
            .collect(),
        info: info.clone(),
    }
}

pub(super) fn origin(pool: &Name, Parent { volume, name, snapshot, .. }: &Parent) -> String {
    match name {
        Some(name) => format!("{pool}/{name}@{snapshot}"),
        None => format!("{pool}/{volume}@{snapshot}"),
    }
}

fn state_of(info: &VolumeInfo) -> &'static str {
    match (&info.trouble, info.degraded, info.open_here, info.released) {
        (Some(_), ..) => "trouble",
        (None, true, ..) => "degraded",
        (None, _, true, false) => "open",
        (None, _, _, true) => "released",
        (None, _, false, false) => "owned",
    }
}

pub fn needs_attention(volume: &VolumeInUse) -> bool {
    volume.trouble.is_some() || matches!(&*volume.state, "trouble" | "degraded")
}

pub fn in_use(state: &EngineState) -> Vec<VolumeInUse> {
    let opened = state.pools.opened();
    let one = |used: SessionInfo| {
        let open = opened.iter().find(|(name, _)| *name == used.path.pool).map(|(_, open)| &open.volumes);
        let info = open.and_then(|volumes| volumes.glance(&used.path.volume));
        // What clients of before the volume was opened anew meet comes before how it is for others.
        let of_clients = used.failure;
        let failure =
            || of_clients.clone().or_else(|| open.and_then(|volumes| volumes.failure(&used.path.volume)));
        let state = match &info {
            Some(info) if of_clients.is_none() => state_of(info),
            _ if failure().is_some() => "trouble",
            _ => "idle",
        };
        VolumeInUse {
            state: state.into(),
            unsent_bytes: info.as_ref().map_or(0, |i| i.unsent_bytes),
            unsent_age_ms: info.as_ref().and_then(|i| i.unsent_age_ms),
            room_bytes: info.as_ref().and_then(|i| i.room_bytes),
            full_in_ms: info.as_ref().and_then(|i| i.full_in_ms),
            journal_bytes: info.as_ref().map(|i| i.journal_bytes),
            journal_size: info.as_ref().map(|i| i.journal_size),
            io: used.io.lines(),
            trouble: failure().or_else(|| info.and_then(|i| i.trouble)),
            clients: used.clients,
            path: used.path,
        }
    };
    let mut used = state.sessions.list();
    for (pool, open) in &opened {
        let paths =
            open.volumes.with_unsent().into_iter().map(|volume| VolumePath { pool: pool.clone(), volume });
        // Nobody uses them any more, and what was written is here alone.
        let left = paths.filter(|path| !used.iter().any(|one| one.path == *path)).collect::<Vec<_>>();
        used.extend(left.into_iter().map(SessionInfo::of_nobody));
    }
    used.into_iter().map(one).collect()
}

pub async fn create(state: &EngineState, args: VolumeCreate) -> Result<Outcome> {
    let settings = VolumeSettings::default().assigned(&args.settings)?;
    let open = state.pools.get(&args.path.pool).await?;
    let offered = args.key.as_ref().map(GivenKey::offered).transpose()?;
    let created = open.volumes.create_sealed(&args.path.volume, args.size, settings, offered.as_ref()).await;
    let info = match created {
        Err(e) if e.is(Kind::Exists) && args.if_absent => {
            let info = open.volumes.info(&args.path.volume).await?;
            if info.encrypted != args.key.is_some() {
                let has = if info.encrypted { "encryption" } else { "no encryption" };
                return Err(Error::new(Kind::Exists, format!("volume {} exists, but with {has}", args.path)));
            }
            check_same(&args.path, Some(args.size), &args.settings, &info)?;
            let shown = Outcome::of(&shown(state, &args.path, &info))?;
            return Ok(shown.note(format!("{} exists already", args.path)));
        }
        done => done?,
    };
    let outcome = Outcome::of(&shown(state, &args.path, &info))?;
    let made =
        format!("volume {} of {} is there; it takes room as it is written", args.path, told_size(info.size));
    Ok(outcome.note(made).note(format!("a flush {}", info.meaning)))
}

/// Returns a size as it is typed, and, where that is no round number, as people read it.
fn told_size(bytes: u64) -> String {
    let exact = show_size(bytes);
    match exact.ends_with(['M', 'G', 'T']) {
        true => exact,
        false => format!("{} ({bytes} bytes)", show_bytes(bytes)),
    }
}

/// Checks for `--if-absent` that a volume is as it was asked for. `Exists` tells how it differs.
pub(super) fn check_same(
    path: &VolumePath,
    size: Option<u64>,
    settings: &[String],
    info: &VolumeInfo,
) -> Result<()> {
    let mut differs = Vec::new();
    if let Some(size) = size.filter(|size| *size != info.size) {
        differs.push(format!("size {}, not {}", show_size(info.size), show_size(size)));
    }
    let has = info.settings();
    for asked in settings {
        let wanted = has.assigned(std::slice::from_ref(asked))?;
        if wanted != has {
            let key = asked.split('=').next().unwrap_or_default();
            differs.push(format!("{key} {}, not {}", has.show(key), wanted.show(key)));
        }
    }
    if differs.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Exists, format!("volume {path} exists, but with {}", differs.join(", "))))
}

pub async fn set(state: &EngineState, path: &VolumePath, assignments: &[String]) -> Result<Outcome> {
    // Before any store is asked: a misspelt one is told at once.
    VolumeSettings::default().assigned(assignments)?;
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    if assignments.iter().any(|asked| asked == "template=true") {
        no_writers(state, path, volumes).await?;
    }
    // One that has to be opened for it is released again when nobody uses it.
    let _session = state.sessions.enter(path, volumes, Visitor::Command("a command"))?;
    volumes.set(&path.volume, assignments).await?;
    let info = volumes.info(&path.volume).await?;
    let outcome = Outcome::of(&shown(state, path, &info))?;
    let promise = |asked: &String| asked.starts_with("flush=") || asked.starts_with("max-tail=");
    let outcome = outcome.note(format!("{path}: {}", assignments.join(", ")));
    Ok(match assignments.iter().any(promise) {
        true => outcome.note(format!("a flush {}", info.meaning)),
        false => outcome,
    })
}

/// Lists the volumes that have a name of their own, or those that are being imported, by the name that they will
/// have.
pub async fn list(state: &EngineState, pool: Option<&Name>, importing: bool) -> Result<Outcome> {
    let names: Vec<Name> = match pool {
        Some(name) => vec![name.clone()],
        None => state.pools.known().into_iter().map(|k| k.name).collect(),
    };
    let looks = names.iter().map(|pool| async move {
        let late = || Error::new(Kind::Unavailable, format!("pool {pool}: too few stores answer"));
        let open = state.host_context.rt.timeout(super::LOOK_ONE, state.pools.get(pool)).await;
        open.unwrap_or_else(|| Err(late()))?.volumes.list(super::LOOK_ONE).await
    });
    let lists = futures::future::join_all(looks).await;
    let all_away = lists.iter().all(Result::is_err);
    let (mut rows, mut outcome) = (Vec::new(), Outcome::default());
    for (pool, list) in names.iter().zip(lists) {
        let volumes = match list {
            Ok(volumes) => volumes,
            Err(e) if all_away => return Err(e),
            Err(e) => {
                outcome = outcome.note(format!("not listed: {e}")).degraded(true);
                continue;
            }
        };
        let listed = |(name, info): (Name, Result<VolumeInfo>)| match (name.imported_as(), importing) {
            (None, false) if name.moved_as().is_none() => Some((name, info)),
            (Some(name), true) => Some((name.clone(), info.map(|info| VolumeInfo { name, ..info }))),
            _ => None,
        };
        for (volume, info) in volumes.into_iter().filter_map(listed) {
            let path = VolumePath { pool: pool.clone(), volume };
            match info {
                Ok(info) => {
                    if let Some(trouble) = &info.trouble {
                        outcome = outcome.note(format!("{path}: {trouble}"));
                    }
                    rows.push(VolumeLine::Known(Box::new(shown(state, &path, &info))));
                }
                Err(error) => {
                    outcome = outcome.note(format!("{path}: {error}")).degraded(true);
                    rows.push(VolumeLine::Unknown { path, state: "unknown".into() });
                }
            }
        }
    }
    Ok(Outcome { value: Outcome::of(&rows)?.value, ..outcome })
}

pub async fn info(state: &EngineState, path: &VolumePath, walk: bool) -> Result<Outcome> {
    let info = state.pools.get(&path.pool).await?.volumes.info_with(&path.volume, walk).await;
    let info = super::explained(state, path, info).await?;
    let answer = shown(state, path, &info);
    let late = answer.replica.as_ref().and_then(|replica| replica.trouble.clone());
    let mut outcome = Outcome::of(&answer)?.note_all(late.clone());
    for journal in &info.kept_journals {
        outcome = outcome.note(of_journal(journal));
    }
    if let Some(since) = info.not_whole_since_ms {
        outcome = outcome.note(format!(
            "{path} is a copy that is being brought up to date since {}: until that is done no client is shown it",
            utc::show(since)
        ));
    }
    let writers = state.sessions.writers(path);
    if writers.len() > 1 {
        let writers = writers.join(", ");
        outcome = outcome.note(format!(
            "several clients write to {path} ({writers}): no ordinary filesystem bears that; end all but one"
        ));
    }
    Ok(outcome.degraded(info.degraded || info.trouble.is_some() || late.is_some()))
}

/// Returns a sentence that tells what a journal is that can't be replayed, and what to do about it. If a journal is
/// still in its place, the volume was not open here since.
pub fn of_journal(journal: &Path) -> String {
    let at = journal.display();
    if !journal.ends_with("journal") {
        return format!(
            "writes that are in no volume are kept in {at}: `windlass volume salvage {at} POOL/NEW` makes a volume of them; \
             remove the folder when nothing of it is missed"
        );
    }
    format!(
        "another host has had the volume since: what this one had not stored by then, if anything, is in {at}, which `windlass \
         volume salvage` makes a volume of; the next opening here puts it aside"
    )
}

/// Renames a volume. Who is connected goes on, and is listed under the new name. A volume that a command holds alone
/// keeps its name.
pub async fn rename(state: &EngineState, path: &VolumePath, to: &Name) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let to = VolumePath { pool: path.pool.clone(), volume: to.clone() };
    // Who holds a volume alone does so by its name.
    let _renaming = state.sessions.rename([path.clone(), to.clone()])?;
    windlass_volume::rename(volumes, &path.volume, &to.volume).await?;
    let value = json!({"path": to.to_string(), "was": path.to_string()});
    Ok(Outcome { value, ..Outcome::default() }.note(format!("{path} is {to} now")))
}

pub async fn release(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    volumes.follow(&path.volume).await?;
    // Who is connected would go on as the owner.
    state.sessions.check_unused(path, volumes).await?;
    volumes.release(&path.volume).await?;
    volumes.drop_readers(&path.volume, false).await?;
    let value = json!({"path": path.to_string(), "released": true});
    Ok(Outcome { value, ..Outcome::default() }.note(format!("{path} is released: any host may open it")))
}

/// Checks what the maps need against what the table of objects says. Objects that nobody needs are found by a scrub
/// instead.
pub async fn check(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let open = state.pools.get(&path.pool).await?;
    let report = open.volumes.check(&path.volume).await?;
    let bad = !report.wrong.is_empty();
    let note = match report.wrong.len() {
        0 => format!(
            "{path}: what its maps need and what is counted as needed agree; `windlass pool scrub {}` says whether the stores have it",
            path.pool
        ),
        n => format!("{path}: {n} contradictions; nothing that they touch is collected"),
    };
    let mut outcome = Outcome::of(&report)?.note(note);
    for wrong in report.wrong.iter().take(10) {
        outcome = outcome.note(wrong.clone());
    }
    Ok(outcome.degraded(bad))
}

pub async fn collect(state: &EngineState, path: &VolumePath, progress: &ProgressSink) -> Result<Outcome> {
    let open = state.pools.get(&path.pool).await?;
    let before = open.volumes.info(&path.volume).await?.stored_bytes;
    let grace = show_time(open.pool.settings().grace().as_millis() as u64);
    progress
        .say(format!("{path}: packs what is left of objects, and deletes what nobody needs {grace} later"));
    open.volumes.collect(&path.volume).await?;
    let info = open.volumes.info(&path.volume).await?;
    let freed = before.saturating_sub(info.stored_bytes);
    let value = json!({
        "path": path.to_string(), "freed_bytes": freed, "stored_bytes": info.stored_bytes, "live_bytes": info.live_bytes,
    });
    let note = format!("{path}: {} freed, {} stored", show_bytes(freed), show_bytes(info.stored_bytes));
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}

pub async fn take_over(state: &EngineState, path: &VolumePath, accept_loss: bool) -> Result<Outcome> {
    let open = state.pools.get(&path.pool).await?;
    let taken = open.volumes.take_over(&path.volume, accept_loss).await?;
    // Whoever was shut out, or is gone, reads it no more.
    open.volumes.drop_readers(&path.volume, true).await?;
    let mut outcome = Outcome::of(&taken)?;
    outcome = match (&taken.from, taken.already) {
        (_, true) => outcome.note(format!("{path} was free or ours already")),
        (Some(host), _) => {
            outcome.note(format!("{path} was taken over from {host} in {}", show_time(taken.took_ms)))
        }
        (None, _) => outcome.note(format!("{path} was taken over in {}", show_time(taken.took_ms))),
    };
    for note in &taken.notes {
        outcome = outcome.note(note.clone());
    }
    Ok(outcome)
}

pub async fn salvage(state: &EngineState, journal: &str, to: &VolumePath, force: bool) -> Result<Outcome> {
    let volumes = &state.pools.get(&to.pool).await?.volumes;
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

/// Refuses while a volume that is no template has a client: every one of those is connected for writing.
async fn no_writers(state: &EngineState, path: &VolumePath, volumes: &Volumes) -> Result<()> {
    volumes.follow(&path.volume).await?;
    match state.sessions.check_unused(path, volumes).await {
        Err(_) if volumes.info(&path.volume).await?.template => Ok(()),
        unused => unused,
    }
}

/// Fails with `Refused` if the volume has snapshots, which would go with it. Those that it took by itself don't
/// count.
async fn refuse_snapshots(volumes: &Volumes, path: &VolumePath, for_good: bool) -> Result<()> {
    const NAMED: usize = 3;
    let names = match volumes.snapshots_at_stake(&path.volume).await {
        // There is none of that name, or its creation was broken off.
        Err(e) if e.is(Kind::NotFound) => return Ok(()),
        names => names.map_err(|e| {
            e.context(format!(
                "whether {path} has snapshots can't be told, and --with-snapshots does not ask"
            ))
        })?,
    };
    if names.is_empty() {
        return match volumes.has_sealed_marks(&path.volume).await? {
            false => Ok(()),
            true => {
                let why = format!(
                    "{path} is locked here, so whether snapshots of it were taken lately can't be told, and they would go with \
                     it: `windlass volume unlock {path}` first, or add --with-snapshots (in the API `with_snapshots`)"
                );
                Err(Error::new(Kind::Refused, why))
            }
        };
    }
    // What --with-snapshots would not help against is told first.
    volumes.check_remove(&path.volume, for_good).await?;
    let named = names.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    let has = show_count(names.len() as u64, "snapshot");
    let why = format!(
        "{path} has {has}, which would go with it: {named}{others}; add --with-snapshots (in the API `with_snapshots`), or \
         remove them first"
    );
    Err(Error::new(Kind::Refused, why))
}

/// Removes a volume: into the trash, where the pool has one and `mode` does not say otherwise.
pub async fn remove(
    state: &EngineState,
    path: &VolumePath,
    dry_run: bool,
    (mode, with_snapshots): (RemoveMode, bool),
) -> Result<Outcome> {
    if mode == RemoveMode::FromTrash && !dry_run {
        return super::trash::purge(state, path).await;
    }
    let open = state.pools.get(&path.pool).await?;
    let volumes = &open.volumes;
    volumes.follow(&path.volume).await?;
    // Who is connected would get errors, and so would who connects before it is gone.
    let alone = match dry_run {
        true => state.sessions.check_unused(path, volumes).await.map(|()| None)?,
        false => Some(state.sessions.alone(path, volumes, "removed", false).await?),
    };
    // What clients of other hosts only read has no owner.
    match volumes.check_unread(&path.volume).await {
        Err(e) if !e.is(Kind::NotFound) => return Err(e),
        _ => {}
    }
    let keeps = super::trash::keeps(&open, mode).await?;
    if !with_snapshots {
        refuse_snapshots(volumes, path, !keeps).await?;
    }
    // A volume whose creation was broken off has nothing to tell.
    let kept = volumes.info(&path.volume).await.map(|i| i.kept_journals).unwrap_or_default();
    if dry_run {
        volumes.check_remove(&path.volume, !keeps).await?;
        let how = if keeps { "put into the trash" } else { "removed" };
        let all = if with_snapshots { ", with its snapshots" } else { "" };
        return removed(path, true, &format!("{path} would be {how}{all}"));
    }
    // Another host may have given the name to another volume, of which nothing was asked.
    let id = alone.as_ref().map(Alone::volume).transpose()?;
    if keeps && Trash(volumes).discard_this(&path.volume, id).await? {
        return Ok(super::trash::discarded(&open, "volume", path));
    }
    volumes.remove_this(&path.volume, id).await?;
    let mut outcome = removed(path, false, &format!("{path} is removed"))?;
    for journal in kept.iter().filter(|j| j.file_name().is_some_and(|n| n != "journal")) {
        outcome = outcome.note(format!("writes that never reached it stay kept in {}", journal.display()));
    }
    Ok(outcome)
}

pub(super) fn removed(path: &impl std::fmt::Display, dry_run: bool, note: &str) -> Result<Outcome> {
    let value = json!({"path": path.to_string(), "removed": !dry_run, "dry_run": dry_run});
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}
