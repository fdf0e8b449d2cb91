//! How `top` looks: what needs attention, stores, volumes by what they do.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::super::output;
use super::rates::{self, VolumeRates};
use crate::daemon::answers::{VolumeInUse, WatchAnswer, word};
use windlass_base::units::{show_bytes, show_time};
use windlass_pool::{StoreState, StoreStatus};

/// Most lines on what needs attention, and most lines on stores.
const ALARMS_MAX: usize = 8;
/// Most things with one reason that are named.
const NAMED_MAX: usize = 5;
const STORES_MAX: usize = 12;

/// Columns of the volumes' table with their widths. The first takes what the others leave.
const COLUMNS: [(&str, u16); 10] = [
    ("VOLUME", 16),
    ("STATE", 9),
    ("CLIENTS", 7),
    ("REQ/S", 8),
    ("READ/S", 10),
    ("WRITTEN/S", 10),
    ("P99", 10),
    ("UNSENT", 10),
    ("JOURNAL", 8),
    ("FULL IN", 8),
];
/// The column that volumes are sorted by at first.
const BY_REQUESTS: usize = 3;
/// Columns that a narrow screen goes without, the first of these first: a figure that is cut off is a wrong one.
const SPARED: [usize; 9] = [8, 2, 4, 5, 9, 6, 1, 7, 3];

/// Columns of the stores' table with their widths.
const STORE_COLUMNS: [(&str, u16); 7] =
    [("POOL", 12), ("STORE", 20), ("STATE", 8), ("REQ/S", 8), ("P99", 10), ("FAILED", 7), ("SINCE", 8)];
/// The column of a store's URL, which takes what the others leave.
const STORE_URL: usize = 1;
/// Columns of the stores' table that a narrow screen goes without, the first of these first.
const STORE_SPARED: [usize; 6] = [6, 3, 0, 5, 4, 2];

/// The user's choices of what to see.
#[derive(Clone, Debug)]
pub struct Screen {
    /// The column that volumes are sorted by.
    sort: usize,
    /// True if the smallest stands first.
    pub reversed: bool,
    /// Number of the first volume that is shown.
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

    /// Draws the screen. `trouble`: why `now` is not of a moment ago.
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
        let name = area.width.saturating_sub(needed(&COLUMNS, &columns) - COLUMNS[0].1).max(1);
        let named = usize::from(name);
        let rows: Vec<_> = shown.map(|(volume, rates)| row(volume, rates, &columns, named)).collect();
        let heads = columns.iter().map(|&at| {
            let style = Style::new().add_modifier(Modifier::BOLD);
            let style = if at == self.sort { style.add_modifier(Modifier::REVERSED) } else { style };
            aligned(at, COLUMNS[at].0.to_owned()).style(style)
        });
        let widths = columns.iter().map(|&at| Constraint::Length(if at == 0 { name } else { COLUMNS[at].1 }));
        let table = Table::new(rows, widths).header(Row::new(heads));
        frame.render_widget(table.column_spacing(1), area);
    }

    /// Returns the columns that there is room for, and the one that is sorted by.
    fn columns(&self, width: u16) -> Vec<usize> {
        columns_within(&COLUMNS, &SPARED, width, self.sort)
    }

    /// Compares two volumes: the busiest first, equal ones by name.
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

/// Returns the width of these columns of the table, with the spaces between them.
fn needed(table: &[(&str, u16)], columns: &[usize]) -> u16 {
    let each = columns.iter().map(|&at| table[at].1 + 1);
    each.sum::<u16>().saturating_sub(1)
}

/// Returns the columns of the table that there is room for. `kept` is shown in any case.
fn columns_within(table: &[(&str, u16)], spared: &[usize], width: u16, kept: usize) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..table.len()).collect();
    for spared in spared {
        if needed(table, &columns) <= width {
            break;
        }
        columns.retain(|at| at != spared || *at == kept);
    }
    columns
}

/// Returns the value that a column of figures is sorted by.
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

/// Returns the share of its journal that a volume uses.
fn journal(volume: &VolumeInUse) -> Option<f64> {
    let size = volume.journal_size.filter(|size| *size > 0)?;
    Some(volume.journal_bytes? as f64 / size as f64)
}

/// Makes a row of the table. `named`: how long the volume's name may be.
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

/// Makes a cell; figures stand at the right end of their column.
fn aligned(column: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if column < 2 { line } else { line.right_aligned() })
}

/// Shows a rate in at most 8 characters, as its column has.
fn show_rate(n: f64) -> String {
    match n {
        n if n > 0.0 && n < 10.0 => format!("{n:.1}"),
        n if n < 1e8 => format!("{n:.0}"),
        n => format!("{n:.1e}"),
    }
}

/// Shows a latency in at most 10 characters, as its column has.
fn show_ms(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100_000.0 => format!("{ms:.0} ms"),
        ms => show_time(ms as u64),
    }
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
    let (held, room) = (show_bytes(cache.memory.bytes), show_bytes(cache.memory.bytes_max));
    let name = begun(&format!("windlass {} on {}", now.version, now.status.host), width);
    let beside = width.saturating_sub(name.chars().count());
    let times = whole_parts([format!("   up {up}"), format!("   stores asked {looked} ago")], beside);
    let memory = [
        format!("only on this host {}", show_bytes(unsent)),
        format!("   cache in memory {held} of {room}"),
        found,
        disk,
    ];
    vec![Line::from(vec![Span::from(name).bold(), Span::from(times)]), Line::from(whole_parts(memory, width))]
}

/// Joins the first of these parts, as many as there is room for: a figure that is cut off is a wrong one.
fn whole_parts(parts: impl IntoIterator<Item = String>, width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        if line.chars().count() + part.chars().count() > width {
            break;
        }
        line.push_str(&part);
    }
    line
}

/// Returns what needs attention, each reason once, wrapped.
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
        output::wrapped(&format!("{named}{more}: {why}"), width, 2)
    };
    reasons.into_iter().flat_map(sentence).map(|line| Line::from(line).fg(Color::Red)).collect()
}

/// Returns a volume's trouble, shortened where its pool's trouble says the same.
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

/// A store as its table shows it. The first part tells whether it is in trouble, since such stores are shown
/// first.
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

/// Shortens a text to its beginning, as for a volume, whose pool stands there.
fn begun(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// Shortens a text to its end, where stores differ.
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
    let width = u16::try_from(width).unwrap_or(u16::MAX);
    let columns = columns_within(&STORE_COLUMNS, &STORE_SPARED, width, STORE_URL);
    let others = needed(&STORE_COLUMNS, &columns) - STORE_COLUMNS[STORE_URL].1;
    let room = width.saturating_sub(others).max(1);
    let widths = columns
        .iter()
        .map(|&at| Constraint::Length(if at == STORE_URL { room } else { STORE_COLUMNS[at].1 }));
    let at = |at: usize, text: String| aligned(at.saturating_sub(1), text);
    let rows = rows.into_iter().map(|(state, cells)| {
        let style = match state {
            StoreState::In | StoreState::Unknown => Style::new(),
            StoreState::Failing => Style::new().fg(Color::Yellow),
            StoreState::Out | StoreState::Down => Style::new().fg(Color::Red),
        };
        let shown = columns.iter().map(|&i| match i {
            0 => at(i, begun(&cells[i], usize::from(STORE_COLUMNS[i].1))),
            STORE_URL => at(i, ended(&cells[i], usize::from(room))),
            _ => at(i, cells[i].clone()),
        });
        Row::new(shown.collect::<Vec<_>>()).style(style)
    });
    let heads: Vec<_> = columns.iter().map(|&i| at(i, STORE_COLUMNS[i].0.to_owned())).collect();
    let rows: Vec<_> = rows.collect();
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
    fn no_figure_is_cut_at_any_width() {
        let (mut screen, was) = (Screen::default(), answer(1000, &[("p/a", 1)]));
        let mut now = answer(2000, &[("p/a", 2_000_001)]);
        now.open_pools = vec![pool_with_slow_store()];
        // Each figure as it stands on a wide screen, and what is left of the figure when an end is cut off.
        let figures = ["140 ms", "37 %", "28 h", "2000000", "7.6 GiB", "5.0 MiB", "25 %", "2.00 ms"];
        for width in 14..140 {
            let mut terminal = Terminal::new(TestBackend::new(width, 24)).unwrap();
            terminal.draw(|frame| screen.draw(frame, &was, &now, None)).unwrap();
            let text = terminal.backend().to_string();
            for figure in figures {
                let whole = text.matches(figure).count();
                for cut in [&figure[1..], &figure[..figure.len() - 1]] {
                    assert_eq!(text.matches(cut).count(), whole, "{cut} at {width}:\n{text}");
                }
            }
            assert!(width < 60 || text.contains("140 ms"), "at {width}:\n{text}");
        }
        assert_eq!((show_rate(123_456_789.0).as_str(), show_ms(7_300_000.0).as_str()), ("1.2e8", "2 h"));
    }

    /// A pool of one store that is slow, fails and has done so for long.
    fn pool_with_slow_store() -> windlass_pool::PoolStatus {
        let settings = serde_json::to_value(windlass_pool::PoolSettings::default()).unwrap();
        let id = serde_json::to_value(windlass_base::PoolId(7)).unwrap();
        let store = serde_json::json!({"index": 0, "url": "file:///srv/one", "zone": null, "state": "failing",
            "reason": null, "failing_ms": 100_800_000, "latency_ms_p99": 140.0, "error_rate": 0.37, "requests": 0,
            "undeleted": 0, "used_bytes": null, "free_bytes": null, "traffic": []});
        let status = serde_json::json!({"name": "p", "id": id, "layout": "1+0", "stored_at": 1, "keyed": false,
            "settings": settings, "survives": [], "hedge_ms": 20.0, "stores": [store], "replacing": [],
            "pending_shards": 0, "damaged_shards": 0, "damaged_registers": [], "at_risk": [],
            "pending_incomplete": false, "missed_deletes": 0, "missed_deletes_incomplete": false});
        serde_json::from_value(status).unwrap()
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
