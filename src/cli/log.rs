//! The log on stderr. A warning that comes again and again (a full disk, a store that refuses) is said once a minute,
//! with how often it came meanwhile: what else is in the log must stay findable, and the log must not fill the disk.
// The log's own clock: nothing that is simulated depends on it.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The same warning is said again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Different ones of one place in the program, within that time.
const PLACE_MAX: u32 = 30;
/// Texts remembered; beyond that nothing new is said until the minute is over.
const TEXTS_MAX: usize = 1000;

/// Starts the log. `default`: the filter that RUST_LOG overrides.
pub fn start(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(|| Lossy(std::io::stderr()))
        .event_format(Calm { format: Format::default(), heard: Mutex::default() })
        .init();
}

/// Somebody waits at a terminal for what a command says: what only a log is for is left out.
static AT_TERMINAL: AtomicBool = AtomicBool::new(false);

/// See `AT_TERMINAL`.
pub fn at_terminal(yes: bool) {
    AT_TERMINAL.store(yes, Ordering::Relaxed);
}

/// What can't be written, as to a file on a full disk, is lost: nothing else is to fail, or to stop, for the log's sake.
struct Lossy(std::io::Stderr);

impl io::Write for Lossy {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[derive(Debug)]
struct Once {
    said: Instant,
    left_out: u64,
}

/// What was said in the last minute.
#[derive(Debug, Default)]
struct Heard {
    texts: BTreeMap<String, Once>,
    places: BTreeMap<String, (Instant, u32)>,
}

impl Heard {
    /// Whether this is to be said now, and how often it was left out before.
    fn ask(&mut self, place: &str, text: &str, now: Instant) -> Option<u64> {
        if let Some(once) = self.texts.get_mut(text) {
            if now.duration_since(once.said) < AGAIN {
                once.left_out += 1;
                return None;
            }
            let left_out = std::mem::take(&mut once.left_out);
            once.said = now;
            return Some(left_out);
        }
        if self.texts.len() >= TEXTS_MAX {
            self.texts.retain(|_, once| now.duration_since(once.said) < AGAIN);
        }
        let (since, count) = self.places.entry(place.to_owned()).or_insert((now, 0));
        if now.duration_since(*since) >= AGAIN {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > PLACE_MAX || self.texts.len() >= TEXTS_MAX {
            return None;
        }
        self.texts.insert(text.to_owned(), Once { said: now, left_out: 0 });
        Some(0)
    }
}

struct Calm {
    format: Format,
    heard: Mutex<Heard>,
}

/// An event's fields as text.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl<S, N> FormatEvent<S, N> for Calm
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        if *meta.level() == Level::INFO && AT_TERMINAL.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut left_out = 0;
        if *meta.level() <= Level::WARN {
            let place = format!("{}:{}", meta.file().unwrap_or_default(), meta.line().unwrap_or_default());
            let mut text = Text(format!("{place} "));
            event.record(&mut text);
            match self.heard.lock().ask(&place, &text.0, Instant::now()) {
                Some(n) => left_out = n,
                None => return Ok(()),
            }
        }
        self.format.format_event(ctx, writer.by_ref(), event)?;
        if left_out > 0 {
            writeln!(writer, "  (and {left_out} times since it was last said)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_said_once_a_minute() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(heard.ask("p", "full", at(0)), Some(0));
        for s in 1..60 {
            assert_eq!(heard.ask("p", "full", at(s)), None);
        }
        assert_eq!(heard.ask("p", "other", at(1)), Some(0));
        assert_eq!(heard.ask("p", "full", at(60)), Some(59));
        assert_eq!(heard.ask("p", "full", at(61)), None);
    }

    #[test]
    fn one_place_does_not_fill_the_log_with_ever_new_texts() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let said = (0..10_000).filter(|n| heard.ask("p", &format!("sector {n}"), now).is_some()).count();
        assert_eq!(said, PLACE_MAX as usize);
        assert_eq!(heard.ask("q", "another place", now), Some(0));
        for place in 0..1000 {
            heard.ask(&place.to_string(), &format!("text {place}"), now);
        }
        assert!(heard.texts.len() <= TEXTS_MAX);
        assert_eq!(heard.ask("r", "later", now + AGAIN), Some(0));
    }
}
