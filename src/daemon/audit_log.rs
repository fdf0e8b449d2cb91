//! A file with a line for each command that changed something, or was to: who asked, for what, and what came of it
//! (`audit` of `[log]` in windlass.toml). The log says the same among all else.
// The file is opened for each line, so that whoever turns it over need tell nobody.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::api::{Outcome, Request, VERSION, Verb};
use super::engine_tables::EngineState;
use super::progress::Asker;
use windlass_base::{Result, utc};

/// One line of the audit log.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    /// User id of the process that asked. None if windlass itself acted, as its configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// Name of the verb in the API.
    verb: &'a str,
    /// Sentence for people that tells what was to be done; it is true if `done` is.
    deed: &'a str,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Returns the name by which the API knows the verb.
pub fn called(verb: &Verb) -> String {
    let request = serde_json::to_value(Request { v: VERSION, verb: verb.clone() });
    request.ok().and_then(|request| request["verb"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Adds a line to the audit log where windlass.toml asks for it. A line that can't be written is told in the log.
pub async fn note(state: &EngineState, asker: Option<Asker>, verb: &str, deed: &str, done: &Result<Outcome>) {
    let Some(path) = state.config().log.audit.as_ref().map(|audit| PathBuf::from(&audit.value)) else {
        return;
    };
    let rt = &state.host_context.rt;
    let line = Line {
        time: utc::show(rt.wall_ms()),
        uid: asker.map(|asker| asker.uid),
        pid: asker.and_then(|asker| asker.pid),
        verb,
        deed,
        done: done.is_ok(),
        why: done.as_ref().err().map(ToString::to_string),
    };
    let Ok(mut bytes) = serde_json::to_vec(&line) else { return };
    bytes.push(b'\n');
    let file = path.clone();
    let append = move || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        // In one write: lines of several processes don't mix.
        options.append(true).create(true).mode(0o640).open(file)?.write_all(&bytes)
    };
    let told = rt.cpu(append).await;
    let failed = told.map_err(|e| e.to_string()).and_then(|told| told.map_err(|e| e.to_string())).err();
    if let Some(error) = failed {
        tracing::error!(error, deed, "{} can't be written: this is missing there", path.display());
    }
}
