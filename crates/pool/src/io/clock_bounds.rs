//! What time it is for what ages, by this host and by the stores that tell it: one rule for locks, trash, a history's marks and
//! planned work (protocol §4.9). Nothing is removed, and nothing left undone, because one clock is wrong.

use std::time::Duration;

use super::context::PoolContext;
use windlass_base::known_time::Look;
use windlass_base::{Error, Kind, Result};

/// Largest difference of two clocks, in milliseconds, at which they are believed. A store tells whole seconds, and an answer
/// takes its time.
const APART_MAX_MS: i64 = 300_000;
/// Longest time for which whoever dates something waits for the stores' clocks.
const LATEST_WAIT: Duration = Duration::from_secs(2);

/// The earliest and the latest of the clocks that were asked, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    pub earliest_ms: u64,
    pub latest_ms: u64,
    /// Milliseconds by which this host's clock has jumped. None: the clock is believed.
    pub jumped_ms: Option<i64>,
}

impl PoolContext {
    /// Returns the time for what ages: by what the stores told within a day, else by asking them.
    ///
    /// # Errors
    /// Those of `clocks`.
    pub async fn time(&self) -> Result<Clocks> {
        let look = self.clock().look().await;
        match self.clock().asked() {
            Some(ahead) if look.jumped_ms.is_none() => Ok(moved(look.earliest_ms, ahead)),
            _ => self.clocks().await,
        }
    }

    /// Returns the latest time that it may be (see `Pool::latest_ms`). Stores have a moment to tell.
    pub async fn latest_ms(&self) -> u64 {
        let begun = self.rt().now();
        let look = self.clock().look().await;
        let told = self.rt().timeout(LATEST_WAIT, self.time()).await;
        let waited = self.rt().now().since(begun).as_millis();
        let own = look.latest_ms.saturating_add(u64::try_from(waited).unwrap_or(u64::MAX));
        match told {
            Some(Ok(clocks)) => clocks.latest_ms.max(own),
            Some(Err(_)) | None => own,
        }
    }

    /// Asks every store. Those without a clock of their own, as local folders, have no say; where all are such it is this host's
    /// clock, as far as it is believed. `Refused`: a store's clock and this host's differ by minutes. `Unavailable`: no store that
    /// has a clock answers.
    pub async fn clocks(&self) -> Result<Clocks> {
        let members = self.members();
        let asked = futures::future::join_all(members.iter().map(|m| m.ahead_ms())).await;
        let (mut told, mut silent, mut ahead) = (false, None, (0, 0));
        for (member, answer) in members.iter().zip(asked) {
            match answer {
                None => {}
                Some(Err(_)) => silent = Some(member.url()),
                Some(Ok(ms)) if ms.unsigned_abs() > APART_MAX_MS.unsigned_abs() => {
                    return Err(apart(member.url(), ms));
                }
                Some(Ok(ms)) => (told, ahead) = (true, (ms.min(ahead.0), ms.max(ahead.1))),
            }
        }
        match silent {
            _ if told => {
                self.clock().confirm(ahead);
                Ok(moved(self.rt().wall_ms(), ahead))
            }
            Some(url) => {
                let why =
                    format!("no store tells what time it is, {url} neither: try again when one answers");
                Err(Error::new(Kind::Unavailable, why))
            }
            None => {
                let Look { earliest_ms, latest_ms, jumped_ms, .. } = self.clock().look().await;
                Ok(Clocks { earliest_ms, latest_ms, jumped_ms })
            }
        }
    }
}

fn moved(wall_ms: u64, (earliest, latest): (i64, i64)) -> Clocks {
    let [earliest_ms, latest_ms] = [earliest, latest].map(|ms| wall_ms.saturating_add_signed(ms));
    Clocks { earliest_ms, latest_ms, jumped_ms: None }
}

fn apart(url: &str, ahead_ms: i64) -> Error {
    let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
    let minutes = ahead_ms.unsigned_abs() / 60_000;
    let why = format!(
        "this host's clock is {minutes} minutes {way} that of {url}, so nobody can tell how old anything is: set the clock that is \
         wrong (`timedatectl set-ntp true`)"
    );
    Error::new(Kind::Refused, why)
}
