//! Limits of a volume's rate, on the simulation's clock.

use std::sync::Arc;

use futures::future::join_all;

use super::*;
use windlass_base::rt::Instant;

async fn limited(life: &Life, called: &str, assignments: &[&str]) -> Arc<Volume> {
    life.volumes.create(&name(called), 64 * MIB, small(FlushMode::Local)).await.unwrap();
    set(life, called, assignments).await;
    life.volumes.open(&name(called), OpenMode::Normal).await.unwrap()
}

async fn set(life: &Life, called: &str, assignments: &[&str]) {
    let assignments: Vec<String> = assignments.iter().map(|one| (*one).to_owned()).collect();
    life.volumes.set(&name(called), &assignments).await.unwrap();
}

/// As the export does it.
async fn ask(v: &Volume, direction: Direction, at: u64, len: u64) {
    if let Some(turn) = v.turn(direction, len) {
        turn.await;
    }
    match direction {
        Direction::Read => drop(v.read(at, len).await.unwrap()),
        Direction::Write => v.write(at, vec![7; len as usize].into()).await.unwrap(),
    }
}

/// How many requests of `len` bytes `depth` clients get done until then.
async fn load(life: &Life, v: &Volume, direction: Direction, len: u64, depth: u64, until: Instant) -> u64 {
    let one = |n: u64| async move {
        let (mut done, mut at) = (0, n * len);
        while life.rt.now() < until {
            let left = until.since(life.rt.now());
            if life.rt.timeout(left, ask(v, direction, at % (32 * MIB), len)).await.is_some() {
                done += 1;
            }
            at += depth * len;
            life.rt.give_way().await;
        }
        done
    };
    join_all((0..depth).map(one)).await.into_iter().sum()
}

fn near(what: u64, wanted: u64) {
    assert!(what * 20 >= wanted * 19 && what * 20 <= wanted * 21, "{what} is not {wanted} within 5 %");
}

#[test]
fn operations_and_bytes_are_limited_within_five_percent() {
    use Direction::{Read, Write};
    for (seed, settings, direction, len, wanted) in [
        (1, "iops=200:50", Write, 4096, 2_050),
        (2, "iops=200", Read, 4096, 2_020),
        (3, "write-bps=4M", Write, 65_536, 640 + 6),
        (4, "read-bps=1M:2M", Read, 16_384, 640 + 128),
        // Larger than the burst.
        (5, "bps=1M", Write, 512 << 10, 20),
        (6, "read-iops=100:1", Read, 512, 1_000),
    ] {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = limited(&life, "v", &[settings]).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            let until = life.rt.now() + Duration::from_secs(10);
            let done = load(&life, &v, direction, len, 16, until).await;
            near(done, wanted);
            // After a pause the burst is there again, and no more.
            life.sleep(60_000).await;
            let until = life.rt.now() + Duration::from_secs(10);
            near(load(&life, &v, direction, len, 16, until).await, wanted);
        });
    }
}

#[test]
fn a_limit_is_changed_and_lifted_while_clients_wait() {
    run(7, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = limited(&life, "v", &["write-iops=1:1"]).await;
        let began = life.rt.now();
        let writes = join_all((0..100).map(|i| ask(&v, Direction::Write, i * 4096, 4096)));
        let change = async {
            life.sleep(5_500).await;
            set(&life, "v", &["write-iops=10:1"]).await;
            life.sleep(3_000).await;
            set(&life, "v", &["write-iops=none"]).await;
            life.rt.now()
        };
        let (_, lifted) = futures::future::join(writes, change).await;
        let took = life.rt.now().since(began);
        assert!(took < Duration::from_secs(12), "{took:?}");
        assert!(life.rt.now().since(lifted) < Duration::from_secs(1), "those who waited went at once");
        assert!(v.turn(Direction::Write, 4096).is_none(), "nobody waits where nothing is limited");
    });
}

/// How long 200 writes take, each flushed.
async fn work(life: &Life, v: &Volume) -> Duration {
    let began = life.rt.now();
    for i in 0..200 {
        ask(v, Direction::Write, i * 4096, 4096).await;
        v.flush().await.unwrap();
    }
    life.rt.now().since(began)
}

/// A full queue of one volume, or of one direction, holds nobody else up.
#[test]
fn a_limited_volume_does_not_slow_its_neighbour_nor_its_own_other_direction() {
    run(8, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let free = limited(&life, "w", &["flush=local"]).await;
        free.write(0, bytes(1, 4096)).await.unwrap();
        let alone = work(&life, &free).await;
        let v = limited(&life, "v", &["write-iops=20:10"]).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        let until = life.rt.now() + Duration::from_secs(10);
        let slow = load(&life, &v, Direction::Write, 4096, 64, until);
        let rest = async {
            let beside = work(&life, &free).await;
            let began = life.rt.now();
            for i in 0..200 {
                ask(&v, Direction::Read, i * 4096, 4096).await;
            }
            (beside, life.rt.now().since(began))
        };
        let (slow, (beside, reads)) = futures::future::join(slow, rest).await;
        near(slow, 210);
        // The disk is one, and its times are drawn.
        assert!(beside <= alone * 3 / 2, "{alone:?} alone, {beside:?} beside");
        assert!(reads < Duration::from_secs(1), "{reads:?}");
    });
}
