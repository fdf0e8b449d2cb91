//! Earlier versions and archived objects, with answers as S3's documentation has them.

use windlass_base::Kind;
use windlass_store::{BucketRef, ByteRange, Cause, Restore, Restored, Tier, VersionList, VersionMark};

use super::rt;
use super::support::s3_server::{Fault, Quirks, Said, Server};

const WHY: Cause = Cause::File;
const XML: &[(&str, &str)] = &[("content-type", "application/xml")];

async fn normal() -> (Server, BucketRef) {
    let server = Server::start(Quirks::default()).await;
    let bucket = server.open(&rt(), "pre").await;
    (server, bucket)
}

fn xml(body: &'static str) -> Fault {
    Fault::Says(Box::leak(Box::new(Said { status: 200, headers: XML, body })))
}

fn error(status: u16, body: &'static str) -> Fault {
    Fault::Says(Box::leak(Box::new(Said { status, headers: XML, body })))
}

const FIRST: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>bucket</Name><Prefix>pre/d/</Prefix><KeyMarker/><VersionIdMarker/><MaxKeys>3</MaxKeys>
  <Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>
  <NextKeyMarker>pre/d/f</NextKeyMarker><NextVersionIdMarker>UIORUnfndfiufdisojhr398493jfdkjFJjkndnqUifhnw89493jJFJ</NextVersionIdMarker>
  <Version>
    <Key>pre/d/f</Key><VersionId>3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY</VersionId><IsLatest>false</IsLatest>
    <LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>"fba9dede5f27731c9771645a39863328"</ETag>
    <Size>434234</Size><StorageClass>GLACIER</StorageClass>
  </Version>
  <Version>
    <Key>pre/d/f</Key><VersionId>UIORUnfndfiufdisojhr398493jfdkjFJjkndnqUifhnw89493jJFJ</VersionId><IsLatest>false</IsLatest>
    <LastModified>2009-10-10T17:50:30.000Z</LastModified><ETag>"9b2cf535f27731c974343645a3985328"</ETag>
    <Size>166434</Size><StorageClass>STANDARD</StorageClass>
  </Version>
  <DeleteMarker>
    <Key>pre/d/f</Key><VersionId>03jpff543dhffds434rfdsFDN943fdsFkdmqnh892</VersionId><IsLatest>true</IsLatest>
    <LastModified>2009-11-12T17:50:30.000Z</LastModified>
    <Owner><ID>75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a</ID></Owner>
  </DeleteMarker>
</ListVersionsResult>"#;

const LAST: &str = r#"<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>bucket</Name><Prefix>pre/d/</Prefix><IsTruncated>false</IsTruncated>
  <Version><Key>pre/d/f</Key><VersionId>null</VersionId><IsLatest>false</IsLatest>
    <LastModified>2009-10-09T17:50:30.000Z</LastModified><ETag>"e"</ETag><Size>1</Size></Version>
  <CommonPrefixes><Prefix>pre/d/sub/</Prefix></CommonPrefixes>
</ListVersionsResult>"#;

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_page_by_page() {
    let (server, bucket) = normal().await;
    let mut list = VersionList { prefix: "d/".into(), after: None, delimited: true, max: 3 };
    server.faults.next([xml(FIRST)]);
    let page = bucket.list_versions(&list, WHY).await.unwrap();
    let asked = server.faults.last();
    for part in ["GET /bucket", "versions", "prefix=pre%2Fd%2F", "delimiter=%2F", "max-keys=3"] {
        assert!(asked.contains(part), "{asked}");
    }
    assert!(!asked.contains("marker"), "{asked}");
    // The mark that it was deleted is the newest, though it stands in a list of its own.
    let told: Vec<_> =
        page.versions.iter().map(|v| (v.key.as_str(), &v.id[..4], v.size, v.deleted)).collect();
    assert_eq!(
        told,
        [("d/f", "03jp", 0, true), ("d/f", "3sL4", 434_234, false), ("d/f", "UIOR", 166_434, false)]
    );
    assert_eq!((page.versions[0].latest, page.versions[1].latest), (true, false));
    assert_eq!(page.versions[1].modified_ms, 1_255_369_830_000);
    assert_eq!(page.versions[1].etag.as_ref().unwrap().0, "fba9dede5f27731c9771645a39863328");
    let id = "UIORUnfndfiufdisojhr398493jfdkjFJjkndnqUifhnw89493jJFJ";
    list.after = page.next.clone();
    assert_eq!(list.after, Some(VersionMark { key: "pre/d/f".into(), version: Some(id.into()) }));
    server.faults.next([xml(LAST)]);
    let page = bucket.list_versions(&list, WHY).await.unwrap();
    let asked = server.faults.last();
    assert!(asked.contains("key-marker=pre%2Fd%2Ff"), "{asked}");
    assert!(asked.contains(&format!("version-id-marker={id}")), "{asked}");
    assert_eq!(
        (page.versions[0].id.as_str(), page.prefixes, page.next),
        ("null", vec!["d/sub/".to_owned()], None)
    );
    // A server that gives the same page for ever isn't followed.
    server.faults.next([xml(FIRST)]);
    let why = bucket.list_versions(&list, WHY).await.unwrap_err();
    assert!(why.is(Kind::Invalid) && why.to_string().contains("does not go on"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_versions_are_kept_is_told() {
    let (server, bucket) = normal().await;
    let says = |status| match status {
        "Enabled" => xml("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
        "Suspended" => xml("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"),
        _ => xml("<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>"),
    };
    for (status, kept) in [("Enabled", true), ("Suspended", true), ("", false)] {
        server.faults.next([says(status)]);
        assert_eq!(bucket.versioned(WHY).await.unwrap(), kept, "{status}");
        assert!(server.faults.last().contains("?versioning"), "{}", server.faults.last());
    }
    // Who may list versions need not have the right to ask.
    server.faults.next([Fault::Status(403)]);
    assert!(bucket.versioned(WHY).await.unwrap());
    server.faults.next([xml("<GetBucketVersioningResponse/>")]);
    assert!(bucket.versioned(WHY).await.unwrap());
    server.faults.next([error(501, "<Error><Code>NotImplemented</Code></Error>")]);
    assert!(!bucket.versioned(WHY).await.unwrap());
    server.faults.next([Fault::Status(503)]);
    assert_eq!(bucket.versioned(WHY).await.unwrap_err().kind(), Kind::Throttled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_read_by_its_id() {
    let (server, bucket) = normal().await;
    static PART: Said = Said {
        status: 206,
        headers: &[
            ("etag", "\"e\""),
            ("content-range", "bytes 2-4/9"),
            ("x-amz-version-id", "v/1"),
            ("last-modified", "Wed, 28 Oct 2009 22:32:00 GMT"),
        ],
        body: "cde",
    };
    server.faults.next([Fault::Says(&PART)]);
    let range = ByteRange::At { offset: 2, len: 3 };
    let found = bucket.get_version("k", "v/1", range, WHY).await.unwrap().unwrap();
    assert_eq!((found.body.as_ref(), found.offset, found.head.size), (&b"cde"[..], 2, 9));
    assert_eq!(found.head.version.as_deref(), Some("v/1"));
    assert!(server.faults.last().contains("versionId=v%2F1"), "{}", server.faults.last());
    let link = bucket.presign("k", Some("v/1"), std::time::Duration::from_secs(9)).await.unwrap();
    assert!(link.contains("versionId=v%2F1"), "{link}");
    // None of that id; and a mark that the object was deleted, which is no object.
    let none =
        "<Error><Code>NoSuchVersion</Code><Message>The specified version does not exist.</Message></Error>";
    let wrong = "<Error><Code>InvalidArgument</Code><Message>Invalid version id specified</Message></Error>";
    let mark =
        "<Error><Code>MethodNotAllowed</Code><Message>The specified method is not allowed</Message></Error>";
    for (status, body) in [(404, none), (400, wrong), (405, mark)] {
        server.faults.next([error(status, body)]);
        assert!(bucket.get_version("k", "v", range, WHY).await.unwrap().is_none(), "{status}");
        // A HEAD's answer has no body that could say why: what isn't plain is asked for again.
        server.faults.next([error(status, "")]);
        server.faults.next((status != 404).then(|| error(status, body)));
        assert!(bucket.head_version("k", Some("v"), false, WHY).await.unwrap().is_none(), "{status}");
    }
    // The object itself, asked for as ever, does not vanish for such an answer.
    server.faults.next([error(400, wrong)]);
    assert_eq!(bucket.get("k", range, WHY).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_objects_are_no_denied_ones() {
    let (server, bucket) = normal().await;
    let archived = || {
        error(
            403,
            "<Error><Code>InvalidObjectState</Code><Message>The operation is not valid for the object's storage \
             class</Message><StorageClass>GLACIER</StorageClass></Error>",
        )
    };
    server.faults.next([archived()]);
    let why = bucket.get("k", ByteRange::At { offset: 0, len: 1 }, WHY).await.unwrap_err();
    assert!(why.is(Kind::Archived) && why.to_string().contains("restore it first"), "{why}");
    server.faults.next([archived()]);
    let why = bucket.get_version("k", "v", ByteRange::At { offset: 0, len: 1 }, WHY).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Archived, "{why}");
    server.faults.next([archived()]);
    let copied = bucket.copy("k", "l", None, None, windlass_store::When::Always, WHY).await;
    assert_eq!(copied.unwrap_err().kind(), Kind::Archived);
    server.faults.next([Fault::Status(403)]);
    let why = bucket.get("k", ByteRange::At { offset: 0, len: 1 }, WHY).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Denied, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_asked_for_and_followed() {
    let (server, bucket) = normal().await;
    let how = Restore { days: 7, tier: Some(Tier::Bulk) };
    server.faults.next([error(202, "")]);
    assert!(bucket.restore("k", None, how, WHY).await.unwrap());
    assert!(server.faults.last().starts_with("POST /bucket/pre/k?restore"), "{}", server.faults.last());
    server.faults.next([error(200, "")]);
    assert!(bucket.restore("k", Some("v1"), Restore { tier: None, ..how }, WHY).await.unwrap());
    assert!(server.faults.last().contains("versionId=v1"), "{}", server.faults.last());
    for (status, code, kind) in [
        (403, "<Error><Code>InvalidObjectState</Code></Error>", Kind::Invalid),
        (403, "<Error><Code>ObjectAlreadyInActiveTierError</Code></Error>", Kind::Invalid),
        (503, "<Error><Code>GlacierExpeditedRetrievalNotAvailable</Code></Error>", Kind::Owned),
        (403, "<Error><Code>AccessDenied</Code></Error>", Kind::Denied),
        (404, "<Error><Code>NoSuchKey</Code></Error>", Kind::NotFound),
        (501, "<Error><Code>NotImplemented</Code></Error>", Kind::Unsupported),
    ] {
        server.faults.next([error(status, code)]);
        assert_eq!(bucket.restore("k", None, how, WHY).await.unwrap_err().kind(), kind, "{code}");
    }
    server.faults.next([error(409, "<Error><Code>RestoreAlreadyInProgress</Code></Error>")]);
    assert!(!bucket.restore("k", None, how, WHY).await.unwrap(), "one is under way");

    static UNDERWAY: Said = Said {
        status: 200,
        headers: &[
            ("etag", "\"e\""),
            ("content-length", "0"),
            ("x-amz-storage-class", "DEEP_ARCHIVE"),
            ("x-amz-restore", "ongoing-request=\"true\""),
        ],
        body: "",
    };
    static DONE: Said = Said {
        status: 200,
        headers: &[
            ("etag", "\"e\""),
            ("content-length", "0"),
            ("x-amz-restore", "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\""),
        ],
        body: "",
    };
    server.faults.next([Fault::Says(&UNDERWAY)]);
    let head = bucket.head("k", WHY).await.unwrap().unwrap();
    assert_eq!(
        (head.restored, head.storage_class.as_deref()),
        (Some(Restored::Underway), Some("DEEP_ARCHIVE"))
    );
    server.faults.next([Fault::Says(&DONE)]);
    let head = bucket.head("k", WHY).await.unwrap().unwrap();
    assert_eq!(head.restored, Some(Restored::Until(1_356_048_000_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_come_where_they_are_asked_for() {
    static SUMS: Said = Said {
        status: 200,
        headers: &[
            ("etag", "\"e\""),
            ("content-length", "0"),
            ("x-amz-checksum-crc64nvme", "AZx7Tp8gLCo="),
            ("x-amz-checksum-sha256", "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=-2"),
        ],
        body: "",
    };
    let (server, bucket) = normal().await;
    server.faults.next([Fault::Says(&SUMS)]);
    let head = bucket.head_version("k", None, true, WHY).await.unwrap().unwrap();
    let both = "CRC64NVME:AZx7Tp8gLCo= SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=-2";
    assert_eq!(head.checksum.as_deref(), Some(both));
    assert!(server.faults.last().starts_with("HEAD /bucket/pre/k"), "{}", server.faults.last());
    assert!(!server.faults.last().contains("versionId"), "{}", server.faults.last());
}
