//! Sizes and words: long files and functions, missing module docs, unfinished work without a reason.

use crate::code::{self, Token};
use crate::layers::{File, is_test};

const FILE_LINES_MAX: usize = 800;
const INLINE_TEST_LINES_MAX: usize = 300;
const FUNCTION_LINES_MAX: usize = 70;
/// Most lines of a test, which may tell a longer story.
const TEST_FUNCTION_LINES_MAX: usize = 120;
const UNDOCUMENTED_LINES_MAX: usize = 200;
/// Least characters of a reason; anything shorter is none.
const REASON_CHARS_MIN: usize = 20;

pub fn judge(file: &File) -> Vec<String> {
    let split = code::split(&file.text);
    let tokens = code::tokens(&split.code);
    let mut bad = functions(&tokens, is_test(&file.path));
    bad.extend(unfinished(&tokens, &split.comments));
    if !is_test(&file.path) {
        bad.extend(lines(&file.text, &tokens));
    }
    bad.into_iter().map(|b| format!("{}:{b}", file.path)).collect()
}

fn functions(tokens: &[Token<'_>], test: bool) -> Vec<String> {
    let tests = code::test_modules(tokens);
    let mut bad = Vec::new();
    for f in code::functions(tokens) {
        let inline = tests.iter().any(|(first, last)| (*first..=*last).contains(&f.first));
        let max = if test || inline { TEST_FUNCTION_LINES_MAX } else { FUNCTION_LINES_MAX };
        let lines = f.last - f.first + 1;
        if lines > max {
            bad.push(format!("{}: function `{}` has {lines} lines, at most {max}", f.first, f.name));
        }
    }
    bad
}

fn lines(text: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let tests: usize = code::test_modules(tokens).iter().map(|(first, last)| last - first + 1).sum();
    let own = text.lines().count() - tests;
    let mut bad = Vec::new();
    if own > FILE_LINES_MAX {
        bad.push(format!("1: {own} lines without tests, at most {FILE_LINES_MAX}"));
    }
    if tests > INLINE_TEST_LINES_MAX {
        bad.push(format!(
            "1: {tests} lines of inline tests, at most {INLINE_TEST_LINES_MAX}: move them to `tests.rs` beside"
        ));
    }
    if own > UNDOCUMENTED_LINES_MAX && !text.starts_with("//!") {
        bad.push(format!("1: {own} lines and no `//!`: what it owns, its invariants, what it doesn't do"));
    }
    bad
}

fn unfinished(tokens: &[Token<'_>], comments: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        if matches!(t.text, "todo" | "unimplemented") && code::texts(tokens, i + 1, &["!"]) {
            bad.push(format!("{}: `{}!` is unfinished work", t.line, t.text));
        }
    }
    for (i, line) in comments.lines().enumerate() {
        for marker in ["TODO", "FIXME", "XXX"] {
            if line.split_once(marker).is_some_and(|(_, reason)| !reasoned(reason)) {
                bad.push(format!(
                    "{}: {marker} without a reason (`{marker}: why, and what will end it`)",
                    i + 1
                ));
            }
        }
    }
    bad
}

fn reasoned(after: &str) -> bool {
    after.strip_prefix(':').is_some_and(|reason| reason.trim().chars().count() >= REASON_CHARS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str, text: String) -> Vec<String> {
        judge(&File { path: path.into(), text })
    }

    fn body(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    #[test]
    fn long_functions_fail() {
        assert_eq!(judged("src/a.rs", body(70)), [""; 0]);
        assert_eq!(judged("src/a.rs", body(71)), ["src/a.rs:1: function `long` has 71 lines, at most 70"]);
        assert_eq!(judged("src/a.rs", format!("#[cfg(test)]\nmod tests {{\n{}}}", body(71))), [""; 0]);
        assert_eq!(judged("src/a/tests.rs", body(121)).len(), 1);
    }

    #[test]
    fn long_files_fail() {
        let with = |n: usize| format!("//! Doc.\n{}", "const A: u8 = 0;\n".repeat(n - 1));
        assert_eq!(judged("src/a.rs", with(800)), [""; 0]);
        assert_eq!(judged("src/a.rs", with(801)).len(), 1);
        assert_eq!(judged("src/a/tests.rs", with(2000)), [""; 0]);
        let tests = |n: usize| {
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", with(700), "const A: u8 = 0;\n".repeat(n - 3))
        };
        assert_eq!(judged("src/a.rs", tests(300)), [""; 0]);
        assert_eq!(judged("src/a.rs", tests(301)).len(), 1);
    }

    #[test]
    fn long_files_open_with_their_docs() {
        let lines = |n: usize| "const A: u8 = 0;\n".repeat(n);
        assert_eq!(judged("src/a.rs", lines(200)), [""; 0]);
        assert_eq!(judged("src/a.rs", lines(201)).len(), 1);
        assert_eq!(judged("src/a.rs", format!("//! Doc.\n{}", lines(201))), [""; 0]);
    }

    #[test]
    fn unfinished_work_needs_a_reason() {
        assert_eq!(judged("src/a.rs", "// TODO later\n".into()).len(), 1);
        assert_eq!(judged("src/a.rs", "// FIXME: soon\n".into()).len(), 1);
        assert_eq!(judged("tests/a.rs", "// XXX\n".into()).len(), 1);
        assert_eq!(judged("src/a.rs", "// TODO: goes when fuser 0.19 has statx\n".into()), [""; 0]);
        assert_eq!(judged("src/a.rs", "const A: &str = \"TODO\";\n".into()), [""; 0]);
        assert_eq!(
            judged("src/a.rs", "fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }\n".into()).len(),
            2
        );
    }
}
