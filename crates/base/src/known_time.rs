//! What time it is for what ages (locks, trash, a history's marks, planned work), as far as one host can know it.
//!
//! A wall clock may be wrong for a while: before the time of the network is there, by a slip of the keyboard. What is removed in
//! that while is gone. Time that passes while a process runs is measured by a clock that nobody sets. So:
//!
//! - While the wall clock goes on as measured time does, it is believed.
//! - A jump is not believed. Until the clock is back, or has stood by it for an hour, the time is the earlier of the two: the
//!   clock's, and that of before with the measured time that has passed since. So nothing ends early.
//! - A process that starts takes the time that the one before it noted for the time of before, and goes on with a jump that was
//!   noted. Where the clock is ahead of the note by no more than a week, nobody ran meanwhile: it is believed, as without a note.
//!
//! Whoever can ask other clocks does that first (`pool::Pool::time`).

use std::time::Duration;

use super::rt::Instant;

/// Milliseconds by which the clock may be set without being doubted: programs that keep clocks right set them
/// by so little.
const SET_MAX_MS: i64 = 5 * 60_000;
/// Milliseconds after the last note at which a new process still believes the clock: a host that is off notes
/// nothing.
const RESTART_MAX_MS: i64 = 7 * 24 * 3_600_000;
/// A jumped clock is believed once it has gone on evenly for this long.
const STOOD: Duration = Duration::from_secs(3600);

/// A time that was believed, and when that was by measured time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sure {
    wall_ms: u64,
    at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Jump {
    ahead_ms: i64,
    since: Instant,
    /// Time for which the clock had kept to this jump before `since`, in processes that ran before this one.
    stood: Duration,
    /// Time that the clock showed when the jump was first seen, in ms since 1970.
    first_ms: u64,
}

/// The knowledge of time that a process leaves for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noted {
    /// The time that was believed.
    pub believed_ms: u64,
    /// Time that the clock showed when a jump was seen that is not believed yet. `None`: there is no such
    /// jump.
    pub jumped_ms: Option<u64>,
}

/// The time as far as this host can know it, see the module.
#[derive(Clone, Debug)]
pub struct KnownTime {
    sure: Sure,
    jump: Option<Jump>,
}

/// Result of comparing the clock with measured time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Earliest time that it may be now, in ms since 1970, if the clock or measured time is right.
    pub earliest_ms: u64,
    /// Latest time that it may be now, in ms since 1970, if the clock or measured time is right.
    pub latest_ms: u64,
    /// Milliseconds by which the clock is ahead of the believed time, negative when it is behind. `None`: the
    /// clock is believed.
    pub jumped_ms: Option<i64>,
    /// The jump is seen for the first time.
    pub is_new: bool,
}

impl KnownTime {
    /// Begins with the note of the process before this one, if it left any.
    pub fn begin(noted: Option<Noted>, wall_ms: u64, now: Instant) -> KnownTime {
        let gone = |noted: &Noted| ahead(wall_ms, noted.believed_ms);
        let noted = noted.filter(|noted| !(-SET_MAX_MS..=RESTART_MAX_MS).contains(&gone(noted)));
        let Some(noted) = noted else {
            return KnownTime { sure: Sure { wall_ms, at: now }, jump: None };
        };
        // By that very clock: nothing else goes on between two processes.
        let stood = noted.jumped_ms.and_then(|first_ms| Some((first_ms, wall_ms.checked_sub(first_ms)?)));
        let jump = stood.map(|(first_ms, ms)| Jump {
            ahead_ms: gone(&noted),
            since: now,
            stood: Duration::from_millis(ms),
            first_ms,
        });
        KnownTime { sure: Sure { wall_ms: noted.believed_ms, at: now }, jump }
    }

    /// Returns the note for the next process.
    pub fn noted(&self, now: Instant) -> Noted {
        Noted { believed_ms: self.expected(now), jumped_ms: self.jump.map(|jump| jump.first_ms) }
    }

    pub fn look(&mut self, wall_ms: u64, now: Instant) -> Look {
        let expected = self.expected(now);
        let ahead_ms = ahead(wall_ms, expected);
        if ahead_ms.abs() <= SET_MAX_MS {
            self.confirm(wall_ms, now);
            return Look { earliest_ms: wall_ms, latest_ms: wall_ms, jumped_ms: None, is_new: false };
        }
        let known = self.jump.filter(|jump| (jump.ahead_ms - ahead_ms).abs() <= SET_MAX_MS);
        let jump = known.unwrap_or(Jump { ahead_ms, since: now, stood: Duration::ZERO, first_ms: wall_ms });
        if now.since(jump.since) + jump.stood >= STOOD {
            self.confirm(wall_ms, now);
            return Look { earliest_ms: wall_ms, latest_ms: wall_ms, jumped_ms: None, is_new: false };
        }
        self.jump = Some(jump);
        Look {
            earliest_ms: wall_ms.min(expected),
            latest_ms: wall_ms.max(expected),
            jumped_ms: Some(ahead_ms),
            is_new: known.is_none(),
        }
    }

    /// Takes this time for the right one, since other clocks agree with it or the clock has stood by it.
    pub fn confirm(&mut self, wall_ms: u64, now: Instant) {
        *self = KnownTime { sure: Sure { wall_ms, at: now }, jump: None };
    }

    /// Returns the time that was believed last, plus the time that was measured since.
    fn expected(&self, now: Instant) -> u64 {
        let passed = now.since(self.sure.at).as_millis();
        self.sure.wall_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

fn ahead(wall_ms: u64, of_ms: u64) -> i64 {
    let apart = i64::try_from(wall_ms.abs_diff(of_ms)).unwrap_or(i64::MAX);
    if wall_ms < of_ms { -apart } else { apart }
}

/// Returns the age of something that was made at `made_ms`. `None`: that time lies ahead, so it is not known
/// when the thing was made.
pub fn age_ms(made_ms: u64, now_ms: u64) -> Option<u64> {
    match now_ms.checked_sub(made_ms) {
        // A clock may have been set back by a little.
        None if ahead(made_ms, now_ms) <= SET_MAX_MS => Some(0),
        age => age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const YEAR: u64 = 365 * 24 * 60 * MINUTE;
    const NOW: u64 = 50 * YEAR;

    fn at(minutes: u64) -> Instant {
        Instant(Duration::from_millis(minutes * MINUTE))
    }

    fn earliest(time: &mut KnownTime, wall_ms: u64, minutes: u64) -> u64 {
        time.look(wall_ms, at(minutes)).earliest_ms
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_while_moves_nothing() {
        let mut time = KnownTime::begin(None, NOW, at(0));
        assert_eq!(earliest(&mut time, NOW + 10 * MINUTE, 10), NOW + 10 * MINUTE);
        let look = time.look(NOW + 2 * YEAR, at(11));
        assert_eq!((look.earliest_ms, look.latest_ms), (NOW + 11 * MINUTE, NOW + 2 * YEAR));
        assert!(look.is_new && look.jumped_ms.is_some());
        let again = time.look(NOW + 2 * YEAR + MINUTE, at(12));
        assert!(!again.is_new && again.earliest_ms == NOW + 12 * MINUTE);
        let back = time.look(NOW + 14 * MINUTE, at(14));
        assert_eq!((back.earliest_ms, back.jumped_ms), (NOW + 14 * MINUTE, None));
        // One that is behind ends nothing either.
        let behind = time.look(NOW - YEAR, at(15));
        assert_eq!((behind.earliest_ms, behind.latest_ms), (NOW - YEAR, NOW + 15 * MINUTE));
    }

    #[test]
    fn a_clock_that_stands_by_its_jump_is_believed_after_an_hour() {
        let mut time = KnownTime::begin(None, NOW, at(0));
        let there = |minutes: u64| NOW + YEAR + minutes * MINUTE;
        for minutes in [1, 30, 60] {
            assert_eq!(earliest(&mut time, there(minutes), minutes), NOW + minutes * MINUTE);
        }
        assert_eq!(earliest(&mut time, there(61), 61), there(61));
        // One that goes on jumping never is.
        for minutes in 62..300 {
            let wall = NOW + (2 + minutes % 2) * YEAR;
            assert!(earliest(&mut time, wall, minutes) <= there(minutes));
        }
    }

    #[test]
    fn a_process_begins_with_what_the_one_before_has_noted() {
        let note = |jumped_ms| Some(Noted { believed_ms: NOW, jumped_ms });
        for (wall, jumped) in
            [(NOW + MINUTE, false), (NOW + 21 * MINUTE, false), (NOW + 2 * YEAR, true), (NOW - YEAR, true)]
        {
            let mut time = KnownTime::begin(note(None), wall, at(0));
            let look = time.look(wall + MINUTE, at(1));
            assert_eq!(look.jumped_ms.is_some(), jumped, "{wall}");
            let wanted = if jumped { (NOW + MINUTE).min(wall + MINUTE) } else { wall + MINUTE };
            assert_eq!(look.earliest_ms, wanted);
        }
        let mut fresh = KnownTime::begin(None, NOW, at(0));
        assert_eq!(fresh.look(NOW, at(0)).jumped_ms, None);
        fresh.look(NOW + YEAR, at(1));
        fresh.confirm(NOW + YEAR, at(2));
        assert_eq!(fresh.look(NOW + YEAR + MINUTE, at(3)).jumped_ms, None);
    }

    /// Commands alone, each of a moment: a host that was off for a month is believed an hour after the first of them.
    #[test]
    fn a_jump_is_stood_by_over_processes() {
        let month = NOW + YEAR / 12;
        let mut noted = Some(Noted { believed_ms: NOW, jumped_ms: None });
        for (minutes, jumped) in [(0, true), (30, true), (59, true), (61, false), (62, false)] {
            let mut time = KnownTime::begin(noted, month + minutes * MINUTE, at(0));
            assert_eq!(time.look(month + minutes * MINUTE, at(0)).jumped_ms.is_some(), jumped, "{minutes}");
            noted = Some(time.noted(at(0)));
        }
        // One that jumps on is not believed for that.
        let first = Noted { believed_ms: NOW, jumped_ms: Some(month) };
        let mut time = KnownTime::begin(Some(first), month - 10 * MINUTE, at(0));
        assert!(time.look(month - 10 * MINUTE, at(0)).jumped_ms.is_some());
    }

    #[test]
    fn what_is_made_at_a_time_that_lies_ahead_has_no_age() {
        assert_eq!(age_ms(NOW - MINUTE, NOW), Some(MINUTE));
        assert_eq!(age_ms(NOW + MINUTE, NOW), Some(0));
        assert_eq!(age_ms(NOW + YEAR, NOW), None);
    }
}
