//! From a name to a node: what is known answers, otherwise one listing, and one look at the object's metadata.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::filesystem::{Entry, Fs, being_renamed};
use crate::file::OpenFile;
use crate::object::{
    Attributes, Errno, KEY_MAX, NAME_MAX, Naming, Op, Rights, Wanted, belongs, last, lies_in,
};
use crate::tree::{
    BulkLookup, CachedName, ChangeSeq, Inodes, LINK_MAX, Metadata, Node, Pass, ROOT, is_version, split,
};
use windlass_base::Result;
use windlass_base::rt::Instant;

/// Number of names for which a lookup's listing asks: the object comes first, then its neighbours up to the
/// directory.
const NEIGHBOURS: usize = 8;
/// Number of names of a directory that are asked for at once.
const PAGE: usize = 1000;

/// Largest number of attempts at an answer, since names may change here faster than the store answers. After
/// them the store's last answer is told, and believed for no time.
pub(super) const ROUNDS: usize = 8;

/// Shortest time between two opens of a file that are sent back because the kernel goes by another size.
const SIZE_DOUBTS_APART: Duration = Duration::from_secs(1);

/// An answer to lookup(2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Looked {
    Found(Entry),
    /// The name is absent, which is believed for so long.
    Absent(Duration),
}

/// Object or directory to which a name leads.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub key: String,
    pub dir: bool,
    /// True for an object whose name a directory has too.
    pub beside: bool,
    pub attributes: Attributes,
    pub until: Instant,
    /// Change sequence at which the store was asked; `None` when the node itself tells.
    pub seq: Option<ChangeSeq>,
}

/// Purpose for which an answer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// The answer is for stat(2): mode and times as the object's metadata have them.
    Attributes,
    /// The answer is to tell whether the name is there, what it is, and for how long.
    Presence,
    /// The name is to be removed: what a listing shows of a file is enough, though whoever asks for its
    /// attributes is not told these.
    Removal,
}

/// A name in a directory, as keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NamedKey {
    pub wanted: Wanted,
    /// Key that the object of this name has.
    pub stem: String,
}

impl NamedKey {
    /// Returns the prefix of the directory of this name.
    pub fn prefix(&self) -> String {
        match self.wanted {
            Wanted::Piece(_) => self.stem.clone(),
            _ => format!("{}/", self.stem),
        }
    }
}

/// Returns the key for a name below `prefix`. Fails with `ENOENT` for names that no key is shown as, and with
/// `ENAMETOOLONG` for what no key can hold.
pub(super) fn place_among(naming: Naming, prefix: &str, name: &[u8]) -> Op<NamedKey> {
    if name.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    let wanted = naming.want(name).ok_or(Errno::NOENT)?;
    let (Wanted::Any(component) | Wanted::Object(component) | Wanted::Piece(component)) = &wanted;
    let stem = format!("{prefix}{component}");
    if stem.len() > KEY_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    if !matches!(wanted, Wanted::Piece(_)) && !belongs(prefix, component) {
        return Err(Errno::NOENT.into());
    }
    Ok(NamedKey { wanted, stem })
}

impl Fs {
    /// Returns the key for a name in a directory; fails as `place_among` does.
    pub(super) fn place(&self, parent: u64, name: &[u8]) -> Op<NamedKey> {
        place_among(self.naming(), &self.prefix(parent)?, name)
    }

    /// Returns the key for a name that is to be made; `EINVAL` for a name that would be shown otherwise.
    pub(super) fn new_place(&self, parent: u64, name: &[u8]) -> Op<NamedKey> {
        let prefix = self.prefix(parent)?;
        let place = place_among(self.naming(), &prefix, name);
        let place = place.map_err(|f| if f.errno == Errno::NOENT { Errno::INVAL.into() } else { f })?;
        match place.wanted {
            // No object has an empty key.
            Wanted::Any(_) if !place.stem.is_empty() => Ok(place),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Passes the gate with names in directories. What was renamed with its directory has its new place then.
    pub(super) async fn pass_names(&self, names: &[(u64, &[u8])]) -> Op<Pass> {
        let keys = || {
            let mut keys = Vec::with_capacity(2 * names.len());
            for (parent, name) in names {
                // What can't be a name is the caller's to refuse.
                if let Ok(place) = place_among(self.naming(), &self.prefix(*parent)?, name) {
                    keys.push(place.prefix());
                    keys.push(place.stem);
                }
            }
            Op::Ok(keys)
        };
        let passed = self.gate.pass(&self.context.rt, Some(self.options().deadline), keys).await?;
        passed.ok_or_else(being_renamed)
    }

    /// Returns what is known of a place without asking the store; `Some((None, _))` if it is known to be
    /// absent.
    pub(super) fn target_now(&self, place: &NamedKey, need: Need) -> Option<(Option<Target>, Instant)> {
        let now = self.now();
        let prefix = place.prefix();
        if self.gate.is_left(&prefix) {
            return None;
        }
        {
            let inodes = self.inodes.lock();
            let dir = inodes.at(&prefix, true).filter(|_| !matches!(place.wanted, Wanted::Object(_)));
            let file = inodes.at(&place.stem, false).filter(|n| match place.wanted {
                Wanted::Any(_) => !n.beside,
                Wanted::Object(_) => true,
                Wanted::Piece(_) => false,
            });
            for node in [dir, file].into_iter().flatten() {
                let local = node.file.as_ref().is_some_and(|f| f.has_local_changes());
                // In a directory that has become sticky since, a guess is not enough.
                let sticky =
                    || inodes.at(split(&place.stem).0, true).is_none_or(|d| d.attributes.is_sticky());
                let guessed = !node.dir && !node.attributes.exact;
                let guesses = self.options().sampled || need != Need::Attributes;
                if local || node.until > now && !(guessed && (!guesses || sticky())) {
                    let (key, until) = (node.key.clone(), node.until.max(now));
                    let (dir, beside, seq) = (node.dir, node.beside, None);
                    let target =
                        Target { key, dir, beside, attributes: self.entry(node).attributes, until, seq };
                    return Some((Some(target), until));
                }
            }
        }
        let seq = self.name_cache.seq();
        let (seen, until, metadata) = self.name_cache.get(&place.stem, now)?;
        let target = choose(place, &seen, until, seq);
        let tells = |t: &Target| {
            metadata.tells(&t.attributes, self.options()) && !self.is_sticky(split(&place.stem).0)
        };
        let vague = target.as_ref().is_some_and(|t| !t.attributes.exact && !tells(t));
        // What is as short as a link's target may be one, and the kernel goes by what it was told last.
        let enough = match need {
            Need::Attributes => !vague,
            Need::Presence => true,
            Need::Removal => {
                !vague || target.as_ref().is_some_and(|t| !t.dir && t.attributes.size > LINK_MAX)
            }
        };
        // A listing's attributes are not enough for lookup(2), and a directory that only we still show must be asked for.
        let kept = target.as_ref().is_none_or(|t| !t.dir) && self.is_kept(&prefix);
        if !enough || kept || matches!(place.wanted, Wanted::Piece(_)) {
            return None;
        }
        let until = if vague && need == Need::Removal { now } else { until };
        Some((target.map(|target| Target { until, ..target }), until))
    }

    /// Returns the purpose of a lookup by the kernel.
    fn need(&self, place: &NamedKey) -> Need {
        let prefix = split(&place.stem).0;
        if self.unlink_bursts.is_emptied(prefix, self.now()) && !self.is_sticky(prefix) {
            return Need::Removal;
        }
        Need::Attributes
    }

    /// Tells whether it matters in a directory who owns a file. True for a directory that is not known.
    pub(super) fn is_sticky(&self, prefix: &str) -> bool {
        self.inodes.lock().at(prefix, true).is_none_or(|dir| dir.attributes.is_sticky())
    }

    fn is_kept(&self, prefix: &str) -> bool {
        let now = self.now();
        self.inodes.lock().at(prefix, true).is_some_and(|n| n.visible_until > now)
    }

    /// Returns what a place leads to and until when that is believed, from memory or from the store.
    pub(super) async fn target(&self, place: &NamedKey, need: Need) -> Op<(Option<Target>, Instant)> {
        let mut last = None;
        for _ in 0..ROUNDS {
            if let Some(known) = self.target_now(place, need) {
                return Ok(known);
            }
            let seq = self.name_cache.seq();
            let found = self.target_asked(place, seq).await?;
            if self.name_cache.is_current(&place.stem, seq) {
                return Ok(found);
            }
            last = found.0;
        }
        let now = self.now();
        Ok((last.map(|target| Target { until: now, ..target }), now))
    }

    async fn target_asked(&self, place: &NamedKey, seq: ChangeSeq) -> Op<(Option<Target>, Instant)> {
        let asked = self.now();
        let until = self.until(asked);
        let dir = |key: &str| Target {
            key: key.to_owned(),
            dir: true,
            beside: false,
            attributes: self.default_attributes(true),
            until,
            seq: Some(seq),
        };
        if let Wanted::Piece(_) = place.wanted {
            let there = self.has_objects(&place.stem).await?;
            return Ok((there.then(|| dir(&place.stem)), until));
        }
        let (seen, neighbour) = self.ask(place).await?;
        let mut target = choose(place, &seen, until, seq);
        let absent_until = asked + self.options().negative_ttl;
        let believed = if target.is_some() { until } else { absent_until };
        // An object that a directory hides was not looked at: the answer is good for this question only.
        if !neighbour {
            self.name_cache.learn(&place.stem, seen, believed, seq);
        }
        let means_dir = matches!(place.wanted, Wanted::Any(_)) && target.as_ref().is_none_or(|t| !t.dir);
        if means_dir && self.is_kept(&place.prefix()) {
            target = Some(dir(&place.prefix()));
        }
        Ok((target, believed))
    }

    /// Tells whether a directory and whether an object stands at a place: by a fresh listing of its
    /// directory, or by a listing of its own.
    async fn present(&self, place: &NamedKey) -> Result<(bool, bool)> {
        if let Some((seen, ..)) = self.name_cache.get(&place.stem, self.now())
            && seen != CachedName::default()
        {
            return Ok((seen.dir.is_some(), seen.object.is_some()));
        }
        if let Some(present) = self.among_many(place).await? {
            return Ok(present);
        }
        let (remote, dir) = (&self.context.remote, place.prefix());
        let page = remote.list_some(&place.stem, true, NEIGHBOURS).await?;
        let object = page.objects.iter().any(|o| o.key == place.stem);
        let mut is_dir = page.prefixes.contains(&dir);
        let reached = |dir: &String| {
            page.objects.last().is_some_and(|o| o.key > *dir) || page.prefixes.last() > Some(dir)
        };
        if !is_dir && page.next.is_some() && !reached(&dir) {
            is_dir = !remote.list_some(&dir, false, 1).await?.is_empty();
        }
        if !is_dir && !object {
            self.name_cache.missed(split(&place.stem).0);
        }
        Ok((is_dir, object))
    }

    /// Tells from a page of the directory what stands at a place, where several of its names were asked for
    /// lately. The next names are known then; and so are absent ones, if several were missing and the page is
    /// the only one. The first page begins where the directory does and mostly is all of it; later ones begin
    /// near the name.
    async fn among_many(&self, place: &NamedKey) -> Result<Option<(bool, bool)>> {
        let ((prefix, component), asked) = (split(&place.stem), self.now());
        let remote = &self.context.remote;
        let emptied = self.unlink_bursts.is_emptied(prefix, asked);
        // A listing waits for deletes: one of many names is worth that.
        let soon =
            self.options().ttl > Duration::ZERO && (emptied || remote.deletes.is_settled_below(prefix));
        let bulk = soon.then(|| self.name_cache.bulk_lookup_due(prefix, emptied, asked)).flatten();
        let Some(bulk) = bulk else { return Ok(None) };
        let mut near = place.stem.clone();
        near.pop();
        let after = (bulk == BulkLookup::More && near.len() > prefix.len()).then_some(near);
        let seq = self.name_cache.seq();
        let page = remote.list(prefix, after.clone(), true, PAGE).await?;
        let whole = after.is_none() && page.next.is_none();
        let (first, last) = (after.unwrap_or_default(), page.objects.last().map(|o| o.key.clone()));
        let last = last.max(page.prefixes.last().cloned()).filter(|_| page.next.is_some());
        // Where a page begins or ends it does not say whether there is an object and a directory of one name.
        let told = |component: &str| {
            let stem = format!("{prefix}{component}");
            stem > first && last.as_ref().is_none_or(|last| *last >= format!("{stem}/"))
        };
        let mut all: BTreeMap<String, CachedName> = BTreeMap::new();
        for object in page.objects.into_iter().filter(|o| o.key != prefix || o.size > 0) {
            let component = object.key[prefix.len()..].to_owned();
            let attributes = Attributes::of_listed(self.options(), object);
            all.entry(component).or_default().object = Some(attributes);
        }
        for group in page.prefixes {
            let component = group[prefix.len()..group.len() - 1].to_owned();
            all.entry(component).or_default().dir = Some(self.default_attributes(true));
        }
        all.retain(|component, _| told(component));
        let present = match all.get(component) {
            Some(seen) => Some((seen.dir.is_some(), seen.object.is_some())),
            None => whole.then_some((false, false)),
        };
        // Absence may be believed for a shorter time than presence.
        let for_long = self.options().negative_ttl >= self.options().ttl;
        // Who looks at what is there may be about to see what others make.
        let tells_absence = whole && bulk == BulkLookup::Missing && for_long;
        // Directories that only we still show may be filled again.
        let kept = || self.inodes.lock().kept_in(prefix, asked).into_iter().collect();
        self.name_cache.learn_page(prefix, all, tells_absence.then(kept), self.until(asked), seq);
        Ok(present)
    }

    /// Asks the store for a name. Returns true with the answer when there is an object that a directory
    /// hides.
    async fn ask(&self, place: &NamedKey) -> Result<(CachedName, bool)> {
        if let Some(seen) = self.still(place).await? {
            return Ok((seen, false));
        }
        let (is_dir, is_object) = self.present(place).await?;
        let remote = &self.context.remote;
        let mut seen = CachedName::default();
        if is_dir {
            let marker = remote.head(&place.prefix()).await?.filter(|head| head.size == 0);
            let attributes = marker.map(|h| Attributes::of_head(self.options(), true, &h));
            seen.dir = Some(
                attributes.unwrap_or_else(|| Attributes { exact: true, ..self.default_attributes(true) }),
            );
        }
        let hidden = is_dir && is_object && !matches!(place.wanted, Wanted::Object(_));
        if is_object && !hidden {
            let listed = self.name_cache.get(&place.stem, self.now()).and_then(|(seen, ..)| seen.object);
            let head = remote.head(&place.stem).await?;
            seen.object = head.as_ref().map(|h| Attributes::of_head(self.options(), false, h));
            if let (Some(listed), Some(is), Some(head)) = (listed.filter(|f| !f.exact), &seen.object, head) {
                self.name_cache.sampled(split(&place.stem).0, Metadata::of(&listed, is, &head.attrs));
            }
        }
        Ok((seen, hidden))
    }

    /// Looks again at a file that the kernel knows: one request, unless the file is gone.
    async fn still(&self, place: &NamedKey) -> Result<Option<CachedName>> {
        let known = {
            let inodes = self.inodes.lock();
            let file = inodes.at(&place.stem, false).is_some_and(|n| !n.beside && !n.gone);
            matches!(place.wanted, Wanted::Any(_)) && file && inodes.at(&place.prefix(), true).is_none()
        };
        let head = if known { self.context.remote.head(&place.stem).await? } else { None };
        let attributes = head.map(|h| Attributes::of_head(self.options(), false, &h));
        Ok(attributes.map(|attributes| CachedName { dir: None, object: Some(attributes) }))
    }

    /// Makes a node of what was found, and counts that the kernel is told of it. What was changed here since
    /// the store was asked is not overwritten; a name that is new to us then is believed for no time.
    pub(super) fn adopt(&self, target: Target) -> Entry {
        let mut inodes = self.inodes.lock();
        let Target { key, dir, beside, attributes, until, seq } = target;
        let node = match seq {
            Some(seq) if self.name_cache.is_current(stem_of(&key, dir), seq) => {
                inodes.learn(&key, dir, attributes, until)
            }
            _ => inodes.meet(&key, dir, &attributes),
        };
        node.beside = beside;
        let entry = self.entry(node);
        inodes.looked_up(entry.ino);
        entry
    }

    fn looked(&self, found: (Option<Target>, Instant)) -> Looked {
        match found {
            (Some(target), _) => {
                let entry = self.adopt(target);
                self.record_reply(&entry);
                Looked::Found(entry)
            }
            (None, until) => Looked::Absent(until.since(self.now())),
        }
    }

    /// Answers a lookup from memory, counting it, or not at all.
    pub fn lookup_now(&self, parent: u64, name: &[u8]) -> Option<Op<Looked>> {
        if is_version(parent) || self.is_versions(name) {
            return self.version_lookup_now(parent);
        }
        let place = match self.place(parent, name) {
            Ok(place) => place,
            Err(f) if f.errno == Errno::NOENT => return Some(Ok(Looked::Absent(Duration::ZERO))),
            Err(fail) => return Some(Err(fail)),
        };
        Some(Ok(self.looked(self.target_now(&place, self.need(&place))?)))
    }

    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Op<Looked> {
        if is_version(parent) || self.is_versions(name) {
            return self.version_lookup(parent, name).await;
        }
        let prefix = || self.place(parent, name).map_or_else(|_| String::new(), |place| place.prefix());
        if !self.gate.wait_left(&self.context.rt, self.options().deadline, prefix).await {
            return Err(being_renamed());
        }
        let mut place = self.place(parent, name)?;
        loop {
            let found = self.target(&place, self.need(&place)).await?;
            // The directory may have been renamed meanwhile: what is not where it was is where that is.
            let now = self.place(parent, name)?;
            if now == place {
                return Ok(self.looked(found));
            }
            place = now;
        }
    }

    pub fn getattr_now(&self, ino: u64) -> Option<Op<Entry>> {
        if is_version(ino) {
            return self.version_getattr_now(ino);
        }
        let entry = {
            let inodes = self.inodes.lock();
            let Some(node) = inodes.get(ino) else { return Some(Err(Errno::STALE.into())) };
            // The kernel asks before its time when it would refuse: then a guess is not enough.
            let believed = node.until > self.now() && node.attributes.exact;
            let overrides = node.file.as_ref().is_some_and(|f| f.overrides_cache());
            let known = node.gone || node.visible_until > self.now() || believed || overrides;
            known.then(|| self.entry(node))
        };
        entry.inspect(|entry| self.record_reply(entry)).map(Ok)
    }

    pub async fn getattr(&self, ino: u64) -> Op<Entry> {
        if is_version(ino) {
            return self.version_getattr(ino).await;
        }
        for _ in 0..ROUNDS {
            if let Some(known) = self.getattr_now(ino) {
                return known;
            }
            let (key, dir) = {
                let inodes = self.inodes.lock();
                let node = inodes.get(ino).ok_or(Errno::STALE)?;
                (node.key.clone(), node.dir)
            };
            let (seq, until) = (self.name_cache.seq(), self.until(self.now()));
            let attributes = self.attributes_of(ino, &key, dir).await?;
            let mut inodes = self.inodes.lock();
            // Somebody here may have changed, renamed or removed it while we asked.
            let unchanged = inodes.get(ino).is_some_and(|n| n.key == key && !n.gone);
            if !unchanged || !self.name_cache.is_current(stem_of(&key, dir), seq) {
                continue;
            }
            let entry = match attributes {
                Some(attributes) => self.entry(inodes.learn(&key, dir, attributes, until)),
                None => Self::vanished(&inodes, ino, |n| self.entry(n))?,
            };
            drop(inodes);
            self.record_reply(&entry);
            return Ok(entry);
        }
        let entry = self.inodes.lock().get(ino).map(|n| self.entry(n)).ok_or(Errno::STALE)?;
        self.record_reply(&entry);
        Ok(entry)
    }

    /// Returns what the store says of a node; `None`: the store has nothing of that name.
    async fn attributes_of(&self, ino: u64, key: &str, dir: bool) -> Op<Option<Attributes>> {
        let head = if key.is_empty() { None } else { self.context.remote.head(key).await? };
        Ok(match head.filter(|head| !dir || head.size == 0) {
            Some(head) => Some(Attributes::of_head(self.options(), dir, &head)),
            None if ino == ROOT => Some(self.root.lock().clone()),
            None if dir && self.has_children(key).await? => {
                Some(Attributes { exact: true, ..self.default_attributes(true) })
            }
            None => None,
        })
    }

    async fn has_children(&self, prefix: &str) -> Result<bool> {
        Ok(self.has_objects(prefix).await? || !self.inodes.lock().local_below(prefix).is_empty())
    }

    /// Tells whether any object lies in a directory.
    async fn has_objects(&self, prefix: &str) -> Result<bool> {
        let max = if last(prefix).is_empty() { 1 } else { PAGE };
        let mut after = None;
        loop {
            let page = self.context.remote.list(prefix, after, false, max).await?;
            if page.objects.iter().any(|object| lies_in(prefix, &object.key)) {
                return Ok(true);
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    /// Returns what is told of a node that was removed elsewhere: who holds it open still sees what it was.
    fn vanished(inodes: &Inodes, ino: u64, entry: impl Fn(&Node) -> Entry) -> Op<Entry> {
        let node = inodes.get(ino).ok_or(Errno::STALE)?;
        match inodes.opens(ino) {
            0 => Err(Errno::NOENT.into()),
            _ => Ok(Entry { ttl: Duration::ZERO, ..entry(node) }),
        }
    }

    /// Fails with `ESTALE` where the kernel let somebody pass by what it was `told`, and the object is of
    /// another kind by now, or for others. The kernel then walks the path once more, and asks. Nothing that
    /// is known here says the same again.
    pub(super) fn check_shown_rights(
        &self,
        ino: u64,
        told: Option<Rights>,
        key: &str,
        is: &Attributes,
    ) -> Op<()> {
        if told.is_none_or(|told| told == is.rights()) {
            return Ok(());
        }
        let stem = stem_of(key, is.is_dir());
        self.name_cache.sampled(split(stem).0, Metadata::Rich);
        self.doubt(stem);
        // The kernel opened nothing: its pages are still those of what it knew.
        self.inodes.lock().get_mut(ino).into_iter().for_each(|node| node.cached = None);
        self.recall(ino);
        Err(Errno::STALE.into())
    }

    /// Fails with `ESTALE` where the kernel goes by another size than the object has, so that it walks the
    /// path once more and is told. Who copies without asking for the size (copy_file_range(2), sendfile(2))
    /// ends where the kernel believes the end to be. Who opens the file again at once is let in, as a file
    /// that changes all the time would never be opened.
    pub(super) fn check_known_size(&self, ino: u64, key: &str, size: u64) -> Op<()> {
        let now = self.now();
        {
            let mut inodes = self.inodes.lock();
            let node = inodes.get_mut(ino).ok_or(Errno::STALE)?;
            let as_known = node.known_size.is_none_or(|known| known == size);
            if as_known || node.size_doubted.is_some_and(|at| now.since(at) < SIZE_DOUBTS_APART) {
                return Ok(());
            }
            (node.size_doubted, node.cached) = (Some(now), None);
        }
        self.doubt(key);
        self.recall(ino);
        Err(Errno::STALE.into())
    }

    /// Publishes that a file's object is now what the file was when it set out. `arrive` makes the file
    /// clean, unless it has changed since, and returns what the object shows. From that moment on the tables
    /// answer.
    pub(super) fn publish_sent(&self, ino: u64, file: &Arc<OpenFile>, arrive: &dyn Fn() -> Attributes) {
        let was = file.attributes(self.options());
        let mut inodes = self.inodes.lock();
        let (attributes, until, key) = (arrive(), self.until(self.now()), file.key());
        let its = |n: &&mut Node| n.file.as_ref().is_some_and(|f| Arc::ptr_eq(f, file));
        let Some(node) = inodes.get_mut(ino).filter(its) else { return self.name_cache.forget(&key) };
        node.until = until;
        node.attributes = attributes.clone();
        node.known_size = Some(attributes.size);
        node.cached = attributes.etag.clone();
        if !node.gone {
            self.name_cache.changed(&key, self.now(), until, |seen| seen.object = Some(attributes.clone()));
        }
        drop(inodes);
        if (was.mtime, was.size) != (attributes.mtime, attributes.size) {
            self.recall(ino);
        }
    }
}

/// Returns the name, as a key, of a node that isn't a piece.
pub(super) fn stem_of(key: &str, dir: bool) -> &str {
    key.strip_suffix('/').filter(|_| dir).unwrap_or(key)
}

/// Chooses the object or directory that is meant: a directory wins over an object of its name, unless the
/// object is asked for.
fn choose(place: &NamedKey, seen: &CachedName, until: Instant, seq: ChangeSeq) -> Option<Target> {
    let seq = Some(seq);
    let object = || {
        let (key, beside, attributes) = (place.stem.clone(), seen.dir.is_some(), seen.object.clone()?);
        Some(Target { key, dir: false, beside, attributes, until, seq })
    };
    match (&place.wanted, &seen.dir) {
        (Wanted::Any(_), Some(attributes)) => {
            let (key, attributes) = (place.prefix(), attributes.clone());
            Some(Target { key, dir: true, beside: false, attributes, until, seq })
        }
        (Wanted::Any(_) | Wanted::Object(_), _) => object(),
        (Wanted::Piece(_), _) => None,
    }
}
