//! Just enough Rust to judge its shape: code without comments and strings, tokens, paths, functions.

/// A source text split in two of the same length and the same lines. Text that isn't code is blank in one,
/// text that isn't comment in the other.
pub struct Split {
    pub code: String,
    pub comments: String,
}

/// Splits a source text. Strings and characters are blank in both parts.
pub fn split(source: &str) -> Split {
    let bytes = source.as_bytes();
    let mut code = blank(bytes);
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        let (end, kind) = piece(bytes, at);
        match kind {
            Piece::Code => code[at..end].copy_from_slice(&bytes[at..end]),
            Piece::Comment => comments[at..end].copy_from_slice(&bytes[at..end]),
            Piece::Literal => {}
        }
        at = end;
    }
    let text = |b| String::from_utf8_lossy(b).into_owned();
    Split { code: text(&code), comments: text(&comments) }
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }).collect()
}

enum Piece {
    Code,
    Comment,
    Literal,
}

/// Returns where the piece that begins at `at` ends, and its kind.
fn piece(b: &[u8], at: usize) -> (usize, Piece) {
    match b[at] {
        b'/' if b.get(at + 1) == Some(&b'/') => (find(b, at, b"\n"), Piece::Comment),
        b'/' if b.get(at + 1) == Some(&b'*') => (block_comment(b, at), Piece::Comment),
        b'"' => (quoted(b, at + 1, b'"'), Piece::Literal),
        b'\'' => match character(b, at) {
            Some(end) => (end, Piece::Literal),
            None => (at + 1, Piece::Code),
        },
        c if word(c) => {
            let end = (at..b.len()).find(|i| !word(b[*i])).unwrap_or(b.len());
            match (&b[at..end], raw_string(b, end)) {
                (b"r" | b"br" | b"cr", Some(close)) => (close, Piece::Literal),
                _ => (end, Piece::Code),
            }
        }
        _ => (at + 1, Piece::Code),
    }
}

fn word(c: u8) -> bool {
    c == b'_' || c.is_ascii_alphanumeric() || c >= 0x80
}

fn find(b: &[u8], from: usize, what: &[u8]) -> usize {
    b[from..].windows(what.len()).position(|w| w == what).map_or(b.len(), |i| from + i)
}

fn block_comment(b: &[u8], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < b.len() {
        match &b[i..(i + 2).min(b.len())] {
            b"/*" => (depth, i) = (depth + 1, i + 2),
            b"*/" => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    b.len()
}

fn quoted(b: &[u8], from: usize, quote: u8) -> usize {
    let mut i = from;
    while i < b.len() {
        match b[i] {
            b'\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    b.len()
}

/// Returns the end of `'x'`, `'\n'` or `'é'`; `None` for a lifetime.
fn character(b: &[u8], at: usize) -> Option<usize> {
    match b.get(at + 1)? {
        b'\\' => Some(quoted(b, at + 1, b'\'')),
        first => {
            let width =
                1 + usize::from(*first >= 0xc0) + usize::from(*first >= 0xe0) + usize::from(*first >= 0xf0);
            (b.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
    }
}

/// Returns the end of `#"…"#` (any number of hashes, also none) at `at`.
fn raw_string(b: &[u8], at: usize) -> Option<usize> {
    let hashes = b[at..].iter().take_while(|c| **c == b'#').count();
    (b.get(at + hashes) == Some(&b'"')).then(|| {
        let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
        (find(b, at + hashes + 1, &close) + close.len()).min(b.len())
    })
}

/// A word, `::`, or one other character, and its line (from 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let (b, mut out, mut line, mut at) = (code.as_bytes(), Vec::new(), 1, 0);
    while at < b.len() {
        let end = match b[at] {
            c if word(c) => (at..b.len()).find(|i| !word(b[*i])).unwrap_or(b.len()),
            b':' if b.get(at + 1) == Some(&b':') => at + 2,
            _ => at + 1,
        };
        match b[at] {
            b'\n' => line += 1,
            c if c.is_ascii_whitespace() => {}
            _ => out.push(Token { text: &code[at..end], line }),
        }
        at = end;
    }
    out
}

/// Returns the index of the token that closes the bracket at `open`.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (i, t) in tokens.iter().enumerate().skip(open) {
        match t.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len() - 1
}

/// Returns the first and last line of each `#[cfg(test)] mod NAME { … }`.
pub fn test_modules(tokens: &[Token<'_>]) -> Vec<(usize, usize)> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut out = Vec::new();
    for i in 0..tokens.len() {
        if !texts(tokens, i, &mark) {
            continue;
        }
        // Other attributes and a visibility may stand between.
        let end = (i..tokens.len()).find(|j| matches!(tokens[*j].text, "{" | ";")).unwrap_or(i);
        let module = tokens[i..end].iter().any(|t| t.text == "mod");
        if module && tokens[end].text == "{" {
            out.push((tokens[i].line, tokens[closing(tokens, end)].line));
        }
    }
    out
}

pub fn texts(tokens: &[Token<'_>], at: usize, wanted: &[&str]) -> bool {
    wanted.iter().enumerate().all(|(i, w)| tokens.get(at + i).is_some_and(|t| t.text == *w))
}

/// A function with a body.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    pub first: usize,
    pub last: usize,
}

pub fn functions(tokens: &[Token<'_>]) -> Vec<Function> {
    let mut out = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(i + 1).filter(|n| t.text == "fn" && word(n.text.as_bytes()[0])) else {
            continue;
        };
        if let Some(open) = body(tokens, i + 2) {
            let last = tokens[closing(tokens, open)].line;
            out.push(Function { name: name.text.into(), first: t.line, last });
        }
    }
    out
}

/// Returns the index of the `{` of a function's body, the first outside of its parameters; `None` when a `;`
/// comes first.
fn body(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut i = from;
    while i < tokens.len() {
        match tokens[i].text {
            "{" => return Some(i),
            ";" => return None,
            "(" | "[" => i = closing(tokens, i) + 1,
            _ => i += 1,
        }
    }
    None
}

/// A path as written, its line, and the inline modules that it stands in.
#[derive(PartialEq, Eq, Debug)]
pub struct Path {
    pub segments: Vec<String>,
    pub inside: Vec<String>,
    pub line: usize,
}

/// Returns every path that begins with `crate`, `self`, `super` or one of `roots`; use trees are spread out.
pub fn paths(tokens: &[Token<'_>], roots: &[&str]) -> Vec<Path> {
    let mut out = Vec::new();
    let mut inside: Vec<(String, usize)> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        inside.retain(|(_, end)| i < *end);
        if tokens[i].text == "mod" && tokens.get(i + 2).is_some_and(|t| t.text == "{") {
            inside.push((tokens[i + 1].text.into(), closing(tokens, i + 2)));
        }
        let starts = matches!(tokens[i].text, "crate" | "self" | "super") || roots.contains(&tokens[i].text);
        let continues = i > 0 && tokens[i - 1].text == "::";
        if starts && !continues && tokens.get(i + 1).is_some_and(|t| t.text == "::") {
            let names = inside.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
            let mut found = Vec::new();
            let end = tree(tokens, i, &[], &mut found);
            out.extend(found.into_iter().map(|(segments, line)| Path {
                segments,
                inside: names.clone(),
                line,
            }));
            i = end.max(i + 1);
        } else {
            i += 1;
        }
    }
    out
}

/// Reads a path or use tree at `at`, and returns the index after it.
fn tree(tokens: &[Token<'_>], at: usize, front: &[String], out: &mut Vec<(Vec<String>, usize)>) -> usize {
    let mut segments = front.to_vec();
    let mut i = at;
    while let Some(t) = tokens.get(i) {
        match t.text {
            "{" if i > at => {
                let end = closing(tokens, i);
                let mut j = i + 1;
                while j < end {
                    j = if tokens[j].text == "," {
                        j + 1
                    } else {
                        tree(tokens, j, &segments, out).max(j + 1)
                    };
                }
                return end + 1;
            }
            text if word(text.as_bytes()[0]) || text == "*" => segments.push(text.into()),
            _ => break,
        }
        i += 1;
        if tokens.get(i).is_none_or(|t| t.text != "::") {
            break;
        }
        i += 1;
    }
    // `name as other` and stray characters end here; the caller goes on behind them.
    if tokens.get(i).is_some_and(|t| t.text == "as") {
        i += 2;
    }
    if segments.len() > front.len() {
        out.push((segments, tokens[at].line));
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_told_from_code() {
        let s = split(
            "let a = \"// no { \\\" \"; // yes {\nlet b = r#\"fn \"x\" {\"#; /* a /* b */ c */ 'x' '\\'' &'a T",
        );
        assert_eq!(s.code.replace(' ', ""), "leta=;\nletb=;&'aT");
        assert!(s.comments.contains("// yes {") && s.comments.contains("/* a /* b */ c */"));
        assert!(!s.comments.contains("no"));
        assert_eq!(s.code.lines().count(), 2);
    }

    #[test]
    fn functions_are_measured_with_their_bodies() {
        let code = "trait T { fn none(&self); }\nfn f<F: Fn(u8)>(a: [u8; 2]) -> u8\nwhere F: Send {\n if x { y }\n}\nfn g() {}";
        let seen: Vec<_> = functions(&tokens(code)).into_iter().map(|f| (f.name, f.first, f.last)).collect();
        assert_eq!(seen, [("f".to_string(), 2, 5), ("g".to_string(), 6, 6)]);
    }

    #[test]
    fn test_modules_are_found() {
        let code =
            "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod other;";
        assert_eq!(test_modules(&tokens(code)), [(2, 6)]);
    }

    #[test]
    fn paths_are_spread_out() {
        let code = "use crate::{base::{Error, rt as r}, store::*};\nfn f() { windlass::cli::main(crate::pool::X) }\n\
                    mod m { use super::super::fs; } pub(crate) use self::a;";
        let seen: Vec<_> = paths(&tokens(code), &["windlass"])
            .into_iter()
            .map(|p| format!("{} {} {}", p.line, p.inside.join("/"), p.segments.join("::")))
            .collect();
        assert_eq!(
            seen,
            [
                "1  crate::base::Error",
                "1  crate::base::rt",
                "1  crate::store::*",
                "2  windlass::cli::main",
                "2  crate::pool::X",
                "3 m super::super::fs",
                "3  self::a"
            ]
        );
    }
}
