//! What only the `s3` store has: answers that are lost or say no, servers with ways of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::RwLock;
use windlass_base::Kind;
use windlass_store::{
    self as store, AccessKeys, Attrs, BucketRef, ByteRange, Cause, Conditions, Etag, Heeds, KeySource,
    KeyTarget, List, Put, S3Store, StoreUrl, When, conditions, keyring, probe,
};

use super::rt;
use super::support::s3_server::{BUCKET, Fault, KEY, Quirks, SECRET, Said, Server};
use super::support::stores::conformance::{Suite, refused, stored};

const WHY: Cause = Cause::Probe;

/// Held for writing while a test exchanges keys, since each store of this process then sends one request
/// through the SDK. A test that looks at a request's way holds it for reading.
static KEYS: RwLock<()> = RwLock::const_new(());

async fn normal() -> (Server, BucketRef) {
    let server = Server::start(Quirks::default()).await;
    let bucket = server.open(&rt(), "").await;
    (server, bucket)
}

async fn put(bucket: &BucketRef, key: &str) -> windlass_base::Result<Put> {
    bucket.put(key, "x".into(), When::Absent, WHY).await
}

/// A bucket that bills whoever reads it: each request says so, under its signature.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_pays_where_that_is_asked_for() {
    let (server, bucket) = normal().await;
    server.faults.requester_pays();
    assert_eq!(bucket.head("k", WHY).await.unwrap_err().kind(), Kind::Denied);
    let StoreUrl::S3(mut place) = server.url("pre") else { panic!("it is of S3") };
    place.set("requester_pays", "true").unwrap();
    let url = StoreUrl::S3(place);
    assert!(url.to_string().contains("requester_pays=true"), "{url}");
    let bucket = server.open_url(&rt(), &url, SECRET).await.unwrap();
    Suite { rt: rt(), bucket: bucket.clone(), prefix: "x/".into(), exact: true }.run().await;
    let why = bucket.presign("k", None, Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_a_clear_answer_is_unknown() {
    let (server, bucket) = normal().await;
    let cases = [
        (Fault::DropBefore, false),
        (Fault::DropAfter, true),
        (Fault::Status(500), false),
        (Fault::StatusAfter(500), true),
        (Fault::StatusAfter(503), true),
        (Fault::Status(501), false),
    ];
    for (at, (fault, is_there)) in cases.into_iter().enumerate() {
        let key = format!("k{at}");
        stored(bucket.put("warm", "x".into(), When::Always, WHY).await);
        server.faults.next([fault]);
        let out = put(&bucket, &key).await.unwrap();
        assert!(matches!(out, Put::Unknown(_)), "{fault:?}: {out:?}");
        assert_eq!(bucket.head(&key, WHY).await.unwrap().is_some(), is_there, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_no_is_an_error_with_its_kind() {
    let (server, bucket) = normal().await;
    for (status, kind) in [(409, Kind::Throttled), (429, Kind::Throttled), (403, Kind::Denied)] {
        server.faults.next([Fault::Status(status)]);
        assert_eq!(put(&bucket, "k").await.unwrap_err().kind(), kind, "{status}");
    }
    for (status, kind) in [(503, Kind::Throttled), (500, Kind::Unavailable), (403, Kind::Denied)] {
        server.faults.next([Fault::Status(status)]);
        let out = bucket.get("k", ByteRange::Last(1), WHY).await;
        assert_eq!(out.unwrap_err().kind(), kind, "{status}");
    }
    server.faults.next([Fault::DropBefore]);
    assert_eq!(bucket.list(&List::default(), WHY).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_and_keys_say_what_to_do() {
    let server = Server::start(Quirks::default()).await;
    let open = async |url: String, secret: &str| {
        let url: StoreUrl = url.parse().unwrap();
        server.open_url(&rt(), &url, secret).await.unwrap()
    };
    let at = &server.endpoint;
    let denied = open(format!("s3://{BUCKET}?endpoint={at}&region=r"), "wrong").await;
    let e = put(&denied, "k").await.unwrap_err();
    assert!(e.is(Kind::Denied) && e.to_string().contains("credentials"), "{e}");
    let missing = open(format!("s3://nowhere?endpoint={at}&region=r"), SECRET).await;
    for e in [
        put(&missing, "k").await.unwrap_err(),
        missing.get("k", ByteRange::Last(1), WHY).await.unwrap_err(),
        missing.put("k", "x".into(), When::Matches(store::Etag("e".into())), WHY).await.unwrap_err(),
    ] {
        assert!(e.is(Kind::Unavailable) && e.to_string().contains("create the bucket"), "{e}");
    }
    // Nobody listens there: the request certainly had no effect.
    let away = open(format!("s3://{BUCKET}?endpoint=http://127.0.0.1:1&region=r"), SECRET).await;
    let e = put(&away, "k").await.unwrap_err();
    assert!(e.is(Kind::Unavailable), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_ways_of_their_own_are_understood() {
    let quirks = Quirks {
        wants_bare_etags: true,
        refuses_checksums: Some((400, "InvalidRequest")),
        no_batch_delete: true,
        ..Quirks::default()
    };
    let server = Server::start(quirks).await;
    let bucket = server.open(&rt(), "p").await;
    Suite { rt: rt(), bucket, prefix: "q/".into(), exact: true }.run().await;
}

/// The server lists as SeaweedFS does. Going on behind the greatest name of a page would lose what the tree's
/// order puts later.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_is_lost_on_a_server_that_lists_as_a_tree() {
    let server = Server::start(Quirks { lists_as_tree: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    let mut names = ["a/x", "a/y", "a-1", "a.b", "b/c", "b!", "b"].map(str::to_owned);
    for name in &names {
        stored(put(&bucket, name).await);
    }
    names.sort();
    for (delimited, max) in [(false, 1), (false, 2), (false, 3), (true, 1), (true, 2), (true, 3)] {
        let mut list = List { delimited, max, ..List::default() };
        let mut seen = Vec::new();
        loop {
            let page = bucket.list(&list, WHY).await.unwrap();
            seen.extend(page.objects.into_iter().map(|o| o.key));
            seen.extend(page.prefixes);
            let Some(next) = page.next else { break };
            list.after = Some(next);
        }
        seen.sort();
        let want = if delimited {
            ["a-1", "a.b", "a/", "b", "b!", "b/"].map(str::to_owned).to_vec()
        } else {
            names.to_vec()
        };
        assert_eq!(seen, want, "delimited {delimited}, by {max}");
    }
}

/// SeaweedFS copies no markers.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_is_copied_where_the_server_does_not() {
    let server = Server::start(Quirks { copies_no_markers: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    let attrs = Attrs { user: BTreeMap::from([("mode".to_owned(), "1".to_owned())]), ..Attrs::default() };
    let etag = stored(bucket.put_with("d/", "".into(), &attrs, When::Always, WHY).await);
    stored(bucket.copy("d/", "e/", Some(&etag), None, When::Absent, WHY).await);
    assert_eq!(bucket.head("e/", WHY).await.unwrap().unwrap().attrs.user, attrs.user);
    assert!(refused(bucket.copy("d/", "e/", Some(&etag), None, When::Absent, WHY).await));
    let other = store::Etag("00000000000000000000000000000000".into());
    assert!(refused(bucket.copy("d/", "f/", Some(&other), None, When::Always, WHY).await));
    let none = bucket.copy("gone/", "f/", None, None, When::Always, WHY).await;
    assert_eq!(none.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_refused_by_name() {
    let server = Server::start(Quirks { ignores_conditions: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    let e = probe(&rt(), &*bucket, "x/").await.unwrap_err();
    assert!(e.is(Kind::Refused) && e.to_string().contains(&server.endpoint), "{e}");
    assert!(e.to_string().contains("overwrites"), "{e}");
    assert_eq!(server.keys(), Vec::<String>::new());
}

/// Such a server answers rightly while requests come one after another.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_conditional_writes_race_is_refused_by_name() {
    for gap_ms in [1, 5, 50] {
        let races = Some(Duration::from_millis(gap_ms));
        let server = Server::start(Quirks { races, ..Quirks::default() }).await;
        let bucket = server.open(&rt(), "p").await;
        for _ in 0..5 {
            let e = probe(&rt(), &*bucket, "x/").await.unwrap_err();
            assert!(e.is(Kind::Refused) && e.to_string().contains(&server.endpoint), "{e}");
            assert!(e.to_string().contains("race"), "{e}");
        }
        assert_eq!(server.keys(), Vec::<String>::new());
    }
    let server = Server::start(Quirks::default()).await;
    probe(&rt(), &*server.open(&rt(), "p").await, "x/").await.unwrap();
    assert_eq!(server.keys(), Vec::<String>::new());
}

/// The addresses of a name, each with connections of its own. A server that has no name has none.
#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_a_name_is_a_way_to_the_bucket() {
    let server = Server::start(Quirks::default()).await;
    let bucket = server.open(&rt(), "p").await;
    assert!(bucket.each_address().await.unwrap().is_empty(), "{}", server.endpoint);
    let port = server.endpoint.rsplit(':').next().unwrap();
    let url = format!("s3://{BUCKET}/p?endpoint=http://localhost:{port}&region=us-east-1").parse().unwrap();
    let named = server.open_url(&rt(), &url, SECRET).await.unwrap();
    let ways = named.each_address().await.unwrap();
    let (_, way) = ways.iter().find(|(at, _)| at.to_string() == "127.0.0.1").unwrap();
    stored(put(way, "a").await);
    assert!(refused(put(&bucket, "a").await), "it is the same bucket");
    // The name may have another address, at which nobody listens: it is left out.
    probe(&rt(), &*named, "x/").await.unwrap();
}

/// A gateway over files makes such etags: two writes of one size within a second have one etag.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_etags_repeat_within_a_second_is_refused_by_name() {
    let server = Server::start(Quirks { etag_of_second: true, ..Quirks::default() }).await;
    let e = probe(&rt(), &*server.open(&rt(), "p").await, "x/").await.unwrap_err();
    assert!(e.is(Kind::Refused) && e.to_string().contains("same etag"), "{e}");
}

/// Promise: On a store that doesn't heed the conditions of writes, an object is looked at just before it is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_heeds_no_conditions_is_looked_at_first() {
    for (quirks, heeds) in [
        (Quirks::default(), Heeds::Yes),
        (Quirks { ignores_conditions: true, ..Quirks::default() }, Heeds::Ignores),
        (Quirks { refuses_conditions: true, ..Quirks::default() }, Heeds::Refuses),
        (Quirks { wants_bare_etags: true, ..Quirks::default() }, Heeds::Yes),
    ] {
        let server = Server::start(quirks).await;
        let bucket = server.open(&rt(), "p").await;
        let found = conditions(&rt(), &*bucket, "").await.unwrap();
        assert_eq!(found, Conditions::all(heeds));
        assert_eq!(server.keys(), Vec::<String>::new());
        let told = found.told(bucket.url());
        assert_eq!(told.is_some(), heeds != Heeds::Yes);
        assert!(
            told.is_none_or(|t| t.contains(&server.endpoint) && t.contains("puts and copies and uploads"))
        );
        bucket.looks_first(found);
        let old = stored(bucket.put("k", "old".into(), When::Absent, WHY).await);
        let new = stored(bucket.put("k", "new".into(), When::Matches(old.clone()), WHY).await);
        for when in [When::Absent, When::Matches(old)] {
            assert!(refused(bucket.put("k", "x".into(), when.clone(), WHY).await), "{heeds:?} {when:?}");
            stored(bucket.put("from", "x".into(), When::Always, WHY).await);
            let copied = bucket.copy("from", "k", None, None, when.clone(), WHY).await;
            assert!(refused(copied), "{heeds:?} {when:?}");
            let upload = bucket.multipart_create("k", &Attrs::default(), WHY).await.unwrap();
            let part = bucket.multipart_put("k", &upload, 1, "x".into(), WHY).await.unwrap();
            let done = bucket.multipart_complete("k", &upload, &[part], when.clone(), WHY).await;
            assert!(refused(done), "{heeds:?} {when:?}");
        }
        assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().etag, new);
        stored(bucket.copy("from", "k", None, None, When::Matches(new), WHY).await);
        // What a copy is made of is looked at too.
        let source = bucket.head("from", WHY).await.unwrap().unwrap().etag;
        let attrs = Attrs::default();
        let none = Etag("0".repeat(32));
        let copy = |from_match| bucket.copy("from", "from", from_match, Some(&attrs), When::Always, WHY);
        assert!(refused(copy(Some(&none)).await), "{heeds:?}");
        stored(copy(Some(&source)).await);
        let gone = bucket.put("none", "x".into(), When::Matches(Etag("0".repeat(32))), WHY).await;
        assert!(refused(gone), "{heeds:?}");
    }
}

/// A server that breaks off is not taken for one that heeds; what its user may not try counts as not heeded.
#[tokio::test(flavor = "multi_thread")]
async fn whether_conditions_are_heeded_is_not_guessed() {
    let (server, bucket) = normal().await;
    let met = async |fault, after| {
        server.faults.next(std::iter::repeat_n(Fault::None, after).chain([fault]));
        conditions(&rt(), &*bucket, "").await
    };
    // Four puts, a look for how etags are wanted, four copies and two looks, twice an upload, its part, its end, and (after a
    // look) its giving up, and a read of a part. Only the giving up may fail.
    for after in (0..21).filter(|after| ![14, 19].contains(after)) {
        let found = met(Fault::Status(500), after).await;
        assert_eq!(found.unwrap_err().kind(), Kind::Unavailable, "500 after {after}");
    }
    for after in 0..2 {
        assert_eq!(
            met(Fault::Status(403), after).await.unwrap_err().kind(),
            Kind::Denied,
            "403 after {after}"
        );
    }
    let found = met(Fault::Status(403), 2).await.unwrap();
    assert_eq!(found, Conditions { puts: Heeds::Ignores, ..Conditions::default() });
    let found = met(Fault::Status(403), 13).await.unwrap();
    assert_eq!(found, Conditions { completions: Heeds::Ignores, ..Conditions::default() });
}

/// A forced look still learns how a server wants its etags.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_looked_at_first_may_want_bare_etags() {
    let server = Server::start(Quirks { wants_bare_etags: true, ..Quirks::default() }).await;
    let bucket = server.open(&rt(), "p").await;
    bucket.looks_first(Conditions::all(Heeds::Ignores));
    let old = stored(bucket.put("k", "old".into(), When::Absent, WHY).await);
    stored(bucket.put("k", "new".into(), When::Matches(old), WHY).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_xml_cannot_carry_are_listed_and_deleted() {
    let (server, bucket) = normal().await;
    let keys = ["a\u{1}b", "c\nd+ %", "e"].map(str::to_owned);
    for key in &keys {
        stored(put(&bucket, key).await);
    }
    let page = bucket.list(&List { max: 1000, ..List::default() }, WHY).await.unwrap();
    assert_eq!(page.objects.iter().map(|o| o.key.clone()).collect::<Vec<_>>(), keys);
    bucket.delete(&keys, WHY).await.unwrap();
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_headers_cannot_carry_are_refused() {
    let (server, bucket) = normal().await;
    for value in ["a\nb", " a", "a\u{7f}"] {
        let attrs = Attrs { user: BTreeMap::from([("k".to_owned(), value.to_owned())]), ..Attrs::default() };
        let out = bucket.put_with("k", "x".into(), &attrs, When::Always, WHY).await;
        assert_eq!(out.unwrap_err().kind(), Kind::Invalid, "{value:?}");
    }
    assert_eq!(server.faults.requests(), 0);
}

#[tokio::test]
async fn certificates_that_are_none_are_told_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for bytes in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::io::Write::write_all(&mut file.as_file(), bytes.as_bytes()).unwrap();
        let url = format!("s3://b?endpoint=https://127.0.0.1:1&region=r&ca={}", file.path().display());
        let e = store::open(&rt(), &url.parse().unwrap()).await.unwrap_err();
        assert!(e.is(Kind::Usage) && e.to_string().contains("ca="), "{e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_waited_for() {
    let (server, bucket) = normal().await;
    server.faults.next([Fault::Late(Duration::from_millis(300)), Fault::None]);
    stored(put(&bucket, "k").await);
    assert!(refused(put(&bucket, "k").await));
}

/// The first request fetches keys through the SDK; those after it don't need it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_go_straight_to_the_server() {
    let _unchanged = KEYS.read().await;
    let (server, bucket) = normal().await;
    let straight = || server.faults.agent().starts_with("windlass/");
    stored(put(&bucket, "a").await);
    assert!(!straight(), "{}", server.faults.agent());
    stored(put(&bucket, "b").await);
    assert!(straight(), "put: {}", server.faults.agent());
    bucket.get("a", ByteRange::Last(1), WHY).await.unwrap().unwrap();
    assert!(straight(), "get: {}", server.faults.agent());
    bucket.head("a", WHY).await.unwrap().unwrap();
    assert!(straight(), "head: {}", server.faults.agent());
    bucket.list(&List { max: 10, ..List::default() }, WHY).await.unwrap();
    assert!(straight(), "list: {}", server.faults.agent());
    stored(bucket.copy("a", "c", None, None, When::Always, WHY).await);
    assert!(straight(), "copy: {}", server.faults.agent());
    bucket.delete(&["c".to_owned()], WHY).await.unwrap();
    assert!(straight(), "delete: {}", server.faults.agent());
    let upload = bucket.multipart_create("d", &Attrs::default(), WHY).await.unwrap();
    bucket.multipart_put("d", &upload, 1, "x".into(), WHY).await.unwrap();
    assert!(straight(), "part: {}", server.faults.agent());
}

const fn summed(headers: &'static [(&'static str, &'static str)]) -> Said {
    Said { status: 200, headers, body: "123456789" }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_the_checksum_that_came_with_them_are_refused() {
    static RIGHT: Said = summed(&[("etag", "\"e\""), ("x-amz-checksum-crc32", "y/Q5Jg==")]);
    static WRONG: Said = summed(&[("etag", "\"e\""), ("x-amz-checksum-crc32", "y/Q5Jw==")]);
    static SHA1: Said = summed(&[("etag", "\"e\""), ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=")]);
    static OF_PARTS: Said = summed(&[("etag", "\"e\""), ("x-amz-checksum-crc32", "y/Q5Jw==-2")]);
    static NONE: Said = summed(&[("etag", "\"e\"")]);
    let _unchanged = KEYS.read().await;
    let (server, bucket) = normal().await;
    stored(put(&bucket, "k").await);
    for (said, good) in [(&RIGHT, true), (&WRONG, false), (&SHA1, true), (&OF_PARTS, true), (&NONE, true)] {
        server.faults.next([Fault::Says(said)]);
        let out = bucket.get("k", ByteRange::Whole { max: 100 }, WHY).await;
        assert!(server.faults.agent().starts_with("windlass/"));
        match out {
            Ok(found) => assert!(good && found.unwrap().body == "123456789", "{said:?}"),
            Err(e) => {
                assert!(!good && e.is(Kind::Unavailable) && e.to_string().contains("crc32"), "{said:?}: {e}")
            }
        }
    }
}

/// Web tools set such headers: `Expires` that is no date.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_nobody_needs_are_not_read() {
    static ODD: Said = summed(&[("expires", "0"), ("etag", "\"e\"")]);
    let _unchanged = KEYS.read().await;
    let (server, bucket) = normal().await;
    stored(put(&bucket, "k").await);
    server.faults.next([Fault::Says(&ODD), Fault::Says(&ODD)]);
    let found = bucket.get("k", ByteRange::Whole { max: 100 }, WHY).await.unwrap().unwrap();
    assert_eq!((found.head.etag.0.as_str(), &found.body[..]), ("e", &b"123456789"[..]));
    assert_eq!(bucket.head("k", WHY).await.unwrap().unwrap().etag.0, "e");
    assert!(server.faults.agent().starts_with("windlass/"));
}

/// A host whose clock is far off signs by the server's after one request was refused: a mount's store repeats it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_told_by_the_server() {
    static LATER: Said = Said {
        status: 403,
        headers: &[("date", "Fri, 21 Dec 2040 00:00:00 GMT")],
        body: "<Error><Code>RequestTimeTooSkewed</Code><Message>late</Message></Error>",
    };
    let _unchanged = KEYS.read().await;
    let (server, bucket) = normal().await;
    stored(put(&bucket, "k").await);
    let year = || server.faults.signed().get(..4).unwrap_or_default().to_owned();
    server.faults.next([Fault::Says(&LATER)]);
    let e = bucket.get("k", ByteRange::Last(1), WHY).await.unwrap_err();
    assert!(e.is(Kind::Unavailable) && e.to_string().contains("clock"), "{e}");
    assert_ne!(year(), "2040");
    // The test's server tells this year again, in an answer that is well.
    server.faults.next([Fault::Says(&LATER)]);
    bucket.get("k", ByteRange::Last(1), WHY).await.unwrap_err();
    assert_eq!(year(), "2040");
}

/// An owner exchanges keys so while volumes are attached: no store is opened anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_store_goes_on_with_exchanged_keys() {
    let _alone = KEYS.write().await;
    let server = Server::start(Quirks::default()).await;
    let url = server.url("rotation");
    let StoreUrl::S3(place) = &url else { panic!("{url}") };
    let pair = |id: &str, secret: &str| AccessKeys::parse(&format!("{id}:{secret}")).unwrap();
    let target: KeyTarget = url.to_string().parse().unwrap();
    keyring().set(target.clone(), KeySource::Memory, pair(KEY, SECRET));
    let bucket = store::open(&rt(), &url).await.unwrap();
    assert_eq!(keyring().users_of(&target).len(), 1);
    stored(put(&bucket, "before").await);
    stored(put(&bucket, "before too").await);
    server.rotate("second", "hush-second");
    let why = put(&bucket, "between").await.unwrap_err();
    assert!(why.is(Kind::Denied) && !why.to_string().contains(SECRET), "{why}");
    let second = pair("second", "hush-second");
    for (keys, taken) in
        [(pair(KEY, SECRET), false), (pair("second", "hush-wrong"), false), (second.clone(), true)]
    {
        let tried = S3Store::try_keys(&rt(), place, &keys).await;
        assert_eq!(tried.is_ok(), taken, "{tried:?}");
        assert!(
            tried.is_ok()
                || tried.is_err_and(|why| why.is(Kind::Refused) && !why.to_string().contains("hush"))
        );
    }
    keyring().set(target.clone(), KeySource::Memory, second);
    stored(put(&bucket, "after").await);
    // By the SDK's own way too, which remembers keys by itself.
    let upload = bucket.multipart_create("parts", &Attrs::default(), WHY).await.unwrap();
    bucket.multipart_abort("parts", &upload, WHY).await.unwrap();
    server.rotate("third", "hush-third");
    bucket.multipart_create("parts", &Attrs::default(), WHY).await.unwrap_err();
    keyring().set(target.clone(), KeySource::Memory, pair("third", "hush-third"));
    bucket.multipart_create("parts", &Attrs::default(), WHY).await.unwrap();
    keyring().remove(&target);
    drop(bucket);
    assert_eq!(keyring().users_of(&target).len(), 0);
}

/// Run by the next test in a process of its own, whose environment names a proxy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_proxy_is_used"]
async fn behind_a_proxy() {
    let Ok(url) = std::env::var("WINDLASS_TEST_BEHIND") else { return };
    let bucket = store::open(&rt(), &url.parse().unwrap()).await.unwrap();
    for key in ["first", "second"] {
        stored(put(&bucket, key).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used() {
    let server = Server::start(Quirks::default()).await;
    let behind = |more: [(&'static str, String); 2]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "s3::behind_a_proxy", "--ignored"]);
        for name in ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"] {
            child.env_remove(name);
        }
        // Nobody answers to this name: only the proxy can.
        child.env("WINDLASS_TEST_BEHIND", format!("s3://{BUCKET}?endpoint=http://store.invalid&region=r"));
        child.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        child.envs(more).output().unwrap()
    };
    let proxy = ("HTTP_PROXY", server.endpoint.clone());
    let out = behind([proxy.clone(), ("NO_PROXY", "elsewhere.invalid".into())]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    assert_eq!(server.keys(), ["first", "second"]);
    let out = behind([proxy, ("NO_PROXY", "store.invalid".into())]);
    assert!(!out.status.success(), "it went through the proxy all the same");
}
