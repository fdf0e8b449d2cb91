//! How operations of a session end that do not succeed.

use crate::base::{Error, Kind};

/// Why an operation of a session did not succeed.
#[derive(Debug)]
pub enum Stop {
    /// The session has ended, the volume may have another one: ask there.
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

    /// For those who can't ask again.
    pub fn error(self) -> Error {
        match self {
            Stop::Again => Error::new(Kind::Unavailable, "the volume is being opened anew: try again"),
            Stop::Failed(e) => e,
        }
    }
}

/// A volume's own journal that is damaged can be done without, at a price; one that is to be salvaged can't.
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
