//! `windlass volume checksum`: the sum of the bytes of a volume or snapshot.

use std::process::ExitCode;

use serde::Deserialize;

use super::export::State;
use super::{Global, output, reach_engine};
use crate::daemon::api::Verb;
use windlass_base::Result;

#[derive(clap::Args, Debug)]
pub struct Checksum {
    /// POOL/VOLUME, POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15
    of: State,
}

#[derive(Debug, Deserialize)]
struct Sum {
    path: String,
    blake3: String,
}

pub async fn checksum(global: &Global, args: Checksum) -> Result<ExitCode> {
    let (path, snapshot) = args.of.find(global).await?.into_parts();
    let outcome = reach_engine::ask(global, Verb::VolumeChecksum { path, snapshot }).await?;
    output::report(global, &outcome, |Sum { path, blake3 }| output::line(&format!("{blake3}  {path}")))?;
    Ok(ExitCode::SUCCESS)
}
