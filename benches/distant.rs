//! What it takes to open, list and take over on stores that take 20 ms for each request: `cargo bench --bench distant`.
//!
//! 4+2 on six folders, and a delay before each request. Every step is a process of its own, so that a host that dies is one
//! that SIGKILL ends, and whoever comes after it begins with nothing in memory.
// It may stop at what it doesn't expect.
#![allow(clippy::unwrap_used)]

mod place;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::{GIB, MIB};
use windlass_store::FileStore;
use windlass_volume::{FlushMode, OpenMode, Volume, VolumeSettings, Volumes, snapshot_group};

use place::{Place, bytes, name};

const LATENCY: Duration = Duration::from_millis(20);
const LAYOUT: &str = "4+2";
const MEMORY: u64 = 2 * GIB;
const VOLUMES: usize = 200;
const CLONES: usize = 2500;
const LOG: u64 = 4 * GIB;
/// Volumes that a daemon opens side by side after a crash.
const AT_ONCE: usize = 32;
/// Time after which a list that hears nothing gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let step = |what: &str, dir: &str| tokio.block_on(step(what, Path::new(dir)));
    match arguments.as_slice() {
        [what, dir] => step(what, dir),
        [] => {
            for (lay, then) in [
                ("lay-volumes", &["reopen", "take-over"][..]),
                ("lay-clones", &["list"]),
                ("lay-log", &["take-over-log"]),
            ] {
                let dir = tempfile::tempdir().unwrap();
                lay_and_kill(lay, dir.path());
                then.iter().for_each(|what| run(what, dir.path()));
            }
        }
        _ => panic!("what to do, and where"),
    }
}

fn this(what: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(what).arg(dir);
    command
}

/// Runs a step in a process of its own, and kills the process once it says that it is ready.
fn lay_and_kill(what: &str, dir: &Path) {
    let mut host = this(what, dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(host.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "ready");
    host.kill().unwrap();
    host.wait().unwrap();
}

fn run(what: &str, dir: &Path) {
    assert!(this(what, dir).status().unwrap().success(), "{what}");
}

async fn ready() -> ! {
    println!("ready");
    std::future::pending().await
}

async fn step(what: &str, dir: &Path) {
    let (rt, mut stores) = (Rt::new(RealRuntime::current()), Vec::new());
    for i in 0..6 {
        let folder = dir.join(format!("s{i}"));
        std::fs::create_dir_all(&folder).unwrap();
        stores.push(FileStore::open(&rt, &folder).await.unwrap());
    }
    let mut place = Place::over(rt, dir, stores, true);
    match what {
        "lay-volumes" => lay_volumes(&place).await,
        "lay-clones" => lay_clones(&place).await,
        "lay-log" => {
            // Nothing is merged before the host dies.
            (place.tuning.log_min, place.tuning.log_max, place.tuning.chunks_max) =
                (2 * LOG, 2 * LOG, u64::MAX);
            lay_log(&place).await;
        }
        _ => {
            place.slow(LATENCY);
            match what {
                "reopen" => reopen(&place).await,
                "take-over" => take_over(&place).await,
                "list" => list(&place).await,
                "take-over-log" => take_over_log(&place).await,
                _ => panic!("no such step: {what}"),
            }
        }
    }
}

fn volume(i: usize) -> windlass_base::Name {
    name(&format!("v{i}"))
}

async fn each(work: impl Iterator<Item = impl Future<Output = ()>>, at_once: usize) {
    stream::iter(work).buffer_unordered(at_once).collect::<Vec<()>>().await;
}

async fn lay_volumes(place: &Place) {
    let volumes = place.volumes(1, Some(LAYOUT), MEMORY, false).await;
    let mut open = Vec::new();
    for i in 0..VOLUMES {
        let settings = VolumeSettings { flush: FlushMode::Local, ..VolumeSettings::default() };
        volumes.create(&volume(i), GIB, settings).await.unwrap();
        let v = volumes.open(&volume(i), OpenMode::Normal).await.unwrap();
        v.write(4096, bytes(i as u64, 4096)).await.unwrap();
        v.flush().await.unwrap();
        open.push(v);
    }
    // Stored, so that who takes over finds it; then once more, for the journals alone.
    volumes.store_unsent(PATIENCE).await;
    for (i, v) in open.iter().enumerate() {
        v.write(8192, bytes(i as u64, 4096)).await.unwrap();
        v.flush().await.unwrap();
    }
    ready().await
}

async fn first_block(v: &Volume, i: usize) {
    assert!(v.read(4096, 4096).await.unwrap() == bytes(i as u64, 4096), "volume {i}");
}

/// Opens all volumes again on the host that left them, with its journals. The time begins with the pool's
/// opening.
async fn reopen(place: &Place) {
    let (rt, began, before) = (place.rt.clone(), place.rt.now(), place.requests());
    let volumes = place.volumes(1, None, MEMORY, false).await;
    let left = volumes.left_open().await.unwrap();
    assert_eq!(left.len(), VOLUMES);
    let opens = (0..VOLUMES).map(|i| {
        let volumes = &volumes;
        async move {
            let v = volumes.open(&volume(i), OpenMode::Normal).await.unwrap();
            first_block(&v, i).await;
            assert!(v.read(8192, 4096).await.unwrap() == bytes(i as u64, 4096), "volume {i}");
        }
    });
    each(opens, AT_ONCE).await;
    let (took, requests) = (rt.now().since(began), place.requests() - before);
    println!("{VOLUMES} volumes answer after their host was killed: {took:.2?}, {requests} requests");
}

async fn take_over(place: &Place) {
    let (rt, before) = (place.rt.clone(), place.requests());
    let volumes = place.volumes(2, None, MEMORY, false).await;
    let began = rt.now();
    let taken = (0..VOLUMES).map(|i| {
        let volumes = &volumes;
        async move {
            volumes.take_over(&volume(i), true).await.unwrap();
            let v = volumes.open(&volume(i), OpenMode::Normal).await.unwrap();
            first_block(&v, i).await;
            v.write(4096, bytes(1, 4096)).await.unwrap();
        }
    });
    each(taken, AT_ONCE).await;
    let (took, requests) = (rt.now().since(began), place.requests() - before);
    println!("another host takes over {VOLUMES} volumes and writes to each: {took:.2?}, {requests} requests");
}

async fn lay_clones(place: &Place) {
    let volumes = place.volumes(1, Some(LAYOUT), MEMORY, false).await;
    volumes.create(&name("t"), GIB, VolumeSettings::default()).await.unwrap();
    let t = volumes.open(&name("t"), OpenMode::Normal).await.unwrap();
    t.write(0, bytes(1, 4096)).await.unwrap();
    snapshot_group(&[(t.clone(), name("s"))], true).await.unwrap();
    let clones = (0..CLONES).map(|i| {
        let volumes: &Volumes = &volumes;
        async move {
            volumes.clone_snapshot(&name("t"), &name("s"), &volume(i)).await.unwrap();
        }
    });
    each(clones, AT_ONCE).await;
    ready().await
}

async fn list(place: &Place) {
    let volumes = place.volumes(2, None, MEMORY, false).await;
    let (rt, began, before) = (place.rt.clone(), place.rt.now(), place.requests());
    let listed = volumes.list(PATIENCE).await.unwrap();
    assert_eq!(listed.len(), CLONES + 1);
    assert!(listed.iter().all(|(_, info)| info.is_ok()));
    let (took, requests) = (rt.now().since(began), place.requests() - before);
    println!("a list of a template and {CLONES} clones: {took:.2?}, {requests} requests");
}

async fn lay_log(place: &Place) {
    let volumes = place.volumes(1, Some(LAYOUT), MEMORY, false).await;
    volumes.create(&volume(0), 2 * LOG, VolumeSettings::default()).await.unwrap();
    let v = volumes.open(&volume(0), OpenMode::Normal).await.unwrap();
    for at in (0..LOG).step_by(MIB as usize) {
        v.write(at, bytes(at, MIB as usize)).await.unwrap();
    }
    volumes.store_unsent(PATIENCE).await;
    ready().await
}

async fn take_over_log(place: &Place) {
    let volumes = place.volumes(2, None, MEMORY, false).await;
    let (rt, began, before) = (place.rt.clone(), place.rt.now(), place.requests());
    volumes.take_over(&volume(0), true).await.unwrap();
    let taken = rt.now().since(began);
    let v = volumes.open(&volume(0), OpenMode::Normal).await.unwrap();
    v.write(LOG, bytes(7, 4096)).await.unwrap();
    let (took, requests) = (rt.now().since(began), place.requests() - before);
    println!(
        "a volume with {} GiB of log is taken over in {taken:.2?}, written to after {took:.2?}, {requests} requests",
        LOG / GIB
    );
    for at in [0, LOG / 2, LOG - MIB] {
        assert!(v.read(at, MIB).await.unwrap() == bytes(at, MIB as usize), "at {at}");
    }
}
