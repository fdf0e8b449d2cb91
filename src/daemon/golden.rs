//! Pools that earlier releases made are read, and go on. Each release leaves one in `tests/golden` (`make` there).
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::{Path, PathBuf};

use super::{Config, Engine, Options, StateDir};
use windlass_base::Name;
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_volume::{OpenMode, Volumes};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 2048;
/// Blocks that were zeroed in the end.
const ZEROED: std::ops::Range<u64> = 21..121;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Returns a block as `make` writes it.
fn block(word: &str, number: u64) -> Vec<u8> {
    format!("{word} {number:08}\n").bytes().cycle().take(BLOCK as usize).collect()
}

/// Returns what a block must hold after these words were written, each into every `step`th block. With `zeroed`, the
/// blocks of `ZEROED` hold zeros.
fn wanted(number: u64, written: &[(&str, u64)], zeroed: bool) -> Vec<u8> {
    if zeroed && ZEROED.contains(&number) {
        return vec![0; BLOCK as usize];
    }
    let last = written.iter().rev().find(|(_, step)| number.is_multiple_of(*step));
    last.map_or_else(|| vec![0; BLOCK as usize], |(word, _)| block(word, number))
}

fn same(what: &str, bytes: &[u8], written: &[(&str, u64)], zeroed: bool) {
    assert_eq!(bytes.len() as u64, BLOCKS * BLOCK, "{what}");
    for (number, found) in bytes.chunks(BLOCK as usize).enumerate() {
        assert!(found == wanted(number as u64, written, zeroed), "{what}: block {number}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

async fn disk_and_copy(volumes: &Volumes) {
    let size = BLOCKS * BLOCK;
    let first = volumes.open_snapshot(&name("disk"), &name("first")).await.unwrap();
    same("disk@first", &first.read(0, size).await.unwrap(), &[("old", 7)], false);
    let second = volumes.open_snapshot(&name("disk"), &name("second")).await.unwrap();
    same("disk@second", &second.read(0, size).await.unwrap(), &[("old", 7), ("new", 14)], true);
    let clone = volumes.open(&name("copy"), OpenMode::Normal).await.unwrap();
    same("copy", &clone.read(0, size).await.unwrap(), &[("old", 7), ("cpy", 21)], true);
    let disk = volumes.open(&name("disk"), OpenMode::Normal).await.unwrap();
    same("disk", &disk.read(0, size).await.unwrap(), &[("old", 7), ("new", 14)], true);
    // And they go on, at the places that were written before and at others.
    for number in (0..BLOCKS).step_by(5) {
        disk.write(number * BLOCK, block("now", number).into()).await.unwrap();
    }
    disk.flush().await.unwrap();
    let now = disk.read(0, size).await.unwrap();
    for number in 0..BLOCKS {
        let at = (number * BLOCK) as usize;
        let was = wanted(number, &[("old", 7), ("new", 14)], true);
        let is = if number % 5 == 0 { block("now", number) } else { was };
        assert!(now[at..at + BLOCK as usize] == is, "after more writes: block {number}");
    }
    let found = volumes.check(&name("disk")).await;
    assert!(found.is_ok(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_earlier_releases_are_read_and_go_on() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut releases: Vec<PathBuf> = std::fs::read_dir(&golden).unwrap().map(|e| e.unwrap().path()).collect();
    releases.retain(|path| path.is_dir());
    assert!(!releases.is_empty(), "no release has left a pool in {}", golden.display());
    for release in releases {
        let work = tempfile::tempdir().unwrap();
        let store = |i: usize| work.path().join(format!("{i}"));
        (1..=3).for_each(|i| copy(&release.join(i.to_string()), &store(i)));
        let options = Options { memory: 256 << 20, ..Options::default() };
        let home = StateDir::at(work.path().join("home"));
        let rt = Rt::new(RealRuntime::current());
        let engine = Engine::start(rt, RealDisk::start(), home, Config::default(), options).await.unwrap();
        let stores = (1..=3).map(|i| format!("file://{},zone=z{i}", store(i).display())).collect();
        let pool = engine.state().pools.add(&name("old"), stores, None).await.unwrap();
        disk_and_copy(&pool.volumes).await;
        drop(pool);
        engine.shutdown().await.unwrap();
    }
}
