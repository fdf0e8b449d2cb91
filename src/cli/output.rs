//! How results are printed: JSON for programs, aligned columns and sentences for people.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde_json::json;

use super::Global;
use crate::daemon::api::Outcome;
use windlass_base::{Error, Kind, Result};

/// The reason why some text could not be printed to stdout.
static LOST: OnceLock<String> = OnceLock::new();

/// True if errors are printed as JSON, since `--json` was given.
static ERRORS_AS_JSON: AtomicBool = AtomicBool::new(false);

/// Sets the form in which errors are printed to stderr from now on.
pub fn errors_as_json(yes: bool) {
    ERRORS_AS_JSON.store(yes, Ordering::Relaxed);
}

/// Prints to stderr why a command failed.
pub fn failure(error: &Error) {
    eprintln!("{}", said(error, ERRORS_AS_JSON.load(Ordering::Relaxed)));
}

/// Formats an error: as a line for people, or as an object for programs, as the HTTP API has it.
fn said(error: &Error, as_json: bool) -> String {
    match as_json {
        true => json!({"kind": error.kind(), "message": error.to_string()}).to_string(),
        false => format!("windlass: {error}"),
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no error of ours; others are told at the end, by `all_out`.
pub fn line(text: &str) {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => drop(LOST.set(error.to_string())),
        _ => {}
    }
}

/// Returns an error if some of what was printed did not go out, as onto a disk that is full. Lines are not
/// held back, so there is nothing to flush: a flush would wait for whoever writes an image to a pipe that
/// nobody reads.
pub fn all_out() -> Result<()> {
    match LOST.get() {
        Some(why) => {
            Err(Error::new(Kind::Io, format!("writing to stdout: {why}; what was printed is cut short")))
        }
        None => Ok(()),
    }
}

/// Prints the result as JSON when asked for, else its notes.
pub fn notes(global: &Global, outcome: &Outcome) {
    match global.json {
        true => line(&outcome.value.to_string()),
        false => outcome.notes.iter().for_each(|note| line(note)),
    }
}

/// Prints the result as JSON when asked for, else the answer by `human`, and then the notes.
pub fn report<T: DeserializeOwned>(global: &Global, outcome: &Outcome, human: impl FnOnce(T)) -> Result<()> {
    if !global.json {
        human(outcome.answer()?);
    }
    notes(global, outcome);
    Ok(())
}

/// Prints rows under a heading, with aligned columns.
pub fn table(heading: &[&str], rows: Vec<Vec<String>>) {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    print(heading.to_vec());
    for row in &rows {
        print(row.iter().map(String::as_str).collect());
    }
}

/// Prints a table unless it has no rows, where it is one of several tables.
pub fn table_if_any(heading: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        table(heading, rows);
    }
}

/// Returns the value as text, or `-` where there is none.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Breaks the text at spaces into lines of this width; all but the first begin with `inset` spaces. A word
/// that is longer than a line stays whole.
pub fn wrapped(text: &str, width: usize, inset: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(inset)));
        } else if !line.trim().is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        assert_eq!(wrapped("one two three", 7, 2), ["one two", "  three"]);
        assert_eq!(wrapped("longer-than-it a", 4, 2), ["longer-than-it", "  a"]);
        assert_eq!(wrapped("one two three", 7, 0), ["one two", "three"]);
        assert_eq!(wrapped("", 4, 2), [""]);
    }

    #[test]
    fn programs_get_an_error_as_an_object() {
        let error = Error::new(Kind::NotFound, "there is no volume \"tank/x\"\nnor another");
        let told: serde_json::Value = serde_json::from_str(&said(&error, true)).unwrap();
        assert_eq!(
            told,
            json!({"kind": "not_found", "message": "there is no volume \"tank/x\"\nnor another"})
        );
        assert!(!said(&error, true).contains('\n'), "one line");
        assert!(said(&error, false).starts_with("windlass: there is no volume"));
    }
}
