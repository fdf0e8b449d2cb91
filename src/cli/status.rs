//! `windlass status`.

use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use serde_json::json;

use super::attachments::{self, Attached};
use super::{Global, done, mount, output, reach_engine};
use crate::daemon::answers::{EngineStatus, HostTrouble, ReplicaLine, VolumeInUse, WorkLine};
use crate::daemon::api::{Outcome, Verb};
use crate::daemon::mount_troubles;
use windlass_base::Result;
use windlass_base::units::{show_bytes, show_time};

#[derive(clap::Args, Debug)]
pub struct Status {}

pub async fn run(global: &Global, _: Status) -> Result<ExitCode> {
    let mut outcome = reach_engine::ask(global, Verb::Status).await?;
    mount::add_others(&mut outcome).await?;
    let host = outcome.answer::<EngineStatus>()?.host_id;
    let attached = attachments::attached_of(host);
    outcome.value["attached"] = json!(attached);
    let outcome = with_mounts_of_others(outcome)?.note_all(daemon_of_the_system());
    output::report(global, &outcome, |status| human(status, attached))?;
    Ok(done(&outcome))
}

/// Lowest number of a user who is a person.
const PEOPLE_FROM: u32 = 1000;

/// Returns a note for an ordinary user whose own engine was asked, if the system's daemon runs too and may be
/// meant.
fn daemon_of_the_system() -> Option<String> {
    let own = rustix::process::geteuid();
    if own.is_root() || std::env::var_os("WINDLASS_HOME").is_some() {
        return None;
    }
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    // Root's, or that of the package's user: another person's is nothing to tell of.
    let is_systems = |uid: u32| uid < PEOPLE_FROM && uid != own.as_raw();
    let others = entries.filter(|entry| entry.metadata().is_ok_and(|of| is_systems(of.uid())));
    let mut pids = others.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        is_daemon(cmdline.as_bytes()).then_some(pid)
    });
    pids.next().map(|pid| {
        format!(
            "this is what your own engine knows. Another daemon runs on this host (process {pid}): `sudo windlass status` asks the \
             system's, or, for members of the group windlass, `WINDLASS_HOME=/var/lib/windlass windlass status`"
        )
    })
}

/// Tells whether a process is a daemon of ours, by its arguments, each of which ends with a byte 0.
fn is_daemon(cmdline: &[u8]) -> bool {
    let mut args = cmdline.split(|byte| *byte == 0);
    let program = args.next().and_then(|program| program.rsplit(|byte| *byte == b'/').next());
    program == Some(b"windlass") && args.any(|arg| arg == b"serve")
}

/// Adds troubles of other engines' mounts. The engine that answered tells only of its own.
fn with_mounts_of_others(outcome: Outcome) -> Result<Outcome> {
    let mounts = outcome.answer::<EngineStatus>()?.mounts;
    let troubles = mount_troubles(&mounts).into_iter().filter(|said| !outcome.notes.contains(said));
    let troubles: Vec<String> = troubles.collect();
    let attention = outcome.degraded || !troubles.is_empty();
    Ok(outcome.note_all(troubles).degraded(attention))
}

fn human(status: EngineStatus, attached: Vec<Attached>) {
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
    if !status.pools.is_empty() {
        super::pool::list(status.pools);
    }
    let is_unknown = |told: &HostTrouble| LEFT.contains(&&*told.name);
    volumes(status.volumes, status.troubles.iter().any(is_unknown));
    output::table_if_any(
        &["ATTACHED VOLUME", "AS"],
        attached.into_iter().map(|one| vec![one.export, one.at]).collect(),
    );
    replicas(status.replicas);
    under_way(status.under_way);
    mount::mounts(status.mounts);
}

fn under_way(all: Vec<WorkLine>) {
    let row = |work: WorkLine| {
        vec![output::or_dash(Some(work.of.clone()).filter(|of| !of.is_empty())), how_far(&work)]
    };
    output::table_if_any(&["COMMAND ON", "HOW FAR"], all.into_iter().map(row).collect());
}

/// Returns the progress of some work as a sentence, for `volume info` too.
pub fn how_far(work: &WorkLine) -> String {
    let WorkLine { doing, done, total, for_ms, .. } = work;
    let since = show_time(*for_ms);
    match u128::from(*done) * 100 / u128::from((*total).max(1)) {
        percent if *total > 0 => format!("{doing}, {percent} %, for {since}"),
        _ => format!("{doing}, for {since}"),
    }
}

fn replicas(all: Vec<ReplicaLine>) {
    let row = |line: ReplicaLine| {
        let state = match (&line.trouble, line.busy) {
            (Some(_), _) => "trouble",
            (None, true) => "copying",
            (None, false) => "kept up",
        };
        let every = show_time(line.every_ms);
        vec![line.from.to_string(), line.to.to_string(), state.into(), show_time(line.lag_ms), every]
    };
    output::table_if_any(
        &["COPIED VOLUME", "COPY", "STATE", "BEHIND", "EVERY"],
        all.into_iter().map(row).collect(),
    );
}

/// Names of the troubles of volumes that are not open and have journals. Nobody has looked how much in these
/// journals is in no store.
const LEFT: [&str; 2] = ["left-journals", "reopen"];

/// Prints the volumes. `left`: there are journals of other volumes, too.
fn volumes(all: Vec<VolumeInUse>, left: bool) {
    let unsent: u64 = all.iter().map(|v| v.unsent_bytes).sum();
    let age = |ms: Option<u64>| ms.map_or_else(|| "-".into(), show_time);
    let row = |v: VolumeInUse| {
        let (requests, slowest) = v.io.iter().fold((0, 0f64), |(requests, slowest), line| {
            (requests + line.requests, slowest.max(line.latency_ms_p99))
        });
        vec![
            v.path.to_string(),
            v.clients.to_string(),
            v.state.into_owned(),
            requests.to_string(),
            format!("{slowest:.1} ms"),
            show_bytes(v.unsent_bytes),
            age(v.unsent_age_ms.filter(|_| v.unsent_bytes > 0)),
            age(v.full_in_ms),
        ]
    };
    let heads = ["OPEN VOLUME", "CLIENTS", "STATE", "REQUESTS", "P99", "UNSENT", "SINCE", "FULL IN"];
    let rows: Vec<_> = all.into_iter().map(row).collect();
    let any = !rows.is_empty();
    output::table_if_any(&heads, rows);
    if any || left {
        output::line(&format!("lost if this host died now: {}", lost(unsent, left)));
    }
}

fn lost(unsent: u64, left: bool) -> String {
    let bytes =
        format!("{} that were acknowledged, and are in this host's journals alone", show_bytes(unsent));
    match (unsent, left) {
        (0, false) => "nothing: all that was acknowledged is in the pool".to_owned(),
        (0, true) => "what journals of volumes that are not open hold, which nobody has counted".to_owned(),
        (_, false) => bytes,
        (_, true) => format!("{bytes}, and what journals of volumes that are not open hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_told_by_its_arguments() {
        for (cmdline, is) in [
            (&b"/usr/bin/windlass\0serve\0--nbd\0unix:/run/windlass/nbd.sock\0"[..], true),
            (b"windlass\0--memory\x001G\0serve\0", true),
            (b"/usr/bin/windlass\0mount\0s3://b\0/m\0", false),
            (b"/usr/bin/windlass-csi\0serve\0", false),
            (b"", false),
        ] {
            assert_eq!(is_daemon(cmdline), is, "{}", String::from_utf8_lossy(cmdline));
        }
    }
}
