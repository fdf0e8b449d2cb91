//! The rooms of a layer: sub-folders in an order, each small, each with a front that is read on one screen.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;
use crate::layers::{self, File, is_test};

/// The rooms of each layer that has them, the lowest first: a room names only itself and rooms before it.
/// A layer that gets rooms is entered here.
pub const ROOMS: &[(&str, &[&str])] = &[
    ("fs", &["object", "bucket", "read", "staging", "file", "tree", "ops", "mount"]),
    (
        "volume",
        &[
            "head",
            "space",
            "mirror",
            "read",
            "session",
            "checkpoint",
            "mirroring",
            "handle",
            "catalog",
            "copies",
        ],
    ),
    ("pool", &["chunk", "stores", "register", "local", "io", "repair", "admin"]),
];

/// Most entries of a room's folder, `mod.rs` among them.
const ENTRIES_MAX: usize = 15;
/// Most lines of a room's `mod.rs`: one screen.
const FRONT_LINES_MAX: usize = 60;

/// Lists imports that go up, files that stand in no room, rooms that are too large, fronts that hold code.
pub fn judge(files: &[File], rooms: &[(&str, &[&str])]) -> Vec<String> {
    let mut bad = arrows(files, rooms);
    for (layer, order) in rooms {
        let inside = files.iter().filter(|f| !is_test(&f.path)).map(File::module);
        let first: BTreeSet<String> =
            inside.filter(|m| m.len() > 1 && m[0] == *layer).map(|m| m[1].clone()).collect();
        let strays = first.iter().filter(|name| !order.contains(&name.as_str()));
        bad.extend(strays.map(|name| format!("crates/{layer}/src: `{name}` is no room of the layer")));
        for room in *order {
            let entries = entries(files, &format!("crates/{layer}/src/{room}/"));
            if entries.is_empty() {
                bad.push(format!("crates/{layer}/src/{room}: no such room"));
            } else if entries.len() > ENTRIES_MAX {
                bad.push(format!(
                    "crates/{layer}/src/{room}: {} entries, at most {ENTRIES_MAX}",
                    entries.len()
                ));
            }
        }
    }
    bad.extend(files.iter().filter(|f| is_front(f, rooms)).flat_map(front));
    bad
}

fn entries<'a>(files: &'a [File], folder: &str) -> BTreeSet<&'a str> {
    files.iter().filter_map(|f| f.path.strip_prefix(folder)?.split('/').next()).collect()
}

/// Tells whether a file is the layer's own `mod.rs`, or that of one of its rooms.
fn is_front(file: &File, rooms: &[(&str, &[&str])]) -> bool {
    (file.path.ends_with("/mod.rs") || file.path.ends_with("/lib.rs"))
        && match file.module().as_slice() {
            [layer] => rooms.iter().any(|(l, _)| l == layer),
            [layer, room] => rooms.iter().any(|(l, order)| l == layer && order.contains(&room.as_str())),
            _ => false,
        }
}

fn front(file: &File) -> Vec<String> {
    let mut bad = Vec::new();
    let lines = file.text.lines().count();
    if lines > FRONT_LINES_MAX {
        bad.push(format!("{}: {lines} lines, at most {FRONT_LINES_MAX}: one screen", file.path));
    }
    let split = code::split(&file.text);
    let holds = |t: &code::Token<'_>| matches!(t.text, "fn" | "struct" | "enum" | "trait" | "impl" | "const");
    if let Some(token) = code::tokens(&split.code).iter().find(|t| holds(t)) {
        bad.push(format!("{}:{}: holds more than modules and re-exports", file.path, token.line));
    }
    bad
}

fn arrows(files: &[File], rooms: &[(&str, &[&str])]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = rooms.iter().copied().collect();
    let mut bad = Vec::new();
    for arrow in layers::uses(files) {
        let [layer, from, ..] = arrow.from.as_slice() else { continue };
        let Some(order) = table.get(layer.as_str()) else { continue };
        let height = |room: &String| order.iter().position(|r| r == room);
        let Some(from_at) = height(from) else { continue };
        let [to_layer, to, ..] = arrow.to.as_slice() else { continue };
        if to_layer == layer && height(to).is_none_or(|at| at > from_at) {
            bad.push(format!("{}:{}: {layer}'s {from} may not use {to}", arrow.path, arrow.line));
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[(&str, &[&str])] = &[("pool", &["low", "high"])];

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn judged(low: &str, high: &str) -> Vec<String> {
        let files = [
            file("crates/pool/src/lib.rs", "mod low; mod high; pub use low::A; pub use high::B;"),
            file("crates/pool/src/low/mod.rs", "mod a; pub use a::A;"),
            file("crates/pool/src/low/a.rs", low),
            file("crates/pool/src/high/mod.rs", "mod b; pub use b::B;"),
            file("crates/pool/src/high/b.rs", high),
        ];
        judge(&files, TWO)
    }

    #[test]
    fn rooms_use_only_rooms_below() {
        assert_eq!(judged("use windlass_base::E;", "use crate::low::A; use super::c;"), [""; 0]);
        assert_eq!(
            judged("\nuse crate::high::B;", ""),
            ["crates/pool/src/low/a.rs:2: pool's low may not use high"]
        );
        // Through the layer's own front, and inside a function.
        assert_eq!(judged("fn f() { super::super::B::g() }", "").len(), 1);
        assert_eq!(judged("#[cfg(test)] mod tests { use crate::pool::B; }", ""), [""; 0]);
    }

    #[test]
    fn every_file_stands_in_a_room_that_is_in_the_table() {
        let files = [
            file("crates/pool/src/attic.rs", "use windlass_base::E;"),
            file("crates/pool/src/low/mod.rs", "mod a;"),
        ];
        let seen = judge(&files, TWO);
        assert_eq!(
            seen,
            ["crates/pool/src: `attic` is no room of the layer", "crates/pool/src/high: no such room"]
        );
    }

    #[test]
    fn rooms_are_small_and_their_fronts_hold_no_code() {
        let mut files: Vec<_> = (0..14).map(|i| file(&format!("crates/pool/src/low/f{i}.rs"), "")).collect();
        files.push(file("crates/pool/src/low/mod.rs", "mod a;"));
        files.push(file("crates/pool/src/high/mod.rs", "fn f() {}"));
        assert_eq!(
            judge(&files, TWO),
            ["crates/pool/src/high/mod.rs:1: holds more than modules and re-exports"]
        );
        files.push(file("crates/pool/src/low/more/x.rs", ""));
        assert_eq!(judge(&files, TWO).len(), 2);
    }
}
