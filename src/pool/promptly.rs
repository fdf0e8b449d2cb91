//! Asking many at once without waiting long for one that does not answer.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};

use crate::base::rt::Rt;

/// Who answers later than the others is waited for at least this long.
const LINGER_MIN: Duration = Duration::from_millis(300);
/// And so many times as long as the others took.
const LINGER: u32 = 4;

/// The answers in the order of the questions; `None` of those that did not come. Once `needed` of the answers are good, the
/// others are waited for four times as long again, and no less than 300 ms; nobody is waited for longer than `longest`.
pub(super) async fn promptly<T>(
    rt: &Rt,
    asks: impl IntoIterator<Item = impl Future<Output = T>>,
    needed: usize,
    is_good: impl Fn(&T) -> bool,
    longest: Duration,
) -> Vec<Option<T>> {
    let begun = rt.now();
    let numbered = asks.into_iter().enumerate().map(|(at, ask)| async move { (at, ask.await) });
    let mut pending: FuturesUnordered<_> = numbered.collect();
    let mut answers: Vec<Option<T>> = (0..pending.len()).map(|_| None).collect();
    let mut good = 0;
    let mut until = begun + longest;
    while let Some(left) = Some(until.since(rt.now())).filter(|left| !left.is_zero()) {
        let Some(Some((at, answer))) = rt.timeout(left, pending.next()).await else { break };
        good += usize::from(is_good(&answer));
        answers[at] = Some(answer);
        if good == needed {
            let now = rt.now();
            until = until.min(now + (now.since(begun) * LINGER).max(LINGER_MIN));
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::Sim;

    #[test]
    fn one_that_hangs_costs_little_and_one_that_is_slow_is_taken_along() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        let ms = Duration::from_millis;
        let run = async move {
            let ask = |wait: u64| {
                let rt = rt.clone();
                async move {
                    rt.sleep(ms(wait)).await;
                    wait
                }
            };
            let begun = rt.now();
            let got = promptly(&rt, [20, 100_000, 30, 250].map(ask), 2, |_| true, ms(2000)).await;
            assert_eq!(got, [Some(20), None, Some(30), Some(250)]);
            assert!(rt.now().since(begun) <= ms(331));
            let begun = rt.now();
            let got = promptly(&rt, [20, 100_000, 30].map(ask), 2, |n| *n == 20, ms(2000)).await;
            assert_eq!(got, [Some(20), None, Some(30)], "too few good ones: all the time there is");
            assert_eq!(rt.now().since(begun), ms(2000));
            assert_eq!(promptly(&rt, [5, 7].map(ask), 2, |_| true, ms(2000)).await, [Some(5), Some(7)]);
        };
        sim.run(run).unwrap();
    }
}
