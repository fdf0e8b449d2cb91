//! The book says what the code says: each part of docs/formats.md that names a source file holds that file's `//!`.
//!
//! After a change of a module's docs: `WRITE_DOCS=1 cargo test --test docs`.
//! So is docs/house.svg drawn from the table of layers in docs/architecture.md, and docs/performance.svg (made by
//! `integration/bench --plot`) shows the tables of docs/performance.md.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // reads and writes the repository's own files

mod house;

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- from ";
const END: &str = "<!-- end -->";

/// Returns a module's docs as they stand in the book: headings are one level below the section's.
fn module_docs(source: &str) -> String {
    let mut out = String::new();
    for line in source.lines().map_while(|l| l.strip_prefix("//!")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.starts_with('#') {
            out.push_str("##");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Returns the book with every named part taken from its source anew.
fn rewritten(book: &str, source: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut skipping = false;
    for line in book.lines() {
        if line == END {
            assert!(skipping, "`{END}` without a beginning");
            skipping = false;
        }
        if !skipping {
            out.push_str(line);
            out.push('\n');
        }
        if let Some(path) = line.strip_prefix(BEGIN).and_then(|l| l.strip_suffix(" -->")) {
            assert!(!skipping, "{path}: the part before it has no `{END}`");
            out.push_str(&module_docs(&source(path)));
            skipping = true;
        }
    }
    assert!(!skipping, "the last part has no `{END}`");
    out
}

#[test]
fn formats_md_says_what_the_modules_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/formats.md");
    let book = fs::read_to_string(&path).unwrap();
    let wanted = rewritten(&book, |file| {
        fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    });
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        let differ = book.lines().zip(wanted.lines()).find(|(is, should)| is != should);
        assert!(book == wanted, "docs/formats.md is behind its sources (see tests/docs): {differ:?}");
    }
}

#[test]
fn house_svg_shows_the_layers_of_architecture_md() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let layers = house::layers(&fs::read_to_string(root.join("docs/architecture.md")).unwrap());
    let folders_of = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap);
        let folders = entries.filter(|e| e.file_type().unwrap().is_dir());
        folders.map(|e| e.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut folders = [folders_of("src"), folders_of("crates")].concat();
    // What layers stand on, and what tests do.
    folders.retain(|name| name != "galois" && name != "fuzz");
    let mut names: Vec<String> = layers.iter().map(|(name, _)| name.clone()).collect();
    folders.sort();
    names.sort();
    assert_eq!(names, folders, "the layers of docs/architecture.md and the folders of src and crates");
    let (path, wanted) = (root.join("docs/house.svg"), house::drawn(&layers));
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        let is = fs::read_to_string(&path).unwrap_or_default();
        assert!(is == wanted, "docs/house.svg is behind its sources: WRITE_DOCS=1 cargo test --test docs");
    }
}

/// The plot carries the tables that it was made of, word for word, in its `<desc>`.
#[test]
fn performance_svg_shows_the_tables_of_performance_md() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/performance.md")).unwrap();
    let plot = fs::read_to_string(root.join("docs/performance.svg")).unwrap();
    let shown = plot.split("<desc>").nth(1).and_then(|p| p.split("</desc>").next()).unwrap();
    let mut wanted = String::new();
    for table in page.split("<!-- plot: ").skip(1) {
        for line in table.lines().skip(1).skip_while(|l| l.is_empty()).take_while(|l| l.starts_with('|')) {
            wanted += line;
            wanted.push('\n');
        }
    }
    assert!(wanted.lines().count() > 6, "docs/performance.md has no table to plot");
    assert!(
        shown.trim() == wanted.trim(),
        "docs/performance.svg is behind docs/performance.md: integration/bench --plot"
    );
}

#[test]
fn parts_are_replaced_and_the_rest_is_kept() {
    let book = "# A\n<!-- from x.rs -->\nold\n<!-- end -->\ntail\n";
    let source = |_: &str| "//! New.\n//!\n//! # Bytes\nuse x;\n//! not this\n".to_owned();
    let wanted = "# A\n<!-- from x.rs -->\nNew.\n\n### Bytes\n<!-- end -->\ntail\n";
    assert_eq!(rewritten(book, source), wanted);
    assert_eq!(rewritten(wanted, source), wanted);
}

/// Returns a heading as the end of a link names it: lower case, words joined by `-`, no other punctuation.
fn slug(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

/// Every link of the book to a file leads to one, and every link to a heading to one of that page.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    below(&root.join("docs"), &mut pages);
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    assert!(pages.len() > 5);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !heading.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let found = there
                    .lines()
                    .filter(|l| l.starts_with('#'))
                    .any(|l| slug(l.trim_start_matches('#')) == heading);
                assert!(found, "{}: {link}: there is no such heading", page.display());
            }
        }
    }
}

/// The index of decisions.md leads to each record.
#[test]
fn every_decision_is_in_the_index() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/decisions.md")).unwrap();
    let records: Vec<_> = page.lines().filter_map(|l| l.strip_prefix("### ")).collect();
    for record in &records {
        assert!(
            page.contains(&format!("](#{})", slug(record))),
            "{record} is not in the index of docs/decisions.md"
        );
    }
    assert!(records.len() > 50);
}

/// Each paragraph has one rule, in lines that fit a terminal.
#[test]
fn protocol_md_is_read_rule_by_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    for (i, line) in page.lines().enumerate() {
        assert!(line.chars().count() <= 120, "docs/protocol.md:{}: longer than 120 columns", i + 1);
    }
    for paragraph in page.split("\n\n") {
        let words = paragraph.split_whitespace().count();
        assert!(words <= 130, "a paragraph of {words} words in docs/protocol.md: {paragraph}");
    }
}

/// Collects every file below a folder.
fn below(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { below(&entry.path(), out) } else { out.push(entry.path()) }
    }
}

/// The promises that tests carry in their docs (`/// Promise: …`, to the sentence's end), by the test's name.
fn promised(source: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut lines = source.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("/// Promise: ") else { continue };
        let mut told = vec![first.to_owned()];
        for line in lines.by_ref() {
            if let Some(more) = line.strip_prefix("/// ") {
                match more.strip_prefix("Promise: ") {
                    Some(another) => told.push(another.to_owned()),
                    None => *told.last_mut().unwrap() += &format!(" {more}"),
                }
            } else if let Some(name) =
                line.trim_start_matches("async ").strip_prefix("fn ").and_then(|l| l.split('(').next())
            {
                out.extend(told.into_iter().map(|t| (t, name.to_owned())));
                break;
            }
        }
    }
    out.sort();
    out
}

/// The page's paragraphs that begin in bold: their first words, and the tests named at their ends.
fn promises(page: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for paragraph in page.split("\n\n").filter(|p| p.starts_with("**")) {
        let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let bold = text[2..].split("**").next().unwrap().to_owned();
        let tests = text
            .rsplit_once('(')
            .filter(|(_, t)| t.ends_with("`)"))
            .unwrap_or_else(|| panic!("{bold}: no test is named"))
            .1;
        out.extend(
            tests[..tests.len() - 1].split(", ").map(|t| (bold.clone(), t.trim_matches('`').to_owned())),
        );
    }
    out.sort();
    out
}

#[test]
fn semantics_md_and_the_tests_say_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = ["tests/fs_kernel.rs", "crates/store/src/file/tests.rs", "src/daemon/mounts.rs"]
        .map(|path| root.join(path))
        .to_vec();
    below(&root.join("crates/fs/src"), &mut sources);
    below(&root.join("tests/stores"), &mut sources);
    let carried: Vec<_> = sources.iter().flat_map(|p| promised(&fs::read_to_string(p).unwrap())).collect();
    let page = promises(&fs::read_to_string(root.join("docs/semantics.md")).unwrap());
    for promise in &page {
        assert!(carried.contains(promise), "no test {} says \"Promise: {}\"", promise.1, promise.0);
    }
    for promise in &carried {
        assert!(page.contains(promise), "docs/semantics.md doesn't say {:?} by {}", promise.0, promise.1);
    }
    assert!(page.len() > 10);
}
