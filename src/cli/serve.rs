//! `windlass serve`: the daemon.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{Global, output, reach_engine, supervisor};
use crate::base::rt::{RealRuntime, Rt};
use crate::base::{Kind, Name, Result};
use crate::daemon::control::Client;
use crate::daemon::{Options, StateDir};

/// How long the lock of an engine that ends is waited for.
const ENDING_TRIES: u32 = 20;
const ENDING: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Where NBD clients connect: HOST:PORT or unix:PATH (default: unix:$WINDLASS_HOME/nbd.sock)
    #[arg(long, value_name = "ADDR")]
    nbd: Vec<String>,
    /// Where Prometheus reads metrics over HTTP, at /metrics: HOST:PORT or unix:PATH (default: nowhere)
    #[arg(long, value_name = "ADDR")]
    metrics: Vec<String>,
    /// Local disk for the read cache, for example 10G; 0: none (default: WINDLASS_CACHE, then `cache` in windlass.toml,
    /// then a tenth of what is free, 10G at most)
    #[arg(long, value_name = "SIZE", value_parser = crate::base::size::parse_size)]
    cache: Option<u64>,
    /// Open this pool at the start, or fail (default: every known pool; one that cannot open is tried again)
    #[arg(long, value_name = "POOL")]
    pool: Vec<Name>,
}

pub async fn run(global: &Global, args: Serve) -> Result<ExitCode> {
    crate::daemon::signals::outlive_hangup();
    let home = StateDir::locate()?;
    let control = home.control()?;
    let options = Options {
        serve: true,
        control: true,
        nbd: args.nbd,
        metrics: args.metrics,
        pools: args.pool,
        ..Options::default()
    };
    let rt = Rt::new(RealRuntime::current());
    let mut tries = 0;
    let engine = loop {
        tries += 1;
        match reach_engine::start(global, home.clone(), options.clone(), args.cache).await {
            // One that is just ending holds the lock a moment longer and listens no more.
            Err(e) if e.is(Kind::Owned) && tries < ENDING_TRIES && !listens(&control).await => {
                rt.sleep(ENDING).await;
            }
            Err(e) if e.is(Kind::Owned) => return Err(e.context("the daemon cannot start")),
            started => break started?,
        }
    };
    for address in engine.state().nbd_addresses() {
        output::line(&format!("nbd {address}"));
    }
    for address in engine.state().metrics_addresses() {
        output::line(&format!("metrics {address}"));
    }
    output::line(&format!("control {}", control.display()));
    output::line("ready");
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, home = %control.parent().unwrap_or(&control).display(), "the daemon serves");
    supervisor::ready(&rt, &control);
    crate::daemon::signals::terminated().await;
    supervisor::stopping();
    tracing::info!("the daemon ends: it lets go of what it has");
    engine.shutdown().await?;
    tracing::info!("the daemon has ended");
    Ok(ExitCode::SUCCESS)
}

async fn listens(control: &Path) -> bool {
    matches!(Client::connect(control).await, Ok(Some(_)))
}
