//! Verbs of mounts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::daemon::answers::{KeptOf, MountInfo, MountList};
use crate::daemon::api::Outcome;
use crate::daemon::engine_tables::EngineState;
use crate::daemon::mounts::AskedBy;
use crate::daemon::progress::ProgressSink;
use crate::daemon::state_dir::KnownPool;
use crate::daemon::store_overlap;
use windlass_base::units::{show_bytes, show_count};
use windlass_base::{Error, Kind, Result};
use windlass_fs::{KeptFile, KeptFiles, MountOptions};
use windlass_store::StoreUrl;

/// Most kept files that a listing names: an answer is one line of bounded length.
const LISTED: usize = 1000;

/// Longest time for which a bucket's answer is waited for.
const ASK: Duration = Duration::from_secs(3);

/// Most folders below a `file://` bucket in which a pool's label is looked for.
const FOLDERS_MAX: usize = 1000;

/// Refuses a bucket that holds a pool's stores: its files are the pool's, and whoever moved or removed one would
/// damage the pool. The mount itself sees only a label at its own top.
async fn apart_from_pools(state: &EngineState, known: &[KnownPool], url: &StoreUrl) -> Result<()> {
    let refused = |store: &str, pool: &str| {
        let why = format!(
            "{url} overlaps the store {store} of pool {pool}, whose files must not be touched: mount another"
        );
        Err(Error::new(Kind::Refused, why))
    };
    if let Some((store, pool)) = store_overlap::overlapped(known, url) {
        return refused(&store.to_string(), pool.as_str());
    }
    let StoreUrl::File { dir } = url else { return Ok(()) };
    for name in state.host_context.disk.list(dir).await.unwrap_or_default().iter().take(FOLDERS_MAX) {
        let store = dir.join(name);
        if let Some(label) = store_overlap::label_in(&state.host_context, &store).await {
            return refused(&store.display().to_string(), label.hint.name.as_str());
        }
    }
    Ok(())
}

/// Refuses a mount over a folder that this daemon reads, or above one. It would answer the daemon's own requests: it
/// would wait for itself for ever, and all else on the same disk with it. A mount inside a folder of objects would
/// hide some of them.
fn beside_its_folders(known: &[KnownPool], url: &StoreUrl, at: &str) -> Result<()> {
    let at = StoreUrl::File { dir: Path::new(at).to_owned() };
    let refused = |what: String| {
        let why =
            format!("can't mount at {at}: it is, or lies in or above, {what}; choose another directory");
        Err(Error::new(Kind::Refused, why))
    };
    if url.overlaps(&at) {
        return refused("the bucket's own folder".to_owned());
    }
    if let Some((_, pool)) = store_overlap::overlapped(known, &at) {
        return refused(format!("a store's folder of pool {pool}"));
    }
    Ok(())
}

/// Returns the options without `remount`, and whether it was among them.
fn remount(options: &[String]) -> (Vec<String>, bool) {
    let (asked, options): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|o| o == "remount");
    (options, !asked.is_empty())
}

pub async fn mount(
    state: &EngineState,
    url: &str,
    (dir, asked_by): (&str, AskedBy),
    options: &[String],
) -> Result<Outcome> {
    let typed = url;
    let url = state.config().store_url(url)?;
    let (options, changes) = remount(options);
    if changes {
        state.mounts.change(&url, dir, &options).await?;
        return Outcome::of(&json!({"url": url, "dir": dir}));
    }
    let mut place: StoreUrl = url.parse()?;
    for (name, value) in &MountOptions::parse(&options.join(","))?.1 {
        place.set(name, value)?;
    }
    // As it is noted on disk: the engine of mounts hears of no pool that the daemon makes.
    let known = state.host_context.home.known_pools(&*state.host_context.disk).await?;
    apart_from_pools(state, &known, &place).await?;
    beside_its_folders(&known, &place, dir)?;
    let notes = state
        .mounts
        .add(&state.host_context, (&url, typed), (dir, asked_by), &options, state.pools.memory())
        .await?;
    Ok(Outcome { value: json!({"url": url, "dir": dir}), notes, ..Outcome::default() })
}

pub async fn unmount(state: &EngineState, dir: &str, progress: &ProgressSink) -> Result<Outcome> {
    let watch = |done, of| progress.tell("uploading", done, of);
    state.mounts.remove(&state.host_context, dir, &watch).await?;
    Ok(Outcome { value: json!({"dir": dir, "unmounted": true}), ..Outcome::default() })
}

pub async fn ended(state: &EngineState, dir: &str) -> Result<Outcome> {
    state.mounts.ended(dir).await;
    Ok(Outcome::default())
}

/// Asks the buckets of all mounts, which nobody may have used for long.
pub fn ask_all(state: &EngineState) -> impl Future<Output = ()> + Send + use<> {
    state.mounts.ask(&state.host_context.rt, ASK)
}

/// Returns a sentence for each mount that has a trouble.
pub fn troubles(mounts: &[MountInfo]) -> Vec<String> {
    let sentence = |MountInfo { dir, url, unsent_files, unsent_bytes, trouble }: &MountInfo| {
        let why = trouble.as_ref()?;
        let (files, bytes) = (show_count(*unsent_files, "file"), show_bytes(*unsent_bytes));
        Some(match unsent_files {
            0 => format!(
                "mount {dir} of {url}: the bucket does not answer: {why}. `windlass doctor --store '{url}'` looks why"
            ),
            n => format!(
                "mount {dir} of {url}: {files} ({bytes}) can't be stored now, and {} on this host until the bucket takes {}: {why}",
                if *n == 1 { "waits" } else { "wait" },
                if *n == 1 { "it" } else { "them" },
            ),
        })
    };
    mounts.iter().filter_map(sentence).collect()
}

pub fn by_bucket(kept: &[KeptFile]) -> Vec<KeptOf> {
    let mut all: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for one in kept {
        let (files, bytes) = all.entry(&one.url).or_default();
        *files += 1;
        *bytes += one.bytes;
    }
    all.into_iter().map(|(url, (files, bytes))| KeptOf { url: url.to_owned(), files, bytes }).collect()
}

/// Returns a sentence for each bucket of which something is kept.
pub fn kept_notes(kept: &[KeptOf]) -> Vec<String> {
    let sentence = |KeptOf { url, files, bytes }: &KeptOf| {
        format!(
            "{} of {url} ({}) could not be stored and are kept on this host: mount it to have them sent, or see `windlass mount \
             export` and `windlass mount drop`",
            show_count(*files, "file"),
            show_bytes(*bytes)
        )
    };
    kept.iter().map(sentence).collect()
}

pub async fn list(state: &EngineState) -> Result<Outcome> {
    ask_all(state).await;
    let mut files = state.mounts.kept(&state.host_context).await?;
    let kept = by_bucket(&files);
    let mut notes = kept_notes(&kept);
    if files.len() > LISTED {
        notes.push(format!("the first {LISTED} of {} kept files are listed", files.len()));
        files.truncate(LISTED);
    }
    let list = MountList { mounts: state.mounts.list(), kept, kept_files: files };
    Ok(Outcome::of(&list)?.note_all(troubles(&list.mounts)).note_all(notes))
}

pub async fn export(state: &EngineState, url: &str, to: &str) -> Result<Outcome> {
    let work = async |keep: KeptFiles| {
        let (copied, result) = keep.copy_out(Path::new(to)).await;
        let count = show_count(copied.len() as u64, "file");
        result.map_err(|why| why.context(format_args!("{count} copied to {to}, not all")))?;
        let outcome = Outcome::of(&json!({"url": url, "copied": copied.len()}))?;
        Ok(outcome
            .note(format!("{count} copied to {to}; they are kept here too, until they are sent or dropped")))
    };
    state.mounts.with_kept(&state.host_context, url, work).await
}

pub async fn drop_kept(state: &EngineState, url: &str, dry_run: bool) -> Result<Outcome> {
    let work = async |keep: KeptFiles| {
        let list = keep.list();
        let bytes = show_bytes(list.iter().map(|one| one.bytes).sum());
        let count = show_count(list.len() as u64, "file");
        let outcome = Outcome::of(&json!({"url": url, "files": list.len(), "dry_run": dry_run}))?;
        if dry_run {
            return Ok(outcome.note(format!("{count} ({bytes}) would be dropped")));
        }
        let (dropped, result) = keep.drop_all().await;
        let whole = show_count(dropped as u64, "file");
        result.map_err(|why| why.context(format_args!("{whole} dropped, not all")))?;
        Ok(outcome.note(format!(
            "{count} ({bytes}) dropped: what they held is nowhere else, unless it was sent since"
        )))
    };
    state.mounts.with_kept(&state.host_context, url, work).await
}
