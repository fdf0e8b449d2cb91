//! Asking all acceptors at once: how long to wait for whom.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use windlass_base::Result;
use windlass_base::rt::{Rt, Task};

/// The rest is waited for at least this long.
const LINGER_MIN: Duration = Duration::from_millis(1);

/// Collects answers of which a single one may say that the register is elsewhere now: where fewer than `needed` can come,
/// those that do are waited for all the same. Else like `gather`.
pub(super) async fn gather_news<T: Send + 'static>(
    rt: &Rt,
    tasks: impl IntoIterator<Item = Task<Result<T>>>,
    needed: usize,
    done: impl Fn(&[T]) -> bool,
) -> Vec<T> {
    collect(rt, tasks, needed, true, done).await
}

/// Collects good answers. Returns at once when `done` says so or when fewer than `needed` can still come; with
/// `needed` of them it waits as long again for the others, so that a slow store is taken along but a silent one costs
/// little. What is under way then goes on by itself.
pub(super) async fn gather<T: Send + 'static>(
    rt: &Rt,
    tasks: impl IntoIterator<Item = Task<Result<T>>>,
    needed: usize,
    done: impl Fn(&[T]) -> bool,
) -> Vec<T> {
    collect(rt, tasks, needed, false, done).await
}

async fn collect<T: Send + 'static>(
    rt: &Rt,
    tasks: impl IntoIterator<Item = Task<Result<T>>>,
    needed: usize,
    also_if_too_few: bool,
    done: impl Fn(&[T]) -> bool,
) -> Vec<T> {
    let begun = rt.now();
    let mut pending: FuturesUnordered<_> = tasks.into_iter().collect();
    let mut good = Vec::new();
    let hopeless = |good: usize, pending: usize| !also_if_too_few && good + pending < needed;
    while good.len() < needed && !hopeless(good.len(), pending.len()) && !done(&good) {
        let Some(answer) = pending.next().await else { break };
        good.extend(answer.and_then(|a| a));
    }
    if good.len() >= needed && !done(&good) {
        let linger = rt.now().since(begun).max(LINGER_MIN);
        let rest = async {
            while let Some(answer) = pending.next().await {
                good.extend(answer.and_then(|a| a));
                if done(&good) {
                    break;
                }
            }
        };
        // Whether the others came in time or not, what is there is used.
        let _ = rt.timeout(linger, rest).await;
    }
    good
}
