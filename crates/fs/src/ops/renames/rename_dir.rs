//! A directory's rename: one act, whatever requests it takes.
//!
//! It is written down on this host before its first request, and holds all that lies below both names until its end
//! (`ChangeGate`): calls of this host that change something there wait, and go to the new name. Every object is copied;
//! then this host's names become the new ones, in one step, which is written down too; then what was copied is deleted at
//! the old name. Before that step a failure takes the copies away again, after it the rename can only go on.
//!
//! An object is deleted only as one of a pair: a look just before shows the object and this act's copy of just that
//! (`act_mark`). What another client changed at the old name is copied too. What somebody else put at the new name stays,
//! and so does what wanted that name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use xxhash_rust::xxh3::xxh3_64;

use super::rename_end::end_behind;
use crate::bucket::{ActCopy, SeenObject, is_marker};
use crate::object::{Base, Errno, Fail, KEY_MAX, Op, in_one_moment, same_time, upload_hash};
use crate::ops::filesystem::Fs;
use crate::ops::recovery::is_unanswered_send;
use crate::staging::{FoundFile, FoundStages, Mark, Note, RenameIntent, RenameStage};
use crate::tree::Hold;
use windlass_base::rt::Instant;
use windlass_base::{Error, FastMap, Kind, Result};
use windlass_store::{Etag, Head, Listed, When};

const PAGE: usize = 1000;
const AT_ONCE: usize = 32;
/// Number of times that the old name is listed, after all was copied, for what was changed meanwhile.
const ROUNDS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Interval at which the log is told how far a rename is.
const TELL: Duration = Duration::from_secs(10);
/// Number of pages of the new name in which the copies of one page of the old one are looked for, before
/// single looks.
const PAGES_AHEAD: usize = 3;

/// An object as it was copied.
#[derive(Debug)]
struct Copied {
    etag: u64,
    modified_ms: Option<u64>,
    /// Etag of the copy, where it isn't the source's.
    other: Option<Etag>,
}

fn hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

impl Copied {
    fn new(source: &SeenObject, copy: Etag) -> Copied {
        let other = Some(copy).filter(|copy| *copy != source.etag);
        Copied { etag: hash(&source.etag.0), modified_ms: source.modified_ms, other }
    }

    /// Tells whether the listed object is what was copied, as far as a listing tells.
    fn is_of(&self, object: &Listed) -> bool {
        let unchanged = same_time(self.modified_ms, object.modified_ms);
        // Servers with real folders (SeaweedFS) tell other etags of markers here than there.
        (is_marker(object) || self.has(&object.etag)) && unchanged
    }

    /// Tells whether the copied object had this etag.
    fn has(&self, etag: &Etag) -> bool {
        self.etag == hash(&etag.0)
    }

    /// Tells whether the copy has this etag.
    fn is_copy(&self, etag: &Etag) -> bool {
        self.other.as_ref().map_or_else(|| self.has(etag), |other| other == etag)
    }

    fn copy(&self) -> Option<&Etag> {
        self.other.as_ref()
    }
}

/// Object that has an object's new name now.
#[derive(Debug)]
struct CopyNow {
    etag: Etag,
    modified_ms: Option<u64>,
}

/// Objects that were copied, by the hash of the old key.
type CopiedKeys = FastMap<u64, Copied>;

/// A directory's rename under way.
struct DirRename<'a> {
    fs: &'a Arc<Fs>,
    intent: RenameIntent,
    /// Path at which the intent is written.
    path: PathBuf,
    copied: CopiedKeys,
    /// Folders that keys lie in, and those folders that have markers.
    folders: [BTreeSet<String>; 2],
    /// Keys that can't be moved, since another object has the new name.
    stays: BTreeSet<String>,
    /// The marker of a directory that is renamed over another, which is replaced when all else was copied.
    marker: Option<Listed>,
    /// State of the deletes at the old name.
    swept: Swept,
    told: Instant,
}

/// State of the deletes at the old name of a directory's rename.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Swept {
    #[default]
    NotBegun,
    /// The store has refused the first ones, and all that was there is there.
    Refused,
    /// An object was deleted, or may have been.
    Begun,
}

impl<'a> DirRename<'a> {
    fn new(fs: &'a Arc<Fs>, path: PathBuf, intent: RenameIntent) -> DirRename<'a> {
        let (copied, folders, stays, marker, swept) = Default::default();
        DirRename { fs, intent, path, copied, folders, stays, marker, swept, told: fs.now() }
    }

    fn new_key(&self, key: &str) -> String {
        format!("{}{}", self.intent.to, &key[self.intent.from.len()..])
    }

    /// Copies all that there is. Copies under way when one fails are awaited: they would land behind the undoing.
    async fn copy_all(&mut self) -> Op<()> {
        let stop = AtomicBool::new(false);
        let goes_on = |_: &_| futures::future::ready(!stop.load(Ordering::Relaxed));
        let (fs, intent) = (self.fs, self.intent.clone());
        let mut marker = None;
        let mut goes = |object: &Listed| {
            let later = intent.over && is_marker(object) && object.key == intent.from;
            if later {
                marker = Some(object.clone());
            }
            futures::future::ready(!later)
        };
        let mut objects = fs
            .context
            .remote
            .all_below(&intent.from)
            .err_into::<Fail>()
            .take_while(goes_on)
            .try_filter(&mut goes);
        if fs.context.remote.copies_are_unknown() {
            // What the first copy shows of the store spares requests for the others.
            if let Some(first) = objects.try_next().await? {
                let fate = fs.copy_one(&intent, first, When::Absent).await?;
                self.note(fate);
            }
        }
        let copies = objects.map_ok(|object| fs.copy_one(&intent, object, When::Absent).boxed());
        let mut copies = copies.try_buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some(copy) = copies.next().await {
            match copy {
                Ok(fate) => self.note(fate),
                Err(why) => {
                    stop.store(true, Ordering::Relaxed);
                    failed = failed.or(Some(why));
                }
            }
        }
        drop(copies);
        self.marker = marker;
        failed.map_or(Ok(()), Err)
    }

    /// Replaces the marker at the new name by that of the directory which was renamed: a marker carries the
    /// mode, owner and times.
    async fn replace_marker(&mut self) -> Op<()> {
        let Some(marker) = self.marker.take() else { return Ok(()) };
        let fate = self.fs.copy_one(&self.intent, marker, When::Always).await?;
        self.note(fate);
        Ok(())
    }

    fn note(&mut self, (key, fate): (String, ActCopy)) {
        match fate {
            ActCopy::Gone => {}
            ActCopy::Taken => {
                let also = self.new_key(&key);
                tracing::warn!(key, also, "two objects want one name: both stay");
                self.stays.insert(key);
            }
            ActCopy::Made { source, copy } => {
                self.copied.insert(hash(&key), Copied::new(&source, copy));
                self.note_folders(&key);
            }
        }
        if self.fs.now().since(self.told) >= TELL {
            self.told = self.fs.now();
            let RenameIntent { from, to, .. } = &self.intent;
            tracing::info!(from, to, copied = self.copied.len(), "a directory is being renamed");
        }
    }

    fn note_folders(&mut self, key: &str) {
        let [all, marked] = &mut self.folders;
        if key.ends_with('/') {
            marked.insert(key.to_owned());
        }
        let mut rest = key.trim_end_matches('/');
        while let Some(end) = rest.rfind('/').filter(|end| end + 1 >= self.intent.from.len()) {
            if !all.insert(key[..=end].to_owned()) {
                return;
            }
            rest = &key[..end];
        }
    }

    /// Copies everything, so that the new name is in the bucket.
    async fn copy(&mut self) -> Op<()> {
        self.copy_all().await?;
        if let Some(key) = self.stays.iter().find(|key| !key.ends_with('/')) {
            // Somebody else is making a directory of the new name.
            let said = format!("{} was made by another client meanwhile", self.new_key(key));
            return Err(Fail { errno: Errno::NOTEMPTY, why: Some(Error::new(Kind::Exists, said)) });
        }
        self.replace_marker().await?;
        if self.copied.is_empty() {
            // A directory that only this mount still showed.
            self.fs.put_marker(&self.intent.to).await?;
        }
        Ok(())
    }

    /// Copies everything and writes that down. What fails before is written down too, and goes back.
    async fn copy_and_note(&mut self) -> Op<()> {
        let mut done = self.copy().await;
        if done.is_ok() {
            done = self.write_stage(RenameStage::Moved).await.map_err(Into::into);
        }
        if done.is_err() {
            self.turn_back().await;
        }
        done
    }

    /// Writes down that the rename goes back. Where the disk has no room for that, what was written before is
    /// removed: after a crash nobody goes on with a rename that was called failed.
    async fn turn_back(&mut self) {
        let Err(why) = self.write_stage(RenameStage::Back).await else { return };
        let path = self.path.display();
        tracing::warn!(%path, %why, "after a crash the copies of a failed rename would stay");
        if let Err(why) = self.fs.context.staging.forget_intent(&self.path).await {
            tracing::error!(%path, %why, "after a crash this rename would go on");
        }
    }

    async fn sweep_and_note(&mut self) -> Op<()> {
        self.write_stage(RenameStage::Deleting).await?;
        self.sweep_all().await
    }

    async fn write_stage(&mut self, stage: RenameStage) -> Result<()> {
        self.intent.stage = stage;
        self.fs.context.staging.rewrite_intent(&self.path, &self.intent).await
    }

    /// Deletes at the old name what was copied, and copies what was changed since, until nothing is left.
    async fn sweep_all(&mut self) -> Op<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ROUNDS {
            if self.sweep().await? {
                // What has no marker is nowhere when it is empty, but on a server with real folders.
                let [all, marked] = &self.folders;
                let is_sure = all.is_subset(marked);
                return match is_sure {
                    true => Ok(()),
                    false => Ok(self.fs.context.remote.remove_empty_folders(&self.intent.from).await?),
                };
            }
            self.fs.context.rt.sleep(pause).await;
            pause *= 2;
        }
        let RenameIntent { from, to, .. } = &self.intent;
        tracing::warn!(from, to, "what others change all the time stays at its old name");
        Ok(())
    }

    /// Looks once at what is left at the old name, and deletes what was copied. Returns true when nothing is
    /// left.
    async fn sweep(&mut self) -> Op<bool> {
        let (mut all, mut after, mut before, mut folders) = (true, None, None, Vec::new());
        loop {
            let page = self.fs.context.remote.list(&self.intent.from, after, false, PAGE).await?;
            after = page.next;
            let last = page.objects.last().map(|object| object.key.clone());
            let objects: Vec<Listed> =
                page.objects.into_iter().filter(|object| !self.stays.contains(&object.key)).collect();
            let copies = self.copies_of(&objects, before.take()).await?;
            before = last;
            let (mut same, mut changed, mut doubtful) = (Vec::new(), Vec::new(), Vec::new());
            for object in objects {
                let copied = self.copied.get(&hash(&object.key)).filter(|copied| copied.is_of(&object));
                let copy = copies.get(&self.new_key(&object.key));
                match (copied, copy) {
                    (Some(copied), Some(copy)) if is_marker(&object) || copied.is_copy(&copy.etag) => {
                        let looked = in_one_moment(object.modified_ms, copy.modified_ms);
                        if looked { doubtful.push((object, copy.etag.clone())) } else { same.push(object) }
                    }
                    _ => changed.push((object, copy.map(|copy| copy.etag.clone()))),
                }
            }
            for (object, copy, is_same) in self.look_closer(doubtful).await? {
                if is_same { same.push(object) } else { changed.push((object, Some(copy))) }
            }
            let (markers, mut same): (Vec<_>, Vec<_>) = same.into_iter().partition(is_marker);
            folders.extend(markers);
            if after.is_none() {
                same.append(&mut folders);
            }
            all &= self.remove_copied(same).await? && changed.is_empty();
            for (object, copy) in changed {
                self.copy_again(object, copy).await?;
            }
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Deletes objects that were copied, and notes what became of the first of them. Returns false when some
    /// names have other objects by now.
    async fn remove_copied(&mut self, objects: Vec<Listed>) -> Op<bool> {
        let remote = &self.fs.context.remote;
        if objects.is_empty() {
            return Ok(true);
        }
        if std::mem::replace(&mut self.swept, Swept::Begun) == Swept::Begun {
            return Ok(remote.remove_listed(objects).await?);
        }
        let removed = remote.remove_unless_refused(&self.intent.from, objects).await?;
        Ok(removed.inspect_err(|_| self.swept = Swept::Refused)?)
    }

    /// Returns the copies of these objects, all of one page, as they are now. `before`: the last key of the
    /// page before.
    async fn copies_of(&self, objects: &[Listed], before: Option<String>) -> Op<BTreeMap<String, CopyNow>> {
        let wanted: BTreeSet<String> = objects.iter().map(|object| self.new_key(&object.key)).collect();
        let mut found = BTreeMap::new();
        let mut after = before.map(|key| self.new_key(&key));
        for _ in 0..PAGES_AHEAD {
            if found.len() == wanted.len() {
                return Ok(found);
            }
            let page = self.fs.context.remote.list(&self.intent.to, after, false, PAGE).await?;
            let its = page.objects.into_iter().filter(|object| wanted.contains(&object.key));
            found.extend(
                its.map(|Listed { key, etag, modified_ms, .. }| (key, CopyNow { etag, modified_ms })),
            );
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // Other objects lie between them, or this server lists in an order of its own.
        let missing: Vec<String> = wanted.into_iter().filter(|key| !found.contains_key(key)).collect();
        let look = |key: String| async move {
            let head = self.fs.context.remote.head(&key).await?;
            Op::Ok(head.map(|Head { etag, modified_ms, .. }| (key, CopyNow { etag, modified_ms })))
        };
        let looks: Vec<_> = missing.into_iter().map(|key| look(key).boxed()).collect();
        let looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        let looked: Vec<Option<(String, CopyNow)>> = looks.try_collect().await?;
        found.extend(looked.into_iter().flatten());
        Ok(found)
    }

    /// Tells whether each object is what its copy, of this etag, was made of: what was changed in the very
    /// second shows by its metadata.
    async fn look_closer(&self, objects: Vec<(Listed, Etag)>) -> Op<Vec<(Listed, Etag, bool)>> {
        let look = |(object, copy): (Listed, Etag)| async move {
            let (remote, there) = (&self.fs.context.remote, self.new_key(&object.key));
            let (now, its) = futures::future::try_join(remote.head(&object.key), remote.head(&there)).await?;
            let upload = |head: Option<Head>| head.map(|head| upload_hash(&head.attrs));
            Op::Ok((object, copy, upload(now) == upload(its)))
        };
        let looks: Vec<_> = objects.into_iter().map(|object| look(object).boxed()).collect();
        futures::stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Copies an object that somebody else changed since it was copied, or whose copy somebody took away or
    /// replaced.
    async fn copy_again(&mut self, object: Listed, copy: Option<Etag>) -> Op<()> {
        let copied = self.copied.get(&hash(&object.key));
        let when = match copy {
            Some(copy) if copied.is_some_and(|copied| copied.is_copy(&copy)) => When::Matches(copy),
            _ => When::Absent,
        };
        let fate = self.fs.copy_one(&self.intent, object, when).await?;
        if let (key, ActCopy::Made { source, copy }) = &fate {
            let mut inodes = self.fs.inodes.lock();
            inodes.moved(&self.new_key(key), |was| *was == source.etag, copy, self.fs.now());
        }
        self.note(fate);
        Ok(())
    }
}

/// Moves every object below `old` to `new`. The caller holds both. `over`: `new` has a marker and nothing else.
pub(super) async fn move_all(fs: &Arc<Fs>, old: &str, new: &str, over: bool, hold: &Hold) -> Op<()> {
    if over {
        // What shows a directory's defaults must replace what shows others.
        fs.put_marker(old).await?;
    }
    let intent = RenameIntent::new(&fs.context.rt, old, new, over, fs.context.staging.generation);
    let path = fs.context.staging.write_intent(&intent).await?;
    let mut renaming = DirRename::new(fs, path, intent);
    if let Err(why) = renaming.copy_and_note().await {
        return Err(fs.leave_unfinished(renaming, why).await);
    }
    hold.leave(old);
    fs.names_moved(old, new, &renaming.copied).await;
    if let Err(why) = renaming.sweep_and_note().await {
        if renaming.swept == Swept::Refused {
            renaming.turn_back().await;
            fs.names_moved_back(old, new, &renaming.copied).await;
        }
        return Err(fs.leave_unfinished(renaming, why).await);
    }
    {
        let _nodes = fs.inodes.lock();
        fs.name_cache.forget_below(old);
    }
    fs.context.staging.remove_intent(&renaming.path).await;
    Ok(())
}

impl Fs {
    /// Makes the new names those of this host, and writes them into the notes of what is staged.
    async fn names_moved(self: &Arc<Self>, old: &str, new: &str, copied: &CopiedKeys) {
        {
            let mut inodes = self.inodes.lock();
            self.name_cache.forget_below(old);
            self.name_cache.forget_below(new);
            inodes.rename(old, new, true);
            let keys: Vec<String> =
                inodes.below(new).filter_map(|ino| inodes.get(ino)).map(|node| node.key.clone()).collect();
            for key in keys {
                let was = copied.get(&hash(&format!("{old}{}", &key[new.len()..])));
                if let Some((was, copy)) = was.and_then(|was| Some((was, was.copy()?))) {
                    inodes.moved(&key, |etag| was.has(etag), copy, self.now());
                }
            }
        }
        for (_, file) in self.open_below(new) {
            file.follow_or_warn(&self.context).await;
        }
    }

    /// Gives this host's names back to the old directory, of which nothing was deleted, and writes them into
    /// the notes of what is staged.
    async fn names_moved_back(self: &Arc<Self>, old: &str, new: &str, copied: &CopiedKeys) {
        let was_at = |key: &str| format!("{old}{}", &key[new.len()..]);
        let mut sources = BTreeMap::new();
        for (_, file) in self.open_below(new) {
            let key = was_at(&file.key());
            let Some(was) = copied.get(&hash(&key)).filter(|was| was.copy().is_some()) else { continue };
            // What can't be looked at is sent as if another had changed it, and so overwrites nothing.
            let head = self.context.remote.head(&key).await.ok().flatten();
            sources.extend(head.filter(|head| was.has(&head.etag)).map(|head| (key, head.etag)));
        }
        {
            let mut inodes = self.inodes.lock();
            self.name_cache.forget_below(old);
            self.name_cache.forget_below(new);
            inodes.rename(new, old, true);
            let nodes: Vec<u64> = inodes.below(old).collect();
            for ino in nodes {
                let Some(node) = inodes.get_mut(ino) else { continue };
                node.until = Default::default();
                let key = node.key.clone();
                if let Some((was, source)) = copied.get(&hash(&key)).zip(sources.get(&key)) {
                    inodes.moved(&key, |etag| was.is_copy(etag), source, self.now());
                }
            }
        }
        for (_, file) in self.open_below(old) {
            file.follow_or_warn(&self.context).await;
        }
    }

    async fn leave_unfinished(self: &Arc<Self>, renaming: DirRename<'_>, why: Fail) -> Fail {
        let DirRename { path, intent, .. } = renaming;
        let (from, to, goes_on) = (&intent.from, &intent.to, intent.stage != RenameStage::Back);
        tracing::warn!(
            from,
            to,
            goes_on,
            "a directory's rename failed: it is finished or undone in the background"
        );
        end_behind(self, path, intent).await;
        why
    }

    async fn copy_one(&self, intent: &RenameIntent, old: Listed, when: When) -> Op<(String, ActCopy)> {
        let new_key = format!("{}{}", intent.to, &old.key[intent.from.len()..]);
        if new_key.len() > KEY_MAX {
            let said = format!("{new_key} would be longer than a key can be");
            return Err(Fail { errno: Errno::NAMETOOLONG, why: Some(Error::new(Kind::Usage, said)) });
        }
        let Listed { key, size, etag, modified_ms } = old;
        let seen = SeenObject { etag, size, modified_ms, upload: None };
        let copied = self.context.remote.copy_for(&intent.act, &key, &new_key, Some(seen), when).await?;
        Ok((key, copied))
    }

    /// Goes on with the renames that an earlier mount began.
    pub(in crate::ops) async fn recover_renames(self: &Arc<Self>, found: &mut FoundStages) {
        for (path, intent) in std::mem::take(&mut found.renames) {
            let RenameIntent { from, to, stage, .. } = &intent;
            tracing::info!(from, to, ?stage, "ending a directory's rename that was cut off");
            let done = match stage {
                RenameStage::Copying => self.resume_rename(&path, &intent, &mut found.files).await,
                RenameStage::Moved => match self.notes_moved(&intent, &mut found.files).await {
                    Ok(()) => {
                        end_behind(self, path, intent.clone()).await;
                        Ok(())
                    }
                    // What is staged is known by the old names until then.
                    Err(why) => Err(why.into()),
                },
                RenameStage::Back | RenameStage::Deleting => {
                    end_behind(self, path, intent.clone()).await;
                    Ok(())
                }
            };
            if let Err(f) = done {
                tracing::error!(from, to, why = ?f.why, "a rename can't be ended yet: it is tried again");
            }
        }
    }

    /// Takes an earlier mount's rename up where it was cut off.
    async fn resume_rename(
        self: &Arc<Self>,
        path: &Path,
        intent: &RenameIntent,
        left: &mut [FoundFile],
    ) -> Op<()> {
        let mut renaming = DirRename::new(self, path.to_owned(), intent.clone());
        if let Err(why) = renaming.copy_and_note().await {
            // Whoever uses this mount sees the old name whole, and goes on there.
            return Err(self.leave_unfinished(renaming, why).await);
        }
        self.notes_moved(&renaming.intent, left).await?;
        if let Err(why) = renaming.sweep_and_note().await {
            return Err(self.leave_unfinished(renaming, why).await);
        }
        self.context.staging.remove_intent(path).await;
        Ok(())
    }

    /// Moves what was staged below a directory that was renamed to where the directory went. Its note says so
    /// before the rename is forgotten.
    async fn notes_moved(&self, intent: &RenameIntent, left: &mut [FoundFile]) -> Result<()> {
        let its = |left: &&mut FoundFile| left.note.mark != Mark::Sent && intent.is_of(&left.note);
        for left in left.iter_mut().filter(its) {
            let Some(rest) = left.note.key.strip_prefix(&intent.from) else { continue };
            let mut note = Note { key: format!("{}{rest}", intent.to), upload: None, ..left.note.clone() };
            if let Some(upload) = &left.note.upload {
                self.context.remote.abort(&left.note.key, upload).await;
            }
            let there = self.context.remote.head(&note.key).await?;
            if let (Some(base), Some(head)) = (&mut note.base, there) {
                let copied = intent.act.source_of(&head).as_ref() == Some(&base.etag);
                if copied || is_unanswered_send(left, &head) {
                    *base = Base { etag: head.etag, size: head.size };
                } else if base.etag != head.etag
                    && self
                        .context
                        .remote
                        .head(&left.note.key)
                        .await?
                        .is_some_and(|its| its.etag == base.etag)
                {
                    // Another object has the new name: this one stays, and what was written over it.
                    continue;
                }
            }
            // What may be torn stays known as that.
            left.stage.note(&note, !left.may_be_torn && left.stage.is_durable()).await?;
            left.note = note;
        }
        Ok(())
    }
}
