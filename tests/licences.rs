//! Whatever is linked into the product must be permissively licensed. The test asks cargo itself what that is.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// SPDX names that ask for no more than a notice.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Tells whether a licence expression can be satisfied with permissive licences alone.
fn permissive(expression: &str) -> Result<bool, String> {
    // `/` is how crates wrote OR before SPDX.
    let spread = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spread.split_whitespace().collect();
    let mut at = 0;
    let verdict = any(&words, &mut at)?;
    if at < words.len() {
        return Err(format!("stray `{}` in `{expression}`", words[at]));
    }
    Ok(verdict)
}

/// Judges `a OR b`; AND binds closer.
fn any(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let mut verdict = all(words, at)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        verdict |= all(words, at)?;
    }
    Ok(verdict)
}

fn all(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let mut verdict = one(words, at)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        verdict &= one(words, at)?;
    }
    Ok(verdict)
}

fn one(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let word = *words.get(*at).ok_or("the expression ends too early")?;
    *at += 1;
    match word {
        "(" => {
            let verdict = any(words, at)?;
            if words.get(*at) != Some(&")") {
                return Err("a `(` isn't closed".into());
            }
            *at += 1;
            Ok(verdict)
        }
        ")" | "AND" | "OR" | "WITH" => Err(format!("`{word}` where a licence belongs")),
        name if words.get(*at) == Some(&"WITH") => {
            let exception = words.get(*at + 1).ok_or("WITH what?")?;
            *at += 2;
            Ok(PERMISSIVE.contains(&format!("{name} WITH {exception}").as_str()))
        }
        name => Ok(PERMISSIVE.contains(&name)),
    }
}

/// Returns the ids of packages that the workspace's own packages link, on any platform: normal dependencies,
/// and theirs.
fn linked(metadata: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|n| (text(&n["id"]), n)).collect();
    let mut next: Vec<&str> = list(&metadata["workspace_members"]).map(text).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = next.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in list(&nodes[id]["deps"]) {
            // `kind` is null for a normal dependency, "dev" or "build" otherwise.
            if list(&dependency["dep_kinds"]).any(|k| k["kind"].is_null()) {
                next.push(text(&dependency["pkg"]));
            }
        }
    }
    seen
}

/// Lists the packages that are linked and not permissive, each with its reason.
fn offenders(metadata: &Value) -> Vec<String> {
    let linked = linked(metadata);
    let mut bad = Vec::new();
    for package in list(&metadata["packages"]).filter(|p| linked.contains(text(&p["id"]))) {
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        match package["license"].as_str().map(permissive) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => bad.push(format!("{name}: {}", text(&package["license"]))),
            Some(Err(why)) => bad.push(format!("{name}: {why}")),
            None => bad.push(format!("{name}: names no licence")),
        }
    }
    bad
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("cargo metadata has a list here").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a string here")
}

fn cargo_metadata() -> Value {
    let ask = |more: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs")
    };
    // Crates for other platforms are listed too, and may have to be fetched.
    let mut out = ask(&["--offline"]);
    if !out.status.success() {
        out = ask(&[]);
    }
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON")
}

#[test]
fn everything_linked_is_permissive() {
    let metadata = cargo_metadata();
    let linked = linked(&metadata);
    assert!(
        linked.len() > 50 && linked.iter().any(|id| id.contains("tokio")),
        "too few dependencies seen: {linked:?}"
    );
    let bad = offenders(&metadata);
    assert!(bad.is_empty(), "not permissively licensed:\n{}", bad.join("\n"));
}

#[test]
fn expressions_are_judged() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0-only",
        "GPL-2.0/Apache-2.0",
        "ISC AND (MIT OR AGPL-3.0)",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert_eq!(permissive(good), Ok(true), "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND MPL-2.0",
        "(MIT OR ISC) AND LGPL-2.1",
        "MIT AND GPL-2.0 OR LGPL-2.1",
        "GPL-2.0 WITH Classpath-exception-2.0",
    ] {
        assert_eq!(permissive(bad), Ok(false), "{bad}");
    }
    for broken in ["", "MIT OR", "(MIT", "MIT)", "AND MIT", "MIT ISC"] {
        assert!(permissive(broken).is_err(), "{broken}");
    }
}

#[test]
fn offenders_are_named_and_tests_only_dependencies_are_free() {
    let dependency = |id: &str, kind: Value| serde_json::json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
    let package = |id: &str, licence: Value| serde_json::json!({"id": id, "name": id, "version": "1", "license": licence});
    let metadata = serde_json::json!({
        "workspace_members": ["ours"],
        "packages": [
            package("ours", "Apache-2.0".into()), package("good", "MIT".into()), package("deep", "GPL-3.0".into()),
            package("none", Value::Null), package("tool", "AGPL-3.0".into()),
        ],
        "resolve": {"nodes": [
            {"id": "ours", "deps": [dependency("good", Value::Null), dependency("tool", "dev".into())]},
            {"id": "good", "deps": [dependency("deep", Value::Null), dependency("none", Value::Null)]},
            {"id": "deep", "deps": []}, {"id": "none", "deps": []}, {"id": "tool", "deps": []},
        ]},
    });
    assert_eq!(offenders(&metadata), ["deep 1: GPL-3.0", "none 1: names no licence"]);
}
