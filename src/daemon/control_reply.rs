//! Replies as they are sent on the control socket, by its own protocol and by HTTP.

use super::api::{ANSWER_MAX, Reply};
use windlass_base::{Error, Kind, Result};

/// Returns a reply as it is sent, with its end of line.
pub fn line_of(reply: &Reply) -> Result<Vec<u8>> {
    let encode = |reply: &Reply| {
        let mut line = serde_json::to_vec(reply).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        line.push(b'\n');
        Ok::<_, Error>(line)
    };
    let mut line = encode(reply)?;
    if line.len() > ANSWER_MAX {
        let why = format!(
            "it was done, but its answer of {} MiB is longer than the {} MiB that a command reads: ask for less at a time",
            line.len() >> 20,
            ANSWER_MAX >> 20
        );
        line = encode(&failure(&Error::new(Kind::Unsupported, why)))?;
    }
    Ok(line)
}

/// Returns the reply that tells an error.
pub fn failure(error: &Error) -> Reply {
    Reply::Error { kind: error.kind(), message: error.to_string() }
}
