//! Renames of directories that the store or this host's disk lets down.

use super::acts::Set;
use super::faults::staged;
use super::rules::Act;
use windlass_store::EtagRule;

/// A rename fails when the disk of this host has no room to note that, and the daemon dies then.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_failed_rename_is_not_finished_though_the_disk_was_full() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        let names = ["d/a", "d/b", "d/c"];
        for name in names {
            set.put(name, b"old").await;
        }
        let (process, user) = set.mount("deadline=20").await;
        set.store.rule("copy", "e/b", Act::Hold(3000), 1);
        set.store.rule("copy", "e/c", Act::Deny, 1);
        set.store.rule("delete", "e/", Act::Hang, 1000);
        let moving = user.another();
        let moving =
            process.rt().spawn(async move { moving.rename("d", "e", false).await.map_err(|f| f.errno) });
        set.store.reached(2).await;
        let used = set.disk.files().iter().map(|(_, len)| len).sum();
        set.disk.faults(|f| f.capacity = used);
        set.sleep(5000).await;
        process.kill();
        drop((user, moving));
        set.store.clear();
        set.disk.faults(|f| f.capacity = u64::MAX);
        let (_, user) = set.mount("").await;
        set.sleep(60_000).await;
        for name in names {
            assert_eq!(set.body(name).await.unwrap(), "old", "{:?}", set.keys());
        }
        user.fs.finish().await;
        assert_eq!(staged(&set.disk), [""; 0]);
    });
}
