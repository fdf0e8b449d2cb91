//! What a process is told when an operation fails: one errno per kind of error, and the error itself for the log.

pub use rustix::io::Errno;

use windlass_base::{Error, Kind};

/// A failed operation. `why` is absent where the errno is the plain answer (`ENOENT` for a missing name).
#[derive(Debug)]
pub struct Fail {
    pub errno: Errno,
    pub why: Option<Error>,
}

pub type Op<T> = Result<T, Fail>;

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Fail {
        Fail { errno, why: None }
    }
}

impl From<Error> for Fail {
    fn from(why: Error) -> Fail {
        Fail { errno: errno_of(why.kind()), why: Some(why) }
    }
}

/// Returns the errno that docs/semantics.md names for each kind of error.
fn errno_of(kind: Kind) -> Errno {
    match kind {
        Kind::Invalid => Errno::INVAL,
        Kind::NotFound => Errno::NOENT,
        Kind::Exists => Errno::EXIST,
        Kind::Owned | Kind::Throttled => Errno::BUSY,
        // Another client changed the object: the file that was opened is not there any more.
        Kind::Refused | Kind::Fenced | Kind::Removed => Errno::STALE,
        Kind::Timeout => Errno::TIMEDOUT,
        Kind::Denied => Errno::ACCESS,
        // As s3fs has it: the bytes are elsewhere, whatever the rights to them.
        Kind::Archived => Errno::REMOTE,
        Kind::NoSpace => Errno::NOSPC,
        Kind::ReadOnly => Errno::ROFS,
        Kind::Unsupported => Errno::OPNOTSUPP,
        Kind::Closed => Errno::NOTCONN,
        // A wrong region or address is the mount's fault: no program has asked wrongly.
        Kind::Usage => Errno::IO,
        Kind::Unavailable | Kind::Corrupt | Kind::Io | Kind::Internal => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_readable_errnos() {
        let fail = |kind| Fail::from(Error::new(kind, "x")).errno;
        assert_eq!(fail(Kind::Timeout), Errno::TIMEDOUT);
        assert_eq!(fail(Kind::Refused), Errno::STALE);
        assert_eq!(fail(Kind::Denied), Errno::ACCESS);
        assert_eq!(fail(Kind::Unavailable), Errno::IO);
        assert_eq!(fail(Kind::Usage), Errno::IO);
        assert!(Fail::from(Errno::NOENT).why.is_none());
    }
}
