//! Traces sent to a collector by OTLP over HTTP, where windlass.toml names one.
//!
//! Spans wait in a queue of a fixed size, which a thread of its own empties: a collector that is slow, or away, loses spans
//! and holds up nobody.

use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};

use super::config::Config;
use super::state_dir::HostContext;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, trace};
use windlass_store::web_client;

/// Most spans that wait, and most in one request to the collector.
const QUEUE: usize = 8192;
const BATCH: usize = 512;
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time that the collector may take, with each request and at the end.
const PATIENCE: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(2);
/// Path at which collectors take traces.
const PATH: &str = "/v1/traces";

/// The sending of traces. See the module.
#[derive(Debug)]
pub struct Traces {
    rt: Rt,
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts the sending of traces. Returns `None` if nobody has asked for traces.
    pub fn start(host_context: &HostContext, config: &Config) -> Result<Option<Traces>> {
        let Some(collector) = &config.traces.collector else { return Ok(None) };
        let rt = &host_context.rt;
        let url = format!("{}{PATH}", collector.value.trim_end_matches('/').trim_end_matches(PATH));
        let client = Collector { rt: rt.clone(), connector: web_client()?, url: url.clone() };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.clone())
            .with_timeout(PATIENCE)
            .build()
            .map_err(|e| Error::new(Kind::Usage, format!("traces can't be sent to {url}")).because(e))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(PAUSE)
            .build();
        let about = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", host_context.host.id.to_string()),
            KeyValue::new("host.name", host_context.host.name.clone()),
        ];
        let share = config.traces.sample.as_ref().map_or(1.0, |sample| sample.value.0);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(Resource::builder().with_service_name("windlass").with_attributes(about).build())
            .build();
        trace::start(rt, provider.tracer("windlass"));
        tracing::info!("traces are sent to {url}");
        Ok(Some(Traces { rt: rt.clone(), provider }))
    }

    /// Ends the sending of traces. Spans that wait are sent if the collector takes them soon.
    pub async fn stop(self) {
        trace::stop();
        let provider = self.provider;
        // It waits for its thread.
        let ended = self.rt.cpu(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The way to the collector: as to stores, with this host's authorities and the proxy that the environment names.
#[derive(Debug)]
struct Collector {
    rt: Rt,
    connector: SharedHttpConnector,
    url: String,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> std::result::Result<http::Response<Bytes>, HttpError> {
        let (rt, connector) = (self.rt.clone(), self.connector.clone());
        // Whoever asks is a thread that has no runtime.
        let asked = self.rt.spawn(async move { rt.timeout(PATIENCE, ask(connector, request)).await }).await?;
        let answer = asked.unwrap_or_else(|| Err(format!("no answer within {PATIENCE:?}").into()));
        match &answer {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => {
                tracing::warn!("traces are lost: {} answers with status {}", self.url, answer.status())
            }
            Err(error) => tracing::warn!("traces are lost: {}: {error}", self.url),
        }
        answer
    }
}

async fn ask(
    connector: SharedHttpConnector,
    request: http::Request<Bytes>,
) -> std::result::Result<http::Response<Bytes>, HttpError> {
    let (head, body) = request.into_parts();
    let mut asks = HttpRequest::new(SdkBody::from(body));
    asks.set_method(head.method.as_str())?;
    asks.set_uri(head.uri.to_string())?;
    for (name, value) in &head.headers {
        asks.headers_mut().try_insert(name.as_str().to_owned(), value.to_str()?.to_owned())?;
    }
    let answer = connector.call(asks).await?;
    // What it says beside the status is of no use here.
    Ok(http::Response::builder().status(answer.status().as_u16()).body(Bytes::new())?)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use parking_lot::Mutex;
    use prost::Message as _;

    use super::*;
    use crate::daemon::io_tally::{IoRequest, IoTally, IoVerb};
    use crate::daemon::state_dir::StateDir;
    use windlass_base::rt::{RealDisk, RealRuntime};
    use windlass_store::{Cause, When};

    const ONE: Duration = Duration::from_secs(1);

    /// Takes traces as a collector does, and answers if `answers`; else it only reads.
    async fn collector(rt: &Rt, answers: bool) -> (String, Arc<Mutex<Vec<Span>>>) {
        #[allow(clippy::disallowed_types)] // a server of the test's own
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (seen, rt2) = (spans.clone(), rt.clone());
        rt.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let seen = seen.clone();
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await?.to_bytes();
                        let sent = ExportTraceServiceRequest::decode(body).expect("it is what it says");
                        for resource in sent.resource_spans {
                            let about = resource.resource.expect("it says whose they are").attributes;
                            assert!(about.iter().any(|fact| fact.key == "service.name"));
                            seen.lock()
                                .extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                        }
                        if !answers {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, hyper::Error>(http::Response::new(Empty::<Bytes>::new()))
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                rt2.spawn(async move { drop(serving.serve_connection(TokioIo::new(socket), service).await) })
                    .detach();
            }
        })
        .detach();
        (format!("http://{address}"), spans)
    }

    fn fact<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
        let value = span.attributes.iter().find(|fact| fact.key == name)?.value.as_ref()?.value.as_ref()?;
        match value {
            Value::StringValue(text) => Some(text),
            _ => None,
        }
    }

    async fn begin(rt: &Rt, dir: &std::path::Path, endpoint: &str, sample: &str) -> Traces {
        let (disk, home) = (RealDisk::start(), StateDir::at(dir));
        let host = home.host(rt, &*disk).await.unwrap();
        let host_context = HostContext { rt: rt.clone(), disk, home, host };
        let text = format!("[traces]\ncollector = \"{endpoint}\"\nsample = \"{sample}\"\n");
        let config = Config::parse(&text).unwrap();
        Traces::start(&host_context, &config).unwrap().expect("an endpoint is named")
    }

    /// A process has one tracer, so all is one test. Other tests of the process make spans meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_to_stores_are_told_below_the_clients_request() {
        let rt = Rt::new(RealRuntime::current());
        let dir = tempfile::tempdir().unwrap();
        let (endpoint, spans) = collector(&rt, true).await;
        let folder = dir.path().join("store");
        std::fs::create_dir(&folder).unwrap();
        let url = format!("file://{}", folder.display());
        let bucket = windlass_store::open(&rt, &url.parse().unwrap()).await.unwrap();
        let write = async |key: &str| {
            bucket.put(key, Bytes::from_static(b"x"), When::Always, Cause::Write).await.unwrap();
            Ok(())
        };
        let (tally, volume) = (IoTally::default(), format!("p/{}", rt.random()));
        let request = |volume| IoRequest { volume, verb: IoVerb::Write, offset: 4096, bytes: 1 };
        let _ = tally.counted(&rt, request(&volume), pin!(write("off"))).await;
        let traces = begin(&rt, dir.path(), &endpoint, "100%").await;
        tally.counted(&rt, request(&volume), pin!(write("mine"))).await.unwrap();
        write("background").await.unwrap();
        let fails = async { Err::<(), _>(Error::new(Kind::Io, "it broke")) };
        tally.counted(&rt, request(&volume), pin!(fails)).await.unwrap_err();
        traces.stop().await;
        let told = std::mem::take(&mut *spans.lock());
        let of_store = |key: &str| {
            told.iter().find(|span| fact(span, "key") == Some(key) && fact(span, "store") == Some(&url))
        };
        let asked: Vec<&Span> = told.iter().filter(|span| fact(span, "volume") == Some(&volume)).collect();
        let [done, failed] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(
            (done.name.as_str(), done.kind, done.status.as_ref().map_or(0, |s| s.code)),
            ("nbd write", 2, 0)
        );
        let status = failed.status.as_ref().unwrap();
        assert!(status.code == 2 && status.message.contains("it broke"), "{status:?}");
        let mine = of_store("mine").unwrap();
        assert_eq!((&mine.trace_id, &mine.parent_span_id), (&done.trace_id, &done.span_id));
        assert_eq!((mine.name.as_str(), mine.kind), ("store put", 3));
        assert_eq!((fact(mine, "cause"), fact(mine, "outcome")), (Some("write"), Some("Done")));
        assert!(
            done.start_time_unix_nano <= mine.start_time_unix_nano
                && mine.end_time_unix_nano <= done.end_time_unix_nano
        );
        assert!(mine.start_time_unix_nano / 1_000_000_000 >= rt.wall_ms() / 1000 - 60);
        let background = of_store("background").unwrap();
        assert!(background.parent_span_id.is_empty() && background.trace_id != done.trace_id);
        assert!(of_store("off").is_none(), "none is made before somebody asks");

        // Of one in a million nothing comes, and what was left out has no children that stand alone.
        let traces = begin(&rt, dir.path(), &endpoint, "0.0001%").await;
        for _ in 0..100 {
            tally.counted(&rt, request(&volume), pin!(write("left-out"))).await.unwrap();
        }
        traces.stop().await;
        assert!(spans.lock().iter().filter(|span| fact(span, "key") == Some("left-out")).count() < 3);

        // One that never answers holds nobody up, and the queue is bounded.
        let (silent, seen) = collector(&rt, false).await;
        let traces = begin(&rt, dir.path(), &silent, "100%").await;
        let began = rt.now();
        for _ in 0..3 * QUEUE {
            tally.counted(&rt, request(&volume), pin!(async { Ok(()) })).await.unwrap();
        }
        assert!(rt.now().since(began) < 5 * ONE, "{:?}", rt.now().since(began));
        rt.timeout(5 * ONE, async {
            while seen.lock().is_empty() {
                rt.sleep(ONE / 50).await;
            }
        })
        .await
        .expect("some are sent");
        let ending = rt.now();
        traces.stop().await;
        assert!(rt.now().since(ending) < LAST + 3 * ONE, "{:?}", rt.now().since(ending));
        assert!(seen.lock().len() <= 2 * BATCH, "{}", seen.lock().len());
    }
}
