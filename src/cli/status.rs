//! `windlass status`.

use std::process::ExitCode;

use super::{Global, done, mount, output, reach_engine};
use crate::base::Result;
use crate::base::size::show_bytes;
use crate::daemon::answers::{EngineStatus, VolumeInUse};
use crate::daemon::api::Verb;

#[derive(clap::Args, Debug)]
pub struct Status {}

pub async fn run(global: &Global, _: Status) -> Result<ExitCode> {
    let mut outcome = reach_engine::ask(global, Verb::Status).await?;
    mount::add_others(&mut outcome).await?;
    output::report(global, &outcome, human)?;
    Ok(done(&outcome))
}

fn human(status: EngineStatus) {
    output::line(&format!("state folder  {}", status.home));
    output::line(&format!("host          {} (id {})", status.host, status.host_id));
    let cache = |tier: &str, bytes: u64, bytes_max: u64, found: [u64; 2], off: bool| {
        let (bytes, bytes_max, [hits, misses]) = (show_bytes(bytes), show_bytes(bytes_max), found);
        let off = if off { ", off" } else { "" };
        let tier = format!("cache, {tier}");
        output::line(&format!("{tier:13} {bytes} of {bytes_max}; {hits} found, {misses} not{off}"));
    };
    let held = status.cache.memory;
    cache("memory", held.bytes, held.bytes_max, [held.hits, held.misses], false);
    if let Some(held) = status.cache.disk {
        cache("disk", held.bytes, held.bytes_max, [held.hits, held.misses], !held.on);
    }
    super::pool::list(status.pools);
    let row = |v: VolumeInUse| {
        vec![v.path.to_string(), v.clients.to_string(), v.state.into_owned(), show_bytes(v.unsent_bytes)]
    };
    let rows = status.volumes.into_iter().map(row).collect();
    output::table(&["OPEN VOLUME", "CLIENTS", "STATE", "UNSENT"], rows);
    mount::mounts(status.mounts);
}
