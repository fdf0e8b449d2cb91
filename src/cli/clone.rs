//! `windlass clone`.

use std::process::ExitCode;

use super::moment::Moment;
use super::{Global, done, output, reach_engine};
use crate::base::Result;
use crate::daemon::api::{Verb, VolumePath};

#[derive(clap::Args, Debug)]
pub struct Clone {
    /// POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15: the newest snapshot that is not after that
    from: Moment,
    /// POOL/NEW
    to: VolumePath,
    /// Succeed when the volume exists and is a clone of that snapshot
    #[arg(long)]
    if_absent: bool,
}

pub async fn run(global: &Global, args: Clone) -> Result<ExitCode> {
    let from = args.from.find(global).await?;
    let verb = Verb::Clone { from, to: args.to, if_absent: args.if_absent };
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}
