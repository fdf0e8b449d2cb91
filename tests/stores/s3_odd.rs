//! Servers that answer legally but oddly: what an answer lacks is asked for in another way, or is an error; what a server
//! can't do is done otherwise. Nothing that is unknown is taken for its most convenient value.

use std::collections::BTreeMap;

use windlass_base::Kind;
use windlass_store::{self as store, Attrs, BucketRef, ByteRange, Carried, Cause, List, When, probe};

use super::rt;
use super::support::s3_server::{Fault, Quirks, Refusal, Said, Server};
use super::support::stores::conformance::{Suite, refused, stored};

const WHY: Cause = Cause::File;

async fn odd(quirks: Quirks) -> (Server, BucketRef) {
    let server = Server::start(quirks).await;
    let bucket = server.open(&rt(), "p").await;
    (server, bucket)
}

async fn conforms(quirks: Quirks) {
    let (_server, bucket) = odd(quirks).await;
    Suite { rt: rt(), bucket, prefix: "q/".into(), exact: true }.run().await;
}

/// Promise: A fact that an answer of the store lacks is asked for in another way.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_lengths_are_no_empty_objects() {
    let quirks = Quirks { no_lengths: true, ..Quirks::default() };
    let (_server, bucket) = odd(quirks).await;
    stored(bucket.put("k", vec![b'x'; 5000].into(), When::Always, WHY).await);
    stored(bucket.put("empty", "".into(), When::Always, WHY).await);
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().size, 5000);
    assert_eq!(bucket.head("empty", WHY).await.unwrap().unwrap().size, 0);
    let whole = bucket.get("k", ByteRange::Whole { max: 5000 }, WHY).await.unwrap().unwrap();
    assert_eq!((whole.body.len(), whole.head.size), (5000, 5000));
    let large = bucket.get("k", ByteRange::Whole { max: 4999 }, WHY).await;
    assert_eq!(large.unwrap_err().kind(), Kind::Invalid);
    for range in [ByteRange::Whole { max: 9 }, ByteRange::At { offset: 0, len: 9 }, ByteRange::Last(9)] {
        let none = bucket.get("empty", range, WHY).await.unwrap().unwrap();
        assert_eq!((none.body.len(), none.head.size), (0, 0), "{range:?}");
    }
    conforms(quirks).await;
    // Not even parts tell: the listing does.
    let quirks = Quirks { ignores_ranges: true, ..quirks };
    let (_server, bucket) = odd(quirks).await;
    stored(bucket.put("k", vec![b'x'; 5000].into(), When::Always, WHY).await);
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().size, 5000);
    let part = bucket.get("k", ByteRange::At { offset: 0, len: 9 }, WHY).await;
    assert_eq!(part.unwrap_err().kind(), Kind::Unsupported);
}

/// Promise: A fact that an answer of the store lacks is asked for in another way.
#[tokio::test(flavor = "multi_thread")]
async fn listings_that_lack_facts_are_made_up_for() {
    let (_server, bucket) = odd(Quirks { lists_names_only: true, ..Quirks::default() }).await;
    let etag = stored(bucket.put("d/k", "12345".into(), When::Always, WHY).await);
    let page = bucket.list(&List { max: 9, ..List::default() }, WHY).await.unwrap();
    let told: Vec<_> = page.objects.iter().map(|o| (o.key.as_str(), o.size, o.etag.clone())).collect();
    assert_eq!(told, [("d/k", 5, etag)]);
    conforms(Quirks { no_truncation_told: true, ..Quirks::default() }).await;
    let (_server, bucket) = odd(Quirks { no_times: true, ..Quirks::default() }).await;
    stored(bucket.put("k", "x".into(), When::Always, WHY).await);
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().modified_ms, None);
    let page = bucket.list(&List { max: 9, ..List::default() }, WHY).await.unwrap();
    assert_eq!(page.objects[0].modified_ms, None);
}

/// Promise: A page without names is not the end of a listing.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_page_without_names_is_not_the_end() {
    let quirks = Quirks { empty_first_pages: true, ..Quirks::default() };
    let (_server, bucket) = odd(quirks).await;
    stored(bucket.put("d/k", "x".into(), When::Always, WHY).await);
    let list = List { prefix: "d/".into(), max: 1, ..List::default() };
    let first = bucket.list(&list, WHY).await.unwrap();
    assert!(first.is_empty() && first.next.is_some());
    assert_eq!(bucket.list_some(&list, WHY).await.unwrap().objects.len(), 1);
    let none = List { prefix: "e/".into(), max: 1, ..List::default() };
    assert!(bucket.list_some(&none, WHY).await.unwrap().is_empty());
    conforms(quirks).await;
}

fn described() -> Attrs {
    let headers = [
        ("cache-control", "no-store"),
        ("content-disposition", "attachment"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("expires", "Fri, 21 Dec 2040 00:00:00 GMT"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Attrs {
        content_type: Some("text/x".into()),
        user: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
        carried: Carried { headers, storage_class: Some("STANDARD_IA".into()), may_have_tags: true },
    }
}

/// Returns what an object carries now, and its tags, as far as the server tells.
async fn carried(server: &Server, bucket: &BucketRef, key: &str) -> (Attrs, Option<String>) {
    let attrs = bucket.head(key, WHY).await.unwrap().unwrap().attrs;
    (attrs, server.tags(&format!("p/{key}")))
}

/// Promise: An edit keeps what other programs need of an object.
#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_replacing_an_object_carries_the_same() {
    for (quirks, more) in [
        (Quirks::default(), false),
        (Quirks { tells_tags: true, ..Quirks::default() }, true),
        (Quirks { no_copies: Some((501, "NotImplemented")), ..Quirks::default() }, false),
        (Quirks { no_tags: true, ..Quirks::default() }, false),
    ] {
        let (server, bucket) = odd(quirks).await;
        let first = described();
        stored(bucket.put_with("k", "1".into(), &first, When::Absent, WHY).await);
        let tags = (!quirks.no_tags).then(|| "color=red&x=a%20b".to_owned());
        server.set_tags("p/k", tags.clone());
        let attrs = bucket.head("k", WHY).await.unwrap().unwrap().attrs;
        assert_eq!(attrs.carried.headers, first.carried.headers, "{quirks:?}");
        let same = async |way: &str, key: &str| {
            let (now, its_tags) = carried(&server, &bucket, key).await;
            let expected = Attrs {
                carried: Carried { may_have_tags: now.carried.may_have_tags, ..first.carried.clone() },
                ..first.clone()
            };
            assert_eq!(now, expected, "{way}, {quirks:?}");
            assert_eq!(its_tags, tags, "{way}, {quirks:?}");
        };
        let etag = bucket.head("k", WHY).await.unwrap().unwrap().etag;
        let etag = stored(bucket.put_with("k", "12".into(), &attrs, When::Matches(etag), WHY).await);
        same("put", "k").await;
        let upload = bucket.multipart_create("k", &attrs, WHY).await.unwrap();
        let part = bucket.multipart_put("k", &upload, 1, "123".into(), WHY).await.unwrap();
        let when = When::Matches(etag);
        let etag = stored(bucket.multipart_complete("k", &upload, &[part], when, WHY).await);
        same("upload", "k").await;
        let copied = bucket.copy("k", "k", Some(&etag), Some(&attrs), When::Matches(etag.clone()), WHY).await;
        stored(copied);
        same("copy onto itself", "k").await;
        stored(bucket.copy("k", "l", None, None, When::Absent, WHY).await);
        same("copy", "l").await;
        if more {
            // Who tells how many tags there are is not asked where there are none.
            stored(bucket.put("n", "1".into(), When::Always, WHY).await);
            let attrs = bucket.head("n", WHY).await.unwrap().unwrap().attrs;
            let before = server.faults.requests();
            stored(bucket.put_with("n", "2".into(), &attrs, When::Always, WHY).await);
            assert_eq!(server.faults.requests() - before, 1);
        }
    }
}

/// A date that is none is sent back as it was.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_the_sdk_cannot_read_are_sent_back_as_they_were() {
    let attrs =
        Attrs { user: BTreeMap::from([("name".to_owned(), "\u{fc}".to_owned())]), ..Attrs::default() };
    let odd = super::raw_server::RawServer::start().await;
    let bucket = odd.open(&rt()).await;
    odd.put(
        "k",
        b"12345",
        &[
            ("x-amz-meta-latin", b"caf\xe9"),
            ("x-amz-meta-utf8", "caf\u{e9}".as_bytes()),
            ("content-disposition", b"attachment; filename=\xe9"),
            ("expires", b"-1"),
        ],
    );
    let before = odd.headers("k");
    let head = bucket.head("k", WHY).await.unwrap().unwrap();
    let got = bucket.get("k", ByteRange::Whole { max: 9 }, WHY).await.unwrap().unwrap();
    assert_eq!((head.attrs.clone(), &got.body[..]), (got.head.attrs, &b"12345"[..]));
    stored(bucket.put_with("k", "123456".into(), &head.attrs, When::Matches(head.etag), WHY).await);
    assert_eq!(odd.headers("k"), before);
    let head = bucket.head("k", WHY).await.unwrap().unwrap();
    let copied = bucket.copy("k", "k", None, Some(&head.attrs), When::Matches(head.etag), WHY).await;
    stored(copied);
    assert_eq!(odd.headers("k"), before);
    let upload = bucket.multipart_create("k", &head.attrs, WHY).await.unwrap();
    assert_eq!((upload.as_str(), odd.headers("k?uploads")), ("u", before));
    stored(bucket.put_with("l", "x".into(), &attrs, When::Always, WHY).await);
    assert_eq!(bucket.head("l", WHY).await.unwrap().unwrap().attrs.user, attrs.user);
}

/// Ceph RGW 16 is such a server. A copy that ignores a wrong condition says nothing of how etags are wanted.
#[tokio::test(flavor = "multi_thread")]
async fn what_ignores_conditions_teaches_nothing_of_etags() {
    let quirks = Quirks {
        wants_bare_etags: true,
        copies_ignore_conditions: true,
        needs_length: true,
        empty_etag_of_completions: true,
        ..Quirks::default()
    };
    let (_server, bucket) = odd(quirks).await;
    let etag = stored(bucket.put("k", "1".into(), When::Absent, WHY).await);
    let wrong = store::Etag("0".repeat(32));
    stored(bucket.copy("k", "l", Some(&wrong), None, When::Matches(wrong.clone()), WHY).await);
    let etag = stored(bucket.put("k", "2".into(), When::Matches(etag), WHY).await);
    let upload = bucket.multipart_create("k", &Attrs::default(), WHY).await.unwrap();
    let part = bucket.multipart_copy("k", &upload, 1, "k", Some(&etag), 0, 1, WHY).await.unwrap();
    let done = bucket.multipart_complete("k", &upload, &[part], When::Matches(etag), WHY).await;
    // Its etag comes from a look.
    let etag = stored(done);
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().etag, etag);
    assert_eq!(bucket.get("k", ByteRange::Whole { max: 9 }, WHY).await.unwrap().unwrap().body, "2");
}

/// One of several requests under way learns how etags are wanted: the others were sent before that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_learned_meanwhile_refuses_nobody() {
    for _ in 0..10 {
        let (_server, bucket) = odd(Quirks { wants_bare_etags: true, ..Quirks::default() }).await;
        let edit = async |n: usize| {
            let key = format!("k{n}");
            let etag = stored(bucket.put(&key, "1".into(), When::Absent, WHY).await);
            stored(bucket.put(&key, "2".into(), When::Matches(etag), WHY).await);
        };
        futures::future::join_all((0..16).map(edit)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_its_own_etags_is_told_from_another_client() {
    let (server, bucket) = odd(Quirks { weak_etags: true, ..Quirks::default() }).await;
    let etag = stored(bucket.put("k", "1".into(), When::Absent, WHY).await);
    let e = bucket.put("k", "2".into(), When::Matches(etag), WHY).await.unwrap_err();
    assert!(e.is(Kind::Unsupported) && e.to_string().contains("refuses that etag"), "{e}");
    let other = store::Etag("0".repeat(32));
    assert!(refused(bucket.put("k", "2".into(), When::Matches(other), WHY).await));
    let e = probe(&rt(), &*bucket, "x/").await.unwrap_err();
    assert!(e.to_string().contains(&server.endpoint), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_are_left_out_where_they_are_refused() {
    let refusals: [Refusal; 3] = [(501, "NotImplemented"), (400, "BadRequest"), (400, "InvalidArgument")];
    for refusal in refusals {
        let (server, bucket) = odd(Quirks { refuses_checksums: Some(refusal), ..Quirks::default() }).await;
        let etag = stored(bucket.put("k", "1".into(), When::Absent, WHY).await);
        let before = server.faults.requests();
        stored(bucket.put("k", "2".into(), When::Matches(etag), WHY).await);
        assert_eq!(server.faults.requests() - before, 1, "it is remembered");
        let (_server, bucket) = odd(Quirks { refuses_checksums: Some(refusal), ..Quirks::default() }).await;
        let upload = bucket.multipart_create("k", &Attrs::default(), WHY).await.unwrap();
        bucket.multipart_put("k", &upload, 1, "x".into(), WHY).await.unwrap();
        conforms(Quirks { refuses_checksums: Some(refusal), ..Quirks::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_copy_is_read_and_put() {
    let quirks = Quirks { no_copies: Some((501, "NotImplemented")), ..Quirks::default() };
    conforms(quirks).await;
    let (server, bucket) = odd(quirks).await;
    let large = vec![b'y'; 17 << 20];
    let etag = stored(bucket.put("k", large.clone().into(), When::Absent, WHY).await);
    stored(bucket.copy("k", "l", Some(&etag), None, When::Absent, WHY).await);
    let copy = bucket.get("l", ByteRange::Whole { max: 32 << 20 }, WHY).await.unwrap().unwrap();
    assert!(copy.body == large);
    let before = server.faults.requests();
    assert!(refused(bucket.copy("k", "l", Some(&etag), None, When::Absent, WHY).await));
    stored(bucket.copy("l", "m", None, None, When::Absent, WHY).await);
    // A look, two parts, and what begins and ends the upload, twice; the tags are asked for each time.
    assert!(server.faults.requests() - before <= 20, "{}", server.faults.requests() - before);
    let other = store::Etag("0".repeat(32));
    assert!(refused(bucket.copy("k", "n", Some(&other), None, When::Always, WHY).await));
    let none = bucket.copy("gone", "n", None, None, When::Always, WHY).await;
    assert_eq!(none.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_copies_no_parts_says_so() {
    let (_server, bucket) =
        odd(Quirks { no_part_copies: Some((501, "NotImplemented")), ..Quirks::default() }).await;
    stored(bucket.put("k", "12345".into(), When::Absent, WHY).await);
    let upload = bucket.multipart_create("l", &Attrs::default(), WHY).await.unwrap();
    let part = bucket.multipart_copy("l", &upload, 1, "k", None, 0, 3, WHY).await;
    assert_eq!(part.unwrap_err().kind(), Kind::Unsupported);
}

/// A wrong region names the right one, also where only a header tells it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_region_names_the_right_one() {
    static MOVED: Said = Said { status: 301, headers: &[("x-amz-bucket-region", "eu-north-1")], body: "" };
    static MALFORMED: Said = Said {
        status: 400,
        headers: &[],
        body: "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong</Message>\
               <Region>eu-north-1</Region></Error>",
    };
    let (server, bucket) = odd(Quirks::default()).await;
    for said in [&MOVED, &MALFORMED] {
        for verb in 0..3 {
            server.faults.always(Some(Fault::Says(said)));
            let e = match verb {
                0 => bucket.head("k", WHY).await.unwrap_err(),
                1 => bucket.list(&List { max: 1, ..List::default() }, WHY).await.unwrap_err(),
                _ => bucket.put("k", "x".into(), When::Always, WHY).await.unwrap_err(),
            };
            server.faults.always(None);
            assert!(e.is(Kind::Usage) && e.to_string().contains("region=eu-north-1"), "{verb}: {e}");
        }
    }
}
