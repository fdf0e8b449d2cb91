//! The book says what the code says: each part of docs/formats.md that names a source file holds that file's `//!`.
//!
//! After a change of a module's docs: `WRITE_DOCS=1 cargo test --test docs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // reads and writes the repository's own files

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- from ";
const END: &str = "<!-- end -->";

/// A module's docs as they stand in the book: headings one level below the section's.
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

/// The book with every named part taken from its source anew.
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
        assert!(book == wanted, "docs/formats.md is behind its sources (see tests/docs.rs): {differ:?}");
    }
}

#[test]
fn parts_are_replaced_and_the_rest_is_kept() {
    let book = "# A\n<!-- from x.rs -->\nold\n<!-- end -->\ntail\n";
    let source = |_: &str| "//! New.\n//!\n//! # Bytes\nuse x;\n//! not this\n".to_owned();
    let wanted = "# A\n<!-- from x.rs -->\nNew.\n\n### Bytes\n<!-- end -->\ntail\n";
    assert_eq!(rewritten(book, source), wanted);
    assert_eq!(rewritten(wanted, source), wanted);
}

/// Every link of the book to a file leads to one.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    assert!(pages.len() > 5);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !link.contains("://") {
                assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}
