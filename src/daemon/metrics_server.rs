//! The metrics address: what it answers and to whom. Who is slow is sent away. Beside the metrics it tells whether the
//! daemon is alive (`/healthz`), whether all that it serves can be used (`/readyz`), and has a page for people (`/`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::engine_tables::EngineState;
use super::metrics_http_message::{
    BAD_METHOD, FORBIDDEN, NOT_FOUND, OK, Reply, Request, TEXT, UNAUTHORIZED, UNAVAILABLE,
};
use super::metrics_users::MetricsUsers;
use super::{metrics, page};
use windlass_base::rt::Rt;
use windlass_base::{Budget, Error, Kind, Name, Result};
use windlass_nbd::{Address, Listener, Socket};

/// Longest time that one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most answers that are under way at once; further requests wait.
const ANSWERS_MAX: u64 = 16;
/// Size of one answer in the budget that counts them.
const ANSWER: u64 = 1024;
/// Most clients that may be connected without having sent their request. When one more comes, the one that has been
/// at it longest is sent away: who asks at once must never wait for those who don't.
const READING_MAX: usize = 256;

/// Listens until `stop`. Returns the address with the port that was chosen. A password is asked for if there are
/// `users`.
pub async fn serve(
    rt: &Rt,
    address: &Address,
    state: Weak<EngineState>,
    users: Option<Arc<MetricsUsers>>,
    stop: CancellationToken,
) -> Result<Address> {
    let (listener, bound) = Listener::bind(address, None).await?;
    let (rt2, answers) = (rt.clone(), Budget::new(ANSWERS_MAX * ANSWER));
    let own = bound.clone();
    rt.spawn(async move {
        let mut reading = Reading::default();
        loop {
            let accepted = futures::select_biased! {
                () = stop.cancelled().fuse() => return,
                accepted = listener.accept().fuse() => accepted,
            };
            let Ok((socket, _)) = accepted else {
                rt2.sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (rt, turn) = (rt2.clone(), reading.admit());
            let listening = Listening {
                own: own.clone(),
                state: state.clone(),
                users: users.clone(),
                answers: answers.clone(),
            };
            rt2.spawn(async move {
                let served = async {
                    match socket {
                        Socket::Tcp(stream) => listening.answer(stream, turn).await,
                        Socket::Unix(stream) => listening.answer(stream, turn).await,
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

/// Clients whose request is being read, the oldest first. A token that is cancelled says that the client has sent the
/// request, is gone, or is to go.
#[derive(Debug, Default)]
struct Reading(VecDeque<CancellationToken>);

impl Reading {
    /// Lets one more client send its request, if need be in the place of the oldest.
    fn admit(&mut self) -> CancellationToken {
        self.0.retain(|turn| !turn.is_cancelled());
        if self.0.len() >= READING_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.cancel();
        }
        let turn = CancellationToken::new();
        self.0.push_back(turn.clone());
        turn
    }
}

/// Everything that a connection needs to be answered.
struct Listening {
    own: Address,
    state: Weak<EngineState>,
    users: Option<Arc<MetricsUsers>>,
    answers: Budget,
}

impl Listening {
    /// Answers one connection. `turn` is cancelled when the request is read; whoever cancels it before sends the
    /// client away.
    async fn answer(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        turn: CancellationToken,
    ) -> Result<()> {
        let request = {
            let _ends = turn.clone().drop_guard();
            let sent_away = || Error::new(Kind::Closed, "a client was slow, and others came");
            let read = turn.run_until_cancelled(Request::read(&mut stream)).await;
            read.unwrap_or_else(|| Err(sent_away()))?
        };
        // Before a place among the answers is taken: passwords are tried in turn, and who guesses keeps nobody else waiting.
        let refused = self.refused(&request).await;
        // Whether the daemon is alive is told whatever others ask for: that answer is short, and nobody can hold it up.
        let _held = match request.path.as_str() {
            "/healthz" => None,
            _ => Some(self.answers.take(ANSWER).await),
        };
        let reply = match refused {
            Some(refused) => refused,
            None => match self.state.upgrade() {
                Some(state) => reply(&request, &self.own, &state).await,
                None => Reply::new(UNAVAILABLE, TEXT, "the daemon is shutting down\n"),
            },
        };
        reply.send(&mut stream, request.method != "HEAD").await
    }

    /// Returns the answer for a client that may not read, or `None` if it may. Anybody may know that the daemon is
    /// alive.
    async fn refused(&self, request: &Request) -> Option<Reply> {
        let users = self.users.as_ref().filter(|_| request.path != "/healthz")?;
        match users.admits(request.authorization()).await {
            Ok(true) => None,
            Ok(false) => {
                let mut reply = Reply::new(UNAUTHORIZED, TEXT, "a name and its password are asked for\n");
                reply.headers =
                    "WWW-Authenticate: Basic realm=\"windlass\", charset=\"UTF-8\"\r\n".to_owned();
                Some(reply)
            }
            Err(error) => {
                tracing::warn!(%error, "nobody is let in to metrics and the page");
                Some(Reply::new(UNAVAILABLE, TEXT, "the file of users can't be read: see the daemon's log\n"))
            }
        }
    }
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

/// Returns a line for each pool that can't be used in full now: it isn't open, or can store or decide nothing.
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
    use tokio::net::UnixStream;

    use super::super::metrics_http_message::HEAD_MAX;
    use super::super::{Config, Engine, Options, StateDir};
    use super::*;
    use windlass_base::rt::{RealDisk, RealRuntime};

    /// Returns what is answered to these bytes.
    async fn ask(state: &Weak<EngineState>, request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let own = "127.0.0.1:9420".parse().unwrap();
        let listening =
            Listening { own, state: state.clone(), users: None, answers: Budget::new(ANSWERS_MAX * ANSWER) };
        let serving = async { listening.answer(server, CancellationToken::new()).await };
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

    #[tokio::test]
    async fn who_sends_half_a_request_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, path) = (Rt::new(RealRuntime::current()), dir.path().join("m.sock"));
        let stop = CancellationToken::new();
        serve(&rt, &Address::Unix(path.clone()), Weak::new(), None, stop.clone()).await.unwrap();
        let mut halves = Vec::new();
        for _ in 0..READING_MAX + 10 {
            let mut half = UnixStream::connect(&path).await.unwrap();
            half.write_all(b"GET /heal").await.unwrap();
            halves.push(half);
        }
        let asked = async {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            reply
        };
        // Sooner than any of the others is sent away for taking too long.
        let reply = rt.timeout(PATIENCE / 2, asked).await.expect("an answer beside half requests");
        assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
        // The first ones had to go, so that the number of connections has a bound.
        let mut rest = Vec::new();
        let gone = rt.timeout(PATIENCE / 2, halves[0].read_to_end(&mut rest)).await;
        assert!(gone.is_some_and(|read| read.is_ok() && rest.is_empty()));
        stop.cancel();
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
