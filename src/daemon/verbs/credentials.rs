//! Keys that are given to a running engine: tried, taken, kept where that is asked for. No answer and no line of the log has a
//! secret.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use crate::daemon::answers::CredentialsLine;
use crate::daemon::api::{CredentialsSet, Outcome};
use crate::daemon::config::Config;
use crate::daemon::credentials;
use crate::daemon::engine_tables::EngineState;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Result, utc};
use windlass_store::{AccessKeys, KeySource, KeyTarget, S3Place, S3Store, StoreUrl, keyring};

/// Longest time that a store may take to say whether it takes the keys.
const TRIAL: Duration = Duration::from_secs(10);
/// Most stores that are asked.
const TRIALS_MAX: usize = 16;

/// Answer of one store.
enum Said {
    Takes,
    /// The server does not take the keys.
    Refuses(Error),
    CannotTell(Error),
}

/// Lock that is held while the file of kept keys changes: each writer writes all of it.
static CHANGE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub async fn set(state: &EngineState, args: CredentialsSet) -> Result<Outcome> {
    let host_context = &state.host_context;
    let config = state.config();
    let target = credentials::target(&config, &args.target)?;
    if args.keys.expires_ms.is_some_and(|end| end <= host_context.rt.wall_ms()) {
        return Err(Error::new(
            Kind::Usage,
            format!("these credentials of {target} have ended already: get new ones"),
        ));
    }
    let users = keyring().users_of(&target);
    let (refused, unknown) = trial(state, &target, &users, &args).await;
    if let Some(why) = refused.first().filter(|_| !args.force) {
        let why = format!("{why}. Nothing was changed; --force takes the credentials all the same");
        return Err(Error::new(Kind::Refused, why));
    }
    let _change = CHANGE.lock().await;
    let mut kept = keyring().kept();
    let was_kept = kept.contains_key(&target);
    // The file is written before the keyring takes the keys: keys that count as kept must survive this process.
    if args.keep || was_kept {
        kept.insert(target.clone(), args.keys.clone());
        credentials::keep(host_context, &kept).await?;
        keyring().replace(KeySource::Kept, kept);
    }
    // Also where they are kept: what a command gave counts before all else.
    let source = if args.keep || was_kept { KeySource::Kept } else { KeySource::Memory };
    if source == KeySource::Memory {
        keyring().set(target.clone(), source, args.keys);
    } else {
        keyring().forget(&target, KeySource::Memory);
    }
    let value =
        json!({"target": target.to_string(), "kept": source == KeySource::Kept, "stores": users.len()});
    let goes_on = match users.len() {
        0 => format!("{target}: no open store uses it now; those that are opened will"),
        n => format!("{target}: {} from now on", used_by(n as u64)),
    };
    let until = match source {
        KeySource::Kept if !args.keep => "they were kept before, so these are kept as well".to_owned(),
        KeySource::Kept => format!("they are kept in {}", host_context.home.credentials().display()),
        _ => "they are in the memory of this process alone, and end with it; --keep keeps them".to_owned(),
    };
    let untold = unknown.into_iter().map(|why| format!("not tried: {why}"));
    Ok(Outcome { value, ..Outcome::default() }.note(goes_on).note(until).note_all(refused).note_all(untold))
}

fn used_by(stores: u64) -> String {
    match stores {
        1 => "1 open store uses these".to_owned(),
        n => format!("{} use these", show_count(n, "open store")),
    }
}

/// Returns what the stores say that would refuse these keys, and what those say that can't tell.
async fn trial(
    state: &EngineState,
    target: &KeyTarget,
    users: &BTreeSet<S3Place>,
    args: &CredentialsSet,
) -> (Vec<String>, Vec<String>) {
    let named = named_place(&state.config(), &args.target);
    let places: Vec<S3Place> = match users.is_empty() {
        true => named.into_iter().filter(|place| target.covers(place)).collect(),
        false => users.iter().take(TRIALS_MAX).cloned().collect(),
    };
    let asked = join_all(places.iter().map(|place| ask(state, place, &args.keys))).await;
    let (mut refused, mut unknown) = (Vec::new(), Vec::new());
    for said in asked {
        match said {
            Said::Takes => {}
            Said::Refuses(why) => refused.push(why.to_string()),
            Said::CannotTell(why) => unknown.push(why.to_string()),
        }
    }
    (refused, unknown)
}

/// Returns the store that a user names by its URL or by its name.
fn named_place(config: &Config, text: &str) -> Option<S3Place> {
    let spec: windlass_store::StoreSpec = config.store_url(text).ok()?.parse().ok()?;
    match spec.url {
        StoreUrl::S3(place) => Some(place),
        _ => None,
    }
}

async fn ask(state: &EngineState, place: &S3Place, keys: &AccessKeys) -> Said {
    let rt = &state.host_context.rt;
    match rt.timeout(TRIAL, S3Store::try_keys(rt, place, keys)).await {
        // Keys without the right to list are good keys.
        Some(Ok(())) => Said::Takes,
        Some(Err(why)) if why.is(Kind::Denied) => Said::Takes,
        Some(Err(why)) if why.is(Kind::Refused) => Said::Refuses(why),
        Some(Err(why)) => Said::CannotTell(why),
        None => {
            let why = format!("{} did not answer within {TRIAL:?}", StoreUrl::S3(place.clone()));
            Said::CannotTell(Error::new(Kind::Timeout, why))
        }
    }
}

pub fn list(state: &EngineState) -> Result<Outcome> {
    let now = state.host_context.rt.wall_ms();
    let line = |(target, source, keys): (KeyTarget, KeySource, AccessKeys)| CredentialsLine {
        stores: keyring().users_of(&target).len() as u64,
        target: target.to_string(),
        key_id: keys.id,
        source,
        expires: keys.expires_ms.map(utc::show),
        expires_ms: keys.expires_ms,
    };
    let lines: Vec<CredentialsLine> = keyring().list().into_iter().map(line).collect();
    let ended: Vec<String> = lines
        .iter()
        .filter(|line| line.expires_ms.is_some_and(|end| end <= now))
        .map(|line| {
            format!("{} have ended: `windlass credentials set {}` takes new ones", line.target, line.target)
        })
        .collect();
    Ok(Outcome::of(&lines)?.degraded(!ended.is_empty()).note_all(ended))
}

pub async fn remove(state: &EngineState, text: &str) -> Result<Outcome> {
    let target = credentials::target(&state.config(), text)?;
    let _change = CHANGE.lock().await;
    let Some((_, source, _)) = keyring().list().into_iter().find(|(its, ..)| *its == target) else {
        let why = format!(
            "no credentials were given for {target}: `windlass credentials list` shows those that were"
        );
        return Err(Error::new(Kind::NotFound, why));
    };
    let users = keyring().users_of(&target).len() as u64;
    let mut kept = keyring().kept();
    if kept.remove(&target).is_some() {
        credentials::keep(&state.host_context, &kept).await?;
    }
    keyring().remove(&target);
    let outcome =
        Outcome { value: json!({"target": target.to_string(), "stores": users}), ..Outcome::default() };
    let outcome = match users {
        0 => outcome,
        n => outcome.note(format!("{} what profiles and the environment give from now on", taken_by(n))),
    };
    let again = format!(
        "systemd gives {target} again at the next start or SIGHUP: remove LoadCredential= from the unit"
    );
    Ok(outcome.note_all((source == KeySource::Systemd).then_some(again)))
}

fn taken_by(stores: u64) -> String {
    match stores {
        1 => "1 open store takes".to_owned(),
        n => format!("{} take", show_count(n, "open store")),
    }
}
