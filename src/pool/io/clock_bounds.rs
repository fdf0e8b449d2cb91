//! What time it is for what ages, by this host and by the stores that tell it: one rule for locks, trash, a history's marks and
//! planned work (protocol §4.9). Nothing is removed, and nothing left undone, because one clock is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::context::PoolContext;
use crate::base::known_time::{KnownTime, Look};
use crate::base::rt::{Disk, Instant, Rt};
use crate::base::units::show_time;
use crate::base::{Error, Kind, Result};

/// Clocks that differ by more than this are believed neither. A store tells whole seconds, and an answer takes its time.
const APART_MAX_MS: i64 = 300_000;
/// So long a store's word is enough, while this host's clock goes on as measured time does.
const ASKED: Duration = Duration::from_secs(24 * 3600);
/// How often the time is noted.
const NOTED: Duration = Duration::from_secs(600);
const NOTE_MAX: usize = 64;

/// The earliest and the latest of the clocks that were asked, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    pub earliest_ms: u64,
    pub latest_ms: u64,
    /// By how much this host's clock has jumped. None: it is believed.
    pub jumped_ms: Option<i64>,
}

#[derive(Debug)]
struct State {
    time: KnownTime,
    /// When stores agreed last, and by how much the earliest and the latest of them were ahead of this host.
    asked: Option<(Instant, (i64, i64))>,
    noted: Option<Instant>,
}

/// What one host knows of the time. File `clock` in the pool's folder: the time that was believed last, in milliseconds since 1970,
/// as text.
#[derive(Debug)]
pub struct HostClock {
    rt: Rt,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

impl HostClock {
    pub(in crate::pool) async fn open(rt: &Rt, disk: &Arc<dyn Disk>, folder: &Path) -> HostClock {
        let path = folder.join("clock");
        let noted = disk.read(&path, NOTE_MAX).await.ok();
        let noted = noted.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        let state = State { time: KnownTime::begin(noted, rt.wall_ms(), rt.now()), asked: None, noted: None };
        HostClock { rt: rt.clone(), disk: disk.clone(), path, state: Mutex::new(state) }
    }

    /// Looks at the clock, tells of a jump, and notes the time where the last note is old.
    pub(in crate::pool) async fn look(&self) -> Look {
        let (wall_ms, now) = (self.rt.wall_ms(), self.rt.now());
        let (look, notes) = {
            let mut state = self.state.lock();
            let look = state.time.look(wall_ms, now);
            let notes = look.jumped_ms.is_none() && state.noted.is_none_or(|at| now.since(at) >= NOTED);
            if notes {
                state.noted = Some(now);
            }
            (look, notes)
        };
        if let Some(jumped) = look.jumped_ms.filter(|_| look.is_new) {
            tracing::warn!("{}", about_jump(jumped));
        }
        if notes && let Err(error) = self.disk.write_atomic(&self.path, wall_ms.to_string().into()).await {
            tracing::debug!(path = %self.path.display(), %error, "the time could not be noted");
        }
        look
    }

    /// Stores have just agreed with this host's clock.
    fn confirm(&self, ahead: (i64, i64)) {
        let (wall_ms, now) = (self.rt.wall_ms(), self.rt.now());
        let mut state = self.state.lock();
        state.time.confirm(wall_ms, now);
        state.asked = Some((now, ahead));
    }

    /// What the stores have told, while that is enough.
    fn asked(&self) -> Option<(i64, i64)> {
        let now = self.rt.now();
        self.state.lock().asked.filter(|(at, _)| now.since(*at) < ASKED).map(|(_, ahead)| ahead)
    }
}

impl PoolContext {
    /// The time for what ages: by what the stores told within a day, or asks them.
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

/// What is said of a clock that jumped.
pub fn about_jump(jumped_ms: i64) -> String {
    let way = if jumped_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "this host's clock is {} {way} the time that it showed before and that has passed since: until it is back, or has stood so \
         for an hour, nothing is removed for its age (`timedatectl set-ntp true` sets it)",
        show_time(jumped_ms.unsigned_abs())
    )
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
