//! Edits in place of a file whose closed version has not been sent yet: the bucket gets what was closed, or waits.

use bytes::Bytes;

use super::acts::Set;
use super::rules::Act;
use super::user::{READ, User, WRITE};
use crate::ops::Changes;
use windlass_store::EtagRule;

const OF_BYTES: EtagRule = EtagRule::OfBytes;
const OLD: &[u8] = b"old old old";
/// A file that is sent in parts.
const LARGE: usize = 40 << 20;

/// Closes a file whose bytes are then queued, since the store refuses them.
async fn closed_unsent(set: &Set, user: &User, bytes: &[u8]) {
    set.store.rule("put", "", Act::Deny, 3);
    let handle = user.open("d/f", WRITE, false).await.unwrap();
    user.fs.write(handle, 0, Bytes::copy_from_slice(bytes)).await.unwrap();
    // Without flush=local the close says so.
    let _ = user.close(handle).await;
}

/// A second edit is half done when the queue comes to the file, or when it is renamed. Without the option it is a failed close
/// that waits.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn half_of_an_edit_in_place_becomes_no_object() {
    for flush in ["local", "bucket"] {
        for moved in ["", "file", "over", "dir"] {
            Set::run(1, OF_BYTES, move |set| async move {
                let note = format!("{flush}, {moved:?}");
                set.put("d/f", OLD).await;
                set.put("d/g", b"replaced").await;
                let (process, user) = set.mount(&format!("flush={flush}")).await;
                closed_unsent(&set, &user, b"one one one").await;
                let second = user.open("d/f", WRITE, false).await.unwrap();
                user.fs.write(second, 0, Bytes::from_static(b"two")).await.unwrap();
                set.sleep(100).await;
                set.store.clear();
                let key = match moved {
                    "file" => ("d/f", "d/h", "d/h"),
                    "over" => ("d/f", "d/g", "d/g"),
                    "dir" => ("d", "e", "e/f"),
                    _ => ("", "", "d/f"),
                };
                if !moved.is_empty() {
                    user.rename(key.0, key.1, false).await.unwrap();
                }
                set.sleep(60_000).await;
                assert_eq!(set.body(key.2).await.as_deref(), Some(OLD), "{note}: {:?}", set.keys());
                user.fs.write(second, 3, Bytes::from_static(b" two two")).await.unwrap();
                user.fs.fsync(second).await.unwrap();
                set.sleep(5_000).await;
                assert_eq!(set.body(key.2).await.unwrap(), "two two two", "{note}");
                user.fs.write(second, 0, Bytes::from_static(b"end")).await.unwrap();
                set.sleep(5_000).await;
                assert_eq!(set.body(key.2).await.unwrap(), "two two two", "{note}");
                process.kill();
                drop(user);
                let (_, user) = set.mount(&format!("flush={flush}")).await;
                user.fs.finish().await;
                // As a local disk would show it.
                assert_eq!(set.body(key.2).await.unwrap(), "end two two", "{note}");
            });
        }
    }
}

/// Bytes that are appended to what was synced are not sent with it, and don't hold it up.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn what_was_synced_is_sent_though_more_is_appended() {
    for size in [11, 90 << 10, 200 << 10, LARGE] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (_, user) = set.mount("flush=local").await;
            set.store.rule("put", "log", Act::Deny, 3);
            set.store.rule("complete", "log", Act::Deny, 3);
            let log = user.open("log", WRITE, true).await.unwrap();
            let synced = vec![b'a'; size];
            user.fs.write(log, 0, synced.clone().into()).await.unwrap();
            user.fs.fsync(log).await.unwrap();
            for line in 0..100 {
                set.sleep(200).await;
                let at = (size + line * 1000) as u64;
                user.fs.write(log, at, vec![b'b'; 1000].into()).await.unwrap();
            }
            assert!(set.body("log").await.unwrap() == synced, "{size}");
            user.close(log).await.unwrap();
            user.fs.idle().await;
            assert_eq!(set.body("log").await.unwrap().len(), size + 100_000);
            user.fs.finish().await;
        });
    }
}

/// Bytes are overwritten, or cut away, while they are on their way.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn what_is_overwritten_on_its_way_becomes_no_object() {
    for after in (0..60).step_by(3) {
        for cut in [false, true] {
            Set::run(after, OF_BYTES, move |set| async move {
                set.put("f", OLD).await;
                let (_, user) = set.mount("flush=local").await;
                let first = user.open("f", WRITE, false).await.unwrap();
                let whole = vec![1; LARGE];
                user.fs.write(first, 0, whole.clone().into()).await.unwrap();
                user.close(first).await.unwrap();
                let second = user.open("f", WRITE, false).await.unwrap();
                let ino = user.stat("f").await.unwrap().ino;
                set.sleep(after).await;
                let changed = (LARGE - 10) as u64;
                if cut {
                    let size = Changes { size: Some(changed), ..Changes::default() };
                    user.fs.setattr(ino, size, Some(second)).await.unwrap();
                } else {
                    user.fs.write(second, changed, vec![2; 10].into()).await.unwrap();
                }
                set.sleep(30_000).await;
                let seen = set.body("f").await.unwrap();
                assert!(seen == OLD || seen == whole, "{after}, {cut}: {} bytes", seen.len());
                user.close(second).await.unwrap();
                user.fs.idle().await;
                let end = set.body("f").await.unwrap();
                assert!(end.len() == if cut { LARGE - 10 } else { LARGE } && end[LARGE - 11] == 1);
                assert!(cut || end[LARGE - 1] == 2, "{after}");
                user.fs.finish().await;
            });
        }
    }
}

/// Bytes that were written through a mapping come after their handle's close, and no close comes after them.
/// A reader has the file open.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn what_comes_after_the_last_close_is_sent_though_somebody_reads() {
    Set::run(1, OF_BYTES, move |set| async move {
        set.put("d/f", OLD).await;
        let (_, user) = set.mount("flush=local").await;
        closed_unsent(&set, &user, b"one one one").await;
        let reader = user.open("d/f", READ, false).await.unwrap();
        let mapped = user.open("d/f", WRITE, false).await.unwrap();
        user.fs.flush(mapped).await.unwrap();
        user.fs.write(mapped, 0, Bytes::from_static(b"two")).await.unwrap();
        user.fs.release(mapped).await;
        set.sleep(10_000).await;
        assert_eq!(set.body("d/f").await.unwrap(), "two one one");
        user.close(reader).await.unwrap();
        user.fs.finish().await;
    });
}

/// A disk that is full in the middle of a write has a part of it. It is no part of the file, whatever makes the file longer.
#[test]
fn what_a_full_disk_took_of_a_write_is_no_part_of_the_file() {
    for flush in ["local", "bucket"] {
        for way in ["longer", "behind", "killed"] {
            Set::run(2, OF_BYTES, move |set| async move {
                let note = format!("{flush}, {way}");
                let (process, user) = set.mount(&format!("flush={flush}")).await;
                let handle = user.open("f", WRITE, true).await.unwrap();
                // Too large for a slot of the shared file.
                user.fs.write(handle, 0, Bytes::from(vec![1; 2 << 20])).await.unwrap();
                let used: u64 = set.disk.files().iter().map(|(_, len)| len).sum();
                set.disk.faults(|f| f.capacity = used + 1000);
                user.fs.write(handle, 2 << 20, Bytes::from(vec![9; 1 << 20])).await.unwrap_err();
                set.disk.faults(|f| f.capacity = u64::MAX);
                let mut want = vec![1; 2 << 20];
                match way {
                    "longer" => {
                        let size = Changes { size: Some((2 << 20) + 5000), ..Changes::default() };
                        let ino = user.walk("f").await.unwrap();
                        user.fs.setattr(ino, size, Some(handle)).await.unwrap();
                        want.resize((2 << 20) + 5000, 0);
                    }
                    "behind" => {
                        user.fs.write(handle, (2 << 20) + 5000, Bytes::from(vec![3; 10])).await.unwrap();
                        want.resize((2 << 20) + 5000, 0);
                        want.extend([3; 10]);
                    }
                    _ => {}
                }
                user.close(handle).await.unwrap();
                if way == "killed" {
                    process.kill();
                    drop(user);
                    let (_process, user) = set.mount(&format!("flush={flush}")).await;
                    set.sleep(60_000).await;
                    drop(user);
                } else {
                    set.sleep(60_000).await;
                }
                let body = set.body("f").await.unwrap();
                assert!(body == want, "{note}: {} bytes, not {}", body.len(), want.len());
            });
        }
    }
}
