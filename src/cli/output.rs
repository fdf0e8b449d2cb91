//! How results are printed: JSON for programs, aligned columns and sentences for people.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;

use super::Global;
use crate::base::{Error, Kind, Result};
use crate::daemon::api::Outcome;

/// Why something that was to be printed is not.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints to stdout. A reader that went away (`| head`) is no error of ours; others are told at the end, by `all_out`.
pub fn line(text: &str) {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => drop(LOST.set(error.to_string())),
        _ => {}
    }
}

/// Whether all that was printed went out, as onto a disk that is full it does not. Lines are not held back, so there is nothing
/// to flush: that would wait for whoever writes an image to a pipe that nobody reads.
pub fn all_out() -> Result<()> {
    match LOST.get() {
        Some(why) => {
            Err(Error::new(Kind::Io, format!("writing to stdout: {why}; what was printed is cut short")))
        }
        None => Ok(()),
    }
}

/// The result as JSON when asked for, else its notes.
pub fn notes(global: &Global, outcome: &Outcome) {
    match global.json {
        true => line(&outcome.value.to_string()),
        false => outcome.notes.iter().for_each(|note| line(note)),
    }
}

/// The same, with the answer through `human` before the notes.
pub fn report<T: DeserializeOwned>(global: &Global, outcome: &Outcome, human: impl FnOnce(T)) -> Result<()> {
    if !global.json {
        human(outcome.answer()?);
    }
    notes(global, outcome);
    Ok(())
}

/// Rows under a heading, columns aligned.
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

/// The same where there are rows: one of several tables.
pub fn table_if_any(heading: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        table(heading, rows);
    }
}

/// What may be missing, as text: `-` then.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
