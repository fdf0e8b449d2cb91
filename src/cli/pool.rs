//! `windlass pool …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{Global, done, forgive, output, reach};
use crate::base::{Kind, Name, Result};
use crate::daemon::api::{PoolCreate, Verb};

#[derive(Subcommand, Debug)]
pub enum Pool {
    /// Make a pool of empty stores
    Create {
        name: Name,
        /// URL[,zone=Z], or a [store.NAME] of windlass.toml; once a store
        #[arg(long = "store", required = true, value_name = "URL")]
        stores: Vec<String>,
        /// Data and parity shards, as 4+2 (1 store: 1+0, 3 stores: 2+1, 6 stores: 4+2)
        #[arg(long)]
        layout: Option<String>,
        /// What an acknowledged flush survives at once: `zone` waits for a zone's worth of shards more
        #[arg(long, value_name = "WHAT", value_parser = ["zone"])]
        ack: Option<String>,
        /// How long stores may be out before writes go on with less redundancy, as 3s, or `never`
        #[arg(long, value_name = "TIME")]
        degrade_after: Option<String>,
        /// Also with a layout that losing a zone would break
        #[arg(long)]
        force: bool,
        /// Succeed when this host knows that pool already
        #[arg(long)]
        if_absent: bool,
    },
    /// Make an existing pool known to this host
    Add {
        name: Name,
        #[arg(long = "store", required = true, value_name = "URL")]
        stores: Vec<String>,
    },
    /// The pools that this host knows
    #[command(alias = "ls")]
    List,
    /// A pool's stores and what needs attention
    Status { name: Name },
    /// Make this host forget a pool; its stores keep everything
    Forget {
        name: Name,
        #[arg(long)]
        if_exists: bool,
    },
    /// Verify every shard in every store
    Scrub { name: Name },
    /// Rebuild what is missing or rotten, finish what was begun, take emptied stores in again
    Repair { name: Name },
    /// Put a new store in an old one's place; with the same URL twice, take an emptied store in again
    Replace {
        name: Name,
        #[arg(long, value_name = "URL")]
        old: String,
        /// URL[,zone=Z]; without a zone it takes over the old one's
        #[arg(long, value_name = "URL")]
        new: String,
        /// Also where losing a zone would break the layout then
        #[arg(long)]
        force: bool,
    },
}

pub async fn run(global: &Global, args: Pool) -> Result<ExitCode> {
    match args {
        Pool::Create { name, stores, layout, ack, degrade_after, force, if_absent } => {
            let ack_zone = ack.is_some();
            let create = PoolCreate { name, stores, layout, ack_zone, degrade_after, force, if_absent };
            plain(global, Verb::PoolCreate(create)).await
        }
        Pool::Add { name, stores } => plain(global, Verb::PoolAdd { name, stores }).await,
        Pool::List => show(global, Verb::PoolList, list).await,
        Pool::Status { name } => show(global, Verb::PoolStatus { name }, status).await,
        Pool::Forget { name, if_exists } => {
            let forgiven = if_exists.then_some(Kind::NotFound);
            forgive(plain(global, Verb::PoolForget { name, if_exists }).await, forgiven)
        }
        Pool::Scrub { name } => show(global, Verb::PoolScrub { name }, scrub).await,
        Pool::Repair { name } => plain(global, Verb::PoolRepair { name }).await,
        Pool::Replace { name, old, new, force } => {
            plain(global, Verb::PoolReplace { name, old, new, force }).await
        }
    }
}

async fn plain(global: &Global, verb: Verb) -> Result<ExitCode> {
    show(global, verb, |_| {}).await
}

async fn show(global: &Global, verb: Verb, human: fn(&Value)) -> Result<ExitCode> {
    let outcome = reach::ask(global, verb).await?;
    output::report(global, &outcome, human);
    Ok(done(&outcome))
}

fn list(value: &Value) {
    let row = |v: &Value| {
        vec![
            output::text(v, "name"),
            output::text(v, "layout"),
            output::text(v, "stores"),
            output::text(v, "state"),
        ]
    };
    output::table(&["POOL", "LAYOUT", "STORES", "STATE"], &output::rows(value, row));
}

fn status(value: &Value) {
    output::line(&format!(
        "pool {}, {}: {} shards pending",
        output::text(value, "name"),
        output::text(value, "layout"),
        output::text(value, "pending_shards")
    ));
    for sentence in value["survives"].as_array().into_iter().flatten() {
        output::line(sentence.as_str().unwrap_or_default());
    }
    let row = |v: &Value| {
        vec![
            output::text(v, "url"),
            output::text(v, "zone"),
            output::text(v, "state"),
            output::text(v, "latency_ms_p99"),
            output::text(v, "requests"),
            output::text(v, "reason"),
        ]
    };
    output::table(
        &["STORE", "ZONE", "STATE", "P99 MS", "REQUESTS", "REASON"],
        &output::rows(&value["stores"], row),
    );
}

fn scrub(value: &Value) {
    for found in value["findings"].as_array().into_iter().flatten() {
        let text = |name| output::text(found, name);
        output::line(&format!("{}: {} on {}", text("what"), text("key"), text("store")));
    }
}
