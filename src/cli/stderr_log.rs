//! The log on stderr. A warning that comes again and again (a full disk, a store that refuses) is said once a minute,
//! with how often it came meanwhile: what else is in the log must stay findable, and the log must not fill the disk.
// The log's own clock: nothing that is simulated depends on it.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use windlass_base::utc;

/// Time after which the same warning is said again.
const AGAIN: Duration = Duration::from_secs(60);
/// Most different warnings of one place in the program that are said within that time.
const PLACE_MAX: u32 = 30;
/// Most texts that are remembered. Beyond that nothing new is said until the minute is over.
const TEXTS_MAX: usize = 1000;

/// Function that changes what is logged, once the log has started.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();
/// True if lines are objects of JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Starts the log. `default`: the filter that RUST_LOG overrides.
pub fn start(default: &str) {
    let of_environment = EnvFilter::try_from_default_env();
    let is_set = of_environment.is_ok();
    let log = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(|| Lossy(std::io::stderr()))
        .event_format(Calm::new(is_journal()))
        .with_env_filter(of_environment.unwrap_or_else(|_| EnvFilter::new(default)))
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    if !is_set {
        let _ = CHANGE.set(Box::new(move |filter| drop(handle.reload(filter))));
    }
}

/// Tells whether stderr leads into systemd's journal, which dates each line itself.
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(rustix::stdio::stderr());
    stderr.is_ok_and(|stat| is_stream(named.as_deref(), stat.st_dev, stat.st_ino))
}

/// Tells whether `named`, which is `DEVICE:INODE` in JOURNAL_STREAM, is this file. A child of a service may
/// have inherited the variable and have another stderr.
fn is_stream(named: Option<&str>, device: u64, inode: u64) -> bool {
    let named = named.and_then(|text| text.split_once(':'));
    named.is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// Applies the configuration's settings of the log: the filter, where nothing wins over it, and the form of a
/// line.
pub fn configure(filter: Option<&str>, json: bool) {
    JSON.store(json, Ordering::Relaxed);
    if let (Some(filter), Some(change)) = (filter, CHANGE.get()) {
        change(EnvFilter::new(filter));
    }
}

/// True while somebody waits at a terminal for what a command says: lines that only a log needs are left out.
static AT_TERMINAL: AtomicBool = AtomicBool::new(false);

/// Sets `AT_TERMINAL`.
pub fn at_terminal(yes: bool) {
    AT_TERMINAL.store(yes, Ordering::Relaxed);
}

/// A writer that drops what can't be written, as to a file on a full disk. Nothing else is to fail, or to
/// stop, for the log's sake.
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

/// The warnings that were said in the last minute.
#[derive(Debug, Default)]
struct Heard {
    texts: BTreeMap<String, Once>,
    places: BTreeMap<String, (Instant, u32)>,
}

impl Heard {
    /// Decides whether a warning is said now: returns how often it was left out before. `None`: it is left
    /// out.
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
    dated: Format,
    undated: Format<Full, ()>,
    /// Lines of text have no time, since the journal dates them.
    in_journal: bool,
    heard: Mutex<Heard>,
}

impl Calm {
    fn new(in_journal: bool) -> Calm {
        let undated = Format::default().without_time();
        Calm { dated: Format::default(), undated, in_journal, heard: Mutex::default() }
    }
}

/// An event's fields as JSON.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// Formats an event as a line of JSON. `left_out`: how often it was not said before.
fn line(event: &Event<'_>, left_out: u64, now: SystemTime) -> String {
    let meta = event.metadata();
    let mut object = Object::default();
    event.record(&mut object);
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    object.0.insert("time".into(), utc::show_ms(ms).into());
    object.0.insert("level".into(), meta.level().as_str().to_lowercase().into());
    object.0.insert("target".into(), meta.target().into());
    if left_out > 0 {
        object.0.insert("left_out".into(), left_out.into());
    }
    Value::Object(object.0).to_string()
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
        if JSON.load(Ordering::Relaxed) {
            return writeln!(writer, "{}", line(event, left_out, SystemTime::now()));
        }
        match self.in_journal {
            true => self.undated.format_event(ctx, writer.by_ref(), event)?,
            false => self.dated.format_event(ctx, writer.by_ref(), event)?,
        }
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

    /// Returns the text that a log of this kind writes for one event.
    fn written(in_journal: bool) -> String {
        #[derive(Clone, Default)]
        struct Kept(std::sync::Arc<Mutex<Vec<u8>>>);
        impl io::Write for Kept {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0.lock().extend_from_slice(text);
                Ok(text.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let to = kept.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone());
        let log = log.event_format(Calm::new(in_journal)).finish();
        tracing::subscriber::with_default(log, || tracing::info!("the daemon serves"));
        let text = kept.0.lock().clone();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_have_no_time_of_their_own_in_the_journal() {
        let in_journal = written(true);
        assert!(in_journal.trim_start().starts_with("INFO windlass"), "{in_journal}");
        let elsewhere = written(false);
        assert!(elsewhere.starts_with("20") && elsewhere.contains("Z  INFO windlass"), "{elsewhere}");
        assert!(is_stream(Some("9:4711"), 9, 4711));
        for other in [None, Some(""), Some("9"), Some("9:4712"), Some("8:4711"), Some("9:4711:1")] {
            assert!(!is_stream(other, 9, 4711), "{other:?}");
        }
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
