//! The metrics' door: as much of HTTP as a scraper speaks. One request a connection; what is asked is read only as far as
//! its limit, and who is slow is sent away. Beside the metrics it tells whether the daemon is alive (`/healthz`) and
//! whether all that it serves can be used (`/readyz`).

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::engine_tables::EngineState;
use super::metrics;
use crate::base::rt::Rt;
use crate::base::{Budget, Name, Result};
use crate::nbd::{Address, Listener, Socket};

const OK: &str = "200 OK";
const UNAVAILABLE: &str = "503 Service Unavailable";
const TEXT: &str = "text/plain; charset=utf-8";

/// Longest request head that is read, in bytes.
const HEAD_MAX: usize = 8 << 10;
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
    let (listener, bound) = Listener::bind(address).await?;
    let (rt2, clients) = (rt.clone(), Budget::new(CLIENTS_MAX * CLIENT));
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
            let (rt, state) = (rt2.clone(), state.clone());
            rt2.spawn(async move {
                let _held = held;
                let served = async {
                    match socket {
                        Socket::Tcp(stream) => answer(stream, &state).await,
                        Socket::Unix(stream) => answer(stream, &state).await,
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

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &Weak<EngineState>) -> Result<()> {
    let head = read_head(&mut stream).await?;
    let mut words = head.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let (status, media, body) = match (method, path, state.upgrade()) {
        (_, _, None) => (UNAVAILABLE, TEXT, "the daemon is shutting down\n".to_owned()),
        (b"GET" | b"HEAD", b"/metrics", Some(state)) => (OK, metrics::MEDIA_TYPE, metrics::page(&state)),
        (b"GET" | b"HEAD", b"/healthz", _) => (OK, TEXT, "alive\n".to_owned()),
        (b"GET" | b"HEAD", b"/readyz", Some(state)) => match unready(&state) {
            why if why.is_empty() => (OK, TEXT, "ready\n".to_owned()),
            why => (UNAVAILABLE, TEXT, why.concat()),
        },
        (b"GET" | b"HEAD", b"/", _) => (OK, TEXT, "windlass: see /metrics, /healthz, /readyz\n".to_owned()),
        (b"GET" | b"HEAD", ..) => ("404 Not Found", TEXT, "see /metrics, /healthz, /readyz\n".to_owned()),
        _ => ("405 Method Not Allowed", TEXT, "only GET is understood\n".to_owned()),
    };
    let len = body.len();
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    if method != b"HEAD" {
        reply.push_str(&body);
    }
    stream.write_all(reply.as_bytes()).await?;
    Ok(stream.shutdown().await?)
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
    // One that is being destroyed is not to be served.
    let served = state.pools.known().into_iter().filter(|known| known.destroying.is_none());
    served.filter_map(|known| Some(format!("pool {}: {}\n", known.name, why(&known.name)?))).collect()
}

/// Up to the empty line, the end or the limit: what counts is in the first line.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while head.len() < HEAD_MAX && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = stream.read(&mut part).await?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back for these bytes, with no engine behind.
    async fn ask(request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let serving = async { answer(server, &Weak::new()).await };
        let asking = async {
            client.write_all(request).await.unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).await.unwrap();
            reply
        };
        futures::join!(serving, asking).1
    }

    #[tokio::test]
    async fn whatever_is_asked_is_answered() {
        for request in
            [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], b"\r\n\r\n", b"\xff\xfe\r\n\r\n", &[b'x'; HEAD_MAX]]
        {
            let reply = ask(request).await;
            assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
            assert!(reply.ends_with("\r\n\r\nthe daemon is shutting down\n"), "{reply}");
        }
        assert!(ask(b"HEAD / HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
    }
}
