//! Answers that are no answers of S3 to what was asked: a deleted bucket's, another server's, a proxy's page. None is
//! taken for "there is nothing".

use std::time::Duration;

use windlass_base::{Error, Kind, Result};
use windlass_store::{
    Attrs, BucketRef, ByteRange, Cause, Conditions, Etag, Heeds, List, Part, Put, VersionList, When,
    conditions, probe,
};

use super::rt;
use super::support::s3_server::{Fault, Quirks, Said, Server};
use super::support::stores::conformance::stored;

const WHY: Cause = Cause::File;
const HTML: (&str, &str) = ("content-type", "text/html");
const PAGE: &str = "<!DOCTYPE html><html><head><title>Hello</title></head><body>Nothing here</body></html>";
const XHTML: &str = "<html><head><title>Hello</title></head><body><p>Nothing here</p></body></html>";

/// A web server's answer that there is no such page.
static NO_PAGE: Said = Said { status: 404, headers: &[HTML], body: PAGE };
static NO_PAGE_AT_ALL: Said = Said { status: 404, headers: &[], body: "" };
/// A web server's page, the same for whatever is asked for.
static SOME_PAGE: Said =
    Said { status: 200, headers: &[HTML, ("etag", "\"61-abc\""), ("x-kept", "1")], body: PAGE };
static XML_PAGE: Said = Said { status: 200, headers: &[HTML], body: XHTML };
static EMPTY: Said = Said { status: 200, headers: &[], body: "" };
/// An answer of another service that speaks XML.
static OTHER_SERVICE: Said = Said {
    status: 404,
    headers: &[("content-type", "application/xml")],
    body: "<Error><Code>ResourceNotFound</Code><Message>no such resource</Message></Error>",
};

async fn normal() -> (Server, BucketRef) {
    let server = Server::start(Quirks::default()).await;
    let bucket = server.open(&rt(), "p").await;
    stored(bucket.put("k", "12345".into(), When::Always, WHY).await);
    stored(bucket.put("k", "12345".into(), When::Always, WHY).await);
    (server, bucket)
}

/// Waits until the bucket that was shown before is no longer believed.
#[allow(clippy::disallowed_methods)] // a real server's time
async fn later() {
    tokio::time::sleep(Duration::from_millis(1050)).await;
}

fn told(what: &str, e: &Error) {
    assert!(!matches!(e.kind(), Kind::NotFound | Kind::Refused | Kind::Exists), "{what}: {:?} {e}", e.kind());
}

fn no_answer<T: std::fmt::Debug>(what: &str, out: Result<T>) {
    match out {
        Ok(answer) => panic!("{what}: believed: {answer:?}"),
        Err(e) => told(what, &e),
    }
}

fn no_outcome(what: &str, out: Result<Put>) {
    match out {
        Ok(Put::Unknown(e)) | Err(e) => told(what, &e),
        Ok(put) => panic!("{what}: believed: {put:?}"),
    }
}

/// Tries every verb. `deletes` also tries one delete and giving up an upload; where it is false, such an
/// answer to them can't be told from S3's.
async fn nothing_is_believed(what: &str, bucket: &BucketRef, deletes: bool) {
    let say = |verb: &str| format!("{verb}, {what}");
    let list = List { prefix: "d/".into(), delimited: true, max: 10, ..List::default() };
    no_answer(&say("list"), bucket.list(&list, WHY).await);
    no_answer(&say("list all"), bucket.list(&List { max: 10, ..List::default() }, WHY).await);
    let versions = VersionList { prefix: "d/".into(), after: None, delimited: true, max: 3 };
    no_answer(&say("list versions"), bucket.list_versions(&versions, WHY).await);
    no_answer(&say("list uploads"), bucket.multipart_list("d/", WHY).await);
    for range in [ByteRange::Whole { max: 1000 }, ByteRange::At { offset: 1, len: 3 }, ByteRange::Last(2)] {
        no_answer(&say("get"), bucket.get("none", range, WHY).await);
        no_answer(&say("get version"), bucket.get_version("none", "v", range, WHY).await);
    }
    no_answer(&say("head"), bucket.head("none", WHY).await);
    no_answer(&say("head version"), bucket.head_version("none", Some("v"), false, WHY).await);
    let etag = Etag("0".repeat(32));
    for when in [When::Always, When::Absent, When::Matches(etag.clone())] {
        no_outcome(&say("put"), bucket.put("k", "x".into(), when.clone(), WHY).await);
        no_outcome(&say("copy"), bucket.copy("k", "c", None, None, when.clone(), WHY).await);
        let attrs = Attrs::default();
        no_outcome(
            &say("copy with"),
            bucket.copy("k", "c", Some(&etag), Some(&attrs), when.clone(), WHY).await,
        );
        let parts = [Part { number: 1, etag: etag.clone() }];
        no_outcome(&say("complete"), bucket.multipart_complete("m", "u", &parts, when, WHY).await);
    }
    no_answer(&say("create"), bucket.multipart_create("m", &Attrs::default(), WHY).await);
    no_answer(&say("part"), bucket.multipart_put("m", "u", 1, "x".into(), WHY).await);
    no_answer(&say("part copy"), bucket.multipart_copy("m", "u", 1, "k", None, 0, 3, WHY).await);
    if deletes {
        no_answer(&say("delete"), bucket.delete(&["k".into()], WHY).await);
        no_answer(&say("abort"), bucket.multipart_abort("m", "u", WHY).await);
    }
    no_answer(&say("delete many"), bucket.delete(&["k".into(), "l".into()], WHY).await);
}

/// Promise: An answer that is none of S3's to the request says nothing of what is in the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_of_s3_is_not_believed() {
    for (said, deletes) in [
        (&NO_PAGE, true),
        (&NO_PAGE_AT_ALL, true),
        (&XML_PAGE, false),
        (&EMPTY, false),
        (&OTHER_SERVICE, true),
    ] {
        let (server, bucket) = normal().await;
        later().await;
        server.faults.always(Some(Fault::Says(said)));
        nothing_is_believed(&format!("{} {:?}", said.status, said.body), &bucket, deletes).await;
        server.faults.always(None);
        assert!(bucket.head("none", WHY).await.unwrap().is_none());
    }
}

/// Promise: An answer that is none of S3's to the request says nothing of what is in the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_bucket_is_not_empty() {
    let (server, bucket) = normal().await;
    assert!(bucket.get("none", ByteRange::Last(1), WHY).await.unwrap().is_none());
    later().await;
    server.set_gone(true);
    nothing_is_believed("of a deleted bucket", &bucket, true).await;
    let e = bucket.list(&List { max: 10, ..List::default() }, WHY).await.unwrap_err();
    assert!(e.is(Kind::Unavailable) && e.to_string().contains("create the bucket"), "{e}");
    server.set_gone(false);
    assert!(bucket.list(&List { max: 10, ..List::default() }, WHY).await.unwrap().objects.is_empty());
}

/// A page with an etag is no object to a request for a part, and no listing; nor does it say that anything
/// was stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_an_etag_is_no_part_and_no_listing() {
    let (server, bucket) = normal().await;
    server.faults.always(Some(Fault::Says(&SOME_PAGE)));
    for range in
        [ByteRange::At { offset: 0, len: 1000 }, ByteRange::At { offset: 1, len: 2 }, ByteRange::Last(7)]
    {
        no_answer("part", bucket.get("k", range, WHY).await);
    }
    no_answer("list", bucket.list(&List { max: 10, ..List::default() }, WHY).await);
    no_outcome("put", bucket.put("k", "x".into(), When::Always, WHY).await);
    no_outcome("copy", bucket.copy("k", "c", None, None, When::Always, WHY).await);
    no_answer("delete", bucket.delete(&["k".into()], WHY).await);
    no_answer("part", bucket.multipart_put("m", "u", 1, "x".into(), WHY).await);
}

/// S3 gives each answer an id: a server that gave one once gives one always.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_the_servers_id_is_anothers() {
    const ID: (&str, &str) = ("x-amz-request-id", "1");
    static OBJECT: Said = Said { status: 200, headers: &[ID, ("etag", "\"e\"")], body: "ours" };
    static THEIRS: Said = Said { status: 200, headers: &[("etag", "\"f\"")], body: "theirs" };
    static GONE: Said = Said { status: 204, headers: &[ID], body: "" };
    static NOTHING: Said = Said { status: 204, headers: &[], body: "" };
    let (server, bucket) = normal().await;
    let whole = ByteRange::Whole { max: 100 };
    server.faults.next([Fault::Says(&OBJECT), Fault::Says(&THEIRS)]);
    assert_eq!(bucket.get("k", whole, WHY).await.unwrap().unwrap().body, "ours");
    no_answer("get", bucket.get("k", whole, WHY).await);
    server.faults.next([Fault::Says(&OBJECT), Fault::Says(&THEIRS)]);
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().etag.0, "e");
    no_answer("head", bucket.head("k", WHY).await);
    server.faults.next([Fault::Says(&GONE), Fault::Says(&NOTHING)]);
    bucket.delete(&["k".into()], WHY).await.unwrap();
    no_answer("delete", bucket.delete(&["k".into()], WHY).await);
}

/// SeaweedFS before 4.18 stores a marker and gives no etag. No other write may lack one.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_is_stored_without_an_etag() {
    const ID: (&str, &str) = ("x-amz-request-id", "1");
    static WITH_ID: Said = Said { status: 200, headers: &[ID], body: "" };
    let server = Server::start(Quirks { no_etag_of_markers: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    for when in [When::Absent, When::Always] {
        assert_eq!(stored(bucket.put("d/", "".into(), when, WHY).await).0, "");
    }
    assert!(matches!(bucket.put("d/", "".into(), When::Absent, WHY).await, Ok(Put::Refused)));
    assert_eq!(server.keys(), ["p/d/"]);
    assert_ne!(bucket.head("d/", WHY).await.unwrap().unwrap().etag.0, "");
    no_outcome("a marker with a body", bucket.put("d/", "x".into(), When::Always, WHY).await);
    server.faults.next([Fault::Says(&WITH_ID), Fault::Says(&EMPTY), Fault::Says(&WITH_ID)]);
    stored(bucket.put("e/", "".into(), When::Always, WHY).await);
    no_outcome("no id where there was one", bucket.put("e/", "".into(), When::Always, WHY).await);
    no_outcome("no marker", bucket.put("e", "".into(), When::Always, WHY).await);
}

/// A bare 404 to a HEAD costs a second request only where nothing has shown the bucket for a second.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_head_does_not_find_is_asked_for_again_by_a_get() {
    let (server, bucket) = normal().await;
    let asked = async |wait: bool| {
        if wait {
            later().await;
        }
        let before = server.faults.requests();
        assert!(bucket.head("none", WHY).await.unwrap().is_none());
        server.faults.requests() - before
    };
    bucket.list(&List { max: 10, ..List::default() }, WHY).await.unwrap();
    assert_eq!(asked(false).await, 1);
    assert_eq!(asked(true).await, 2);
    assert_eq!(asked(false).await, 1);
    // One server of several that share the address is another's: there is an object.
    later().await;
    server.faults.next([Fault::Says(&NO_PAGE_AT_ALL)]);
    let e = bucket.head("k", WHY).await.unwrap_err();
    assert!(e.is(Kind::Unavailable), "{e}");
    assert!(bucket.head("k", WHY).await.unwrap().is_some());
}

/// Listings of another bucket, of another prefix, without an end that can be reached.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_something_else_is_no_listing() {
    let page = |body: &str| {
        let body = format!("<ListBucketResult>{body}</ListBucketResult>").leak();
        Fault::Says(Box::leak(Box::new(Said { status: 200, headers: &[], body })))
    };
    let (server, bucket) = normal().await;
    let list = List { prefix: "d/".into(), delimited: true, max: 10, ..List::default() };
    server.faults.next([page("<Name>bucket</Name><Prefix>p/d/</Prefix><IsTruncated>false</IsTruncated>")]);
    assert!(bucket.list(&list, WHY).await.unwrap().objects.is_empty());
    server
        .faults
        .next([page("<Name>bucket</Name><Prefix>p%2Fd%2F</Prefix><EncodingType>url</EncodingType>")]);
    assert!(bucket.list(&list, WHY).await.unwrap().objects.is_empty());
    for body in [
        "",
        "<Name>other</Name><Prefix>p/d/</Prefix>",
        "<Prefix>p/d/</Prefix>",
        "<Name>bucket</Name>",
        "<Name>bucket</Name><Prefix>p/</Prefix>",
        "<Name>bucket</Name><Prefix>p/d/</Prefix><Contents><Key>p/e/f</Key><Size>1</Size></Contents>",
        "<Name>bucket</Name><Prefix>p/d/</Prefix><CommonPrefixes><Prefix>q/</Prefix></CommonPrefixes>",
        "<Name>bucket</Name><Prefix>p/d/</Prefix><IsTruncated>true</IsTruncated>",
    ] {
        server.faults.next([page(body)]);
        no_answer(body, bucket.list(&list, WHY).await);
    }
    let on = List { after: Some("\0token".into()), ..list };
    let again = "<Name>bucket</Name><Prefix>p/d/</Prefix><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>token</NextContinuationToken>";
    server.faults.next([page(again)]);
    no_answer("the same page for ever", bucket.list(&on, WHY).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_is_refused_by_name() {
    let server = Server::start(Quirks { ignores_ranges: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    let looks: [Result<()>; 2] = [
        probe(&rt(), &*bucket, "x/").await,
        conditions(&rt(), &*bucket, "").await.map(|found| assert_eq!(found, Conditions::all(Heeds::Yes))),
    ];
    for e in looks.map(Result::unwrap_err) {
        assert!(e.is(Kind::Refused) && e.to_string().contains(&server.endpoint), "{e}");
        assert!(e.to_string().contains("a part of an object"), "{e}");
    }
    assert_eq!(server.keys(), Vec::<String>::new());
}
