//! Connections to stores, and to whoever hands out keys: certificates, proxies, time-outs.

use std::net::IpAddr;
use std::time::Duration;

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;
use parking_lot::Mutex;

use super::header_text;

const LENGTH: &str = "content-length";
const IDLE: Duration = Duration::from_secs(60);
/// The most that an answer with text in it may have: a page of 1,000 names of 1 KiB, each byte escaped, is 7 MiB.
pub(super) const TEXT_MAX: usize = 32 << 20;

/// Chooses for each request whether it goes through the proxy that the environment names.
#[derive(Debug)]
struct Routed {
    direct: SharedHttpConnector,
    proxied: Option<SharedHttpConnector>,
    /// True where the environment names a proxy, for `https:` and for `http:`.
    named: [bool; 2],
}

impl HttpConnector for Routed {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let named = self.named[usize::from(!request.uri().starts_with("https:"))];
        let mut request = header_text::written(request);
        // Some servers (Ceph RGW) want to be told that there is no body.
        let bodiless = request.body().bytes().is_some_and(<[u8]>::is_empty);
        if bodiless && matches!(request.method(), "PUT" | "POST") && !request.headers().contains_key(LENGTH) {
            request.headers_mut().insert(LENGTH, "0");
        }
        let sent = match &self.proxied {
            Some(proxied) if named && !is_beside(request.uri()) => proxied.call(request),
            _ => self.direct.call(request),
        };
        HttpConnectorFuture::new(async move { sent.await.map(header_text::read) })
    }
}

/// The connector that the SDK sends by. The SDK collects answers whole before it reads them: one that has more than `TEXT_MAX`
/// bytes is an error, before it takes the memory.
#[derive(Debug)]
struct Bounded(SharedHttpConnector);

impl HttpConnector for Bounded {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        // An object is taken as it comes, by who knows how much of it was asked for.
        let is_object = request.uri().split(['?', '&']).any(|part| part == "x-id=GetObject");
        let sent = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = sent.await?;
            if is_object && answer.status().is_success() {
                return Ok(answer);
            }
            Ok(answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, TEXT_MAX))))
        })
    }
}

/// Tells whether an address is this host, or answers only on its own link, as clouds' services for keys do: whatever the
/// environment says, no proxy could reach that, and none is told its secrets.
fn is_beside(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<http::Uri>() else { return false };
    let host =
        uri.host().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
        // fd00:ec2::/32 is where EC2 and EKS hand out keys.
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0xec2]
        }
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Tells whether the environment names a proxy for `https:`, and for `http:`. `NO_PROXY` is the connector's to read.
fn named() -> [bool; 2] {
    let value = |name: &str| {
        let found =
            [name.to_owned(), name.to_lowercase()].into_iter().find_map(|name| std::env::var(name).ok());
        found.filter(|value| !value.is_empty())
    };
    ["HTTPS_PROXY", "HTTP_PROXY"].map(|name| match value(name).or_else(|| value("ALL_PROXY")) {
        Some(proxy) if proxy.starts_with("socks") => {
            tracing::warn!("{name} or ALL_PROXY names a SOCKS proxy, which is not spoken: none is used");
            false
        }
        proxy => proxy.is_some(),
    })
}

/// Tells whether requests to this place go through the proxy that the environment names.
pub(super) fn is_proxied(uri: &str) -> bool {
    named()[usize::from(!uri.starts_with("https:"))] && !is_beside(uri)
}

/// Answers with one address, whatever the name.
#[derive(Clone, Debug)]
struct Only(IpAddr);

impl ResolveDns for Only {
    fn resolve_dns<'a>(&'a self, _: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(Ok(vec![self.0]))
    }
}

/// Makes a connector that sends requests to one address, whichever name they are for. It goes through no proxy.
pub(super) fn pinned(
    settings: &HttpConnectorSettings,
    tls: &TlsContext,
    address: IpAddr,
) -> SharedHttpConnector {
    made(settings, tls, ProxyConfig::disabled(), Some(Only(address)))
}

fn made(
    settings: &HttpConnectorSettings,
    tls: &TlsContext,
    proxy: ProxyConfig,
    only: Option<Only>,
) -> SharedHttpConnector {
    let builder = Connector::builder()
        .connector_settings(settings.clone())
        .pool_idle_timeout(IDLE)
        .proxy_config(proxy)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls.clone());
    SharedHttpConnector::new(match only {
        Some(only) => builder.build_with_resolver(only),
        None => builder.build(),
    })
}

fn connector(settings: &HttpConnectorSettings, tls: &TlsContext) -> SharedHttpConnector {
    let through = |proxy| made(settings, tls, proxy, None);
    let named = named();
    let proxied = named.contains(&true).then(|| through(ProxyConfig::from_env()));
    SharedHttpConnector::new(Routed { direct: through(ProxyConfig::disabled()), proxied, named })
}

type Patience = (Option<Duration>, Option<Duration>);

fn patience(settings: &HttpConnectorSettings) -> Patience {
    (settings.connect_timeout(), settings.read_timeout())
}

/// Makes a connector with these time-outs, and the SDK's client, which uses it too.
pub(super) fn client(
    settings: &HttpConnectorSettings,
    tls: TlsContext,
) -> (SharedHttpConnector, SharedHttpClient) {
    let ours = connector(settings, &tls);
    let bounded = |connector| SharedHttpConnector::new(Bounded(connector));
    // Who asks for keys is of another patience.
    let made: Mutex<Vec<(Patience, SharedHttpConnector)>> =
        Mutex::new(vec![(patience(settings), bounded(ours.clone()))]);
    let http = http_client_fn(move |asked, _| {
        let mut made = made.lock();
        let patience = patience(asked);
        if let Some((_, connector)) = made.iter().find(|(its, _)| *its == patience) {
            return connector.clone();
        }
        let new = bounded(connector(asked, &tls));
        made.push((patience, new.clone()));
        new
    });
    (ours, http)
}

#[cfg(test)]
mod tests {
    // A server of the test's own.
    #![allow(clippy::disallowed_types)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_sdk_s3::config::retry::RetryConfig;
    use aws_sdk_s3::config::{BehaviorVersion, Region};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use windlass_base::rt::{RealRuntime, Rt};

    const HUGE: usize = 3 * TEXT_MAX;

    /// Answers with `HUGE` bytes whatever it is asked, and counts those that are taken.
    async fn answer(mut client: TcpStream, taken: Arc<AtomicUsize>) {
        let _ = client.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {HUGE}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b' '; 1 << 20];
        for _ in 0..HUGE / piece.len() {
            if client.write_all(&piece).await.is_err() {
                return;
            }
            taken.fetch_add(piece.len(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn no_answer_of_text_takes_more_memory_than_is_allowed() {
        let rt = Rt::new(RealRuntime::current());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let (rt2, counts) = (rt.clone(), taken.clone());
        rt.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                rt2.spawn(answer(client, counts.clone())).detach();
            }
        })
        .detach();
        let settings = HttpConnectorSettings::builder().build();
        let (_, http) = client(&settings, TlsContext::default());
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new("r"))
            .endpoint_url(at)
            .force_path_style(true)
            .allow_no_auth()
            .retry_config(RetryConfig::disabled())
            .build();
        let s3 = aws_sdk_s3::Client::from_conf(config);
        s3.list_object_versions().bucket("b").send().await.unwrap_err();
        s3.list_multipart_uploads().bucket("b").send().await.unwrap_err();
        let taken = taken.load(Ordering::Relaxed);
        // What is in the sockets' buffers was not taken by anybody.
        assert!(taken < 2 * (TEXT_MAX + (16 << 20)), "{taken}");
        let object = s3.get_object().bucket("b").key("k").send().await.unwrap();
        assert_eq!(object.body.collect().await.unwrap().into_bytes().len(), HUGE);
    }

    #[test]
    fn what_is_beside_us_needs_no_proxy() {
        for here in [
            "http://localhost:1/b/k",
            "http://LOCALHOST",
            "http://b.localhost.:9000",
            "http://127.0.0.1:9000",
            "https://[::1]:9000",
            "http://169.254.169.254/latest",
            "http://[fd00:ec2::254]/latest",
            "http://[fe80::1]",
        ] {
            assert!(is_beside(here), "{here}");
        }
        for there in [
            "http://localhost.example",
            "http://10.0.0.1",
            "https://[fd00::1]",
            "https://s3.example",
            "no",
            "",
        ] {
            assert!(!is_beside(there), "{there}");
        }
    }
}
