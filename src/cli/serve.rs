//! `windlass serve`: the daemon.

use std::process::ExitCode;

use super::{Global, output, reach};
use crate::base::{Kind, Name, Result};
use crate::daemon::{Home, Options};

#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Where NBD clients connect: HOST:PORT or unix:PATH (unix:$WINDLASS_HOME/nbd.sock without any)
    #[arg(long, value_name = "ADDR")]
    nbd: Vec<String>,
    /// A pool that must open; without any, every known pool is served and one that cannot open is tried again
    #[arg(long, value_name = "POOL")]
    pool: Vec<Name>,
}

pub async fn run(global: &Global, args: Serve) -> Result<ExitCode> {
    let home = Home::locate()?;
    let control = home.control()?;
    let options =
        Options { serve: true, control: true, nbd: args.nbd, pools: args.pool, ..Options::default() };
    let engine = reach::start(global, home, options).await.map_err(|e| match e.kind() {
        Kind::Owned => e.context("the daemon cannot start"),
        _ => e,
    })?;
    for address in engine.desk().nbd_addresses() {
        output::line(&format!("nbd {address}"));
    }
    output::line(&format!("control {}", control.display()));
    output::line("ready");
    crate::daemon::signals::terminated().await;
    engine.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
