//! `windlass replicate`: one round of what `[replica."POOL/VOLUME"]` of windlass.toml does on a schedule.

use std::process::ExitCode;

use super::{Global, done, output, reach_engine};
use crate::daemon::api::{self, Verb, VolumePath};
use windlass_base::Result;

#[derive(clap::Args, Debug)]
pub struct Replicate {
    from: VolumePath,
    /// The copy: POOL/VOLUME, made if there is none
    to: VolumePath,
}

pub async fn run(global: &Global, Replicate { from, to }: Replicate) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, Verb::Replicate(api::Replicate { from, to })).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}
