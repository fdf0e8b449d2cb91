//! Arrows that imports don't show: a type whose methods stand in many files lets these call each other through `self`.
//!
//! An inherent `impl` in another file is an arrow: file A, inside an `impl T`, calls `self.m()` or `T::m` of a method that
//! file B's `impl T` has. Arrows that A's imports show already aren't counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::code::{self, Token};
use crate::layers::{self, File, is_test};

/// Hidden arrows of each layer. The figure only falls: whoever loosens a knot enters the new one.
pub const HIDDEN: &[(&str, usize)] = &[("fs", 10), ("pool", 2), ("volume", 10)];

/// Methods of one `impl` block: those that it has, and those that it calls.
struct Block {
    owner: String,
    inherent: bool,
    has: BTreeSet<String>,
    calls: BTreeSet<String>,
}

/// Returns the hidden arrows of a layer, as `from -> to`. `uses`: the arrows that imports show.
pub fn hidden(files: &[File], uses: &[layers::Use], layer: &str) -> BTreeSet<String> {
    let folder = format!("crates/{layer}/src/");
    let inside = files.iter().filter(|f| f.path.starts_with(&folder) && !is_test(&f.path));
    let read: Vec<(String, Vec<Block>)> = inside.map(|f| (f.module().join("::"), blocks(&f.text))).collect();
    let mut homes: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (module, blocks) in &read {
        for block in blocks.iter().filter(|block| block.inherent) {
            for method in &block.has {
                homes.entry((&block.owner, method)).or_default().insert(module);
            }
        }
    }
    let shown: BTreeSet<(String, String)> =
        uses.iter().map(|u| (u.from.join("::"), u.to.join("::"))).collect();
    let mut out = BTreeSet::new();
    for (module, block) in read.iter().flat_map(|(module, blocks)| blocks.iter().map(move |b| (module, b))) {
        for name in &block.calls {
            for home in homes.get(&(block.owner.as_str(), name.as_str())).into_iter().flatten() {
                if home != module && !shown.contains(&(module.clone(), (*home).to_owned())) {
                    out.insert(format!("{module} -> {home}"));
                }
            }
        }
    }
    out
}

/// Returns the `impl` blocks of a file outside of its tests.
fn blocks(text: &str) -> Vec<Block> {
    let split = code::split(text);
    let tokens = code::tokens(&split.code);
    let tests = code::test_modules(&tokens);
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let tested = tests.iter().any(|(first, last)| (*first..=*last).contains(&tokens[at].line));
        // `impl` of a block begins an item; `impl Trait` in a signature follows something else.
        let begins = at == 0 || matches!(tokens[at - 1].text, "}" | ";" | "]" | "unsafe");
        let open = (at..tokens.len()).find(|i| matches!(tokens[*i].text, "{" | ";"));
        match open.filter(|_| tokens[at].text == "impl" && begins && !tested) {
            Some(open) => {
                let end = code::closing(&tokens, open);
                out.extend(block(&tokens[at + 1..open], &tokens[open + 1..end]));
                at = end;
            }
            None => at += 1,
        }
    }
    out
}

fn block(head: &[Token<'_>], body: &[Token<'_>]) -> Option<Block> {
    let types = outside_angles(head);
    let head_end = types.iter().position(|t| *t == "where").unwrap_or(types.len());
    let split = types[..head_end].iter().position(|t| *t == "for");
    let owner = types[split.map_or(0, |at| at + 1)..head_end].iter().rfind(|t| is_name(t))?.to_string();
    let (mut has, mut calls) = (BTreeSet::new(), BTreeSet::new());
    for (i, token) in body.iter().enumerate() {
        let word = |n: usize| body.get(i + n).map_or("", |t| t.text);
        if token.text == "fn" {
            has.insert(word(1).to_owned());
            continue;
        }
        let through_self = token.text == "self" && word(1) == "." && word(3) == "(";
        let through_type = (token.text == "Self" || token.text == owner) && word(1) == "::";
        if through_self || through_type {
            calls.insert(word(2).to_owned());
        }
    }
    Some(Block { owner, inherent: split.is_none(), has, calls })
}

/// Returns a block's head without what stands between `<` and `>`.
fn outside_angles<'a>(head: &[Token<'a>]) -> Vec<&'a str> {
    let (mut depth, mut out, mut before) = (0, Vec::new(), "");
    for token in head {
        match token.text {
            "<" => depth += 1,
            ">" if before != "-" => depth -= 1,
            text if depth == 0 => out.push(text),
            _ => {}
        }
        before = token.text;
    }
    out
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

pub fn judge(files: &[File]) -> Vec<String> {
    let uses = layers::uses(files);
    let mut bad = Vec::new();
    for (layer, entered) in HIDDEN {
        let found = hidden(files, &uses, layer);
        let list = found.iter().map(|a| format!("\n  {a}")).collect::<String>();
        match found.len().cmp(entered) {
            std::cmp::Ordering::Less => bad.push(format!(
                "{layer}: {} hidden arrows, fewer than {entered}: enter that in tests/tidy/knots.rs",
                found.len()
            )),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => {
                bad.push(format!("{layer}: {} hidden arrows, at most {entered}:{list}", found.len()));
            }
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(a: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [
            file("crates/pool/src/a.rs", a),
            file(
                "crates/pool/src/b.rs",
                "impl<T: Fn() -> u8> Pool<T> { pub fn far(&self) {} pub fn of() {} }",
            ),
            file("crates/pool/src/c.rs", "struct Pool; impl Other { fn near(&self) {} }"),
        ];
        hidden(&files, &layers::uses(&files), "pool").into_iter().collect()
    }

    #[test]
    fn calls_through_self_are_arrows() {
        let one = ["pool::a -> pool::b"];
        assert_eq!(arrows("impl Pool { fn f(&self) { self.far() } }"), one);
        assert_eq!(arrows("impl<'a> Drop for Pool<'a> { fn drop(&mut self) { Self::of() } }"), one);
        assert_eq!(arrows("impl Pool { fn f(&self) { let g = Pool::of; } }"), one);
        assert_eq!(arrows("impl Pool where Self: Sized { fn f(&self) { join!(self.far(), x) } }"), one);
    }

    #[test]
    fn what_is_no_hidden_arrow() {
        assert_eq!(arrows("impl Pool { fn near(&self) {} fn f(&self) { self.near() } }"), [""; 0]);
        assert_eq!(arrows("impl Pool { fn f(&self, other: &X) { other.far() } }"), [""; 0]);
        assert_eq!(arrows("impl X { fn f(&self, g: impl Fn()) { self.far() } }"), [""; 0]);
        assert_eq!(arrows("#[cfg(test)] mod t { impl Pool { fn f(&self) { self.far() } } }"), [""; 0]);
        assert_eq!(
            arrows("use super::b::Y; impl Pool { fn f(&self) { self.far() } }"),
            [""; 0],
            "imports tell"
        );
    }
}
