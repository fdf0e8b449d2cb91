//! `windlass volume take-over`: of one volume, or of all that a host owns which is gone.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, done, output, reach_engine};
use crate::daemon::answers::{VolumeAnswer, VolumeLine};
use crate::daemon::api::{Outcome, Verb, VolumePath};
use windlass_base::{Error, HostId, Kind, Name, Result};

#[derive(Args, Debug)]
pub struct TakeOver {
    #[arg(value_name = "POOL/VOLUME", required_unless_present = "all", conflicts_with_all = ["all", "from", "pool", "dry_run"])]
    path: Option<VolumePath>,
    /// Even if nobody can tell whether the newest writes were acknowledged: they may be lost
    #[arg(long)]
    accept_loss: bool,
    /// All volumes of the pools that this host knows which the host of --from owns
    #[arg(long, requires = "from")]
    all: bool,
    /// The host that is gone: its name, or its id where several have that name
    #[arg(long, value_name = "HOST", requires = "all")]
    from: Option<String>,
    /// Only volumes of this pool
    #[arg(long, value_name = "POOL", requires = "all")]
    pool: Option<Name>,
    /// Only say which volumes these are
    #[arg(long, requires = "all")]
    dry_run: bool,
}

pub async fn run(global: &Global, args: TakeOver) -> Result<ExitCode> {
    let TakeOver { path, accept_loss, from, pool, dry_run, .. } = args;
    if let Some(path) = path {
        let outcome = reach_engine::ask(global, Verb::VolumeTakeOver { path, accept_loss }).await?;
        output::notes(global, &outcome);
        return Ok(done(&outcome));
    }
    let from = from.unwrap_or_default();
    let listed = reach_engine::ask(global, Verb::VolumeList { pool, importing: false }).await?;
    let found = owned_by(&from, listed.answer()?)?;
    let mut outcome = Outcome { notes: listed.notes, degraded: listed.degraded, ..Outcome::default() };
    let (mut taken, mut failed) = (Vec::new(), Vec::new());
    for path in found {
        if dry_run {
            outcome = outcome.note(path.to_string());
            taken.push(json!({ "path": path }));
            continue;
        }
        match reach_engine::ask(global, Verb::VolumeTakeOver { path: path.clone(), accept_loss }).await {
            Ok(one) => {
                outcome = outcome.note_all(one.notes);
                taken.push(json!({ "path": path, "answer": one.value }));
            }
            // The others are taken all the same.
            Err(error) => {
                outcome = outcome.note(format!("not taken over: {path}: {error}")).degraded(true);
                failed.push(json!({ "path": path, "why": error.to_string() }));
            }
        }
    }
    if taken.is_empty() && failed.is_empty() {
        outcome = outcome.note(format!("{from} owns no volume that is listed"));
    }
    outcome.value = json!({ "volumes": taken, "failed": failed });
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

/// Returns the volumes that this host owns, by its name or its id.
///
/// # Errors
/// `Usage`: several hosts have the name.
fn owned_by(host: &str, lines: Vec<VolumeLine>) -> Result<Vec<VolumePath>> {
    let is_it = |info: &VolumeAnswer| {
        let VolumeAnswer { info, .. } = info;
        !info.released
            && (info.owner.as_deref() == Some(host) || info.owner_id.is_some_and(|id| id.to_string() == host))
    };
    let known = lines.into_iter().filter_map(|line| match line {
        VolumeLine::Known(answer) if is_it(&answer) => Some(answer),
        _ => None,
    });
    let found: Vec<Box<VolumeAnswer>> = known.collect();
    let hosts: BTreeSet<HostId> = found.iter().filter_map(|answer| answer.info.owner_id).collect();
    if hosts.len() > 1 {
        let ids: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let why = format!("several hosts are called {host}: say --from {}", ids.join(" or --from "));
        return Err(Error::new(Kind::Usage, why));
    }
    Ok(found.into_iter().map(|answer| answer.path).collect())
}
