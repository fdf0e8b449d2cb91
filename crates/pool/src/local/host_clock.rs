//! A host's clock, as far as it is believed: it goes on as measured time does, or the stores that tell the time have agreed with it
//! (protocol §4.9).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::known_time::{KnownTime, Look, Noted};
use windlass_base::rt::{Disk, Instant, Rt};
use windlass_base::units::show_time;

/// Time for which a store's word is enough, while this host's clock goes on as measured time does.
const ASKED: Duration = Duration::from_secs(24 * 3600);
/// Time after which the believed time is noted on the disk again.
const NOTED: Duration = Duration::from_secs(600);
const NOTE_MAX: usize = 64;

#[derive(Debug)]
struct State {
    time: KnownTime,
    /// The time at which stores agreed last, and by how many milliseconds the earliest and the latest of them were ahead of
    /// this host.
    asked: Option<(Instant, (i64, i64))>,
    noted: Option<Instant>,
}

/// One host's knowledge of the time. File `clock` in the pool's folder, as text in milliseconds since 1970: the time that was
/// believed last; and, where the clock has jumped since, a space and what it showed then.
#[derive(Debug)]
pub struct HostClock {
    rt: Rt,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

impl HostClock {
    pub(crate) async fn open(rt: &Rt, disk: &Arc<dyn Disk>, folder: &Path) -> HostClock {
        let path = folder.join("clock");
        let noted = disk.read(&path, NOTE_MAX).await.ok();
        let noted = noted.and_then(|text| parse(std::str::from_utf8(&text).ok()?));
        let state = State { time: KnownTime::begin(noted, rt.wall_ms(), rt.now()), asked: None, noted: None };
        HostClock { rt: rt.clone(), disk: disk.clone(), path, state: Mutex::new(state) }
    }

    /// Looks at the clock, tells of a jump, and notes the time where the last note is old.
    pub(crate) async fn look(&self) -> Look {
        let (wall_ms, now) = (self.rt.wall_ms(), self.rt.now());
        let (look, notes) = {
            let mut state = self.state.lock();
            let look = state.time.look(wall_ms, now);
            let is_due = state.noted.is_none_or(|at| now.since(at) >= NOTED);
            let notes = look.is_new || look.jumped_ms.is_none() && is_due;
            if notes {
                state.noted = Some(now);
            }
            (look, notes.then(|| state.time.noted(now)))
        };
        if let Some(jumped) = look.jumped_ms.filter(|_| look.is_new) {
            tracing::warn!("{}", about_jump(jumped));
        }
        if let Some(noted) = notes
            && let Err(error) = self.disk.write_atomic(&self.path, shown(noted).into()).await
        {
            tracing::debug!(path = %self.path.display(), %error, "the time could not be noted");
        }
        look
    }

    /// Stores have just agreed with this host's clock.
    pub(crate) fn confirm(&self, ahead: (i64, i64)) {
        let (wall_ms, now) = (self.rt.wall_ms(), self.rt.now());
        let mut state = self.state.lock();
        state.time.confirm(wall_ms, now);
        state.asked = Some((now, ahead));
    }

    /// Returns by how many milliseconds the earliest and the latest store are ahead of this host, as long as their word is
    /// enough (`ASKED`).
    pub(crate) fn asked(&self) -> Option<(i64, i64)> {
        let now = self.rt.now();
        self.state.lock().asked.filter(|(at, _)| now.since(*at) < ASKED).map(|(_, ahead)| ahead)
    }
}

fn parse(text: &str) -> Option<Noted> {
    let mut times = text.split_ascii_whitespace().map(str::parse);
    let believed_ms = times.next()?.ok()?;
    let jumped_ms = times.next().transpose().ok()?;
    Some(Noted { believed_ms, jumped_ms })
}

fn shown(noted: Noted) -> String {
    let jumped = noted.jumped_ms.map(|ms| format!(" {ms}")).unwrap_or_default();
    format!("{}{jumped}", noted.believed_ms)
}

/// Returns the message about a clock that jumped.
pub fn about_jump(jumped_ms: i64) -> String {
    let way = if jumped_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "this host's clock is {} {way} the time that it showed before and that has passed since: until it is back, or has stood so \
         for an hour, nothing is removed for its age (`timedatectl set-ntp true` sets it)",
        show_time(jumped_ms.unsigned_abs())
    )
}
