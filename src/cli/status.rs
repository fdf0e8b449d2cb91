//! `windlass status`.

use std::process::ExitCode;

use serde_json::Value;

use super::{Global, client, done, mount, output};
use crate::base::Result;
use crate::daemon::api::Verb;

#[derive(clap::Args, Debug)]
pub struct Status {}

pub async fn run(global: &Global, _: Status) -> Result<ExitCode> {
    let outcome = client::ask(global, Verb::Status).await?;
    output::report(global, &outcome, human);
    Ok(done(&outcome))
}

fn human(value: &Value) {
    output::line(&format!("state folder  {}", output::text(value, "home")));
    output::line(&format!(
        "host          {} (id {})",
        output::text(value, "host"),
        output::text(value, "host_id")
    ));
    for tier in ["memory", "disk"] {
        let held = &value["cache"][tier];
        if held.is_object() {
            let part = format!("{} of {}", output::bytes(held, "bytes"), output::bytes(held, "bytes_max"));
            let asked = format!("{} found, {} not", output::text(held, "hits"), output::text(held, "misses"));
            let off = if held["on"] == Value::Bool(false) { ", off" } else { "" };
            output::line(&format!("{:13} {part}; {asked}{off}", format!("cache, {tier}")));
        }
    }
    let row = |v: &Value| {
        vec![
            output::text(v, "name"),
            output::text(v, "layout"),
            output::text(v, "stores"),
            output::text(v, "state"),
        ]
    };
    output::table(&["POOL", "LAYOUT", "STORES", "STATE"], &output::rows(&value["pools"], row));
    let row = |v: &Value| {
        vec![
            output::text(v, "path"),
            output::text(v, "clients"),
            output::text(v, "state"),
            output::bytes(v, "unsent_bytes"),
        ]
    };
    output::table(&["OPEN VOLUME", "CLIENTS", "STATE", "UNSENT"], &output::rows(&value["volumes"], row));
    mount::mounts(value);
}
