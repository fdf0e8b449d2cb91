//! The page that a browser shows of a daemon, and the answers that it is made of. It only reads, and nothing of it comes
//! from anywhere else: its policy allows the browser no script or style but its own, and no connection but to us.

use std::time::Duration;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use super::api::{Outcome, Verb, VolumePath};
use super::engine_tables::EngineState;
use super::metrics_http_message::{HTML, JSON, NOT_FOUND, OK, Reply, Request, UNAVAILABLE};
use super::progress::ProgressSink;
use super::{verbs, volume_sharing_map};
use windlass_base::{Error, Kind, Name, Result};

const HEAD: &str = include_str!("head.html");
const STYLE: &str = include_str!("style.css");
const BODY: &str = include_str!("body.html");
const SCRIPT: &str = include_str!("script.js");

/// Longest time for which stores are waited for: shorter than a connection may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Returns the page itself.
pub fn document() -> Reply {
    let body =
        format!("{HEAD}<style>{STYLE}</style>\n</head>\n{BODY}<script>{SCRIPT}</script>\n</body>\n</html>\n");
    let (style, script) = (digest(STYLE), digest(SCRIPT));
    let headers = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
         img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\nCache-Control: no-store\r\n"
    );
    Reply { headers, ..Reply::new(OK, HTML, body) }
}

/// Returns the digest by which the page's policy knows a script or style.
fn digest(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text))
}

/// Answers a path below `/api/`, by what commands show as JSON.
pub async fn api(state: &EngineState, request: &Request) -> Reply {
    if request.path == "/api/map" {
        return as_reply(map(state, request).await);
    }
    let asked = match request.path.as_str() {
        "/api/status" => Ok(Verb::Watch),
        "/api/volumes" => volumes(state, request),
        "/api/snapshots" => snapshots(state, request),
        _ => {
            let known = "see /api/status, /api/volumes?pool=POOL, /api/snapshots?volume=POOL/VOLUME, /api/map?volume=POOL/VOLUME";
            Err(Error::new(Kind::NotFound, known))
        }
    };
    let answered = match asked {
        Ok(verb) => answer(state, verb).await,
        Err(error) => Err(error),
    };
    as_reply(answered)
}

fn as_reply(answered: Result<Outcome>) -> Reply {
    let reply = match answered {
        Ok(outcome) => Reply::new(OK, JSON, serde_json::to_string(&outcome).unwrap_or_default()),
        Err(error) => {
            let missing = matches!(error.kind(), Kind::NotFound | Kind::Removed | Kind::Usage);
            let status = if missing { NOT_FOUND } else { UNAVAILABLE };
            Reply::new(status, JSON, serde_json::json!({"error": error.to_string()}).to_string())
        }
    };
    let headers = "Cross-Origin-Resource-Policy: same-origin\r\nCache-Control: no-store\r\n".to_owned();
    Reply { headers, ..reply }
}

/// Returns some cells of a volume's map, from one on.
async fn map(state: &EngineState, request: &Request) -> Result<Outcome> {
    let path: VolumePath = request.parameter("volume").unwrap_or_default().parse()?;
    let from = request.parameter("from").unwrap_or_else(|| "0".to_owned());
    let from: u32 = from.parse().map_err(|_| Error::new(Kind::Usage, "from= is the number of a cell"))?;
    let work = Box::pin(volume_sharing_map::part(state, path, from.into()));
    Outcome::of(&state.host_context.rt.timeout(PATIENCE, work).await.unwrap_or_else(|| Err(late()))?)
}

fn late() -> Error {
    Error::new(Kind::Unavailable, format!("too few stores answered within {PATIENCE:?}"))
}

async fn answer(state: &EngineState, verb: Verb) -> Result<Outcome> {
    // On the heap: what all verbs together need is too much for a thread's stack.
    let work = Box::pin(verbs::run(state, verb, ProgressSink::none()));
    state.host_context.rt.timeout(PATIENCE, work).await.unwrap_or_else(|| Err(late()))
}

fn volumes(state: &EngineState, request: &Request) -> Result<Verb> {
    let pool: Name = request.parameter("pool").unwrap_or_default().parse()?;
    check_open(state, &pool)?;
    Ok(Verb::VolumeList { pool: Some(pool), importing: false })
}

fn snapshots(state: &EngineState, request: &Request) -> Result<Verb> {
    let path: VolumePath = request.parameter("volume").unwrap_or_default().parse()?;
    check_open(state, &path.pool)?;
    Ok(Verb::SnapshotList { path, from: None })
}

/// Refuses a pool that is not open: a look opens no pool.
fn check_open(state: &EngineState, pool: &Name) -> Result<()> {
    match state.pools.opened().iter().any(|(name, _)| name == pool) {
        true => Ok(()),
        false => Err(Error::new(Kind::Unavailable, format!("pool {pool} is not open here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_page_comes_from_elsewhere() {
        let page = document();
        for word in
            ["src=", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacent", "style=", "onclick="]
        {
            assert!(!page.body.contains(word), "{word}");
        }
        // The one address is the name of a kind of element, which nobody fetches.
        let addresses: Vec<&str> = page.body.match_indices("://").map(|(at, _)| &page.body[at..]).collect();
        assert!(addresses.iter().all(|rest| rest.starts_with("://www.w3.org/2000/svg\"")), "{addresses:?}");
        for part in [STYLE, SCRIPT] {
            assert!(page.headers.contains(&digest(part)));
            assert!(!part.contains("</"), "it would end the element that it stands in");
        }
    }
}
