//! Every kind of bucket does the same: one suite, run against each.
#![allow(clippy::unwrap_used)] // tests may stop at what they don't expect

mod model;
mod raw_server;
mod s3;
mod s3_foreign;
mod s3_odd;
mod s3_past;
#[path = "../support/mod.rs"]
mod support;

use support::s3_server::{Quirks, Server};
use support::stores::conformance::Suite;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_store::{FileStore, MemStore, StoreUrl, open};

fn rt() -> Rt {
    Rt::new(RealRuntime::current())
}

#[tokio::test(flavor = "multi_thread")]
async fn mem_conforms() {
    Suite { rt: rt(), bucket: MemStore::new("m"), prefix: "some/where/".into(), exact: true }.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = FileStore::open(&rt(), dir.path()).await.unwrap();
    Suite { rt: rt(), bucket, prefix: "some/where/".into(), exact: true }.run().await;
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["some"], "what was only for its own use is taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let server = Server::start(Quirks::default()).await;
    let bucket = server.open(&rt(), "pre/fix").await;
    Suite { rt: rt(), bucket, prefix: "some/where/".into(), exact: true }.run().await;
    assert!(server.keys().iter().all(|key| key.starts_with("pre/fix/some/where/")));
}

/// Runs the suite on a server that none of us wrote, when the environment names one
/// (`integration/checks/s3_seaweed` does).
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_conforms() {
    let Ok(url) = std::env::var("WINDLASS_TEST_S3") else {
        println!("WINDLASS_TEST_S3 is not set: nothing tried");
        return;
    };
    let url: StoreUrl = url.parse().unwrap();
    let bucket = open(&rt(), &url).await.unwrap();
    Suite { rt: rt(), bucket, prefix: "some/where/".into(), exact: false }.run().await;
    println!("{url} conforms");
}
