//! A mutex with a place in an order of locks. In builds with debug assertions, as the simulations are, taking one while a
//! lock of the same or a later place is held by this thread panics: two such threads could wait for each other for ever.
//!
//! The guards don't cross an await (clippy), so that a thread's list of held locks tells all of it.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

thread_local! {
    static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A mutex that is taken after those with a smaller `PLACE`, and before those with a larger one.
#[derive(Default)]
pub struct OrderedMutex<const PLACE: u8, T>(Mutex<T>);

impl<const PLACE: u8, T> OrderedMutex<PLACE, T> {
    pub const fn new(value: T) -> Self {
        OrderedMutex(Mutex::new(value))
    }

    pub fn lock(&self) -> OrderedGuard<'_, PLACE, T> {
        if cfg!(debug_assertions) {
            HELD.with_borrow_mut(|held| {
                let late = held.iter().find(|place| **place >= PLACE);
                assert!(late.is_none(), "lock {PLACE} is taken while lock {late:?} is held");
                held.push(PLACE);
            });
        }
        OrderedGuard(self.0.lock())
    }
}

impl<const PLACE: u8, T: fmt::Debug> fmt::Debug for OrderedMutex<PLACE, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lock is held while this guard lives.
pub struct OrderedGuard<'a, const PLACE: u8, T>(MutexGuard<'a, T>);

impl<const PLACE: u8, T> Drop for OrderedGuard<'_, PLACE, T> {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            // The last one: guards need not go in the reverse order of their coming.
            HELD.with_borrow_mut(|held| {
                let at = held.iter().rposition(|place| *place == PLACE);
                at.map(|at| held.remove(at));
            });
        }
    }
}

impl<const PLACE: u8, T> Deref for OrderedGuard<'_, PLACE, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<const PLACE: u8, T> DerefMut for OrderedGuard<'_, PLACE, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type First = OrderedMutex<1, u32>;
    type Second = OrderedMutex<2, u32>;

    #[test]
    fn locks_in_order_and_one_after_another_pass() {
        let (first, second) = (First::new(1), Second::new(2));
        {
            let one = first.lock();
            *second.lock() += *one;
            // The earlier one goes first.
            let two = second.lock();
            drop(one);
            assert_eq!(*two, 3);
        }
        drop(second.lock());
        drop(first.lock());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock 1 is taken while lock Some(2) is held")]
    fn a_lock_out_of_order_panics() {
        let (first, second) = (First::new(1), Second::new(2));
        let _two = second.lock();
        let _one = first.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock 1 is taken while lock Some(1) is held")]
    fn two_of_one_place_panic() {
        let (one, other) = (First::new(1), First::new(2));
        let _one = one.lock();
        let _other = other.lock();
    }
}
