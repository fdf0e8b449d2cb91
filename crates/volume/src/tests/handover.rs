//! A volume that its owner hands over to hosts that ask for it (model `handover`).

use std::sync::Arc;

use parking_lot::Mutex;

use super::site::{Machine, Site};
use super::*;
use crate::handle::Known;
use windlass_base::Error;

const ASK: &str = "handover=ask";

async fn made(life: &Life, flush: FlushMode) -> Arc<Volume> {
    life.volumes.create(&name("v"), 64 * MIB, small(flush)).await.unwrap();
    life.volumes.set(&name("v"), &[ASK.to_owned()]).await.unwrap();
    attached(life).await
}

async fn attached(life: &Life) -> Arc<Volume> {
    life.volumes.open(&name("v"), OpenMode::Attach).await.unwrap()
}

async fn owner(life: &Life) -> Option<String> {
    life.volumes.info(&name("v")).await.unwrap().owner
}

fn number(block: &[u8]) -> u64 {
    u64::from_le_bytes(block[..8].try_into().unwrap())
}

fn block(n: u64) -> Bytes {
    let mut block = vec![0; 4096];
    block[..8].copy_from_slice(&n.to_le_bytes());
    block.into()
}

#[test]
fn the_first_use_at_another_host_gets_the_volume() {
    run(1, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 100_000)).await.unwrap();
        let w = attached(&other).await;
        assert_eq!(w.size(), 64 * MIB);
        w.flush().await.unwrap();
        assert_eq!(owner(&other).await.as_deref(), Some("host1"), "attaching asks for nothing");
        assert!(w.read(0, 100_000).await.unwrap() == bytes(1, 100_000), "also what nobody had flushed");
        assert_eq!(owner(&other).await.as_deref(), Some("host2"));
        w.write(4096, bytes(2, 4096)).await.unwrap();
        // The first has it still attached: what it was is no state to go on from.
        v.flush().await.unwrap();
        assert_eq!(owner(&life).await.as_deref(), Some("host2"), "a flush asks for nothing");
        assert!(v.read(4096, 4096).await.unwrap() == bytes(2, 4096));
        v.write(8192, bytes(3, 4096)).await.unwrap();
        assert_eq!(owner(&life).await.as_deref(), Some("host1"));
        assert!(w.read(8192, 4096).await.unwrap() == bytes(3, 4096));
        for life in [&life, &other] {
            assert_eq!(life.volumes.info(&name("v")).await.unwrap().kept_journals.len(), 0);
        }
    });
}

#[test]
fn a_volume_that_is_not_to_be_handed_over_is_refused() {
    run(2, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        let w = attached(&other).await;
        life.volumes.set(&name("v"), &["handover=never".to_owned()]).await.unwrap();
        let refused = w.write(0, bytes(2, 4096)).await.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("host1"), "{refused}");
        let refused = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Owned), "{refused}");
        v.write(0, bytes(3, 4096)).await.unwrap();
        // Who had it attached may use it when that is allowed again.
        life.volumes.set(&name("v"), &[ASK.to_owned()]).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(3, 4096));
    });
}

/// Commands ask nobody for a volume, and do no harm to clients that have it attached.
#[test]
fn commands_are_refused_where_the_volume_is_only_attached() {
    run(3, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        let w = attached(&other).await;
        for refused in [
            other.volumes.resize(&name("v"), 128 * MIB).await,
            other.volumes.set(&name("v"), &["flush=pool".to_owned()]).await,
            other.volumes.release(&name("v")).await,
        ] {
            assert!(refused.unwrap_err().is(Kind::Owned));
        }
        assert!(other.volumes.shutdown(Duration::from_secs(5)).await.is_empty(), "nothing of it is here");
        assert_eq!(owner(&life).await.as_deref(), Some("host1"));
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
        // Released, it is nobody's until somebody uses it.
        w.release().await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        assert!(life.volumes.info(&name("v")).await.unwrap().released);
        v.write(0, bytes(2, 4096)).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// The witness: each host counts in a block of its own, and all of them in one, of which a lock outside tells who writes.
/// A read shows what was written before it began, whoever did.
#[derive(Default)]
struct Witness {
    /// Per host: written and acknowledged, begun.
    own: Mutex<[(u64, u64); 3]>,
    shared: tokio::sync::Mutex<u64>,
}

impl Witness {
    async fn step(&self, site: &Site, me: usize, v: &Volume) -> Result<(), Error> {
        match site.world.below(3) {
            0 => {
                let mut counter = self.shared.lock().await;
                let seen = number(&v.read(0, 4096).await?);
                assert_eq!(seen, *counter, "host {me} reads an old state");
                v.write(0, block(*counter + 1)).await?;
                *counter += 1;
            }
            1 => {
                let n = {
                    let own = &mut self.own.lock()[me];
                    own.1 += 1;
                    own.1
                };
                v.write(4096 * (1 + me as u64), block(n)).await?;
                self.own.lock()[me].0 = n;
            }
            _ => {
                let of = site.world.below(3) as usize;
                let least = self.own.lock()[of].0;
                let seen = number(&v.read(4096 * (1 + of as u64), 4096).await?);
                let most = self.own.lock()[of].1;
                assert!((least..=most).contains(&seen), "host {me} reads {seen} of {of}: {least} to {most}");
            }
        }
        if site.world.below(4) == 0 {
            v.flush().await?;
        }
        Ok(())
    }
}

#[test]
fn hosts_that_use_a_volume_in_turn_lose_nothing() {
    for seed in seeds("HANDOVER", "10..16") {
        run(seed, "2+1", |site| async move {
            let first = site.machine(1).found().await;
            made(&first, FlushMode::Local).await;
            let lives = [first, site.machine(2).start().await, site.machine(3).start().await];
            if seed % 2 == 1 {
                site.stores.iter().for_each(|s| s.faults(|f| (f.lost, f.errors) = (10, 20)));
            }
            let witness = Witness::default();
            let all = (0..3).map(|me| {
                let (site, witness, life) = (&site, &witness, &lives[me]);
                async move {
                    let v = attached(life).await;
                    for _ in 0..25 {
                        witness.step(site, me, &v).await.unwrap();
                        life.sleep(site.world.below(2_000)).await;
                    }
                }
            });
            futures::future::join_all(all).await;
            site.stores.iter().for_each(|s| s.faults(|f| (f.lost, f.errors) = (0, 0)));
            let epoch = lives[0].volumes.engine().cell(lives[0].volumes.id(&name("v")).await.unwrap());
            let epoch = epoch.read().await.unwrap().unwrap().active.epoch;
            assert!(epoch.0 > 10, "it changed hands: {epoch:?}");
            for life in &lives {
                assert_eq!(life.volumes.info(&name("v")).await.unwrap().kept_journals.len(), 0);
            }
        });
    }
}

fn keep(longest: &Mutex<Duration>, took: Duration) {
    let mut longest = longest.lock();
    *longest = took.max(*longest);
}

/// Neither of two that write without a break keeps the other from it.
#[test]
fn busy_hosts_take_turns() {
    run(20, "2+1", |site| async move {
        let first = site.machine(1).found().await;
        made(&first, FlushMode::Local).await;
        let lives = [first, site.machine(2).start().await];
        let longest = Mutex::new(Duration::ZERO);
        let all = lives.iter().zip(1u64..).map(|(life, me)| {
            let longest = &longest;
            async move {
                let v = attached(life).await;
                for n in 0..400 {
                    let began = life.rt.now();
                    v.write(4096 * me, block(n)).await.unwrap();
                    keep(longest, life.rt.now().since(began));
                    life.sleep(20).await;
                }
            }
        });
        futures::future::join_all(all).await;
        let longest = *longest.lock();
        assert!(longest < Duration::from_secs(6), "{longest:?}");
    });
}

/// Where another host has it attached, all but little is in the pool at any time: an ask is answered soon.
#[test]
fn who_has_it_attached_gets_it_soon() {
    run(21, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let few = Duration::from_millis(5);
        site.stores.iter().for_each(|s| s.faults(|f| f.latency = (few, few)));
        let v = made(&life, FlushMode::Local).await;
        for n in 0..2_000 {
            v.write(n * 32_768, bytes(n, 4096)).await.unwrap();
        }
        let w = attached(&other).await;
        let _attached = w.attach();
        life.sleep(10_000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().unsent_bytes, 0);
        v.write(0, bytes(1, 4096)).await.unwrap();
        life.sleep(400).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().unsent_bytes, 0, "it is sent at once");
        v.write(0, bytes(2, 4096)).await.unwrap();
        let began = other.rt.now();
        assert!(w.read(0, 4096).await.unwrap() == bytes(2, 4096));
        let took = other.rt.now().since(began);
        assert!(took < Duration::from_millis(800), "{took:?}, of requests that take 10 ms");
    });
}

/// Who has just got the volume, and only reads, gives it back as soon.
#[test]
fn who_got_it_for_a_read_gives_it_back_soon() {
    run(27, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        let w = attached(&other).await;
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
        life.sleep(10).await;
        let began = life.rt.now();
        v.write(0, bytes(2, 4096)).await.unwrap();
        let took = life.rt.now().since(began);
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

/// A host that is gone is not asked for ever, and what it had acknowledged for the pool is there after a take-over.
#[test]
fn a_dead_owner_is_named_with_what_helps() {
    run(22, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let w = attached(&other).await;
        let machine = life.crash();
        let began = other.rt.now();
        let uses = (0..8).map(|_| w.read(0, 4096));
        for refused in futures::future::join_all(uses).await {
            let refused = refused.unwrap_err();
            assert!(refused.is(Kind::Owned) && refused.to_string().contains("host1"), "{refused}");
            assert!(refused.to_string().contains("take-over"), "{refused}");
        }
        let took = other.rt.now().since(began).as_secs();
        assert!((30..35).contains(&took), "all of them at once: {took} s");
        // Back, it is asked again.
        let life = machine.start().await;
        let v = attached(&life).await;
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
        w.write(0, bytes(2, 4096)).await.unwrap();
        w.flush().await.unwrap();
        other.crash();
        life.volumes.take_over(&name("v"), false).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// An owner that has much to store is waited for as long as it is at work.
#[test]
fn an_owner_that_is_slow_is_waited_for() {
    run(23, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, MIB as usize)).await.unwrap();
        let w = attached(&other).await;
        let slow = Duration::from_millis(1_500);
        site.stores.iter().for_each(|s| s.faults(|f| (f.latency, f.patience) = ((slow, slow), slow * 8)));
        let began = other.rt.now();
        assert!(w.read(0, MIB).await.unwrap() == bytes(1, MIB as usize));
        let took = other.rt.now().since(began);
        assert!(took > Duration::from_secs(30), "{took:?}");
    });
}

/// Two claims that both have to wait for a store do not overtake each other for ever.
#[test]
fn hosts_that_claim_at_once_wait_for_each_other() {
    run(28, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, MIB as usize)).await.unwrap();
        let w = attached(&other).await;
        v.release().await.unwrap();
        // What was stored last is to be completed, and that takes `degrade-after`.
        site.stores[2].contents().wipe();
        let later = async {
            other.sleep(1_000).await;
            w.read(0, 4096).await
        };
        let both = async { futures::join!(v.read(0, 4096), later) };
        let (first, second) =
            life.rt.timeout(Duration::from_secs(30), both).await.expect("neither waits for ever");
        assert!(first.unwrap() == bytes(1, 4096) && second.unwrap() == bytes(1, 4096));
    });
}

/// Who is shut out by force does not go on as if nothing had been lost.
#[test]
fn who_was_shut_out_by_force_fails_its_clients() {
    run(24, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        other.volumes.take_over(&name("v"), false).await.unwrap();
        let w = attached(&other).await;
        w.release().await.unwrap();
        life.sleep(10_000).await;
        assert!(v.write(0, bytes(2, 4096)).await.unwrap_err().is(Kind::Fenced));
        assert!(v.read(0, 4096).await.unwrap_err().is(Kind::Fenced));
    });
}

/// After a power cut a host has what it had promised, and is asked for it like any other.
#[test]
fn what_a_journal_holds_is_there_before_it_is_handed_over() {
    run(25, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let w = attached(&other).await;
        let life = life.crash().start().await;
        let v = attached(&life).await;
        assert!(matches!(v.known(), Known::Live(_)), "it becomes the owner at once");
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
    });
}

/// Two hosts, either killed at any moment of many hand-overs; what was flushed to the pool is there, and nothing else.
async fn killed_at(site: Site, ms: u64, kills_owner: bool) {
    let (first, other) = (site.machine(1).found().await, site.machine(2).start().await);
    let v = made(&first, FlushMode::Pool).await;
    let w = attached(&other).await;
    v.write(0, block(1)).await.unwrap();
    v.flush().await.unwrap();
    // Both are at it when the kill comes: one lets go, or has just got it.
    let (flushed, begun) = (Mutex::new(1), Mutex::new(1));
    let (victim, stays) = if kills_owner { (first, &other) } else { (other, &first) };
    let killed = victim.process.clone();
    site.world.after(Duration::from_millis(ms), move || killed.kill());
    let turns = async {
        for n in 2.. {
            let volume = if n % 2 == 0 { &w } else { &v };
            *begun.lock() = n;
            // What ran on a host that was killed never answers, or says that it has ended.
            match stays
                .rt
                .timeout(Duration::from_secs(60), async {
                    volume.write(0, block(n)).await?;
                    volume.flush().await
                })
                .await
            {
                Some(Ok(())) => *flushed.lock() = n,
                _ => return,
            }
        }
    };
    turns.await;
    let machine = victim.crash();
    // The test has the volume of the process that is gone yet, and with it the journal's lock.
    machine.disk.power_loss();
    let kept: &Arc<Volume> = if kills_owner { &w } else { &v };
    let (least, most) = (*flushed.lock(), *begun.lock());
    let seen = match kept.read(0, 4096).await {
        Ok(seen) => seen,
        Err(refused) => {
            assert!(refused.is(Kind::Owned), "{refused}");
            // The other way: it comes back, or is given up.
            if ms.is_multiple_of(2) {
                let back = machine.start().await;
                let own = attached(&back).await;
                let seen = own.read(0, 4096).await.unwrap();
                assert!(kept.read(0, 4096).await.unwrap() == seen);
                seen
            } else {
                stays.volumes.take_over(&name("v"), false).await.unwrap();
                kept.read(0, 4096).await.unwrap()
            }
        }
    };
    let seen = number(&seen);
    assert!((least..=most).contains(&seen), "after {ms} ms: {seen}, of {least} flushed and {most} begun");
    // And it goes on.
    kept.write(0, block(99)).await.unwrap();
    kept.flush().await.unwrap();
}

#[test]
fn a_host_may_be_killed_at_any_moment() {
    for round in 0..60u64 {
        let (ms, kills_owner) = (17 + 211 * (round / 2), round % 2 == 0);
        run(100 + round, "2+1", move |site| killed_at(site, ms, kills_owner));
    }
}

/// What a command writes stands on what it found, and on nothing that another host wrote in between.
#[test]
fn a_command_that_fills_the_volume_is_not_asked_for_it() {
    run(29, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = made(&life, FlushMode::Local).await;
        let w = attached(&other).await;
        let filling = v.fill().await.unwrap();
        v.write(0, block(1)).await.unwrap();
        // For longer than an owner may be silent.
        let waits = other.rt.timeout(Duration::from_secs(90), w.write(4096, block(7))).await;
        assert!(waits.is_none(), "{waits:?}");
        v.write(0, block(2)).await.unwrap();
        assert_eq!(number(&v.read(4096, 4096).await.unwrap()), 0);
        drop(filling);
        w.write(4096, block(8)).await.unwrap();
        // One that was let go of by a user in the middle is not asked back for the command.
        let filling = w.fill().await.unwrap();
        w.write(0, block(3)).await.unwrap();
        w.release().await.unwrap();
        v.write(4096, block(9)).await.unwrap();
        assert!(w.write(0, block(4)).await.unwrap_err().is(Kind::Refused));
        drop(filling);
        assert_eq!(number(&w.read(4096, 4096).await.unwrap()), 9);
    });
}

/// Machines that only ever attach it.
#[test]
fn a_new_host_gets_what_the_last_one_wrote() {
    run(26, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        made(&life, FlushMode::Local).await;
        let mut lives = vec![life];
        for n in 1..6u64 {
            let machine: Machine = site.machine(1 + u128::from(n));
            let life = machine.start().await;
            let v = attached(&life).await;
            assert_eq!(number(&v.read(0, 4096).await.unwrap()), n - 1);
            v.write(0, block(n)).await.unwrap();
            lives.push(life);
        }
    });
}
