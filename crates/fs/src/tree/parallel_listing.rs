//! A directory's names in the store's order, page by page: at first one request after another, and where there are many
//! names several ranges of them at once.
//!
//! A key range is a range of names that a task of its own lists ahead of the reader, a page after another, up to a
//! bound. Bounds are guesses (`SplitPoints`), each costs at most one request more: they are as many as a tenth of the pages
//! allows, and a few to begin with. A directory of up to `ALONE` pages is never divided, and whoever stops reading has at
//! most `RANGES` × `AHEAD` pages in memory; they go with the listing, and so do its requests.
//!
//! Order: servers list by bytes of whole names (`a-` before `a/`), or by component, as a tree (`a/` before `a-`). A name
//! belongs on the left of a bound if either order says so, and a group that both sides show is shown once. A server
//! that keeps to no order, or begins elsewhere than it was told, is asked one page after another.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::split_points::{Density, SplitPoints};
use windlass_base::rt::{Rt, Task};
use windlass_base::{Error, Kind, Result};
use windlass_store::{Listed, Page};

/// Number of pages that are asked for one after another before the rest is divided.
const ALONE: u64 = 2;
/// Largest number of ranges listed at once.
const RANGES: usize = 8;
/// Length of a range, in pages. Its last page is half another's on average.
const LENGTH: u64 = 10;
/// Largest number of a range's pages that wait for the reader.
const AHEAD: usize = LENGTH as usize + 2;

/// Source of a directory's pages.
#[async_trait]
pub trait PageSource: Send + Sync + 'static {
    /// Returns names behind `after`, which is one, or what an earlier page called `next`.
    async fn page(&self, after: Option<String>) -> Result<Page>;
    /// Returns the prefix with which all names begin.
    fn prefix(&self) -> &str;
    /// Returns the largest number of entries that a page has.
    fn most(&self) -> u64;
}

pub enum ListedEntry {
    Object(Listed),
    Prefix(String),
}

impl ListedEntry {
    pub fn key(&self) -> &str {
        match self {
            ListedEntry::Object(o) => &o.key,
            ListedEntry::Prefix(p) => p,
        }
    }

    /// Returns the entry's name in the directory, a group's without the slash.
    fn component(&self, prefix: &str) -> &str {
        match self {
            ListedEntry::Object(o) => &o.key[prefix.len()..],
            ListedEntry::Prefix(p) => &p[prefix.len()..p.len() - 1],
        }
    }
}

fn in_key_order(page: Page) -> Vec<ListedEntry> {
    let mut entries: Vec<ListedEntry> = page.objects.into_iter().map(ListedEntry::Object).collect();
    entries.extend(page.prefixes.into_iter().map(ListedEntry::Prefix));
    entries.sort_by(|a, b| a.key().cmp(b.key()));
    entries
}

/// Place to which a listing has come, by which is seen whether what comes next follows.
#[derive(Clone, Debug, Default)]
struct Position {
    /// Name without the prefix, a group's with its slash.
    name: String,
    component: String,
}

impl Position {
    fn of(entry: &ListedEntry, prefix: &str) -> Position {
        Position {
            name: entry.key()[prefix.len()..].to_owned(),
            component: entry.component(prefix).to_owned(),
        }
    }

    fn at(component: String) -> Position {
        Position { name: component.clone(), component }
    }

    /// Tells whether an entry comes after this place in one of the two orders.
    fn is_before(&self, entry: &ListedEntry, prefix: &str) -> bool {
        entry.key()[prefix.len()..] > *self.name || *entry.component(prefix) > *self.component
    }
}

/// State of a range at which its task and the reader both look.
#[derive(Debug, Default)]
struct RangeState {
    /// The last component that belongs to the range; `None`: all that follow.
    bound: Option<String>,
    place: Option<Position>,
    density: Density,
    pages: u64,
    done: bool,
}

/// One page of a range, cut at the range's bound.
struct RangePage {
    entries: Vec<ListedEntry>,
    next: Option<String>,
    done: bool,
    /// True if the server has nothing beyond these entries: neither have the ranges that follow.
    last: bool,
}

enum RangeEnd {
    Failed(Error),
    /// The server's order can't be relied on.
    Disorder,
}

#[derive(Debug)]
struct KeyRange {
    /// Bound of the range before this one.
    floor: Option<String>,
    /// Place up to which the reader has the range.
    after: Option<String>,
    shared: Arc<Mutex<RangeState>>,
    cuts: mpsc::Receiver<std::result::Result<RangePage, RangeEnd>>,
    task: Task<()>,
}

impl Drop for KeyRange {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task that lists one range.
struct RangeTask {
    pages: Arc<dyn PageSource>,
    shared: Arc<Mutex<RangeState>>,
    after: Option<String>,
}

impl RangeTask {
    async fn run(mut self, cuts: mpsc::Sender<std::result::Result<RangePage, RangeEnd>>) {
        loop {
            let out = match self.pages.page(self.after.clone()).await {
                Ok(page) => self.cut(page),
                Err(why) => Err(RangeEnd::Failed(why)),
            };
            let next = out.as_ref().ok().filter(|c| !c.done).and_then(|c| c.next.clone());
            if cuts.send(out).await.is_err() || next.is_none() {
                return;
            }
            self.after = next;
        }
    }

    fn cut(&self, page: Page) -> std::result::Result<RangePage, RangeEnd> {
        let prefix = self.pages.prefix();
        let next = page.next.clone();
        let mut entries = in_key_order(page);
        let mut shared = self.shared.lock();
        let follow = |place: &Position| entries.iter().all(|l| place.is_before(l, prefix));
        if entries.is_empty() && next.is_some() || !shared.place.as_ref().is_none_or(follow) {
            return Err(RangeEnd::Disorder);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            if shared.pages == 0 {
                shared.density = Density::default();
            }
            shared.density.note(first.component(prefix), last.component(prefix), entries.len() as u64);
            shared.place = Some(Position::of(last, prefix));
        }
        shared.pages += 1;
        let all = entries.len();
        if let Some(bound) = &shared.bound {
            entries.retain(|l| l.component(prefix) <= bound.as_str());
        }
        shared.done = next.is_none() || entries.len() < all;
        let last = next.is_none() && entries.len() == all;
        Ok(RangePage { entries, next, done: shared.done, last })
    }
}

impl KeyRange {
    fn begin(
        rt: &Rt,
        pages: &Arc<dyn PageSource>,
        floor: Option<String>,
        after: Option<String>,
        shared: RangeState,
    ) -> KeyRange {
        let shared = Arc::new(Mutex::new(shared));
        let (sender, cuts) = mpsc::channel(AHEAD);
        let work = RangeTask { pages: pages.clone(), shared: shared.clone(), after: after.clone() };
        let task = rt.spawn(work.run(sender));
        KeyRange { floor, after, shared, cuts, task }
    }

    /// Tells whether nothing of the range was read yet: it begins where we guessed.
    fn is_fresh(&self, prefix: &str) -> bool {
        let begins =
            |floor: &String| self.after.as_deref().and_then(|a| a.strip_prefix(prefix)) == Some(floor);
        self.floor.as_ref().is_some_and(begins)
    }

    /// Begins the range again from where the reader is.
    fn again(&mut self, rt: &Rt, pages: &Arc<dyn PageSource>) {
        let bound = self.shared.lock().bound.clone();
        let place = self.floor.clone().filter(|_| self.is_fresh(pages.prefix())).map(Position::at);
        let shared = RangeState { bound, place, ..RangeState::default() };
        *self = KeyRange::begin(rt, pages, self.floor.clone(), self.after.clone(), shared);
    }

    /// Divides the range about a range's length from its beginning, if it goes on much longer than that.
    /// Returns the new bound, the old one, and how dense names are there.
    fn divide(&self, split_points: &SplitPoints, most: u64) -> Option<(String, Option<String>, Density)> {
        let mut shared = self.shared.lock();
        let (place, density) = (shared.place.as_ref()?, &shared.density);
        if shared.done {
            return None;
        }
        let ahead = LENGTH.saturating_sub(shared.pages).max(2) * most;
        let at = &place.component;
        let guess = split_points.guess(density, at, ahead).filter(|g| g > at && *g > place.name)?;
        // What is left must be worth a range of its own, as far as can be told.
        let worth = || split_points.guess(density, at, ahead + LENGTH * most / 2);
        if shared.bound.as_ref().is_some_and(|b| worth().is_none_or(|w| w >= *b)) {
            return None;
        }
        let density = density.clone();
        let rest = shared.bound.replace(guess.clone());
        Some((guess, rest, density))
    }
}

pub struct ParallelListing {
    rt: Rt,
    pages: Arc<dyn PageSource>,
    /// Beginning of the next page, while pages are asked for one by one.
    after: Option<String>,
    place: Option<Position>,
    ended: bool,
    /// Number of pages that the reader had.
    had: u64,
    divided: u64,
    /// True if the listing is not to be divided.
    alone: bool,
    /// The guess at which the server was told to begin, where it began elsewhere: what was shown already
    /// comes again.
    again: Option<String>,
    /// Ranges from the one that the reader is in, in order.
    ranges: VecDeque<KeyRange>,
    split_points: SplitPoints,
    density: Density,
    /// Groups that were shown and of which the latest name is a longer form, or the other way round.
    groups: Vec<String>,
}

impl std::fmt::Debug for ParallelListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ParallelListing({:?}, {} pages)", self.pages.prefix(), self.had)
    }
}

impl ParallelListing {
    pub fn new(rt: Rt, pages: Arc<dyn PageSource>) -> ParallelListing {
        ParallelListing {
            rt,
            pages,
            after: None,
            place: None,
            ended: false,
            had: 0,
            divided: 0,
            alone: false,
            again: None,
            ranges: VecDeque::new(),
            split_points: SplitPoints::default(),
            density: Density::default(),
            groups: Vec::new(),
        }
    }

    /// Returns further entries, perhaps none, and whether that was the end. After an error the same entries
    /// may be asked for again.
    pub async fn next(&mut self) -> Result<(Vec<ListedEntry>, bool)> {
        if self.ended {
            return Ok((Vec::new(), true));
        }
        if self.had >= ALONE && !self.alone && self.ranges.is_empty() {
            let (place, density) = (self.place.clone(), self.density.clone());
            let shared = RangeState { place, density, pages: ALONE, ..RangeState::default() };
            let first = KeyRange::begin(&self.rt, &self.pages, None, self.after.clone(), shared);
            self.ranges.push_back(first);
        }
        let entries = if self.ranges.is_empty() { self.next_page().await? } else { self.next_cut().await? };
        Ok((entries, self.ended))
    }

    async fn next_page(&mut self) -> Result<Vec<ListedEntry>> {
        let page = self.pages.page(self.after.clone()).await?;
        self.had += 1;
        self.after = page.next.clone();
        let prefix = self.pages.prefix();
        let mut entries = in_key_order(page);
        if let Some(floor) = &self.again {
            entries.retain(|l| l.key()[prefix.len()..] > **floor);
            self.unshown(&mut entries, floor);
        }
        let follow = |place: &Position| entries.iter().all(|l| place.is_before(l, prefix));
        self.alone |= entries.is_empty() || !self.place.as_ref().is_none_or(follow);
        self.learn(&entries);
        self.ended = self.after.is_none();
        Ok(entries)
    }

    async fn next_cut(&mut self) -> Result<Vec<ListedEntry>> {
        self.divide();
        let head = self.ranges.front_mut().expect("the caller saw one");
        let cut = match head.cuts.recv().await {
            Some(Ok(cut)) => cut,
            Some(Err(RangeEnd::Disorder)) => {
                tracing::debug!(
                    prefix = self.pages.prefix(),
                    "names come in no order: listed one page after another"
                );
                (self.alone, self.after) = (true, head.after.clone());
                self.again = head.floor.clone().filter(|_| head.is_fresh(self.pages.prefix()));
                self.ranges.clear();
                return Ok(Vec::new());
            }
            Some(Err(RangeEnd::Failed(why))) => {
                head.again(&self.rt, &self.pages);
                return Err(why);
            }
            None => {
                head.again(&self.rt, &self.pages);
                return Err(Error::new(
                    Kind::Internal,
                    "a listing's task ended before its work; see the log",
                ));
            }
        };
        self.had += 1;
        head.after = cut.next;
        let (mut entries, floor) = (cut.entries, head.floor.clone());
        if cut.last {
            self.ranges.clear();
        } else if cut.done {
            self.ranges.pop_front();
        }
        if let Some(floor) = floor {
            self.unshown(&mut entries, &floor);
        }
        self.learn(&entries);
        self.ended = self.ranges.is_empty();
        Ok(entries)
    }

    /// Removes groups that were perhaps shown on the left of a bound: they belong on either side of it.
    fn unshown(&self, entries: &mut Vec<ListedEntry>, floor: &str) {
        let prefix = self.pages.prefix();
        let shown = |c: &str| c <= floor && self.groups.iter().any(|g| g == c);
        entries.retain(|l| !(matches!(l, ListedEntry::Prefix(_)) && shown(l.component(prefix))));
    }

    fn learn(&mut self, entries: &[ListedEntry]) {
        let prefix = self.pages.prefix();
        for entry in entries {
            let component = entry.component(prefix);
            self.groups.retain(|g| g.starts_with(component) || component.starts_with(g.as_str()));
            if matches!(entry, ListedEntry::Prefix(_)) {
                self.groups.push(component.to_owned());
            }
            self.split_points.learn(component);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.density.note(first.component(prefix), last.component(prefix), entries.len() as u64);
            self.place = Some(Position::of(last, prefix));
        }
    }

    /// Divides ranges that are long, nearest first; more of them the longer the reader goes on.
    fn divide(&mut self) {
        let at_once = RANGES.min((self.had - ALONE) as usize + 2);
        let allowed = self.had / LENGTH + RANGES as u64;
        let most = self.pages.most();
        // Those that nothing is known of yet may lie behind the end.
        let mut blind = self.ranges.iter().filter(|s| s.shared.lock().pages == 0).count() as u64;
        let mut at = 0;
        while at < self.ranges.len()
            && self.ranges.len() < at_once
            && blind <= (self.had - ALONE) / 2
            && self.divided < allowed
        {
            if let Some((bound, rest, density)) = self.ranges[at].divide(&self.split_points, most) {
                let place = Some(Position::at(bound.clone()));
                let shared = RangeState { bound: rest, place, density, ..RangeState::default() };
                let after = Some(format!("{}{bound}", self.pages.prefix()));
                let new = KeyRange::begin(&self.rt, &self.pages, Some(bound), after, shared);
                self.ranges.insert(at + 1, new);
                self.divided += 1;
                blind += 1;
            }
            at += 1;
        }
    }
}
