//! The house: which layer may use which, and no ring of files inside one.

use std::collections::{BTreeMap, BTreeSet};

use crate::code::{self, Path};

/// Each layer and what it may use, the lowest first: a layer names only layers above its own line's. All but the last three are
/// crates of their own. The helpers `galois` and `fuzz` are no layers.
pub const HOUSE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("store", &["base"]),
    ("keys", &["base"]),
    ("frame", &["keys", "base"]),
    ("pool", &["keys", "frame", "store", "base"]),
    ("cache", &["frame", "store", "base"]),
    ("journal", &["keys", "frame", "base"]),
    ("log", &["cache", "pool", "keys", "frame", "store", "base"]),
    ("map", &["log", "cache", "frame", "base"]),
    ("volume", &["map", "log", "journal", "cache", "pool", "keys", "frame", "store", "base"]),
    ("image", &["base"]),
    ("fs", &["cache", "store", "base"]),
    ("nbd", &["base"]),
    (
        "daemon",
        &[
            "nbd", "fs", "image", "volume", "map", "log", "journal", "cache", "pool", "keys", "frame",
            "store", "base",
        ],
    ),
    (
        "cli",
        &[
            "daemon", "nbd", "fs", "image", "volume", "map", "log", "journal", "cache", "pool", "keys",
            "frame", "store", "base",
        ],
    ),
    ("main", &["cli"]),
];

/// One source file: its path below the root (`crates/pool/src/lib.rs`, `src/cli/mod.rs`) and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// Returns the layer whose crate the file is of; `None`: the program's.
    fn layer(&self) -> Option<&str> {
        let (layer, _) = self.path.strip_prefix("crates/")?.split_once("/src/")?;
        Some(layer)
    }

    /// Returns the module's path with its layer: `crates/pool/src/register.rs` → `["pool", "register"]`. The program's root has
    /// none.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.strip_prefix("crates/").map(|inner| inner.replacen("/src/", "/", 1));
        let path = path.unwrap_or_else(|| self.path.strip_prefix("src/").unwrap_or(&self.path).to_owned());
        let mut parts: Vec<_> = path.trim_end_matches(".rs").split('/').map(String::from).collect();
        if parts.last().is_some_and(|p| p == "mod" || p == "lib") {
            parts.pop();
        }
        parts
    }

    fn paths(&self) -> Vec<Path> {
        let split = code::split(&self.text);
        code::paths(&code::tokens(&split.code), &roots())
    }
}

/// Returns the names by which crates of the house are called.
fn roots() -> Vec<&'static str> {
    const ROOTS: &[&str] = &[
        "windlass",
        "windlass_base",
        "windlass_store",
        "windlass_keys",
        "windlass_frame",
        "windlass_pool",
        "windlass_cache",
        "windlass_journal",
        "windlass_log",
        "windlass_map",
        "windlass_volume",
        "windlass_image",
        "windlass_fs",
        "windlass_nbd",
    ];
    ROOTS.to_vec()
}

/// Resolves a path of a file to module names, the layer first; `None` when it stays unclear.
fn target(file: &File, path: &Path) -> Option<Vec<String>> {
    let mut at: Vec<String> = file.module().into_iter().chain(path.inside.iter().cloned()).collect();
    let mut rest = path.segments.as_slice();
    match rest[0].as_str() {
        "crate" => at = file.layer().map(str::to_owned).into_iter().collect(),
        "windlass" => at.clear(),
        other if other.starts_with("windlass_") => at = vec![other["windlass_".len()..].to_owned()],
        "self" => {}
        _ => {
            let ups = rest.iter().take_while(|s| *s == "super").count();
            at.truncate(at.len().checked_sub(ups)?);
            rest = &rest[ups - 1..];
        }
    }
    at.extend(rest[1..].iter().cloned());
    Some(at)
}

/// Lists every arrow that the house doesn't have.
pub fn arrows(files: &[File], house: &[(&str, &[&str])]) -> Vec<String> {
    let mut bad = Vec::new();
    for file in files {
        let module = file.module();
        let Some(layer) = module.first() else { continue };
        let Some((_, allowed)) = house.iter().find(|(l, _)| l == layer) else {
            bad.push(format!("{}: `{layer}` is no layer of the house", file.path));
            continue;
        };
        for path in file.paths() {
            let Some(to) = target(file, &path) else { continue };
            match to.first() {
                Some(to) if to == layer || allowed.contains(&to.as_str()) => {}
                Some(to) if house.iter().any(|(l, _)| l == to) => {
                    bad.push(format!("{}:{}: {layer} may not use {to}", file.path, path.line));
                }
                // The root itself: a glob or a `self` would hide an arrow.
                Some(other) if other == "*" => {
                    bad.push(format!("{}:{}: takes the whole crate by `*`", file.path, path.line));
                }
                _ => {}
            }
        }
    }
    bad
}

/// A place where one file names something of another.
pub struct Use {
    pub path: String,
    pub line: usize,
    pub from: Vec<String>,
    /// The file that is meant, through re-exports.
    pub to: Vec<String>,
}

/// Lists what files outside of tests name of each other. A file may name anything below it in the tree, which
/// is no use here.
pub fn uses(files: &[File]) -> Vec<Use> {
    let product: Vec<&File> = files.iter().filter(|f| !is_test(&f.path)).collect();
    let known: BTreeSet<Vec<String>> = product.iter().map(|f| f.module()).collect();
    let exports: BTreeMap<_, _> = product.iter().map(|f| (f.module(), reexports(f, &known))).collect();
    let mut out = Vec::new();
    for file in &product {
        let from = file.module();
        for path in outside_tests(file) {
            let Some(to) = target(file, &path) else { continue };
            let Some(to) = resolve(&to, &known, &exports) else { continue };
            if !from.is_empty() && !to.starts_with(&from) {
                out.push(Use { path: file.path.clone(), line: path.line, from: from.clone(), to });
            }
        }
    }
    out
}

/// Lists files of one layer that use each other in a ring. A parent may name its children, tests may name
/// anything.
pub fn rings(files: &[File]) -> Vec<String> {
    let mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in files.iter().filter(|f| !is_test(&f.path)) {
        graph.entry(file.module()).or_default();
    }
    for one in uses(files) {
        if one.to.first() == one.from.first() {
            graph.entry(one.from).or_default().insert(one.to);
        }
    }
    components(&graph)
}

pub fn is_test(path: &str) -> bool {
    ["tests.rs", "/fuzz.rs"].iter().any(|end| path.ends_with(end))
        || path.contains("/tests/")
        || path.starts_with("tests/")
}

fn outside_tests(file: &File) -> Vec<Path> {
    let split = code::split(&file.text);
    let tests = code::test_modules(&code::tokens(&split.code));
    let mut paths = file.paths();
    paths.retain(|p| !tests.iter().any(|(first, last)| (*first..=*last).contains(&p.line)));
    paths
}

/// Returns the names that a module passes on from its children: name → child's module.
fn reexports(file: &File, known: &BTreeSet<Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let module = file.module();
    let split = code::split(&file.text);
    let tokens = code::tokens(&split.code);
    // A child's name isn't a keyword, so the children are given as roots.
    let children: Vec<&str> = known
        .iter()
        .filter(|m| m.len() == module.len() + 1 && m.starts_with(&module))
        .filter_map(|m| m.last().map(String::as_str))
        .collect();
    code::paths(&tokens, &children)
        .into_iter()
        .filter(|p| children.contains(&p.segments[0].as_str()) && p.segments.len() > 1)
        .filter_map(|p| {
            Some((p.segments.last()?.clone(), [module.clone(), vec![p.segments[0].clone()]].concat()))
        })
        .collect()
}

/// Finds the file that a path means: the longest known module, followed through re-exports.
fn resolve(
    to: &[String],
    known: &BTreeSet<Vec<String>>,
    exports: &BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
) -> Option<Vec<String>> {
    let end = (1..=to.len()).rev().find(|n| known.contains(&to[..*n]))?;
    let mut module = to[..end].to_vec();
    // A child may pass the name on from its own child.
    while let Some(next) = to.get(end).and_then(|name| exports.get(&module)?.get(name)) {
        module.clone_from(next);
    }
    Some(module)
}

/// Lists strongly connected files, two or more.
fn components(graph: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let reach: BTreeMap<_, _> = graph.keys().map(|from| (from, reachable(graph, from))).collect();
    let mut rings = BTreeSet::new();
    for (from, to) in &reach {
        let ring: BTreeSet<_> =
            to.iter().filter(|t| reach.get(*t).is_some_and(|back| back.contains(*from))).collect();
        if ring.len() > 1 {
            let names: Vec<_> = ring.iter().map(|m| m.join("::")).collect();
            rings.insert(format!("these files use each other in a ring: {}", names.join(", ")));
        }
    }
    rings.into_iter().collect()
}

fn reachable<'a>(
    graph: &'a BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
    from: &'a Vec<String>,
) -> BTreeSet<&'a Vec<String>> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        for to in graph.get(at).into_iter().flatten() {
            if seen.insert(to) {
                next.push(to);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn judged(path: &str, text: &str) -> Vec<String> {
        arrows(&[file(path, text)], HOUSE)
    }

    #[test]
    fn the_house_has_no_ring() {
        for (i, (layer, uses)) in HOUSE.iter().enumerate() {
            for used in *uses {
                assert!(
                    HOUSE[..i].iter().any(|(l, _)| l == used),
                    "{layer} uses {used}, which isn't below it"
                );
            }
        }
        for (face, other) in
            [("nbd", "fs"), ("fs", "nbd"), ("pool", "cache"), ("journal", "log"), ("nbd", "volume")]
        {
            let (_, uses) = HOUSE.iter().find(|(l, _)| *l == face).unwrap();
            assert!(!uses.contains(&other));
        }
    }

    #[test]
    fn arrows_down_pass() {
        assert_eq!(
            judged(
                "crates/pool/src/lib.rs",
                "use windlass_store::Etag; use crate::x; use windlass_frame::Place;"
            ),
            [""; 0]
        );
        assert_eq!(judged("src/main.rs", "fn main() { windlass::cli::main() }"), [""; 0]);
        assert_eq!(judged("src/lib.rs", "pub mod cli; pub use windlass_nbd::x;"), [""; 0]);
        assert_eq!(
            judged("crates/nbd/src/server.rs", "// windlass_fs::x\nconst S: &str = \"windlass_fs::x\";"),
            [""; 0]
        );
    }

    #[test]
    fn arrows_up_and_across_fail() {
        assert_eq!(
            judged("crates/nbd/src/server.rs", "\nuse windlass_fs::x;"),
            ["crates/nbd/src/server.rs:2: nbd may not use fs"]
        );
        assert_eq!(
            judged("crates/nbd/src/lib.rs", "use windlass_volume::V;"),
            ["crates/nbd/src/lib.rs:1: nbd may not use volume"]
        );
        assert_eq!(judged("crates/base/src/ids.rs", "use windlass_store::{Error, S};").len(), 2);
        assert_eq!(
            judged("crates/pool/src/a.rs", "fn f() -> windlass_cache::C { windlass_log::L }").len(),
            2
        );
        assert_eq!(judged("crates/fs/src/a.rs", "mod m { use windlass_nbd::N; }").len(), 1);
        assert_eq!(judged("crates/fs/src/a.rs", "use windlass::daemon::run;").len(), 1);
        assert_eq!(judged("crates/journal/src/lib.rs", "use windlass_store::Etag;").len(), 1);
        assert_eq!(judged("src/main.rs", "use windlass::daemon::run;").len(), 1);
        assert_eq!(judged("src/lib.rs", "use crate::*;").len(), 0);
        assert_eq!(judged("src/cli/mod.rs", "use crate::*;").len(), 1);
        assert_eq!(judged("src/attic/mod.rs", "").len(), 1);
    }

    #[test]
    fn rings_of_files_are_found() {
        let house = |b: &str| {
            rings(&[
                file("crates/pool/src/lib.rs", "mod a; mod b; pub use a::A; pub use b::B; use a::X;"),
                file("crates/pool/src/a.rs", "use super::B;"),
                file("crates/pool/src/b.rs", b),
            ])
        };
        assert_eq!(house("use windlass_base::Error; use super::Own;"), [""; 0]);
        assert_eq!(house("#[cfg(test)] mod tests { use super::super::A; }"), [""; 0]);
        assert_eq!(house("use super::A;"), ["these files use each other in a ring: pool::a, pool::b"]);
        assert_eq!(house("fn f() { crate::a::g() }").len(), 1);
        assert_eq!(house("use super::a::{A, g};").len(), 1);
    }
}
