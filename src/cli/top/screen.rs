//! How `top` looks: what needs attention, stores, volumes by what they do.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::rates::{self, VolumeRates};
use crate::base::units::{show_bytes, show_time};
use crate::daemon::answers::{VolumeInUse, WatchAnswer, word};
use crate::pool::{StoreState, StoreStatus};

/// Most lines of what needs attention, and of stores.
const ALARMS_MAX: usize = 8;
/// Most that is named of what has one reason.
const NAMED_MAX: usize = 5;
const STORES_MAX: usize = 12;

/// Columns of the volumes' table, and how wide each is.
const COLUMNS: [(&str, Constraint); 10] = [
    ("VOLUME", Constraint::Min(16)),
    ("STATE", Constraint::Length(9)),
    ("CLIENTS", Constraint::Length(7)),
    ("REQ/S", Constraint::Length(8)),
    ("READ/S", Constraint::Length(10)),
    ("WRITTEN/S", Constraint::Length(10)),
    ("P99", Constraint::Length(9)),
    ("UNSENT", Constraint::Length(10)),
    ("JOURNAL", Constraint::Length(8)),
    ("FULL IN", Constraint::Length(8)),
];
/// The one that volumes are sorted by at first.
const BY_REQUESTS: usize = 3;
/// Columns that a narrow screen goes without, the first of these first: a figure that is cut off is a wrong one.
const SPARED: [usize; 7] = [8, 2, 4, 5, 9, 6, 1];

/// What the user has chosen to see.
#[derive(Clone, Debug)]
pub struct Screen {
    /// The column that volumes are sorted by.
    sort: usize,
    /// The smallest first.
    pub reversed: bool,
    /// The first volume that is shown.
    pub first: usize,
}

impl Default for Screen {
    fn default() -> Screen {
        Screen { sort: BY_REQUESTS, reversed: false, first: 0 }
    }
}

impl Screen {
    pub fn sort_by_neighbour(&mut self, step: isize) {
        self.sort = (self.sort as isize + step).rem_euclid(COLUMNS.len() as isize) as usize;
    }

    /// `trouble`: why `now` is not of a moment ago.
    pub fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        was: &WatchAnswer,
        now: &WatchAnswer,
        trouble: Option<&str>,
    ) {
        let alarms = alarms(now, trouble, usize::from(frame.area().width));
        let stores = stores(was, now);
        let height = |rows: usize, max: usize| if rows == 0 { 0 } else { rows.min(max) as u16 + 1 };
        let parts = [
            Constraint::Length(2),
            Constraint::Length(alarms.len().min(ALARMS_MAX) as u16),
            Constraint::Length(height(stores.len(), STORES_MAX)),
            Constraint::Length(1),
            Constraint::Min(2),
            Constraint::Length(1),
        ];
        let [head, alarm, store, _, volume, keys] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Paragraph::new(header(was, now, usize::from(head.width))), head);
        frame.render_widget(Paragraph::new(alarms), alarm);
        frame.render_widget(store_table(stores, usize::from(store.width)), store);
        self.draw_volumes(frame, volume, (was, now));
        let help = "q quit   ←/→ sort by   r reverse   ↑/↓ scroll";
        frame.render_widget(Paragraph::new(help.add_modifier(Modifier::DIM)), keys);
    }

    fn draw_volumes(&mut self, frame: &mut Frame<'_>, area: Rect, (was, now): (&WatchAnswer, &WatchAnswer)) {
        let mut all: Vec<_> = now.status.volumes.iter().zip(rates::volumes(was, now)).collect();
        all.sort_by(|a, b| self.order(a, b));
        let room = usize::from(area.height.saturating_sub(1)).max(1);
        self.first = self.first.min(all.len().saturating_sub(room));
        let columns = self.columns(area.width);
        let shown = all.into_iter().skip(self.first).take(room);
        let named = usize::from(area.width.saturating_sub(needed(&columns[1..]) + 1));
        let rows: Vec<_> = shown.map(|(volume, rates)| row(volume, rates, &columns, named)).collect();
        let heads = columns.iter().map(|&at| {
            let style = Style::new().add_modifier(Modifier::BOLD);
            let style = if at == self.sort { style.add_modifier(Modifier::REVERSED) } else { style };
            aligned(at, COLUMNS[at].0.to_owned()).style(style)
        });
        let table = Table::new(rows, columns.iter().map(|&at| COLUMNS[at].1)).header(Row::new(heads));
        frame.render_widget(table.column_spacing(1), area);
    }

    /// Those that there is room for, and the one that is sorted by.
    fn columns(&self, width: u16) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..COLUMNS.len()).collect();
        for spared in SPARED {
            if needed(&columns) <= width {
                break;
            }
            columns.retain(|&at| at != spared || at == self.sort);
        }
        columns
    }

    /// The busiest first; what is equal by name.
    fn order(&self, a: &(&VolumeInUse, VolumeRates), b: &(&VolumeInUse, VolumeRates)) -> std::cmp::Ordering {
        let by_name = a.0.path.cmp(&b.0.path);
        let order = match self.sort {
            0 => by_name,
            1 => a.0.state.cmp(&b.0.state),
            at => key(at, b).total_cmp(&key(at, a)),
        };
        let order = if self.reversed { order.reverse() } else { order };
        order.then(by_name)
    }
}

/// How wide these columns are, with the spaces between them.
fn needed(columns: &[usize]) -> u16 {
    let each = columns.iter().map(|&at| match COLUMNS[at].1 {
        Constraint::Min(n) | Constraint::Length(n) => n + 1,
        _ => 1,
    });
    each.sum::<u16>().saturating_sub(1)
}

/// What a column of figures is sorted by.
fn key(column: usize, (volume, rates): &(&VolumeInUse, VolumeRates)) -> f64 {
    match column {
        2 => volume.clients as f64,
        BY_REQUESTS => rates.requests,
        4 => rates.read_bytes,
        5 => rates.written_bytes,
        6 => rates.latency_ms_p99.unwrap_or(-1.0),
        7 => volume.unsent_bytes as f64,
        8 => journal(volume).unwrap_or(-1.0),
        // The one that is full first is the one to look at.
        _ => volume.full_in_ms.map_or(f64::MIN, |ms| -(ms as f64)),
    }
}

/// The share of its journal that is in use.
fn journal(volume: &VolumeInUse) -> Option<f64> {
    let size = volume.journal_size.filter(|size| *size > 0)?;
    Some(volume.journal_bytes? as f64 / size as f64)
}

/// `named`: how long its name may be.
fn row(volume: &VolumeInUse, rates: VolumeRates, columns: &[usize], named: usize) -> Row<'static> {
    let dash = || "-".to_owned();
    let cells = [
        begun(&volume.path.to_string(), named),
        volume.state.to_string(),
        volume.clients.to_string(),
        show_rate(rates.requests),
        show_bytes(rates.read_bytes as u64),
        show_bytes(rates.written_bytes as u64),
        rates.latency_ms_p99.map_or_else(dash, show_ms),
        show_bytes(volume.unsent_bytes),
        journal(volume).map_or_else(dash, |share| format!("{:.0} %", share * 100.0)),
        volume.full_in_ms.map_or_else(dash, show_time),
    ];
    let style = match (&volume.trouble, &*volume.state) {
        (Some(_), _) | (_, "trouble") => Style::new().fg(Color::Red),
        (None, "degraded") => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    Row::new(columns.iter().map(|&at| aligned(at, cells[at].clone()))).style(style)
}

/// Figures stand at the right end of their column.
fn aligned(column: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if column < 2 { line } else { line.right_aligned() })
}

fn show_rate(n: f64) -> String {
    if n < 10.0 && n > 0.0 { format!("{n:.1}") } else { format!("{n:.0}") }
}

fn show_ms(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

fn header(was: &WatchAnswer, now: &WatchAnswer, width: usize) -> Vec<Line<'static>> {
    let (up, looked) = (show_time(now.up_ms), show_time(now.looked_ms_ago));
    let cache = &now.status.cache;
    let found = rates::found_in_memory(was, now)
        .map_or_else(String::new, |share| format!(", {:.0} % found", share * 100.0));
    let disk = cache.disk.as_ref().map_or_else(String::new, |disk| {
        let off = if disk.on { "" } else { ", off" };
        format!("   on disk {} of {}{off}", show_bytes(disk.bytes), show_bytes(disk.bytes_max))
    });
    let unsent: u64 = now.status.volumes.iter().map(|v| v.unsent_bytes).sum();
    let memory = format!(
        "only on this host {}   cache in memory {} of {}{found}",
        show_bytes(unsent),
        show_bytes(cache.memory.bytes),
        show_bytes(cache.memory.bytes_max)
    );
    // Whole or not at all.
    let disk = if memory.chars().count() + disk.chars().count() <= width { disk } else { String::new() };
    vec![
        Line::from(vec![
            Span::from(format!("windlass {} on {}", now.version, now.status.host)).bold(),
            Span::from(format!("   up {up}   stores asked {looked} ago")),
        ]),
        Line::from(memory + &disk),
    ]
}

/// What needs attention, each reason once, wrapped.
fn alarms(now: &WatchAnswer, trouble: Option<&str>, width: usize) -> Vec<Line<'static>> {
    let status = &now.status;
    let of_daemon = trouble.map(|why| ("no answer, what is shown is old".to_owned(), why.to_owned()));
    let pools = status
        .pools
        .iter()
        .filter_map(|pool| Some((format!("pool {} is {}", pool.name, pool.state), pool.trouble.clone()?)));
    let volumes = status.volumes.iter().filter_map(|v| Some((v.path.to_string(), own(now, v)?)));
    let cache = status.cache.disk.as_ref().and_then(|disk| disk.trouble.clone());
    let cache = cache.map(|why| ("cache on disk".to_owned(), why));
    let copies =
        status.replicas.iter().filter_map(|r| Some((format!("copy of {}", r.from), r.trouble.clone()?)));
    let mounts = status.mounts.iter().filter_map(|m| Some((format!("mount {}", m.dir), m.trouble.clone()?)));
    let host = status.troubles.iter().map(|told| ("this host".to_owned(), told.trouble.clone()));
    let mut reasons: Vec<(Vec<String>, String)> = Vec::new();
    for (what, why) in
        of_daemon.into_iter().chain(pools).chain(volumes).chain(copies).chain(mounts).chain(host).chain(cache)
    {
        match reasons.iter_mut().find(|(_, known)| *known == why) {
            Some((all, _)) => all.push(what),
            None => reasons.push((vec![what], why)),
        }
    }
    let sentence = |(all, why): (Vec<String>, String)| {
        let more = all.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = all.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        wrapped(&format!("{named}{more}: {why}"), width)
    };
    reasons.into_iter().flat_map(sentence).map(|line| Line::from(line).fg(Color::Red)).collect()
}

/// A volume's trouble without what its pool's says already.
fn own(now: &WatchAnswer, volume: &VolumeInUse) -> Option<String> {
    let trouble = volume.trouble.as_deref()?;
    let pool = now.status.pools.iter().find(|pool| pool.name == volume.path.pool);
    let rest = pool.and_then(|pool| trouble.strip_prefix(pool.trouble.as_deref()?));
    let said = pool.and_then(|pool| pool.trouble.as_deref()?.split(':').next());
    Some(match rest {
        None => trouble.to_owned(),
        Some("") => "as its pool".to_owned(),
        Some(rest) => format!("{}{rest}", said.unwrap_or_default()),
    })
}

/// At spaces; a word that is longer than a line is cut by the screen. All but the first line are set in.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".to_owned()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// A store as its table shows it, what it is worse than others by first.
type StoreRow = (StoreState, Vec<String>);

fn stores(was: &WatchAnswer, now: &WatchAnswer) -> Vec<StoreRow> {
    let mut all = Vec::new();
    for pool in &now.open_pools {
        let name = pool.name.as_str();
        all.extend(
            pool.stores
                .iter()
                .map(|store| store_row(name, store, rates::store_requests(was, now, name, store))),
        );
    }
    // Those to look at are shown also where there is no room for all.
    all.sort_by_key(|(state, _)| matches!(state, StoreState::In | StoreState::Unknown));
    all
}

/// The beginning of what is too long: of a volume that is its pool.
fn begun(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// The end of what is too long: stores differ there.
fn ended(text: &str, width: usize) -> String {
    let long = text.chars().count();
    if long <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(long + 1 - width)).collect()
}

fn store_row(pool: &str, store: &StoreStatus, requests: f64) -> StoreRow {
    let cells = vec![
        pool.to_owned(),
        store.url.clone(),
        word(&store.state),
        show_rate(requests),
        store.latency_ms_p99.map_or_else(|| "-".to_owned(), show_ms),
        format!("{:.0} %", store.error_rate * 100.0),
        store.failing_ms.map_or_else(|| "-".to_owned(), show_time),
    ];
    (store.state, cells)
}

fn store_table(rows: Vec<StoreRow>, width: usize) -> Table<'static> {
    // What the other columns and the spaces between them leave.
    let room = width.saturating_sub(58).max(20);
    let widths = [
        Constraint::Length(12),
        Constraint::Min(20),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let at = |at: usize, text: String| aligned(at.saturating_sub(1), text);
    let rows = rows.into_iter().map(|(state, cells)| {
        let style = match state {
            StoreState::In | StoreState::Unknown => Style::new(),
            StoreState::Failing => Style::new().fg(Color::Yellow),
            StoreState::Out | StoreState::Down => Style::new().fg(Color::Red),
        };
        let cells = cells.into_iter().enumerate();
        Row::new(cells.map(|(i, text)| at(i, if i == 1 { ended(&text, room) } else { text }))).style(style)
    });
    let heads = ["POOL", "STORE", "STATE", "REQ/S", "P99", "FAILED", "SINCE"];
    let heads = heads.into_iter().enumerate().map(|(i, name)| at(i, name.to_owned()));
    Table::new(rows, widths).header(Row::new(heads).add_modifier(Modifier::BOLD)).column_spacing(1)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::rates::tests::answer;
    use super::*;

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let (was, now) = (answer(1000, &[("p/a", 1), ("p/b", 1)]), answer(2000, &[("p/a", 2), ("p/b", 9)]));
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, &was, &now, Some("it ended"))).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_busiest_volume_is_first_and_trouble_is_said() {
        let mut screen = Screen::default();
        let text = drawn(&mut screen, 120, 20);
        assert!(text.find("p/b").unwrap() < text.find("p/a").unwrap(), "{text}");
        for part in [
            "pool p is stalled: too few stores answer",
            "it ended",
            "32.0 KiB",
            "2.00 ms",
            "25 %",
            "50 % found",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        screen.reversed = true;
        let text = drawn(&mut screen, 120, 20);
        assert!(text.find("p/a").unwrap() < text.find("p/b").unwrap(), "{text}");
    }

    #[test]
    fn a_volume_says_only_what_its_pool_does_not() {
        let mut now = answer(1000, &[("p/a", 1)]);
        let mut own_of = |trouble: &str| {
            now.status.volumes[0].trouble = Some(trouble.to_owned());
            own(&now, &now.status.volumes[0]).unwrap()
        };
        assert_eq!(
            own_of("too few stores answer for 85 s; writes wait"),
            "too few stores answer for 85 s; writes wait"
        );
        assert_eq!(own_of("too few stores answer"), "as its pool");
        assert_eq!(own_of("its journal failed"), "its journal failed");
    }

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "  three"]);
        assert_eq!(wrapped("longer-than-it a", 4), ["longer-than-it", "  a"]);
        assert_eq!(wrapped("", 4), [""]);
    }

    #[test]
    fn what_has_no_room_is_left_out_whole() {
        let mut screen = Screen::default();
        for (width, shown, hidden) in [
            (160, vec!["JOURNAL", "CLIENTS"], vec![]),
            (80, vec!["VOLUME", "STATE", "REQ/S"], vec!["JOURNAL", "CLIENTS"]),
        ] {
            let text = drawn(&mut screen, width, 24);
            let heads = text.lines().find(|line| line.contains("VOLUME")).unwrap();
            let words: Vec<&str> = heads.trim_matches('"').split_whitespace().collect();
            assert!(
                words.iter().all(|word| COLUMNS.iter().any(|(name, _)| name.split(' ').any(|n| n == *word))),
                "{words:?}"
            );
            assert!(shown.iter().all(|name| words.contains(name)), "{words:?}");
            assert!(hidden.iter().all(|name| !words.contains(name)), "{words:?}");
        }
        screen.sort_by_neighbour(-1);
        assert!(screen.columns(80).contains(&2), "what is sorted by is shown");
        assert_eq!((begun("p/database", 8), begun("p/db", 8)), ("p/datab…".into(), "p/db".into()));
        assert_eq!(
            (ended("file:///srv/one", 8), ended("short", 8)),
            ("…srv/one".to_owned(), "short".to_owned())
        );
    }

    #[test]
    fn every_column_sorts_and_no_size_is_too_small() {
        let mut screen = Screen { first: 99, ..Screen::default() };
        for _ in 0..COLUMNS.len() {
            screen.sort_by_neighbour(1);
            for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
                drawn(&mut screen, width, height);
            }
        }
        assert_eq!((screen.sort, screen.first), (BY_REQUESTS, 0));
        screen.sort_by_neighbour(-4);
        assert_eq!(screen.sort, COLUMNS.len() - 1);
    }
}
