//! A journal that is mirrored to a peer (model `mirror`).

use std::sync::Arc;

use super::site::{Machine, Site};
use super::*;
use windlass_base::rt::sim::SimNet;

/// Where all volumes of all scenarios are encrypted none is mirrored.
fn run<F>(seed: u64, layout: &str, scenario: impl FnOnce(Site) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    if std::env::var_os("WINDLASS_TEST_ENCRYPTED").is_none() {
        site::run(seed, layout, scenario);
    }
}

/// Two hosts, each the other's peer, and the ways to them.
struct Hosts {
    machines: [Machine; 2],
    /// By who is reached.
    nets: [SimNet; 2],
}

fn hosts(site: &Site) -> Hosts {
    let nets = [SimNet::new(&site.world), SimNet::new(&site.world)];
    let machine = |n: usize| site.machine(1 + n as u128).mirrored(&nets[1 - n], &nets[n]);
    Hosts { machines: [machine(0), machine(1)], nets }
}

async fn made(life: &Life, settings: &[&str]) -> Arc<Volume> {
    life.volumes.create(&name("v"), 64 * MIB, small(FlushMode::Mirror)).await.unwrap();
    for setting in settings {
        life.volumes.set(&name("v"), &[(*setting).to_owned()]).await.unwrap();
    }
    opened(life).await
}

async fn opened(life: &Life) -> Arc<Volume> {
    life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap()
}

fn state(life: &Life) -> Option<String> {
    life.volumes.glance(&name("v"))?.mirror?.state
}

/// Until the head names the peer and it has all.
async fn mirrored(life: &Life) {
    for _ in 0..600 {
        if state(life).as_deref() == Some("mirrored") {
            return;
        }
        life.sleep(100).await;
    }
    panic!("not mirrored: {:?}", life.volumes.glance(&name("v")));
}

/// An owner and its peer; the peer has the volume's first bytes, so many of `bytes(1, …)`, flushed.
async fn mirrored_pair(hosts: &Hosts, settings: &[&str], written: usize) -> (Life, Life, Arc<Volume>) {
    let life = hosts.machines[0].found().await;
    let peer = hosts.machines[1].start().await;
    let v = made(&life, settings).await;
    v.write(0, bytes(1, written)).await.unwrap();
    v.flush().await.unwrap();
    mirrored(&life).await;
    (life, peer, v)
}

async fn within<T>(life: &Life, seconds: u64, work: impl Future<Output = T>) -> Option<T> {
    life.rt.timeout(Duration::from_secs(seconds), work).await
}

#[test]
fn what_was_flushed_is_on_the_peer_when_the_host_and_its_disk_are_lost() {
    for seed in 0..4 {
        run(seed, "2+1", move |site| async move {
            let hosts = hosts(&site);
            let life = hosts.machines[0].found().await;
            let peer = hosts.machines[1].start().await;
            let v = made(&life, &[]).await;
            v.write(0, bytes(1, 300_000)).await.unwrap();
            mirrored(&life).await;
            // The pool takes nothing: it is the peer that a flush counts on.
            site.reach(0..3, Reach::Refuses);
            v.write(100_000, bytes(2, 3 * MIB as usize)).await.unwrap();
            v.zero(50_000, 10_000).await.unwrap();
            within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
            let machine = life.crash();
            machine.disk.replace();
            site.reach(0..3, Reach::Up);
            let done = peer.volumes.take_over(&name("v"), false).await.unwrap();
            assert!(done.notes.iter().any(|note| note.contains("all flushed writes of host1")), "{done:?}");
            let w = opened(&peer).await;
            let mut model = vec![0; 4 * MIB as usize];
            model[..300_000].copy_from_slice(&bytes(1, 300_000));
            model[100_000..100_000 + 3 * MIB as usize].copy_from_slice(&bytes(2, 3 * MIB as usize));
            model[50_000..60_000].fill(0);
            assert!(w.read(0, 4 * MIB).await.unwrap() == model);
            // The host comes back with an empty disk, and is the new owner's peer.
            let back = machine.start().await;
            mirrored(&peer).await;
            w.write(0, bytes(3, 4096)).await.unwrap();
            w.flush().await.unwrap();
            peer.crash();
            back.volumes.take_over(&name("v"), false).await.unwrap();
            model[..4096].copy_from_slice(&bytes(3, 4096));
            assert!(opened(&back).await.read(0, 4 * MIB).await.unwrap() == model);
        });
    }
}

#[test]
fn a_host_that_has_nothing_is_refused_with_the_name_of_who_has_it() {
    run(10, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer) = (hosts.machines[0].found().await, hosts.machines[1].start().await);
        let third = site.machine(3).start().await;
        let v = made(&life, &[]).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        mirrored(&life).await;
        site.reach(0..3, Reach::Refuses);
        v.write(0, bytes(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.crash();
        site.reach(0..3, Reach::Up);
        let refused = third.volumes.take_over(&name("v"), false).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("host2"), "{refused}");
        assert!(refused.to_string().contains("--accept-loss"), "{refused}");
        let info = third.volumes.info(&name("v")).await.unwrap();
        assert_eq!(info.mirror.and_then(|mirror| mirror.host).as_deref(), Some("host2"));
        let done = third.volumes.take_over(&name("v"), true).await.unwrap();
        assert!(done.notes.iter().any(|note| note.contains("are lost")), "{done:?}");
        assert!(opened(&third).await.read(0, 4096).await.unwrap() == bytes(1, 4096));
        // Who had it comes too late, and is not asked any more.
        let refused = peer.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Owned), "{refused}");
    });
}

#[test]
fn without_a_peer_flushes_mean_the_pool_and_anybody_may_take_over() {
    run(20, "2+1", |site| async move {
        let hosts = hosts(&site);
        let life = hosts.machines[0].found().await;
        let third = site.machine(3).start().await;
        let v = made(&life, &[]).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        within(&life, 10, v.flush()).await.expect("the pool has it").unwrap();
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.trouble.as_ref().is_some_and(|why| why.contains("not mirrored")), "{info:?}");
        // A peer comes, and hangs.
        let peer = hosts.machines[1].start().await;
        mirrored(&life).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().trouble, None);
        hosts.nets[1].faults(|f| f.hangs = true);
        v.write(0, bytes(2, 4096)).await.unwrap();
        let began = life.rt.now();
        within(&life, 10, v.flush()).await.expect("the pool has it").unwrap();
        let took = life.rt.now().since(began);
        assert!(took < Duration::from_secs(6), "{took:?}");
        life.sleep(5_000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().mirror.and_then(|m| m.host), None);
        life.crash();
        third.volumes.take_over(&name("v"), false).await.unwrap();
        assert!(opened(&third).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
        drop(peer);
    });
}

#[test]
fn where_it_is_held_a_flush_waits_for_the_peer() {
    run(30, "2+1", |site| async move {
        let hosts = hosts(&site);
        let life = hosts.machines[0].found().await;
        let peer = hosts.machines[1].start().await;
        let v = made(&life, &["mirror-loss=hold"]).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        within(&life, 10, v.flush()).await.expect("the peer has it").unwrap();
        let machine = peer.crash();
        v.write(0, bytes(2, 4096)).await.unwrap();
        let flush = v.flush();
        let mut flush = std::pin::pin!(flush);
        assert!(within(&life, 60, flush.as_mut()).await.is_none());
        let named = life.volumes.info(&name("v")).await.unwrap().mirror.unwrap();
        assert_eq!((named.host.as_deref(), named.state.as_deref()), (Some("host2"), Some("lost")));
        let peer = machine.start().await;
        within(&life, 10, flush.as_mut()).await.expect("the peer has it").unwrap();
        // Another meaning is chosen while a flush waits.
        peer.crash();
        v.write(0, bytes(3, 4096)).await.unwrap();
        let (flushed, set) = futures::future::join(within(&life, 60, v.flush()), async {
            life.sleep(20_000).await;
            life.volumes.set(&name("v"), &["mirror-loss=pool".to_owned()]).await
        })
        .await;
        set.unwrap();
        flushed.expect("the pool has it").unwrap();
    });
}

#[test]
fn an_owner_who_starts_anew_takes_no_write_before_its_peer_has_all_or_the_pool() {
    run(40, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, _) = mirrored_pair(&hosts, &[], 4096).await;
        let (machine, other) = (life.crash(), peer.crash());
        let life = machine.start().await;
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Unavailable), "{refused}");
        assert!(
            refused.to_string().contains("host2") && refused.to_string().contains("--accept-loss"),
            "{refused}"
        );
        let peer = other.start().await;
        let v = opened(&life).await;
        assert!(v.read(0, 4096).await.unwrap() == bytes(1, 4096));
        peer.crash();
        site.reach(0..3, Reach::Refuses);
        assert!(within(&life, 30, v.write(0, bytes(2, 4096))).await.is_none(), "the gate is closed");
        site.reach(0..3, Reach::Up);
        within(&life, 30, v.write(0, bytes(2, 4096))).await.expect("the mirror is ended").unwrap();
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().mirror.and_then(|m| m.host), None);
    });
}

#[test]
fn an_owner_whose_disk_was_put_back_takes_in_what_its_peer_has() {
    for seed in 0..4 {
        run(80 + seed, "2+1", move |site| async move {
            let hosts = hosts(&site);
            let (life, peer, v) = mirrored_pair(&hosts, &[], 300_000).await;
            let earlier = match seed % 2 {
                0 => life.machine.disk.snapshot(),
                _ => life.machine.disk.copied(),
            };
            if seed < 2 {
                site.reach(0..3, Reach::Refuses);
            }
            v.write(100_000, bytes(2, 3 * MIB as usize)).await.unwrap();
            within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
            let machine = life.crash().with(earlier);
            site.reach(0..3, Reach::Up);
            let life = machine.start().await;
            let v = opened(&life).await;
            let mut model = vec![0; 4 * MIB as usize];
            model[..300_000].copy_from_slice(&bytes(1, 300_000));
            model[100_000..100_000 + 3 * MIB as usize].copy_from_slice(&bytes(2, 3 * MIB as usize));
            assert!(v.read(0, 4 * MIB).await.unwrap() == model);
            mirrored(&life).await;
            v.write(0, bytes(3, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.crash();
            model[..4096].copy_from_slice(&bytes(3, 4096));
            peer.volumes.take_over(&name("v"), false).await.unwrap();
            assert!(opened(&peer).await.read(0, 4 * MIB).await.unwrap() == model);
        });
    }
}

#[test]
fn where_the_owners_journal_is_damaged_its_peer_is_named_and_has_all() {
    for removed in [false, true] {
        run(86, "2+1", move |site| async move {
            let hosts = hosts(&site);
            let (life, peer, v) = mirrored_pair(&hosts, &[], 4096).await;
            site.reach(0..3, Reach::Refuses);
            for n in 0..16 {
                v.write(n * 65_536, bytes(n, 65_536)).await.unwrap();
                within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
            }
            let (machine, folder) = (life.crash(), format!("{}/journal/segment-", v.id()));
            let mut segments: Vec<_> = machine.disk.files().into_iter().map(|(path, _)| path).collect();
            segments.retain(|path| path.to_string_lossy().contains(&folder));
            segments.sort();
            match removed {
                true => windlass_base::rt::Disk::remove(&*machine.disk, &segments[0]).await.unwrap(),
                false => assert!(machine.disk.rot(&segments[0], 10_000, &[0x5a; 5_000])),
            }
            site.reach(0..3, Reach::Up);
            let life = machine.start().await;
            for _ in 0..3 {
                let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
                assert!(refused.is(Kind::Corrupt), "{refused}");
                assert!(refused.to_string().contains("host2 (host id"), "{refused}");
            }
            peer.volumes.take_over(&name("v"), false).await.unwrap();
            let all: Vec<u8> = (0..16).flat_map(|n| bytes(n, 65_536)).collect();
            assert!(opened(&peer).await.read(0, MIB).await.unwrap() == all);
        });
    }
}

#[test]
fn an_owner_goes_on_without_what_its_peer_had_where_the_user_gives_it_up() {
    run(90, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, _) = mirrored_pair(&hosts, &[], 4096).await;
        let machine = life.crash();
        peer.crash();
        let life = machine.start().await;
        let refused = life.volumes.take_over(&name("v"), false).await.unwrap_err();
        assert!(refused.is(Kind::Unavailable), "{refused}");
        let done = life.volumes.take_over(&name("v"), true).await.unwrap();
        assert!(done.notes.iter().any(|note| note.contains("are given up")), "{done:?}");
        let v = opened(&life).await;
        assert!(v.read(0, 4096).await.unwrap() == bytes(1, 4096));
        within(&life, 30, v.write(0, bytes(2, 4096))).await.expect("the mirror is ended").unwrap();
    });
}

#[test]
fn a_peer_that_has_lost_what_it_had_is_begun_with_under_another_ownership() {
    run(95, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, v) = mirrored_pair(&hosts, &["mirror-loss=hold"], 4096).await;
        let first = life.ownership(v.id()).await;
        let machine = peer.crash();
        machine.disk.replace();
        let peer = machine.start().await;
        life.sleep(1_000).await;
        let (id, engine) = (v.id(), peer.volumes.engine());
        assert!(
            !engine.sessions(id).has(first).await.unwrap(),
            "the head names it: it would be taken for whole"
        );
        mirrored(&life).await;
        let named = life.volumes.info(&name("v")).await.unwrap().mirror.unwrap();
        let second = life.ownership(v.id()).await;
        assert!(second > first);
        assert_eq!((named.host.as_deref(), named.epoch), (Some("host2"), Some(second.0)));
        v.write(0, bytes(2, 4096)).await.unwrap();
        within(&life, 10, v.flush()).await.expect("the peer has it").unwrap();
        life.crash().disk.replace();
        peer.volumes.take_over(&name("v"), false).await.unwrap();
        assert!(opened(&peer).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// A folder that can't be read is no folder without sessions: the owner would go on without what is in them.
#[test]
fn a_peer_that_cant_read_its_folder_says_so_to_an_owner_who_starts_anew() {
    run(96, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, v) = mirrored_pair(&hosts, &[], 4096).await;
        site.reach(0..3, Reach::Silent);
        v.write(0, bytes(2, 4096)).await.unwrap();
        within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
        let machine = life.crash();
        machine.disk.replace();
        site.reach(0..3, Reach::Up);
        peer.machine.disk.faults(|f| f.list_fails = 1000);
        let life = machine.start().await;
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await;
        assert!(refused.is_err_and(|e| e.is(Kind::Owned)), "its folder is empty");
        let refused = peer.volumes.take_over(&name("v"), false).await.unwrap_err();
        assert!(refused.to_string().contains("looking into"), "{refused}");
        let refused = peer.volumes.take_over(&name("v"), true).await.unwrap_err();
        assert!(refused.to_string().contains("looking into"), "no consent to the loss is a look: {refused}");
        peer.machine.disk.faults(|f| f.list_fails = 0);
        peer.volumes.take_over(&name("v"), false).await.unwrap();
        assert!(opened(&peer).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// An owner whose state folder was put back hears its peer, which can't read its folder.
#[test]
fn a_peer_that_cant_read_its_folder_is_not_heard_as_one_that_has_nothing() {
    run(97, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, v) = mirrored_pair(&hosts, &[], 4096).await;
        let earlier = life.machine.disk.snapshot();
        site.reach(0..3, Reach::Silent);
        v.write(0, bytes(2, 4096)).await.unwrap();
        within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
        let machine = life.crash().with(earlier);
        site.reach(0..3, Reach::Up);
        peer.machine.disk.faults(|f| f.list_fails = 1000);
        let life = machine.start().await;
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(
            refused.is(Kind::Unavailable) && refused.to_string().contains("could not be asked"),
            "{refused}"
        );
        peer.machine.disk.faults(|f| f.list_fails = 0);
        assert!(opened(&life).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// The pool's stores were put back, and a session of the number that the next ownership gets is there from before.
#[test]
fn a_session_of_another_ownership_of_the_same_number_counts_for_nothing() {
    run(98, "2+1", |site| async move {
        let hosts = hosts(&site);
        let life = hosts.machines[0].found().await;
        let peer = hosts.machines[1].start().await;
        let v = made(&life, &[]).await;
        let engine = peer.volumes.engine();
        let begin = crate::mirror::Begin {
            pool: engine.pool.id(),
            volume: v.id(),
            epoch: windlass_base::Epoch(1),
            from: windlass_base::Lsn(0),
            asked: None,
            owner: engine.host.clone(),
        };
        let like = engine.journal(v.id(), &small(FlushMode::Mirror));
        let (session, _) = engine.sessions(v.id()).begin(like, &begin).await.unwrap();
        let mut room = session.reserve(session.cost(0)).await.unwrap();
        let op = windlass_base::log_record::Op::Zero { block: 7, blocks: 1 };
        session
            .append(&mut room, &windlass_base::log_record::Record { lsn: windlass_base::Lsn(900), op })
            .unwrap();
        drop(room);
        session.close().await.unwrap();
        v.write(0, bytes(1, 4096)).await.unwrap();
        mirrored(&life).await;
        site.reach(0..3, Reach::Refuses);
        v.write(0, bytes(2, 4096)).await.unwrap();
        within(&life, 2, v.flush()).await.expect("the peer has it").unwrap();
        life.crash().disk.replace();
        site.reach(0..3, Reach::Up);
        peer.volumes.take_over(&name("v"), false).await.unwrap();
        assert!(opened(&peer).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

#[test]
fn a_volume_that_is_not_mirrored_any_more_is_forgotten_by_the_peer() {
    run(50, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, v) = mirrored_pair(&hosts, &[], 4096).await;
        let (id, engine) = (v.id(), peer.volumes.engine());
        let epoch = life.ownership(id).await;
        assert!(engine.sessions(id).has(epoch).await.unwrap());
        life.volumes.set(&name("v"), &["flush=local".to_owned()]).await.unwrap();
        life.sleep(10_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.mirror, info.trouble), (None, None));
        assert!(!engine.sessions(id).has(epoch).await.unwrap());
        // And released it names nobody.
        life.volumes.set(&name("v"), &["flush=mirror".to_owned()]).await.unwrap();
        v.write(0, bytes(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        mirrored(&life).await;
        v.release().await.unwrap();
        assert_eq!(peer.volumes.info(&name("v")).await.unwrap().mirror.and_then(|m| m.host), None);
        assert!(opened(&peer).await.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

#[test]
fn what_is_mirrored_of_a_volume_that_has_gone_on_without_it_goes_when_the_peer_starts() {
    run(55, "2+1", |site| async move {
        let hosts = hosts(&site);
        let (life, peer, v) = mirrored_pair(&hosts, &[], 4096).await;
        let (id, first) = (v.id(), life.ownership(v.id()).await);
        peer.volumes.forget_stale_sessions().await;
        assert!(peer.volumes.engine().sessions(id).has(first).await.unwrap(), "the head names it");
        // While the peer is away the owner goes on without it, and removes the volume.
        let machine = peer.crash();
        v.write(0, bytes(2, 4096)).await.unwrap();
        within(&life, 20, v.flush()).await.expect("the pool has it").unwrap();
        life.sleep(5_000).await;
        let peer = machine.start().await;
        peer.volumes.forget_stale_sessions().await;
        assert!(
            peer.volumes.engine().sessions(id).has(first).await.unwrap(),
            "it may be about to be named again"
        );
        hosts.nets[1].faults(|f| f.down = true);
        hosts.nets[1].cut();
        life.sleep(10_000).await;
        drop(v);
        life.volumes.remove(&name("v")).await.unwrap();
        peer.volumes.forget_stale_sessions().await;
        assert!(!peer.volumes.engine().sessions(id).any().await.unwrap());
    });
}

#[test]
fn an_encrypted_volume_is_not_mirrored() {
    run(60, "2+1", |mut site| async move {
        site.encrypted = true;
        let life = site.machine(1).found().await;
        let made = life.volumes.create(&name("v"), 64 * MIB, small(FlushMode::Mirror)).await;
        assert!(made.unwrap_err().is(Kind::Refused));
        let v = volume(&life, FlushMode::Local).await;
        assert!(v.is_encrypted());
        let set = life.volumes.set(&name("v"), &["flush=mirror".to_owned()]).await;
        assert!(set.unwrap_err().is(Kind::Refused));
    });
}

/// What a witness knows: each write has a number and a tag, and goes to the block of its number.
#[derive(Default)]
struct Witness {
    /// Tags of all that may be there, by number; the first is no write.
    tags: Vec<u64>,
    flushed: u64,
    /// The last write that is there, as far as is known.
    shown: u64,
}

const BLOCKS: u64 = 8;

impl Witness {
    /// `None`: it never came to the volume, and leaves nothing behind.
    async fn write(&mut self, site: &Site, life: &Life, v: &Volume) -> Option<windlass_base::Result<()>> {
        // What was not there when the host started anew may show again until this write is taken: not after it.
        let mut tags = self.tags.clone();
        tags.truncate(self.shown as usize + 1);
        if tags.is_empty() {
            tags.push(0);
        }
        let (number, tag) = (tags.len() as u64, site.world.random());
        tags.push(tag);
        let mut block = vec![7; 4096];
        block[..8].copy_from_slice(&number.to_le_bytes());
        block[8..16].copy_from_slice(&tag.to_le_bytes());
        let done = within(life, 20, v.write(number % BLOCKS * 4096, block.into())).await?;
        (self.tags, self.shown) = (tags, number);
        Some(done)
    }

    /// What is there now is what some first writes made of it, all that were flushed among them.
    async fn look(&mut self, v: &Volume, at: &str) {
        let all = v.read(0, BLOCKS * 4096).await.unwrap();
        let word = |at: usize| u64::from_le_bytes(all[at..at + 8].try_into().unwrap());
        let seen: Vec<(u64, u64)> =
            (0..BLOCKS as usize).map(|b| (word(b * 4096), word(b * 4096 + 8))).collect();
        let last = seen.iter().map(|(number, _)| *number).max().unwrap();
        assert!(last >= self.flushed, "{at}: {last} of {} flushed writes are there", self.flushed);
        for (block, (number, tag)) in seen.iter().enumerate() {
            let expected = (0..=last).rev().find(|n| *n > 0 && n % BLOCKS == block as u64).unwrap_or(0);
            assert_eq!(*number, expected, "{at}: no state of before, block {block}, up to {last}");
            let tags = self.tags.get(*number as usize).copied().unwrap_or(0);
            assert_eq!(*tag, tags, "{at}: another write {number} than the one that was there");
        }
        self.shown = last;
    }
}

/// Opens it on a host that starts anew, by a link that may be troubled.
async fn heard(net: &SimNet, life: &Life) -> Arc<Volume> {
    match life.volumes.open(&name("v"), OpenMode::Normal).await {
        Ok(volume) => volume,
        Err(error) => {
            assert!(
                error.is(Kind::Unavailable) && error.to_string().contains("mirrors this volume"),
                "{error}"
            );
            net.faults(|f| (f.down, f.hangs, f.latency.1) = (false, false, Duration::from_millis(5)));
            opened(life).await
        }
    }
}

/// Hosts that die in turn, with their disks or without; links that flap; the old one returns.
async fn world(site: Site, seed: u64) {
    let hosts = hosts(&site);
    let found = hosts.machines[0].found().await;
    let settings: &[&str] = if seed % 3 == 2 { &["mirror-loss=hold"] } else { &[] };
    let mut v = made(&found, settings).await;
    let mut lives = [Some(found), Some(hosts.machines[1].start().await)];
    let (mut owner, mut witness) = (0, Witness::default());
    let world = site.world.clone();
    let (mut takeovers, mut earlier) = (0, None);
    for step in 0..40 {
        let at = format!("seed {seed}, step {step}");
        let action = world.below(13);
        // Who starts or takes over meets stores that answer: what else may happen then others test.
        let faults = if seed % 2 == 1 && action < 8 { (10, 20) } else { (0, 0) };
        site.stores.iter().for_each(|s| s.faults(|f| (f.lost, f.errors) = faults));
        if action > 6 && action != 9 {
            // From here on the peer may have less, or another host be the owner.
            earlier = None;
        }
        match action {
            0..=3 => {
                for _ in 0..1 + world.below(5) {
                    let life = lives[owner].as_ref().unwrap();
                    if let Some(done) = witness.write(&site, life, &v).await {
                        done.unwrap_or_else(|e| panic!("{at}: {e}"));
                    }
                }
            }
            4 | 5 => {
                let (life, upto) = (lives[owner].as_ref().unwrap(), witness.shown);
                if let Some(done) = within(life, 20, v.flush()).await {
                    done.unwrap_or_else(|e| panic!("{at}: {e}"));
                    witness.flushed = upto;
                }
            }
            6 => world.rt().sleep(Duration::from_millis(world.below(4_000))).await,
            7 => {
                let net = &hosts.nets[1 - owner];
                match world.below(4) {
                    0 => net.cut(),
                    1 => net.faults(|f| f.down = !f.down),
                    2 => net.faults(|f| f.hangs = !f.hangs),
                    _ => net.faults(|f| f.latency.1 = Duration::from_millis(1 + world.below(3_000))),
                }
            }
            8 => {
                // The peer dies, and comes back at once or later.
                let machine = lives[1 - owner].take().unwrap().crash();
                world.rt().sleep(Duration::from_millis(world.below(6_000))).await;
                lives[1 - owner] = Some(machine.start().await);
            }
            9 => {
                // The owner dies and starts anew.
                let mut machine = lives[owner].take().unwrap().crash();
                if let Some(earlier) = earlier.take() {
                    machine = machine.with(earlier);
                }
                let life = machine.start().await;
                v = heard(&hosts.nets[1 - owner], &life).await;
                lives[owner] = Some(life);
                witness.look(&v, &at).await;
            }
            10 => {
                let life = lives[owner].take().unwrap();
                let is_lost = state(&life).as_deref() == Some("mirrored") && world.below(2) == 0;
                // What is under way at that moment, or a while after, is cut off.
                let machine = life.crash();
                if is_lost {
                    machine.disk.replace();
                }
                let peer = lives[1 - owner].as_ref().unwrap();
                match peer.volumes.take_over(&name("v"), false).await {
                    Ok(_) => {
                        takeovers += 1;
                        lives[owner] = Some(machine.start().await);
                        owner = 1 - owner;
                    }
                    // Another host is named: the one that died, which had taken over itself.
                    Err(refused) if refused.is(Kind::Refused) && !is_lost => {
                        lives[owner] = Some(machine.start().await);
                    }
                    Err(e) => panic!("{at}: {e}"),
                }
                v = heard(&hosts.nets[1 - owner], lives[owner].as_ref().unwrap()).await;
                witness.look(&v, &at).await;
            }
            11 => {
                // Whoever is mirrored can have its disk put back.
                let life = lives[owner].as_ref().unwrap();
                let whole = state(life).as_deref() == Some("mirrored");
                earlier = whole.then(|| life.machine.disk.snapshot());
                continue;
            }
            _ => {
                site.reach(0..3, Reach::Refuses);
                world.rt().sleep(Duration::from_millis(world.below(8_000))).await;
                site.reach(0..3, Reach::Up);
            }
        }
    }
    hosts.nets.iter().for_each(|net| net.faults(|f| (f.down, f.hangs) = (false, false)));
    let life = lives[owner].as_ref().unwrap();
    within(life, 120, v.flush()).await.expect("flushes go on").unwrap();
    witness.flushed = witness.shown;
    witness.look(&v, "at the end").await;
    tracing::debug!(takeovers, "seed {seed}");
}

#[test]
fn hosts_that_die_in_turn_lose_nothing_that_was_flushed() {
    let seeds = std::env::var("WINDLASS_MIRROR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    let first = std::env::var("WINDLASS_MIRROR_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        run(7_000 + seed, "2+1", move |site| world(site, seed));
    }
}
