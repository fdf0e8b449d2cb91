//! `windlass store prove`: what a bucket was seen to keep of what pools and mounts stand on, as a report with a date.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::{DEGRADED, Global, output, reach_engine};
use crate::daemon::api::Outcome;
use crate::daemon::{StateDir, read_kept_credentials};
use windlass_base::rt::{Instant, RealDisk, RealRuntime, Rt};
use windlass_base::units::{parse_duration, show_time};
use windlass_base::{Kind, Result, utc};
use windlass_store::{
    BucketRef, Effort, FileNeed, KeySource, Promise, StoreSpec, Tried, TriedNeed, Verdict, keyring,
};

/// Prefix of the objects that are written to try things, and taken away again.
const PLACE: &str = "probe/";
/// Time for which each condition is tried in a turn, so that all come often.
const TURN: Duration = Duration::from_secs(10);

/// Buckets and folders as stores.
#[derive(clap::Subcommand, Debug)]
pub enum Store {
    /// Try what pools and mounts stand on, and say what held: before a bucket is trusted, or after its server changed
    ///
    /// It writes below `probe/` there, by many connections at once, and removes that again. A store that a pool uses can be
    /// tried too. Exit code 7: something did not hold.
    Prove {
        /// s3://BUCKET/PREFIX?…, file:///DIR, or the name of a store in windlass.toml
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
        /// Go on for so long with each: rare faults need many tries
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        for_time: Option<Duration>,
    },
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    stores: Vec<StoreReport>,
    not_tried: &'static [&'static str],
}

/// The verdict where too few answers came.
const UNKNOWN: &str = "unknown";

/// Questions that no trial answers.
const NOT_TRIED: &[&str] = &[
    "whether what is stored lasts",
    "what the store does while its own servers fail, or are exchanged: run this meanwhile",
    "whether it keeps the same tomorrow",
];

#[derive(Debug, Serialize)]
struct StoreReport {
    url: String,
    at: String,
    for_ms: u64,
    turns: usize,
    server: Option<String>,
    addresses: Vec<String>,
    silent_addresses: Vec<String>,
    clock_ahead_ms: Option<i64>,
    lines: Vec<Line>,
    /// `no` or `not known`, and why, of a pool that is to have it as a store; null: it can, by what was seen.
    no_pool: Option<String>,
    /// Why it can hold a pool's data, but no registers; null: it can hold both, or neither.
    data_only: Option<String>,
    /// `no` or `not known`, and why, of a mount that is to stand on it; null: it can, by what was seen.
    no_mount: Option<String>,
    /// Sentences on how a mount gets along without what the store lacks.
    mount_without: Vec<&'static str>,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
struct Line {
    /// `pool` or `mount`, whichever needs what was tried.
    of: &'static str,
    what: &'static str,
    /// Number of writers at the same moment.
    writers: usize,
    rounds: usize,
    /// `held`, `raced`, `broken`, `refused` or `unknown`.
    verdict: &'static str,
    why: Option<String>,
}

pub async fn run(global: &Global, command: Store) -> Result<ExitCode> {
    let Store::Prove { urls, for_time } = command;
    let config = reach_engine::config(global).await?;
    let (rt, home) = (Rt::new(RealRuntime::current()), StateDir::locate()?);
    keyring()
        .replace(KeySource::Kept, read_kept_credentials(&*RealDisk::start(), &home.credentials()).await?);
    let mut stores = Vec::new();
    // What is under way is ended at an interrupt, so that nothing stays in the bucket.
    rt.spawn(reach_engine::interrupted()).detach();
    for given in urls {
        let spec: StoreSpec = config.store_url(&given)?.parse()?;
        let bucket = windlass_store::open(&rt, &spec.url).await?;
        stores.push(prove(&rt, bucket, for_time.unwrap_or_default()).await?);
        if reach_engine::was_interrupted() {
            break;
        }
    }
    let held = |store: &StoreReport| store.lines.iter().all(|line| line.verdict == "held");
    let all_held = stores.iter().all(held) && !reach_engine::was_interrupted();
    let report = Report { version: env!("CARGO_PKG_VERSION"), stores, not_tried: NOT_TRIED };
    match global.json {
        true => output::notes(global, &Outcome::of(&report)?),
        false => human(&report),
    }
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

/// Tries all promises turn after turn, until the time is over or something did not hold.
async fn prove(rt: &Rt, bucket: BucketRef, for_time: Duration) -> Result<StoreReport> {
    let (began, at) = (rt.now(), utc::show(rt.wall_ms()));
    let left = |now: Instant| for_time.saturating_sub(now.since(began));
    let (mut pool, mut files, mut turns) = (BTreeMap::new(), BTreeMap::new(), 0);
    let (mut verdict, mut of_data) = (Ok(()), Ok(()));
    let (addresses, silent) = loop {
        turns += 1;
        let conditions = Promise::ALL.iter().filter(|promise| promise.is_contended()).count() as u32;
        let effort = Effort { time: TURN.min(left(rt.now()) / conditions), ..Effort::SHORT };
        let goes_on = |_: &Tried| !reach_engine::was_interrupted();
        let proof = windlass_store::prove(rt, &*bucket, PLACE, effort, goes_on).await?;
        verdict = verdict.and_then(|()| proof.verdict());
        of_data = of_data.and_then(|()| proof.data_verdict());
        proof.tried.iter().for_each(|tried| add(pool.entry(tried.promise), of_pool(tried)));
        let goes_on = |_: &TriedNeed| !reach_engine::was_interrupted();
        for tried in windlass_store::prove_files(rt, &*bucket, PLACE, goes_on).await? {
            add(files.entry(tried.need), of_mount(&tried));
        }
        let is_over = left(rt.now()).is_zero() || verdict.is_err() || reach_engine::was_interrupted();
        if is_over {
            break (proof.addresses, proof.silent);
        }
    };
    let shown = |all: Vec<std::net::IpAddr>| all.iter().map(ToString::to_string).collect();
    let ahead = bucket.ahead_ms().await.and_then(|asked| asked.ok());
    let lacking: Vec<(FileNeed, &Line)> = files
        .iter()
        .filter(|(_, line): &(_, &Line)| line.verdict != "held")
        .map(|(need, line)| (*need, line))
        .collect();
    let needed = lacking.iter().find(|(need, _)| need.without().is_none());
    let no_mount = needed.map(|(_, line)| {
        let why = line.why.as_deref().unwrap_or_default();
        judged(line.verdict != UNKNOWN, why)
    });
    let goes_without = |(need, line): &(FileNeed, &Line)| need.without().filter(|_| line.verdict != UNKNOWN);
    let mount_without = lacking.iter().filter_map(goes_without).collect();
    Ok(StoreReport {
        url: bucket.url().to_owned(),
        at,
        for_ms: rt.now().since(began).as_millis() as u64,
        turns,
        server: bucket.server().map(|server| server.to_string()),
        addresses: shown(addresses),
        silent_addresses: shown(silent),
        clock_ahead_ms: ahead,
        data_only: verdict
            .as_ref()
            .err()
            .filter(|e| e.is(Kind::Refused) && of_data.is_ok())
            .map(ToString::to_string),
        no_pool: match of_data.is_ok() && verdict.as_ref().is_err_and(|e| e.is(Kind::Refused)) {
            true => None,
            false => verdict.err().map(|e| judged(e.is(Kind::Refused), &e.to_string())),
        },
        no_mount,
        mount_without,
        lines: pool.into_values().chain(files.into_values()).collect(),
    })
}

/// Makes the sentence on a need. `known`: the promise was seen not to hold; else too few answers came.
fn judged(known: bool, why: &str) -> String {
    format!("{}: {why}", if known { "no" } else { "not known" })
}

/// Adds a turn's line to that of earlier turns. A promise that did not hold once does not hold.
fn add<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, Line>, new: Line) {
    let line = entry.or_insert_with(|| Line { rounds: 0, ..new.clone() });
    line.rounds += new.rounds;
    line.writers = line.writers.max(new.writers);
    // What nobody could tell in one turn may be seen to be broken in the next.
    if line.verdict == "held" || line.verdict == UNKNOWN && new.verdict != "held" {
        (line.verdict, line.why) = (new.verdict, new.why);
    }
}

fn of_pool(tried: &Tried) -> Line {
    let what = match tried.promise {
        Promise::Creates => "a write where nothing is: one of many wins",
        Promise::Replaces => "a write that names the version: one of many wins",
        Promise::RefusesStale => "a write that names an old version: none wins",
        Promise::RefusesMissing => "a write that names a version of nothing: none wins",
        Promise::Etags => "two contents, two etags",
        Promise::Reads => "a read shows the write before it",
        Promise::Ranges => "a part of an object is read",
        Promise::Describes => "an object is described as written",
    };
    let (verdict, why) = told(&tried.verdict, tried.writers);
    Line { of: "pool", what, writers: tried.writers, rounds: tried.rounds, verdict, why }
}

fn of_mount(tried: &TriedNeed) -> Line {
    let what = match tried.need {
        FileNeed::Deletes => "what is deleted is gone",
        FileNeed::Lists => "a listing shows the writes before it",
        FileNeed::Directories => "a listing by directories",
        FileNeed::Attributes => "metadata of objects",
        FileNeed::DirectoryAttributes => "metadata of keys that end in /",
        FileNeed::Copies => "copies by the server",
        FileNeed::CopiesNamed => "a copy of a named version only",
        FileNeed::Parts => "uploads in parts",
        FileNeed::PartCopies => "copies of parts by the server",
    };
    let (verdict, why) = told(&tried.verdict, 1);
    Line { of: "mount", what, writers: 1, rounds: 1, verdict, why }
}

fn told(verdict: &Verdict, writers: usize) -> (&'static str, Option<String>) {
    match verdict {
        Verdict::Held => ("held", None),
        Verdict::Raced { round, winners } => (
            "raced",
            Some(format!("{winners} of {writers} writers won at the same moment, in round {round}")),
        ),
        Verdict::Broken(how) => ("broken", Some((*how).to_owned())),
        Verdict::Refused(e) => ("refused", Some(e.to_string())),
        Verdict::Untold(e) => (UNKNOWN, Some(e.to_string())),
    }
}

fn human(report: &Report) {
    for store in &report.stores {
        let server = store.server.as_ref().map(|server| format!(", server {server}")).unwrap_or_default();
        let ways = match store.addresses.len() {
            0 | 1 => String::new(),
            n => format!(", by {n} addresses"),
        };
        let turns = windlass_base::units::show_count(store.turns as u64, "turn");
        output::line(&format!("{}{server}{ways}", store.url));
        output::line(&format!(
            "tried at {} for {}, {turns}, by windlass {}",
            store.at,
            show_time(store.for_ms),
            report.version
        ));
        let row = |line: &Line| {
            let (writers, rounds) = (line.writers.to_string(), line.rounds.to_string());
            vec![line.of.into(), line.what.into(), writers, rounds, line.verdict.to_uppercase()]
        };
        output::table(
            &["FOR", "WHAT", "WRITERS", "ROUNDS", "VERDICT"],
            store.lines.iter().map(row).collect(),
        );
        for line in &store.lines {
            line.why.iter().for_each(|why| output::line(&format!("{}: {why}", line.what)));
        }
        if !store.silent_addresses.is_empty() {
            output::line(&format!("these addresses did not answer: {}", store.silent_addresses.join(", ")));
        }
        output::line(&match (&store.no_pool, &store.data_only) {
            (None, None) => "for a pool: all that a store must keep held".to_owned(),
            (None, Some(why)) => format!(
                "for a pool: for data only, beside stores that keep conditions and hold its registers: {why}"
            ),
            (Some(why), _) => format!("for a pool: {why}"),
        });
        output::line(&match (&store.no_mount, store.mount_without.is_empty()) {
            (Some(why), _) => format!("for a mount: {why}"),
            (None, true) => "for a mount: all held".to_owned(),
            (None, false) => format!("for a mount: yes, but {}", store.mount_without.join("; ")),
        });
    }
    output::line(&format!("what can't be found out so: {}", report.not_tried.join("; ")));
}
