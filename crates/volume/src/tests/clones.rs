//! Clones beside removals: one host clones what another removes, and either may be killed at any step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::site::Site;
use super::*;
use windlass_base::{Error, Result};

/// A command on a host, begun a little later, whose process may be killed meanwhile: `None` then.
pub async fn command<T: Send + 'static>(
    site: &Site,
    life: &Life,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Option<Result<T>> {
    let (rt, process, disk) = (life.rt.clone(), life.process.clone(), life.machine.disk.clone());
    let begins = Duration::from_millis(site.world.below(400));
    let over = Arc::new(AtomicBool::new(false));
    if site.world.below(4) == 0 {
        let (steps, over) = (1 + site.world.below(1_500), over.clone());
        site.world.after_steps(steps, move || {
            if process.alive() && !over.load(Ordering::Relaxed) {
                process.kill();
                disk.power_loss();
            }
        });
    }
    let pause = rt.clone();
    let done = rt.spawn(async move {
        pause.sleep(begins).await;
        Ok::<_, Error>(work.await)
    });
    let done = done.await;
    over.store(true, Ordering::Relaxed);
    life.process.alive().then(|| done.and_then(|out| out))?.ok()
}

struct Race {
    site: Site,
    /// The owner, who removes, and who clones.
    hosts: [Option<Life>; 2],
    v: Arc<Volume>,
}

impl Race {
    async fn new(site: Site) -> Race {
        let hosts = [Some(site.machine(1).found().await), Some(site.machine(2).start().await)];
        let v = volume(hosts[0].as_ref().unwrap(), FlushMode::Local).await;
        Race { site, hosts, v }
    }

    fn host(&self, i: usize) -> &Life {
        self.hosts[i].as_ref().unwrap()
    }

    /// Whoever was killed begins anew.
    async fn revive(&mut self) {
        for i in 0..2 {
            if !self.host(i).process.alive() {
                self.hosts[i] = Some(self.hosts[i].take().unwrap().crash().start().await);
            }
        }
        let owner = &self.host(0).volumes;
        if owner.info(&name("v")).await.is_ok() {
            self.v = owner.open(&name("v"), OpenMode::Normal).await.unwrap();
        }
    }

    fn clone(&self, s: &str, c: &str) -> impl Future<Output = Option<Result<VolumeInfo>>> {
        let (life, s, c) = (self.host(1), name(s), name(c));
        let volumes = life.volumes.clone();
        command(&self.site, life, async move { volumes.clone_snapshot(&name("v"), &s, &c).await })
    }

    async fn cloned(&self, c: &str) -> bool {
        match self.host(1).volumes.info(&name(c)).await {
            Ok(_) => true,
            Err(e) if e.is(Kind::NotFound) => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// A snapshot is removed beside its clone.
    async fn snapshot(&mut self, round: u64) {
        let (s, c) = (format!("s{round}"), format!("c{round}"));
        let data = bytes(round + 1, 8192);
        self.v.write(0, data.clone()).await.unwrap();
        snapshot_group(&[(self.v.clone(), name(&s))], true).await.unwrap();
        self.v.ask(|session| async move { session.checkpoint_surely(&[]).await }).await.unwrap();
        let volumes = self.host(0).volumes.clone();
        let snapshot = name(&s);
        let remove = async move { volumes.remove_snapshot(&name("v"), &snapshot).await };
        let remove = command(&self.site, self.host(0), remove);
        let (cloned, removed) = futures::future::join(self.clone(&s, &c), remove).await;
        self.revive().await;
        let there = self.cloned(&c).await;
        let list = self.host(0).volumes.snapshots(&name("v")).await.unwrap();
        let kept = list.iter().any(|info| info.name == name(&s));
        assert!(!there || kept, "round {round}: {c} has no snapshot any more; {cloned:?}, {removed:?}");
        match &cloned {
            Some(Ok(_)) => assert!(there, "round {round}"),
            Some(Err(e)) => assert!(e.is(Kind::NotFound) && !there, "round {round}: {e}"),
            None => {}
        }
        match &removed {
            Some(Ok(())) => assert!(!kept, "round {round}"),
            Some(Err(e)) => assert!(e.is(Kind::Refused) && there, "round {round}: {e}"),
            None => {}
        }
        if there {
            let life = self.host(1);
            let c = life.volumes.open(&name(&c), OpenMode::Normal).await.unwrap();
            assert!(c.read(0, 8192).await.unwrap() == data, "round {round}");
            life.volumes.remove(&c.name()).await.unwrap();
        }
        // What was broken off holds nothing, and a gate that was left bars nobody.
        if kept && self.site.world.below(2) == 0 {
            self.host(1).volumes.clone_snapshot(&name("v"), &name(&s), &name("again")).await.unwrap();
            self.host(1).volumes.remove(&name("again")).await.unwrap();
        }
        if kept {
            self.host(0).volumes.remove_snapshot(&name("v"), &name(&s)).await.unwrap();
        }
    }

    /// The volume is removed beside a clone of its snapshot.
    async fn volume(mut self) {
        self.v.write(0, bytes(99, 4096)).await.unwrap();
        snapshot_group(&[(self.v.clone(), name("last"))], true).await.unwrap();
        self.v.ask(|session| async move { session.checkpoint_surely(&[]).await }).await.unwrap();
        let volumes = self.host(0).volumes.clone();
        let remove = async move { volumes.remove(&name("v")).await };
        let remove = command(&self.site, self.host(0), remove);
        let (cloned, removed) = futures::future::join(self.clone("last", "c"), remove).await;
        self.revive().await;
        let there = self.cloned("c").await;
        let kept = self.host(0).volumes.info(&name("v")).await.is_ok();
        assert!(!there || kept, "a clone without its parent: {cloned:?}, {removed:?}");
        if there {
            let c = self.host(1).volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
            assert!(c.read(0, 4096).await.unwrap() == bytes(99, 4096));
            self.host(1).volumes.remove(&name("c")).await.unwrap();
        }
        if kept {
            self.host(0).volumes.remove(&name("v")).await.unwrap();
        }
    }
}

#[test]
fn what_is_cloned_is_not_removed_beside_it() {
    // CLONES=SEED[..END] replays.
    for seed in seeds("CLONES", "0..10") {
        eprintln!("CLONES={seed}");
        run(seed, ["2+1", "1+0", "4+2"][seed as usize % 3], |site| async move {
            let mut race = Race::new(site).await;
            for round in 0..8 {
                let (min, max) = (1, 1 + race.site.world.below(60));
                let latency = (Duration::from_millis(min), Duration::from_millis(max));
                race.site.stores.iter().for_each(|s| s.faults(|f| f.latency = latency));
                race.snapshot(round).await;
            }
            race.volume().await;
        });
    }
}

/// What a host knows of a snapshot since it cloned it last is not taken for another one's that has its name now.
#[test]
fn a_clone_is_of_what_has_the_name_now() {
    run(5, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let mut v = volume(&life, FlushMode::Local).await;
        for round in 0..4 {
            let data = bytes(round + 1, 4096);
            v.write(0, data.clone()).await.unwrap();
            snapshot_group(&[(v.clone(), name("a"))], true).await.unwrap();
            v.ask(|session| async move { session.checkpoint_surely(&[]).await }).await.unwrap();
            for i in 0..2 {
                let c = name(&format!("c{round}-{i}"));
                other.volumes.clone_snapshot(&name("v"), &name("a"), &c).await.unwrap();
                let clone = other.volumes.open(&c, OpenMode::Normal).await.unwrap();
                assert!(clone.read(0, 4096).await.unwrap() == data, "{c}");
                let refused = life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap_err();
                assert!(refused.is(Kind::Refused), "{refused}");
                other.volumes.remove(&c).await.unwrap();
            }
            // The snapshot is made again, and then the whole volume.
            life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap();
            if round > 0 {
                life.volumes.remove(&name("v")).await.unwrap();
                v = volume(&life, FlushMode::Local).await;
            }
        }
        let gone = other.volumes.clone_snapshot(&name("v"), &name("a"), &name("c")).await.unwrap_err();
        assert!(gone.is(Kind::NotFound) && !gone.to_string().contains("volume v was removed"), "{gone}");
    });
}
