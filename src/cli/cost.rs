//! `windlass cost`: what a pool costs a month at a provider's prices, by what it stores and what its stores were asked, and
//! what another layout or class would do. An estimate: prices are a table that the user checks, and requests of the time
//! since the daemon began stand for a month's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::{Global, output, reach_engine};
use crate::daemon::answers::{EngineStatus, PoolAnswer, PoolLine, VolumeLine, word};
use crate::daemon::api::{Outcome, Verb};
use windlass_base::rt::{Disk as _, RealDisk};
use windlass_base::units::{GIB, show_bytes, show_time};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _};
use windlass_store::{self as store, StoreUrl};

const PRICES: &str = include_str!("prices.toml");
const FILE_MAX: usize = 1 << 20;
const MONTH_MS: f64 = 30.0 * 24.0 * 3_600_000.0;
/// Shortest time of counting, in ms. Requests of a shorter time say nothing of a month.
const WATCHED_MIN_MS: u64 = 60_000;
/// Layouts that are compared, each by its data and parity.
const LAYOUTS: &[(u64, u64)] = &[(1, 1), (1, 2), (2, 1), (4, 2), (8, 2), (8, 3)];

#[derive(clap::Args, Debug)]
pub struct Cost {
    /// Only this pool (default: all known ones)
    pool: Option<Name>,
    /// aws, gcs, azure, b2, r2, wasabi, or one of the file's (default: by the stores' endpoint)
    #[arg(long)]
    provider: Option<String>,
    /// Prices of your own, in the form of src/cli/prices.toml
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

/// The prices of one class of a provider, in US dollars: for a GiB and month, a thousand requests, a GiB that
/// leaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    provider: String,
    class: String,
    storage: f64,
    writes: f64,
    reads: f64,
    egress: f64,
    /// Days that an object is paid for even if it is deleted earlier.
    #[serde(default)]
    days_min: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prices {
    price: Vec<Price>,
}

/// Requests for one cause, and what a month of them costs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct OfCause {
    cause: String,
    writes: u64,
    reads: u64,
    received_bytes: u64,
    month: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WhatIf {
    layout: String,
    provider: String,
    class: String,
    storage_month: f64,
    days_min: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OfVolume {
    path: String,
    stored_with_parity_bytes: u64,
    month: f64,
}

/// The costs of a pool, as `cost --json` prints them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PoolCost {
    pool: Name,
    provider: String,
    class: String,
    layout: String,
    stored_bytes: u64,
    stored_with_parity_bytes: u64,
    storage_month: f64,
    /// Time over which requests were counted. `None`: it was too short.
    watched_ms: Option<u64>,
    requests_month: Option<f64>,
    requests: Vec<OfCause>,
    /// Price in US dollars of all bytes read so far, if they were read from outside of the provider.
    egress_so_far: f64,
    volumes: Vec<OfVolume>,
    what_if: Vec<WhatIf>,
}

pub async fn run(global: &Global, args: Cost) -> Result<ExitCode> {
    let prices = prices(args.prices.as_ref()).await?;
    let status: EngineStatus = reach_engine::ask(global, Verb::Status).await?.answer()?;
    let known = status.pools.iter().map(|PoolLine { name, .. }| name.clone());
    let pools = args.pool.clone().map_or_else(|| known.collect(), |pool| vec![pool]);
    let (mut all, mut unknown) = (Vec::new(), Vec::new());
    for pool in pools {
        let answer: PoolAnswer =
            reach_engine::ask(global, Verb::PoolStatus { name: pool.clone(), walk: true }).await?.answer()?;
        let volumes = reach_engine::ask(global, Verb::VolumeList { pool: Some(pool), importing: false })
            .await?
            .answer()?;
        match chosen(&prices, args.provider.as_deref(), &answer) {
            Ok(price) => all.push(cost(&answer, volumes, price, &prices, status.up_ms)?),
            Err(why) => unknown.push(why),
        }
    }
    // Where some pools have a price, those that have none are only named.
    if all.is_empty()
        && let Some(why) = unknown.pop()
    {
        return Err(why);
    }
    let outcome = Outcome::of(&all)?.note_all(unknown.iter().map(ToString::to_string));
    output::report(global, &outcome, |all: Vec<PoolCost>| all.iter().for_each(human))?;
    Ok(ExitCode::SUCCESS)
}

async fn prices(file: Option<&PathBuf>) -> Result<Vec<Price>> {
    let (text, of) = match file {
        None => (PRICES.to_owned(), "prices.toml".to_owned()),
        Some(file) => {
            let shown = file.display().to_string();
            let bytes = RealDisk::start().read(file, FILE_MAX).await.context(|| format!("prices {shown}"))?;
            (String::from_utf8_lossy(&bytes).into_owned(), shown)
        }
    };
    let read: Result<Prices, _> = toml::from_str(&text);
    read.map(|prices| prices.price).map_err(|e| Error::new(Kind::Usage, format!("prices {of}: {e}")))
}

/// Returns the provider that is paid: the one that the user names, the only one of the table, or the one that
/// the stores' endpoints tell.
fn provider<'a>(prices: &'a [Price], asked: Option<&'a str>, guessed: Option<&'a str>) -> Option<&'a str> {
    let only = prices.first().map(|price| price.provider.as_str());
    let only = only.filter(|only| prices.iter().all(|price| price.provider == *only));
    asked.or(only).or(guessed)
}

/// Returns the provider's first class: that of objects which nobody asked to be elsewhere.
fn chosen<'a>(prices: &'a [Price], asked: Option<&str>, answer: &PoolAnswer) -> Result<&'a Price> {
    let guessed = answer.status.stores.iter().find_map(|store| provider_of(&store.url));
    let Some(provider) = provider(prices, asked, guessed) else {
        let why = format!(
            "no provider is known for the stores of pool {}: name one by --provider",
            answer.status.name
        );
        return Err(Error::new(Kind::Usage, why));
    };
    prices.iter().find(|price| price.provider == provider).ok_or_else(|| {
        let mut names: Vec<&str> = prices.iter().map(|price| price.provider.as_str()).collect();
        names.dedup();
        let why = format!("there are no prices of {provider:?}: --provider takes {}", names.join(", "));
        Error::new(Kind::Usage, why)
    })
}

fn provider_of(url: &str) -> Option<&'static str> {
    let Ok(StoreUrl::S3(place)) = url.parse() else { return None };
    let Some(endpoint) = &place.endpoint else { return Some("aws") };
    let hosts = [
        ("amazonaws.com", "aws"),
        ("googleapis.com", "gcs"),
        ("blob.core.windows.net", "azure"),
        ("backblazeb2.com", "b2"),
        ("r2.cloudflarestorage.com", "r2"),
        ("wasabisys.com", "wasabi"),
    ];
    hosts.iter().find(|(host, _)| endpoint.contains(host)).map(|(_, provider)| *provider)
}

fn cost(
    answer: &PoolAnswer,
    volumes: Vec<VolumeLine>,
    price: &Price,
    prices: &[Price],
    up_ms: u64,
) -> Result<PoolCost> {
    let status = &answer.status;
    let usage = answer.usage.ok_or_else(|| {
        let why = format!("what pool {} stores can't be told now: too few stores answer", status.name);
        Error::new(Kind::Unavailable, why)
    })?;
    let storage = |bytes: f64, price: &Price| bytes / GIB as f64 * price.storage;
    let watched_ms = Some(up_ms).filter(|up| *up >= WATCHED_MIN_MS);
    let requests = by_cause(status.stores.iter().flat_map(|store| &store.traffic), price, watched_ms);
    let received: u64 = requests.iter().map(|of| of.received_bytes).sum();
    let volumes = volumes.into_iter().filter_map(|line| match line {
        VolumeLine::Known(known) => {
            let bytes = known.info.stored_with_parity_bytes;
            let month = storage(bytes as f64, price);
            Some(OfVolume { path: known.path.to_string(), stored_with_parity_bytes: bytes, month })
        }
        VolumeLine::Unknown { .. } => None,
    });
    let layouts = LAYOUTS.iter().flat_map(|(k, m)| prices.iter().map(move |price| (k, m, price)));
    let own = layouts.filter(|(_, _, other)| other.provider == price.provider);
    let what_if = own.map(|(k, m, price)| WhatIf {
        layout: format!("{k}+{m}"),
        provider: price.provider.clone(),
        class: price.class.clone(),
        storage_month: storage(usage.stored_bytes as f64 * (k + m) as f64 / *k as f64, price),
        days_min: price.days_min,
    });
    Ok(PoolCost {
        pool: status.name.clone(),
        provider: price.provider.clone(),
        class: price.class.clone(),
        layout: status.layout.clone(),
        stored_bytes: usage.stored_bytes,
        stored_with_parity_bytes: usage.stored_with_parity_bytes,
        storage_month: storage(usage.stored_with_parity_bytes as f64, price),
        watched_ms,
        requests_month: watched_ms.map(|_| requests.iter().map(|of| of.month).sum()),
        egress_so_far: received as f64 / GIB as f64 * price.egress,
        volumes: volumes.collect(),
        what_if: what_if.collect(),
        requests,
    })
}

/// Sums requests by their cause, as providers count them: deletions are free, listings cost as much as a put.
fn by_cause<'a>(
    lines: impl Iterator<Item = &'a store::Line>,
    price: &Price,
    watched_ms: Option<u64>,
) -> Vec<OfCause> {
    let mut sums: BTreeMap<String, OfCause> = BTreeMap::new();
    for line in lines {
        let sum = sums.entry(word(&line.cause)).or_default();
        sum.received_bytes += line.received_bytes;
        match line.verb {
            store::Verb::Get | store::Verb::Head => sum.reads += line.requests,
            store::Verb::Delete | store::Verb::MultipartAbort => {}
            _ => sum.writes += line.requests,
        }
    }
    let priced = |(cause, sum): (String, OfCause)| {
        let so_far = (sum.writes as f64 * price.writes + sum.reads as f64 * price.reads) / 1000.0;
        let month = watched_ms.map_or(0.0, |watched| so_far * MONTH_MS / watched as f64);
        OfCause { cause, month, ..sum }
    };
    sums.into_iter().map(priced).collect()
}

fn human(of: &PoolCost) {
    let dollars = |amount: f64| format!("{amount:.2} $");
    output::line(&format!(
        "pool {}, {}, at the prices of {} {} (check them: `--prices FILE` takes yours)",
        of.pool, of.layout, of.provider, of.class
    ));
    let stored = show_bytes(of.stored_with_parity_bytes);
    output::line(&format!("storage: {stored} with parity: {} a month", dollars(of.storage_month)));
    match (of.requests_month, of.watched_ms) {
        (Some(month), Some(watched)) => output::line(&format!(
            "requests: {} a month, if all months are as the last {} were (an estimate)",
            dollars(month),
            show_time(watched)
        )),
        _ => output::line("requests: no daemon has run long enough to tell"),
    }
    output::line(&format!("read so far, if from outside of the provider: {}", dollars(of.egress_so_far)));
    let row = |of: &OfCause| {
        vec![
            of.cause.clone(),
            of.writes.to_string(),
            of.reads.to_string(),
            show_bytes(of.received_bytes),
            dollars(of.month),
        ]
    };
    output::table(&["WHY", "WRITES", "READS", "RECEIVED", "A MONTH"], of.requests.iter().map(row).collect());
    let row =
        |of: &OfVolume| vec![of.path.clone(), show_bytes(of.stored_with_parity_bytes), dollars(of.month)];
    output::table(&["VOLUME", "STORED", "A MONTH"], of.volumes.iter().map(row).collect());
    let row = |of: &WhatIf| {
        let least = if of.days_min > 0 { format!("{} days at least", of.days_min) } else { "-".to_owned() };
        vec![of.layout.clone(), of.class.clone(), dollars(of.storage_month), least]
    };
    output::table(
        &["IF IT WERE", "CLASS", "STORAGE A MONTH", "AN OBJECT IS PAID FOR"],
        of.what_if.iter().map(row).collect(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_table_is_read_and_each_provider_is_guessed_by_its_endpoint() {
        let prices = prices(None).await.unwrap();
        for url in ["s3://b", "s3://b?endpoint=https://s3.eu-central-003.backblazeb2.com"] {
            let provider = provider_of(url).unwrap();
            assert!(prices.iter().any(|price| price.provider == provider), "{provider}");
        }
        assert_eq!(provider_of("s3://b?endpoint=http://127.0.0.1:9000"), None);
        assert_eq!(provider_of("file:///s"), None);
    }

    fn price_of(provider: &str) -> Price {
        Price {
            provider: provider.into(),
            class: "y".into(),
            storage: 1.0,
            writes: 10.0,
            reads: 1.0,
            egress: 0.0,
            days_min: 0,
        }
    }

    #[test]
    fn a_table_of_one_provider_is_for_every_pool() {
        let chosen = |prices: &[Price], asked, guessed| provider(prices, asked, guessed).map(str::to_owned);
        let (mine, two) = ([price_of("mine"), price_of("mine")], [price_of("mine"), price_of("aws")]);
        assert_eq!(chosen(&mine, None, Some("aws")).as_deref(), Some("mine"));
        assert_eq!(chosen(&mine, None, None).as_deref(), Some("mine"));
        assert_eq!(chosen(&two, None, Some("aws")).as_deref(), Some("aws"));
        assert_eq!(chosen(&two, None, None), None);
        assert_eq!(chosen(&mine, Some("b2"), Some("aws")).as_deref(), Some("b2"));
    }

    #[test]
    fn requests_are_counted_as_providers_do() {
        let price = price_of("x");
        let line = |verb, requests| store::Line {
            verb,
            cause: store::Cause::Write,
            requests,
            sent_bytes: 0,
            received_bytes: 5,
            absent: 0,
            refused: 0,
            dropped: 0,
            failed: 0,
            failed_by: BTreeMap::new(),
            latency_ms_p50: 0.0,
            latency_ms_p99: 0.0,
            latency_ms_max: 0.0,
            latencies: windlass_base::latency::Latencies::default(),
        };
        let lines = [line(store::Verb::Put, 100), line(store::Verb::Get, 1000), line(store::Verb::Delete, 7)];
        let all = by_cause(lines.iter(), &price, Some(MONTH_MS as u64 / 2));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].writes, all[0].reads, all[0].received_bytes), (100, 1000, 15));
        assert!((all[0].month - 4.0).abs() < 1e-6, "{all:?}");
        assert!((by_cause(lines.iter(), &price, None)[0].month).abs() < f64::EPSILON);
    }
}
