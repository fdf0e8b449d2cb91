//! What keeps snapshots from removal: which of them may have clones, and until when they are locked (protocol.md §4.4 and §4.9,
//! models `pin` and `lock`).
//!
//! A lock is an entry that forbids the removal of its snapshot, and of the volume, whatever time it is. One that is over is
//! dropped first, by a change of its own, for which the caller has asked more than one clock. So no other change of a head
//! looks at a clock.

use crate::head::head_value::{Head, Move, NEW_HEAD_MAX};
use crate::head::holds::{Cloned, LOCKS_MAX};
use windlass_base::{Error, Kind, Result, StateId, utc};

impl Head {
    /// Marks the snapshot as one that may have clones: from now on it is removed only behind a gate, and so
    /// is the volume.
    pub fn set_cloned(&self, snapshot: StateId) -> Result<Move> {
        self.gone()?;
        if self.cloned.has(snapshot) { Ok(Move::Already) } else { self.with(|h| h.cloned.add(snapshot)) }
    }

    /// Marks every snapshot as one that may have clones. This follows a guess, which may have lost the mark
    /// of a snapshot whose pin is there.
    pub fn doubt_cloned(&self) -> Result<Move> {
        match self.cloned {
            Cloned::Any => Ok(Move::Already),
            Cloned::Of(_) => self.with(|h| h.cloned = Cloned::Any),
        }
    }

    /// Tells whether any of the volume's snapshots may have clones.
    pub fn was_cloned(&self) -> bool {
        !self.cloned.none()
    }

    /// Locks the snapshot, so that nobody removes it before `until_ms`. Any host may make this change.
    /// Whoever sets a lock looks afterwards whether the snapshot is still there. `now_ms`: the earliest of
    /// the clocks that were asked.
    ///
    /// # Errors
    /// `Refused`: the lock would become shorter, the volume has too many locks, or the head has no room for
    /// another.
    pub fn set_lock(&self, snapshot: StateId, until_ms: u64, now_ms: u64) -> Result<Move> {
        self.gone()?;
        self.naming.check_here(self.moved.as_ref())?;
        if let Some(until) = self.locks.until(snapshot).filter(|until| *until >= until_ms) {
            if until == until_ms {
                return Ok(Move::Already);
            }
            let why =
                format!("it is locked until {} already, and a lock is never shortened", utc::show(until));
            return Err(Error::new(Kind::Refused, why));
        }
        let locked = self.with(|h| {
            h.locks.end(now_ms);
            h.locks.set(snapshot, until_ms);
        })?;
        match &locked {
            Move::To(head) if head.locks.count() > LOCKS_MAX => {
                let why = format!("{LOCKS_MAX} snapshots of the volume are locked, which is the most");
                Err(Error::new(Kind::Refused, why))
            }
            Move::To(head) if head.encode()?.len() > NEW_HEAD_MAX => {
                Err(Error::new(Kind::Refused, "the volume's description has no room for a lock"))
            }
            _ => Ok(locked),
        }
    }

    /// Drops the locks that are over. `now_ms`: the earliest of the clocks that were asked.
    pub fn end_locks(&self, now_ms: u64) -> Result<Move> {
        match self.locks.any_over(now_ms) {
            true => self.with(|h| h.locks.end(now_ms)),
            false => Ok(Move::Already),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::heads_for_tests::{OWNED, owned, to};
    use super::super::removal::Removal;
    use super::*;
    use crate::head::head_value::Checkpoint;
    use crate::head::name_and_move::{Leaving, Moved};
    use windlass_base::{Lsn, Name, Nonce, Seq, VolumeId};

    /// Tells whether the snapshot can be removed, and whether the volume can.
    fn removable(head: &Head, state: u64) -> (bool, bool) {
        let new = Checkpoint { position: Seq(1), top: Seq(1), nonce: Nonce(9), ..Checkpoint::default() };
        let removes = [Removal { state: StateId(state), gate: Nonce(0) }];
        let refused = |done: Result<Move>| done.map_err(|e| assert!(e.is(Kind::Refused), "{e}")).is_ok();
        let snapshot = refused(head.checkpoint(OWNED, &new, &removes, None));
        (snapshot, refused(head.remove(&BTreeSet::from([OWNED]), Nonce(0))))
    }

    #[test]
    fn a_locked_snapshot_and_its_volume_are_removed_by_no_change_of_the_head() {
        let (head, name): (Head, Name) = (owned(), "v".parse().unwrap());
        assert_eq!(removable(&head, 3), (true, true));
        let locked = to(head.set_lock(StateId(3), 5_000, 1_000));
        assert_eq!((removable(&locked, 3), removable(&locked, 4)), ((false, false), (true, false)));
        let moved = Moved { pool: "q".parse().unwrap(), volume: VolumeId(8), name: name.clone(), at_ms: 1 };
        let (settings, naming) = (locked.settings, locked.naming.clone());
        let left = Leaving { to: moved, size: 1 << 30, settings, naming, last: Lsn(0) };
        assert!(locked.leave(OWNED, &left).unwrap_err().is(Kind::Refused));
        // Into the trash neither, by whom it is released.
        let free = to(locked.release(OWNED));
        assert!(free.rename(&name.in_trash(5), 0).unwrap_err().is(Kind::Refused));
        assert_eq!(to(free.rename(&name, 0)).locks, locked.locks, "another name is none of its business");
        let gone = to(to(head.release(OWNED)).rename(&name.in_trash(5), 0));
        assert!(
            gone.set_lock(StateId(3), 5_000, 1_000).unwrap_err().is(Kind::Removed),
            "it would be removed"
        );
        assert!(to(head.leave(OWNED, &left)).set_lock(StateId(3), 5_000, 0).unwrap_err().is(Kind::Removed));
    }

    #[test]
    fn a_lock_is_made_longer_and_never_shorter() {
        let locked = to(owned().set_lock(StateId(3), 5_000, 1_000));
        assert_eq!(locked.set_lock(StateId(3), 5_000, 1_000).unwrap(), Move::Already);
        let shorter = locked.set_lock(StateId(3), 4_999, 1_000).unwrap_err();
        assert!(shorter.is(Kind::Refused) && shorter.to_string().contains("never shortened"), "{shorter}");
        let longer = to(locked.set_lock(StateId(3), 6_000, 1_000));
        assert_eq!(longer.locks.until(StateId(3)), Some(6_000));
        assert_eq!((longer.locks.any_over(5_999), longer.locks.any_over(6_000)), (false, true));
    }

    #[test]
    fn only_what_is_over_is_dropped_and_by_a_change_of_its_own() {
        let two = to(to(owned().set_lock(StateId(3), 5_000, 1_000)).set_lock(StateId(4), 9_000, 1_000));
        assert_eq!(two.end_locks(4_999).unwrap(), Move::Already);
        let one = to(two.end_locks(5_000));
        assert_eq!((removable(&one, 3), removable(&one, 4)), ((true, false), (false, false)));
        let none = to(one.end_locks(9_000));
        assert_eq!(removable(&none, 4), (true, true));
        // One that is set drops what is over, too, and a snapshot that goes takes its entry along.
        let new = Checkpoint { position: Seq(1), top: Seq(1), nonce: Nonce(9), ..Checkpoint::default() };
        let removes = [Removal { state: StateId(3), gate: Nonce(0) }];
        assert_eq!(to(one.checkpoint(OWNED, &new, &removes, None)).locks, one.locks);
        assert_eq!(to(two.set_lock(StateId(5), 9_000, 6_000)).locks.until(StateId(3)), None);
    }

    #[test]
    fn golden_bytes_and_a_format_that_older_versions_refuse() {
        let head = owned();
        let locked = to(to(head.set_lock(StateId(3), 5_000, 1_000)).set_lock(StateId(12), 9_000, 1_000));
        let bytes = locked.encode().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with(r#"{"format":5,"#), "{text}");
        assert!(text.contains(r#""locks":{"3":5000,"12":9000}"#), "{text}");
        assert_eq!(Head::decode(&bytes).unwrap(), locked);
        let none = to(locked.end_locks(9_000));
        assert_eq!(none, head, "without locks it is as it was, its format too");
        assert!(!String::from_utf8(none.encode().unwrap().into()).unwrap().contains("locks"));
    }

    #[test]
    fn locks_take_bounded_room() {
        let many = (1..=LOCKS_MAX as u64)
            .fold(owned(), |head, id| to(head.set_lock(StateId(id), u64::MAX / 2 + id, 1_000)));
        assert!(many.encode().unwrap().len() < 24 << 10);
        assert!(many.set_lock(StateId(9_999), 9_999, 1_000).unwrap_err().is(Kind::Refused));
        to(many.set_lock(StateId(1), u64::MAX, 1_000));
    }
}
