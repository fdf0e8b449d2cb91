//! The engine's life: it takes the state folder, opens what it must, serves, and ends in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::api::{HandOver, Outcome, Verb, VolumePath};
use super::command_gate::Admission;
use super::config::{Config, ListenAddress};
use super::control_server::{self, Answers};
use super::engine_tables::EngineState;
use super::exports::EngineExports;
use super::failed_attempts::Attempt;
use super::handler_trait::Handler;
use super::held_exports;
use super::key_places::ConfiguredKeys;
use super::listen_addresses::{Flags, Given, Metrics};
use super::mirror::{MirrorFlags, MirrorPlan};
use super::nbd_handover::{self, HandedOver};
use super::otlp_traces::Traces;
use super::pool_house::House;
use super::pools::Pools;
use super::progress::ProgressSink;
use super::state_dir::{HostContext, StateDir, socket_rights};
use super::volume_clients::{DAEMON, VolumeClients};
use super::volume_uses::key_of;
use super::{listen_addresses, load_access_policy, metrics_server};
use windlass_base::rt::{Disk, DiskLock, Rt};
use windlass_base::{Error, Kind, Name, Result};
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_nbd::{self as nbd, Address, PausedServer};
use windlass_store::keyring;
use windlass_volume::{Memory, OpenMode, Volume, Volumes};

/// Longest time for which the end waits for commands that still wait for an answer.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Time that letting volumes go may take beside the draining.
const GRACE: Duration = Duration::from_secs(5);
/// Number of volumes without a client that are opened again side by side: a client's opening waits for none of them.
const REOPEN_AT_ONCE: usize = 32;
/// Time between two looks at how full the pools are.
const CAPACITY_AGAIN: Duration = Duration::from_secs(300);
/// Time between two looks at other hosts' settings and at the trash: at most, and at least where trash is kept for a short time.
const HOUSE_MAX: Duration = Duration::from_secs(600);
const HOUSE_MIN: Duration = Duration::from_secs(1);
/// Time between two looks at whether a pool's quota is to be counted.
const QUOTA_LOOK: Duration = Duration::from_secs(1);
/// Time in which a hand-over stores what is unsent while clients go on, so that their pause is short.
const STORE_BEFORE: Duration = Duration::from_secs(10);
/// Number of tries for an address that the daemon before may still be closing, and the pause between two of them.
const FREED_TRIES: u32 = 40;
const FREED: Duration = Duration::from_millis(50);
/// Pause before the next try to open a pool that could not open.
const RETRY: Duration = Duration::from_secs(5);

/// Purpose and bounds of this run of the engine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes of memory that caches and buffers may take together.
    pub memory: u64,
    /// Bytes of local disk for what is read; 0 if there is no cache on disk.
    pub cache: u64,
    /// The disk of the cache's file: writing there must not hold up journals. None: the engine's disk.
    pub cache_disk: Option<Arc<dyn Disk>>,
    /// Is true if the engine listens for NBD clients and opens the pools to be served.
    pub serve: bool,
    /// Is true if the engine listens for commands.
    pub control: bool,
    pub nbd: Vec<String>,
    /// Is true if TCP without TLS may be listened on where other hosts reach it.
    pub insecure: bool,
    /// Addresses at which to serve metrics.
    pub metrics: Vec<String>,
    /// Address to which journals are mirrored, and address where owners connect whose journals are mirrored here.
    pub mirror: MirrorFlags,
    /// Pools that must open.
    pub pools: Vec<Name>,
    /// Everything that an earlier daemon has left to go on with.
    pub handed_over: HandedOver,
}

/// Makes the memory budget, and the cache on disk below it.
fn memory(host_context: &HostContext, options: &Options) -> Memory {
    let share = Memory::disk_share(options.memory, options.cache);
    let disk = options.cache_disk.clone().unwrap_or_else(|| host_context.disk.clone());
    let config = DiskCacheConfig {
        dir: host_context.home.cache(),
        bytes_max: options.cache,
        memory_max: share,
        segment: None,
    };
    Memory::with_disk(options.memory, DiskCache::start(&host_context.rt, disk, config), share)
}

/// A running engine. Dropping it without `shutdown` is a crash: nothing is lost that was acknowledged.
pub struct Engine {
    state: Arc<EngineState>,
    servers: parking_lot::Mutex<Vec<nbd::Server>>,
    /// Server of the exports that commands of this user reach.
    command_server: parking_lot::Mutex<Option<nbd::Server>>,
    admission: Admission,
    /// Cancelled when another daemon has what clients are connected to.
    replaced: CancellationToken,
    /// Is true if volumes were let go of and are to be opened by the next daemon.
    has_left: AtomicBool,
    /// Cancelled when the engine ends: servers and background tasks stop.
    stop: CancellationToken,
    answers: parking_lot::Mutex<Answers>,
    traces: parking_lot::Mutex<Option<Traces>>,
    /// Lock of the state folder; given up at the end.
    lock: parking_lot::Mutex<Option<Box<dyn DiskLock>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.state.host_context.home.root().display())
    }
}

/// Logs a failure that ends nothing: the daemon before has handed its clients over, and can't have them back.
fn goes_on_without(what: &str, error: &Error) {
    tracing::error!(%error, "{what}, and all else goes on: free the address, then `windlass serve --replace` again");
}

impl Engine {
    /// Starts an engine. `Kind::Owned`: another engine holds the state folder, or that of mounts if `home` is that.
    pub async fn start(
        rt: Rt,
        disk: Arc<dyn Disk>,
        home: StateDir,
        config: Config,
        options: Options,
    ) -> Result<Arc<Engine>> {
        let lock = home.lock(&*disk).await?;
        let host = home.host(&rt, &*disk).await?;
        let host_context = HostContext { rt: rt.clone(), disk, home, host };
        if options.control {
            keyring().looks_as(if options.serve { "the daemon" } else { "the mount" });
        }
        super::credentials::load(&host_context, &config).await;
        // Not of commands that run the engine themselves, and end with it.
        let traces = if options.control { Traces::start(&host_context, &config)? } else { None };
        let stop = CancellationToken::new();
        let config = Arc::new(config);
        let keys = ConfiguredKeys::new(rt.clone(), host_context.disk.clone(), config.clone());
        let memory = memory(&host_context, &options);
        let listens = (options.serve, options.insecure);
        let mirror = MirrorPlan::of(&rt, &*host_context.disk, &config, &options.mirror, listens).await?;
        let state = EngineState {
            stop: stop.clone(),
            pools: Pools::new(host_context.clone(), memory, keys.clone(), mirror.peer.clone()).await?,
            sessions: VolumeClients::expecting(&rt, options.handed_over.look(held_exports::holders)),
            mounts: Arc::default(),
            capacities: Default::default(),
            replicas: Default::default(),
            troubles: Default::default(),
            access: Arc::default(),
            nbd: parking_lot::Mutex::default(),
            metrics: parking_lot::Mutex::default(),
            mirror: parking_lot::Mutex::default(),
            served: Default::default(),
            last_look: Default::default(),
            at_work: Default::default(),
            began: rt.now(),
            host_context,
            config: parking_lot::Mutex::new(config),
            keys,
        };
        let engine = Arc::new(Engine {
            state: Arc::new(state),
            servers: parking_lot::Mutex::default(),
            command_server: parking_lot::Mutex::default(),
            admission: Admission::default(),
            replaced: CancellationToken::new(),
            has_left: AtomicBool::new(false),
            stop,
            answers: parking_lot::Mutex::default(),
            traces: parking_lot::Mutex::new(traces),
            lock: parking_lot::Mutex::new(Some(lock)),
        });
        if options.control {
            // First, so that commands meanwhile reach this engine rather than wait for its lock.
            let handler = Arc::new(Commands(Arc::downgrade(&engine)));
            let path = engine.state.host_context.home.control()?;
            *engine.answers.lock() = control_server::serve(&rt, &path, handler, engine.stop.clone())?;
        }
        if options.serve
            && let Err(error) = engine.begin(&options, &mirror).await
        {
            if let Err(also) = engine.shutdown().await {
                tracing::warn!(error = %also, "the daemon could not end cleanly after a failed start");
            }
            return Err(error);
        }
        Ok(engine)
    }

    async fn begin(self: &Arc<Self>, options: &Options, mirror: &MirrorPlan) -> Result<()> {
        let Given { nbd, metrics, policy } = self.given(options).await?;
        self.state.access.replace(policy);
        let replaces = !options.handed_over.is_empty();
        let beside = async {
            self.serve_metrics(&metrics, replaces).await?;
            self.serve_mirrors(mirror, replaces).await
        };
        let clients = async {
            self.open_pools(&options.pools).await?;
            self.watch_capacity();
            self.keep_house();
            self.watch_quotas();
            self.listen(nbd, options.handed_over.take()).await
        };
        if replaces {
            // The clients of the daemon before don't wait until an address is free. `beside` can't fail here.
            let (beside, clients) = futures::join!(beside, clients);
            return beside.and(clients);
        }
        beside.await?;
        clients.await
    }

    /// Serves metrics first of all: a start that takes long shows there. If this daemon replaces another, a failure here ends
    /// nothing: the one before has gone, and its clients are here.
    async fn serve_metrics(&self, metrics: &Metrics, replaces: bool) -> Result<()> {
        let rt = &self.state.host_context.rt;
        // The daemon before may still be closing the address.
        let mut tries = if replaces { FREED_TRIES } else { 1 };
        for address in &metrics.addresses {
            let bound = loop {
                tries -= 1;
                let (state, stop) = (Arc::downgrade(&self.state), self.stop.clone());
                match metrics_server::serve(rt, address, state, metrics.users.clone(), stop).await {
                    Err(_) if tries > 0 => rt.sleep(FREED).await,
                    Err(error) if replaces => break Err(error),
                    served => break Ok(served?),
                }
            };
            let bound = match bound {
                Ok(bound) => bound,
                Err(error) => {
                    goes_on_without("metrics and the page are not served", &error);
                    continue;
                }
            };
            let who = listen_addresses::reads_metrics(&bound, metrics.users.as_deref()).await;
            tracing::info!("metrics and the page are read at {bound}, without TLS: {who}");
            self.state.metrics.lock().push(bound);
        }
        Ok(())
    }

    async fn serve_mirrors(&self, plan: &MirrorPlan, replaces: bool) -> Result<()> {
        // The daemon before may still be closing the address.
        let mut tries = if replaces { FREED_TRIES } else { 1 };
        let bound = loop {
            tries -= 1;
            match plan.serve(&self.state, &self.stop).await {
                Err(_) if tries > 0 => self.state.host_context.rt.sleep(FREED).await,
                Err(error) if replaces => {
                    goes_on_without("other hosts' volumes are not mirrored here", &error);
                    break None;
                }
                served => break served?,
            }
        };
        if let Some(bound) = &bound {
            tracing::info!(
                "journals of other hosts' volumes are mirrored at {bound}, for who knows the secret of `mirror_key`"
            );
        }
        *self.state.mirror.lock() = bound;
        Ok(())
    }

    /// Opens the known pools. Those in `must` have to open; others that can't are reported and tried again.
    async fn open_pools(self: &Arc<Self>, must: &[Name]) -> Result<()> {
        let config = self.state.config();
        let known = || self.state.pools.known().into_iter().map(|known| known.name);
        let served: BTreeSet<Name> = match must {
            [] => known().filter(|name| config.serves(name)).collect(),
            must => must.iter().cloned().collect(),
        };
        *self.state.served.lock() = Some(served.clone());
        for name in must {
            self.state.pools.get(name).await?;
            self.recover(name.clone());
        }
        if !must.is_empty() {
            return Ok(());
        }
        for name in served {
            match self.state.pools.get(&name).await {
                Ok(_) => self.recover(name),
                Err(error) => {
                    tracing::error!(pool = %name, %error, "this pool cannot open now; it is tried again");
                    self.clone().retry(name);
                }
            }
        }
        Ok(())
    }

    /// Opens, in the background, the volumes that this state folder owns and nobody has open. An earlier run owned them when it
    /// was cut off, or this one let go of them for a daemon that did not come. So their journals, which tell which volumes those
    /// are, reach the pool, and other hosts are heard without clients. Each is released when nobody has used it for a while.
    pub fn recover(self: &Arc<Self>, pool: Name) {
        let (rt, stop, mut engine) = (self.state.host_context.rt.clone(), self.stop.clone(), self.clone());
        let rounds = rt.clone();
        let work = async move {
            let mut failed = None;
            loop {
                match engine.reopen_left(&pool, failed).await {
                    Ok(again) if again.is_empty() => return,
                    Ok(again) => failed = Some(again),
                    Err(error) => {
                        tracing::warn!(%error, "the search for volumes that were open here failed");
                        return;
                    }
                }
                let weak = Arc::downgrade(&engine);
                drop(engine);
                weak_sleep(&rounds, &stop).await;
                let Some(still) = weak.upgrade().filter(|_| !stop.is_cancelled()) else { return };
                engine = still;
            }
        };
        rt.spawn(work).detach();
    }

    /// Opens volumes that were open here, or those that failed before. Returns the ones that may be opened later.
    async fn reopen_left(&self, pool: &Name, failed: Option<Vec<Name>>) -> Result<Vec<Name>> {
        // A hand-over waits for it.
        let _admitted = self.admission.enter()?;
        let open = self.state.pools.get(pool).await?;
        let is_first = failed.is_none();
        let left = match failed {
            Some(failed) => failed,
            None => open.volumes.left_open().await?,
        };
        let reopened = left.into_iter().map(|volume| async {
            let path = VolumePath { pool: pool.clone(), volume: volume.clone() };
            self.reopen(path, &open.volumes, is_first).await.then_some(volume)
        });
        let again = stream::iter(reopened).buffer_unordered(REOPEN_AT_ONCE).collect::<Vec<_>>().await;
        if is_first {
            open.volumes.forget_stale_sessions().await;
        }
        Ok(again.into_iter().flatten().collect())
    }

    /// Opens a volume that was ours when we were cut off. Returns true if that failed for now: stores are away, or a peer.
    async fn reopen(&self, path: VolumePath, volumes: &Volumes, is_first: bool) -> bool {
        // A command that has it alone opens it too.
        let Ok(mut session) = self.state.sessions.enter(&path, volumes, DAEMON) else {
            return false;
        };
        match volumes.open(&path.volume, OpenMode::Normal).await {
            Ok(volume) => {
                if session.opened(&volume).is_err() {
                    return false;
                }
                self.state.troubles.over(&Attempt::Reopen(path.clone()));
                super::verbs::finish_of_copy(&self.state, &path).await;
                false
            }
            // Another host may take it over meanwhile, or it is removed.
            Err(error) if error.is(Kind::Owned) || error.is(Kind::Removed) => {
                self.state.troubles.over(&Attempt::Reopen(path));
                false
            }
            Err(error) => {
                let now = self.state.host_context.rt.now();
                self.state.troubles.failed(Attempt::Reopen(path.clone()), now, error.to_string());
                if is_first {
                    tracing::warn!(volume = %path, %error, "this volume was open here when the daemon was cut off, and can't be opened now");
                }
                error.is_transient()
            }
        }
    }

    fn retry(self: Arc<Self>, name: Name) {
        let (rt, stop) = (self.state.host_context.rt.clone(), self.stop.clone());
        let weak = Arc::downgrade(&self);
        let work = async move {
            loop {
                weak_sleep(&rt, &stop).await;
                let Some(engine) = weak.upgrade().filter(|_| !stop.is_cancelled()) else { return };
                match engine.state.pools.get(&name).await {
                    Ok(_) => {
                        tracing::info!(pool = %name, "the pool is open now");
                        return engine.recover(name);
                    }
                    Err(error) => tracing::debug!(pool = %name, %error, "the pool still cannot open"),
                }
            }
        };
        self.state.host_context.rt.spawn(work).detach();
    }

    /// Looks now and then how full the pools are, so that the log tells in time when one fills up.
    fn watch_capacity(self: &Arc<Self>) {
        let (rt, weak) = (self.state.host_context.rt.clone(), Arc::downgrade(&self.state));
        let work = async move {
            while let Some(state) = weak.upgrade().filter(|state| !state.stop.is_cancelled()) {
                for (_, open) in state.pools.opened() {
                    state.capacities.look(&open).await;
                }
                let (rt, stop) = (state.host_context.rt.clone(), state.stop.clone());
                drop(state);
                let _ = rt.timeout(CAPACITY_AGAIN, stop.cancelled()).await;
            }
        };
        rt.spawn(work).detach();
    }

    /// Hears what other hosts have set of the pools, and removes what has been in their trash for its time.
    fn keep_house(self: &Arc<Self>) {
        let (rt, weak) = (self.state.host_context.rt.clone(), Arc::downgrade(&self.state));
        let work = async move {
            let (mut last, mut houses) = (rt.now(), BTreeMap::<Name, House>::new());
            loop {
                rt.sleep(HOUSE_MIN).await;
                let Some(state) = weak.upgrade().filter(|state| !state.stop.is_cancelled()) else { return };
                let pools = state.pools.opened();
                let kept = pools.iter().filter_map(|(_, open)| open.pool.settings().trash()).min();
                if rt.now().since(last) < HOUSE_MAX.min(kept.map_or(HOUSE_MAX, |kept| kept / 4)) {
                    continue;
                }
                last = rt.now();
                for (name, open) in pools {
                    houses.entry(name).or_default().keep(&open).await;
                }
            }
        };
        self.state.host_context.rt.spawn(work).detach();
    }

    /// Counts now and then what pools with a quota store, and at once when somebody has no room.
    fn watch_quotas(self: &Arc<Self>) {
        let (rt, weak) = (self.state.host_context.rt.clone(), Arc::downgrade(&self.state));
        let work = async move {
            while let Some(state) = weak.upgrade().filter(|state| !state.stop.is_cancelled()) {
                for (_, open) in state.pools.opened() {
                    // Each by itself: one whose stores hang holds up no other.
                    let weak = weak.clone();
                    let work = async move {
                        if open.volumes.count_quota().await
                            && let Some(state) = weak.upgrade()
                        {
                            // What is used by now may be told at once.
                            state.capacities.look(&open).await;
                        }
                        open.volumes.collect_for_quota().await;
                    };
                    rt.spawn(work).detach();
                }
                drop(state);
                rt.sleep(QUOTA_LOOK).await;
            }
        };
        self.state.host_context.rt.spawn(work).detach();
    }

    /// Reads where to serve and whom to let in, before all else: what may not be served is refused at once.
    async fn given(&self, options: &Options) -> Result<Given> {
        let HostContext { rt, disk, .. } = &self.state.host_context;
        let Options { nbd, metrics, insecure, .. } = options;
        let flags = Flags { nbd, metrics, insecure: *insecure };
        listen_addresses::given(rt, disk, &self.state.config(), flags).await
    }

    /// Serves NBD clients; those that wait come first. Where no address is given, it listens where it did before.
    async fn listen(
        self: &Arc<Self>,
        mut addresses: Vec<ListenAddress>,
        mut handed_over: Vec<PausedServer>,
    ) -> Result<()> {
        if addresses.is_empty() {
            addresses.extend(handed_over.iter().map(|server| ListenAddress::of(server.asked.clone())));
        }
        if addresses.is_empty() {
            addresses.push(ListenAddress::of(Address::Unix(self.state.host_context.home.nbd()?)));
        }
        for before in &mut handed_over {
            if !addresses.iter().any(|at| is_at(before, &at.address)) {
                tracing::info!(address = %before.address, "nothing is listened on there any more: only its clients go on");
                before.listener = None;
            }
        }
        let went_on: Vec<Address> = handed_over
            .iter()
            .filter(|server| server.listener.is_some())
            .flat_map(|server| [server.asked.clone(), server.address.clone()])
            .collect();
        self.state.sessions.serves_expected();
        for before in handed_over {
            let listens = before.listener.is_some();
            let server = self.go_on(before);
            if listens {
                self.state.nbd.lock().push(server.address().clone());
            }
            self.servers.lock().push(server);
        }
        for at in &addresses {
            if !went_on.contains(&at.address) {
                let rights = load_access_policy::rights(&*self.state.host_context.disk, at).await?;
                let entrance = nbd::Entrance { rights, access: self.state.access.clone() };
                let server = self.listen_on(&at.address, entrance, false).await?;
                self.state.nbd.lock().push(server.address().clone());
                self.servers.lock().push(server);
            }
            let who = load_access_policy::lets_in(at, &self.state.access.policy(), &self.state.config());
            tracing::info!("NBD clients connect to {}: {who}", at.address);
        }
        let commands = self.listen_to_commands().await?;
        let control = self.state.host_context.home.control()?;
        tracing::info!(
            "commands come to unix:{} and {commands}: processes of this user and of root, to all that the daemon may do",
            control.display()
        );
        Ok(())
    }

    /// Serves all clients again that were to go on elsewhere.
    fn go_on_with(&self, paused: Vec<PausedServer>) {
        self.state.sessions.serve_again(held_exports::holders(&paused));
        let servers: Vec<nbd::Server> = paused.into_iter().map(|before| self.go_on(before)).collect();
        self.servers.lock().extend(servers);
    }

    /// Serves the clients of one paused server again.
    fn go_on(&self, before: PausedServer) -> nbd::Server {
        let (rt, memory) = (&self.state.host_context.rt, self.state.pools.memory().requests.clone());
        nbd::go_on(rt, before, self.state.access.clone(), self.exports(false), memory, self.stop.clone())
    }

    fn exports(&self, for_commands: bool) -> Arc<EngineExports> {
        Arc::new(EngineExports { state: Arc::downgrade(&self.state), for_commands })
    }

    /// Reads the keys of stores again wherever they are kept: files of profiles and of s3fs, the state folder, systemd's folder.
    pub async fn reload_credentials(&self) {
        super::credentials::load(&self.state.host_context, &self.state.config()).await;
    }

    /// Reads certificates and rules anew, for who connects from now on. If they can't be used, nothing changes.
    pub async fn reload_access(&self) -> Result<()> {
        let HostContext { rt, disk, .. } = &self.state.host_context;
        let policy = load_access_policy::policy(rt, &**disk, &self.state.config()).await?;
        if policy.tls.is_none() && self.state.nbd_addresses().iter().any(|at| matches!(at, Address::Tls(_))) {
            return Err(Error::new(
                Kind::Usage,
                "[tls] is gone from windlass.toml, and clients connect by TLS",
            ));
        }
        self.state.access.replace(policy);
        Ok(())
    }

    /// Serves exports to commands, which come by the state folder's own socket.
    pub async fn listen_to_commands(&self) -> Result<Address> {
        let path = self.state.host_context.home.exports()?;
        // As the control socket.
        let rights = path.parent().map_or_else(nbd::SocketRights::default, socket_rights);
        let entrance = nbd::Entrance { rights, ..nbd::Entrance::default() };
        let server = self.listen_on(&Address::Unix(path), entrance, true).await?;
        let address = server.address().clone();
        *self.command_server.lock() = Some(server);
        Ok(address)
    }

    async fn listen_on(
        &self,
        address: &Address,
        entrance: nbd::Entrance,
        for_commands: bool,
    ) -> Result<nbd::Server> {
        let (rt, memory) = (&self.state.host_context.rt, self.state.pools.memory().requests.clone());
        nbd::serve_by(rt, address, entrance, self.exports(for_commands), memory, self.stop.clone()).await
    }

    pub fn state(&self) -> &Arc<EngineState> {
        &self.state
    }

    /// Carries out one verb.
    pub async fn run(self: &Arc<Self>, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
        let is_of_mounts = verb.is_of_mounts() || verb.is_of_each_engine();
        if self.state.host_context.home.is_of_mounts() && !is_of_mounts {
            let why = "this process serves mounts alone: ask the daemon, or run the command without one";
            return Err(Error::new(Kind::Unsupported, why));
        }
        if let Verb::HandOver(to) = &verb {
            Box::pin(self.hand_over(to, &progress)).await?;
            return Ok(Outcome::default());
        }
        // On the heap, as below: what all verbs together need is too much for a thread's stack.
        Box::pin(super::verbs::run(&self.state, verb, progress)).await
    }

    /// Returns when no mount is left; none is added after that.
    pub async fn idle(&self) {
        self.state.mounts.idle().await;
    }

    /// Returns when another daemon goes on with what clients are connected to.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Gives clients to another daemon, each between two of its requests, and lets go of the volumes, which stay this host's. If
    /// anything fails before that daemon has said that it has the clients, they go on here.
    async fn hand_over(self: &Arc<Self>, to: &HandOver, progress: &ProgressSink) -> Result<()> {
        let rt = &self.state.host_context.rt;
        self.check_can_hand_over(to)?;
        let closed = self.admission.close(rt).await?;
        let commands = self.command_server.lock().as_ref().map_or(0, nbd::Server::clients);
        if commands > 0 {
            return Err(Error::new(
                Kind::Owned,
                "a command is at work on a volume: wait for its end, then try again",
            ));
        }
        tracing::info!(version = to.version, "another daemon is to go on: what is unsent is stored");
        progress.say("the daemon that runs stores what is unsent");
        self.state.pools.store_unsent(STORE_BEFORE).await;
        let began = rt.now();
        let mut paused = self.leave().await;
        let clients: usize = paused.iter().map(|server| server.clients.len()).sum();
        let sent = match progress.given_up().is_cancelled() {
            true => Err(Error::new(Kind::Closed, "it has given up")),
            false => nbd_handover::send(rt, Path::new(&to.socket), &paused).await,
        };
        let took_ms = rt.now().since(began).as_millis() as u64;
        if let Err(error) = sent {
            self.state.pools.stay();
            self.go_on_with(paused);
            tracing::error!(%error, clients, took_ms, "the other daemon could not take over: this one goes on");
            // Opening what was let go of is a command's work like any other, and those are let in again from here on.
            drop(closed);
            self.state.pools.opened().into_iter().for_each(|(pool, _)| self.recover(pool));
            return Err(error);
        }
        paused.iter_mut().flat_map(|server| &mut server.listener).for_each(nbd::Listener::leave_file);
        tracing::info!(clients, took_ms, "another daemon goes on with the clients");
        closed.keep();
        self.has_left.store(true, Ordering::Relaxed);
        self.replaced.cancel();
        Ok(())
    }

    fn check_can_hand_over(&self, to: &HandOver) -> Result<()> {
        if to.format != nbd_handover::FORMAT {
            let why = format!(
                "a daemon of version {} takes clients over in format {}, this one, of version {}, hands them over in format {}: \
                 stop this one, and start that",
                to.version,
                to.format,
                env!("CARGO_PKG_VERSION"),
                nbd_handover::FORMAT
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
        if self.servers.lock().is_empty() {
            return Err(Error::new(Kind::Unsupported, "this process serves no NBD clients"));
        }
        let opened = self.state.pools.opened();
        let given: Vec<String> =
            opened.iter().flat_map(|(_, open)| open.volumes.opened_by_given_keys()).collect();
        if !given.is_empty() {
            let why = format!(
                "the next daemon finds keys in windlass.toml alone, and {} were given to this one: name them there, or stop this \
                 daemon and start the other",
                given.join(", ")
            );
            return Err(Error::new(Kind::Refused, why));
        }
        let mounts: Vec<String> = self.state.mounts.list().into_iter().map(|mount| mount.dir).collect();
        if mounts.is_empty() {
            return Ok(());
        }
        let why = format!(
            "mounts end with the daemon that serves them, and it serves {}: unmount first, or stop this daemon and start the \
             other",
            mounts.join(", ")
        );
        Err(Error::new(Kind::Refused, why))
    }

    /// Gives the clients' sockets to `keep` before `shutdown`, where somebody keeps them for the next daemon; then they are no
    /// longer this one's. Volumes that these clients use stay this host's; all others are released.
    pub async fn leave_clients(&self, keep: impl FnOnce(&[PausedServer]) -> Result<()>) {
        // Of clients that wait for the next daemon a command would not know.
        self.admission.end(&self.state.host_context.rt).await;
        self.state.pools.store_unsent(STORE_BEFORE).await;
        let used = |path: &VolumePath, volume: &Volume| self.state.sessions.is_used(path, key_of(volume));
        self.state.pools.release_unless(&used, self.state.config().drain()).await;
        let mut paused = self.leave().await;
        match keep(&paused) {
            Ok(()) => {
                paused.iter_mut().flat_map(|server| &mut server.listener).for_each(nbd::Listener::leave_file);
                self.has_left.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "clients can't be kept for the next daemon: they are hung up on");
                self.state.pools.stay();
                self.go_on_with(paused);
            }
        }
    }

    /// Pauses all NBD clients between two requests, accepts nobody any more, and lets go of the volumes. The hand-over tells what
    /// became of each client's disk meanwhile.
    async fn leave(&self) -> Vec<PausedServer> {
        self.state.pools.keep_notes();
        let servers = std::mem::take(&mut *self.servers.lock());
        let paused = join_all(servers.into_iter().map(nbd::Server::pause)).await;
        let lost = |error: &Error| tracing::error!(%error, "clients of one address are lost");
        let paused = paused.into_iter().filter_map(|server| server.inspect_err(lost).ok()).collect();
        self.state.pools.leave().await;
        paused
    }

    /// Ends in order: no new work, mounts uploaded and gone, clients answered, volumes drained and released.
    pub async fn shutdown(&self) -> Result<()> {
        let unmounted = self.state.mounts.shutdown(&self.state.host_context).await;
        self.stop.cancel();
        let servers = std::mem::take(&mut *self.servers.lock());
        let command_server = self.command_server.lock().take();
        let drain = self.state.config().drain();
        for server in servers.into_iter().chain(command_server) {
            if self.state.host_context.rt.timeout(drain, server.ended()).await.is_none() {
                tracing::warn!("requests of clients still wait for stores: they get no answer");
            }
        }
        let let_go = async {
            match self.has_left.load(Ordering::Relaxed) {
                // It has let go of its volumes, and must not open one again.
                true => self.state.pools.close().await,
                false => {
                    let sentences = self.state.pools.shutdown(drain).await;
                    sentences.iter().for_each(|sentence| tracing::warn!("{sentence}"));
                }
            }
        };
        // Bounded whatever the stores do: what is not drained by then is in the journals, and stays ours.
        match self.state.host_context.rt.timeout(drain + GRACE, let_go).await {
            Some(()) => {}
            None => tracing::warn!(
                "too few stores answer to let go of all volumes: those stay owned by this host, and what is not in \
                 the pool yet is on this host's disk"
            ),
        }
        let traces = self.traces.lock().take();
        if let Some(traces) = traces {
            traces.stop().await;
        }
        // A command may be what ends this engine: it gets its answer.
        let answers = self.answers.lock().clone();
        answers.sent(&self.state.host_context.rt, LAST_ANSWERS).await;
        remove_if_there(&*self.state.host_context.disk, &self.state.host_context.home.control()?).await;
        self.lock.lock().take();
        unmounted
    }
}

fn is_at(server: &PausedServer, address: &Address) -> bool {
    server.listener.is_some() && (server.asked == *address || server.address == *address)
}

async fn weak_sleep(rt: &Rt, stop: &CancellationToken) {
    let (sleep, stopped) = (rt.sleep(RETRY), stop.cancelled());
    futures::pin_mut!(sleep, stopped);
    futures::future::select(sleep, stopped).await;
}

async fn remove_if_there(disk: &dyn Disk, path: &Path) {
    let _ = disk.remove(path).await;
}

/// Handler of the control socket. The reference is weak: a listening socket does not keep an engine alive.
struct Commands(std::sync::Weak<Engine>);

#[async_trait]
impl Handler for Commands {
    async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome> {
        let ended = || Error::new(Kind::Closed, "the daemon is shutting down");
        let engine = self.0.upgrade().ok_or_else(ended)?;
        let _admitted = engine.admission.admit(&verb)?;
        engine.run(verb, progress).await
    }
}
