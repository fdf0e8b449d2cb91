//! Random keys, random steps: every kind of bucket shows what the memory store shows.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use windlass_store::{BucketRef, ByteRange, Cause, FileStore, List, MemStore, Put, When};

use super::rt;
use super::support::s3_server::{Quirks, Server};

const WHY: Cause = Cause::Probe;

#[derive(Clone, Debug)]
enum Step {
    Put(String, bool),
    Delete(String),
    List { prefix: String, after: Option<String>, delimited: bool, max: usize },
}

fn key() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[ab]{1,2}",
        1 => Just(String::new()),
        1 => Just(".".to_owned()),
        1 => Just(".%".to_owned()),
        1 => Just("a.".to_owned()),
        1 => "[ab]n{254,260}",
    ];
    let parts = proptest::collection::vec(part, 1..4);
    parts.prop_map(|parts| parts.join("/")).prop_filter("a key has bytes", |key| !key.is_empty())
}

fn step() -> impl Strategy<Value = Step> {
    let prefix = prop_oneof![Just(String::new()), key(), key().prop_map(|key| key + "/")];
    let list = (prefix, proptest::option::of(key()), any::<bool>(), 1usize..4);
    prop_oneof![
        5 => (key(), any::<bool>()).prop_map(|(key, absent)| Step::Put(key, absent)),
        3 => key().prop_map(Step::Delete),
        3 => list.prop_map(|(prefix, after, delimited, max)| Step::List { prefix, after, delimited, max }),
    ]
}

/// Lists everything from there on, page by page.
async fn names(bucket: &BucketRef, list: &List) -> (Vec<String>, Vec<String>) {
    let mut list = list.clone();
    let (mut objects, mut groups) = (Vec::new(), Vec::new());
    loop {
        let page = bucket.list(&list, WHY).await.unwrap();
        objects.extend(page.objects.into_iter().map(|o| o.key));
        groups.extend(page.prefixes);
        match page.next {
            Some(next) => list.after = Some(next),
            None => return (objects, groups),
        }
    }
}

async fn compare(steps: &[Step], model: BucketRef, bucket: BucketRef) {
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Put(key, absent) => {
                let when = if *absent { When::Absent } else { When::Always };
                let put = async |to: &BucketRef| {
                    let out = to.put(key, format!("{at}").into(), when.clone(), WHY).await.unwrap();
                    matches!(out, Put::Stored(_))
                };
                assert_eq!(put(&model).await, put(&bucket).await, "{step:?}");
            }
            Step::Delete(key) => {
                for from in [&model, &bucket] {
                    from.delete(std::slice::from_ref(key), WHY).await.unwrap();
                }
            }
            Step::List { prefix, after, delimited, max } => {
                let (prefix, after) = (prefix.clone(), after.clone());
                let list = List { prefix, after, delimited: *delimited, max: *max };
                assert_eq!(names(&model, &list).await, names(&bucket, &list).await, "{step:?} of {steps:?}");
            }
        }
    }
    for key in names(&model, &List { max: 1000, ..List::default() }).await.0 {
        let whole = ByteRange::Whole { max: 100 };
        let get = async |from: &BucketRef| from.get(&key, whole, WHY).await.unwrap().map(|f| f.body);
        assert_eq!(get(&model).await, get(&bucket).await, "{key:?} of {steps:?}");
    }
}

fn check<F>(cases: u32, run: impl Fn(Vec<Step>) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let steps = proptest::collection::vec(step(), 1..30);
    runner
        .run(&steps, |steps| {
            let run = std::panic::AssertUnwindSafe(|| runtime.block_on(run(steps)));
            std::panic::catch_unwind(run).map_err(|_| TestCaseError::fail("see the panic above"))
        })
        .unwrap();
}

#[test]
fn a_folder_shows_what_memory_shows() {
    check(60, |steps| async move {
        let dir = tempfile::tempdir().unwrap();
        let bucket = FileStore::open(&rt(), dir.path()).await.unwrap();
        compare(&steps, MemStore::new("m"), Arc::clone(&bucket)).await;
    });
}

#[test]
fn a_server_shows_what_memory_shows() {
    check(60, |steps| async move {
        let server = Server::start(Quirks::default()).await;
        let bucket = server.open(&rt(), "p").await;
        compare(&steps, MemStore::new("m"), bucket).await;
    });
}
