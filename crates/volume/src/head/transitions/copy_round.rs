//! The rounds in which a copy is brought up to date (protocol.md §4.10, model `copy`).

use crate::head::head_value::{CopyRound, Head, Move};
use windlass_base::{Epoch, Nonce, Result};

impl Head {
    /// Begins a round, before the owner writes the first block of what the copy does not have. A round that
    /// was cut off is followed by another, which keeps the first one's `since_ms`.
    pub fn begin_round(&self, epoch: Epoch, snapshot: Nonce, now_ms: u64) -> Result<Move> {
        self.owned(epoch)?;
        match self.round {
            Some(round) if round.snapshot == snapshot => Ok(Move::Already),
            before => {
                let since_ms = before.map_or(now_ms, |before| before.since_ms);
                self.with(|h| h.round = Some(CopyRound { snapshot, since_ms }))
            }
        }
    }

    /// Ends the round: the copy has that snapshot, and shows it. Any host that has found so may make this
    /// change.
    pub fn end_round(&self, snapshot: Nonce) -> Result<Move> {
        self.gone()?;
        match self.round {
            Some(round) if round.snapshot == snapshot => self.with(|h| h.round = None),
            _ => Ok(Move::Already),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Back;
    use super::super::heads_for_tests::{owned, to};
    use super::*;
    use crate::head::head_value::Checkpoint;
    use windlass_base::{Kind, StateId};

    #[test]
    fn a_round_ends_with_its_snapshot_or_a_rollback() {
        let head = owned();
        let epoch = head.active.epoch;
        assert!(head.begin_round(Epoch(epoch.0 + 1), Nonce(5), 100).unwrap_err().is(Kind::Fenced));
        let begun = to(head.begin_round(epoch, Nonce(5), 100));
        assert_eq!(begun.round, Some(CopyRound { snapshot: Nonce(5), since_ms: 100 }));
        assert_eq!(begun.begin_round(epoch, Nonce(5), 900).unwrap(), Move::Already);
        let next = to(begun.begin_round(epoch, Nonce(6), 900));
        assert_eq!(
            next.round,
            Some(CopyRound { snapshot: Nonce(6), since_ms: 100 }),
            "it was never whole since"
        );
        assert_eq!(next.end_round(Nonce(5)).unwrap(), Move::Already, "an earlier one");
        assert_eq!(to(next.end_round(Nonce(6))), head);
        let new = Checkpoint { nonce: Nonce(8), ..Checkpoint::default() };
        assert!(to(next.checkpoint(epoch, &new, &[], None)).round.is_some());
        let back = Back { to: StateId(1), size: 512 };
        assert!(to(next.checkpoint(epoch, &new, &[], Some(back))).round.is_none());
    }

    #[test]
    fn golden_bytes_and_a_format_that_older_versions_refuse() {
        let head = owned();
        let begun = to(head.begin_round(head.active.epoch, Nonce(5), 100));
        let bytes = begun.encode().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with(r#"{"format":7,"#), "{text}");
        let round = r#""round":{"snapshot":"00000000000000000000000000000005","since_ms":100}"#;
        assert!(text.contains(round), "{text}");
        assert_eq!(Head::decode(&bytes).unwrap(), begun);
        let ended = to(begun.end_round(Nonce(5)));
        assert!(!String::from_utf8(ended.encode().unwrap().into()).unwrap().contains("round"));
    }
}
