//! A pool that too few of its stores can decide, decided by those that are left.

use serde_json::{Value, json};

use super::replace::finish;
use crate::daemon::api::{ForceRecover, Outcome};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{ForcedRecovery, StoreSwap};
use windlass_volume::Finished;

pub async fn force_recover(
    state: &EngineState,
    args: ForceRecover,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let name = &args.name;
    let swaps = swaps(state, &args).await?;
    let Some(recovery) = Box::pin(state.pools.recovery(name, swaps.clone())).await? else {
        return nothing_lost(state, name, &swaps, args.dry_run, progress).await;
    };
    let feasible = recovery.check().await;
    let sentences = what_it_means(name, &recovery);
    if args.dry_run {
        feasible?;
        let mut outcome = Outcome::of(&report(name, &recovery, false, 0))?;
        outcome.notes = sentences;
        return Ok(outcome);
    }
    if !args.force {
        // Also where nothing could be done yet: what is to be done first is not the whole price.
        let mut why = sentences.join("; ");
        if let Err(e) = feasible {
            why = format!("{e}; and then: {why}");
        }
        let why = format!("{why}; bring stores back if that is possible at all, else add --force");
        return Err(Error::new(Kind::Refused, why));
    }
    feasible?;
    let known = recovery.registers as u64;
    progress.tell("deciding registers", 0, known);
    Box::pin(recovery.recover()).await.map_err(|e| e.context(format!("pool {name}")))?;
    finished(state, name, &recovery, progress).await
}

async fn swaps(state: &EngineState, args: &ForceRecover) -> Result<Vec<StoreSwap>> {
    let url = |given: &String| state.config().store_url(given);
    let new = args.swaps.iter().map(|(_, new)| url(new)).collect::<Result<Vec<_>>>()?;
    let new = state.pools.new_stores(&args.name, &new).await?;
    let swap =
        |((old, _), new): (&(String, String), _)| Ok(StoreSwap { old: state.pools.url_of(&url(old)?)?, new });
    args.swaps.iter().zip(new).map(swap).collect()
}

/// Finishes the recovery: the pool opens now, and what is left is a replacement's work.
async fn finished(
    state: &EngineState,
    name: &Name,
    recovery: &ForcedRecovery,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = state.pools.get(name).await?;
    open.pool.hear().await?;
    state.pools.remember_places(name, &open).await?;
    let brought = Box::pin(finish(&open, progress)).await;
    let shards = brought.as_ref().map_or(0, |finished| finished.shards);
    let mut outcome = Outcome::of(&report(name, recovery, true, shards))?;
    outcome.notes = recovery.lost.iter().map(|l| given_up(l, true)).collect();
    if recovery.guess {
        let registers = show_count(recovery.registers as u64, "register");
        outcome =
            outcome.note(format!("{registers} decided by guess: compare what you find with what you know"));
    }
    Ok(match brought {
        Ok(Finished { shards, left }) => {
            let is_short = !left.is_empty();
            outcome.note_all(left).note(format!("{} brought", show_count(shards, "shard"))).degraded(is_short)
        }
        Err(e) => outcome
            .note(format!(
                "pool {name} opens again, but is not whole yet (`windlass pool repair {name}` goes on): {e}"
            ))
            .degraded(true),
    })
}

/// Answers where a majority of the stores answers: what an earlier run has left is done, else nothing.
async fn nothing_lost(
    state: &EngineState,
    name: &Name,
    swaps: &[StoreSwap],
    dry_run: bool,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = state.pools.get(name).await?;
    open.pool.hear().await?;
    let urls: Vec<String> = open.pool.membership().members.iter().map(|m| m.url().to_owned()).collect();
    if let Some(swap) = swaps.iter().find(|swap| !urls.contains(&swap.new.url)) {
        let text = format!(
            "pool {name} needs no force: enough of its stores answer; use `windlass pool replace {name} --old {} --new {}`",
            swap.old, swap.new.url
        );
        return Err(Error::new(Kind::Refused, text));
    }
    let moving = open.pool.is_moving();
    let finished = match moving && !dry_run {
        true => Box::pin(finish(&open, progress)).await?,
        false => Finished::default(),
    };
    let Finished { shards, left } = finished;
    let is_short = !left.is_empty();
    state.pools.remember_places(name, &open).await?;
    let value = json!({
        "name": name, "recovered": moving && !dry_run, "given_up": [], "replaced": [], "registers": 0, "guessed": 0,
        "shards": shards,
    });
    let note = match (moving, dry_run) {
        (true, false) => {
            format!("what was begun in pool {name} is finished, {} brought", show_count(shards, "shard"))
        }
        (true, true) => format!("what was begun in pool {name} would be finished"),
        (false, _) => format!("enough stores of pool {name} answer: there is nothing to recover"),
    };
    Ok(Outcome { value, ..Outcome::default() }.note_all(left).note(note).degraded(is_short))
}

fn report(name: &Name, recovery: &ForcedRecovery, recovered: bool, shards: u64) -> Value {
    let urls: Vec<&String> = recovery.lost.iter().map(|l| &l.url).collect();
    let replaced = recovery.lost.iter().filter_map(|l| Some(json!({"old": l.url, "new": l.new.as_ref()?})));
    json!({
        "name": name, "recovered": recovered, "given_up": urls, "replaced": replaced.collect::<Vec<_>>(),
        "registers": recovery.registers, "guessed": if recovery.guess { recovery.registers } else { 0 }, "shards": shards,
    })
}

fn given_up(lost: &windlass_pool::Lost, done: bool) -> String {
    let is = if done { "is" } else { "would be" };
    match &lost.new {
        Some(new) if *new == lost.url => format!("{new} {is} taken in anew, empty as it is"),
        Some(new) => format!("{} {is} given up for {new}", lost.url),
        None => format!("{} {is} given up; it stays listed, for `windlass pool replace`", lost.url),
    }
}

/// Returns sentences that tell what the recovery would do, and what it costs.
fn what_it_means(name: &Name, recovery: &ForcedRecovery) -> Vec<String> {
    let mut said: Vec<String> = recovery.lost.iter().map(|l| given_up(l, false)).collect();
    let registers = show_count(recovery.registers as u64, "register");
    said.push(match recovery.guess {
        true => format!(
            "{registers} of pool {name} would be decided by guess: what only the stores given up know is lost, also what was \
             acknowledged and flushed (newest writes, volumes and snapshots made or removed last)"
        ),
        false => format!(
            "{registers} of pool {name} would be decided by the stores that are left, which know all that was acknowledged"
        ),
    });
    if recovery.unfinished {
        said.push(
            "a replacement was under way: what has not come along yet and lies on no store that is left is lost".into(),
        );
    }
    let hosts = match recovery.guess {
        true => {
            "a host that still reaches the stores given up goes on with them, and loses what it writes: stop it"
        }
        false => "a host that still reaches the stores given up is told to use the others",
    };
    said.push(format!("{hosts}; never recover from two hosts that see different stores"));
    said
}
