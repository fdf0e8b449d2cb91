//! `windlass drill`: rehearsals of losses, on a running daemon.

use std::process::ExitCode;

use super::{Global, done, output, reach_engine};
use crate::daemon::api::{LoseStore, Verb};
use windlass_base::units::parse_duration;
use windlass_base::{Name, Result};

#[derive(clap::Subcommand, Debug)]
pub enum Drill {
    /// Cut one store off for a while, and tell what clients saw
    LoseStore {
        pool: Name,
        /// Which one: its URL as `pool status` shows it (default: the last one)
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// For how long
        #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        cut_for: std::time::Duration,
        /// Also where I/O would wait without that store
        #[arg(long)]
        force: bool,
    },
}

pub async fn run(global: &Global, args: Drill) -> Result<ExitCode> {
    let Drill::LoseStore { pool: name, store, cut_for, force } = args;
    let for_ms = u64::try_from(cut_for.as_millis()).unwrap_or(u64::MAX);
    let verb = Verb::DrillLoseStore(LoseStore { name, store, for_ms, force });
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}
