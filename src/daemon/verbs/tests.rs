//! Verbs on an engine of their own, over folder stores.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::config::Config;
use super::super::engine::{Engine, Options};
use super::super::exports::EngineExports;
use super::super::key_places::ConfiguredKeys;
use super::super::nbd_handover::{FORMAT, HandedOver, Receiver};
use super::super::pools::Pools;
use super::super::progress::Asker;
use super::super::state_dir::{HostContext, StateDir};
use super::super::volume_clients::{Visitor, VolumeClients};
use super::status::status;
use super::*;
use crate::daemon::answers::{CredentialsLine, VolumeLine};
use crate::daemon::api::{
    CloneMany, CredentialsSet, GivenKey, HandOver, PoolCreate, RemoveMode, SnapshotPath, VolumeCreate,
    VolumeMove, VolumePath,
};
use crate::daemon::volume_sharing_map;
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::{Name, Nonce};
use windlass_nbd::Exports as _;
use windlass_pool::StoreState;
use windlass_store::{AccessKeys, KeySource, keyring};
use windlass_volume::{Clients, FlushMode, Memory, OpenMode, VolumeSettings};

pub(super) const TAKEN: snapshot::Taking = snapshot::Taking { wait: true, if_absent: false, held: false };

/// Makes a host whose state is in `dir/NAME`.
pub(super) async fn state(dir: &Path, name: &str) -> EngineState {
    let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
    let home = StateDir::at(dir.join(name));
    std::fs::create_dir_all(home.root()).unwrap();
    let host = home.host(&rt, &*disk).await.unwrap();
    let host_context = HostContext { rt: rt.clone(), disk, home, host };
    let config = Arc::new(Config::default());
    let keys = ConfiguredKeys::new(rt.clone(), host_context.disk.clone(), config.clone());
    EngineState {
        stop: Default::default(),
        pools: Pools::new(host_context.clone(), Memory::new(64 << 20), keys.clone(), None).await.unwrap(),
        sessions: VolumeClients::new(rt.clone()),
        mounts: Arc::default(),
        capacities: Default::default(),
        replicas: Default::default(),
        troubles: Default::default(),
        access: Default::default(),
        nbd: Default::default(),
        metrics: Default::default(),
        mirror: Default::default(),
        served: Default::default(),
        last_look: Default::default(),
        at_work: Default::default(),
        began: rt.now(),
        host_context,
        config: parking_lot::Mutex::new(config),
        keys,
    }
}

/// Makes folders below `dir`, and returns them as stores.
pub(super) fn folders(dir: &Path, names: &[&str]) -> Vec<String> {
    let made = names.iter().map(|name| {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        format!("file://{}", dir.join(name).display())
    });
    made.collect()
}

pub(super) async fn make_pool(state: &EngineState, name: &str, stores: &[String]) -> Result<Outcome> {
    make_pool_with(state, name, stores, None).await
}

async fn make_pool_with(
    state: &EngineState,
    name: &str,
    stores: &[String],
    key: Option<GivenKey>,
) -> Result<Outcome> {
    let args = PoolCreate {
        name: name.parse().unwrap(),
        stores: stores.to_vec(),
        layout: None,
        ack_zone: false,
        degrade_after: None,
        trash: Some("0".into()),
        force: true,
        if_absent: false,
        key,
    };
    pool::create(state, args).await
}

pub(super) async fn make_volume(state: &EngineState, path: &str) {
    let args = VolumeCreate {
        path: path.parse().unwrap(),
        size: 1 << 20,
        settings: Vec::new(),
        if_absent: false,
        key: None,
    };
    volume::create(state, args).await.unwrap();
}

/// What else is on the disk of a folder is not used by the pool, and what volumes store shows without another look.
#[tokio::test]
async fn used_of_a_pool_in_folders_is_what_its_volumes_have_stored() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "home").await;
    make_pool(&state, "p", &folders(dir.path(), &["a", "b", "c"])).await.unwrap();
    let used = |of: &[crate::daemon::answers::PoolLine]| of[0].used_bytes;
    assert_eq!(used(&pool::lines(&state)), None, "nobody has looked yet");
    let listed: Vec<crate::daemon::answers::PoolLine> = pool::list(&state).await.unwrap().answer().unwrap();
    assert_eq!(used(&listed), Some(0));
    make_volume(&state, "p/v").await;
    let name: Name = "v".parse().unwrap();
    let open = state.pools.get(&"p".parse().unwrap()).await.unwrap();
    let volume = open.volumes.open(&name, OpenMode::Normal).await.unwrap();
    volume.write(0, Bytes::from(vec![7u8; 64 << 10])).await.unwrap();
    open.volumes.release(&name).await.unwrap();
    drop(volume);
    // As the daemon does each second: what a volume that is closed again has stored is counted too.
    assert!(open.volumes.count_quota().await);
    let told = pool::status(&state, open.pool.name(), false).await.unwrap();
    let told: crate::daemon::answers::PoolAnswer = told.answer().unwrap();
    let stored = told.usage.unwrap().stored_with_parity_bytes;
    assert!(stored > 0 && stored < 1 << 20, "{stored}");
    assert_eq!((told.used_bytes, used(&pool::lines(&state))), (Some(stored), Some(stored)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_removed_when_only_a_removed_clone_held_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let mark = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    clone::clone(&state, &mark, &"p/c".parse().unwrap(), CloneAs::default(), false).await.unwrap();
    let said = snapshot::remove_snapshot(&state, &mark, false, RemoveMode::Now).await.unwrap_err();
    assert_eq!(said.to_string(), "p/v@s is needed by its clones: p/c; remove them first");
    // As a removal leaves it that was killed after its first step.
    let open = state.pools.get(&"p".parse().unwrap()).await.unwrap();
    let clone = open.pool.lookup(&"c".parse().unwrap()).await.unwrap().unwrap();
    open.volumes.engine().cell(clone).change(|head| head.remove(&BTreeSet::new(), Nonce(0))).await.unwrap();
    snapshot::remove_snapshot(&state, &mark, true, RemoveMode::Now).await.unwrap();
    snapshot::remove_snapshot(&state, &mark, false, RemoveMode::Now).await.unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_with_snapshots_goes_only_when_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (path, clone): (VolumePath, VolumePath) = ("p/v".parse().unwrap(), "p/c".parse().unwrap());
    let marks: Vec<SnapshotPath> =
        ["a", "b", "c", "d", "e"].iter().map(|name| format!("p/v@{name}").parse().unwrap()).collect();
    for mark in &marks {
        snapshot::snapshot(&state, std::slice::from_ref(mark), TAKEN).await.unwrap();
    }
    clone::clone(&state, &marks[0], &clone, CloneAs::default(), false).await.unwrap();
    let refused = async |dry_run| {
        let said = volume::remove(&state, &path, dry_run, (RemoveMode::Trash, false)).await.unwrap_err();
        assert!(said.is(Kind::Refused), "{said}");
        said.to_string()
    };
    assert!(refused(false).await.contains("clones: p/c"), "what the flag would not help against comes first");
    volume::remove(&state, &clone, false, (RemoveMode::Now, false)).await.unwrap();
    for dry_run in [true, false] {
        let said = refused(dry_run).await;
        assert!(
            said.starts_with("p/v has 5 snapshots, which would go with it: a, b, c and 2 more; add --with-s"),
            "{said}"
        );
    }
    let would = volume::remove(&state, &path, true, (RemoveMode::Now, true)).await.unwrap();
    assert_eq!(would.notes, ["p/v would be removed, with its snapshots"]);
    volume::remove(&state, &path, false, (RemoveMode::Now, true)).await.unwrap();
    let gone = volume::remove(&state, &path, false, (RemoveMode::Now, false)).await.unwrap_err();
    assert!(gone.is(Kind::NotFound), "{gone}");
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_client_may_write_a_second_is_refused_until_the_first_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let path: VolumePath = "p/v".parse().unwrap();
    let open = state.pools.get(&path.pool).await.unwrap();
    let enter = |name| state.sessions.enter(&path, &open.volumes, Visitor::Client(name)).unwrap();
    let one = || VolumeSettings { clients: Clients::One, ..VolumeSettings::default() };
    let (first, again, second) = (enter("10.0.0.1:1"), enter("10.0.0.1:2"), enter("process 7"));
    first.writes(one).unwrap();
    again.writes(one).unwrap();
    let told = second.writes(one).unwrap_err();
    assert!(told.is(Kind::ReadOnly) && told.to_string().contains("which is 10.0.0.1"), "{told}");
    assert_eq!(state.sessions.writers(&path), ["10.0.0.1"]);
    drop(first);
    assert!(second.writes(one).is_err(), "another connection of it is there still");
    drop(again);
    second.writes(one).unwrap();
    enter("process 8").writes(VolumeSettings::default).unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // a user's file
async fn a_pool_with_a_key_opens_by_what_a_command_or_windlass_toml_gives_and_never_without() {
    let dir = tempfile::tempdir().unwrap();
    let (name, stores): (Name, _) = ("p".parse().unwrap(), folders(dir.path(), &["s0", "s1", "s2"]));
    let key = |byte: &str| Some(GivenKey::Key(byte.repeat(32)));
    let first = state(dir.path(), "h").await;
    let words = Some(GivenKey::Passphrase("correct horse".into()));
    assert!(make_pool_with(&first, "p", &stores, words).await.unwrap_err().is(Kind::Usage));
    let made = make_pool_with(&first, "p", &stores, key("07")).await.unwrap();
    assert!(made.notes.iter().any(|note| note.contains("[pool.p]")), "{:?}", made.notes);
    make_volume(&first, "p/v").await;
    first.pools.shutdown(Duration::from_secs(5)).await;
    drop(first);
    // The next process has it from windlass.toml alone, and does not fall for stores that say that there is none.
    let again = state(dir.path(), "h").await;
    let missing = again.pools.get(&name).await.unwrap_err();
    assert!(missing.is(Kind::Refused) && missing.to_string().contains("pool p has a key"), "{missing}");
    let file = dir.path().join("key");
    std::fs::write(&file, [7; 32]).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!("[pool.p]\nkey_file = \"{}\"\n", file.display());
    again.keys.follow(Arc::new(Config::parse(&text).unwrap()));
    let open = again.pools.get(&name).await.unwrap();
    assert!(open.pool.has_key() && open.pool.lookup(&"v".parse().unwrap()).await.unwrap().is_some());
    // Another host.
    let other = state(dir.path(), "other").await;
    for (given, why) in [(None, "has a key"), (key("08"), "not signed by the key")] {
        let refused = pool::add(&other, name.clone(), &stores, given).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    pool::add(&other, name.clone(), &stores, key("07")).await.unwrap();
    other.pools.shutdown(Duration::from_secs(5)).await;
    again.pools.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_of_an_encrypted_volume_are_found_and_its_given_key_is_known_to_be_here_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    let args = VolumeCreate {
        path: "p/v".parse().unwrap(),
        size: 1 << 20,
        settings: Vec::new(),
        if_absent: false,
        key: Some(GivenKey::Key("07".repeat(32))),
    };
    volume::create(&state, args).await.unwrap();
    make_volume(&state, "p/plain").await;
    let marks: Vec<crate::daemon::api::SnapshotPath> =
        ["p/v@one", "p/v@two"].iter().map(|mark| mark.parse().unwrap()).collect();
    for mark in &marks {
        snapshot::snapshot(&state, std::slice::from_ref(mark), TAKEN).await.unwrap();
    }
    let (one, c) = (&marks[0], "p/c".parse().unwrap());
    for _ in 0..2 {
        clone::clone(&state, one, &c, CloneAs::default(), true).await.unwrap();
    }
    let said = clone::clone(&state, &marks[1], &c, CloneAs::default(), true).await.unwrap_err().to_string();
    assert_eq!(said, "volume p/c exists, but is no clone of p/v@two");
    // What the next daemon could not open must not be handed over to it.
    let open = state.pools.get(&"p".parse().unwrap()).await.unwrap();
    for name in ["v", "plain"] {
        open.volumes.open(&name.parse().unwrap(), windlass_volume::OpenMode::Normal).await.unwrap();
    }
    assert!(open.volumes.opened_by_given_keys().contains(&"p/v".to_owned()));
    assert!(!open.volumes.opened_by_given_keys().contains(&"p/plain".to_owned()));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clones_are_made_and_what_is_there_counts_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    make_volume(&state, "p/w-30").await;
    let mark: crate::daemon::api::SnapshotPath = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    let many = async |count, pattern: &str, if_absent| {
        let args = CloneMany { from: mark.clone(), count, pattern: pattern.into(), if_absent };
        clone::clone_many(&state, &args, &ProgressSink::default()).await
    };
    // Nothing is made by a command that is wrong.
    for (count, pattern) in [(0, "w-{n}"), (10_001, "w-{n}"), (20, "w")] {
        assert!(many(count, pattern, false).await.unwrap_err().is(Kind::Usage));
    }
    let made = many(20, "w-{n}", false).await.unwrap();
    assert_eq!(made.value["made"].as_array().unwrap().len(), 20);
    assert_eq!((&made.value["made"][0], &made.value["made"][19]), (&"p/w-1".into(), &"p/w-20".into()));
    let there = many(25, "w-{n}", true).await.unwrap();
    assert_eq!(there.value["existed"].as_array().unwrap().len(), 20);
    assert_eq!(there.value["made"].as_array().unwrap().len(), 5);
    let stopped = many(26, "w-{n}", false).await.unwrap_err();
    assert!(stopped.is(Kind::Exists), "{stopped}");
    // One of them has its name from another volume: those that were made before it are told.
    let other = many(30, "w-{n}", true).await.unwrap_err();
    assert!(
        other.is(Kind::Exists) && other.to_string().contains("p/w-30 exists, but is no clone"),
        "{other}"
    );
    assert!(other.to_string().contains("4 of 30: p/w-26 to p/w-29;"), "{other}");
    let line = |line: VolumeLine| match line {
        VolumeLine::Known(v) => (v.path.to_string(), v.origin),
        VolumeLine::Unknown { path, .. } => panic!("{path}"),
    };
    let listed: Vec<VolumeLine> = volume::list(&state, None, false).await.unwrap().answer().unwrap();
    let listed: std::collections::BTreeMap<_, _> = listed.into_iter().map(line).collect();
    assert_eq!(listed.len(), 2 + 29);
    assert_eq!((&listed["p/w-7"], &listed["p/w-30"]), (&Some("p/v@s".to_owned()), &None));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_volume_that_is_renamed_go_on_under_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (v, w) = ("p/v".parse().unwrap(), "p/w".parse().unwrap());
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let client = exports.open("p/v", "process 7").await.unwrap();
    client.write(0, vec![7; 4096].into()).await.unwrap();
    volume::rename(&state, &v, &"w".parse().unwrap()).await.unwrap();
    client.write(4096, vec![8; 4096].into()).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.describe().name, "p/w");
    assert_eq!((state.sessions.clients(&v), state.sessions.clients(&w)), (0, 1));
    assert_eq!(state.sessions.writers(&w), ["process 7"]);
    assert_eq!(in_use(&state), [("p/w".to_owned(), "open".to_owned())]);
    let listed: Vec<String> = exports.list().await.unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(listed, ["p/w"]);
    assert!(exports.open("p/v", "process 8").await.err().unwrap().is(Kind::NotFound));
    // The old name is another volume's, whose clients are counted apart.
    make_volume(&state, "p/v").await;
    let other = exports.open("p/v", "process 8").await.unwrap();
    let both = exports.open("p/w", "process 9").await.unwrap();
    assert_eq!((state.sessions.clients(&v), state.sessions.clients(&w)), (1, 2));
    assert_eq!(both.read(4096, 1).await.unwrap().into_bytes().as_ref(), [8]);
    assert!(volume::release(&state, &w).await.unwrap_err().is(Kind::Owned));
    let taken = volume::rename(&state, &w, &"v".parse().unwrap()).await.unwrap_err();
    assert!(taken.is(Kind::Exists), "{taken}");
    drop(other);
    // They change their names with each other.
    for (from, to) in [("p/v", "x"), ("p/w", "v"), ("p/x", "w")] {
        volume::rename(&state, &from.parse().unwrap(), &to.parse().unwrap()).await.unwrap();
    }
    assert_eq!((state.sessions.clients(&v), client.describe().name), (2, "p/v".to_owned()));
    drop((client, both));
    assert_eq!(state.sessions.clients(&v), 0);
    volume::release(&state, &v).await.unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Checks how much a request holds while it is under way: its future is made anew for each, and copied when it grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_future_of_a_request_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let client = exports.open("p/v", "process 7").await.unwrap();
    let write = std::mem::size_of_val(&*client.write(0, vec![7; 4096].into()));
    let (read, keep) =
        (std::mem::size_of_val(&*client.read(0, 4096)), std::mem::size_of_val(&*client.keep()));
    println!("a write holds {write} bytes, a read {read}, a keep {keep}");
    assert!(write <= 4 << 10 && read <= 6 << 10 && keep <= 1 << 10, "{write}, {read}, {keep}");
    drop(client);
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_volume_that_moves_to_another_pool_go_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_pool(&state, "q", &folders(dir.path(), &["t0", "t1", "t2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (v, there) = ("p/v".parse().unwrap(), "q/v".parse().unwrap());
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let client = exports.open("p/v", "process 7").await.unwrap();
    client.write(0, vec![7; 8192].into()).await.unwrap();
    let ask = async |to: &str, abort| {
        let args =
            VolumeMove { path: "p/v".parse().unwrap(), to: to.parse().unwrap(), no_snapshots: false, abort };
        move_volume::run(&state, &args, &ProgressSink::default()).await
    };
    assert!(ask("p", false).await.unwrap_err().is(Kind::Usage));
    make_volume(&state, "q/v").await;
    assert!(ask("q", false).await.unwrap_err().is(Kind::Exists));
    volume::remove(&state, &there, false, (RemoveMode::Now, false)).await.unwrap();
    assert_eq!(ask("q", true).await.unwrap().value["given_up"], false);
    let moved = ask("q", false).await.unwrap();
    assert_eq!((&moved.value["to"], &moved.value["already"]), (&"q/v".into(), &false.into()), "{moved:?}");
    assert!(
        moved.value["pause_ms"].as_u64().unwrap() < 3_000 && moved.value["unfinished"].is_null(),
        "{moved:?}"
    );
    // The same connection, and new ones.
    client.write(4096, vec![8; 4096].into()).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!((client.describe().name, client.size()), ("q/v".to_owned(), 1 << 20));
    assert_eq!((state.sessions.clients(&v), state.sessions.clients(&there)), (0, 1));
    let other = exports.open("q/v", "process 8").await.unwrap();
    let read = other.read(4095, 2).await.unwrap().into_bytes();
    assert_eq!(read.as_ref(), [7, 8]);
    assert_eq!(in_use(&state), [("q/v".to_owned(), "open".to_owned())]);
    let listed: Vec<String> = exports.list().await.unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(listed, ["q/v"]);
    // By its old name it is told where it went; what it was is in the trash.
    for refused in [exports.open("p/v", "process 9").await.err(), exports.describe("p/v").await.err()] {
        let refused = refused.unwrap();
        assert!(refused.is(Kind::NotFound) && refused.to_string().contains("moved to q/v"), "{refused}");
    }
    assert!(volume::info(&state, &v, false).await.unwrap_err().to_string().contains("moved to q/v"));
    assert!(trash::restore(&state, &v, None).await.unwrap_err().is(Kind::Refused));
    assert_eq!(ask("q", false).await.unwrap().value["already"], true);
    // And back, under the name that is free again.
    let args = VolumeMove { path: there.clone(), to: v.pool.clone(), no_snapshots: true, abort: false };
    move_volume::run(&state, &args, &ProgressSink::default()).await.unwrap();
    client.write(0, vec![9; 4096].into()).await.unwrap();
    assert_eq!(other.read(4095, 2).await.unwrap().into_bytes().as_ref(), [9, 8]);
    assert_eq!((client.describe().name, state.sessions.clients(&v)), ("p/v".to_owned(), 2));
    drop((client, other));
    volume::release(&state, &v).await.unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// A client that has moved with its volume once has no request fail when it moves again: while those under way are waited for, what
/// they ask of their volume goes to where it is by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_moves_again_and_again_under_many_requests() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    for (pool, store) in [("p", "s"), ("q", "t")] {
        make_pool(&state, pool, &folders(dir.path(), &[store])).await.unwrap();
    }
    make_volume(&state, "p/v").await;
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let client = exports.open("p/v", "process 7").await.unwrap();
    let stop = CancellationToken::new();
    let requests = (0..8u64).map(|n| {
        let (client, stop) = (client.clone(), stop.clone());
        state.host_context.rt.spawn(async move {
            let (mut done, data) = (0, Bytes::from(vec![n as u8 + 1; 4096]));
            while !stop.is_cancelled() {
                client.write(n * 4096, data.clone()).await?;
                client.keep().await?;
                done += 1;
            }
            Ok::<u64, windlass_base::Error>(done)
        })
    });
    let requests: Vec<_> = requests.collect();
    for (path, to) in [("p/v", "q"), ("q/v", "p"), ("p/v", "q"), ("q/v", "p")] {
        let (path, to) = (path.parse().unwrap(), to.parse().unwrap());
        let args = VolumeMove { path, to, no_snapshots: true, abort: false };
        move_volume::run(&state, &args, &ProgressSink::default()).await.unwrap();
    }
    stop.cancel();
    for requests in requests {
        assert!(requests.await.unwrap().unwrap() > 4);
    }
    drop((client, exports));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Returns the volumes in use, and their states.
fn in_use(state: &EngineState) -> Vec<(String, String)> {
    let used = volume::in_use(state).into_iter();
    used.map(|volume| (volume.path.to_string(), volume.state.into_owned())).collect()
}

/// Returns the objects in a folder store.
#[allow(clippy::disallowed_methods)] // looks into stores from outside
fn objects(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).map(|all| all.map(std::result::Result::unwrap).collect());
    let entries: Vec<_> = entries.unwrap_or_default();
    let inside = |entry: &std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true if entry.file_name() == ".%windlass" => 0,
        true => objects(&entry.path()),
        false => 1,
    };
    entries.iter().map(inside).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // puts a kept journal into a state folder, and takes a store away
async fn a_pool_is_destroyed_after_it_was_said_what_that_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let (state, other) = (state(dir.path(), "h").await, state(dir.path(), "other").await);
    let stores = folders(dir.path(), &["s0", "s1", "s2"]);
    let (name, silent) = ("p".parse::<Name>().unwrap(), ProgressSink::default());
    make_pool(&state, "p", &stores).await.unwrap();
    pool::add(&other, name.clone(), &stores, None).await.unwrap();
    make_volume(&state, "p/v").await;
    let mark: crate::daemon::api::SnapshotPath = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    clone::clone(&state, &mark, &"p/c".parse().unwrap(), CloneAs::default(), false).await.unwrap();
    let destroy = async |confirmed: Option<&str>, force, dry_run| {
        let confirmed = confirmed.map(|name| name.parse().unwrap());
        let args = crate::daemon::api::PoolDestroy { name: name.clone(), confirmed, force, dry_run };
        destroy_pool::destroy(&state, &args, &silent).await
    };
    let dry = destroy(None, false, true).await.unwrap();
    assert_eq!((&dry.value["volumes"], &dry.value["snapshots"]), (&2.into(), &1.into()), "{}", dry.value);
    assert_eq!(dry.value["destroyed"], false);
    for unconfirmed in [None, Some("q")] {
        let refused = destroy(unconfirmed, true, false).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("2 volumes"), "{refused}");
    }
    // A client, another host that owns a volume, a store that is away: each is named.
    let path = "p/v".parse().unwrap();
    let volumes = state.pools.get(&name).await.unwrap().volumes.clone();
    let client = state.sessions.enter(&path, &volumes, Visitor::Client("a test")).unwrap();
    assert!(destroy(Some("p"), true, false).await.unwrap_err().is(Kind::Owned));
    drop(client);
    volumes.release(&path.volume).await.unwrap();
    let theirs = other.pools.get(&name).await.unwrap().volumes.clone();
    let writes = theirs.open(&path.volume, windlass_volume::OpenMode::Normal).await.unwrap();
    writes.write(0, vec![7; 4096].into()).await.unwrap();
    let owned = destroy(Some("p"), true, false).await.unwrap_err();
    assert!(owned.is(Kind::Owned) && owned.to_string().contains("volume release p/v"), "{owned}");
    theirs.release(&path.volume).await.unwrap();
    let away = |from: &str, to: &str| std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    away("s2", "gone");
    let refused = destroy(Some("p"), false, false).await.unwrap_err();
    assert!(refused.is(Kind::Refused) && refused.to_string().contains("s2"), "{refused}");
    // With force it stays; what was begun goes on when the store is back.
    let pool_id = state.pools.get(&name).await.unwrap().pool.id();
    let kept = state.host_context.home.volumes().join(pool_id.to_string()).join("1/journal.2026");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("segment"), "x").unwrap();
    let done = destroy(Some("p"), true, false).await.unwrap();
    assert_eq!(done.value["destroyed"], true);
    assert!(done.notes.iter().any(|note| note.contains("journal.2026")), "{:?}", done.notes);
    assert_eq!([objects(&dir.path().join("s0")), objects(&dir.path().join("s1"))], [0, 0]);
    assert!(objects(&dir.path().join("gone")) > 0 && kept.join("segment").exists());
    assert!(!kept.parent().unwrap().join("journal").exists());
    assert!(state.pools.known().is_empty());
    assert!(destroy(Some("p"), true, false).await.unwrap_err().is(Kind::NotFound));
    // The other host loses it without a wait.
    assert!(theirs.create(&"w".parse().unwrap(), 512, Default::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_fills_up_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    let name = "p".parse().unwrap();
    let status = pool::status(&state, &name, true).await.unwrap();
    assert!(status.value["free_bytes"].is_u64() && status.value["stores"][1]["used_bytes"].is_u64());
    make_volume(&state, "p/v").await;
    let volumes = state.pools.get(&name).await.unwrap().volumes.clone();
    let volume = volumes.open(&"v".parse().unwrap(), windlass_volume::OpenMode::Normal).await.unwrap();
    let random: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    volume.write(0, random.into()).await.unwrap();
    volumes.release(&"v".parse().unwrap()).await.unwrap();
    drop(volume);
    let stored = volumes.info(&"v".parse().unwrap()).await.unwrap().stored_bytes * 3 / 2;
    let capacity = |bytes: u64| [format!("capacity={bytes}")];
    pool::set(&state, &name, &capacity(100 * stored)).await.unwrap();
    let roomy = pool::status(&state, &name, true).await.unwrap();
    assert_eq!((&roomy.value["used_bytes"], roomy.degraded), (&stored.into(), false), "{:?}", roomy.notes);
    pool::set(&state, &name, &capacity(stored + stored / 20)).await.unwrap();
    let full = pool::status(&state, &name, true).await.unwrap();
    assert!(full.degraded && full.notes.iter().any(|note| note.contains("95 % full")), "{:?}", full.notes);
    let [(listed, trouble, degraded), (_, in_status, _)] = self::told(&state).await;
    assert!(listed == "open" && degraded && trouble.contains("95 % full") && in_status == trouble);
    pool::set(&state, &name, &["capacity=none".to_owned()]).await.unwrap();
    assert!(!pool::status(&state, &name, true).await.unwrap().degraded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_store_is_made_inside_another() {
    let dir = tempfile::tempdir().unwrap();
    let (knows, stranger) = (state(dir.path(), "h").await, state(dir.path(), "other").await);
    let stores = folders(dir.path(), &["d/s0", "d/s1", "d/s2"]);
    let silent = ProgressSink::default();
    make_pool(&knows, "outer", &stores).await.unwrap();
    let inside = folders(dir.path(), &["d/s0/x/inner", "i1", "i2"]);
    let refused = |why: Error| {
        let text = why.to_string();
        assert!(why.is(Kind::Refused) && text.contains("pool outer") && text.contains("d/s0"), "{why}");
    };
    refused(make_pool(&knows, "inner", &inside).await.unwrap_err());
    // A host that knows nothing of that pool sees its label.
    refused(make_pool(&stranger, "inner", &inside).await.unwrap_err());
    let outer = "outer".parse().unwrap();
    let swap = |new| replace::replace(&knows, &outer, (&stores[2], new), false, &silent);
    refused(swap(&inside[0]).await.unwrap_err());
    let above = folders(dir.path(), &["d"]);
    refused(make_pool(&knows, "above", &[&above[..], &inside[1..]].concat()).await.unwrap_err());
    let twice = folders(dir.path(), &["t", "t/u", "t2"]);
    let why = make_pool(&stranger, "twice", &twice).await.unwrap_err();
    assert!(why.is(Kind::Usage) && why.to_string().contains("overlap"), "{why}");
    // Nothing was labelled; a place beside them is taken.
    assert!(label_in(&dir.path().join("i1")).is_none() && label_in(&dir.path().join("t")).is_none());
    swap(&inside[1]).await.unwrap();
    for state in [knows, stranger] {
        assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    }
}

/// Returns names, states and exit code as `pool list` and `status` tell them.
async fn told(state: &EngineState) -> [(String, String, bool); 2] {
    let one = |outcome: Outcome, pools: &serde_json::Value| {
        let line = &pools[0];
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("trouble"), outcome.degraded)
    };
    let (listed, status) = (pool::list(state).await.unwrap(), status(state).await.unwrap());
    let (pools, inner) = (listed.value.clone(), status.value["pools"].clone());
    [one(listed, &pools), one(status, &inner)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // takes a store's folder away from outside
async fn what_needs_attention_is_said_by_list_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    for (state, trouble, degraded) in told(&state).await {
        assert_eq!((state.as_str(), trouble.as_str(), degraded), ("open", "", false));
    }
    let away =
        |name: &str| std::fs::rename(dir.path().join(name), dir.path().join(format!("{name}.away"))).unwrap();
    away("s2");
    for (state, trouble, degraded) in told(&state).await {
        assert!(state == "degraded" && degraded && trouble.contains("s2"), "{state}: {trouble}");
    }
    let said = status(&state).await.unwrap().notes.join("\n");
    assert!(said.contains("is not there") && said.contains("`windlass doctor --pool p`"), "{said}");
    let mut seen = state.pools.get(&"p".parse().unwrap()).await.unwrap().pool.status();
    let lost = seen.stores.iter_mut().find(|store| store.url.ends_with("s2")).unwrap();
    (lost.state, lost.reason, seen.damaged_shards) = (StoreState::Out, Some("it has no label".to_owned()), 2);
    let said = pool::advice(&seen);
    assert!(
        said[0].contains("s2: it has no label") && said[0].contains("`windlass pool repair p`"),
        "{said:?}"
    );
    assert!(said[1].contains("2 shards") && said.len() == 2, "{said:?}");
    assert!(pool::older_stores(&seen).is_empty());
    seen.stores[1].older = true;
    let said = pool::older_stores(&seen);
    assert!(said.len() == 1 && said[0].contains("s1 was away, or was put back from a backup"), "{said:?}");
    away("s1");
    for (state, trouble, degraded) in told(&state).await {
        assert!(state == "stalled" && degraded && trouble.contains("s1"), "{state}: {trouble}");
    }
    // A daemon that can't open it says so too; a command that opens nothing has nothing to say.
    let later = self::state(dir.path(), "h").await;
    let quiet = status(&later).await.unwrap();
    assert!(!quiet.degraded && quiet.value["pools"][0]["state"] == "closed");
    later.pools.get(&"p".parse().unwrap()).await.unwrap_err();
    let closed = status(&later).await.unwrap();
    assert!(closed.degraded && closed.value["pools"][0]["trouble"].is_string(), "{}", closed.value);
    assert!(closed.notes.join("\n").contains("`windlass doctor --pool p`"), "{:?}", closed.notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_becomes_no_template_while_clients_may_write_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (path, template) = ("p/v".parse().unwrap(), ["template=true".to_owned()]);
    let volumes = state.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let client = state.sessions.enter(&path, &volumes, Visitor::Client("process 7")).unwrap();
    let refused = volume::set(&state, &path, &template).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("process 7"), "{refused}");
    volume::set(&state, &path, &["iops=10".to_owned()]).await.unwrap();
    drop(client);
    volume::set(&state, &path, &template).await.unwrap();
    // Who is connected by now only reads.
    let _client = state.sessions.enter(&path, &volumes, Visitor::Client("process 7")).unwrap();
    let again = volume::set(&state, &path, &template).await.unwrap();
    assert!(
        again.value["template"] == true && again.value["limits"]["iops"]["rate"] == 10,
        "{}",
        again.value
    );
    assert!(volume::remove(&state, &path, true, (RemoveMode::Now, false)).await.unwrap_err().is(Kind::Owned));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_needs_the_volume_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let snapshot: crate::daemon::api::SnapshotPath = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&snapshot), TAKEN).await.unwrap();
    let volumes = state.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let path = &snapshot.volume;
    let enter = |who| state.sessions.enter(path, &volumes, who);
    let roll_back =
        |disconnect| roll_back_resize_flatten::roll_back(&state, &snapshot, None, (disconnect, false));
    let client = enter(Visitor::Client("10.0.0.7:4000")).unwrap();
    let refused = roll_back(false).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("10.0.0.7:4000"), "{refused}");
    // What is refused for another reason hangs up on nobody.
    let none = "p/v@none".parse().unwrap();
    assert!(
        roll_back_resize_flatten::roll_back(&state, &none, None, (true, false))
            .await
            .unwrap_err()
            .is(Kind::NotFound)
    );
    // Nor is a command.
    let command = enter(Visitor::Command("a command")).unwrap();
    let refused = roll_back(true).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("a command"), "{refused}");
    assert!(!client.hang_up().is_cancelled());
    drop(command);
    let token = client.hang_up();
    let (done, ()) = futures::join!(roll_back(true), async {
        token.cancelled().await;
        drop(client);
    });
    assert_eq!(done.unwrap().value["kept"], serde_json::Value::Null);
    let alone = state.sessions.alone(path, &volumes, "rolled back", false).await.unwrap();
    let refused = enter(Visitor::Client("10.0.0.7:4001")).unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("rolled back"), "{refused}");
    assert!(roll_back(false).await.is_err() && state.sessions.check_unused(path, &volumes).await.is_err());
    drop(alone);
    enter(Visitor::Client("10.0.0.7:4001")).unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_volume_alone_ends_its_work_on_that_very_volume() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_pool(&state, "q", &folders(dir.path(), &["s1"])).await.unwrap();
    make_volume(&state, "p/v").await;
    make_volume(&state, "p/w").await;
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: true };
    let from: crate::daemon::api::SnapshotPath = "p/v@from".parse().unwrap();
    let (v, w) = (from.volume.clone(), "p/w".parse().unwrap());
    let [name_v, name_w, name_x] = ["v", "w", "x"].map(|name| name.parse::<Name>().unwrap());
    snapshot::snapshot(&state, std::slice::from_ref(&from), TAKEN).await.unwrap();
    let holder = exports.open("!p/v", "process 7").await.unwrap();
    holder.write(0, vec![7; 4096].into()).await.unwrap();
    holder.flush().await.unwrap();
    // It keeps its name, and is where it is; nobody else comes.
    let refused = volume::rename(&state, &v, &name_x).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("process 7"), "{refused}");
    assert!(volume::rename(&state, &w, &name_v).await.unwrap_err().is(Kind::Owned));
    assert!(volume::remove(&state, &v, false, (RemoveMode::Now, false)).await.unwrap_err().is(Kind::Owned));
    let to_q = VolumeMove { path: v.clone(), to: "q".parse().unwrap(), no_snapshots: false, abort: false };
    let moved = move_volume::run(&state, &to_q, &ProgressSink::default()).await;
    assert!(moved.unwrap_err().is(Kind::Owned));
    assert!(exports.open("p/v", "process 8").await.err().unwrap().is(Kind::Owned));
    let roll_back = |held| roll_back_resize_flatten::roll_back(&state, &from, None, (false, held));
    assert!(roll_back(false).await.unwrap_err().is(Kind::Owned));
    // Its own work is done meanwhile, and others come when the holder has gone.
    let end = ["p/v@end".parse().unwrap()];
    let held = snapshot::Taking { held: true, ..TAKEN };
    snapshot::snapshot(&state, &end, held).await.unwrap();
    roll_back(true).await.unwrap();
    assert!(exports.open("p/v", "process 8").await.err().unwrap().is(Kind::Owned));
    drop(holder);
    let other = exports.open("p/v", "process 8").await.unwrap();
    assert_eq!(other.read(0, 1).await.unwrap().into_bytes().as_ref(), [0]);
    assert!(roll_back(true).await.unwrap_err().is(Kind::Refused));
    let late = ["p/v@late".parse().unwrap()];
    assert!(snapshot::snapshot(&state, &late, held).await.unwrap_err().is(Kind::Refused));
    volume::rename(&state, &v, &name_x).await.unwrap();
    // The target of a copy, there or not, has its name until the copy is over; and a name that changes is held by nobody.
    let volumes = state.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let target = state.sessions.alone(&w, &volumes, "copied to", false).await.unwrap();
    assert!(volume::rename(&state, &w, &name_v).await.unwrap_err().is(Kind::Owned));
    assert!(volume::rename(&state, &"p/x".parse().unwrap(), &name_w).await.unwrap_err().is(Kind::Owned));
    drop(target);
    let renaming = state.sessions.rename([w.clone(), v.clone()]).unwrap();
    for path in [&v, &w] {
        assert!(state.sessions.alone(path, &volumes, "copied to", false).await.unwrap_err().is(Kind::Owned));
    }
    drop(renaming);
    volume::rename(&state, &w, &name_v).await.unwrap();
    drop(other);
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Writes and reads back until it is stopped. Tells how many requests there were, and returns the longest wait of
/// one.
async fn load(
    rt: Rt,
    client: windlass_nbd::Client,
    stop: CancellationToken,
    told: watch::Sender<u64>,
) -> Duration {
    let (mut requests, mut longest) = (0, Duration::ZERO);
    while !stop.is_cancelled() {
        let (data, offset) = (Bytes::from(vec![requests as u8 | 1; 8192]), requests % 100 * 8192);
        let began = rt.now();
        client.write(offset, data.clone(), requests % 20 == 0).await.unwrap();
        assert_eq!(client.read(offset, 8192).await.unwrap(), data);
        longest = longest.max(rt.now().since(began));
        requests += 1;
        told.send_replace(requests);
        rt.sleep(Duration::from_micros(500)).await;
    }
    longest
}

/// Waits until a few requests more were answered, begun and ended under this daemon.
async fn some_more(rt: &Rt, requests: &mut watch::Receiver<u64>) {
    let until = *requests.borrow() + 8;
    let done = rt.timeout(Duration::from_secs(120), requests.wait_for(|done| *done >= until)).await;
    done.expect("the client hangs").expect("the client has noticed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_with_this_daemon_until_the_next_one_has_them() {
    let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
    let home = StateDir::at(dir.path().join("h"));
    let options = Options { memory: 64 << 20, serve: true, control: true, ..Options::default() };
    let start = |options: Options| {
        Engine::start(rt.clone(), RealDisk::start(), home.clone(), Config::default(), options)
    };
    let mut engine = start(options.clone()).await.unwrap();
    make_pool(engine.state(), "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(engine.state(), "p/v").await;
    let (address, stop) = (engine.state().nbd_addresses()[0].clone(), CancellationToken::new());
    let client = windlass_nbd::Client::connect(&rt, &address, "p/v").await.unwrap();
    let (told, mut requests) = watch::channel(0);
    let load = rt.spawn(load(rt.clone(), client, stop.clone(), told));
    let ask = |format, to: &Path| {
        let (version, socket) = ("test".to_owned(), to.display().to_string());
        Verb::HandOver(HandOver { format, version, socket })
    };
    let nowhere = dir.path().join("nowhere");
    let refused = engine.run(ask(FORMAT + 1, &nowhere), ProgressSink::none()).await.unwrap_err();
    assert!(refused.is(Kind::Unsupported), "{refused}");
    for round in 0..3 {
        engine.run(ask(FORMAT, &nowhere), ProgressSink::none()).await.unwrap_err();
        some_more(&rt, &mut requests).await;
        let path = home.handover(round).unwrap();
        let receiver = Receiver::listen(&path).unwrap();
        let took = async {
            let (parcel, sender) = receiver.receive(&rt).await.unwrap();
            let servers = parcel.open().unwrap();
            sender.taken().await.unwrap();
            servers
        };
        let asked = engine.run(ask(FORMAT, &path), ProgressSink::none());
        let (done, servers) = futures::join!(asked, took);
        done.unwrap();
        engine.replaced().await;
        engine.shutdown().await.unwrap();
        assert_eq!(servers[0].clients.len(), 1);
        engine =
            start(Options { handed_over: HandedOver::new(servers, None), ..options.clone() }).await.unwrap();
        assert_eq!(engine.state().nbd_addresses(), std::slice::from_ref(&address));
        some_more(&rt, &mut requests).await;
    }
    stop.cancel();
    let longest = load.await.expect("the client has noticed nothing");
    eprintln!("{} requests, longest wait {longest:?}", *requests.borrow());
    engine.shutdown().await.unwrap();
}

/// Checks mount points that were exchanged, and a bucket that was made anew: another pool of this name lies where
/// this host knows its own.
#[allow(clippy::disallowed_methods)] // moves stores from outside
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pool_of_a_known_name_is_neither_opened_nor_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let (name, all): (Name, _) = ("p".parse().unwrap(), ["s0", "s1", "s2"]);
    let mine = state(dir.path(), "mine").await;
    let stores = folders(dir.path(), &all);
    make_pool(&mine, "p", &stores).await.unwrap();
    make_volume(&mine, "p/v").await;
    assert!(mine.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    let exchange = |from: &str, to: &str| {
        for store in all {
            let place = |suffix: &str| dir.path().join(format!("{store}{suffix}"));
            std::fs::rename(place(""), place(from)).unwrap();
            match place(to).exists() {
                true => std::fs::rename(place(to), place("")).unwrap(),
                false => std::fs::create_dir(place("")).unwrap(),
            }
        }
    };
    exchange(".mine", ".other");
    let other = state(dir.path(), "other").await;
    make_pool(&other, "p", &stores).await.unwrap();
    make_volume(&other, "p/v").await;
    assert!(other.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    let again = state(dir.path(), "mine").await;
    let refused = [
        again.pools.get(&name).await.map(drop).unwrap_err(),
        again.pools.destruction(&name).await.map(drop).unwrap_err(),
        again.pools.recovery(&name, Vec::new()).await.map(drop).unwrap_err(),
    ];
    for error in refused {
        assert!(error.is(Kind::Refused) && error.to_string().contains("another pool"), "{error}");
    }
    // One store of another pool is a store that is out, and no reason to stay closed.
    exchange(".other", ".mine");
    let place = |name: &str| dir.path().join(name);
    std::fs::rename(place("s2"), place("s2.mine")).unwrap();
    std::fs::rename(place("s2.other"), place("s2")).unwrap();
    again.pools.get(&name).await.unwrap();
    assert!(again.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Returns the label of the store that this folder is.
#[allow(clippy::disallowed_methods)] // looks into stores from outside
fn label_in(dir: &std::path::Path) -> Option<std::path::PathBuf> {
    let names = std::fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("label-"))
}

/// Whoever writes to one store can have its label list any URL, also one that takes a key file of the host which
/// opens it.
#[allow(clippy::disallowed_methods)] // forges a store's label from outside
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_label_sends_no_key_of_this_host_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let maker = state(dir.path(), "maker").await;
    let stores = folders(dir.path(), &["s0", "s1", "s2"]);
    make_pool(&maker, "p", &stores).await.unwrap();
    assert!(maker.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    let key = dir.path().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    let thief = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    thief.set_nonblocking(true).unwrap();
    let at = thief.local_addr().unwrap();
    let evil = format!("s3://b?endpoint=http://{at}&region=r&anonymous=true&sse=c:{}", key.display());
    let label = label_in(&dir.path().join("s0")).unwrap();
    let text = std::fs::read_to_string(&label).unwrap();
    let forged = text.replace(&stores[2], &evil).replace("\"generation\":0", "\"generation\":1");
    assert_ne!(forged, text);
    std::fs::write(&label, forged).unwrap();
    let other = state(dir.path(), "other").await;
    let name: Name = "p".parse().unwrap();
    // What becomes of the pool is another matter.
    let _ = other.pools.add(&name, stores[..2].to_vec(), None).await;
    assert!(thief.accept().is_err(), "something of this host went to a stranger");
    assert!(other.pools.known().iter().all(|known| !known.stores.contains(&evil)));
    assert!(other.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_given_listed_and_taken_back_without_a_secret_shown() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    let file = state.host_context.home.credentials();
    let config = "[store.east]\nurl = \"s3://verbs-credentials/x\"\nendpoint = \"http://127.0.0.1:1\"\nregion = \"r\"\n";
    *state.config.lock() = Arc::new(Config::parse(config).unwrap());
    let set = async |target: &str, id: &str, keep, expires_ms| {
        let keys = AccessKeys { expires_ms, ..AccessKeys::parse(&format!("{id}:HUSH:HUSH")).unwrap() };
        let args = CredentialsSet { target: target.into(), keys, keep, force: false };
        assert!(!format!("{:?}", Verb::CredentialsSet(args.clone())).contains("HUSH"));
        run(&state, Verb::CredentialsSet(args), ProgressSink::none()).await
    };
    let line = async |target: &str| {
        let listed = run(&state, Verb::CredentialsList, ProgressSink::none()).await.unwrap();
        assert!(!serde_json::to_string(&listed).unwrap().contains("HUSH"));
        let lines: Vec<CredentialsLine> = listed.answer().unwrap();
        lines.into_iter().find(|line| line.target == target).map(|line| (line.key_id, line.source))
    };
    let place = "s3://verbs-credentials/x?endpoint=http://127.0.0.1:1";
    // By the name of windlass.toml. Nobody answers there, so nobody refuses them.
    let said = set("east", "A", false, None).await.unwrap();
    assert!(said.notes.iter().any(|note| note.starts_with("not tried: ")), "{said:?}");
    assert_eq!((said.value["target"].as_str(), said.value["kept"].as_bool()), (Some(place), Some(false)));
    assert_eq!(line(place).await, Some(("A".to_owned(), KeySource::Memory)));
    assert!(!file.exists());
    set(place, "B", true, None).await.unwrap();
    assert_eq!(line(place).await, Some(("B".to_owned(), KeySource::Kept)));
    // What was kept once is kept on: the next start must not come back with keys that are gone.
    let said = set("east", "C", false, None).await.unwrap();
    assert!(said.notes.iter().any(|note| note.contains("kept before")), "{said:?}");
    let kept = crate::daemon::read_kept_credentials(&*state.host_context.disk, &file).await.unwrap();
    assert_eq!(kept[&place.parse().unwrap()].id, "C");
    let ended = set("east", "D", false, Some(1)).await.unwrap_err();
    assert!(ended.is(Kind::Usage) && ended.to_string().contains("ended"), "{ended}");
    for target in ["west", "file:///x", "profile:"] {
        assert!(set(target, "E", false, None).await.unwrap_err().is(Kind::Usage), "{target}");
    }
    let remove = async |target: &str| {
        run(&state, Verb::CredentialsRemove { target: target.into() }, ProgressSink::none()).await
    };
    remove("east").await.unwrap();
    assert_eq!(line(place).await, None);
    let kept = crate::daemon::read_kept_credentials(&*state.host_context.disk, &file).await.unwrap();
    assert!(kept.is_empty() && keyring().list().iter().all(|(target, ..)| target.to_string() != place));
    assert!(remove("east").await.unwrap_err().is(Kind::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_shows_what_is_own_shared_gone_and_nothing() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    let args = VolumeCreate {
        path: "p/v".parse().unwrap(),
        size: 8 * MIB,
        settings: Vec::new(),
        if_absent: false,
        key: None,
    };
    volume::create(&state, args).await.unwrap();
    let map = async |path: &str| volume_sharing_map::part(&state, path.parse().unwrap(), 0).await;
    let why = map("p/v").await.unwrap_err();
    assert!(why.is(Kind::Unavailable) && why.to_string().contains("not open here"), "{why}");
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let client = exports.open("p/v", "process 7").await.unwrap();
    let noise =
        |n: u8| bytes::Bytes::from((0..MIB).map(|i| (i as u8).wrapping_mul(31) ^ n).collect::<Vec<_>>());
    for at in 0..3 {
        client.write(at * MIB, noise(at as u8)).await.unwrap();
    }
    let cells = |part: &volume_sharing_map::DiskMapPart| -> Vec<(u64, u64, u64)> {
        part.cells.iter().map(|c| (c.own_bytes / MIB, c.shared_bytes / MIB, c.gone_bytes / MIB)).collect()
    };
    let (own, shared, gone, hole) = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0));
    let before = map("p/v").await.unwrap();
    assert_eq!((before.cell_bytes, before.next, before.snapshot.as_deref()), (MIB, None, None));
    assert_eq!(cells(&before), [own, own, own, hole, hole, hole, hole, hole]);
    let mark = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    clone::clone(&state, &mark, &"p/c".parse().unwrap(), CloneAs::default(), false).await.unwrap();
    client.write(MIB, noise(9)).await.unwrap();
    client.trim(2 * MIB, MIB).await.unwrap();
    let after = map("p/v").await.unwrap();
    assert_eq!(after.snapshot.as_deref(), Some("p/v@s"));
    assert_eq!(cells(&after), [shared, own, gone, hole, hole, hole, hole, hole]);
    // The second part alone.
    let rest = volume_sharing_map::part(&state, "p/v".parse().unwrap(), 2).await.unwrap();
    assert_eq!((rest.from, cells(&rest)), (2, vec![gone, hole, hole, hole, hole, hole]));
    let beyond = volume_sharing_map::part(&state, "p/v".parse().unwrap(), u64::MAX).await.unwrap_err();
    assert!(beyond.is(Kind::Usage), "{beyond}");
    let of_clone = exports.open("p/c", "process 8").await.unwrap();
    of_clone.write(0, noise(7)).await.unwrap();
    assert_eq!(cells(&map("p/c").await.unwrap()), [own, shared, shared, hole, hole, hole, hole, hole]);
    // One at a time.
    let turn = state.at_work.map_turn.lock().await;
    let why = map("p/v").await.unwrap_err();
    assert!(why.is(Kind::Unavailable) && why.to_string().contains("try again"), "{why}");
    drop((turn, client, of_clone));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_born_as_it_was_asked_for_and_found_again_by_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "a").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let mark: SnapshotPath = "p/v@s".parse().unwrap();
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    let c = "p/c".parse().unwrap();
    let make = async |size: Option<u64>, settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|one| (*one).to_owned()).collect();
        clone::clone(&state, &mark, &c, CloneAs { size, settings: &settings }, true).await
    };
    let small = make(Some(4096), &[]).await.unwrap_err();
    assert!(small.is(Kind::Usage) && small.to_string().contains("not smaller"), "{small}");
    make(Some(2 << 20), &["flush=pool", "template=true"]).await.unwrap();
    let made = state.pools.get(&c.pool).await.unwrap().volumes.info(&c.volume).await.unwrap();
    assert_eq!((made.size, made.flush, made.template), (2 << 20, FlushMode::Pool, true));
    make(Some(2 << 20), &["flush=pool"]).await.unwrap();
    make(None, &[]).await.unwrap();
    for (size, settings, why) in
        [(Some(3 << 20), &[][..], "size 2M, not 3M"), (None, &["flush=local"], "flush pool, not local")]
    {
        let refused = make(size, settings).await.unwrap_err();
        assert!(refused.is(Kind::Exists) && refused.to_string().contains(why), "{refused}");
    }
    // Another volume by the name of the one that it was made of, with a snapshot of that name.
    volume::rename(&state, &"p/v".parse().unwrap(), &"old".parse().unwrap()).await.unwrap();
    make_volume(&state, "p/v").await;
    snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
    assert!(make(None, &[]).await.unwrap_err().to_string().contains("no clone of p/v@s"));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Returns the first byte of a volume's copy.
async fn first_byte(state: &EngineState, path: &str) -> u8 {
    let path: VolumePath = path.parse().unwrap();
    let volumes = &state.pools.get(&path.pool).await.unwrap().volumes;
    let volume = volumes.open(&path.volume, OpenMode::Normal).await.unwrap();
    volume.read(0, 1).await.unwrap()[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replicate_brings_what_is_flushed_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "a").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_pool(&state, "q", &folders(dir.path(), &["t0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (from, to): (VolumePath, VolumePath) = ("p/v".parse().unwrap(), "q/v".parse().unwrap());
    let write = async |byte: u8| {
        let volumes = &state.pools.get(&from.pool).await.unwrap().volumes;
        let volume = volumes.open(&from.volume, OpenMode::Normal).await.unwrap();
        volume.write(0, Bytes::from(vec![byte; 4096])).await.unwrap();
        volume.flush().await.unwrap();
    };
    let replicate = async || {
        let args = Verb::Replicate(crate::daemon::api::Replicate { from: from.clone(), to: to.clone() });
        copies::run(&state, args, &ProgressSink::none()).await.unwrap();
    };
    // As many within one second as can be.
    for byte in 1..=8 {
        write(byte).await;
        replicate().await;
        assert_eq!(first_byte(&state, "q/v").await, byte);
    }
    // A round that was cut off has left its snapshot: what was flushed behind that is asked for too.
    let stem = "replica-";
    let own = snapshot::snapshots(&state, &from, None).await.unwrap().value;
    let last = own.as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
    assert!(last.starts_with(stem), "{last}");
    write(100).await;
    let cut_off = format!("p/v@{}-cut-off", &last).parse().unwrap();
    snapshot::snapshot(&state, &[cut_off], TAKEN).await.unwrap();
    write(101).await;
    replicate().await;
    assert_eq!(first_byte(&state, "q/v").await, 101);
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// What a client of the daemon before holds is waited for while the folders of the stores are not mounted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // a user's folders
async fn a_client_is_not_lost_while_its_pool_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let stores = folders(dir.path(), &["s0"]);
    let first = Arc::new(state(dir.path(), "h").await);
    make_pool(&first, "p", &stores).await.unwrap();
    make_volume(&first, "p/v").await;
    let exports =
        |state: &Arc<EngineState>| EngineExports { state: Arc::downgrade(state), for_commands: false };
    let held = {
        let export = exports(&first).open("p/v", "x").await.unwrap();
        export.write(0, Bytes::from(vec![7; 4096])).await.unwrap();
        export.flush().await.unwrap();
        export.holding().held().unwrap()
    };
    assert!(first.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    drop(first);
    let (here, away) = (dir.path().join("s0"), dir.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    let next = Arc::new(state(dir.path(), "h").await);
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(&here).unwrap();
        }
        let error = exports(&next).open_again("p/v", &held, "x").await.err().unwrap();
        assert!(error.is_transient(), "{:?}: {error}", error.kind());
    }
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    let export = exports(&next).open_again("p/v", &held, "x").await.unwrap();
    assert!(export.read(0, 4096).await.unwrap().into_bytes() == vec![7; 4096]);
    drop(export);
    // That it is gone is no outage.
    volume::remove(&next, &"p/v".parse().unwrap(), false, (RemoveMode::Now, false)).await.unwrap();
    let error = exports(&next).open_again("p/v", &held, "x").await.err().unwrap();
    assert!(!error.is_transient(), "{error}");
    assert!(next.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// Checks what the audit log tells: who asked, for what, and what came of it. Looks leave no line.
#[tokio::test]
async fn each_command_that_changes_something_leaves_a_line_where_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s"])).await.unwrap();
    let file = dir.path().join("audit.log");
    *state.config.lock() =
        Arc::new(Config::parse(&format!("[log]\naudit = '{}'\n", file.display())).unwrap());
    let by = |uid| ProgressSink::none().asked_by(Some(Asker { uid, pid: Some(7) }));
    make_volume(&state, "p/v").await;
    let to: Name = "w".parse().unwrap();
    let rename = Verb::VolumeRename { path: "p/v".parse().unwrap(), to };
    run(&state, rename.clone(), by(1000)).await.unwrap();
    run(&state, Verb::VolumeList { pool: None, importing: false }, by(1000)).await.unwrap();
    run(&state, rename, by(0)).await.unwrap_err();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fact = |line: &serde_json::Value| (line["verb"].clone(), line["uid"].clone(), line["done"].clone());
    assert_eq!(
        lines.iter().map(fact).collect::<Vec<_>>(),
        [
            ("volume-rename".into(), 1000.into(), true.into()),
            ("volume-rename".into(), 0.into(), false.into())
        ],
        "{text}"
    );
    assert!(lines[0]["deed"].as_str().unwrap().contains("p/v"), "{text}");
    assert!(lines[1]["why"].as_str().unwrap().contains("p/v"), "{text}");
}

/// Checks a pool whose journals hold what is in no store. It is not told to be well, neither when it was not
/// forgotten nor when it can't be opened.
#[allow(clippy::disallowed_methods)] // stores that somebody takes away
#[tokio::test]
async fn journals_of_a_pool_whose_stores_are_away_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let here = state(dir.path(), "h").await;
    *here.served.lock() = Some(BTreeSet::new());
    make_pool(&here, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&here, "p/v").await;
    let (pool, volume) = ("p".parse().unwrap(), "v".parse().unwrap());
    let open = here.pools.get(&pool).await.unwrap();
    let client = open.volumes.open(&volume, OpenMode::Normal).await.unwrap();
    let answer = |outcome: Outcome| outcome.answer::<crate::daemon::answers::EngineStatus>().unwrap();
    client.write(0, vec![7; 4096].into()).await.unwrap();
    client.flush().await.unwrap();
    let told = status(&here).await.unwrap();
    assert!(answer(told).troubles.is_empty());
    let away =
        |name: &str, away: &str| std::fs::rename(dir.path().join(name), dir.path().join(away)).unwrap();
    ["s0", "s1"].iter().for_each(|name| away(name, &format!("{name}.away")));
    client.write(4096, vec![8; 4096].into()).await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let refused = here.pools.forget(&pool, Duration::from_millis(200)).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("p/v"), "{refused}");
    let told = answer(status(&here).await.unwrap());
    assert!(told.volumes.iter().any(|v| v.unsent_bytes > 0), "it goes on: {told:?}");
    // The daemon ends, and the next one finds the stores away.
    open.volumes.shutdown(Duration::from_millis(200)).await;
    open.pool.close().await;
    drop((open, here));
    let next = state(dir.path(), "h").await;
    *next.served.lock() = Some(BTreeSet::from([pool]));
    let outcome = status(&next).await.unwrap();
    assert!(outcome.degraded);
    let told = answer(outcome);
    let left = told.troubles.iter().find(|told| told.name == "left-journals").expect("it is told");
    assert!(left.trouble.contains("1 volume") && left.trouble.contains("pool p"), "{}", left.trouble);
    let metrics = crate::daemon::metrics::page(&next);
    assert!(metrics.contains("windlass_pool_storable{pool=\"p\"} 0"), "{metrics}");
}

/// Checks that a sum is that of all bytes, holes too.
#[tokio::test]
async fn a_sum_is_that_of_all_bytes_of_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let here = state(dir.path(), "h").await;
    make_pool(&here, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&here, "p/v").await;
    let path: VolumePath = "p/v".parse().unwrap();
    let client = here.pools.get(&path.pool).await.unwrap();
    let client = client.volumes.open(&path.volume, OpenMode::Normal).await.unwrap();
    let mut bytes = vec![0; 1 << 20];
    let sum = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let told = async |snapshot: Option<&Name>| {
        checksum::checksum(&here, &path, snapshot, &ProgressSink::none()).await.unwrap().value
    };
    client.write(8192, vec![7; 4096].into()).await.unwrap();
    bytes[8192..12288].fill(7);
    assert_eq!(told(None).await, serde_json::json!({"path": "p/v", "size": 1 << 20, "blake3": sum(&bytes)}));
    snapshot::snapshot(&here, &["p/v@s".parse().unwrap()], TAKEN).await.unwrap();
    client.write(0, vec![8; 4096].into()).await.unwrap();
    let then = told(Some(&"s".parse().unwrap())).await;
    assert_eq!((&then["path"], &then["blake3"]), (&"p/v@s".into(), &sum(&bytes).into()));
    bytes[..4096].fill(8);
    assert_eq!(told(None).await["blake3"], sum(&bytes));
}
