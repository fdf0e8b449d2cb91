//! A pool deleted with all that its stores hold.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::daemon::api::{Outcome, PoolDestroy};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::progress::ProgressSink;
use windlass_base::units::{show_bytes, show_count};
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{Deleted, Destruction, Progress};
use windlass_volume::{Trash, VolumeInfo, check_unread, end_all};

/// Most volumes that are named before they are deleted.
const NAMED_MAX: usize = 100;

/// Contents of a pool, by its volumes' counters.
#[derive(Default)]
struct Contents {
    volumes: Vec<(Name, VolumeInfo)>,
    /// Names of volumes that can't be looked at, and why.
    unknown: Vec<String>,
    /// Bytes that the volumes have stored, with parity.
    stored_bytes: u64,
}

impl Contents {
    fn snapshots(&self) -> u64 {
        self.volumes.iter().map(|(_, info)| info.snapshots + info.history_marks).sum()
    }
}

/// Deletes a pool, after it was said what that takes. Nothing is deleted without the pool's very name in `confirmed`,
/// while a client is connected, or while another host owns a volume.
pub async fn destroy(state: &EngineState, args: &PoolDestroy, progress: &ProgressSink) -> Result<Outcome> {
    let name = &args.name;
    state.sessions.check_pool_unused(name, state.pools.known_id(name))?;
    let found = state.pools.destruction(name).await?;
    let (open, is_ours) = open(state, &found, args.force).await?;
    let ended = async {
        let destruction = with_all_stores(state, open.as_deref(), found, args.force).await?;
        let ended = end_volumes(state, args, &destruction, open.as_deref(), progress).await?;
        Ok::<_, Error>((destruction, ended))
    };
    let ended = ended.await;
    if let Some(open) = open.filter(|_| is_ours) {
        open.pool.close().await;
    }
    let (destruction, ended) = ended?;
    let contents = match ended {
        Ended::Dry(outcome) => return Ok(outcome),
        Ended::All(contents) => contents,
    };
    // Noted on disk before the first object is deleted: a pool that has lost some must never be opened here again.
    state.pools.begin_destruction(name, destruction.id).await?;
    state.sessions.forget(name);
    let watch = |step: Progress| progress.tell("deleting objects", step.done, step.of);
    let deleted = destruction.run(args.force, &watch).await.map_err(|e| unfinished(name, &e))?;
    let kept = state.pools.forget_destroyed(name, destruction.id).await?;
    let mut outcome = Outcome::of(&report(&destruction, &contents, Some(deleted)))?;
    let (objects, bytes) = (show_count(deleted.objects, "object"), show_bytes(deleted.bytes));
    outcome = outcome.note(format!("pool {name} is destroyed: {objects} deleted, {bytes}"));
    for journal in kept {
        let at = journal.display();
        outcome = outcome.note(format!("writes that were in no volume stay kept in {at}"));
    }
    let left = destruction.left.iter().map(|(url, why)| format!("store {url} keeps its contents: {why}"));
    Ok(outcome.note_all(left).degraded(!destruction.left.is_empty()))
}

/// Result of the step that ends the volumes.
enum Ended {
    /// Nothing was done; the outcome tells what would be.
    Dry(Outcome),
    All(Contents),
}

/// Judges all volumes, and then ends them.
async fn end_volumes(
    state: &EngineState,
    args: &PoolDestroy,
    destruction: &Destruction,
    open: Option<&OpenPool>,
    progress: &ProgressSink,
) -> Result<Ended> {
    let name = &args.name;
    let contents = match open {
        Some(open) => contents(open).await?,
        None => Contents::default(),
    };
    judge_owners(state, name, &contents, (args.force, args.dry_run))?;
    let kept = match open {
        Some(open) => check_ends(open, &contents).await,
        None => Ok(()),
    };
    let said = what_it_deletes(destruction, open.is_some(), &contents);
    if args.dry_run {
        let outcome = Outcome::of(&report(destruction, &contents, None))?;
        let outcome = outcome.note_all(said).note_all(volumes(name, &contents));
        return Ok(Ended::Dry(outcome.note_all(kept.err().map(|e| e.to_string()))));
    }
    kept?;
    confirm(args, destruction, &said)?;
    said.into_iter().for_each(|sentence| progress.say(sentence));
    if let Some(open) = open {
        let all = contents.volumes.len() as u64;
        match end_all(&open.volumes, &|ended| progress.tell("ending volumes", ended, all)).await {
            Err(e) if args.force && is_left_undecided(&e) => {
                progress.say(format!("not all volumes could be ended ({e}): they are deleted all the same"));
            }
            done => done?,
        }
    }
    Ok(Ended::All(contents))
}

/// Tells whether the stores let nothing be decided, for which `--force` does not wait.
fn is_left_undecided(e: &Error) -> bool {
    matches!(e.kind(), Kind::NoSpace | Kind::Unavailable | Kind::Timeout)
}

/// Opens the pool so that its volumes can be judged, and tells whether it was opened for this alone. `None`: so many
/// of its stores are condemned that nobody can use it any more; or it can't be opened and `force` is given.
async fn open(
    state: &EngineState,
    destruction: &Destruction,
    force: bool,
) -> Result<(Option<Arc<OpenPool>>, bool)> {
    if destruction.begun && destruction.is_over() {
        return Ok((None, false));
    }
    let name = &destruction.name;
    let opened = match state.pools.get(name).await {
        Ok(open) => return Ok((Some(open), false)),
        Err(_) if destruction.begun => state.pools.open_to_destroy(name).await,
        Err(e) => Err(e),
    };
    match opened {
        Ok(open) => Ok((Some(open), true)),
        Err(_) if force => Ok((None, false)),
        Err(e) => {
            let way = "so nobody can tell whether another host uses it; --force destroys it all the same";
            Err(Error::new(e.kind(), format!("{e}; {way}")))
        }
    }
}

/// Finds the stores once more where the open pool lists others: of a replacement that is under way no label tells but
/// the new store's.
async fn with_all_stores(
    state: &EngineState,
    open: Option<&OpenPool>,
    found: Destruction,
    force: bool,
) -> Result<Destruction> {
    let Some(open) = open else { return Ok(found) };
    match open.pool.hear().await {
        // What lies in stores that nobody can tell of stays.
        Err(_) if force => return Ok(found),
        heard => heard?,
    }
    if !open.pool.is_moving() {
        return Ok(found);
    }
    state.pools.remember_places(&found.name, open).await?;
    state.pools.destruction(&found.name).await
}

async fn contents(open: &OpenPool) -> Result<Contents> {
    let mut contents = Contents::default();
    let trash = Trash(&open.volumes).list(super::LOOK_ONE).await?;
    let trash = trash.into_iter().map(|gone| (gone.name, gone.info));
    for (name, info) in open.volumes.list(super::LOOK_ONE).await?.into_iter().chain(trash) {
        match info {
            Ok(info) => contents.volumes.push((name, info)),
            Err(e) => contents.unknown.push(format!("{}/{name}: {e}", open.pool.name())),
        }
    }
    let layout = open.pool.layout();
    let stored: u64 = contents.volumes.iter().map(|(_, info)| info.stored_bytes).sum();
    contents.stored_bytes = stored / layout.k() as u64 * layout.n() as u64;
    Ok(contents)
}

/// Refuses the destruction while another host may write to a volume, and while a volume is a template.
fn judge_owners(
    state: &EngineState,
    name: &Name,
    contents: &Contents,
    (force, dry_run): (bool, bool),
) -> Result<()> {
    let here = state.host_context.host.id;
    let owned = |info: &VolumeInfo| !info.released && info.owner_id.is_some_and(|owner| owner != here);
    if let Some((volume, info)) = contents.volumes.iter().find(|(_, info)| owned(info)) {
        let owner = info.owner.as_deref().unwrap_or("another host");
        let why = format!(
            "{owner} owns {name}/{volume}: run `windlass volume release {name}/{volume}` there first"
        );
        return Err(Error::new(Kind::Owned, why));
    }
    let template = contents.volumes.iter().find(|(_, info)| info.template);
    if let Some((volume, _)) = template.filter(|_| !dry_run) {
        let path = format!("{name}/{volume}");
        let why = format!("{path} is a template: `windlass volume set {path} template=false` first");
        return Err(Error::new(Kind::Refused, why));
    }
    match contents.unknown.first().filter(|_| !force) {
        Some(why) => {
            let why = format!("nobody can tell who owns {why}; --force destroys it all the same");
            Err(Error::new(Kind::Unavailable, why))
        }
        None => Ok(()),
    }
}

/// Checks that each volume may end, before the first one does; each one's own end asks once more.
///
/// # Errors
/// `Refused`: a snapshot is locked. `Owned`: a client of another host has a volume open.
async fn check_ends(open: &OpenPool, contents: &Contents) -> Result<()> {
    check_unread(&open.volumes).await?;
    for (volume, _) in contents.volumes.iter().filter(|(_, info)| info.locked_snapshots > 0) {
        match open.volumes.check_unlocked(volume).await {
            // In the trash is nothing that is locked.
            Err(e) if !e.is(Kind::NotFound) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Returns sentences that tell how much is deleted, and where. `is_open`: the volumes are known.
fn what_it_deletes(destruction: &Destruction, is_open: bool, contents: &Contents) -> Vec<String> {
    let name = &destruction.name;
    let volumes = show_count((contents.volumes.len() + contents.unknown.len()) as u64, "volume");
    let (snapshots, stored) =
        (show_count(contents.snapshots(), "snapshot"), show_bytes(contents.stored_bytes));
    let mut said = vec![match is_open {
        true => format!("pool {name} holds {volumes} with {snapshots}, {stored} stored"),
        false if destruction.begun => format!("the destruction of pool {name} was begun and is finished"),
        false => format!("pool {name} can't be opened: what it holds can't be told"),
    }];
    let urls: Vec<&str> = destruction.urls().collect();
    if !urls.is_empty() {
        said.push(format!("everything below {} is deleted", urls.join(", ")));
    }
    if !destruction.empty.is_empty() {
        said.push(format!(
            "nothing lies below {}: it was deleted before, or its disk is not mounted",
            destruction.empty.join(", ")
        ));
    }
    said.extend(destruction.left.iter().map(|(url, why)| format!("store {url} keeps its contents: {why}")));
    said
}

/// Returns a sentence for each volume.
fn volumes(name: &Name, contents: &Contents) -> Vec<String> {
    let one = |(volume, info): &(Name, VolumeInfo)| {
        let (snapshots, stored) =
            (show_count(info.snapshots + info.history_marks, "snapshot"), show_bytes(info.stored_bytes));
        format!("volume {name}/{volume}: {snapshots}, {stored}")
    };
    let mut said: Vec<String> = contents.volumes.iter().take(NAMED_MAX).map(one).collect();
    let more = contents.volumes.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        said.push(format!("and {}", show_count(more as u64, "more volume")));
    }
    said.extend(contents.unknown.iter().map(|why| format!("volume {why}")));
    said
}

/// Refuses unless all is given that is needed before anything is deleted.
fn confirm(args: &PoolDestroy, destruction: &Destruction, said: &[String]) -> Result<()> {
    let name = &args.name;
    if args.confirmed.as_ref() != Some(name) {
        let why = format!(
            "{}; --dry-run names the volumes, --yes-destroy {name} deletes it all for good",
            said.join("; ")
        );
        return Err(Error::new(Kind::Refused, why));
    }
    match destruction.left.first().filter(|_| !args.force) {
        Some((url, why)) => {
            let why = format!(
                "store {url} can't be emptied: {why}. Bring it back first; --force destroys the rest and leaves that store"
            );
            Err(Error::new(Kind::Refused, why))
        }
        None => Ok(()),
    }
}

fn unfinished(name: &Name, e: &Error) -> Error {
    let why = format!(
        "pool {name} is not destroyed yet: {e}; `windlass pool destroy {name} --yes-destroy {name}` goes on"
    );
    Error::new(e.kind(), why)
}

fn report(destruction: &Destruction, contents: &Contents, deleted: Option<Deleted>) -> Value {
    let left: Vec<Value> =
        destruction.left.iter().map(|(url, why)| json!({"store": url, "reason": why})).collect();
    json!({
        "name": destruction.name, "destroyed": deleted.is_some(), "volumes": contents.volumes.len(),
        "snapshots": contents.snapshots(), "stored_bytes": contents.stored_bytes,
        "stores": destruction.urls().collect::<Vec<_>>(), "left": left,
        "deleted_objects": deleted.map(|d| d.objects), "deleted_bytes": deleted.map(|d| d.bytes),
    })
}
