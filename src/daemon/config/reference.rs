//! The reference and the example, made of the declarations in `sections`.

use std::fmt::Write as _;

use super::section_macro::{Key, Preset};
use super::sections::OUTLINES;

/// Most columns that comments of the example take.
const COLUMNS: usize = 100;

/// Returns a doc comment as one paragraph.
fn sentences(about: &str) -> String {
    about.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the text with each link `[text](#place)` replaced by its `text`, for places where links lead nowhere.
fn without_links(about: &str) -> String {
    let mut out = String::new();
    let mut rest = about;
    while let Some((before, text, after)) = link(rest) {
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    out + rest
}

fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (head, tail) = text.split_once("](")?;
    let (before, text) = head.rsplit_once('[')?;
    Some((before, text, tail.split_once(')')?.1))
}

fn preset(key: &Key) -> String {
    match key.preset {
        Preset::Is(value) => format!("`{value}`"),
        Preset::Said(what) => what.to_owned(),
        Preset::Required => "must be given".to_owned(),
        Preset::None => String::new(),
    }
}

/// Returns a table for each section, in Markdown.
pub fn reference() -> String {
    let mut out = String::new();
    for outline in OUTLINES {
        let title = if outline.title.is_empty() { "Above all sections" } else { outline.title };
        let _ = write!(
            out,
            "### {title}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
            sentences(outline.about)
        );
        for key in outline.keys {
            let about = sentences(key.about);
            let _ = writeln!(out, "| `{}` | {} | {} | {about} |", key.name, key.kind, preset(key));
        }
        out.push('\n');
    }
    out
}

/// Adds a text to `out`, in lines that begin with `# `.
fn comment(out: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

/// Returns a whole windlass.toml that sets nothing: each setting stands behind a `#`, told in the lines above it.
pub fn example() -> String {
    let mut out = String::new();
    comment(
        &mut out,
        "windlass.toml: remove the # before a setting to set it. `windlass config check` looks at the file.",
    );
    for outline in OUTLINES {
        out.push('\n');
        comment(&mut out, &sentences(outline.about));
        if !outline.example.is_empty() {
            let _ = writeln!(out, "#{}", outline.example);
        }
        for key in outline.keys {
            let held = match preset(key) {
                held if held.is_empty() => String::new(),
                held if key.preset == Preset::Required => format!(" It {held}."),
                held => format!(" Default: {held}."),
            };
            comment(&mut out, &format!("{}{held}", without_links(&sentences(key.about))));
            let _ = writeln!(out, "#{} = {}", key.name, key.example);
        }
    }
    out
}
