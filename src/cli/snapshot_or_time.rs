//! `POOL/VOLUME@…`: a snapshot by its name, or the newest one that is not after a time.

use std::str::FromStr;

use super::{Global, reach_engine};
use crate::daemon::api::{SnapshotPath, Verb, VolumePath};
use windlass_base::{Error, Result, utc};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Moment {
    Snapshot(SnapshotPath),
    At { path: VolumePath, at_ms: u64 },
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Moment> {
        // A name has no capital letters.
        let time = text.split_once('@').and_then(|(path, time)| Some((path, utc::read(time)?)));
        match time {
            Some((path, at_ms)) => Ok(Moment::At { path: path.parse()?, at_ms }),
            None => text.parse().map(Moment::Snapshot),
        }
    }
}

impl Moment {
    pub async fn find(self, global: &Global) -> Result<SnapshotPath> {
        match self {
            Moment::Snapshot(path) => Ok(path),
            Moment::At { path, at_ms } => {
                reach_engine::ask(global, Verb::SnapshotAt { path, at_ms }).await?.answer()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_told_apart() {
        let at = |text: &str| match text.parse::<Moment>().unwrap() {
            Moment::At { path, at_ms } => (path.to_string(), utc::show(at_ms)),
            Moment::Snapshot(path) => (path.to_string(), String::new()),
        };
        let time = ("p/v".to_owned(), "2026-11-24T07:15:00Z".to_owned());
        for text in ["p/v@2026-11-24T07:15", "p/v@2026-11-24T07:15Z", "p/v@2026-11-24T07:15:00"] {
            assert_eq!(at(text), time);
        }
        assert_eq!(at("p/v@2026-11-24"), ("p/v@2026-11-24".to_owned(), String::new()));
        for bad in ["p/v@2026-13-24T07:15", "p@2026-11-24T07:15", "p/v@2026-11-24T7:15"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
