//! `windlass clone`.

use std::process::ExitCode;

use super::snapshot_or_time::Moment;
use super::{Global, done, output, reach_engine};
use crate::daemon::api::{CloneMany, SnapshotPath, Verb, VolumePath};
use windlass_base::{Error, Kind, Result};

#[derive(clap::Args, Debug)]
pub struct Clone {
    /// POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15: the newest snapshot of what it was then
    from: Moment,
    /// POOL/NEW
    #[arg(required_unless_present = "count", conflicts_with = "count")]
    to: Option<VolumePath>,
    /// Make so many clones at once, at most 10,000
    #[arg(long, value_name = "N", requires = "name")]
    count: Option<u32>,
    /// With --count: the clones' names, in which an n in braces stands for 1, 2, … up to N
    #[arg(long, value_name = "PATTERN", requires = "count")]
    name: Option<String>,
    /// Succeed when a volume exists and is a clone of that snapshot
    #[arg(long)]
    if_absent: bool,
}

impl Clone {
    fn verb(self, from: SnapshotPath) -> Result<Verb> {
        let Clone { to, count, name, if_absent, .. } = self;
        match (to, count, name) {
            (Some(to), ..) => Ok(Verb::clone_of(from, to, if_absent)),
            (None, Some(count), Some(pattern)) => {
                Ok(Verb::CloneMany(CloneMany { from, count, pattern, if_absent }))
            }
            _ => Err(Error::new(Kind::Usage, "name the clone, or give --count and --name")),
        }
    }
}

pub async fn run(global: &Global, args: Clone) -> Result<ExitCode> {
    let from = args.from.clone().find(global).await?;
    let outcome = reach_engine::ask(global, args.verb(from)?).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}
