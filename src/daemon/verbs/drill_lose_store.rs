//! `drill lose-store`: one store of a pool is cut off for a while, and what that does to clients is told.

use std::sync::Arc;
use std::time::Duration;

use super::volume::in_use;
use crate::daemon::answers::DrillReport;
use crate::daemon::api::{LoseStore, Outcome};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::io_tally::IO_VERBS;
use crate::daemon::progress::ProgressSink;
use windlass_base::latency::Latencies;
use windlass_base::rt::Instant;
use windlass_base::units::{show_count, show_time};
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{Member, Pool};

const LOOK: Duration = Duration::from_millis(500);
/// Longest time for which the drill waits until the store has all that it missed.
const REPAIR: Duration = Duration::from_secs(15 * 60);
const FOR_MAX: Duration = Duration::from_secs(3600);

pub async fn lose_store(state: &EngineState, args: LoseStore, progress: &ProgressSink) -> Result<Outcome> {
    let cut_for = Duration::from_millis(args.for_ms);
    if state.nbd_addresses().is_empty() {
        let why = "a drill needs a daemon, whose clients it watches: `windlass serve` starts one";
        return Err(Error::new(Kind::Refused, why));
    }
    if cut_for < LOOK || cut_for > FOR_MAX {
        return Err(Error::new(Kind::Usage, "--for is out of range: give 1s to 1h"));
    }
    let pool = state.pools.get(&args.name).await?.pool.clone();
    super::pool::ask(&pool).await;
    let member = chosen(&pool, args.store.as_deref())?;
    check(&pool, &member, args.force)?;
    let (rt, name, before) = (pool.rt().clone(), &args.name, counted(state, &args.name));
    let began = rt.now();
    let cut = member.cut_off().ok_or_else(|| {
        let why = format!("{} is cut off by another drill already: wait for its end", member.url());
        Error::new(Kind::Refused, why)
    })?;
    let mut seen = Seen::default();
    progress.say(format!(
        "{} is cut off for {}; Ctrl-C brings it back at once",
        member.url(),
        show_time(args.for_ms)
    ));
    while rt.now().since(began) < cut_for && !is_over(state, progress) {
        seen.look(state, &pool, name);
        rt.sleep(LOOK.min(cut_for)).await;
        progress.tell("cut off", rt.now().since(began).as_millis() as u64, args.for_ms);
    }
    seen.look(state, &pool, name);
    drop(cut);
    let (back, during) = (rt.now(), counted(state, name));
    progress.say(format!("{} is back", member.url()));
    let repaired = repaired(state, &pool, &member, progress, back).await;
    let latencies = during.latencies.since(&before.latencies);
    let report = DrillReport {
        pool: name.clone(),
        store: member.url().to_owned(),
        cut_off_ms: back.since(began).as_millis() as u64,
        requests: latencies.count(),
        failed: during.failed.saturating_sub(before.failed),
        slowest_ms: latencies.max().as_micros() as f64 / 1000.0,
        troubles: seen.troubles,
        pending_shards: seen.pending,
        repaired_ms: repaired.map(|took| took.as_millis() as u64),
        broken_off: progress.given_up().is_cancelled(),
    };
    tell(&report)
}

fn is_over(state: &EngineState, progress: &ProgressSink) -> bool {
    progress.given_up().is_cancelled() || state.stop.is_cancelled()
}

/// Returns the named store, else the last one that is well.
fn chosen(pool: &Pool, url: Option<&str>) -> Result<Arc<Member>> {
    let members = pool.membership().members.clone();
    let Some(url) = url else {
        let well = members.iter().rev().find(|member| member.well()).cloned();
        return well
            .ok_or_else(|| Error::new(Kind::Refused, "no store of the pool answers: there is none to lose"));
    };
    let url = url.parse::<windlass_store::StoreSpec>()?.url.to_string();
    members.into_iter().find(|member| member.url() == url).ok_or_else(|| {
        let why =
            format!("{url} is no store of pool {0}: `windlass pool status {0}` lists them", pool.name());
        Error::new(Kind::NotFound, why)
    })
}

/// Refuses a drill on top of another loss; and, unless forced, one where I/O would have to wait.
fn check(pool: &Pool, member: &Member, force: bool) -> Result<()> {
    let refused = |why: String| Err(Error::new(Kind::Refused, why));
    let name = pool.name();
    if let Some(why) = pool.whole_condition().shortage() {
        return refused(format!("pool {name} is short of redundancy already: {why}; mend that first"));
    }
    if pool.is_moving() || pool.pending() > 0 {
        let why = format!("pool {name} has shards pending, or a replacement under way: wait for its end");
        return refused(why);
    }
    match pool.hurt_by_loss_of(member.index()) {
        Some(why) if !force => refused(format!(
            "without {} {why}: clients would wait, and get errors where volumes are set so; --force does it all the same",
            member.url()
        )),
        _ => Ok(()),
    }
}

/// Counts of what clients of a pool have asked so far.
#[derive(Default)]
struct Asked {
    latencies: Latencies,
    failed: u64,
}

fn counted(state: &EngineState, pool: &Name) -> Asked {
    let mut asked = Asked::default();
    for used in state.sessions.list().into_iter().filter(|used| used.path.pool == *pool) {
        for (verb, _) in IO_VERBS {
            let counts = used.io.of(verb);
            asked.latencies.merge(&counts.latencies);
            asked.failed += counts.failed;
        }
    }
    asked
}

/// Record of what was seen while the store was away.
#[derive(Default)]
struct Seen {
    /// Troubles of volumes, as `POOL/VOLUME: why`, each once.
    troubles: Vec<String>,
    /// Largest number of shards that were pending.
    pending: u64,
}

impl Seen {
    fn look(&mut self, state: &EngineState, pool: &Pool, name: &Name) {
        self.pending = self.pending.max(pool.pending() as u64);
        for used in in_use(state).into_iter().filter(|used| used.path.pool == *name) {
            let trouble = used.trouble.map(|why| format!("{}: {why}", used.path));
            self.troubles.extend(trouble.filter(|why| !self.troubles.contains(why)));
        }
    }
}

/// Waits until the store is in and nothing is pending, and returns how long that took. `None`: it was not waited for
/// to the end.
async fn repaired(
    state: &EngineState,
    pool: &Pool,
    member: &Member,
    progress: &ProgressSink,
    back: Instant,
) -> Option<Duration> {
    let rt = pool.rt();
    while rt.now().since(back) < REPAIR && !is_over(state, progress) {
        if member.well() && pool.pending() == 0 {
            return Some(rt.now().since(back));
        }
        progress.tell("bringing what it missed; shards left", 0, pool.pending() as u64);
        rt.sleep(LOOK).await;
    }
    None
}

fn tell(report: &DrillReport) -> Result<Outcome> {
    let DrillReport { requests, failed, slowest_ms, pending_shards, .. } = report;
    let hurt = *failed > 0 || !report.troubles.is_empty();
    let clients = match requests {
        0 => "no client asked for anything meanwhile: what clients would have seen is not known".to_owned(),
        _ => format!(
            "clients: {}, {failed} failed, the slowest took about {slowest_ms:.0} ms",
            show_count(*requests, "request")
        ),
    };
    let shards = show_count(*pending_shards, "shard");
    let mended = match report.repaired_ms {
        Some(ms) => {
            format!("{shards} were pending; all was put again {} after the store was back", show_time(ms))
        }
        None => format!(
            "{shards} were pending; whether all was put again was not waited for: `windlass pool status`"
        ),
    };
    let away = format!("{} was cut off for {}", report.store, show_time(report.cut_off_ms));
    let troubles = report.troubles.iter().map(|why| format!("trouble: {why}"));
    let notes = [away, clients].into_iter().chain(troubles).chain([mended]);
    Ok(Outcome::of(report)?.degraded(hurt || report.repaired_ms.is_none()).note_all(notes))
}
