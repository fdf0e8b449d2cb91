//! Who is on the way into TLS: so many at a time. When all places are taken the newest gets that of the one which has been
//! on its way longest: a client takes milliseconds, so whoever holds a place idle keeps nobody out.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Arc<Mutex<VecDeque<(u64, CancellationToken)>>>,
    next: Mutex<u64>,
}

/// One place on the way into TLS, given back when dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    lost: CancellationToken,
    taken: Arc<Mutex<VecDeque<(u64, CancellationToken)>>>,
}

impl Places {
    pub fn new(most: usize) -> Places {
        Places { most, taken: Arc::default(), next: Mutex::default() }
    }

    /// Takes a place for a new client. Where none is free, the client that has been on its way longest loses
    /// its place.
    pub fn take(&self) -> Place {
        // Two tasks that take places at once could get the same number: only a listener's accepting task may call this.
        let (number, lost) = (*self.next.lock(), CancellationToken::new());
        *self.next.lock() += 1;
        let mut taken = self.taken.lock();
        if taken.len() >= self.most
            && let Some((_, oldest)) = taken.pop_front()
        {
            oldest.cancel();
        }
        taken.push_back((number, lost.clone()));
        Place { number, lost, taken: self.taken.clone() }
    }
}

impl Place {
    /// Waits until a newer client has got this place.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.lock().retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_gets_the_place_of_the_oldest() {
        let places = Places::new(2);
        let (one, two) = (places.take(), places.take());
        drop(one);
        let three = places.take();
        assert!(!two.lost.is_cancelled() && !three.lost.is_cancelled());
        let four = places.take();
        assert!(two.lost.is_cancelled() && !three.lost.is_cancelled() && !four.lost.is_cancelled());
        drop(two);
        assert_eq!(places.taken.lock().len(), 2);
    }
}
