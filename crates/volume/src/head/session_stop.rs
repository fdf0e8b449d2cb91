//! How operations of a session end that do not succeed.

use windlass_base::{Error, Kind};

/// The reason why an operation of a session did not succeed.
#[derive(Debug)]
pub enum Stop {
    /// The session has ended, and the volume may have another one: the caller asks there.
    Again,
    Failed(Error),
}

impl Stop {
    pub fn share(&self) -> Stop {
        match self {
            Stop::Again => Stop::Again,
            Stop::Failed(e) => Stop::Failed(e.share()),
        }
    }

    /// Returns the error for callers who can't ask again.
    pub fn error(self) -> Error {
        match self {
            Stop::Again => Error::new(Kind::Unavailable, "the volume is being opened anew: try again"),
            Stop::Failed(e) => e,
        }
    }
}

/// Adds to the error of a damaged journal how the volume can be opened without it, at the price of the last
/// writes. Other errors stay as they are. It must not be used for a journal that is to be salvaged, which
/// can't be done without.
pub fn without_journal(e: Error) -> Error {
    if !e.is(Kind::Corrupt) {
        return e;
    }
    let instead =
        "To open the volume as the pool has it, without the last writes, move the journal's folder away";
    Error::new(Kind::Corrupt, format!("{e}. {instead}"))
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}
