//! One thing that was looked at, and what was found.

use serde::{Deserialize, Serialize};

/// Outcomes of a check, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// The check could not be made; `found` says why.
    Unknown,
    /// The thing works, and will hurt one day.
    Warn,
    Bad,
}

/// A check and its outcome, see the module. Field names are a contract with scripts (docs/reference.md).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// The store, pool, folder or file that was looked at, where there are several of its kind.
    pub of: Option<String>,
    pub state: State,
    pub found: String,
    /// The way to mend it, in a sentence.
    pub cure: Option<String>,
}

impl Check {
    fn new(name: &str, state: State, found: impl Into<String>, cure: Option<String>) -> Check {
        Check { name: name.to_owned(), of: None, state, found: found.into(), cure }
    }

    pub fn ok(name: &str, found: impl Into<String>) -> Check {
        Check::new(name, State::Ok, found, None)
    }

    pub fn unknown(name: &str, found: impl Into<String>) -> Check {
        Check::new(name, State::Unknown, found, None)
    }

    pub fn warn(name: &str, found: impl Into<String>, cure: impl Into<String>) -> Check {
        Check::new(name, State::Warn, found, Some(cure.into()))
    }

    pub fn bad(name: &str, found: impl Into<String>, cure: impl Into<String>) -> Check {
        Check::new(name, State::Bad, found, Some(cure.into()))
    }

    #[must_use]
    pub fn of(mut self, what: impl Into<String>) -> Check {
        self.of = Some(what.into());
        self
    }

    pub fn needs_attention(&self) -> bool {
        self.state >= State::Warn
    }
}
