//! Reaching an engine: the running daemon through its control socket, else one in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, select};
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use super::transfer_bar::{Counts, bar};
use crate::daemon::api::{Outcome, Progress, Verb, VolumePath};
use crate::daemon::control_client::Client;
use crate::daemon::progress::{ProgressSink, Step};
use crate::daemon::{ALONE, Config, Engine, Options, StateDir, signals};
use windlass_base::nearest::nearest_word;
use windlass_base::rt::{Disk, RealDisk, RealRuntime, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_nbd::{self as nbd, Address};

/// Pause between looks at whether a daemon that is about to go on listens; `NEXT_TRIES` looks are as long as
/// that may take.
const NEXT: Duration = Duration::from_millis(100);
const NEXT_TRIES: u32 = 600;

/// True once a signal has ended a wait.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Tells whether the command was interrupted, which its exit code says.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Returns at the first signal that asks to stop; the next one ends the process.
pub async fn interrupted() {
    signals::terminated().await;
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Runs `work` until the first signal, which drops it: `None` then.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    let (work, signal) = (std::pin::pin!(work), std::pin::pin!(interrupted()));
    // The signal's wait begins first, so that none is missed in the first step of the work.
    match select(signal, work).await {
        Either::Left(_) => None,
        Either::Right((done, _)) => Some(done),
    }
}

/// Runs `work` like `unless_interrupted`; an interrupt is an error. The caller clears away what the work
/// left.
pub async fn or_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    unless_interrupted(work).await.unwrap_or_else(|| Err(Error::new(Kind::Closed, "interrupted")))
}

/// Runs `work` to its end, or to the second signal.
async fn unless_twice<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let twice = async {
        while !was_interrupted() {
            signals::terminated().await;
        }
        signals::terminated().await;
    };
    let (work, twice) = (std::pin::pin!(work), std::pin::pin!(twice));
    match select(work, twice).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(Error::new(Kind::Closed, "interrupted: it is not known what was done")),
    }
}

/// Connects to the engines that may have mounts which this process sees. The first is the one that new mounts
/// go to: the mounts' own engine while one runs, then the daemon. So both have some only if they began at the
/// same moment.
pub async fn with_mounts(home: &StateDir) -> Result<Vec<Client>> {
    let own = match Client::connect(&home.of_mounts().control()?).await {
        // Root's, in a state folder whose daemon this user may administer.
        Err(e) if e.is(Kind::Denied) => None,
        own => own?,
    };
    let daemon = Client::connect(&home.control()?).await?.filter(Client::shares_mounts);
    Ok(own.into_iter().chain(daemon).collect())
}

/// The two places where an engine can be.
enum Reached {
    Daemon(Client),
    Here(Arc<Engine>),
}

/// Returns the running engine, of mounts or of volumes, or starts one here.
async fn reach(global: &Global, of_mounts: bool) -> Result<Reached> {
    let home = StateDir::locate()?;
    let rt = Rt::new(RealRuntime::current());
    let own = if of_mounts { home.of_mounts() } else { home.clone() };
    let disk = RealDisk::start();
    let mut waited = 0;
    // A daemon that is just starting or ending holds the lock without listening: a short wait bridges it.
    for attempt in 0..20 {
        let running = match of_mounts {
            true => with_mounts(&home).await?.into_iter().next(),
            false => Client::connect(&home.control()?).await?,
        };
        if let Some(client) = running {
            return Ok(Reached::Daemon(client));
        }
        // Its clients wait for it, and are nobody's until it listens.
        while waited < NEXT_TRIES && own.awaits_next(&*disk).await {
            waited += 1;
            rt.sleep(NEXT).await;
            if let Some(client) = Client::connect(&own.control()?).await? {
                return Ok(Reached::Daemon(client));
            }
        }
        if waited == NEXT_TRIES {
            let why = format!(
                "clients of the daemon that ended on {} wait for the next one, which does not come: see why it does not start \
                 (`systemctl status windlass`), or stop its unit, which hangs up on them",
                own.root().display()
            );
            return Err(Error::new(Kind::Owned, why));
        }
        match start(global, own.clone(), Options::default(), None).await {
            Err(e) if e.is(Kind::Owned) && attempt < 19 => {
                rt.sleep(Duration::from_millis(100)).await;
            }
            started => return started.map(Reached::Here),
        }
    }
    unreachable!("the last attempt returns")
}

/// Text before a volume's path in the error that says that it isn't there.
const NO_VOLUME: &str = "there is no volume ";

/// Returns the question for the volumes that may have been meant, if the error says that there is none of the
/// name.
fn lists_near(error: &Error) -> Option<Verb> {
    let pool = missing(error)?.pool;
    Some(Verb::VolumeList { pool: Some(pool), importing: false })
}

fn missing(error: &Error) -> Option<VolumePath> {
    let text = error.to_string();
    let (_, path) = text.split_once(NO_VOLUME).filter(|_| error.is(Kind::NotFound))?;
    path.parse().ok()
}

fn with_near(error: Error, listed: &Outcome) -> Error {
    let Some(VolumePath { pool, volume }) = missing(&error) else { return error };
    let paths = listed.value.as_array().into_iter().flatten().filter_map(|line| line["path"].as_str());
    let names: Vec<&str> = paths.filter_map(|path| Some(path.split_once('/')?.1)).collect();
    let cure = match nearest_word(volume.as_str(), &names) {
        Some(near) => format!("did you mean {pool}/{near}?"),
        None => format!("`windlass volume list {pool}` lists those that there are"),
    };
    Error::new(error.kind(), format!("{error}: {cure}"))
}

/// Runs one verb wherever the engine is.
pub async fn ask(global: &Global, verb: Verb) -> Result<Outcome> {
    match reach(global, verb.is_of_mounts()).await? {
        Reached::Daemon(mut client) => match through(&mut client, verb).await {
            Err(error) => match lists_near(&error) {
                Some(list) => Err(with_near(error, &through(&mut client, list).await?)),
                None => Err(error),
            },
            done => done,
        },
        Reached::Here(engine) => {
            let work = async {
                let mut result = in_process(&engine, verb).await;
                if let Err(error) = &result
                    && let Some(list) = lists_near(error)
                    && let Ok(listed) = in_process(&engine, list).await
                {
                    result = result.map_err(|error| with_near(error, &listed));
                }
                ending(&engine, result).await
            };
            unless_twice(Box::pin(work)).await
        }
    }
}

/// An engine for a command that moves data: verbs, and exports to read and write.
pub struct Door {
    rt: Rt,
    engine: Reached,
    address: Address,
}

impl Door {
    /// Reaches an engine. The caller has to `close` it when the work is done, well or not.
    pub async fn open(global: &Global) -> Result<Door> {
        let rt = Rt::new(RealRuntime::current());
        let engine = reach(global, false).await?;
        let address = match &engine {
            Reached::Daemon(_) => Ok(Address::Unix(StateDir::locate()?.exports()?)),
            Reached::Here(engine) => engine.listen_to_commands().await,
        };
        match (address, &engine) {
            (Ok(address), _) => Ok(Door { rt, engine, address }),
            (Err(error), Reached::Here(engine)) => ending(engine, Err(error)).await,
            (Err(error), Reached::Daemon(_)) => Err(error),
        }
    }

    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Runs a verb. A signal gives the verb up, as far as it can be.
    // Boxed by type: callers need not prove that all that an engine does may change threads, which takes the compiler long.
    pub fn ask(&mut self, verb: Verb) -> BoxFuture<'_, Result<Outcome>> {
        let asked = async move {
            match &mut self.engine {
                Reached::Daemon(client) => through(client, verb).await,
                Reached::Here(engine) => unless_twice(Box::pin(in_process(engine, verb))).await,
            }
        };
        asked.boxed()
    }

    /// Connects to `POOL/VOLUME` or `POOL/VOLUME@SNAPSHOT`, as a client of NBD. `contexts`: those that
    /// extents will be asked for.
    pub async fn export(&self, name: &str, contexts: &[&str]) -> Result<nbd::Client> {
        nbd::Client::connect_to_map(&self.rt, &self.address, name, contexts).await
    }

    /// Connects to a volume to write to it, while nobody else may use it. `Kind::Refused`, with their names,
    /// while others do.
    pub async fn export_alone(&self, path: &VolumePath, contexts: &[&str]) -> Result<nbd::Client> {
        self.export(&format!("{ALONE}{path}"), contexts).await
    }

    /// Returns `result`. A command that ran the engine itself gives up what it owns before.
    pub async fn close<T>(self, result: Result<T>) -> Result<T> {
        match self.engine {
            Reached::Daemon(_) => result,
            Reached::Here(engine) => unless_twice(Box::pin(ending(&engine, result))).await,
        }
    }
}

/// Ends the engine of this process and returns the result. What went wrong before is told first.
async fn ending<T>(engine: &Engine, result: Result<T>) -> Result<T> {
    let ended = engine.shutdown().await;
    let outcome = result?;
    ended?;
    Ok(outcome)
}

/// Runs a verb through the daemon. A signal gives the verb up, as far as it can be.
pub async fn through(client: &mut Client, verb: Verb) -> Result<Outcome> {
    let rt = Rt::new(RealRuntime::current());
    let mut view = View::default();
    unless_twice(client.call(&rt, verb, |step| view.show(step), interrupted())).await
}

async fn in_process(engine: &Arc<Engine>, verb: Verb) -> Result<Outcome> {
    let (sink, mut steps) = ProgressSink::channel();
    let given_up = sink.given_up().clone();
    let shown = async move {
        let mut view = View::default();
        while let Some(step) = steps.recv().await {
            view.show(step);
        }
    };
    let work = async { futures::join!(engine.run(verb, sink), shown).0 };
    let work = std::pin::pin!(work);
    match select(work, std::pin::pin!(interrupted())).await {
        Either::Left((result, _)) => result,
        Either::Right(((), work)) => {
            given_up.cancel();
            work.await
        }
    }
}

/// Returns the path of the configuration, and whether the user named it.
pub fn config_file(global: &Global) -> Result<(PathBuf, bool)> {
    match &global.config {
        Some(file) => Ok((file.clone(), true)),
        None => Ok((StateDir::locate()?.config(), false)),
    }
}

/// Reads windlass.toml, for a command that needs no engine.
pub async fn config(global: &Global) -> Result<Config> {
    let (file, named) = config_file(global)?;
    Config::load(&*RealDisk::start(), &file, named).await
}

/// Starts an engine in this process; `Kind::Owned` when another one has the state folder, or that of mounts if `home` is
/// that.
pub async fn start(
    global: &Global,
    home: StateDir,
    options: Options,
    cache: Option<u64>,
) -> Result<Arc<Engine>> {
    let rt = Rt::new(RealRuntime::current());
    let disk = RealDisk::start();
    let file = global.config.clone().unwrap_or_else(|| home.config());
    let config = Config::load(&*disk, &file, global.config.is_some()).await?;
    let memory = config.memory(global.memory)?;
    // Commands that run the engine themselves, and end with it, read too little to be worth one.
    let cache = if options.serve || options.control { config.cache(cache, &home.cache())? } else { 0 };
    let cache_disk = (cache > 0).then(|| RealDisk::start() as Arc<dyn Disk>);
    Engine::start(rt, disk, home, config, Options { memory, cache, cache_disk, ..options }).await
}

/// The lines on stderr while a verb goes on: sentences, and its progress.
#[derive(Default)]
struct View(Option<ProgressBar>);

impl View {
    fn show(&mut self, step: Step) {
        match step {
            Step::Progress(step) => self.bar(&step),
            Step::Says(sentence) => {
                let line = || eprintln!("windlass: {sentence}");
                self.0.as_ref().map_or_else(line, |bar| bar.suspend(line));
            }
        }
    }

    fn bar(&mut self, step: &Progress) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = bar(Counts::Steps);
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(step.total);
        bar.set_position(step.done);
        bar.set_message(step.doing.clone());
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
