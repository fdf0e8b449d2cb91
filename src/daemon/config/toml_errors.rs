//! What is no TOML, told by key and with a cure; the parser's own words where they say it best.

use toml::de::Error;

use super::section_macro::Findings;

/// Longest piece of the file that a message repeats, in characters.
const SHOWN: usize = 60;

/// Adds what the parser found. Returns true if a section's heading can't be read.
pub fn tell(findings: &mut Findings<'_>, text: &str, errors: &[Error]) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let mut broken = false;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = findings.line(span.start).min(lines.len().max(1));
        let here = lines.get(line - 1).map_or("", |l| l.trim());
        broken |= here.starts_with('[');
        let value = text.get(span).unwrap_or_default();
        findings.add(line, key_at(&lines, line), cure(error.message(), here, value));
    }
    broken
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect::<String>().escape_debug().to_string()
}

/// Returns the key on a line, as far as it can be told, behind the section above it.
fn key_at(lines: &[&str], line: usize) -> String {
    let above = || lines[..line.min(lines.len())].iter().rev().map(|l| l.trim());
    let here = above().find(|l| !l.is_empty()).unwrap_or_default();
    let heading = |l: &str| shown(l.split('#').next().unwrap_or(l).trim().trim_matches(['[', ']']));
    if here.starts_with('[') {
        return heading(here);
    }
    let name = shown(here.split('=').next().unwrap_or(here).trim());
    match above().find(|l| l.starts_with('[')) {
        Some(section) => format!("{}.{name}", heading(section)),
        None => name,
    }
}

fn cure(message: &str, here: &str, value: &str) -> String {
    let key = shown(here.split('=').next().unwrap_or(here).trim());
    let begins = |with: &str| message.starts_with(with);
    if begins("string values must be quoted") {
        return match value.to_lowercase().as_str() {
            "" => format!("has no value: write {key} = VALUE, or remove the line"),
            "yes" | "on" | "true" => format!("{value} is no value: write {key} = true"),
            "no" | "off" | "false" => format!("{value} is no value: write {key} = false"),
            _ => format!(
                "a text needs quotes: write {key} = \"{}\"",
                shown(value.trim_matches(['“', '”', '\'']))
            ),
        };
    }
    let hint = match message {
        _ if begins("invalid boolean") => "write true or false in small letters",
        _ if begins("duplicate key") => return "stands here a second time: keep one of the two".to_owned(),
        _ if begins("key with no value") => "write KEY = VALUE",
        _ if begins("unclosed table") => "end the section's heading with ]",
        _ if begins("unclosed array") => "end the list with ]",
        _ if begins("missing comma") => "put a comma between the elements of the list",
        _ if begins("invalid basic string") || begins("invalid literal string") => {
            "end the text with a quote like its first"
        }
        _ if begins("unexpected key or value") => "write each key on a line of its own",
        _ if begins("invalid unquoted key") => "put the name in quotes, as in [mount.\"/mnt/data\"]",
        _ if begins("unquoted keys cannot be empty") => "write a name there",
        _ if begins("missing escaped value") => "write \\\\ for a backslash, or the text in single quotes",
        _ if begins("unexpected leading zero") => "write the number without zeros in front",
        _ => "write KEY = VALUE with texts in quotes, and sections as [NAME]",
    };
    let message: String = message.lines().collect::<Vec<_>>().join(", ");
    format!("{message}: {hint}")
}
