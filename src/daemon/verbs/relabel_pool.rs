//! Labels of a pool's stores that were lost, written anew.

use serde_json::json;

use crate::daemon::api::Outcome;
use crate::daemon::engine_tables::EngineState;
use windlass_base::units::show_count;
use windlass_base::{Name, Result};

pub async fn relabel(state: &EngineState, name: &Name) -> Result<Outcome> {
    let done = Box::pin(state.pools.relabel(name)).await?;
    let value = json!({"name": name, "written": done.written, "right": done.right});
    let mut outcome = Outcome { value, ..Outcome::default() }.degraded(!done.left.is_empty());
    for url in &done.written {
        outcome = outcome.note(format!("the label of store {url} is written anew"));
    }
    for (url, why) in &done.left {
        outcome = outcome.note(format!("store {url} stays as it is: {why}"));
    }
    let right = show_count(done.right.len() as u64, "store");
    Ok(outcome.note(format!("{right} of pool {name} had the right label")))
}
