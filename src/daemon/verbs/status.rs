//! What is known here, of all that this engine has: `status`, and `watch` for who looks all the time (`windlass top`, and
//! the page on the metrics address).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{mount, pool, volume};
use crate::daemon::answers::{
    EngineStatus, HostTrouble, MemoryPart, PoolLine, ReadCaches, VolumeInUse, WatchAnswer,
};
use crate::daemon::api::Outcome;
use crate::daemon::engine_tables::{EngineState, LocalLook};
use crate::daemon::state_dir::{HostContext, KnownPool};
use crate::daemon::trouble_alerts::{Found, Trouble};
use windlass_base::units::{GIB, show_bytes, show_count, show_time};
use windlass_base::{Budget, PoolId, Result, utc};

/// Time between two requests to stores while somebody watches: what a pool that nobody uses knows of its stores grows
/// old. All who watch share it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Time before its end from which on a certificate is told, in ms: it takes people a while to get another.
const CERTIFICATE_MS: u64 = 14 * 24 * 3600 * 1000;
/// Least room for the state folder, in bytes: journals of volumes grow to gigabytes while stores are behind.
const ROOM_MIN: u64 = GIB;

/// Returns what this engine knows by itself, and what it has on the local disk.
fn known(state: &EngineState, local: LocalLook) -> EngineStatus {
    let (host_context, memory) = (&state.host_context, state.pools.memory());
    EngineStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up_ms: host_context.rt.now().since(state.began).as_millis() as u64,
        home: host_context.home.root().display().to_string(),
        host: host_context.host.name.clone(),
        host_id: host_context.host.id,
        nbd: state.nbd_addresses().iter().map(ToString::to_string).collect(),
        metrics: state.metrics_addresses().iter().map(ToString::to_string).collect(),
        mirror: state.pools.mirror_place(),
        mirror_listen: state.mirror.lock().as_ref().map(ToString::to_string),
        troubles: troubles(state, &local),
        pools: pool::lines(state),
        volumes: volume::in_use(state),
        replicas: state.replica_lines(),
        under_way: state.at_work.works.list(host_context.rt.now()),
        mounts: state.mounts.list(),
        kept_files: local.kept_files,
        kept_journals: local.kept_journals,
        cache: ReadCaches { memory: memory.frames.stats(), disk: memory.disk.stats() },
    }
}

/// Returns what is found on the local disk.
async fn look_locally(state: &EngineState) -> LocalLook {
    let HostContext { home, disk, rt, .. } = &state.host_context;
    let root = home.root().to_owned();
    let room = rt.cpu(move || rustix::fs::statvfs(&root).ok().map(|s| s.f_bavail * s.f_frsize)).await;
    LocalLook {
        kept_files: mount::by_bucket(&state.mounts.kept(&state.host_context).await.unwrap_or_default()),
        kept_journals: home.kept_journals(&**disk).await,
        left_journals: home.left_journals(&**disk).await,
        room_bytes: room.ok().flatten(),
    }
}

/// Tells whether this engine goes on with what a daemon left, also while it begins.
fn is_daemon(state: &EngineState) -> bool {
    state.served.lock().is_some()
}

/// Returns what is wrong with this host, and what the daemon tried in vain, each with its cure.
fn troubles(state: &EngineState, local: &LocalLook) -> Vec<HostTrouble> {
    let (rt, home) = (&state.host_context.rt, state.host_context.home.root().display());
    let room = local.room_bytes.filter(|free| *free < ROOM_MIN).map(|free| {
        format!(
            "the disk of the state folder {home} has {} free: writes wait when journals find no room there. Free some \
             space, until there is {} at least",
            show_bytes(free),
            show_bytes(ROOM_MIN)
        )
    });
    let certificate = || {
        let (tls, now) = (state.access.policy().tls.clone()?, rt.wall_ms());
        let end = tls.ends_before(now + CERTIFICATE_MS)?;
        let file = state.config().tls.cert.as_ref().map(|cert| cert.value.clone()).unwrap_or_default();
        let when = match end.checked_sub(now) {
            Some(left) => format!("ends in {}", show_time(left)),
            None => "has ended, and clients that check it can't connect".to_owned(),
        };
        let date = utc::show(end);
        Some(format!(
            "the TLS certificate {file} {when} ({date}): put a new one there, then `systemctl reload windlass`, or send the \
             daemon a SIGHUP"
        ))
    };
    let told = |name: &'static str, trouble| HostTrouble { name: name.into(), trouble };
    let left = left_journals(state, &local.left_journals);
    let room = room.map(|said| told("state-space", said));
    let left = left.map(|said| told("left-journals", said));
    let certificate = certificate().map(|said| told("tls-certificate", said));
    room.into_iter().chain(left).chain(certificate).chain(state.troubles.list(rt.now())).collect()
}

/// Returns a sentence about volumes with journals that nobody goes on with: all without a daemon, and those of pools
/// that a daemon can't open now.
fn left_journals(state: &EngineState, journals: &[PathBuf]) -> Option<String> {
    let opened = state.pools.opened();
    let is_daemon = is_daemon(state);
    let goes_on = |journal: &&PathBuf| {
        is_daemon && opened.iter().any(|(_, open)| pool_of(journal) == Some(open.pool.id()))
    };
    let left: Vec<&PathBuf> = journals.iter().filter(|journal| !goes_on(journal)).collect();
    let first = left.first()?;
    let (few, shown) = (show_count(left.len() as u64, "volume"), first.display());
    if !is_daemon {
        return Some(format!(
            "{few} stayed this host's when the daemon ended, with a journal that may hold writes which are in no store ({shown}): \
             start the daemon, which stores them; `windlass volume info POOL/VOLUME` tells how much it is"
        ));
    }
    let of_pools: BTreeSet<String> = left
        .iter()
        .map(|journal| {
            let is_its = |known: &KnownPool| known.id.is_some() && known.id == pool_of(journal);
            match state.pools.known().into_iter().find(is_its) {
                Some(known) => format!("pool {}, which is not open here now", known.name),
                None => "a pool that this host does not know: `windlass pool add` makes it known".to_owned(),
            }
        })
        .collect();
    let of_pools = of_pools.into_iter().collect::<Vec<_>>().join("; and of ");
    Some(format!(
        "{few} stayed this host's, with a journal that may hold writes which are in no store ({shown}), and are stored once the \
         pool is open here: of {of_pools}"
    ))
}

/// Returns the pool of a journal, by the folder that the journal is in.
fn pool_of(journal: &Path) -> Option<PoolId> {
    journal.parent()?.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Asks pools' stores and mounts' buckets, which nobody may have used for long. None of them is waited for long.
pub fn ask_all(state: &EngineState) -> impl Future<Output = ()> + Send + use<> {
    let (pools, mounts) = (pool::ask_all(state), mount::ask_all(state));
    async move {
        futures::future::join(pools, mounts).await;
    }
}

/// Returns what is wrong, by a key that stays the same while it stands, as far as it is known: no store is asked.
pub async fn standing_troubles(state: &EngineState) -> Found {
    let status = known(state, look_locally(state).await);
    let mut all = Found::new();
    for told in &status.troubles {
        // A sentence may count bytes, or the days that are left.
        let key = told.trouble.replace(|c: char| c.is_ascii_digit(), "");
        all.insert(format!("host: {key}"), Trouble { what: "host".to_owned(), why: told.trouble.clone() });
    }
    let mut add = |what: String, why: String| all.insert(what.clone(), Trouble { what, why });
    for pool in status.pools.iter().filter(|pool| pool.trouble.is_some()) {
        add(format!("pool {}", pool.name), of_pool(state, pool).join("\n"));
    }
    for volume in status.volumes.iter().filter(|volume| volume::needs_attention(volume)) {
        let why = of_volume(&status.pools, volume).unwrap_or_else(|| format!("it is {}", volume.state));
        add(format!("volume {}", volume.path), why);
    }
    for replica in &status.replicas {
        if let Some(why) = &replica.trouble {
            add(format!("copy of {} to {}", replica.from, replica.to), why.clone());
        }
    }
    for mount in status.mounts.iter().filter(|mount| mount.trouble.is_some()) {
        add(format!("mount {}", mount.dir), mount::troubles(std::slice::from_ref(mount)).concat());
    }
    if let Some(why) = status.cache.disk.and_then(|disk| disk.trouble) {
        add("cache".to_owned(), why);
    }
    all
}

/// Answers `status` by what is known here. Of stores only the labels are read, and of mounted buckets one name is
/// listed.
pub async fn status(state: &EngineState) -> Result<Outcome> {
    ask_all(state).await;
    let status = known(state, look_locally(state).await);
    let attention = !status.troubles.is_empty()
        || status.pools.iter().any(|p| p.trouble.is_some())
        || status.replicas.iter().any(|replica| replica.trouble.is_some())
        || status.mounts.iter().any(|mount| mount.trouble.is_some())
        || status.volumes.iter().any(volume::needs_attention);
    let mut outcome = Outcome::of(&status)?.degraded(attention);
    if status.nbd.is_empty() && status.mounts.is_empty() {
        outcome = outcome.note(format!("no daemon runs on {}: `windlass serve` starts one", status.home));
    }
    if status.pools.is_empty() && status.mounts.is_empty() {
        let none = "this host knows no pool: `windlass pool create` makes one, `windlass pool add` makes one known that is there";
        outcome = outcome.note(none);
    }
    outcome = outcome.note_all(status.troubles.iter().map(|told| told.trouble.clone()));
    outcome = outcome.note_all(status.pools.iter().flat_map(|pool| of_pool(state, pool)));
    for volume in &status.volumes {
        outcome = outcome.note_all(of_volume(&status.pools, volume));
    }
    for replica in &status.replicas {
        outcome = replica
            .trouble
            .iter()
            .fold(outcome, |o, why| o.note(format!("copy of {} to {}: {why}", replica.from, replica.to)));
    }
    outcome = outcome.note_all(mount::troubles(&status.mounts));
    outcome = outcome.note_all(status.cache.disk.as_ref().and_then(|disk| disk.trouble.clone()));
    outcome = outcome.note_all(mount::kept_notes(&status.kept_files));
    Ok(outcome.note_all(status.kept_journals.iter().map(|journal| volume::of_journal(journal))))
}

/// Returns a volume's trouble. The reason why its pool stores nothing is left out: it was said with the pool.
fn of_volume(pools: &[PoolLine], volume: &VolumeInUse) -> Option<String> {
    let VolumeInUse { path, trouble, .. } = volume;
    let why = trouble.as_ref()?.replace(&format!("volume {path}: "), "");
    let of_pool = pools.iter().find(|pool| pool.name == path.pool).and_then(|pool| pool.trouble.as_ref());
    let short = of_pool.and_then(|of_pool| {
        let rest = why.strip_prefix(&**of_pool)?;
        Some(format!("{}{rest}", of_pool.split_once(':')?.0))
    });
    Some(format!("{path}: {}", short.unwrap_or(why)))
}

/// Returns a pool's trouble, and what to do.
fn of_pool(state: &EngineState, pool: &PoolLine) -> Vec<String> {
    let Some(why) = &pool.trouble else { return Vec::new() };
    let called = format!("pool {}", pool.name);
    let why = why.strip_prefix(&called).map_or(&**why, |rest| rest.trim_start_matches([':', ' ']));
    let mut said = vec![format!("{called}: {why}")];
    match state.pools.opened().iter().find(|(name, _)| *name == pool.name) {
        Some((_, open)) => said.extend(pool::advice(&open.pool.status())),
        None => said.push(format!("  `windlass doctor --pool {}` looks why", pool.name)),
    }
    said
}

/// Answers `watch` by what is known here, at once: no store is waited for.
pub async fn watch(state: &EngineState) -> WatchAnswer {
    let (rt, began) = (&state.host_context.rt, state.began);
    look(state).await;
    let last = state.last_look.lock().clone();
    let since = |then| rt.now().since(then).as_millis() as u64;
    WatchAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wall_ms: rt.wall_ms(),
        up_ms: since(began),
        looked_ms_ago: last.at.map_or(0, since),
        status: known(state, last.found),
        open_pools: state.pools.opened().iter().map(|(_, open)| open.pool.status()).collect(),
        memory: memory(state),
    }
}

/// Looks again when the last look is a while ago: asks stores in the background, and the local disk for what is kept.
async fn look(state: &EngineState) {
    let host_context = &state.host_context;
    let now = host_context.rt.now();
    {
        let mut last = state.last_look.lock();
        if last.at.is_some_and(|at| now.since(at) < LOOK_AGAIN) {
            return;
        }
        last.at = Some(now);
    }
    host_context.rt.spawn(ask_all(state)).detach();
    let found = look_locally(state).await;
    state.last_look.lock().found = found;
}

fn memory(state: &EngineState) -> Vec<MemoryPart> {
    let memory = state.pools.memory();
    let part = |part: &'static str, budget: &Budget| MemoryPart {
        part: part.into(),
        bytes: budget.used(),
        limit_bytes: budget.total(),
        short: budget.is_anyone_short(),
    };
    vec![
        part("writes", &memory.overlay),
        part("encoding", &memory.encode),
        part("requests", &memory.requests),
        part("readahead", &memory.ahead.budget),
    ]
}
