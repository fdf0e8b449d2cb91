//! `windlass pool …`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde::de::DeserializeOwned;

use super::iam_policy::{self, PoolPolicy};
use super::volume_key::PoolKeyFlags;
use super::{Global, done, forgive, output, reach_engine};
use crate::daemon::answers::{PoolAnswer, PoolLine, PoolUsage, ScrubFindings, word};
use crate::daemon::api::{self, PoolCreate, Verb};
use windlass_base::units::{KIB, parse_size, show_bytes, show_count, show_size, show_time};
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_pool::{Located, PoolSettings, StoreStatus};

#[derive(Subcommand, Debug)]
pub enum Pool {
    /// Create a pool of empty stores
    Create {
        #[arg(value_name = "POOL")]
        name: Name,
        /// A store: URL[,zone=Z], or a [store.NAME] of windlass.toml; repeated for each store
        #[arg(long = "store", required = true, value_name = "URL")]
        stores: Vec<String>,
        /// Data and parity shards, for example 4+2 (default: 1+0 on 1 store, 2+1 on 3 stores, 4+2 on 6 stores)
        #[arg(long)]
        layout: Option<String>,
        /// `zone`: a flush is acknowledged when it also survives the loss of a whole zone
        #[arg(long, value_name = "WHAT", value_parser = ["zone"])]
        ack: Option<String>,
        /// How long stores may be out before writes go on with less redundancy, for example 3s, or `never`
        #[arg(long, value_name = "TIME")]
        degrade_after: Option<String>,
        /// How long what is removed can be brought back, and takes its room until then: a time, or 0
        #[arg(long, value_name = "TIME", default_value = "24h")]
        trash: String,
        /// Accept a layout that does not survive the loss of a zone
        #[arg(long)]
        force: bool,
        /// Succeed when this host knows that pool already
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        key: PoolKeyFlags,
    },
    /// Make an existing pool known to this host
    Add {
        #[arg(value_name = "POOL")]
        name: Name,
        #[arg(long = "store", required = true, value_name = "URL")]
        stores: Vec<String>,
        #[command(flatten)]
        key: PoolKeyFlags,
    },
    /// List the pools that this host knows
    #[command(visible_alias = "ls")]
    List,
    /// Show a pool's stores, and what needs attention
    Status {
        #[arg(value_name = "POOL")]
        name: Name,
        /// Count what all volumes take, some requests to the stores for each; else the daemon's counters tell it
        #[arg(long)]
        walk: bool,
    },
    /// Change settings for all hosts
    ///
    /// ack=zone|none; degrade-after=TIME|never; grace=TIME: how long what nobody needs is kept; capacity=SIZE|none: what the
    /// stores can hold; quota=SIZE|none: what volumes may store, with parity; trash=TIME|0: how long what is removed can be
    /// brought back
    Set {
        #[arg(value_name = "POOL")]
        name: Name,
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
    /// Make this host forget a pool; its stores keep everything
    Forget {
        #[arg(value_name = "POOL")]
        name: Name,
        #[arg(long)]
        if_exists: bool,
    },
    /// Delete a pool: its volumes, snapshots, and everything else in its stores; says first what that is
    #[command(visible_alias = "rm")]
    Destroy {
        #[arg(value_name = "POOL")]
        name: Name,
        /// Confirm by the pool's name: nothing is deleted without it
        #[arg(long, value_name = "NAME")]
        yes_destroy: Option<Name>,
        /// Even if a store is away, which then keeps its contents, or nobody can tell who uses the pool
        #[arg(long)]
        force: bool,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// Succeed when this host knows no such pool
        #[arg(long)]
        if_exists: bool,
    },
    /// Print the least rights that a host needs at the pool's buckets, as an IAM policy
    Policy(PoolPolicy),
    /// Verify every shard in every store; goes on where an earlier scrub was cut off
    Scrub {
        #[arg(value_name = "POOL")]
        name: Name,
        #[command(flatten)]
        scrub: ScrubFlags,
    },
    /// Rebuild missing and rotten shards, finish what was begun, take in emptied stores again
    Repair {
        #[arg(value_name = "POOL")]
        name: Name,
        #[command(flatten)]
        scrub: ScrubFlags,
        /// Only write lost labels of stores anew, from what the stores still hold; also where the pool can't be opened without
        #[arg(long, conflicts_with_all = ["rate", "restart"])]
        labels: bool,
    },
    /// Replace a store by an empty one; with the same URL twice: take in a store that was emptied
    Replace {
        #[arg(value_name = "POOL")]
        name: Name,
        #[arg(long, value_name = "URL")]
        old: String,
        /// The empty store: URL[,zone=Z] (default: the old store's zone)
        #[arg(long, value_name = "URL")]
        new: String,
        /// Even if the layout then does not survive the loss of a zone, or another store is away
        #[arg(long)]
        force: bool,
    },
    /// Last resort: recover a pool by the stores that are left when most that hold registers are lost for good
    ForceRecover {
        #[arg(value_name = "POOL")]
        name: Name,
        /// A lost store that has no empty store at its own URL
        #[arg(long, value_name = "URL")]
        old: Vec<String>,
        /// The empty store in its place: URL[,zone=Z]; one for each --old, in that order
        #[arg(long, value_name = "URL")]
        new: Vec<String>,
        /// Do it, and give up what only the lost stores know
        #[arg(long)]
        force: bool,
        /// Only say what it would do
        #[arg(long)]
        dry_run: bool,
    },
}

/// How fast stores are read.
#[derive(clap::Args, Debug)]
pub struct ScrubFlags {
    /// Most bytes to read a second, for example 100M; at least 64K; 0: no limit
    #[arg(long, value_name = "SIZE", default_value = "100M", value_parser = parse_rate)]
    rate: u64,
    /// Begin at the beginning, even if an earlier run was cut off
    #[arg(long)]
    restart: bool,
}

/// Lowest rate in bytes a second. Below it one shard's piece would take hours: a unit was forgotten.
const RATE_MIN: u64 = 64 * KIB;

pub fn parse_rate(text: &str) -> Result<u64> {
    match parse_size(text)? {
        rate if rate == 0 || rate >= RATE_MIN => Ok(rate),
        rate => Err(Error::new(
            Kind::Usage,
            format!(
                "{rate} bytes a second are too few: at least 64K, as 10M for 10 MiB a second; 0 is no limit"
            ),
        )),
    }
}

impl ScrubFlags {
    fn asked(&self) -> api::ScrubRequest {
        api::ScrubRequest { rate: self.rate, restart: self.restart }
    }
}

pub async fn run(global: &Global, args: Pool) -> Result<ExitCode> {
    match args {
        Pool::Create { name, stores, layout, ack, degrade_after, trash, force, if_absent, key } => {
            let (ack_zone, trash, key) = (ack.is_some(), Some(trash), key.read().await?);
            let create =
                PoolCreate { name, stores, layout, ack_zone, degrade_after, trash, force, if_absent, key };
            plain(global, Verb::PoolCreate(create)).await
        }
        Pool::Add { name, stores, key } => {
            plain(global, Verb::PoolAdd { name, stores, key: key.read().await? }).await
        }
        Pool::List => show(global, Verb::PoolList, list).await,
        Pool::Policy(args) => iam_policy::run_for_pool(global, args).await,
        Pool::Status { name, walk } => show(global, Verb::PoolStatus { name, walk }, status).await,
        Pool::Set { name, assignments } => show(global, Verb::PoolSet { name, assignments }, settings).await,
        Pool::Forget { name, if_exists } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(plain(global, Verb::PoolForget { name, if_exists }).await, forgiven)
        }
        Pool::Destroy { name, yes_destroy: confirmed, force, dry_run, if_exists } => {
            let destroy = api::PoolDestroy { name, confirmed, force, dry_run };
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(plain(global, Verb::PoolDestroy(destroy)).await, forgiven)
        }
        Pool::Scrub { name, scrub: flags } => {
            show(global, Verb::PoolScrub { name, scrub: flags.asked() }, scrub).await
        }
        Pool::Repair { name, scrub: flags, labels } => {
            plain(global, Verb::PoolRepair { name, scrub: flags.asked(), labels }).await
        }
        Pool::Replace { name, old, new, force } => {
            plain(global, Verb::PoolReplace { name, old, new, force }).await
        }
        Pool::ForceRecover { name, old, new, force, dry_run } => {
            if old.len() != new.len() {
                return Err(Error::new(Kind::Usage, "give one --new for each --old"));
            }
            let swaps = old.into_iter().zip(new).collect();
            let recover = api::ForceRecover { name, swaps, force, dry_run };
            plain(global, Verb::PoolForceRecover(recover)).await
        }
    }
}

async fn plain(global: &Global, verb: Verb) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

async fn show<T: DeserializeOwned>(global: &Global, verb: Verb, human: fn(T)) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, verb).await?;
    output::report(global, &outcome, human)?;
    Ok(done(&outcome))
}

pub(super) fn list(pools: Vec<PoolLine>) {
    let row = |pool: PoolLine| {
        let layout = output::or_dash(pool.layout);
        let [used, free] = [pool.used_bytes, pool.free_bytes].map(|n| output::or_dash(n.map(show_bytes)));
        vec![pool.name.to_string(), layout, pool.stores.to_string(), pool.state.into_owned(), used, free]
    };
    let heading = ["POOL", "LAYOUT", "STORES", "STATE", "USED", "FREE"];
    output::table(&heading, pools.into_iter().map(row).collect());
}

fn settings(settings: PoolSettings) {
    let ack = if settings.ack_zone { "zone" } else { "none" };
    let degrade = settings.degrade_after_ms.map_or_else(|| "never".to_owned(), show_time);
    let grace = show_time(settings.grace_ms);
    let trash = settings.trash().map_or_else(|| "none".to_owned(), |kept| show_time(kept.as_millis() as u64));
    let quota = settings.quota_bytes.map_or_else(|| "none".to_owned(), show_size);
    let capacity = settings.capacity_bytes.map_or_else(|| "none".to_owned(), show_size);
    output::line(&format!(
        "settings: ack {ack}, degrade-after {degrade}, grace {grace}, capacity {capacity}, quota {quota}, trash {trash}"
    ));
}

fn usage(usage: PoolUsage) {
    let PoolUsage {
        counted_ms,
        volumes,
        provisioned_bytes,
        mapped_bytes,
        stored_bytes,
        stored_with_parity_bytes,
        trash_volumes,
        trash_stored_bytes,
    } = usage;
    let [provisioned, mapped, stored, all] =
        [provisioned_bytes, mapped_bytes, stored_bytes, stored_with_parity_bytes].map(show_bytes);
    output::line(&format!(
        "{}: {provisioned} provisioned, {mapped} mapped, {stored} stored, {all} with parity",
        show_count(volumes, "volume")
    ));
    output::line(&format!("by a count of {} (`--walk` counts anew)", utc::show(counted_ms)));
    if trash_volumes > 0 {
        let (volumes, bytes) = (show_count(trash_volumes, "volume"), show_bytes(trash_stored_bytes));
        output::line(&format!("in the trash: {volumes}, {bytes} of that with parity"));
    }
}

fn status(answer: PoolAnswer) {
    let status = answer.status;
    let finishing = status.finishing();
    let shards = |n: usize| show_count(n as u64, "shard");
    output::line(&format!(
        "pool {}, {}: {} pending{}",
        status.name,
        status.layout,
        shards(status.pending_shards),
        match status.damaged_shards {
            0 => String::new(),
            n => format!(", {} damaged (`windlass pool repair` rebuilds them)", shards(n)),
        },
    ));
    status.survives.iter().for_each(|sentence| output::line(sentence));
    let [used, free] = [answer.used_bytes, answer.free_bytes].map(|n| output::or_dash(n.map(show_bytes)));
    output::line(&format!("used {used}, free {free} (with parity)"));
    if status.keyed {
        output::line("its labels and registers are signed by a key");
    }
    settings(status.settings);
    match answer.usage {
        Some(counted) => usage(counted),
        None => {
            output::line("what its volumes take was not counted yet: `--walk` does, some requests for each")
        }
    }
    status.damaged_registers.iter().for_each(|copy| output::line(&copy.reason));
    for store in status.stores.iter().filter(|s| s.undeleted > 0) {
        let (kept, url) = (show_count(store.undeleted, "object"), &store.url);
        output::line(&format!("{kept} that nobody needs stay in {url}: it does not let this host delete"));
    }
    if status.missed_deletes > 0 || status.missed_deletes_incomplete {
        let more = match status.missed_deletes_incomplete {
            true => ", and more than is remembered (`windlass pool repair` finds them)",
            false => "",
        };
        let missed = shards(status.missed_deletes);
        output::line(&format!("{missed} that nobody needs are deleted when their stores are back{more}"));
    }
    for risk in &status.at_risk {
        let (chunks, shards) = (show_count(risk.chunks, "object"), shards(risk.missing_shards));
        output::line(&format!("at risk: {chunks} short of {shards} each"));
    }
    finishing.iter().for_each(|way| output::line(&format!("being replaced: {way}")));
    stores(&status.stores);
    traffic(&status.stores);
}

fn stores(all: &[StoreStatus]) {
    // Where some keep no conditions, it matters which hold registers.
    let tells = all.iter().any(|store| !store.conditions.are_held());
    let holds = |store: &StoreStatus| if store.registers { "data, registers" } else { "data" };
    let row = |store: &StoreStatus| {
        let told = tells.then(|| holds(store).to_owned());
        let mut row = vec![store.url.clone(), output::or_dash(store.zone.as_ref())];
        row.extend(told);
        row.extend([
            word(&store.state),
            output::or_dash(store.latency_ms_p99.map(|ms| format!("{ms:?}"))),
            format!("{:.1} %", 100.0 * store.error_rate),
            store.requests.to_string(),
            output::or_dash(store.free_bytes.map(show_bytes)),
            output::or_dash(store.reason.as_ref()),
        ]);
        row
    };
    let mut heading = vec!["STORE", "ZONE", "STATE", "P99 MS", "ERRORS", "REQUESTS", "FREE", "REASON"];
    if tells {
        heading.insert(2, "HOLDS");
    }
    output::table(&heading, all.iter().map(row).collect());
}

/// Prints what all stores were asked, by cause and verb.
fn traffic(stores: &[StoreStatus]) {
    let mut sums: BTreeMap<(String, String), [u64; 4]> = BTreeMap::new();
    for line in stores.iter().flat_map(|store| &store.traffic) {
        let sum = sums.entry((word(&line.cause), word(&line.verb))).or_default();
        let more = [line.requests, line.failed, line.sent_bytes, line.received_bytes];
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    let row = |((cause, verb), sums): ((String, String), [u64; 4])| {
        let [requests, failed, sent, received] = sums;
        let [requests, failed] = [requests, failed].map(|n| n.to_string());
        vec![cause, verb, requests, failed, show_bytes(sent), show_bytes(received)]
    };
    let heading = ["WHY", "WHAT", "REQUESTS", "FAILED", "SENT", "RECEIVED"];
    output::table(&heading, sums.into_iter().map(row).collect());
}

fn scrub(found: ScrubFindings) {
    for Located { what, key, store } in found.findings {
        output::line(&format!("{what}: {key} on {store}"));
    }
}
