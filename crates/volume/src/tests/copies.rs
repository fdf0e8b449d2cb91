//! Copies of snapshots in another pool: cut off at any moment, begun again, equal; what they cost; what they refuse.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::site::{Site, name, run};
use super::*;
use crate::catalog::snapshot_as;
use windlass_base::Result;
use windlass_base::format_limits::BLOCK;

const QUIET: Copying<'static> = Copying { roll_back: false, verify_all: false, progress: &|_, _, _| {} };

/// Two pools of one world, each with a host of its own; what is copied is read by the first one's process.
async fn two(site: Site) -> (Life, Life) {
    let from = site.machine(1).found().await;
    let to = site.elsewhere().machine(2).found().await;
    (from, to)
}

async fn copy(from: &Life, s: &str, to: &Life) -> Result<Copied> {
    copy_snapshot((&from.volumes, &name("v"), &name(s)), (&to.volumes, &name("w")), QUIET).await
}

async fn snapshot(life: &Life, s: &str) {
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    snapshot_group(&[(v, name(s))], true).await.unwrap();
}

async fn check(from: &Life, to: &Life, s: &str) {
    let here = from.volumes.open_snapshot(&name("v"), &name(s)).await.unwrap();
    let there = to.volumes.open_snapshot(&name("w"), &name(s)).await.unwrap();
    assert_eq!(here.size(), there.size());
    let all = here.read(0, here.size()).await.unwrap();
    assert!(there.read(0, there.size()).await.unwrap() == all, "{s}");
    let holes = |view: Arc<SnapshotView>| async move { view.allocation(0, view.size(), 1 << 20).await };
    assert_eq!(holes(here).await.unwrap(), holes(there).await.unwrap(), "holes stay holes");
}

#[test]
fn a_copy_costs_what_has_changed_and_is_known_by_more_than_its_name() {
    run(1, "2+1", |site| async move {
        let (from, to) = two(site).await;
        let v = volume(&from, FlushMode::Local).await;
        v.write(3 * MIB, bytes(1, 6 * MIB as usize)).await.unwrap();
        snapshot(&from, "a").await;
        let done = copy(&from, "a", &to).await.unwrap();
        assert_eq!((done.base, done.copied_bytes, done.verified_bytes), (None, 6 * MIB, 6 * MIB));
        check(&from, &to, "a").await;
        assert!(copy(&from, "a", &to).await.unwrap().already);
        // Some blocks, a trim of others, and the common one has another name by now.
        v.write(4 * MIB, bytes(2, 5 * BLOCK as usize)).await.unwrap();
        v.zero(8 * MIB, MIB).await.unwrap();
        v.write(50 * MIB, bytes(3, BLOCK as usize)).await.unwrap();
        snapshot(&from, "b").await;
        let done = copy(&from, "b", &to).await.unwrap();
        assert_eq!(done.base, Some(name("a")));
        assert_eq!((done.copied_bytes, done.zeroed_bytes), (6 * BLOCK, MIB));
        check(&from, &to, "b").await;
        check(&from, &to, "a").await;
        // One that is older than what the copy has is refused; a larger volume makes the copy larger.
        from.volumes.resize(&name("v"), 65 * MIB + 512).await.unwrap();
        v.write(65 * MIB, bytes(4, 512)).await.unwrap();
        snapshot(&from, "c").await;
        let full = Copying { verify_all: true, ..QUIET };
        let to_w = (&to.volumes, &name("w"));
        let done = copy_snapshot((&from.volumes, &name("v"), &name("c")), to_w, full).await.unwrap();
        assert_eq!((done.copied_bytes, done.verified_bytes > 5 * MIB), (512, true));
        check(&from, &to, "c").await;
        let v = name("v");
        let refused = copy_snapshot((&from.volumes, &v, &name("a")), (&from.volumes, &v), QUIET).await;
        assert!(refused.unwrap_err().is(Kind::Usage));
    });
}

#[test]
fn a_copy_that_somebody_else_has_written_to_is_refused() {
    run(2, "1+0", |site| async move {
        let (from, to) = two(site).await;
        let v = volume(&from, FlushMode::Local).await;
        v.write(0, bytes(1, 2 * MIB as usize)).await.unwrap();
        snapshot(&from, "a").await;
        copy(&from, "a", &to).await.unwrap();
        let w = to.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        // What it held before does no harm.
        w.write(MIB, w.read(MIB, BLOCK).await.unwrap()).await.unwrap();
        v.write(0, bytes(2, BLOCK as usize)).await.unwrap();
        snapshot(&from, "b").await;
        copy(&from, "b", &to).await.unwrap();
        w.write(7 * BLOCK, bytes(9, 100)).await.unwrap();
        snapshot(&from, "c").await;
        let refused = copy(&from, "c", &to).await.unwrap_err();
        let said = refused.to_string();
        assert!(
            refused.is(Kind::Refused) && said.contains("tank/w@b") && said.contains("--rollback"),
            "{said}"
        );
        let how = Copying { roll_back: true, ..QUIET };
        copy_snapshot((&from.volumes, &name("v"), &name("c")), (&to.volumes, &name("w")), how).await.unwrap();
        check(&from, &to, "c").await;
        // Another snapshot of that name; a volume that is no copy.
        let w = to.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        snapshot_group(&[(w, name("d"))], true).await.unwrap();
        snapshot(&from, "d").await;
        assert!(copy(&from, "d", &to).await.unwrap_err().is(Kind::Exists));
        to.volumes.create(&name("x"), 64 * MIB, small(FlushMode::Local)).await.unwrap();
        let x = to.volumes.open(&name("x"), OpenMode::Normal).await.unwrap();
        x.write(0, bytes(1, 4096)).await.unwrap();
        let to_x = (&to.volumes, &name("x"));
        let refused = copy_snapshot((&from.volumes, &name("v"), &name("d")), to_x, QUIET).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("4.0 KiB"), "{refused}");
    });
}

/// As a client leaves it that writes between the comparison and the snapshot.
async fn make_false(from: &Life, s: &str, to: &Life) {
    copy(from, s, to).await.unwrap();
    let w = to.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
    let id = w.id();
    let tables = to.volumes.newest_tables(&name("w"), id).await.unwrap();
    let group = tables.snapshot(&name(s)).unwrap().group;
    let created_ms = tables.snapshot(&name(s)).unwrap().created_ms;
    to.volumes.remove_snapshot(&name("w"), &name(s)).await.unwrap();
    w.write(30 * MIB, bytes(9, BLOCK as usize)).await.unwrap();
    snapshot_as(&w, &name(s), group, created_ms).await.unwrap();
}

#[test]
fn a_copy_that_is_false_is_found_by_comparing_all_and_can_be_mended() {
    run(3, "1+0", |site| async move {
        let (from, to) = two(site).await;
        let v = volume(&from, FlushMode::Local).await;
        let full = |s: &'static str, roll_back| {
            let how = Copying { verify_all: true, roll_back, ..QUIET };
            let (from, to) = (&from, &to);
            async move {
                copy_snapshot((&from.volumes, &name("v"), &name(s)), (&to.volumes, &name("w")), how).await
            }
        };
        v.write(0, bytes(1, 2 * MIB as usize)).await.unwrap();
        snapshot(&from, "a").await;
        copy(&from, "a", &to).await.unwrap();
        let compared = full("a", false).await.unwrap();
        assert_eq!((compared.already, compared.verified_bytes), (true, 2 * MIB));
        v.write(5 * MIB, bytes(2, BLOCK as usize)).await.unwrap();
        snapshot(&from, "b").await;
        make_false(&from, "b", &to).await;
        assert!(copy(&from, "b", &to).await.unwrap().already, "by its identity");
        let said = full("b", false).await.unwrap_err();
        assert!(
            said.is(Kind::Corrupt) && said.to_string().contains("snapshot remove tank/w@b --now"),
            "{said}"
        );
        // What stands on it is false too, as all that is compared tells, and is mended.
        v.write(6 * MIB, bytes(3, BLOCK as usize)).await.unwrap();
        snapshot(&from, "c").await;
        let said = full("c", false).await.unwrap_err();
        assert!(said.is(Kind::Corrupt) && said.to_string().contains("--rollback --verify full"), "{said}");
        full("c", true).await.unwrap();
        check(&from, &to, "c").await;
        assert!(full("c", false).await.unwrap().already);
        // The way that was told for the false one itself, where nothing stands on it.
        snapshot(&from, "d").await;
        make_false(&from, "d", &to).await;
        full("d", false).await.unwrap_err();
        to.volumes.remove_snapshot(&name("w"), &name("d")).await.unwrap();
        full("d", true).await.unwrap();
        check(&from, &to, "d").await;
    });
}

/// The process that writes the copy dies at a random moment, again and again.
#[test]
fn a_copy_that_was_cut_off_goes_on_and_is_equal() {
    for seed in 0..6 {
        run(seed, ["1+0", "2+1", "4+2"][seed as usize % 3], move |site| async move {
            let world = site.world.clone();
            let site = if seed % 2 == 0 { site.eager() } else { site };
            let from = site.machine(1).found().await;
            let mut machine = site.elsewhere().machine(2).found().await.crash();
            from.volumes.create(&name("v"), 24 * MIB, small(FlushMode::Local)).await.unwrap();
            let v = from.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for (n, s) in ["a", "b", "c"].into_iter().enumerate() {
                for i in 0..12 {
                    let at = world.below(20 * MIB);
                    match world.below(3) {
                        0 => v.zero(at, 1 + world.below(2 * MIB)).await.unwrap(),
                        _ => v.write(at, bytes(i, 1 + world.below(MIB) as usize)).await.unwrap(),
                    }
                }
                snapshot(&from, s).await;
                // Another snapshot than the one that was begun may be asked for in the end.
                let (mut cut, last) = (0, if n == 1 && seed % 4 == 3 { "b2" } else { s });
                if last != s {
                    v.zero(0, 3 * MIB).await.unwrap();
                    snapshot(&from, last).await;
                }
                loop {
                    let to = machine.start().await;
                    let patience = Duration::from_millis(world.below(4_000));
                    let wanted = if cut < 3 { s } else { last };
                    let attempt = from.rt.timeout(patience, copy(&from, wanted, &to)).await;
                    let there = to.volumes.snapshot_names(&name("w")).await.unwrap_or_default();
                    if there.contains(&name(s)) {
                        check(&from, &to, s).await;
                    }
                    let done = attempt.is_some_and(|done| done.map(|_| wanted == last).unwrap());
                    machine = to.crash();
                    if done {
                        break;
                    }
                    cut += 1;
                    assert!(cut < 1_000, "it comes to an end");
                }
                let to = machine.start().await;
                check(&from, &to, last).await;
                machine = to.crash();
            }
        });
    }
}

/// A round that is given up when it has come so far.
async fn cut_off(from: &Life, s: &str, to: &Life, bytes: u64) {
    let reached = tokio::sync::Notify::new();
    let progress = |doing: &str, at: u64, _: u64| {
        if doing == "copying" && at >= bytes {
            reached.notify_one();
        }
    };
    let how = Copying { progress: &progress, ..QUIET };
    let (v, s, w) = (name("v"), name(s), name("w"));
    let copying = std::pin::pin!(copy_snapshot((&from.volumes, &v, &s), (&to.volumes, &w), how));
    let there = std::pin::pin!(reached.notified());
    assert!(
        matches!(futures::future::select(there, copying).await, futures::future::Either::Left(_)),
        "it was done before"
    );
}

#[test]
fn a_copy_whose_round_was_cut_off_is_shown_to_nobody_until_it_is_whole() {
    run(31, "2+1", |site| async move {
        let other = site.elsewhere();
        let (from, to) = (site.machine(1).found().await, other.machine(2).found().await);
        let v = volume(&from, FlushMode::Local).await;
        let attach = async |life: &Life| life.volumes.open(&name("w"), OpenMode::Attach).await;
        // Never whole.
        v.write(0, bytes(1, 20 * MIB as usize)).await.unwrap();
        snapshot(&from, "a").await;
        cut_off(&from, "a", &to, 8 * MIB).await;
        let refused = attach(&to).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("never was whole"), "{refused}");
        copy(&from, "a", &to).await.unwrap();
        assert!(attach(&to).await.is_ok());
        // Half of the next state, half of this one.
        v.write(0, bytes(2, 20 * MIB as usize)).await.unwrap();
        snapshot(&from, "b").await;
        cut_off(&from, "b", &to, 8 * MIB).await;
        let info = to.volumes.info(&name("w")).await.unwrap();
        assert!(info.not_whole_since_ms.is_some());
        let refused = attach(&to).await.unwrap_err().to_string();
        assert!(refused.contains("`windlass volume rollback tank/w@a`"), "{refused}");
        let w = to.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        let kept = snapshot_group(&[(w.clone(), name("x"))], true).await.unwrap_err();
        assert!(kept.is(Kind::Refused), "there is no state to keep: {kept}");
        // On another host, and after its end: the note is the pool's.
        to.volumes.release(&name("w")).await.unwrap();
        let third = other.machine(3).start().await;
        assert!(attach(&third).await.unwrap_err().is(Kind::Refused));
        third.volumes.roll_back(&name("w"), &name("a"), None).await.unwrap();
        let shown = attach(&third).await.unwrap();
        assert!(shown.read(0, 20 * MIB).await.unwrap() == bytes(1, 20 * MIB as usize));
        // A client's write from then on is written over by no round that takes the copy for its own.
        shown.write(12 * MIB, bytes(9, BLOCK as usize)).await.unwrap();
        third.volumes.release(&name("w")).await.unwrap();
        let refused = copy(&from, "b", &to).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("--rollback"), "{refused}");
        let how = Copying { roll_back: true, ..QUIET };
        copy_snapshot((&from.volumes, &name("v"), &name("b")), (&to.volumes, &name("w")), how).await.unwrap();
        check(&from, &to, "b").await;
        assert!(attach(&to).await.is_ok());
        assert_eq!(to.volumes.info(&name("w")).await.unwrap().not_whole_since_ms, None);
    });
}

/// The copy may be handed over, and a client of another host has it attached since before the round.
async fn with_standby(site: Site, other: &Site) -> (Life, Life, Life, Arc<Volume>) {
    let (from, to) = (site.machine(1).found().await, other.machine(2).found().await);
    let v = volume(&from, FlushMode::Local).await;
    v.write(0, bytes(1, 20 * MIB as usize)).await.unwrap();
    snapshot(&from, "a").await;
    copy(&from, "a", &to).await.unwrap();
    to.volumes.set(&name("w"), &["handover=ask".to_owned()]).await.unwrap();
    v.write(0, bytes(2, 20 * MIB as usize)).await.unwrap();
    snapshot(&from, "b").await;
    let third = other.machine(3).start().await;
    let w = third.volumes.open(&name("w"), OpenMode::Attach).await.unwrap();
    (from, to, third, w)
}

#[test]
fn a_client_that_stands_by_gets_no_copy_in_the_middle_of_a_round() {
    run(33, "2+1", |site| async move {
        let other = site.elsewhere();
        let (from, to, third, w) = with_standby(site, &other).await;
        // The owner knows that it may be asked, and looks often; the round takes long enough for that.
        let _attached = w.attach();
        third.sleep(10_000).await;
        let slow = Duration::from_millis(300);
        other.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
        let reached = tokio::sync::Notify::new();
        let progress = |doing: &str, _: u64, _: u64| {
            if doing == "looking" {
                reached.notify_one();
            }
        };
        let how = Copying { progress: &progress, ..QUIET };
        let (v, b, copied) = (name("v"), name("b"), name("w"));
        let is_done = AtomicBool::new(false);
        let copying = async {
            let done = copy_snapshot((&from.volumes, &v, &b), (&to.volumes, &copied), how).await;
            is_done.store(true, Ordering::Relaxed);
            done
        };
        let asking = async {
            reached.notified().await;
            let seen = w.read(0, 20 * MIB).await.unwrap();
            assert!(is_done.load(Ordering::Relaxed), "it is shown in the middle of the round");
            w.write(4 * MIB, bytes(7, BLOCK as usize)).await.unwrap();
            seen
        };
        let (copied, seen) = futures::join!(copying, asking);
        copied.unwrap();
        assert!(seen == bytes(2, 20 * MIB as usize), "all of the new state, and nothing of the old one");
        check(&from, &third, "b").await;
        assert!(w.read(4 * MIB, BLOCK).await.unwrap() == bytes(7, BLOCK as usize));
    });
}

#[test]
fn a_client_that_stands_by_is_refused_a_copy_whose_round_was_cut_off() {
    run(34, "2+1", |site| async move {
        let other = site.elsewhere();
        let (from, to, third, w) = with_standby(site, &other).await;
        cut_off(&from, "b", &to, 8 * MIB).await;
        for _ in 0..2 {
            let refused = w.read(0, BLOCK).await.unwrap_err();
            assert!(
                refused.is(Kind::Refused) && refused.to_string().contains("rollback tank/w@a"),
                "{refused}"
            );
        }
        // Nor does a command of its host give it to the client.
        let _attached = w.attach();
        to.volumes.release(&name("w")).await.unwrap();
        for mode in [OpenMode::Normal, OpenMode::TakeOver { accept_loss: false }] {
            assert!(third.volumes.open(&name("w"), mode).await.unwrap_err().is(Kind::Refused));
        }
        assert!(w.read(0, BLOCK).await.unwrap_err().is(Kind::Refused));
        // The copying host brings the round to its end, and is not kept from it.
        copy(&from, "b", &to).await.unwrap();
        assert!(w.read(0, 20 * MIB).await.unwrap() == bytes(2, 20 * MIB as usize));
        check(&from, &third, "b").await;
    });
}

#[test]
fn a_copy_that_is_whole_is_shown_though_the_end_of_its_round_was_cut_off() {
    run(32, "1+0", |site| async move {
        let (from, to) = two(site).await;
        let v = volume(&from, FlushMode::Local).await;
        v.write(0, bytes(1, 4 * MIB as usize)).await.unwrap();
        snapshot(&from, "a").await;
        copy(&from, "a", &to).await.unwrap();
        let id = to.volumes.id(&name("w")).await.unwrap();
        let tables = to.volumes.newest_tables(&name("w"), id).await.unwrap();
        let mark = tables.snapshot(&name("a")).unwrap().group;
        let w = to.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        w.ask(|session| async move {
            let epoch = session.epoch;
            session.change(move |head| head.begin_round(epoch, mark, 5)).await.map(drop)
        })
        .await
        .unwrap();
        assert!(to.volumes.open(&name("w"), OpenMode::Attach).await.is_ok());
        assert_eq!(to.volumes.info(&name("w")).await.unwrap().not_whole_since_ms, None);
    });
}
