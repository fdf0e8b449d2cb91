//! Runs targets in tests.

// A thread of its own runs the target: a parser that does not end must be told from one that is slow.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{MEMORY_PER_BYTE, Target};

/// Time for a target's mutations, and how many there are at most.
const BUDGET: Duration = Duration::from_millis(250);
const ROUNDS_MAX: u64 = 2_000;
/// No run takes so long, also on a machine that does other things beside.
const HANGS_AFTER: Duration = Duration::from_secs(30);
const INPUT_MAX: usize = 64 << 10;

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// A line an input, in hexadecimal; empty lines are empty inputs.
fn kept(target: &Target) -> Vec<Vec<u8>> {
    let path = corpus_dir().join(format!("{}.hex", target.name));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const ODD: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
const WORDS: [&[u8]; 8] = [b"18446744073709551615", b"-1", b"null", b"\"\"", b"%00", b"\xff", b"/", b"="];

fn mutated(mut input: Vec<u8>, other: &[u8], dice: &mut Dice) -> Vec<u8> {
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let most = 1 << dice.below(7);
        let len = dice.below(most).min(input.len() - at);
        match dice.below(9) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.next() as u8,
            2 | 3 => {
                let (width, number) = (1 << dice.below(4), ODD[dice.below(ODD.len())]);
                let mut bytes = number.to_le_bytes()[..width].to_vec();
                if dice.below(3) == 0 {
                    bytes.reverse();
                }
                let end = input.len().min(at + width);
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            4 => drop(input.drain(at..at + len)),
            5 => {
                let part = input[at..at + len].to_vec();
                let to = dice.below(input.len() + 1);
                input.splice(to..to, part);
            }
            6 => drop(input.splice(at..at + len, WORDS[dice.below(WORDS.len())].iter().copied())),
            7 => input.truncate(at),
            _ => {
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(INPUT_MAX);
    input
}

fn shown(input: &[u8]) -> String {
    input.iter().map(|b| format!("{b:02x}")).collect()
}

/// `Err`: what is wrong with the target.
fn run_one(target: &Target, input: &[u8]) -> Result<(), String> {
    let mut panicked = false;
    let memory = allocation_counter::measure(|| {
        panicked = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    });
    let most = target.memory + MEMORY_PER_BYTE * input.len();
    match memory.bytes_max as usize {
        _ if panicked => Err("panics".into()),
        bytes if bytes > most => Err(format!("holds {bytes} bytes at a time, at most {most}")),
        _ => Ok(()),
    }
}

/// Its seeds and corpus, and for a while mutations of both.
fn try_one(target: Target, seed: u64, begun: &mpsc::Sender<(String, Vec<u8>)>) -> Result<usize, String> {
    let mut all = (target.seeds)();
    assert!(!all.is_empty(), "{} has no seeds", target.name);
    all.extend(kept(&target));
    // What a target makes once and keeps is not the input's.
    (target.run)(&all[0]);
    let tell = |what: String, input: &[u8]| {
        let _ = begun.send((what.clone(), input.to_vec()));
        run_one(&target, input).map_err(|why| format!("{}, {what}: {why}: {}", target.name, shown(input)))
    };
    for (n, input) in all.iter().enumerate() {
        tell(format!("input {n} of its seeds and corpus"), input)?;
    }
    let (mut dice, start) = (Dice(seed), Instant::now());
    for round in 0..ROUNDS_MAX {
        if start.elapsed() > BUDGET {
            return Ok(all.len() + round as usize);
        }
        let (one, other) = (dice.below(all.len()), dice.below(all.len()));
        let input = mutated(all[one].clone(), &all[other], &mut dice);
        tell(format!("mutation {round} of WINDLASS_FUZZ_SEED={seed}"), &input)?;
    }
    Ok(all.len() + ROUNDS_MAX as usize)
}

/// How many inputs were tried.
fn judge(target: Target, seed: u64, patience: Duration) -> Result<usize, String> {
    let (begun, news) = mpsc::channel();
    let (send, ended) = mpsc::channel();
    let worker = std::thread::Builder::new().stack_size(8 << 20).name(target.name.into());
    let worker = worker.spawn(move || {
        let _ = send.send(try_one(target, seed, &begun));
    });
    worker.expect("a thread");
    let mut last = (String::from("its beginning"), Vec::new());
    loop {
        match news.recv_timeout(patience) {
            Ok(one) => last = one,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(format!("{}, {}: does not end: {}", target.name, last.0, shown(&last.1)));
            }
        }
    }
    ended.recv().unwrap_or_else(|_| Err(format!("{} panics at its first seed", target.name)))
}

fn seed() -> u64 {
    std::env::var("WINDLASS_FUZZ_SEED").map_or(1, |text| text.parse().expect("a number"))
}

/// Runs each target over its seeds, its kept corpus, and mutations of both. What panics, takes too much memory or does not end
/// fails.
///
/// The mutations follow from a number: `WINDLASS_FUZZ_SEED=7 cargo test fuzz::` tries others, and a failure names it.
pub fn try_all(targets: &[Target]) {
    let seed = seed();
    let mut wrong = Vec::new();
    for &target in targets {
        match judge(target, seed, HANGS_AFTER) {
            Ok(count) => println!("{}: {count} inputs, WINDLASS_FUZZ_SEED={seed}", target.name),
            Err(why) => wrong.push(why),
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_sources(dir: &Path, into: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                read_sources(&path, into);
            } else if path.extension().is_some_and(|end| end == "rs") {
                into.push_str(&std::fs::read_to_string(&path).expect("a text"));
            }
        }
    }

    #[test]
    fn each_corpus_is_a_targets_and_small() {
        let mut sources = String::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        read_sources(&root.join("crates"), &mut sources);
        read_sources(&root.join("src"), &mut sources);
        for entry in std::fs::read_dir(corpus_dir()).expect("the corpora are in the repository") {
            let path = entry.expect("a readable folder").path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let targets = sources.matches(&format!("name: \"{name}\"")).count();
            assert_eq!(targets, 1, "{} is one target's", path.display());
            let bytes = path.metadata().expect("it is there").len();
            assert!(bytes <= 128 << 10, "{} has {bytes} bytes", path.display());
        }
    }

    fn planted(run: fn(&[u8]), memory: usize) -> Result<usize, String> {
        let target = Target { name: "planted", run, seeds: || vec![b"seed".to_vec()], memory };
        // Long enough for a panic to be told on a busy machine.
        judge(target, 1, Duration::from_secs(5))
    }

    #[test]
    fn what_panics_takes_memory_or_does_not_end_is_told() {
        assert!(planted(|_| {}, 0).is_ok());
        let why = planted(|data| assert!(data == b"seed", "not the seed"), 0).unwrap_err();
        assert!(why.contains("WINDLASS_FUZZ_SEED=1: panics"), "{why}");
        let why =
            planted(|data| drop(vec![0u8; if data == b"seed" { 1 } else { 1 << 20 }]), 1 << 16).unwrap_err();
        assert!(why.contains("holds 1048576 bytes at a time"), "{why}");
        let endless = |data: &[u8]| {
            if data != b"seed" {
                loop {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        let why = planted(endless, 0).unwrap_err();
        assert!(why.contains("does not end"), "{why}");
    }
}
