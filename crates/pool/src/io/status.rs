//! What `pool status` shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::context::PoolContext;
use crate::stores::PoolSettings;
use crate::stores::SizeClass;
use crate::stores::{Member, Standing};
use windlass_base::rt::Instant;
use windlass_base::{Name, PoolId};
use windlass_store::{ConditionalPuts, Line};

/// The hedge delay that is shown is that of reads of so many bytes.
const SMALL: u64 = 4096;

/// What is known of a store, in the words of `pool status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    In,
    /// Not asked yet.
    Unknown,
    Out,
    Down,
    /// Takes no writes.
    Failing,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    pub index: usize,
    pub url: String,
    pub zone: Option<String>,
    pub state: StoreState,
    /// How it keeps the conditions of writes, as was found when it was taken in: without them it holds data only.
    #[serde(default)]
    pub conditions: ConditionalPuts,
    /// It holds registers: a majority of such stores decides.
    #[serde(default)]
    pub registers: bool,
    /// Why it isn't `in`.
    pub reason: Option<String>,
    pub failing_ms: Option<u64>,
    pub latency_ms_p99: Option<f64>,
    /// The share of the last requests that failed.
    pub error_rate: f64,
    pub requests: u64,
    /// Objects that nobody needs and that the store does not let us delete.
    pub undeleted: u64,
    /// How many ms its clock is ahead of this host's, if by so much that it refuses what is signed by this host's; else 0.
    #[serde(default)]
    pub clock_ahead_ms: i64,
    /// The last deletion was refused for want of rights.
    #[serde(default)]
    pub keeps_all: bool,
    /// Its copies of registers were older than the others': it was away, or was put back from a backup. What it lacks is being
    /// looked for.
    #[serde(default)]
    pub older: bool,
    /// Bytes in use and free on the filesystem that it is on, where it can tell.
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// The requests made there, by what was asked and why.
    pub traffic: Vec<Line>,
}

/// Chunks that lack as many shards, besides what lies on stores that are away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AtRisk {
    pub missing_shards: usize,
    pub chunks: u64,
}

/// A copy of a register that is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DamagedRegister {
    pub store: String,
    pub key: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: Name,
    pub id: PoolId,
    pub layout: String,
    /// Shards that make a chunk stored, while enough stores are there.
    pub stored_at: usize,
    /// Its labels and registers are signed by a key, which this host has.
    pub keyed: bool,
    pub settings: PoolSettings,
    /// What is true of it now, for people.
    pub survives: Vec<String>,
    /// How long a read waits for its store before it asks others too.
    pub hedge_ms: f64,
    pub stores: Vec<StoreStatus>,
    /// Replacements under way, `OLD by NEW` each: `pool repair` or `pool replace` finishes them.
    pub replacing: Vec<String>,
    /// Shards left out, which are put when their stores take them.
    pub pending_shards: usize,
    /// Shards that were stored, and that a scrub or a read on this host found gone or rotten: for `pool repair`.
    pub damaged_shards: usize,
    /// Copies of registers that this host found damaged: the others decide without them, `pool repair` mends them.
    pub damaged_registers: Vec<DamagedRegister>,
    /// The chunks that all those belong to, the worst first.
    pub at_risk: Vec<AtRisk>,
    /// More may be missing than is counted: `pool repair` finds it.
    pub pending_incomplete: bool,
    /// Shards that nobody needs, on stores that were away when they were deleted: deleted when those are back.
    pub missed_deletes: usize,
    /// More of them may be there than is counted: the daily look of their volumes' owners finds them, or `pool repair`.
    pub missed_deletes_incomplete: bool,
}

impl PoolStatus {
    /// The replacements under way, each with what finishes it.
    pub fn finishing(&self) -> Vec<String> {
        let name = &self.name;
        let is_well = |url: &str| {
            self.stores
                .iter()
                .any(|s| s.url == url && matches!(s.state, StoreState::In | StoreState::Unknown))
        };
        let way = |which: &String| match which
            .rsplit_once(" by ")
            .map(|(_, new)| new)
            .filter(|new| !is_well(new))
        {
            None => format!("{which}: `windlass pool repair {name}` finishes it"),
            Some(new) => format!(
                "{which}: `windlass pool repair {name}` finishes it once {new} takes what belongs there; `windlass pool replace {name} \
                 --old {new} --new URL` puts another in its place"
            ),
        };
        self.replacing.iter().map(way).collect()
    }
}

pub fn of(
    context: &PoolContext,
    name: Name,
    id: PoolId,
    w: usize,
    (settings, keyed): (PoolSettings, bool),
    survives: Vec<String>,
) -> PoolStatus {
    let (pending_shards, pending_incomplete) = context.missing_shards().pending();
    let (missed_deletes, missed_deletes_incomplete) =
        context.missing_shards().leaving(|l| (l.count(), l.overflow));
    let now = context.rt().now();
    PoolStatus {
        name,
        id,
        layout: context.layout().to_string(),
        stored_at: w,
        keyed,
        settings,
        survives,
        hedge_ms: crate::stores::delay(None, context.usual(SizeClass::of(SMALL))).as_micros() as f64 / 1000.0,
        stores: stores(context, now),
        replacing: replacing(context),
        pending_shards,
        damaged_shards: context.missing_shards().damaged_shards(),
        damaged_registers: damaged_registers(context),
        at_risk: at_risk(context),
        pending_incomplete,
        missed_deletes,
        missed_deletes_incomplete,
    }
}

fn at_risk(context: &PoolContext) -> Vec<AtRisk> {
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    context.missing_shards().each_lacking(|_, left_out, damaged| {
        *counts.entry(left_out.or(damaged).count()).or_default() += 1;
    });
    counts.into_iter().rev().map(|(missing_shards, chunks)| AtRisk { missing_shards, chunks }).collect()
}

fn damaged_registers(context: &PoolContext) -> Vec<DamagedRegister> {
    let members = context.members();
    let all = members.iter().flat_map(|m| m.damage().into_iter().map(|(key, reason)| (m.url(), key, reason)));
    all.map(|(url, key, reason)| DamagedRegister { store: url.to_owned(), key, reason }).collect()
}

fn replacing(context: &PoolContext) -> Vec<String> {
    let now = context.membership();
    let pairs = now.members.iter().filter_map(|new| Some((now.predecessor(new.index())?, new)));
    pairs.map(|(old, new)| format!("{} by {}", old.url(), new.url())).collect()
}

fn stores(context: &PoolContext, now: Instant) -> Vec<StoreStatus> {
    let membership = context.membership();
    let holds = |m: &Member| membership.acceptors.contains(&m.index());
    membership.members.iter().map(|m| store(m, holds(m), now)).collect()
}

fn store(member: &Member, registers: bool, now: Instant) -> StoreStatus {
    let failing = member.failing();
    let state = match member.standing() {
        Standing::Out(_) => StoreState::Out,
        Standing::Down(_) => StoreState::Down,
        Standing::Unknown => StoreState::Unknown,
        Standing::In if failing.is_some() => StoreState::Failing,
        Standing::In => StoreState::In,
    };
    StoreStatus {
        index: member.index(),
        url: member.url().to_owned(),
        zone: member.zone().map(str::to_owned),
        state,
        conditions: member.conditions(),
        registers,
        failing_ms: failing.as_ref().map(|(since, _)| now.since(*since).as_millis() as u64),
        reason: failing.map(|(_, why)| why),
        latency_ms_p99: member.traffic().percentile(99).map(|d| d.as_micros() as f64 / 1000.0),
        error_rate: member.traffic().error_rate(),
        requests: member.traffic().requests(),
        undeleted: member.traffic().undeleted(),
        clock_ahead_ms: member.raw().map_or(0, |bucket| bucket.clock_ahead_ms()),
        keeps_all: member.traffic().keeps_all(),
        older: member.older().is_some(),
        used_bytes: member.space().map(|space| space.used_bytes),
        free_bytes: member.space().map(|space| space.free_bytes),
        traffic: member.raw().and_then(|b| b.counters()).map(|c| c.snapshot()).unwrap_or_default(),
    }
}
