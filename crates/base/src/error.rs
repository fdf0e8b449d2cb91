//! One error type for all layers: a kind that code can match on, a sentence for the user, the cause.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kinds of errors, by what a caller can do about them. Faces map kinds to errno, NBD codes and exit codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line or an option is wrong.
    Usage,
    /// Input bytes (protocol, configuration, a foreign object) break their format.
    Invalid,
    NotFound,
    Exists,
    /// The thing is owned by another host, or locked by another process.
    Owned,
    /// The request would do harm; it needs force or another order of steps.
    Refused,
    /// Too few stores answer right now; trying later may help.
    Unavailable,
    Timeout,
    /// The store asks us to slow down.
    Throttled,
    /// Credentials or rights are missing.
    Denied,
    /// Another owner took over; this one must stop.
    Fenced,
    /// Stored bytes are not the bytes that were stored.
    Corrupt,
    NoSpace,
    ReadOnly,
    Unsupported,
    /// The bytes are in an archive: they must be restored before they can be read.
    Archived,
    /// A local disk or socket failed.
    Io,
    /// A snapshot or volume that was there is gone.
    Removed,
    /// This side is shutting down.
    Closed,
    /// The program has a bug.
    Internal,
}

/// An error: what happened, to what, and what the user can do, in one sentence.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), source: None }
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts a sentence on what was being done in front, and keeps kind and cause.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    /// Tells whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Timeout | Kind::Throttled)
    }

    /// Makes a second copy for another waiter of the same operation; the cause becomes text.
    #[must_use]
    pub fn share(&self) -> Self {
        Error { kind: self.kind, what: self.to_string(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(c) = cause {
            let text = c.to_string();
            if !self.what.contains(&text) {
                write!(f, ": {text}")?;
            }
            // Our own Display already walked its causes.
            cause = if c.is::<Error>() { None } else { c.source() };
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match e.kind() {
            K::NotFound => Kind::NotFound,
            K::AlreadyExists => Kind::Exists,
            K::PermissionDenied => Kind::Denied,
            K::StorageFull | K::QuotaExceeded => Kind::NoSpace,
            K::TimedOut => Kind::Timeout,
            K::WouldBlock => Kind::Owned,
            K::ReadOnlyFilesystem => Kind::ReadOnly,
            _ => Kind::Io,
        };
        Error::new(kind, e.to_string())
    }
}

/// `result.kind(Kind::Io, || "reading x")`-style sugar for foreign errors.
pub trait ResultExt<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().context(doing()))
    }
}
