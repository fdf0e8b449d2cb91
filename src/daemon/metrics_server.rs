//! The metrics address: what it answers and to whom. Who is slow is sent away. Beside the metrics it tells whether the
//! daemon is alive (`/healthz`), whether all that it serves can be used (`/readyz`), and has a page for people (`/`).

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::engine_tables::EngineState;
use super::metrics_http_message::{BAD_METHOD, FORBIDDEN, NOT_FOUND, OK, Reply, Request, TEXT, UNAVAILABLE};
use super::{metrics, page};
use crate::base::rt::Rt;
use crate::base::{Budget, Name, Result};
use crate::nbd::{Address, Listener, Socket};

/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once; more wait to be accepted.
const CLIENTS_MAX: u64 = 16;
/// What one of them counts as in a budget.
const CLIENT: u64 = 1024;

/// Listens until `stop`; the address with the port that was chosen.
pub async fn serve(
    rt: &Rt,
    address: &Address,
    state: Weak<EngineState>,
    stop: CancellationToken,
) -> Result<Address> {
    let (listener, bound) = Listener::bind(address, None).await?;
    let (rt2, clients) = (rt.clone(), Budget::new(CLIENTS_MAX * CLIENT));
    let own = bound.clone();
    rt.spawn(async move {
        loop {
            let held = clients.take(CLIENT).await;
            let accepted = futures::select_biased! {
                () = stop.cancelled().fuse() => return,
                accepted = listener.accept().fuse() => accepted,
            };
            let Ok((socket, _)) = accepted else {
                rt2.sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (rt, state, own) = (rt2.clone(), state.clone(), own.clone());
            rt2.spawn(async move {
                let _held = held;
                let served = async {
                    match socket {
                        Socket::Tcp(stream) => answer(stream, &own, &state).await,
                        Socket::Unix(stream) => answer(stream, &own, &state).await,
                    }
                };
                if let Some(Err(error)) = rt.timeout(PATIENCE, served).await {
                    tracing::debug!(%error, "a client of the metrics");
                }
            })
            .detach();
        }
    })
    .detach();
    Ok(bound)
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    own: &Address,
    state: &Weak<EngineState>,
) -> Result<()> {
    let request = Request::read(&mut stream).await?;
    let reply = match state.upgrade() {
        Some(state) => reply(&request, own, &state).await,
        None => Reply::new(UNAVAILABLE, TEXT, "the daemon is shutting down\n"),
    };
    reply.send(&mut stream, request.method != "HEAD").await
}

async fn reply(request: &Request, own: &Address, state: &EngineState) -> Reply {
    const KNOWN: &str = "see /, /metrics, /healthz, /readyz\n";
    if !request.only_reads() {
        return Reply::new(BAD_METHOD, TEXT, "only GET is understood\n");
    }
    match request.path.as_str() {
        "/metrics" => Reply::new(OK, metrics::MEDIA_TYPE, metrics::page(state)),
        "/healthz" => Reply::new(OK, TEXT, "alive\n"),
        "/readyz" => match unready(state) {
            why if why.is_empty() => Reply::new(OK, TEXT, "ready\n"),
            why => Reply::new(UNAVAILABLE, TEXT, why.concat()),
        },
        "/" if request.is_for(own) => page::document(),
        path if path.starts_with("/api/") && request.is_for(own) => page::api(state, request).await,
        path if path == "/" || path.starts_with("/api/") => {
            let why = format!(
                "this is {own}: open it by that address or as localhost, from no other site's page\n"
            );
            Reply::new(FORBIDDEN, TEXT, why)
        }
        _ => Reply::new(NOT_FOUND, TEXT, KNOWN),
    }
}

/// A line for each pool that can't be used in full now: it isn't open, or can store or decide nothing.
fn unready(state: &EngineState) -> Vec<String> {
    let opened: BTreeMap<_, _> = state.pools.opened().into_iter().collect();
    let why = |name: &Name| match opened.get(name) {
        Some(open) => {
            let condition = open.pool.condition();
            let undecided = || condition.undecided.map(|_| "too few stores answer for decisions".to_owned());
            condition.trouble().map(|(_, why)| why).or_else(undecided)
        }
        None => Some(state.pools.why_closed(name).unwrap_or_else(|| "it is not open".to_owned())),
    };
    let Some(served) = state.served.lock().clone() else {
        return vec!["the daemon is starting\n".to_owned()];
    };
    // Beside those of the start the ones that came later. One that is being destroyed is not to be served.
    let is_served = |name: &Name| served.contains(name) || opened.contains_key(name);
    let known = state.pools.known().into_iter();
    let all = known.filter(|known| known.destroying.is_none() && is_served(&known.name));
    all.filter_map(|known| Some(format!("pool {}: {}\n", known.name, why(&known.name)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::metrics_http_message::HEAD_MAX;
    use super::super::{Config, Engine, Options, StateDir};
    use super::*;
    use crate::base::rt::{RealDisk, RealRuntime};

    /// What comes back for these bytes.
    async fn ask(state: &Weak<EngineState>, request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let own = "127.0.0.1:9420".parse().unwrap();
        let serving = async { answer(server, &own, state).await };
        let asking = async {
            client.write_all(request).await.unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).await.unwrap();
            reply
        };
        futures::join!(serving, asking).1
    }

    async fn get(state: &Weak<EngineState>, host: &str, path: &str) -> String {
        ask(state, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn whatever_is_asked_is_answered() {
        for request in
            [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], b"\r\n\r\n", b"\xff\xfe\r\n\r\n", &[b'x'; HEAD_MAX]]
        {
            let reply = ask(&Weak::new(), request).await;
            assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
            assert!(reply.ends_with("\r\n\r\nthe daemon is shutting down\n"), "{reply}");
        }
        assert!(ask(&Weak::new(), b"HEAD / HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_page_and_its_answers_are_for_those_who_know_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let home = StateDir::at(dir.path().join("home"));
        std::fs::create_dir_all(home.root()).unwrap();
        let options = Options { memory: 64 << 20, ..Options::default() };
        let engine = Engine::start(rt, disk, home, Config::default(), options).await.unwrap();
        let state = Arc::downgrade(engine.state());

        let page = get(&state, "localhost:9420", "/").await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("</html>\n"), "{page}");
        assert!(page.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{page}");
        let status = get(&state, "127.0.0.1:9420", "/api/status").await;
        let body: Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["value"]["pools"], serde_json::json!([]), "{status}");
        for path in ["/", "/api/status"] {
            assert!(get(&state, "evil.example", path).await.starts_with("HTTP/1.1 403 "));
        }
        assert!(get(&state, "evil.example", "/metrics").await.starts_with("HTTP/1.1 200 "));
        for (path, status) in [
            ("/api/none", "404 "),
            ("/none", "404 "),
            ("/api/volumes", "404 "),
            ("/api/volumes?pool=p", "503 "),
            ("/api/snapshots?volume=p/v", "503 "),
        ] {
            let reply = get(&state, "localhost", path).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {reply}");
        }
        // Ready when it is known what is served, and that is there; others may be closed.
        assert!(get(&state, "localhost", "/readyz").await.ends_with("the daemon is starting\n"));
        *engine.state().served.lock() = Some(BTreeSet::new());
        assert!(get(&state, "localhost", "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(&state, b"POST /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.contains(" 405 "));
        engine.shutdown().await.unwrap();
    }
}
