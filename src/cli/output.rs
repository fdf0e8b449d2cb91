//! How results are printed: JSON for programs, aligned columns and sentences for people.

use std::io::Write as _;

use serde_json::Value;

use super::Global;
use crate::base::size::{show_bytes, show_size, show_time};
use crate::daemon::api::Outcome;

/// Prints to stdout; a reader that went away (`| head`) is no error of ours.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The result as JSON when asked for, else through `human`; notes follow.
pub fn report(global: &Global, outcome: &Outcome, human: impl FnOnce(&Value)) {
    if global.json {
        line(&outcome.value.to_string());
        return;
    }
    human(&outcome.value);
    for note in &outcome.notes {
        line(note);
    }
}

/// Rows under a heading, columns aligned.
pub fn table(heading: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    print(heading.to_vec());
    for row in rows {
        print(row.iter().map(String::as_str).collect());
    }
}

/// A field as text; missing ones as `-`.
pub fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}

/// A field as its name says: sizes, times and moments for people.
pub fn field(value: &Value, field: &str) -> String {
    let moment = ["created_ms", "owner_since_ms"].contains(&field);
    match value[field].as_u64() {
        Some(ms) if moment => crate::base::clock::show(ms),
        Some(ms) if field.ends_with("_ms") => show_time(ms),
        Some(bytes) if field == "size" || field == "journal_size" => show_size(bytes),
        Some(bytes) if field.ends_with("_bytes") => show_bytes(bytes),
        _ => text(value, field),
    }
}

/// A field that lists names.
pub fn names(value: &Value, field: &str) -> String {
    let all = value[field].as_array().into_iter().flatten();
    let all: Vec<&str> = all.filter_map(Value::as_str).collect();
    if all.is_empty() { "-".into() } else { all.join(", ") }
}

/// A field of bytes, exact.
pub fn size(value: &Value, field: &str) -> String {
    value[field].as_u64().map_or_else(|| "-".into(), show_size)
}

/// A field of bytes, for people.
pub fn bytes(value: &Value, field: &str) -> String {
    value[field].as_u64().map_or_else(|| "-".into(), show_bytes)
}

/// A listing's elements, each through `row`.
pub fn rows(value: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    value.as_array().map(|all| all.iter().map(row).collect()).unwrap_or_default()
}
