//! Bugs put in by hand, to know that the simulation finds them.
//!
//! Each `*.patch` beside this file is one bug: `What:` says it, `Test:` names the simulation, or the library's tests, that must
//! fail with it.
//! After `--- a/FILE` and `+++ b/FILE` come hunks: `@@`, then lines that begin with a space (kept), `-` (taken out) or
//! `+` (put in). There are no line numbers: what a hunk keeps and takes out must be in the file exactly once.
//!
//! `cargo test` checks that every patch still applies. `cargo test --test mutations -- --ignored --nocapture` builds
//! each bug in a copy of the tree and says which seeds found it; `WINDLASS_MUTATION=NAME` takes only that one.
// All of it is tests, on the real tree.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::Command;

struct Mutation {
    name: String,
    what: String,
    test: String,
    /// Changes: file, text before, text after.
    hunks: Vec<(PathBuf, String, String)>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse(name: String, text: &str) -> Mutation {
    let mut found = Mutation { name, what: String::new(), test: String::new(), hunks: Vec::new() };
    let mut file = PathBuf::new();
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("What: ") {
            found.what = what.to_owned();
        } else if let Some(test) = line.strip_prefix("Test: ") {
            found.test = test.to_owned();
        } else if let Some(path) = line.strip_prefix("+++ b/") {
            file = path.into();
        } else if line.starts_with("--- a/") {
        } else if line.starts_with("@@") {
            found.hunks.push((file.clone(), String::new(), String::new()));
        } else if let Some((_, before, after)) = found.hunks.last_mut() {
            let (sign, rest) = line.split_at(line.len().min(1));
            if sign != "+" {
                *before += &format!("{rest}\n");
            }
            if sign != "-" {
                *after += &format!("{rest}\n");
            }
        }
    }
    assert!(!found.what.is_empty() && !found.test.is_empty() && !found.hunks.is_empty(), "{}", found.name);
    found
}

fn all() -> Vec<Mutation> {
    let only = std::env::var("WINDLASS_MUTATION").ok();
    let files = std::fs::read_dir(root().join("tests/mutations")).unwrap();
    let mut paths: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "patch"));
    paths.sort();
    let name = |p: &PathBuf| p.file_stem().unwrap().to_string_lossy().into_owned();
    let chosen = |p: &&PathBuf| only.as_ref().is_none_or(|only| *only == name(p));
    paths.iter().filter(chosen).map(|p| parse(name(p), &std::fs::read_to_string(p).unwrap())).collect()
}

impl Mutation {
    /// Returns the changed files, with their new text.
    fn applied(&self) -> Vec<(PathBuf, String)> {
        let mut out: Vec<(PathBuf, String)> = Vec::new();
        for (file, before, after) in &self.hunks {
            if !out.iter().any(|(f, _)| f == file) {
                out.push((file.clone(), std::fs::read_to_string(root().join(file)).unwrap()));
            }
            let (_, text) = out.iter_mut().find(|(f, _)| f == file).unwrap();
            let times = text.matches(before.as_str()).count();
            assert_eq!(times, 1, "{}: a hunk is in {} {times} times:\n{before}", self.name, file.display());
            *text = text.replace(before.as_str(), after);
        }
        out
    }

    /// Builds and runs the simulation with the bug in `tree`. Returns what it printed, and whether it failed.
    fn run(&self, tree: &Path) -> (String, bool) {
        let mut changed = self.applied();
        for (file, text) in &mut changed {
            std::fs::write(tree.join(file), text).unwrap();
        }
        // A layer's own tests are named with the layer before them.
        let (package, test) = match self.test.split_once("::").filter(|_| self.test.contains("::tests::")) {
            Some((layer, test)) => (format!("windlass-{layer}"), test),
            None => ("windlass".to_owned(), self.test.as_str()),
        };
        let place: &[&str] = if package == "windlass" { &["--test", "simulation"] } else { &["--lib"] };
        let run = Command::new(env!("CARGO"))
            .args(["test", "--package", &package])
            .args(place)
            .arg(test)
            .current_dir(tree)
            // Shares the dependencies; the crate itself is another, by its version.
            .env("CARGO_TARGET_DIR", root().join("target"))
            .env("RUST_BACKTRACE", "0")
            .env("WINDLASS_SEEDS", std::env::var("WINDLASS_SEEDS").unwrap_or("1000".into()))
            .output()
            .unwrap();
        for (file, _) in &changed {
            std::fs::copy(root().join(file), tree.join(file)).unwrap();
        }
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        (text.into_owned(), !run.status.success())
    }
}

/// Copies the tree under another version: with the same one cargo would take its builds for those of the real
/// tree.
fn copy_crate(tree: &Path) {
    copy_tree(root(), tree);
    let version = env!("CARGO_PKG_VERSION");
    for file in ["Cargo.toml", "Cargo.lock"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let ours = |line: &str| line == format!("version = \"{version}\"");
        let other = |line: &str| match ours(line) {
            true => format!("version = \"{version}-mutation\"\n"),
            false => format!("{line}\n"),
        };
        std::fs::write(tree.join(file), text.lines().map(other).collect::<String>()).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.path() == root().join("target") || name == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn patches_apply() {
    for mutation in all() {
        for (file, text) in mutation.applied() {
            assert_ne!(text, std::fs::read_to_string(root().join(&file)).unwrap(), "{}", mutation.name);
        }
    }
}

#[test]
#[ignore = "builds the crate once a bug"]
fn the_simulation_finds_each_bug() {
    let tree = root().join("target/mutations");
    copy_crate(&tree);
    let mut missed = Vec::new();
    for mutation in all() {
        let (text, failed) = mutation.run(&tree);
        assert!(text.contains("running "), "{} does not build:\n{text}", mutation.name);
        assert!(!text.contains("running 0 tests"), "{}: there is no test {}", mutation.name, mutation.test);
        println!("{}: {}", mutation.name, mutation.what);
        for line in text.lines().filter(|l| l.contains("WINDLASS_SEED=")) {
            println!("  found: {}", line.trim());
        }
        if !failed {
            println!("  NOT FOUND by {}", mutation.test);
            missed.push(mutation.name);
        }
    }
    assert!(missed.is_empty(), "bugs that nothing found: {missed:?}");
}
