//! Verbs of pools.

use std::time::Duration;

use serde::Serialize;

use crate::base::size::{parse_duration, show_bytes};
use crate::base::{Error, Kind, Name, Result};
use crate::daemon::api::{Outcome, PoolCreate};
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;
use crate::pool::{CreateOptions, Layout, Progress, Settings};
use crate::store::StoreSpec;

/// How long `pool status` waits for a store's answer.
const ASK: Duration = Duration::from_secs(3);

/// A pool as listings show it.
#[derive(Debug, Serialize)]
pub struct Line {
    name: Name,
    layout: Option<String>,
    stores: usize,
    state: &'static str,
    /// Why nothing can be stored, if so.
    trouble: Option<String>,
}

impl Line {
    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn trouble(&self) -> &Option<String> {
        &self.trouble
    }
}

pub fn lines(desk: &Desk) -> Vec<Line> {
    let opened = desk.pools.opened();
    let line = |known: crate::daemon::KnownPool| {
        let open = opened.iter().find(|(name, _)| *name == known.name);
        Line {
            layout: open.map(|(_, o)| o.pool.layout().to_string()),
            stores: known.stores.len(),
            state: if open.is_some() { "open" } else { "closed" },
            trouble: open.and_then(|(_, o)| o.pool.condition().trouble()).map(|(_, why)| why),
            name: known.name,
        }
    };
    desk.pools.known().into_iter().map(line).collect()
}

fn settings(args: &PoolCreate) -> Result<Settings> {
    let mut settings = Settings { ack_zone: args.ack_zone, ..Settings::default() };
    match args.degrade_after.as_deref() {
        None => {}
        Some("never") => settings.degrade_after_ms = None,
        Some(time) => settings.degrade_after_ms = Some(parse_duration(time)?.as_millis() as u64),
    }
    Ok(settings)
}

pub async fn create(desk: &Desk, args: PoolCreate) -> Result<Outcome> {
    let options = CreateOptions { settings: settings(&args)?, force: args.force };
    let layout = args.layout.as_deref().map(str::parse).transpose()?;
    let stores = urls(desk, &args.stores)?;
    if args.if_absent
        && let Some(known) = desk.pools.known().into_iter().find(|k| k.name == args.name)
    {
        return same_pool(desk, &known, layout, &stores).await;
    }
    let open = desk.pools.create(&args.name, layout, stores, options).await?;
    let mut outcome = Outcome::of(&serde_json::json!({
        "name": args.name, "id": open.pool.id().to_string(), "layout": open.pool.layout().to_string(),
    }))?;
    for sentence in open.pool.survives() {
        outcome = outcome.note(sentence);
    }
    Ok(outcome)
}

/// `--if-absent` is content only with the pool that was asked for.
async fn same_pool(
    desk: &Desk,
    known: &crate::daemon::KnownPool,
    layout: Option<Layout>,
    stores: &[String],
) -> Result<Outcome> {
    let name = &known.name;
    let canonical = |all: &[String]| -> Result<Vec<String>> {
        let mut all =
            all.iter().map(|s| Ok(s.parse::<StoreSpec>()?.to_string())).collect::<Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    };
    if canonical(&known.stores)? != canonical(stores)? {
        let why = format!("this host knows a pool {name}, but with other stores: {}", known.stores.join(" "));
        return Err(Error::new(Kind::Exists, why));
    }
    let pool = desk.pools.get(name).await?.pool.clone();
    if let Some(asked) = layout.filter(|l| *l != pool.layout()) {
        let why = format!("pool {name} exists, but with layout {}, not {asked}", pool.layout());
        return Err(Error::new(Kind::Exists, why));
    }
    let value = serde_json::json!({
        "name": name, "id": pool.id().to_string(), "layout": pool.layout().to_string(),
    });
    Ok(Outcome { value, ..Outcome::default() }.note(format!("pool {name} exists already")))
}

fn urls(desk: &Desk, given: &[String]) -> Result<Vec<String>> {
    given.iter().map(|s| desk.config.store_url(s)).collect()
}

pub async fn add(desk: &Desk, name: Name, stores: &[String]) -> Result<Outcome> {
    let open = desk.pools.add(&name, urls(desk, stores)?).await?;
    let value = serde_json::json!({
        "name": name, "id": open.pool.id().to_string(), "layout": open.pool.layout().to_string(),
    });
    let note = format!("pool {name}, {}, is known here now", open.pool.layout());
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}

pub async fn list(desk: &Desk) -> Result<Outcome> {
    for known in desk.pools.known() {
        if let Err(error) = desk.pools.get(&known.name).await {
            tracing::warn!(pool = %known.name, %error, "cannot open");
        }
    }
    let lines = lines(desk);
    let closed = lines.iter().any(|l| l.state == "closed");
    Ok(Outcome::of(&lines)?.degraded(closed))
}

pub async fn forget(desk: &Desk, name: &Name) -> Result<Outcome> {
    let used = desk.sessions.list().into_iter().find(|s| s.path.pool == *name && s.clients > 0);
    if let Some(used) = used {
        return Err(Error::new(
            Kind::Owned,
            format!("{} has clients connected: disconnect them first", used.path),
        ));
    }
    desk.pools.forget(name).await?;
    let value = serde_json::json!({"name": name, "forgotten": true});
    let note = format!("pool {name} is forgotten here; its stores keep everything");
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}

pub async fn status(desk: &Desk, name: &Name) -> Result<Outcome> {
    let pool = desk.pools.get(name).await?.pool.clone();
    // Asked now: what a quiet pool knows of its stores may be old.
    let members = pool.membership().members.clone();
    let asked = members.iter().map(|m| pool.rt().timeout(ASK, m.attest()));
    futures::future::join_all(asked).await;
    let status = pool.status();
    let attention = status.pending_shards > 0
        || !status.replacing.is_empty()
        || status.stores.iter().any(|s| s.state != "in");
    Ok(Outcome::of(&status)?.degraded(attention))
}

pub async fn scrub(desk: &Desk, name: &Name, progress: &ProgressSink) -> Result<Outcome> {
    let open = desk.pools.get(name).await?;
    let watch = |step: Progress| progress.tell("scrubbing", step.done, step.of);
    let found = open.pool.scrub(&open.volumes, &watch).await?;
    let mut outcome = Outcome::of(&found)?.degraded(!found.is_complete_and_clean());
    for store in &found.unreachable {
        outcome = outcome.note(format!("not looked through: {store}"));
    }
    let (shards, bytes) = (found.checked_shards, show_bytes(found.checked_bytes));
    Ok(outcome.note(format!("{shards} shards verified, {bytes}")))
}

/// Done only when nothing is left: anything else needs attention.
pub async fn repair(desk: &Desk, name: &Name, progress: &ProgressSink) -> Result<Outcome> {
    let before = Box::pin(super::replace::before_repair(desk, name, progress)).await?;
    let open = desk.pools.get(name).await?;
    let watch = |step: Progress| progress.tell("repairing", step.done, step.of);
    let done = open.pool.repair(&open.volumes, &watch).await?;
    let mut outcome = Outcome::of(&done)?.degraded(!done.left.is_complete_and_clean());
    outcome.notes.extend(before);
    for store in &done.left.unreachable {
        outcome = outcome.note(format!("not looked through: {store}"));
    }
    for reason in &done.reasons {
        outcome = outcome.note(reason.clone());
    }
    Ok(outcome.note(format!(
        "{} shards rebuilt, {} moved, {} deleted, {} objects set aside",
        done.rebuilt, done.moved, done.deleted, done.set_aside
    )))
}
