//! A directory's names in the store's order, page by page: at first one request after another, and where there are many
//! names several stretches of them at once.
//!
//! A stretch is a range of names that a task of its own lists ahead of the reader, a page after another, up to a
//! bound. Bounds are guesses (`Scale`), each costs at most one request more: they are as many as a tenth of the pages
//! allows, and a few to begin with. A directory of up to `ALONE` pages is never divided, and whoever stops reading has at
//! most `STRETCHES` × `AHEAD` pages in memory; they go with the feed, and so do its requests.
//!
//! Order: servers list by bytes of whole names (`a-` before `a/`), or by component, as a tree (`a/` before `a-`). A name
//! belongs on the left of a bound if either order says so, and a group that both sides show is shown once. A server
//! that keeps to no order, or begins elsewhere than it was told, is asked one page after another.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::split_points::{Pace, Scale};
use crate::base::rt::{Rt, Task};
use crate::base::{Error, Kind, Result};
use crate::store::{Listed, Page};

/// Pages that are asked for one after another before the rest is divided.
const ALONE: u64 = 2;
/// Stretches at once.
const STRETCHES: usize = 8;
/// A stretch's length, in pages. Its last page is half another's on average.
const LENGTH: u64 = 10;
/// Pages of a stretch that wait for the reader.
const AHEAD: usize = LENGTH as usize + 2;

/// Asks for one page of a directory.
#[async_trait]
pub trait Pages: Send + Sync + 'static {
    /// Names behind `after`, which is one, or what an earlier page called `next`.
    async fn page(&self, after: Option<String>) -> Result<Page>;
    /// What all names begin with.
    fn prefix(&self) -> &str;
    /// The most entries that a page has.
    fn most(&self) -> u64;
}

pub enum Line {
    Object(Listed),
    Prefix(String),
}

impl Line {
    pub fn key(&self) -> &str {
        match self {
            Line::Object(o) => &o.key,
            Line::Prefix(p) => p,
        }
    }

    /// Its name in the directory, a group's without the slash.
    fn component(&self, prefix: &str) -> &str {
        match self {
            Line::Object(o) => &o.key[prefix.len()..],
            Line::Prefix(p) => &p[prefix.len()..p.len() - 1],
        }
    }
}

fn in_key_order(page: Page) -> Vec<Line> {
    let mut lines: Vec<Line> = page.objects.into_iter().map(Line::Object).collect();
    lines.extend(page.prefixes.into_iter().map(Line::Prefix));
    lines.sort_by(|a, b| a.key().cmp(b.key()));
    lines
}

/// How far a listing has come, to see whether what follows does follow.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Without the prefix, a group's with its slash.
    name: String,
    component: String,
}

impl Place {
    fn of(line: &Line, prefix: &str) -> Place {
        Place { name: line.key()[prefix.len()..].to_owned(), component: line.component(prefix).to_owned() }
    }

    fn at(component: String) -> Place {
        Place { name: component.clone(), component }
    }

    /// Whether a line comes after this in one of the two orders.
    fn is_before(&self, line: &Line, prefix: &str) -> bool {
        line.key()[prefix.len()..] > *self.name || *line.component(prefix) > *self.component
    }
}

/// What a stretch's task and the reader both look at.
#[derive(Debug, Default)]
struct Shared {
    /// The last component that belongs here; `None`: all that follow.
    bound: Option<String>,
    place: Option<Place>,
    pace: Pace,
    pages: u64,
    done: bool,
}

/// One page, cut at the bound.
struct Cut {
    lines: Vec<Line>,
    next: Option<String>,
    done: bool,
    /// The server has nothing beyond these lines: neither have the stretches that follow.
    last: bool,
}

enum Stop {
    Failed(Error),
    /// The server's order can't be relied on.
    Disorder,
}

#[derive(Debug)]
struct Stretch {
    /// The bound of the one before.
    floor: Option<String>,
    /// Where what the reader has of it ends.
    after: Option<String>,
    shared: Arc<Mutex<Shared>>,
    cuts: mpsc::Receiver<std::result::Result<Cut, Stop>>,
    task: Task<()>,
}

impl Drop for Stretch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a stretch's task does.
struct Work {
    pages: Arc<dyn Pages>,
    shared: Arc<Mutex<Shared>>,
    after: Option<String>,
}

impl Work {
    async fn run(mut self, cuts: mpsc::Sender<std::result::Result<Cut, Stop>>) {
        loop {
            let out = match self.pages.page(self.after.clone()).await {
                Ok(page) => self.cut(page),
                Err(why) => Err(Stop::Failed(why)),
            };
            let next = out.as_ref().ok().filter(|c| !c.done).and_then(|c| c.next.clone());
            if cuts.send(out).await.is_err() || next.is_none() {
                return;
            }
            self.after = next;
        }
    }

    fn cut(&self, page: Page) -> std::result::Result<Cut, Stop> {
        let prefix = self.pages.prefix();
        let next = page.next.clone();
        let mut lines = in_key_order(page);
        let mut shared = self.shared.lock();
        let follow = |place: &Place| lines.iter().all(|l| place.is_before(l, prefix));
        if lines.is_empty() && next.is_some() || !shared.place.as_ref().is_none_or(follow) {
            return Err(Stop::Disorder);
        }
        if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
            if shared.pages == 0 {
                shared.pace = Pace::default();
            }
            shared.pace.note(first.component(prefix), last.component(prefix), lines.len() as u64);
            shared.place = Some(Place::of(last, prefix));
        }
        shared.pages += 1;
        let all = lines.len();
        if let Some(bound) = &shared.bound {
            lines.retain(|l| l.component(prefix) <= bound.as_str());
        }
        shared.done = next.is_none() || lines.len() < all;
        let last = next.is_none() && lines.len() == all;
        Ok(Cut { lines, next, done: shared.done, last })
    }
}

impl Stretch {
    fn begin(
        rt: &Rt,
        pages: &Arc<dyn Pages>,
        floor: Option<String>,
        after: Option<String>,
        shared: Shared,
    ) -> Stretch {
        let shared = Arc::new(Mutex::new(shared));
        let (sender, cuts) = mpsc::channel(AHEAD);
        let work = Work { pages: pages.clone(), shared: shared.clone(), after: after.clone() };
        let task = rt.spawn(work.run(sender));
        Stretch { floor, after, shared, cuts, task }
    }

    /// Nothing of it was read yet: it begins where we guessed.
    fn is_fresh(&self, prefix: &str) -> bool {
        let begins =
            |floor: &String| self.after.as_deref().and_then(|a| a.strip_prefix(prefix)) == Some(floor);
        self.floor.as_ref().is_some_and(begins)
    }

    /// The same again from where the reader is.
    fn again(&mut self, rt: &Rt, pages: &Arc<dyn Pages>) {
        let bound = self.shared.lock().bound.clone();
        let place = self.floor.clone().filter(|_| self.is_fresh(pages.prefix())).map(Place::at);
        let shared = Shared { bound, place, ..Shared::default() };
        *self = Stretch::begin(rt, pages, self.floor.clone(), self.after.clone(), shared);
    }

    /// A bound about a stretch's length from its beginning, if it goes on much longer than that; and how dense names
    /// are there.
    fn divide(&self, scale: &Scale, most: u64) -> Option<(String, Option<String>, Pace)> {
        let mut shared = self.shared.lock();
        let (place, pace) = (shared.place.as_ref()?, &shared.pace);
        if shared.done {
            return None;
        }
        let ahead = LENGTH.saturating_sub(shared.pages).max(2) * most;
        let at = &place.component;
        let guess = scale.guess(pace, at, ahead).filter(|g| g > at && *g > place.name)?;
        // What is left must be worth a stretch, as far as can be told.
        let worth = || scale.guess(pace, at, ahead + LENGTH * most / 2);
        if shared.bound.as_ref().is_some_and(|b| worth().is_none_or(|w| w >= *b)) {
            return None;
        }
        let pace = pace.clone();
        let rest = shared.bound.replace(guess.clone());
        Some((guess, rest, pace))
    }
}

pub struct Feed {
    rt: Rt,
    pages: Arc<dyn Pages>,
    /// Where the next page begins, while they are asked for one by one.
    after: Option<String>,
    place: Option<Place>,
    ended: bool,
    /// Pages that the reader had.
    had: u64,
    divided: u64,
    /// Not to be divided.
    alone: bool,
    /// The server was told to begin at this guess and began elsewhere: what was shown already comes again.
    again: Option<String>,
    /// From the reader on.
    stretches: VecDeque<Stretch>,
    scale: Scale,
    pace: Pace,
    /// Groups shown of which the latest name is a longer form, or the other way round.
    groups: Vec<String>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({:?}, {} pages)", self.pages.prefix(), self.had)
    }
}

impl Feed {
    pub fn new(rt: Rt, pages: Arc<dyn Pages>) -> Feed {
        Feed {
            rt,
            pages,
            after: None,
            place: None,
            ended: false,
            had: 0,
            divided: 0,
            alone: false,
            again: None,
            stretches: VecDeque::new(),
            scale: Scale::default(),
            pace: Pace::default(),
            groups: Vec::new(),
        }
    }

    /// Further lines, perhaps none, and whether that was the end. After an error the same may be asked again.
    pub async fn next(&mut self) -> Result<(Vec<Line>, bool)> {
        if self.ended {
            return Ok((Vec::new(), true));
        }
        if self.had >= ALONE && !self.alone && self.stretches.is_empty() {
            let (place, pace) = (self.place.clone(), self.pace.clone());
            let shared = Shared { place, pace, pages: ALONE, ..Shared::default() };
            let first = Stretch::begin(&self.rt, &self.pages, None, self.after.clone(), shared);
            self.stretches.push_back(first);
        }
        let lines = if self.stretches.is_empty() { self.next_page().await? } else { self.next_cut().await? };
        Ok((lines, self.ended))
    }

    async fn next_page(&mut self) -> Result<Vec<Line>> {
        let page = self.pages.page(self.after.clone()).await?;
        self.had += 1;
        self.after = page.next.clone();
        let prefix = self.pages.prefix();
        let mut lines = in_key_order(page);
        if let Some(floor) = &self.again {
            lines.retain(|l| l.key()[prefix.len()..] > **floor);
            self.unshown(&mut lines, floor);
        }
        let follow = |place: &Place| lines.iter().all(|l| place.is_before(l, prefix));
        self.alone |= lines.is_empty() || !self.place.as_ref().is_none_or(follow);
        self.learn(&lines);
        self.ended = self.after.is_none();
        Ok(lines)
    }

    async fn next_cut(&mut self) -> Result<Vec<Line>> {
        self.divide();
        let head = self.stretches.front_mut().expect("the caller saw one");
        let cut = match head.cuts.recv().await {
            Some(Ok(cut)) => cut,
            Some(Err(Stop::Disorder)) => {
                tracing::debug!(
                    prefix = self.pages.prefix(),
                    "names come in no order: listed one page after another"
                );
                (self.alone, self.after) = (true, head.after.clone());
                self.again = head.floor.clone().filter(|_| head.is_fresh(self.pages.prefix()));
                self.stretches.clear();
                return Ok(Vec::new());
            }
            Some(Err(Stop::Failed(why))) => {
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
        let (mut lines, floor) = (cut.lines, head.floor.clone());
        if cut.last {
            self.stretches.clear();
        } else if cut.done {
            self.stretches.pop_front();
        }
        if let Some(floor) = floor {
            self.unshown(&mut lines, &floor);
        }
        self.learn(&lines);
        self.ended = self.stretches.is_empty();
        Ok(lines)
    }

    /// Groups that belong on either side of a bound were perhaps shown on its left.
    fn unshown(&self, lines: &mut Vec<Line>, floor: &str) {
        let prefix = self.pages.prefix();
        let shown = |c: &str| c <= floor && self.groups.iter().any(|g| g == c);
        lines.retain(|l| !(matches!(l, Line::Prefix(_)) && shown(l.component(prefix))));
    }

    fn learn(&mut self, lines: &[Line]) {
        let prefix = self.pages.prefix();
        for line in lines {
            let component = line.component(prefix);
            self.groups.retain(|g| g.starts_with(component) || component.starts_with(g.as_str()));
            if matches!(line, Line::Prefix(_)) {
                self.groups.push(component.to_owned());
            }
            self.scale.learn(component);
        }
        if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
            self.pace.note(first.component(prefix), last.component(prefix), lines.len() as u64);
            self.place = Some(Place::of(last, prefix));
        }
    }

    /// Divides stretches that are long, nearest first; more of them the longer the reader goes on.
    fn divide(&mut self) {
        let at_once = STRETCHES.min((self.had - ALONE) as usize + 2);
        let allowed = self.had / LENGTH + STRETCHES as u64;
        let most = self.pages.most();
        // Those that nothing is known of yet may lie behind the end.
        let mut blind = self.stretches.iter().filter(|s| s.shared.lock().pages == 0).count() as u64;
        let mut at = 0;
        while at < self.stretches.len()
            && self.stretches.len() < at_once
            && blind <= (self.had - ALONE) / 2
            && self.divided < allowed
        {
            if let Some((bound, rest, pace)) = self.stretches[at].divide(&self.scale, most) {
                let place = Some(Place::at(bound.clone()));
                let shared = Shared { bound: rest, place, pace, ..Shared::default() };
                let after = Some(format!("{}{bound}", self.pages.prefix()));
                let new = Stretch::begin(&self.rt, &self.pages, Some(bound), after, shared);
                self.stretches.insert(at + 1, new);
                self.divided += 1;
                blind += 1;
            }
            at += 1;
        }
    }
}
