//! Clients of this host beside other hosts that rename, fill and ask for the same volumes; and beside the daemon before.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::rt::{RealDisk, RealRuntime, Rt};
use crate::base::{Kind, Result};
use crate::daemon::api::{
    HandOver, RemoveMode, SnapshotCopy, SnapshotPath, Verb, VolumeCreate, VolumeMove, VolumePath,
};
use crate::daemon::config::Config;
use crate::daemon::engine::{Engine, Options};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::exports::EngineExports;
use crate::daemon::held_exports::HeldExport;
use crate::daemon::nbd_handover::{FORMAT, HandedOver, Receiver};
use crate::daemon::progress::ProgressSink;
use crate::daemon::state_dir::StateDir;
use crate::nbd::{Export, Exports as _, HeldDisk};
use crate::pool::{Care, LABEL_MAX, Label, label_key};
use crate::store::{ByteRange, Cause, When};
use crate::volume::Trash;

use super::tests::{TAKEN, folders, make_pool, state};
use super::{
    copy_and_replicate, destroy_pool, move_volume, pool, roll_back_resize_flatten, snapshot, volume,
};

async fn make(state: &EngineState, path: &str, settings: &[&str]) {
    let settings = settings.iter().chain(&["flush=pool"]).map(|&set| set.to_owned()).collect();
    let path = path.parse().unwrap();
    let args = VolumeCreate { path, size: 1 << 20, settings, if_absent: false, key: None };
    volume::create(state, args).await.unwrap();
}

/// Returns two hosts that know the pool p.
async fn two_hosts(dir: &std::path::Path) -> (Arc<EngineState>, Arc<EngineState>) {
    let (here, other) = (Arc::new(state(dir, "h").await), Arc::new(state(dir, "other").await));
    let stores = folders(dir, &["s0", "s1", "s2"]);
    make_pool(&here, "p", &stores).await.unwrap();
    pool::add(&other, "p".parse().unwrap(), &stores, None).await.unwrap();
    (here, other)
}

fn exports(state: &Arc<EngineState>) -> EngineExports {
    EngineExports { state: Arc::downgrade(state), for_commands: true }
}

/// Writes to an export and flushes it, which leaves nothing that would tell this host of a new name.
async fn write(export: &dyn Export, byte: u8) -> Result<()> {
    export.write(0, vec![byte; 4096].into()).await?;
    export.flush().await
}

async fn end(states: impl IntoIterator<Item = Arc<EngineState>>) {
    for state in states {
        assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_by_a_name_that_another_volume_has_got_is_counted_with_that_one() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    let (v, w): (VolumePath, VolumePath) = ("p/v".parse().unwrap(), "p/w".parse().unwrap());
    make(&here, "p/v", &[]).await;
    let first = exports(&here).open("p/v", "process 1").await.unwrap();
    write(&*first, 1).await.unwrap();
    volume::rename(&other, &v, &w.volume).await.unwrap();
    make(&other, "p/v", &[]).await;
    let second = exports(&here).open("p/v", "process 2").await.unwrap();
    assert_eq!(second.read(0, 1).await.unwrap().into_bytes().as_ref(), [0]);
    drop(second);
    let refused = volume::remove(&here, &w, false, (RemoveMode::Now, false)).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("process 1"), "{refused}");
    assert_eq!((here.sessions.clients(&v), here.sessions.clients(&w)), (0, 1));
    // A command that holds the new one alone has nothing of the first one's clients.
    let alone = exports(&here).open("!p/v", "process 3").await.unwrap();
    write(&*alone, 3).await.unwrap();
    write(&*first, 2).await.unwrap();
    drop(alone);
    assert_eq!(first.read(0, 1).await.unwrap().into_bytes().as_ref(), [2]);
    drop(first);
    end([here, other]).await;
}

/// Another host took the volume and released it, and a command has opened it here anew since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_shut_out_is_told_of_while_others_of_the_volume_are_well() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    let path: VolumePath = "p/v".parse().unwrap();
    make(&here, "p/v", &[]).await;
    let shut_out = exports(&here).open("p/v", "process 1").await.unwrap();
    write(&*shut_out, 1).await.unwrap();
    volume::take_over(&other, &path, false).await.unwrap();
    volume::release(&other, &path).await.unwrap();
    write(&*shut_out, 2).await.unwrap_err();
    let anew = exports(&here).open("p/v", "process 2").await.unwrap();
    write(&*anew, 3).await.unwrap();
    let [used] = &volume::in_use(&here)[..] else { panic!("one volume is in use") };
    let why = used.trouble.as_deref().unwrap_or_default();
    assert!(used.state == "trouble" && why.contains("took the volume over"), "{} {why}", used.state);
    drop(shut_out);
    let [used] = &volume::in_use(&here)[..] else { panic!("one volume is in use") };
    assert_eq!((&*used.state, &used.trouble), ("open", &None));
    drop(anew);
    end([here, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_volume_are_counted_together_by_whatever_names_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    let (v, w): (VolumePath, VolumePath) = ("p/v".parse().unwrap(), "p/w".parse().unwrap());
    make(&here, "p/v", &["clients=one"]).await;
    let first = exports(&here).open("p/v", "process 1").await.unwrap();
    write(&*first, 1).await.unwrap();
    volume::rename(&other, &v, &w.volume).await.unwrap();
    let second = exports(&here).open("p/w", "process 2").await.unwrap();
    let refused = write(&*second, 2).await.unwrap_err();
    assert!(refused.is(Kind::ReadOnly) && refused.to_string().contains("process 1"), "{refused}");
    write(&*first, 3).await.unwrap();
    let counted = here.sessions.clients(&v) + here.sessions.clients(&w);
    assert_eq!((counted, here.sessions.list().len()), (2, 1));
    // Nobody has it alone while the other is there, by the one name or the other.
    drop(second);
    for path in ["!p/v", "!p/w"] {
        assert!(exports(&here).open(path, "process 3").await.is_err(), "{path}");
    }
    drop(first);
    drop(exports(&here).open("!p/w", "process 3").await.unwrap());
    end([here, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_a_command_fills_is_handed_to_no_other_host() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    make(&here, "p/v", &["handover=ask"]).await;
    let alone = exports(&here).open("!p/v", "process 1").await.unwrap();
    write(&*alone, 1).await.unwrap();
    let client = exports(&other).open("p/v", "process 2").await.unwrap();
    let rt = &here.host_context.rt;
    // An owner looks every four seconds whether it is asked.
    let waits = rt.timeout(Duration::from_secs(9), write(&*client, 2)).await;
    assert!(waits.is_none(), "{waits:?}");
    assert_eq!(alone.read(0, 1).await.unwrap().into_bytes().as_ref(), [1]);
    write(&*alone, 3).await.unwrap();
    drop(alone);
    let read = rt.timeout(Duration::from_secs(30), client.read(0, 1)).await.expect("nobody holds it");
    assert_eq!(read.unwrap().into_bytes().as_ref(), [3]);
    drop(client);
    end([other, here]).await;
}

/// Checks `clients=one` while the clients of the daemon before are served one by one, and others come beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_writer_is_known_before_the_next_daemon_serves_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = Arc::new(state(dir.path(), "h").await);
    make_pool(&before, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make(&before, "p/v", &["clients=one"]).await;
    let (held, reads) = {
        let (writer, reader) = (
            exports(&before).open("p/v", "process 1").await,
            exports(&before).open("p/v", "process 2").await,
        );
        let (writer, reader) = (writer.unwrap(), reader.unwrap());
        write(&*writer, 1).await.unwrap();
        (writer.holding().held().unwrap(), reader.holding().held().unwrap())
    };
    end([before]).await;
    let HeldExport::Volume { pool, volume, writes: true, .. } = HeldExport::of(&held).unwrap() else {
        panic!("{held:?}")
    };
    let older: HeldDisk = reads.clone();
    assert!(older.0["volume"].get("writes").is_none(), "as older versions tell it: {older:?}");
    let next = Arc::new(state(dir.path(), "h").await);
    next.sessions.expect([((pool, volume), "process 1".to_owned(), true)]);
    // Both who has come new and who was there before come first.
    let new = exports(&next).open("p/v", "process 3").await.unwrap();
    let reader = exports(&next).open_again("p/v", &reads, "process 2").await.unwrap();
    for other in [&new, &reader] {
        let refused = write(&**other, 2).await.unwrap_err();
        assert!(refused.is(Kind::ReadOnly) && refused.to_string().contains("process 1"), "{refused}");
    }
    let writer = exports(&next).open_again("p/v", &held, "process 1").await.unwrap();
    assert!(write(&*new, 2).await.unwrap_err().is(Kind::ReadOnly), "it need not write once more for that");
    write(&*writer, 4).await.unwrap();
    drop(writer);
    write(&*new, 5).await.unwrap();
    assert!(write(&*reader, 6).await.unwrap_err().is(Kind::ReadOnly));
    drop((new, reader));
    end([next]).await;
}

/// A client of the daemon before is served once its pool is open, and its volume is in use all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // a user's folders
async fn nobody_gets_a_volume_alone_that_a_client_of_the_daemon_before_waits_for() {
    let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
    let home = StateDir::at(dir.path().join("h"));
    let options = Options { memory: 64 << 20, serve: true, control: true, ..Options::default() };
    let start = |options: Options| {
        Engine::start(rt.clone(), RealDisk::start(), home.clone(), Config::default(), options)
    };
    let before = start(options.clone()).await.unwrap();
    make_pool(before.state(), "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make(before.state(), "p/v", &[]).await;
    let address = before.state().nbd_addresses()[0].clone();
    let client = crate::nbd::Client::connect(&rt, &address, "p/v").await.unwrap();
    client.write(0, vec![1; 4096].into(), true).await.unwrap();
    let socket = home.handover(1).unwrap();
    let receiver = Receiver::listen(&socket).unwrap();
    let to = HandOver { format: FORMAT, version: "test".to_owned(), socket: socket.display().to_string() };
    let took = async {
        let (parcel, sender) = receiver.receive(&rt).await.unwrap();
        sender.taken().await.unwrap();
        parcel.open().unwrap()
    };
    let (done, servers) = futures::join!(before.run(Verb::HandOver(to), ProgressSink::none()), took);
    done.unwrap();
    before.shutdown().await.unwrap();
    let (here, away) = (dir.path().join("s0"), dir.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    let next = start(Options { handed_over: HandedOver::new(servers, None), ..options }).await.unwrap();
    // It has asked for its volume by then, and asks again a second later.
    rt.sleep(Duration::from_millis(300)).await;
    std::fs::rename(&away, &here).unwrap();
    let (path, state): (VolumePath, _) = ("p/v".parse().unwrap(), next.state());
    let refused = [
        volume::remove(state, &path, false, (RemoveMode::Now, false)).await,
        volume::release(state, &path).await,
        pool::forget(state, &path.pool).await,
    ];
    for refused in refused.map(Result::unwrap_err) {
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("daemon before"), "{refused}");
    }
    assert_eq!(client.read(0, 4096).await.unwrap(), vec![1; 4096]);
    client.close().await.unwrap();
    let gone = || volume::remove(state, &path, false, (RemoveMode::Now, false));
    let removed = async {
        while gone().await.is_err() {
            rt.sleep(Duration::from_millis(50)).await;
        }
    };
    rt.timeout(Duration::from_secs(20), removed).await.expect("it has left");
    next.shutdown().await.unwrap();
}

/// What is judged is what is done: between the two another host gives the name to a volume that has clients here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_got_the_name_meanwhile_is_not_what_a_command_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    let (v, w, x): (VolumePath, VolumePath, VolumePath) =
        ("p/v".parse().unwrap(), "p/w".parse().unwrap(), "p/x".parse().unwrap());
    for path in ["p/v", "p/w"] {
        make(&here, path, &[]).await;
    }
    let client = exports(&here).open("p/w", "process 1").await.unwrap();
    write(&*client, 1).await.unwrap();
    let path = "p/w@s".parse().unwrap();
    snapshot::snapshot(&here, &[path], TAKEN).await.unwrap();
    write(&*client, 2).await.unwrap();
    let volumes = here.pools.get(&v.pool).await.unwrap().volumes.clone();
    let alone = here.sessions.alone(&v, &volumes, "removed", false).await.unwrap();
    let this = Some(alone.volume().unwrap());
    volume::rename(&other, &v, &x.volume).await.unwrap();
    volume::rename(&other, &w, &v.volume).await.unwrap();
    let to = "s".parse().unwrap();
    for refused in [
        volumes.remove_this(&v.volume, this).await,
        Trash(&volumes).discard_this(&v.volume, this).await.map(drop),
        volumes.roll_back_this((&v.volume, this), &to, None).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(
            refused.is(Kind::Owned) && refused.to_string().contains("another volume by now"),
            "{refused}"
        );
    }
    assert_eq!(client.read(0, 1).await.unwrap().into_bytes().as_ref(), [2]);
    write(&*client, 3).await.unwrap();
    // Nobody comes to the volume that is held, by its new name neither.
    let refused = exports(&here).open("p/x", "process 2").await.err().unwrap();
    assert!(refused.is(Kind::Owned), "{refused}");
    volumes.remove_this(&x.volume, this).await.unwrap();
    drop((alone, client));
    end([here, other]).await;
}

/// Checks a name that another host has given to a volume in use here, before this host has heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_to_be_alone_meets_clients_that_came_by_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    make(&here, "p/v", &[]).await;
    let client = exports(&here).open("p/v", "process 1").await.unwrap();
    write(&*client, 1).await.unwrap();
    let (v, w): (VolumePath, VolumePath) = ("p/v".parse().unwrap(), "p/w".parse().unwrap());
    volume::rename(&other, &v, &w.volume).await.unwrap();
    let volumes = here.pools.get(&v.pool).await.unwrap().volumes.clone();
    let of = volumes.key_of(&w.volume).await.unwrap().unwrap();
    let refused = here.sessions.hold(&w, &volumes, (Some(of), "removed"), false).map(drop).unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("process 1"), "{refused}");
    drop(client);
    end([here, other]).await;
}

/// Checks the daemon's end while clients wait between two requests and are counted nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_leaves_its_clients_to_the_next_one_lets_no_command_in() {
    let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
    let home = StateDir::at(dir.path().join("h"));
    let options = Options { memory: 64 << 20, serve: true, control: true, ..Options::default() };
    let engine = Engine::start(rt.clone(), RealDisk::start(), home.clone(), Config::default(), options);
    let engine = engine.await.unwrap();
    make_pool(engine.state(), "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make(engine.state(), "p/v", &[]).await;
    let address = engine.state().nbd_addresses()[0].clone();
    let client = crate::nbd::Client::connect(&rt, &address, "p/v").await.unwrap();
    client.write(0, vec![1; 4096].into(), true).await.unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let clients = kept.clone();
    engine
        .leave_clients(move |paused| {
            clients.lock().extend(paused.iter().map(|server| server.clients.len()));
            Ok(())
        })
        .await;
    assert_eq!(*kept.lock(), [1]);
    let mut command =
        crate::daemon::control_client::Client::connect(&home.control().unwrap()).await.unwrap().unwrap();
    let (path, mode) = ("p/v".parse().unwrap(), RemoveMode::Now);
    let remove = Verb::VolumeRemove { path, if_exists: false, dry_run: false, mode, with_snapshots: true };
    let refused = command.call(&rt, remove, |_| {}, std::future::pending()).await.unwrap_err();
    assert!(refused.is(Kind::Unavailable) && refused.to_string().contains("taking over"), "{refused}");
    engine.shutdown().await.unwrap();
}

/// A volume that may be handed over is attached on two hosts at once, and one of its clients has flushed to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_back_or_filled_under_clients_of_another_host() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    make(&here, "p/v", &["handover=ask"]).await;
    make(&here, "p/w", &[]).await;
    let client = exports(&other).open("p/v", "process 1").await.unwrap();
    write(&*client, 1).await.unwrap();
    let own = exports(&here).open("p/v", "process 2").await.unwrap();
    assert_eq!(own.read(0, 1).await.unwrap().into_bytes().as_ref(), [1]);
    for path in ["p/v@s", "p/w@s"] {
        snapshot::snapshot(&here, &[path.parse().unwrap()], TAKEN).await.unwrap();
    }
    write(&*client, 2).await.unwrap();
    assert_eq!(own.read(0, 1).await.unwrap().into_bytes().as_ref(), [2]);
    drop(own);
    let (to, from, v): (SnapshotPath, SnapshotPath, VolumePath) =
        ("p/v@s".parse().unwrap(), "p/w@s".parse().unwrap(), "p/v".parse().unwrap());
    let copy_to = v.clone();
    let back = || roll_back_resize_flatten::roll_back(&here, &to, None, (false, false));
    let copy = SnapshotCopy { from, to: v, roll_back: true, verify_all: false };
    for refused in [
        back().await.map(drop),
        copy_and_replicate::run(&here, Verb::SnapshotCopy(copy), &ProgressSink::none()).await.map(drop),
        exports(&here).open("!p/v", "process 3").await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("other hosts"), "{refused}");
    }
    assert_eq!(client.read(0, 1).await.unwrap().into_bytes().as_ref(), [2]);
    drop(client);
    volume::release(&other, &copy_to).await.unwrap();
    back().await.unwrap();
    end([other, here]).await;
}

async fn destroy(state: &EngineState, dry_run: bool) -> Result<crate::daemon::api::Outcome> {
    let (name, confirmed) = ("p".parse().unwrap(), Some("p".parse().unwrap()));
    let args = crate::daemon::api::PoolDestroy { name, confirmed, force: false, dry_run };
    destroy_pool::destroy(state, &args, &ProgressSink::default()).await
}

/// Leaves the pool as a destruction does that was killed when the first store had been condemned.
async fn condemn(state: &EngineState, store: &str) {
    let pool = state.pools.get(&"p".parse().unwrap()).await.unwrap();
    let (id, volumes) = (pool.pool.id(), pool.volumes.clone());
    crate::volume::end_all(&volumes, &|_| ()).await.unwrap();
    state.pools.begin_destruction(&"p".parse().unwrap(), id).await.unwrap();
    let url = store.parse::<crate::store::StoreSpec>().unwrap().url;
    let bucket = crate::store::expect(&state.host_context.rt, &url).await.unwrap();
    let (key, range) = (label_key(id), ByteRange::Whole { max: LABEL_MAX });
    let found = bucket.get(&key, range, Cause::Label).await.unwrap().unwrap();
    let label = Label::decode(&found.body).unwrap().condemned().encode(None);
    bucket.put(&key, label, When::Always, Cause::Label).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destruction_that_was_broken_off_asks_again_who_uses_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    make(&here, "p/v", &[]).await;
    condemn(&here, &folders(dir.path(), &["s0"])[0]).await;
    make(&other, "p/new", &[]).await;
    let client = exports(&other).open("p/new", "process 1").await.unwrap();
    write(&*client, 7).await.unwrap();
    for dry_run in [true, false] {
        let refused = destroy(&here, dry_run).await.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("p/new"), "{refused}");
    }
    assert_eq!(client.read(0, 1).await.unwrap().into_bytes().as_ref(), [7]);
    drop(client);
    volume::release(&other, &"p/new".parse().unwrap()).await.unwrap();
    let done = destroy(&here, false).await.unwrap();
    assert_eq!(
        (&done.value["destroyed"], &done.value["volumes"]),
        (&true.into(), &1.into()),
        "{}",
        done.value
    );
    end([here, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_which_another_hosts_client_reads_a_volume_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    for path in ["p/a", "p/b", "p/c"] {
        make(&here, path, &[]).await;
    }
    let client = exports(&other).open("p/b", "process 1").await.unwrap();
    assert_eq!(client.read(0, 1).await.unwrap().into_bytes().as_ref(), [0]);
    let dry = destroy(&here, true).await.unwrap();
    assert!(
        dry.notes.iter().any(|note| note.contains("volume p/b is open on other hosts")),
        "{:?}",
        dry.notes
    );
    let refused = destroy(&here, false).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("p/b"), "{refused}");
    let volumes = here.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    for name in ["a", "b", "c"] {
        volumes.info(&name.parse().unwrap()).await.unwrap();
    }
    drop((client, volumes));
    end([other]).await;
    destroy(&here, false).await.unwrap();
    end([here]).await;
}

/// Checks the new store of a replacement, of which its label alone tells: this host does not know its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_store_of_a_replacement_that_another_host_left_is_emptied_too() {
    for is_open in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (mut here, other) = two_hosts(dir.path()).await;
        make(&here, "p/v", &[]).await;
        if !is_open {
            end([here]).await;
            here = Arc::new(state(dir.path(), "h").await);
        }
        let (name, old) = ("p".parse().unwrap(), &folders(dir.path(), &["s0"])[0]);
        let new = other.pools.new_stores(&name, &folders(dir.path(), &["new"])).await.unwrap();
        let open = other.pools.get(&name).await.unwrap();
        open.pool.plan_replacement(old, &new[0], &open.volumes, Care::All, &|_| {}).await.unwrap();
        let files = || {
            let all = std::fs::read_dir(dir.path().join("new")).unwrap();
            all.map(|file| file.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert!(files().iter().any(|file| file.starts_with("label")), "{:?}", files());
        let done = destroy(&here, false).await.unwrap();
        assert_eq!(done.value["destroyed"], true, "{}", done.value);
        assert!(!files().iter().any(|file| file.starts_with("label") || file == "reg"), "{:?}", files());
        end([here, other]).await;
    }
}

/// Checks a daemon that stays since the next one does not come, while stores are away. Volumes that no client uses at
/// that moment stay this host's. Another host gets the one that may be handed over; what only the journal has of the
/// other one comes to the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // a user's folders
async fn a_daemon_that_stays_goes_on_with_what_no_client_uses() {
    let (dir, rt) = (tempfile::tempdir().unwrap(), Rt::new(RealRuntime::current()));
    let home = StateDir::at(dir.path().join("h"));
    let options = Options { memory: 64 << 20, serve: true, control: true, ..Options::default() };
    let engine =
        Engine::start(rt.clone(), RealDisk::start(), home.clone(), Config::default(), options).await.unwrap();
    let (names, other) = (["s0", "s1", "s2"], Arc::new(state(dir.path(), "other").await));
    let stores = folders(dir.path(), &names);
    make_pool(engine.state(), "p", &stores).await.unwrap();
    pool::add(&other, "p".parse().unwrap(), &stores, None).await.unwrap();
    for (path, settings) in [("p/v", ["handover=ask"]), ("p/w", ["handover=never"])] {
        make(engine.state(), path, &settings).await;
        let address = engine.state().nbd_addresses()[0].clone();
        let client = crate::nbd::Client::connect(&rt, &address, path).await.unwrap();
        client.write(0, vec![1; 4096].into(), true).await.unwrap();
        client.close().await.unwrap();
    }
    let nowhere = home.handover(1).unwrap().display().to_string();
    let to = || HandOver { format: FORMAT, version: "test".to_owned(), socket: nowhere.clone() };
    let away = |from: &str, to: &str| {
        let place = |store: &str, suffix: &str| dir.path().join(format!("{store}{suffix}"));
        names.iter().for_each(|store| std::fs::rename(place(store, from), place(store, to)).unwrap());
    };
    away("", ".away");
    engine.run(Verb::HandOver(to()), ProgressSink::none()).await.unwrap_err();
    away(".away", "");
    let volumes = engine.state().pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let owns = async |name: &str| {
        while volumes.owned_here(&name.parse().unwrap()).is_none() {
            rt.sleep(Duration::from_millis(50)).await;
        }
    };
    rt.timeout(Duration::from_secs(20), owns("w")).await.expect("it goes on by itself");
    // Nobody uses one that was let go of with all stores there, either.
    rt.timeout(Duration::from_secs(20), owns("v")).await.expect("it goes on by itself");
    engine.run(Verb::HandOver(to()), ProgressSink::none()).await.unwrap_err();
    let asks = exports(&other).open("p/v", "process 2").await.unwrap();
    // An owner that is not there is given up after half a minute.
    let asked = rt.timeout(Duration::from_secs(25), write(&*asks, 2)).await;
    asked.expect("it is handed over").unwrap();
    rt.timeout(Duration::from_secs(20), owns("w")).await.expect("it goes on by itself");
    drop(asks);
    engine.shutdown().await.unwrap();
    end([other]).await;
}

/// Checks clients that came to a volume before its move. The other host hears of them when it asks for the moved
/// volume, and when it would remove it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_have_moved_with_their_volume_are_known_to_other_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    let stores = folders(dir.path(), &["t0", "t1", "t2"]);
    make_pool(&here, "q", &stores).await.unwrap();
    pool::add(&other, "q".parse().unwrap(), &stores, None).await.unwrap();
    make(&here, "p/v", &["handover=ask"]).await;
    let client = exports(&here).open("p/v", "process 1").await.unwrap();
    write(&*client, 1).await.unwrap();
    let (path, to) = ("p/v".parse().unwrap(), "q".parse().unwrap());
    let args = VolumeMove { path, to, no_snapshots: false, abort: false };
    move_volume::run(&here, &args, &ProgressSink::none()).await.unwrap();
    let moved: VolumePath = "q/v".parse().unwrap();
    let theirs = exports(&other).open("q/v", "process 2").await.unwrap();
    write(&*theirs, 2).await.unwrap();
    drop(theirs);
    volume::release(&other, &moved).await.unwrap();
    let remove = || volume::remove(&other, &moved, false, (RemoveMode::Now, false));
    let refused = remove().await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("other hosts"), "{refused}");
    assert_eq!(client.read(0, 1).await.unwrap().into_bytes().as_ref(), [2]);
    volume::release(&here, &moved).await.unwrap_err();
    drop(client);
    volume::release(&here, &moved).await.unwrap();
    let rt = &here.host_context.rt;
    let removed = async {
        while remove().await.is_err() {
            rt.sleep(Duration::from_millis(50)).await;
        }
    };
    rt.timeout(Duration::from_secs(20), removed).await.expect("they have left");
    end([here, other]).await;
}
