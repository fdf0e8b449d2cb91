//! Memory that a budget lends while nobody needs it, to one who can give it back at any moment, as a cache can.
//!
//! A taker of the budget never waits for what is lent: the borrower gives it back before the taker is told that it has the
//! memory. What is lent grows and shrinks by steps, so that a budget whose use rises by small parts asks for something once
//! a step. A taker that comes while another's step is being given back, and crosses none itself, is told at once: for that
//! moment both together may hold more than there is, by less than a step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// A holder of memory that is lent.
pub trait Borrower: Send + Sync {
    /// Less is lent than before: returns when the borrower, who asks the loan how much that is, holds no more.
    /// Called with no lock of the budget held.
    fn give_back(&self);
}

/// What one budget lends at the moment.
#[derive(Default)]
pub struct Loan {
    bytes: AtomicU64,
    borrower: OnceLock<Weak<dyn Borrower>>,
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loan").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Loan {
    /// What the borrower may hold. It must ask under the lock under which it takes something in: then `give_back`, which
    /// takes that lock later, finds all that was taken in by an older answer.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Lends to this one from now on, and to no other.
    pub fn lend_to(&self, borrower: &Arc<impl Borrower + 'static>) {
        let borrower: Weak<dyn Borrower> = Arc::downgrade(borrower) as Weak<dyn Borrower>;
        let first = self.borrower.set(borrower).is_ok();
        debug_assert!(first, "a loan has one borrower");
    }

    /// Lends so much from now on. Returns true if that is less than before.
    pub(super) fn set(&self, bytes: u64) -> bool {
        self.bytes.swap(bytes, Ordering::AcqRel) > bytes
    }

    /// Returns when the borrower holds no more than what is lent.
    pub(super) fn collect(&self) {
        if let Some(borrower) = self.borrower.get().and_then(Weak::upgrade) {
            borrower.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::super::Budget;
    use super::*;

    /// Holds all that it may, and counts how often it was asked for some.
    struct Greedy {
        loan: Arc<Loan>,
        holds: Mutex<u64>,
        asked: AtomicU64,
    }

    impl Borrower for Greedy {
        fn give_back(&self) {
            *self.holds.lock() = self.loan.bytes();
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_budget_lends_half_of_itself_at_most_and_has_it_back_before_others_are_told() {
        const KIB: u64 = 1024;
        let budget = Budget::new(640 * KIB);
        let loan = budget.lend();
        let greedy = Arc::new(Greedy {
            loan: loan.clone(),
            holds: Mutex::new(loan.bytes()),
            asked: AtomicU64::new(0),
        });
        loan.lend_to(&greedy);
        assert_eq!(loan.bytes(), 320 * KIB, "half of it is for those who come at once");
        let asked = || greedy.asked.load(Ordering::Relaxed);
        let first = budget.try_take(320 * KIB).unwrap();
        assert_eq!(
            (asked(), budget.used()),
            (0, 320 * KIB),
            "that half was lent to nobody, and none is used by the loan"
        );
        let mut held = Vec::new();
        for _ in 0..320 {
            held.push(budget.try_take(KIB).unwrap());
            assert!(*greedy.holds.lock() + budget.used() <= 640 * KIB);
        }
        assert_eq!((asked(), *greedy.holds.lock()), (32, 0), "a step is a 64th");
        drop(first);
        assert_eq!(loan.bytes(), 320 * KIB);
        *greedy.holds.lock() = loan.bytes();
        // Who waits is served by what is given back, and what is lent goes back before he knows.
        let mut waits = Box::pin(budget.take(640 * KIB));
        assert!(futures::FutureExt::now_or_never(&mut waits).is_none());
        drop(held);
        assert_eq!((*greedy.holds.lock(), loan.bytes(), asked()), (0, 0, 33));
        drop(futures::FutureExt::now_or_never(waits).expect("all is free"));
        assert_eq!(loan.bytes(), 320 * KIB);
        drop(greedy);
        assert!(budget.try_take(640 * KIB).is_some(), "a borrower that is gone holds nothing");
    }
}
