//! What was tried of a store, and what came of it, as values: for the sentence that refuses a store, and for whoever
//! wants the whole of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use windlass_base::{Error, Kind, Result};

/// How a store keeps the conditions of writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionalPuts {
    /// For one writer after another, and for many at the same moment.
    #[default]
    Held,
    /// For one after another only.
    Racing,
    /// It refuses such writes, or ignores their conditions.
    None,
}

impl ConditionalPuts {
    pub fn are_held(&self) -> bool {
        *self == ConditionalPuts::Held
    }
}

/// What pools stand on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promise {
    /// A write that asks for no object to be there is done by one of all who ask.
    Creates,
    /// A write that names the object's version is done by one of all who name it.
    Replaces,
    /// A write that names an earlier version is done by nobody.
    RefusesStale,
    /// A write that names a version is done by nobody where no object is.
    RefusesMissing,
    /// Two contents have two etags, also of one size and within one second.
    Etags,
    /// A read shows the write that was acknowledged before it.
    Reads,
    /// A read of a part gives that part.
    Ranges,
    /// An object is described as it was written.
    Describes,
}

impl Promise {
    /// Behind it come those that only registers need.
    pub const LAST_OF_DATA: Promise = Promise::Describes;

    /// Each of them: those first that hold for data too, and of these that cost least to find broken.
    pub const ALL: [Promise; 8] = [
        Promise::Reads,
        Promise::Ranges,
        Promise::Describes,
        Promise::Etags,
        Promise::Creates,
        Promise::Replaces,
        Promise::RefusesStale,
        Promise::RefusesMissing,
    ];

    /// Whether it is tried by many writers at once.
    pub fn is_contended(self) -> bool {
        matches!(self, Promise::Creates | Promise::Replaces | Promise::RefusesStale | Promise::RefusesMissing)
    }

    /// Whether a store without it can hold data: only registers need conditions, and etags by which they are named.
    pub fn is_condition(self) -> bool {
        self.is_contended() || self == Promise::Etags
    }

    /// What its writers ask for, after "writers that …".
    fn asked(self) -> &'static str {
        match self {
            Promise::Creates => "each asked for no object to be there",
            Promise::Replaces => "each named the same version of an object",
            Promise::RefusesStale => "each named an earlier version of an object",
            Promise::RefusesMissing => "each named a version of an object that is not there",
            Promise::Etags | Promise::Reads | Promise::Ranges | Promise::Describes => "asked for the same",
        }
    }
}

/// What a trial has shown.
#[derive(Debug)]
pub enum Verdict {
    Held,
    /// It holds for one writer alone; in this round so many of those at the same moment were told that they had stored.
    Raced {
        round: usize,
        winners: usize,
    },
    /// It doesn't hold for one writer alone, or what is there is nobody's write; how, as a sentence about the store.
    Broken(&'static str),
    /// The store takes no such request, or refuses what it should do.
    Refused(Error),
    /// Nobody can tell: too few answers.
    Untold(Error),
}

/// One promise, tried.
#[derive(Debug)]
pub struct Tried {
    pub promise: Promise,
    /// At the same moment, in the last round; one where it is tried alone.
    pub writers: usize,
    /// Rounds of all writers that told something.
    pub rounds: usize,
    pub verdict: Verdict,
}

/// What a store was seen to keep.
#[derive(Debug)]
pub struct Proof {
    pub url: String,
    /// The addresses of its server's name by which the writers came. Empty: it has but one way.
    pub addresses: Vec<IpAddr>,
    /// Other addresses, which did not answer.
    pub silent: Vec<IpAddr>,
    pub tried: Vec<Tried>,
}

impl Proof {
    /// Whether a pool can stand on it.
    ///
    /// # Errors
    /// `Refused`, with the store's name: it breaks a promise, or takes no such request. Others: that can't be told.
    pub fn verdict(&self) -> Result<()> {
        self.verdict_of(|_| true)
    }

    /// Whether data can be kept there: conditions aside.
    ///
    /// # Errors
    /// As `verdict`.
    pub fn data_verdict(&self) -> Result<()> {
        self.verdict_of(|promise| !promise.is_condition())
    }

    fn verdict_of(&self, counts: impl Fn(Promise) -> bool) -> Result<()> {
        for tried in self.tried.iter().filter(|tried| counts(tried.promise)) {
            match &tried.verdict {
                Verdict::Held => {}
                Verdict::Raced { round, winners } => {
                    return Err(self.broken(&self.race(tried, *round, *winners)));
                }
                Verdict::Broken(how) => return Err(self.broken(how)),
                Verdict::Refused(e) => return Err(self.broken(&e.to_string())),
                Verdict::Untold(e) => {
                    return Err(e.share().context(format!("checking what {} promises", self.url)));
                }
            }
        }
        Ok(())
    }

    /// How it keeps the conditions of writes, by what was tried. A promise that was not tried counts as kept: who asks tries all
    /// until one is broken.
    ///
    /// # Errors
    /// What a condition does can't be told.
    pub fn conditions(&self) -> Result<ConditionalPuts> {
        let of = |tried: &Tried| match &tried.verdict {
            Verdict::Held => Ok(ConditionalPuts::Held),
            Verdict::Raced { .. } => Ok(ConditionalPuts::Racing),
            // One writer after another is answered rightly.
            Verdict::Broken(_) if tried.writers > 1 => Ok(ConditionalPuts::Racing),
            Verdict::Broken(_) | Verdict::Refused(_) => Ok(ConditionalPuts::None),
            Verdict::Untold(e) => Err(e.share().context(format!("checking what {} promises", self.url))),
        };
        let all = self.tried.iter().filter(|tried| tried.promise.is_condition()).map(of);
        all.collect::<Result<Vec<_>>>().map(|all| all.into_iter().max().unwrap_or_default())
    }

    /// Tells whether several writers were told that they had won: no answer that was lost or sent twice explains it.
    pub fn has_raced(&self) -> bool {
        self.tried.iter().any(|tried| matches!(tried.verdict, Verdict::Raced { winners: 2.., .. }))
    }

    fn race(&self, tried: &Tried, round: usize, winners: usize) -> String {
        let over = match self.addresses.len() {
            0 | 1 => String::new(),
            n => format!(" over its {n} addresses"),
        };
        format!(
            "its conditional writes race: of {} writers at the same moment{over} that {}, {winners} were told that they had \
             stored (round {round})",
            tried.writers,
            tried.promise.asked()
        )
    }

    fn broken(&self, how: &str) -> Error {
        let why = format!(
            "{} can't be used: {how}; choose a store that keeps what S3 promises, conditional writes above all",
            self.url
        );
        Error::new(Kind::Refused, why)
    }
}
