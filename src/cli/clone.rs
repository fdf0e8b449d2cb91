//! `windlass clone`.

use std::process::ExitCode;

use super::{Global, done, output, reach_engine};
use crate::base::Result;
use crate::daemon::api::{SnapshotPath, Verb, VolumePath};

#[derive(clap::Args, Debug)]
pub struct Clone {
    /// POOL/VOLUME@SNAPSHOT
    from: SnapshotPath,
    /// POOL/NEW
    to: VolumePath,
    /// Succeed when the volume exists and is a clone of that snapshot
    #[arg(long)]
    if_absent: bool,
}

pub async fn run(global: &Global, args: Clone) -> Result<ExitCode> {
    let verb = Verb::Clone { from: args.from, to: args.to, if_absent: args.if_absent };
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}
