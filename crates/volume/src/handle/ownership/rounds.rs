//! A copy in the middle of a round, or whose last round was cut off: it is shown to no client (protocol.md §4.10).

use crate::head::CopyRound;
use crate::space::Tables;
use windlass_base::{Error, Kind, Nonce, Result, utc};

/// Returns the snapshot that the round was to bring, where the copy has it: only the round's end was cut off.
///
/// # Errors
/// `Refused`: what the copy shows is no state that ever was.
pub fn whole(round: CopyRound, tables: &Tables, title: &str) -> Result<Nonce> {
    if tables.copy_of(round.snapshot).is_some() {
        return Ok(round.snapshot);
    }
    let cure = match tables.snapshots().max_by_key(|(_, state)| state.id) {
        Some((newest, _)) => format!(
            "`windlass volume rollback {title}@{newest}` makes it the newest whole state that it has; copying again ends the \
             round"
        ),
        None => "it never was whole: copy again, or remove it".to_owned(),
    };
    let why = format!(
        "volume {title} is a copy, and bringing it up to date was cut off (begun {}): what it shows now was on no disk. {cure}",
        utc::show(round.since_ms)
    );
    Err(Error::new(Kind::Refused, why))
}
