//! Answers of S3 servers, as they come behind HTTP: what is judged of them, and that nothing is taken for an answer that is
//! not one to what was asked.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use futures::executor::block_on;
use parking_lot::Mutex;

use super::connect::connect;
use super::fast_path::{DirectClient, Endpoint};
use super::passwd_file::chosen;
use super::{S3Place, S3Store};
use crate::{BucketRef, ByteRange, Cause, List, When};
use windlass_base::Result;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_fuzz::{choice, texts};

pub fn passwd_file(text: &str) {
    let _ = chosen(Path::new("keys"), text, "bucket");
}

/// A server that gives the answer which was put there, whatever it is asked.
#[derive(Clone, Debug, Default)]
struct Canned(Arc<Mutex<Option<Answer>>>);

/// Status, and headers with the body.
type Answer = (u16, Vec<u8>);

impl HttpConnector for Canned {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let (status, bytes) = self.0.lock().clone().unwrap_or((500, Vec::new()));
        let status = StatusCode::try_from(status).expect("one of a list of good ones");
        let (mut head, mut rest) = (Vec::new(), &bytes[..]);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            rest = behind;
            let Some(at) = line.iter().position(|b| *b == b':') else { break };
            if let (Ok(name), Ok(value)) =
                (std::str::from_utf8(&line[..at]), std::str::from_utf8(&line[at + 1..]))
            {
                head.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let mut answer = HttpResponse::new(status, SdkBody::from(rest.to_vec()));
        for (name, value) in head {
            // What is no header never gets through HTTP.
            let _ = answer.headers_mut().try_append(name, value);
        }
        HttpConnectorFuture::ready(Ok(answer))
    }
}

struct Server {
    canned: Canned,
    store: BucketRef,
    _runtime: tokio::runtime::Runtime,
}

fn server() -> Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let canned = Canned::default();
    let store = runtime.block_on(async {
        let rt = Rt::new(RealRuntime::current());
        let text = |text: &str| Some(text.to_owned());
        let (endpoint, region) = (text("http://127.0.0.1:1/"), text("us-east-1"));
        let (bucket, prefix) = ("bucket".to_owned(), "p".to_owned());
        let anonymous = Some(true);
        let place = S3Place { bucket, prefix, endpoint, region, anonymous, ..S3Place::default() };
        let mut connection = connect(&rt, &place, None).await?;
        let way = Endpoint {
            bucket: "bucket",
            region: "us-east-1",
            endpoint: place.endpoint.as_deref(),
            path_style: true,
            fips: false,
            dual_stack: false,
            payer: false,
            hides_payload: false,
            mends_clocks: true,
        };
        connection.direct = DirectClient::to(&rt, way, None, SharedHttpConnector::new(canned.clone())).await;
        assert!(connection.direct.is_some(), "listings and objects are asked for past the SDK");
        Ok::<_, windlass_base::Error>(S3Store::of(&rt, &place, connection))
    })?;
    Ok(Server { canned, store, _runtime: runtime })
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

const STATUS: [u16; 12] = [200, 206, 204, 404, 403, 412, 503, 301, 400, 409, 416, 500];

pub fn some_answers() -> Vec<Vec<u8>> {
    let listing = |verb: &str, more: &str| {
        format!(
            "{verb}\0content-type: application/xml\n\n<?xml version=\"1.0\"?><ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><Prefix>p/d</Prefix><KeyCount>1</KeyCount>\
             <MaxKeys>5</MaxKeys>{more}<Contents><Key>p/d/a</Key><LastModified>2026-01-31T10:22:33.000Z</LastModified>\
             <ETag>&quot;ab&quot;</ETag><Size>5</Size></Contents></ListBucketResult>"
        )
    };
    let object = "etag: \"ab\"\nlast-modified: Fri, 21 Nov 2026 00:00:00 GMT\ncontent-length: 5\n";
    texts(&[
        &listing("\0", "<IsTruncated>false</IsTruncated>"),
        &listing("\x01", "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
        &listing(
            "\0",
            "<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes><EncodingType>url</EncodingType>",
        ),
        &format!("\x02\0{object}x-amz-meta-mode: 33188\n\nhello"),
        &format!("\x03\x01{object}content-range: bytes 2-6/100\n\nhello"),
        &format!("\x04\x01{object}content-range: bytes 95-99/100\n\nhello"),
        &format!("\x05\0{object}x-amz-restore: ongoing-request=\"true\"\n\n"),
        "\x02\x03\n<Error><Code>NoSuchKey</Code><Message>no</Message><RequestId>1</RequestId></Error>",
        "\x05\x03\n",
        "\x06\0etag: \"ab\"\n\n",
        "\x06\x05\n<Error><Code>PreconditionFailed</Code></Error>",
    ])
}

/// Reads the data as a verb, a status, headers to an empty line and a body, and gives the store that answer.
pub fn answers(data: &[u8]) {
    let (verb, rest) = choice(data);
    let (status, rest) = choice(rest);
    SERVER.with_borrow_mut(|server| {
        let server = match server {
            Some(server) => server,
            none => none.insert(self::server().expect("a store that nothing was asked of")),
        };
        let status = STATUS[usize::from(status) % STATUS.len()];
        *server.canned.0.lock() = Some((status, rest.to_vec()));
        block_on(ask(&*server.store, verb));
    });
}

async fn ask(store: &dyn crate::Bucket, verb: u8) {
    let get = |range| store.get("k", range, Cause::Read);
    match verb % 7 {
        delimited @ 0..2 => {
            let list =
                List { prefix: "d".into(), after: Some("d".into()), delimited: delimited == 1, max: 5 };
            let Ok(page) = store.list(&list, Cause::Walk).await else { return };
            let names = || page.objects.iter().map(|o| &o.key).chain(&page.prefixes);
            assert!(names().all(|name| name.starts_with("d") && name.as_str() > "d"), "{page:?}");
            assert!(page.objects.is_sorted_by(|a, b| a.key <= b.key) && page.prefixes.is_sorted());
            assert!(page.next.is_none() || page.next != list.after);
        }
        2 => within(get(ByteRange::Whole { max: 64 }).await, 0, 64),
        3 => within(get(ByteRange::At { offset: 2, len: 5 }).await, 2, 5),
        4 => {
            if let Ok(Some(found)) = get(ByteRange::Last(5)).await {
                assert!(found.body.len() <= 5 && found.offset + found.body.len() as u64 == found.head.size);
            }
        }
        5 => drop(store.head("k", Cause::Read).await),
        _ => drop(store.put("k", "body".into(), When::Absent, Cause::Write).await),
    }
}

/// Checks that no other bytes came than were asked for, and not more.
fn within(found: Result<Option<crate::Found>>, offset: u64, len: usize) {
    if let Ok(Some(found)) = found {
        assert!(found.body.len() <= len && (found.offset == offset || found.body.is_empty()), "{found:?}");
    }
}
