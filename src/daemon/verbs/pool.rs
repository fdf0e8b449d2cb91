//! Verbs of pools.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use crate::daemon::answers::{PoolAnswer, PoolLine, PoolUsage};
use crate::daemon::api::{GivenKey, Outcome, PoolCreate, ScrubRequest};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::key_places::pool_key;
use crate::daemon::pool_capacity::{Capacity, stored};
use crate::daemon::pools::OpenPool;
use crate::daemon::progress::ProgressSink;
use crate::daemon::shell_command::shell_word;
use windlass_base::known_time::age_ms;
use windlass_base::units::{show_bytes, show_count, show_time};
use windlass_base::{Error, Kind, Name, Result, VolumeId, utc};
use windlass_keys::PoolKey;
use windlass_pool::{
    ASIDE, CreateOptions, Finding, Layout, Pool, PoolSettings, PoolStatus, Progress, ScrubReport, StoreState,
    StoreStatus,
};
use windlass_store::{ConditionalPuts, StoreSpec};
use windlass_volume::{MapWalk, Unreadable};

/// Most volumes and snapshots of which it is said which bytes are lost.
const TOLD_MAX: usize = 100;
/// Time for which the trash of a new pool keeps what is removed.
const TRASH: &str = "24h";
/// Longest time for which `pool status` waits for a store's answer.
const ASK: Duration = Duration::from_secs(3);
/// Longest time for which `pool status` waits for the heads of all volumes.
const USAGE: Duration = Duration::from_secs(10);
/// Longest time in which writes of a pool that is to be forgotten may be stored.
const DRAIN: Duration = Duration::from_secs(30);

pub fn lines(state: &EngineState) -> Vec<PoolLine> {
    let (opened, capacities) = (state.pools.opened(), &state.capacities);
    let opened_as = |name: &Name| opened.iter().find(|(of, _)| of == name).map(|(_, open)| open);
    let line = |known: crate::daemon::KnownPool| {
        let open = opened_as(&known.name).map(|open| &*open.pool);
        let (state, trouble) = match open {
            None => ("closed", state.pools.why_closed(&known.name)),
            Some(pool) => state_of(pool),
        };
        let layout = open.map(|pool| pool.layout().to_string());
        let capacity = capacities.of(&known.name);
        let fills_up = capacity.warning.filter(|_| open.is_some());
        PoolLine {
            layout,
            stores: known.stores.len(),
            state: state.into(),
            trouble: trouble.or(fills_up).or_else(|| open.and_then(|pool| flaw(&pool.status()))),
            // The counters know what was stored since the last look.
            used_bytes: opened_as(&known.name).and_then(|open| stored(open.as_ref())).or(capacity.used_bytes),
            free_bytes: capacity.free_bytes,
            name: known.name,
        }
    };
    state.pools.known().into_iter().map(line).collect()
}

/// Returns the worst that is true of an open pool, and why.
fn state_of(pool: &Pool) -> (&'static str, Option<String>) {
    let condition = pool.whole_condition();
    if let Some((_, why)) = condition.trouble() {
        return ("stalled", Some(why));
    }
    if let Some(why) = condition.loss() {
        return ("trouble", Some(why));
    }
    let moving = || pool.is_moving().then(|| "the replacement of a store is not finished".to_owned());
    match condition.shortage().or_else(moving) {
        Some(why) => ("degraded", Some(format!("redundancy is short: {why}"))),
        None => ("open", None),
    }
}

/// Returns what is wrong with a pool that stores and bears all that it should.
fn flaw(pool: &PoolStatus) -> Option<String> {
    let copies = pool.damaged_registers.len() as u64;
    if copies > 0 {
        return Some(format!(
            "{} damaged: the others decide without it",
            show_count_of(copies, ["copy of a register is", "copies of registers are"])
        ));
    }
    if pool.stores.iter().any(|store| store.clock_ahead_ms != 0) {
        return Some("this host's clock is wrong, by what stores say".to_owned());
    }
    let keep = pool.stores.iter().filter(|store| store.keeps_all).count() as u64;
    (keep > 0).then(|| {
        let stores = show_count_of(keep, ["store does", "stores do"]);
        format!("{stores} not let this host delete: objects that nobody needs stay there, and are paid for")
    })
}

/// Returns the count with the words for one thing, or for several.
fn show_count_of(n: u64, [one, many]: [&str; 2]) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Returns what to do about a store that takes no writes or does not answer, by its reason.
fn cure_of(pool: &Name, store: &StoreStatus, reason: &str) -> String {
    let says = |any: &[&str]| any.iter().any(|word| reason.contains(word));
    let url = &store.url;
    if says(&["AccessDenied"]) {
        return format!("give this host the rights that `windlass policy pool '{url}'` prints");
    }
    if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "redentials"]) {
        return format!("give the right keys: `windlass credentials set '{url}'`");
    }
    if says(&["No space left", "NoSuchBucket", "Read-only file system"]) {
        let what = match says(&["No space left"]) {
            true => "free space there",
            false if says(&["NoSuchBucket"]) => "make the bucket again, or correct its name",
            false => "mount its disk writable again",
        };
        return format!("{what}; it is tried again by itself");
    }
    if says(&["its filesystem is frozen"]) {
        let thaw = "thaw it (`fsfreeze --unfreeze` and its mount point)";
        return format!("{thaw}, or bring its disk or server back; what waits then goes on");
    }
    format!("it is tried again by itself, and `windlass doctor --pool {pool}` tries it now")
}

/// Returns what `status` says below a pool's trouble: why each store is away, and what to do.
pub fn advice(pool: &PoolStatus) -> Vec<String> {
    let name = &pool.name;
    let mut said = Vec::new();
    for store in &pool.stores {
        // A store's reason names it, mostly.
        let reason = store.reason.as_deref().unwrap_or("it does not answer");
        let cure = match store.state {
            StoreState::In | StoreState::Unknown if store.keeps_all => {
                let url = &store.url;
                said.push(format!(
                    "  {url} kept {} that nobody needs: give this host the rights that `windlass policy pool '{url}'` prints",
                    show_count(store.undeleted, "object")
                ));
                continue;
            }
            StoreState::In | StoreState::Unknown => continue,
            StoreState::Failing | StoreState::Down => cure_of(name, store, reason),
            StoreState::Out => format!(
                "bring back what it held; if that is gone for good, `windlass pool repair {name}` takes an empty store in at \
                 this place, and `windlass pool replace` one at another"
            ),
        };
        let url = if reason.contains(&store.url) { String::new() } else { format!("{}: ", store.url) };
        said.push(format!("  {url}{reason}: {cure}"));
    }
    if pool.damaged_shards > 0 {
        let shards = show_count(pool.damaged_shards as u64, "shard");
        said.push(format!("  {shards} damaged or gone: `windlass pool repair {name}` rebuilds what it can"));
    }
    said.extend(pool.stores.iter().filter(|store| store.clock_ahead_ms != 0).map(|store| {
        let (apart, url) = (show_time(store.clock_ahead_ms.unsigned_abs()), &store.url);
        let way = if store.clock_ahead_ms > 0 { "behind" } else { "ahead of" };
        format!(
            "  it is {apart} {way} that of {url}: set it by `timedatectl set-ntp true` or `chronyc makestep`. Requests are signed \
             by the store's clock until then"
        )
    }));
    said.extend(pool.damaged_registers.iter().map(|copy| format!("  {}", copy.reason)));
    if !pool.damaged_registers.is_empty() {
        said.push(format!("  `windlass pool repair {name}` mends them"));
    }
    said.extend(pool.finishing().into_iter().map(|way| format!("  {way}")));
    said
}

/// Returns a sentence for each store whose registers were older than those of the others.
pub fn older_stores(pool: &PoolStatus) -> Vec<String> {
    let older = pool.stores.iter().filter(|store| store.older);
    let said = older.map(|store| {
        format!(
            "{} was away, or was put back from a backup: its registers were older than those of the others, and what it \
             lacks is being looked for",
            store.url
        )
    });
    said.collect()
}

/// Asks the stores of all open pools that are not known to be away: nobody may have used them for long.
pub fn ask_all(state: &EngineState) -> impl Future<Output = ()> + Send + use<> {
    let (rt, opened) = (state.host_context.rt.clone(), state.pools.opened());
    let members = opened.iter().flat_map(|(_, open)| open.pool.membership().members.clone());
    let asked: Vec<_> = members.filter(|m| m.failing().is_none()).collect();
    async move {
        join_all(asked.iter().map(|m| rt.timeout(ASK, m.attest()))).await;
    }
}

/// Asks every store: what a quiet pool knows of them may be old.
pub async fn ask(pool: &Pool) {
    let members = pool.membership().members.clone();
    join_all(members.iter().map(|m| pool.rt().timeout(ASK, m.attest()))).await;
    // Another host may have finished it; unless that can be told, what is known here is shown.
    if pool.is_moving() {
        let _ = pool.rt().timeout(ASK, pool.hear()).await;
    }
}

fn settings(args: &PoolCreate) -> Result<PoolSettings> {
    let mut settings = PoolSettings { ack_zone: args.ack_zone, ..PoolSettings::default() };
    if let Some(time) = &args.degrade_after {
        settings.assign(&format!("degrade-after={time}"))?;
    }
    settings.assign(&format!("trash={}", args.trash.as_deref().unwrap_or(TRASH)))?;
    Ok(settings)
}

/// Returns a sentence that tells what the trash of a new pool costs.
fn trash_costs(pool: &Pool) -> Option<String> {
    pool.settings().trash().map(|kept| {
        format!(
            "volumes and snapshots that are removed stay in the trash for {}, and take their room in the stores until then; `windlass \
             pool set {} trash=0` ends that, and removes for good what is in it",
            show_time(kept.as_millis() as u64),
            pool.name()
        )
    })
}

pub async fn create(state: &EngineState, args: PoolCreate) -> Result<Outcome> {
    let options = CreateOptions { settings: settings(&args)?, force: args.force };
    let layout = args.layout.as_deref().map(str::parse).transpose()?;
    let stores = urls(state, &args.stores)?;
    if args.if_absent
        && let Some(known) = state.pools.known().into_iter().find(|k| k.name == args.name)
    {
        let pool = same_pool(state, &known, layout, &stores).await?;
        if args.key.is_some() != known.has_key {
            let how = if known.has_key { "with" } else { "without" };
            return Err(Error::new(Kind::Exists, format!("pool {} exists, but {how} a key", known.name)));
        }
        return Ok(pool);
    }
    let key = key_of(args.key.as_ref())?;
    let open = state.pools.create(&args.name, layout, stores, options, key).await?;
    let mut outcome = Outcome::of(&serde_json::json!({
        "name": args.name, "id": open.pool.id().to_string(), "layout": open.pool.layout().to_string(),
        "stores": open.pool.status().stores.iter().map(holds).collect::<Vec<_>>(),
    }))?;
    let over = show_count(open.pool.membership().members.len() as u64, "store");
    outcome = outcome.note(format!("pool {} is there: {} over {over}", args.name, open.pool.layout()));
    outcome = outcome.note_all(holders(&open.pool));
    outcome = outcome.note_all(open.pool.survives());
    outcome = outcome.note_all(trash_costs(&open.pool));
    Ok(outcome.note_all(key_is_to_be_named(state, &args.name, &open.pool)))
}

/// What a store was found to keep, and holds.
fn holds(store: &StoreStatus) -> serde_json::Value {
    let StoreStatus { url, conditions, registers, .. } = store;
    serde_json::json!({ "url": url, "conditions": conditions, "registers": registers, "data": true })
}

/// Which store holds what, as a table, where some hold data only.
fn holders(pool: &Pool) -> Vec<String> {
    let stores = pool.status().stores;
    if stores.iter().all(|store| store.conditions.are_held()) {
        return Vec::new();
    }
    let width = stores.iter().map(|store| store.url.chars().count()).max().unwrap_or(0).max("STORE".len());
    let row = |url: &str, conditions: &str, registers: &str, data: &str| {
        format!("{url:width$}  {conditions:10}  {registers:9}  {data}")
    };
    let heading = row("STORE", "CONDITIONS", "REGISTERS", "DATA");
    let rows = stores.iter().map(|store| {
        let conditions = match store.conditions {
            ConditionalPuts::Held => "held",
            ConditionalPuts::Racing => "racing",
            ConditionalPuts::None => "none",
        };
        row(&store.url, conditions, if store.registers { "yes" } else { "no" }, "yes")
    });
    std::iter::once(heading).chain(rows).collect()
}

fn key_of(given: Option<&GivenKey>) -> Result<Option<PoolKey>> {
    given.map(|given| pool_key(&given.offered()?)).transpose()
}

/// Returns a reminder to name the pool's key in windlass.toml: a key that a command gives is kept only as long as
/// this process lives.
fn key_is_to_be_named(state: &EngineState, name: &Name, pool: &Pool) -> Option<String> {
    let missing = pool.has_key() && state.config().pool_key_place(name).is_none();
    missing.then(|| {
        format!(
            "the pool opens again only with its key: set `key_file` or `key_command` under [pool.{name}] in windlass.toml, \
             here and on every host that uses it, and keep a copy of the key"
        )
    })
}

/// Answers `--if-absent` for a pool that this host knows, and fails unless it is the one that was asked for.
async fn same_pool(
    state: &EngineState,
    known: &crate::daemon::KnownPool,
    layout: Option<Layout>,
    stores: &[String],
) -> Result<Outcome> {
    let name = &known.name;
    let canonical = |all: &[String]| -> Result<Vec<String>> {
        let mut all =
            all.iter().map(|s| Ok(s.parse::<StoreSpec>()?.to_string())).collect::<Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    };
    if canonical(&known.stores)? != canonical(stores)? {
        let why = format!("this host knows a pool {name}, but with other stores: {}", known.stores.join(" "));
        return Err(Error::new(Kind::Exists, why));
    }
    let pool = state.pools.get(name).await?.pool.clone();
    if let Some(asked) = layout.filter(|l| *l != pool.layout()) {
        let why = format!("pool {name} exists, but with layout {}, not {asked}", pool.layout());
        return Err(Error::new(Kind::Exists, why));
    }
    let value = serde_json::json!({
        "name": name, "id": pool.id().to_string(), "layout": pool.layout().to_string(),
    });
    Ok(Outcome { value, ..Outcome::default() }.note(format!("pool {name} exists already")))
}

fn urls(state: &EngineState, given: &[String]) -> Result<Vec<String>> {
    given.iter().map(|s| state.config().store_url(s)).collect()
}

pub async fn add(
    state: &EngineState,
    name: Name,
    stores: &[String],
    key: Option<GivenKey>,
) -> Result<Outcome> {
    let open = state.pools.add(&name, urls(state, stores)?, key_of(key.as_ref())?).await?;
    let named = key_is_to_be_named(state, &name, &open.pool);
    let value = serde_json::json!({
        "name": name, "id": open.pool.id().to_string(), "layout": open.pool.layout().to_string(),
    });
    let note = format!("pool {name}, {}, is known here now", open.pool.layout());
    Ok(Outcome { value, ..Outcome::default() }.note(note).note_all(named))
}

pub async fn set(state: &EngineState, name: &Name, assignments: &[String]) -> Result<Outcome> {
    // Before any store is asked: a misspelt one is told at once.
    assignments.iter().try_for_each(|text| PoolSettings::default().assign(text))?;
    let open = state.pools.get(name).await?;
    let change = |settings: &mut PoolSettings| assignments.iter().try_for_each(|text| settings.assign(text));
    open.pool.set(change).await?;
    let outcome = Outcome::of(&open.pool.settings())?;
    // What is there longer than the new time allows.
    let gone = match assignments.iter().any(|text| text.starts_with("trash=")) {
        true => super::trash::empty(&open).await.0,
        false => 0,
    };
    if assignments.iter().any(|text| text.starts_with("quota=") || text.starts_with("capacity=")) {
        open.pool.quota().ask();
    }
    let gone = (gone > 0).then(|| format!("removed from the trash for good: {gone}"));
    Ok(outcome.note("other hosts follow within ten minutes").note_all(gone))
}

pub async fn list(state: &EngineState) -> Result<Outcome> {
    let looks = state.pools.known().into_iter().map(|known| async move {
        match state.pools.get(&known.name).await {
            Ok(open) => {
                ask(&open.pool).await;
                state.capacities.look(&open).await;
                None
            }
            Err(error) => Some((known.name, error.to_string())),
        }
    });
    let mut closed: BTreeMap<Name, String> = join_all(looks).await.into_iter().flatten().collect();
    let mut lines = lines(state);
    for line in &mut lines {
        line.trouble = line.trouble.take().or_else(|| closed.remove(&line.name));
    }
    let attention = lines.iter().any(|l| l.state != "open" || l.trouble.is_some());
    let mut outcome = Outcome::of(&lines)?.degraded(attention);
    for line in lines {
        outcome.notes.extend(line.trouble.map(|why| format!("pool {}: {why}", line.name)));
    }
    Ok(outcome)
}

pub async fn forget(state: &EngineState, name: &Name) -> Result<Outcome> {
    state.sessions.check_pool_unused(name, state.pools.known_id(name))?;
    let known = state.pools.known().into_iter().find(|known| known.name == *name);
    state.pools.forget(name, DRAIN).await?;
    let value = serde_json::json!({"name": name, "forgotten": true});
    let note = format!("pool {name} is forgotten here; its stores keep everything");
    let note = match known {
        Some(known) => {
            let stores = known
                .stores
                .iter()
                .map(|store| format!(" --store {}", shell_word(store)))
                .collect::<String>();
            let key = if known.has_key { " --key-file FILE" } else { "" };
            format!("{note}: `windlass pool add {name}{stores}{key}` makes it known again")
        }
        None => note,
    };
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}

/// Returns what few requests tell of a pool, whatever the pool has. With `walk` it also tells what all volumes take,
/// at some requests for each.
pub async fn status(state: &EngineState, name: &Name, walk: bool) -> Result<Outcome> {
    let open = super::replace::opened(state, name).await?;
    let pool = open.pool.clone();
    ask(&pool).await;
    // Other hosts may have changed them; in an outage they are told as they were.
    let _ = pool.rt().timeout(ASK, pool.refresh_settings()).await;
    let walked = if walk { usage(&open, true).await } else { None };
    // The first look at a pool in folders counts what its volumes take.
    let capacity = state.capacities.look(&open).await;
    let usage = if walk { walked } else { usage(&open, false).await };
    let status = pool.status();
    let attention = capacity.warning.is_some()
        || status.pending_shards > 0
        || status.damaged_shards > 0
        || !status.damaged_registers.is_empty()
        || !status.replacing.is_empty()
        || status.stores.iter().any(|s| s.older || s.state != StoreState::In);
    let older = older_stores(&status);
    let out = status.stores.iter().any(|s| s.state == StoreState::Out);
    let Capacity { used_bytes, free_bytes, warning } = capacity;
    let last_scrub = pool.last_scrub().await;
    let unread = last_scrub.as_ref().is_some_and(|last| last.unread_volumes > 0);
    let attention = attention || unread;
    let answer = PoolAnswer { status, last_scrub, used_bytes, free_bytes, usage };
    let mut outcome = Outcome::of(&answer)?.degraded(attention).note_all(warning).note_all(older);
    if let Some(last) = answer.last_scrub {
        let ago = match age_ms(last.ended_ms, state.host_context.rt.wall_ms()) {
            Some(age) => format!("{} ago", show_time(age)),
            None => {
                format!("at {}, which lies ahead, so when that was is not known", utc::show(last.ended_ms))
            }
        };
        let shards = show_count(last.checked_shards, "shard");
        outcome = outcome.note(format!("last scrub on this host {ago}: {shards} read, {}", last.found()));
    }
    if out {
        outcome = outcome.note(way_back(name, pool.condition().undecided.is_some()));
    }
    Ok(outcome)
}

/// Returns what the volumes take: by the counters of this daemon, or by the heads of all volumes. `None` when those
/// were not walked yet, or too few stores answer, or it takes too long.
async fn usage(open: &OpenPool, walk: bool) -> Option<PoolUsage> {
    let usage = match walk {
        true => open.pool.rt().timeout(USAGE, open.volumes.count_usage()).await?.ok()?,
        false => open.volumes.usage()?,
    };
    let layout = open.pool.layout();
    let with_parity = |bytes: u64| bytes * layout.n() as u64 / layout.k() as u64;
    Some(PoolUsage {
        counted_ms: usage.counted_ms,
        volumes: usage.volumes,
        provisioned_bytes: usage.provisioned_bytes,
        mapped_bytes: usage.mapped_bytes,
        stored_bytes: usage.stored_bytes,
        stored_with_parity_bytes: with_parity(usage.stored_bytes),
        trash_volumes: usage.trash_volumes,
        trash_stored_bytes: with_parity(usage.trash_stored_bytes),
    })
}

/// Returns what to do about stores that are out. `undecided`: too many of those that hold registers are out.
fn way_back(name: &Name, undecided: bool) -> String {
    match undecided {
        true => format!(
            "a store that is out comes back with its contents; where too many are lost for good, `windlass pool force-recover {name} \
             --dry-run` says what is left"
        ),
        false => format!(
            "a store that is out comes back with its contents; `windlass pool repair {name}` takes an emptied one in again, `windlass \
             pool replace {name} --old URL --new URL` puts another in its place"
        ),
    }
}

/// Returns a sentence for each volume that has lost data, and for what can't be read of it.
async fn losses(open: &OpenPool, found: &ScrubReport, elsewhere: &[Finding]) -> Vec<String> {
    let lost = found.lost(open.pool.layout().m(), elsewhere);
    if lost.is_empty() {
        return Vec::new();
    }
    let told = open.volumes.unreadable(&lost).await.unwrap_or_default();
    let names = open.pool.list().await.unwrap_or_default();
    let mut objects: BTreeMap<VolumeId, u64> = BTreeMap::new();
    lost.iter().for_each(|id| *objects.entry(id.volume).or_default() += 1);
    let pool = open.pool.name();
    let sentence = |(id, objects): (VolumeId, u64)| {
        let name = names.iter().find(|(_, of)| *of == id).map(|(name, _)| format!("{pool}/{name}"));
        format!(
            "volume {}: more shards of {} are gone than parity makes up for; reads of what lies there fail until shards come back: \
             copy the rest off, or restore it from a backup",
            name.unwrap_or_else(|| format!("{pool}/ (id {id})")),
            show_count(objects, "object")
        )
    };
    let mut all: Vec<String> = objects.into_iter().map(sentence).collect();
    let left = told.len().saturating_sub(TOLD_MAX);
    all.extend(told.iter().take(TOLD_MAX).map(|told| unreadable(pool, told)));
    if left > 0 {
        all.push(format!("{left} more volumes and snapshots of pool {pool} can't be read whole"));
    }
    all
}

fn unreadable(pool: &Name, told: &Unreadable) -> String {
    let snapshot = told.snapshot.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
    let what = format!("{pool}/{}{snapshot}", told.volume);
    let mut ranges =
        told.ranges.iter().map(|r| format!("{}-{}", r.start, r.end)).collect::<Vec<_>>().join(", ");
    let listed: u64 = told.ranges.iter().map(|r| r.end - r.start).sum();
    if listed < told.bytes {
        ranges += &format!(" and {} further on", show_bytes(told.bytes - listed));
    }
    let more = match told.told {
        MapWalk::Whole => "",
        MapWalk::TooLong => ", and perhaps more: its map is too long to be gone through for this message",
        MapWalk::Unreadable => ", and perhaps more: its map can't be read whole",
    };
    match told.bytes {
        0 => format!("{what}: its map can't be read whole: which bytes are lost can't be told"),
        _ => format!("{what}: bytes {ranges} can't be read{more}"),
    }
}

/// Returns the options of a scrub as the pool understands them.
fn scrub_options(asked: ScrubRequest) -> windlass_pool::ScrubOptions {
    windlass_pool::ScrubOptions { rate: (asked.rate > 0).then_some(asked.rate), resume: !asked.restart }
}

pub async fn scrub(
    state: &EngineState,
    name: &Name,
    asked: ScrubRequest,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = state.pools.get(name).await?;
    let watch = |step: Progress| progress.tell("scrubbing", step.done, step.of);
    let found = open.pool.scrub(&open.volumes, scrub_options(asked), &watch).await?;
    let mut outcome = Outcome::of(&found)?.degraded(!found.is_complete_and_clean());
    for left_out in found.unreachable.iter().chain(&found.unread_volumes) {
        outcome = outcome.note(format!("not looked through: {left_out}"));
    }
    outcome.notes.extend(losses(&open, &found, &found.misplaced).await);
    let (shards, bytes) = (show_count(found.checked_shards, "shard"), show_bytes(found.checked_bytes));
    Ok(outcome.note(format!("{shards} verified, {bytes}")))
}

/// Repairs a pool. The verb counts as done only when nothing is left: anything else needs attention.
pub async fn repair(
    state: &EngineState,
    name: &Name,
    asked: ScrubRequest,
    labels: bool,
    progress: &ProgressSink,
) -> Result<Outcome> {
    match labels {
        true => Box::pin(super::relabel_pool::relabel(state, name)).await,
        false => Box::pin(mend(state, name, asked, progress)).await,
    }
}

async fn mend(
    state: &EngineState,
    name: &Name,
    asked: ScrubRequest,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let before = Box::pin(super::replace::before_repair(state, name, progress)).await?;
    let open = state.pools.get(name).await?;
    let watch = |step: Progress| progress.tell("repairing", step.done, step.of);
    let mut done = open.pool.repair(&open.volumes, scrub_options(asked), &watch).await?;
    done.rebuilt += before.shards;
    let mut outcome = Outcome::of(&done)?.degraded(!done.left.is_complete_and_clean() || before.is_short);
    outcome.notes.extend(before.notes);
    for left_out in done.left.unreachable.iter().chain(&done.left.unread_volumes) {
        outcome = outcome.note(format!("not looked through: {left_out}"));
    }
    for reason in &done.reasons {
        outcome = outcome.note(reason.clone());
    }
    outcome.notes.extend(losses(&open, &done.left, &[]).await);
    if done.replaced > 0 {
        outcome = outcome.note(format!(
            "{} had other contents than were stored: the caches of this host were emptied. On each other host that reads the \
             pool, stop windlass, remove the folder `cache` of its state folder, and start windlass",
            show_count(done.replaced, "shard")
        ));
    }
    if done.set_aside > 0 {
        outcome = outcome.note(format!("what is not the pool's is kept below {ASIDE} on its store"));
    }
    Ok(outcome.note(format!(
        "{} rebuilt, {} moved, {} deleted, {} set aside",
        show_count(done.rebuilt, "shard"),
        done.moved,
        done.deleted,
        show_count(done.set_aside, "object")
    )))
}
