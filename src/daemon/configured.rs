//! What windlass.toml asks of a running daemon: pools to be found, buckets to be mounted, scrubs at intervals; and what
//! changes when the file is read anew. Whatever fails here is told and tried again: the daemon goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{join_all, select};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::api::{ScrubRequest, Verb};
use super::config::{Config, ScrubPlan};
use super::engine::Engine;
use super::failed_attempts::Attempt;
use super::mounts::AskedBy;
use super::progress::ProgressSink;
use super::verbs;
use windlass_base::known_time::age_ms;
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Error, Kind, Name};
use windlass_pool::Pool;

/// The pauses between tries: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest time for which the start waits for first tries: a bucket whose store answers is mounted when the daemon is
/// ready.
const AT_START: Duration = Duration::from_secs(5);
/// Time between two looks at whether a scrub is due.
const LOOK: Duration = Duration::from_secs(20);
/// Time until the next try of a scrub that could not be done.
const SCRUB_AGAIN: Duration = Duration::from_secs(3600);

/// Result of one try.
enum Tried {
    /// The attempt has succeeded, or is no longer asked for.
    Over,
    Failed(Error),
}

/// Keys that changed when the file was read anew, by when the change holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reloaded {
    /// Keys whose new value holds from now on.
    pub now: Vec<String>,
    /// Keys whose new value holds from the next start on.
    pub at_start: Vec<String>,
    /// Keys of mounts that stay as they are until they are made anew.
    pub at_mount: Vec<String>,
}

/// Carries out what windlass.toml asks of a running daemon. See the module.
#[derive(Debug)]
pub struct Configured {
    engine: Weak<Engine>,
    rt: Rt,
    /// Attempts for which a task is at work: pools to find, and mounts.
    busy: Mutex<BTreeSet<Attempt>>,
    /// Signal that the file was read anew: what waits for its next try is tried at once.
    reread: Notify,
}

impl Configured {
    /// Begins with all that the file asks for. Returns when each attempt was made once, or after a few seconds.
    pub async fn begin(engine: &Arc<Engine>) -> Arc<Configured> {
        let rt = engine.state().host_context.rt.clone();
        let this = Arc::new(Configured {
            engine: Arc::downgrade(engine),
            rt,
            busy: Mutex::default(),
            reread: Notify::new(),
        });
        this.watch_scrubs();
        super::replica_scheduler::follow(engine);
        super::trouble_alerts::follow(engine);
        let first = this.follow();
        let _ = this.rt.timeout(AT_START, join_all(first)).await;
        this
    }

    /// Returns the engine, or `None` once it ends.
    fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.upgrade().filter(|engine| !engine.state().stop.is_cancelled())
    }

    /// Begins with what is in the file and not here. Each receiver hears of the end of a first try.
    fn follow(self: &Arc<Self>) -> Vec<oneshot::Receiver<()>> {
        let Some(engine) = self.engine() else { return Vec::new() };
        let (state, config) = (engine.state(), engine.state().config());
        let known: BTreeSet<Name> = state.pools.known().into_iter().map(|known| known.name).collect();
        let mounted: BTreeSet<String> = state.mounts.list().into_iter().map(|mount| mount.dir).collect();
        let pools = config.pools_to_find().into_iter().map(|(name, _)| name);
        let pools = pools.filter(|name| !known.contains(name)).map(Attempt::FindPool);
        let mounts = config.mount.keys().filter(|dir| !mounted.contains(*dir)).cloned().map(Attempt::Mount);
        pools.chain(mounts).map(|wish| self.keep_trying(wish)).collect()
    }

    /// Tries until the attempt has succeeded or is asked for no more. The receiver hears of the end of the first try.
    fn keep_trying(self: &Arc<Self>, wish: Attempt) -> oneshot::Receiver<()> {
        let (tried, first) = oneshot::channel();
        if self.busy.lock().insert(wish.clone()) {
            let this = self.clone();
            let work = async move {
                this.until_done(&wish, tried).await;
                this.busy.lock().remove(&wish);
            };
            self.rt.spawn(work).detach();
        }
        first
    }

    async fn until_done(&self, wish: &Attempt, tried: oneshot::Sender<()>) {
        let (mut tried, mut said, mut pause) = (Some(tried), None, PAUSE_MIN);
        while let Some(engine) = self.engine() {
            tracing::debug!(?wish, "the configuration asks for this: it is tried");
            // Listened to before the try: a file that is read anew during the try must not be missed.
            let reread = self.reread.notified();
            let mut reread = pin!(reread);
            reread.as_mut().enable();
            let Tried::Failed(error) = attempt(&engine, wish).await else {
                return engine.state().troubles.over(wish);
            };
            let (stop, why) = (engine.state().stop.clone(), error.to_string());
            engine.state().troubles.failed(wish.clone(), self.rt.now(), why.clone());
            // A task that sleeps must not keep an engine alive that ends.
            drop((engine, tried.take()));
            if said.as_ref() != Some(&why) {
                tracing::warn!("{}", wish.failed_by(&why));
                said = Some(why);
            }
            let stopped = pin!(stop.cancelled());
            let _ = self.rt.timeout(pause, select(stopped, reread)).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Takes what the file says now in place of what it said before, and returns what changed.
    pub fn reload(self: &Arc<Self>, new: Config) -> Reloaded {
        let Some(engine) = self.engine() else { return Reloaded::default() };
        let new = Arc::new(new);
        let old = std::mem::replace(&mut *engine.state().config.lock(), new.clone());
        engine.state().keys.follow(new.clone());
        for dir in old.mount.keys().filter(|dir| !new.mount.contains_key(*dir)) {
            engine.state().troubles.over(&Attempt::Mount(dir.clone()));
            self.unmount(engine.clone(), dir.clone());
        }
        drop(engine);
        self.reread.notify_waiters();
        self.follow();
        compared(&old, &new)
    }

    /// Has all stores read their files of keys anew.
    pub async fn reload_credentials(&self) {
        if let Some(engine) = self.engine() {
            engine.reload_credentials().await;
        }
    }

    /// Unmounts a mount that the file no longer has. One that somebody else made there stays.
    fn unmount(&self, engine: Arc<Engine>, dir: String) {
        let work = async move {
            let state = engine.state();
            if let Err(error) = state.mounts.remove_configured(&state.host_context, &dir).await {
                tracing::warn!(%error, "{dir} is no longer in the configuration");
            }
        };
        self.rt.spawn(work).detach();
    }

    /// Begins scrubs that are due, judged by when the last one of this host ended.
    fn watch_scrubs(self: &Arc<Self>) {
        let (this, rt) = (Arc::downgrade(self), self.rt.clone());
        let work = async move {
            let mut tries: BTreeMap<Name, Instant> = BTreeMap::new();
            while let Some(engine) = this.upgrade().and_then(|this| this.engine()) {
                let (config, opened) = (engine.state().config(), engine.state().pools.opened());
                for (name, open) in opened {
                    let Some(plan) = config.scrub_plan(&name, is_free_to_read(&open.pool)) else {
                        engine.state().troubles.over(&Attempt::Scrub(name));
                        continue;
                    };
                    let waits = tries.get(&name).is_some_and(|at| rt.now().since(*at) < SCRUB_AGAIN)
                        || rt.now().since(engine.state().began) < plan.after;
                    if !waits
                        && is_due(open.pool.last_scrub().await.map(|last| last.ended_ms), plan, rt.wall_ms())
                    {
                        tries.insert(name.clone(), rt.now());
                        scrub(engine.clone(), name, plan);
                    }
                }
                let stop = engine.state().stop.clone();
                drop(engine);
                let _ = rt.timeout(LOOK, stop.cancelled()).await;
            }
        };
        self.rt.spawn(work).detach();
    }
}

/// Tells whether all stores of the pool are folders.
fn is_free_to_read(pool: &Pool) -> bool {
    pool.status().stores.iter().all(|store| store.url.starts_with("file:"))
}

/// Tells whether the next scrub is due. If the last one seems to have ended in the future, nobody knows when it did,
/// and a scrub is due now.
fn is_due(last_ms: Option<u64>, plan: ScrubPlan, now_ms: u64) -> bool {
    let age = last_ms.and_then(|last| age_ms(last, now_ms));
    age.is_none_or(|age| u128::from(age) >= plan.every.as_millis())
}

fn scrub(engine: Arc<Engine>, name: Name, plan: ScrubPlan) {
    let rt = engine.state().host_context.rt.clone();
    let work = async move {
        tracing::info!(pool = %name, "the scrub of the configuration's plan begins");
        let request = ScrubRequest { rate: plan.rate, restart: false };
        let verb = Verb::PoolScrub { name: name.clone(), scrub: request };
        match engine.run(verb, ProgressSink::none()).await {
            Ok(found) if found.degraded => {
                let notes = found.notes.join("; ");
                tracing::warn!(pool = %name, "the planned scrub found something, see `windlass pool status`: {notes}");
            }
            Ok(found) => {
                tracing::info!(pool = %name, "the planned scrub found nothing: {}", found.notes.join("; "))
            }
            Err(error) => {
                tracing::warn!(pool = %name, %error, "the planned scrub was broken off");
                let (troubles, now) = (&engine.state().troubles, engine.state().host_context.rt.now());
                troubles.failed(Attempt::Scrub(name), now, error.to_string());
            }
        }
    };
    rt.spawn(work).detach();
}

async fn attempt(engine: &Arc<Engine>, wish: &Attempt) -> Tried {
    let state = engine.state();
    let config = state.config();
    let tried = match wish {
        // They are made elsewhere.
        Attempt::Scrub(_) | Attempt::Reopen(_) | Attempt::Connect(_) => return Tried::Over,
        Attempt::FindPool(name) => {
            let found = config.pools_to_find().into_iter().find(|(it, _)| it == name);
            let Some((_, stores)) = found else { return Tried::Over };
            state.pools.add(name, stores, None).await.map(|_| {
                tracing::info!(pool = %name, "the pool of the configuration is known here now");
                engine.recover(name.clone());
            })
        }
        Attempt::Mount(dir) => {
            let Some((url, options)) = config.mount_at(dir) else { return Tried::Over };
            verbs::mount(state, &url, (dir, AskedBy::Configuration), &options).await.map(|outcome| {
                tracing::info!("{url} is mounted at {dir}, as the configuration says");
                outcome.notes.iter().for_each(|note| tracing::warn!("{dir}: {note}"));
            })
        }
    };
    match tried {
        Ok(()) => Tried::Over,
        // Somebody was quicker.
        Err(error) if error.is(Kind::Exists) => {
            tracing::warn!("{error}: the configuration asks for it too");
            Tried::Over
        }
        // The engine ends.
        Err(error) if error.is(Kind::Closed) => Tried::Over,
        Err(error) => Tried::Failed(error),
    }
}

/// Returns the keys that differ, by when the change holds.
fn compared(old: &Config, new: &Config) -> Reloaded {
    let values = |config: &Config| -> BTreeMap<String, String> {
        config.rows(false).into_iter().map(|row| (row.key(), row.value)).collect()
    };
    let (before, after) = (values(old), values(new));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut told = Reloaded::default();
    for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        let is_in = |config: &Config| config.mount.keys().any(|dir| key.starts_with(&mount_key(dir)));
        match section {
            "mount" if is_in(old) && is_in(new) => told.at_mount.push(key.clone()),
            "allow" | "tls" | "log" | "alert" | "limits" | "store" | "replica" | "volume" | "mount" => {
                told.now.push(key.clone())
            }
            // A pool that is known is not asked for by its stores.
            "pool" if !name.ends_with(".serve") => told.now.push(key.clone()),
            _ => told.at_start.push(key.clone()),
        }
    }
    told
}

/// Returns the prefix of all keys of a mount.
fn mount_key(dir: &str) -> String {
    format!("mount.{}.", super::config::bare_or_quoted(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn changes_are_told_by_when_they_hold() {
        let old = config(
            "memory = \"1G\"\nnbd = [\"h:1\"]\n[log]\nlevel = \"info\"\n[mount.\"/a\"]\nurl = \"file:///x\"\n\
             [mount.\"/b\"]\nurl = \"file:///y\"\n[pool.p]\nserve = true\n",
        );
        let new = config(
            "memory = \"2G\"\nnbd = [\"h:1\"]\n[log]\nlevel = \"debug\"\n[mount.\"/a\"]\nurl = \"file:///z\"\n\
             [mount.\"/c\"]\nurl = \"file:///y\"\n[pool.p]\nserve = false\nscrub = \"1d\"\n",
        );
        let told = compared(&old, &new);
        assert_eq!(told.at_start, ["memory", "pool.p.serve"]);
        assert_eq!(told.at_mount, ["mount.\"/a\".url"]);
        assert_eq!(told.now, ["log.level", "mount.\"/b\".url", "mount.\"/c\".url", "pool.p.scrub"]);
        assert_eq!(compared(&new, &new), Reloaded::default());
    }

    #[test]
    fn a_scrub_is_due_when_none_was_or_its_time_is_over() {
        let plan = ScrubPlan { every: Duration::from_secs(3600), rate: 0, after: Duration::ZERO };
        assert!(is_due(None, plan, 0) && is_due(Some(0), plan, 3_600_000));
        assert!(!is_due(Some(1), plan, 3_600_000) && !is_due(Some(2), plan, 1));
        assert!(is_due(Some(9_000_000), plan, 1), "a clock was ahead when it ended");
    }
}
