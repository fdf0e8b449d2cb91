//! `windlass serve`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::graceful_restart::Next;
use super::{Global, graceful_restart, output, reach_engine, sd_notify, stderr_log};
use crate::daemon::config::{LogFormat, Unusable};
use crate::daemon::signals::{self, Hangups};
use crate::daemon::{
    Config, Configured, Engine, HandedOver, ListenFlags, MirrorFlags, Options, Reloaded, StateDir, say_from,
};
use windlass_base::rt::{DiskLock, RealDisk, RealRuntime, Rt};
use windlass_base::{Kind, Name, Result};
use windlass_nbd::PausedServer;

/// Number of attempts to get the lock of an engine that ends; `ENDING` lies between them.
const ENDING_TRIES: u32 = 20;
const ENDING: Duration = Duration::from_millis(100);
/// Number of attempts to get the lock of a daemon that has handed over. They come quickly, since clients
/// wait.
const REPLACED_TRIES: u32 = 1000;
const REPLACED: Duration = Duration::from_millis(10);

#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Where NBD clients connect: tls:HOST:PORT, HOST:PORT or unix:PATH[,mode=0660][,owner=USER][,group=GROUP] (default:
    /// unix:$WINDLASS_HOME/nbd.sock, for its owner alone)
    #[arg(long, value_name = "ADDR")]
    nbd: Vec<String>,
    /// Let NBD clients of other hosts in without TLS, and readers of metrics: whoever reaches the address may read and write all
    /// volumes, or read the metrics
    #[arg(long)]
    insecure: bool,
    /// Where Prometheus reads metrics over HTTP, at /metrics, and a browser a page: HOST:PORT or unix:PATH (default: nowhere)
    #[arg(long, value_name = "ADDR")]
    metrics: Vec<String>,
    /// The peer of this host, HOST:PORT: volumes with flush=mirror that are owned here mirror their journals there (default:
    /// `mirror` in windlass.toml)
    #[arg(long, value_name = "HOST:PORT")]
    mirror: Option<String>,
    /// Where hosts connect whose peer this one is (default: `mirror_listen` in windlass.toml, then nowhere)
    #[arg(long, value_name = "HOST:PORT")]
    mirror_listen: Option<String>,
    /// A file with a secret, the same on both hosts, by which they know each other (default: `mirror_key` in windlass.toml)
    #[arg(long, value_name = "FILE")]
    mirror_key: Option<String>,
    /// Local disk for the read cache, for example 10G; 0: none (default: WINDLASS_CACHE, then `cache` in windlass.toml,
    /// then a tenth of what is free, 10G at most)
    #[arg(long, value_name = "SIZE", value_parser = windlass_base::units::parse_size)]
    cache: Option<u64>,
    /// Open this pool at the start, or fail (default: every known pool; one that cannot open is tried again)
    #[arg(long, value_name = "POOL")]
    pool: Vec<Name>,
    /// Go on with the sockets and clients of the daemon that runs on this state folder, which ends; if that fails, it goes on
    #[arg(long)]
    replace: bool,
}

/// Raises the limit of open files to the most that may be had. Each client takes one, and shells give 1,024
/// where 20 times as many may be had.
fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "no more files can be opened than {:?}", limit.current);
    }
}

pub async fn run(global: &Global, args: Serve) -> Result<ExitCode> {
    let mut hangups = Hangups::listen();
    let config = reach_engine::config(global).await?;
    apply_log(global, &config);
    take_open_files();
    let rt = Rt::new(RealRuntime::current());
    let home = StateDir::locate()?;
    let control = home.control()?;
    let mirror = MirrorFlags { peer: args.mirror, listen: args.mirror_listen, key: args.mirror_key };
    let listen = ListenFlags { nbd: &args.nbd, metrics: &args.metrics, insecure: args.insecure };
    let asked = graceful_restart::Asked { listen, mirror: &mirror, pools: &args.pool };
    let (handed_over, next) = goes_on_with(&rt, &home, &config, &asked, args.replace).await?;
    let options = Options {
        handed_over,
        serve: true,
        control: true,
        nbd: args.nbd,
        insecure: args.insecure,
        metrics: args.metrics,
        mirror,
        pools: args.pool,
        ..Options::default()
    };
    let engine = start(global, &rt, &home, &options, args.cache).await?;
    // It listens: commands reach it.
    graceful_restart::has_come(next);
    let configured = Configured::begin(&engine).await;
    for address in engine.state().nbd_addresses() {
        output::line(&format!("nbd {address}"));
    }
    for address in engine.state().metrics_addresses() {
        output::line(&format!("metrics {address}"));
    }
    if let Some(address) = engine.state().mirror.lock().as_ref() {
        output::line(&format!("mirror {address}"));
    }
    output::line(&format!("control {}", control.display()));
    output::line("ready");
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, home = %control.parent().unwrap_or(&control).display(), "the daemon serves");
    sd_notify::ready(&rt, &control);
    let (terminated, replaced) = (std::pin::pin!(signals::terminated()), std::pin::pin!(engine.replaced()));
    let mut ended = select(terminated, replaced);
    let is_replaced = loop {
        match select(&mut ended, std::pin::pin!(hangups.next())).await {
            Either::Left((ended, _)) => break matches!(ended, Either::Right(_)),
            Either::Right(_) => reload(global, &engine, &configured).await,
        }
    };
    if !is_replaced {
        sd_notify::stopping();
        if sd_notify::keeps_sockets() {
            leave_clients(&engine, &rt, &home).await;
        }
    }
    tracing::info!("the daemon ends: it lets go of what it has");
    engine.shutdown().await?;
    tracing::info!("the daemon has ended");
    Ok(ExitCode::SUCCESS)
}

/// Returns what the daemon before has left, and the announcement by which others know that this one comes.
async fn goes_on_with(
    rt: &Rt,
    home: &StateDir,
    config: &Config,
    asked: &graceful_restart::Asked<'_>,
    replace: bool,
) -> Result<(HandedOver, Next)> {
    let (kept, next) = graceful_restart::kept()?;
    // With `replace` too: what a daemon has left in systemd's keeping is left to this one, and none runs that could hand over.
    if let Some(next) = next {
        return Ok((kept, next));
    }
    // Clients may wait for another that comes.
    let next = Next::Announced(announced(rt, home).await?);
    match replace && kept.is_empty() {
        true => Ok((graceful_restart::replace(rt, home, config, asked).await?, next)),
        false => Ok((kept, next)),
    }
}

/// Leaves clients in systemd's keeping, for the daemon that it starts next. Until that daemon listens no
/// command may begin an engine of its own, which would know of no client.
async fn leave_clients(engine: &Engine, rt: &Rt, home: &StateDir) {
    let next = announced(rt, home).await;
    let next =
        next.inspect_err(|error| tracing::warn!(%error, "commands can't be told that clients wait")).ok();
    let mut kept = false;
    let keep =
        |paused: &[PausedServer]| graceful_restart::keep(paused, next.as_deref()).inspect(|()| kept = true);
    engine.leave_clients(keep).await;
    if kept {
        // Dropped it would be let go of, in systemd's keeping too.
        std::mem::forget(next);
    }
}

/// Announces this process as the next daemon. Commands look whether there is one, and each holds the lock for
/// a moment: so it tries again.
async fn announced(rt: &Rt, home: &StateDir) -> Result<Box<dyn DiskLock>> {
    let (disk, mut tries) = (RealDisk::start(), 0);
    loop {
        tries += 1;
        match home.announce_next(&*disk).await {
            Err(e) if e.is(Kind::Owned) && tries < ENDING_TRIES => rt.sleep(ENDING).await,
            done => return done,
        }
    }
}

/// Starts the engine, and waits for a daemon that is just ending.
async fn start(
    global: &Global,
    rt: &Rt,
    home: &StateDir,
    options: &Options,
    cache: Option<u64>,
) -> Result<Arc<Engine>> {
    let (control, replaces) = (home.control()?, !options.handed_over.is_empty());
    let mut tries = 0;
    loop {
        tries += 1;
        match reach_engine::start(global, home.clone(), options.clone(), cache).await {
            Err(e) if e.is(Kind::Owned) && replaces && tries < REPLACED_TRIES => rt.sleep(REPLACED).await,
            // It holds the lock a moment longer and listens no more.
            Err(e)
                if e.is(Kind::Owned)
                    && tries < ENDING_TRIES
                    && !graceful_restart::listens(&control).await =>
            {
                rt.sleep(ENDING).await;
            }
            Err(e) if e.is(Kind::Owned) => return Err(e.context("the daemon cannot start")),
            started => return started,
        }
    }
}

/// Applies the file's settings of the log. `-v` and RUST_LOG win over its filter.
fn apply_log(global: &Global, config: &Config) {
    let filter = (global.verbose == 0).then(|| config.log_level().filter());
    stderr_log::configure(filter, config.log_format() == LogFormat::Json);
    say_from(config.log_slow());
}

/// Reads the file anew. Errors in it are told, and then all stays as it was.
async fn reload(global: &Global, engine: &Engine, configured: &Arc<Configured>) {
    let (file, named) = match reach_engine::config_file(global) {
        Ok(found) => found,
        Err(error) => return tracing::error!(%error, "the configuration stays as it was"),
    };
    let shown = file.display();
    let config = match Config::read(&*RealDisk::start(), &file, named).await {
        Ok(config) => config,
        Err(Unusable::File(error)) => return tracing::error!(%error, "the configuration stays as it was"),
        Err(Unusable::Content(wrong)) => {
            wrong.iter().for_each(|wrong| tracing::error!("{shown}, {wrong}"));
            return tracing::error!("the configuration stays as it was: {shown} has errors");
        }
    };
    apply_log(global, &config);
    let changed = configured.reload(config);
    configured.reload_credentials().await;
    match engine.reload_access().await {
        Ok(()) => {
            tracing::info!("certificates and rules were read anew, for clients that connect from now on")
        }
        Err(error) => tracing::error!(%error, "certificates and rules stay as they were"),
    }
    if changed == Reloaded::default() {
        return tracing::info!("the configuration was read anew: nothing changed in {shown}");
    }
    let told = [
        ("holds now", changed.now),
        ("holds from the next start of the daemon on", changed.at_start),
        (
            "holds when the folder was unmounted and the configuration is read anew once more",
            changed.at_mount,
        ),
    ];
    for (when, keys) in told.into_iter().filter(|(_, keys)| !keys.is_empty()) {
        tracing::info!("the configuration was read anew; what {when}: {}", keys.join(", "));
    }
}
