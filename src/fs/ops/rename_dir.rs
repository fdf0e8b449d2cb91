//! A directory's rename on its way: written down on this host before the first copy, so that no crash leaves it
//! half done for good. The next mount finishes it, or undoes the one that was being undone.
//!
//! An object is deleted at its old name only when its copy was verified and a fresh listing still shows what was copied.
//! After a crash it is deleted only when the object at the new name is that copy. What was changed or made at the
//! old name meanwhile is copied too. What somebody else put at the new name stays, and so does what wanted it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::sync::OwnedMutexGuard;
use xxhash_rust::xxh3::xxh3_64;

use super::filesystem::{Fs, fail};
use super::recovery::is_unanswered_send;
use crate::base::{FastMap, Kind, Result};
use crate::fs::object::{Base, Op, UploadToken};
use crate::fs::staging::{FoundFile, FoundStages, INTENT_FORMAT, Mark, Note, RenameIntent};
use crate::fs::tree::{ChangeSeq, Marker, UnfinishedRename};
use crate::store::{Etag, Head, Listed, When};

const PAGE: usize = 1000;
const AT_ONCE: usize = 32;
/// Attempts at an object that others change meanwhile.
const COPIES: usize = 5;

/// How often the old name is listed, after all was copied, for what was changed meanwhile.
const ROUNDS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Between attempts to end a rename that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The hash of each copied key, and the hash of the etag that it had then.
#[derive(Default)]
struct CopiedKeys(FastMap<u64, u64>);

impl CopiedKeys {
    fn add(&mut self, key: &str, etag: &Etag) {
        self.0.insert(xxh3_64(key.as_bytes()), xxh3_64(etag.0.as_bytes()));
    }

    fn has_key(&self, key: &str) -> bool {
        self.0.contains_key(&xxh3_64(key.as_bytes()))
    }

    fn has(&self, object: &Listed) -> bool {
        self.0.get(&xxh3_64(object.key.as_bytes())) == Some(&xxh3_64(object.etag.0.as_bytes()))
    }
}

/// What became of an object that was to be copied.
enum CopyOutcome {
    /// As which object it was copied, and the copy's etag.
    Copied(Listed, Etag),
    Gone,
    /// Somebody else's object has the new name.
    Stays(String),
}

/// An object that nodes know: its old key, its etag there and at its new name.
pub(super) struct CopiedNode {
    pub key: String,
    pub old: Etag,
    pub new: Etag,
}

/// A directory's rename under way.
struct DirRename<'a> {
    fs: &'a Fs,
    old: &'a str,
    new: &'a str,
    copied: CopiedKeys,
    /// Folders that keys lie in, and those of them that have markers.
    folders: [BTreeSet<String>; 2],
    nodes: Vec<CopiedNode>,
    /// Names that nobody here may change until the nodes have their new keys.
    held: BTreeSet<String>,
    holds: Vec<OwnedMutexGuard<()>>,
    /// What can't be moved.
    stays: BTreeSet<String>,
    /// The marker of a directory that is renamed over another, which is replaced when all else was copied.
    marker: Option<Listed>,
    over: bool,
    /// An object at the old name was deleted: the rename can only go on.
    deleted: bool,
}

/// What nodes have to know of a rename, and names that are held until they have their new keys.
pub(super) type RenamedNodes = (Vec<CopiedNode>, Vec<OwnedMutexGuard<()>>);

impl DirRename<'_> {
    /// Copies all that there is. Copies under way when one fails are awaited: they would land behind the undoing.
    async fn copy_all(&mut self) -> Op<()> {
        let stop = AtomicBool::new(false);
        let goes_on = |_: &_| futures::future::ready(!stop.load(Ordering::Relaxed));
        let (fs, old, new, over) = (self.fs, self.old, self.new, self.over);
        let mut marker = None;
        let mut goes = |object: &Listed| {
            let later = over && object.key == old;
            if later {
                marker = Some(object.clone());
            }
            futures::future::ready(!later)
        };
        let objects = fs.all_below(old).take_while(goes_on).try_filter(&mut goes);
        let copies = objects.map_ok(|object| fs.copy_one(object, old, new, &When::Absent).boxed());
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

    /// The marker carries a directory's mode, owner and times: that of the directory which was renamed takes the place of
    /// the other's. Nothing of the replaced one is left then, so that a rename that fails from here on goes forward.
    async fn replace_marker(&mut self) -> Op<()> {
        let Some(marker) = self.marker.take() else { return Ok(()) };
        self.deleted = true;
        let fate = self.fs.copy_one(marker, self.old, self.new, &When::Always).await?;
        self.note(fate);
        Ok(())
    }

    fn note(&mut self, fate: CopyOutcome) {
        match fate {
            CopyOutcome::Gone => {}
            CopyOutcome::Stays(key) => drop(self.stays.insert(key)),
            CopyOutcome::Copied(old, new_etag) => {
                self.copied.add(&old.key, &old.etag);
                self.note_folders(&old.key);
                if self.fs.inodes.lock().at(&old.key, false).is_some() {
                    self.nodes.push(CopiedNode { key: old.key, old: old.etag, new: new_etag });
                }
            }
        }
    }

    fn note_folders(&mut self, key: &str) {
        let [all, marked] = &mut self.folders;
        if key.ends_with('/') {
            marked.insert(key.to_owned());
        }
        let mut rest = key.trim_end_matches('/');
        while let Some(end) = rest.rfind('/').filter(|end| end + 1 >= self.old.len()) {
            if !all.insert(key[..=end].to_owned()) {
                return;
            }
            rest = &key[..end];
        }
    }

    /// Deletes at the old name what was copied, and copies what was changed since, until nothing is left.
    async fn sweep_all(&mut self) -> Op<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ROUNDS {
            if self.sweep().await? {
                // What has no marker is nowhere when it is empty, but on a server with real folders.
                let [all, marked] = &self.folders;
                let is_sure = all.is_subset(marked);
                return if is_sure { Ok(()) } else { self.fs.remove_empty_folders(self.old).await };
            }
            self.fs.context.rt.sleep(pause).await;
            pause *= 2;
        }
        tracing::warn!(from = self.old, to = self.new, "what is changed all the time stays at its old name");
        Ok(())
    }

    /// One look at what is left at the old name; true when nothing is.
    async fn sweep(&mut self) -> Op<bool> {
        let (mut all, mut after, mut folders) = (true, None, Vec::new());
        loop {
            let seq = self.fs.name_cache.seq();
            let page = self.fs.context.remote.list(self.old, after, false, PAGE).await?;
            after = page.next;
            let (mut same, mut changed) = (Vec::new(), Vec::new());
            for object in page.objects {
                if self.stays.contains(&object.key) {
                    continue;
                }
                if !self.try_lock(&object.key, seq) {
                    all = false;
                } else if !self.copied.has(&object) {
                    changed.push(object);
                } else if object.key.ends_with('/') {
                    folders.push((object.key, object.etag));
                } else {
                    same.push((object.key, object.etag));
                }
            }
            if after.is_none() {
                same.append(&mut folders);
            }
            same.sort_by(inner_first);
            for same in same.chunks(PAGE) {
                self.know_opened(same).await?;
                self.deleted = true;
                all &= self.fs.context.remote.delete_same(same).await?;
            }
            all &= changed.is_empty();
            for object in changed {
                let when = if self.copied.has_key(&object.key) { When::Always } else { When::Absent };
                let fate = self.fs.copy_one(object, self.old, self.new, &when).await?;
                self.note(fate);
            }
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Nobody here changes the object from now on. False: somebody is at it, or has changed it since it was listed.
    /// That is not waited for: who has the name may wait for one that this rename holds.
    fn try_lock(&mut self, key: &str, listed: ChangeSeq) -> bool {
        if !self.held.contains(key) {
            match self.fs.try_lock_name(key) {
                Err(_) => return false,
                Ok(None) => {}
                Ok(Some(hold)) => {
                    self.holds.push(hold);
                    self.held.insert(key.to_owned());
                }
            }
        }
        self.fs.name_cache.is_current(key, listed)
    }

    /// Files that were opened after they were copied go on with the copies.
    async fn know_opened(&mut self, objects: &[(String, Etag)]) -> Op<()> {
        for (key, etag) in objects {
            let open = self.fs.inodes.lock().at(key, false).is_some_and(|n| n.file.is_some());
            if open && !self.nodes.iter().any(|nodes| nodes.key == *key && nodes.old == *etag) {
                let there = format!("{}{}", self.new, &key[self.old.len()..]);
                let head = self.fs.context.remote.head(&there).await?;
                let nodes = head.map(|h| CopiedNode { key: key.clone(), old: etag.clone(), new: h.etag });
                self.nodes.extend(nodes);
            }
        }
        Ok(())
    }
}

/// A folder goes after what is in it: a server that has real folders (SeaweedFS) keeps one that is not empty, and goes on
/// listing it.
fn inner_first(a: &(String, Etag), b: &(String, Etag)) -> std::cmp::Ordering {
    b.0.cmp(&a.0)
}

impl Fs {
    /// Moves every object below `old` to `new`. `held`: names that the caller holds. `over`: `new` has a marker and nothing
    /// else.
    pub(super) async fn move_all(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        held: BTreeSet<String>,
        over: bool,
    ) -> Op<RenamedNodes> {
        if over {
            // What shows a directory's defaults must replace what shows others.
            self.put_marker(old).await?;
        }
        let mut intent = RenameIntent {
            format: INTENT_FORMAT,
            from: old.to_owned(),
            to: new.to_owned(),
            back: false,
            over,
        };
        let staging = &self.context.staging;
        let path = staging.write_intent(&intent).await?;
        let (copied, folders, nodes, holds, stays, marker) = Default::default();
        let deleted = false;
        let mut renaming = DirRename {
            fs: self,
            old,
            new,
            copied,
            folders,
            nodes,
            held,
            holds,
            stays,
            marker,
            over,
            deleted,
        };
        let mut done = renaming.copy_all().await;
        if done.is_ok() {
            done = renaming.replace_marker().await;
        }
        if done.is_ok() {
            if renaming.copied.0.is_empty() {
                // A directory that only this mount still showed: its new name must be in the bucket.
                done = self.put_marker(new).await;
            }
            done = done.and(renaming.sweep_all().await);
        }
        let DirRename { nodes, holds, deleted, .. } = renaming;
        if let Err(why) = done {
            let (delete_from, present_at) = if deleted { (old, new) } else { (new, old) };
            if !deleted {
                intent.back = true;
                staging.rewrite_intent(&path, &intent).await?;
            }
            tracing::warn!(
                from = old,
                to = new,
                finished = deleted,
                "a directory's rename failed: it is finished or undone in the background"
            );
            self.finish_behind(path, delete_from, present_at, Marker::of(over, !deleted)).await;
            return Err(why);
        }
        staging.remove_intent(&path).await;
        Ok((nodes, holds))
    }

    /// Deletes what is below `delete_from` and also below `present_at`: at once if the store can, or when it can again.
    /// The intent at `path` is removed then.
    pub(super) async fn finish_behind(
        self: &Arc<Self>,
        path: PathBuf,
        delete_from: &str,
        present_at: &str,
        marker: Marker,
    ) {
        let unfinished = Arc::new(UnfinishedRename::new(path, delete_from, present_at, marker));
        self.unfinished_renames.lock().push(unfinished.clone());
        if self.try_finish(&unfinished).await.is_ok() {
            return;
        }
        let (fs, busy) = (self.clone(), self.busy());
        let work = async move {
            let mut unmounting = fs.writeback.unmounting.subscribe();
            while fs.context.rt.timeout(PAUSE, unmounting.wait_for(|unmounting| *unmounting)).await.is_none()
            {
                if fs.try_finish(&unfinished).await.is_ok() {
                    break;
                }
            }
            drop(busy);
        };
        self.context.rt.spawn(work).detach();
    }

    async fn try_finish(&self, unfinished: &Arc<UnfinishedRename>) -> Op<()> {
        let mut progress = unfinished.progress.lock().await;
        if !progress.done {
            let UnfinishedRename { delete_from, present_at, marker, .. } = &**unfinished;
            self.finish_rename((delete_from, present_at), *marker, true, &progress.exempted).await?;
            self.context.staging.remove_intent(&unfinished.path).await;
            progress.done = true;
        }
        self.unfinished_renames.lock().retain(|other| !Arc::ptr_eq(other, unfinished));
        Ok(())
    }

    /// Before directories are renamed: whatever failed at these names is ended.
    pub(super) async fn finish_before(&self, prefixes: [&str; 2]) -> Op<()> {
        let overlaps =
            |unfinished: &&Arc<UnfinishedRename>| prefixes.iter().any(|prefix| unfinished.overlaps(prefix));
        let all: Vec<_> = self.unfinished_renames.lock().iter().filter(overlaps).cloned().collect();
        for unfinished in all {
            self.try_finish(&unfinished).await.map_err(|failed| {
                let why = failed.why.map_or_else(String::new, |why| format!(": {why}"));
                let (delete_from, present_at) = (&unfinished.delete_from, &unfinished.present_at);
                let said = format!(
                    "a rename between {present_at} and {delete_from} failed and can't be undone yet{why}; try again"
                );
                fail(Kind::Unavailable, said)
            })?;
        }
        Ok(())
    }

    fn all_below<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Op<Listed>> {
        let pages =
            futures::stream::try_unfold(Some(None), move |after: Option<Option<String>>| async move {
                let Some(after) = after else { return Ok(None) };
                let page = self.context.remote.list(prefix, after, false, PAGE).await?;
                Op::Ok(Some((page.objects, page.next.map(Some))))
            });
        pages.map_ok(|objects| futures::stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// What somebody changed since it was listed is copied as it is now.
    async fn copy_one(&self, mut old: Listed, from: &str, to: &str, when: &When) -> Op<CopyOutcome> {
        let new_key = format!("{to}{}", &old.key[from.len()..]);
        if new_key.len() > crate::fs::object::KEY_MAX {
            return Err(fail(Kind::Invalid, format!("{new_key} would be longer than a key can be")));
        }
        for _ in 0..COPIES {
            let base = Base { etag: old.etag.clone(), size: old.size };
            match self.context.remote.copy(&old.key, &new_key, &base, when).await {
                Ok(new_etag) => return Ok(CopyOutcome::Copied(old, new_etag)),
                Err(why) if why.is(Kind::Exists) => return self.copied_before(old, &new_key).await,
                Err(why) if why.is(Kind::Refused) || why.is(Kind::NotFound) => {}
                Err(why) => return Err(why.into()),
            }
            let Some(head) = self.context.remote.head(&old.key).await? else { return Ok(CopyOutcome::Gone) };
            (old.etag, old.size) = (head.etag, head.size);
        }
        Err(fail(Kind::Refused, format!("{} changes all the time: it can't be moved now", old.key)))
    }

    /// The new name is taken: by a copy whose answer was lost, or by somebody else's object.
    async fn copied_before(&self, old: Listed, new_key: &str) -> Op<CopyOutcome> {
        let head = self.context.remote.head(new_key).await?;
        if let Some(head) = head
            && self.is_copy(&old, &head).await?
        {
            return Ok(CopyOutcome::Copied(old, head.etag));
        }
        tracing::warn!(key = old.key, also = new_key, "two objects want one name: both stay");
        Ok(CopyOutcome::Stays(old.key))
    }

    /// Ends the renames that an earlier mount began.
    pub(super) async fn recover_renames(&self, found: &mut FoundStages) {
        for (path, begun) in std::mem::take(&mut found.renames) {
            let RenameIntent { from, to, back, over, format: _ } = &begun;
            tracing::info!(from, to, back, "ending a directory's rename that was cut off");
            let (delete_from, present_at) = if *back { (to, from) } else { (from, to) };
            let ended = async {
                self.finish_rename(
                    (delete_from, present_at),
                    Marker::of(*over, *back),
                    *back,
                    &BTreeSet::new(),
                )
                .await?;
                if !back {
                    self.follow(&mut found.files, from, to).await?;
                }
                Op::Ok(())
            };
            match ended.await {
                Ok(()) => self.context.staging.remove_intent(&path).await,
                Err(f) => {
                    tracing::error!(from, to, why = ?f.why, "a rename can't be ended yet: the next mount tries")
                }
            }
        }
    }

    /// What was closed below a directory while that was renamed goes where the directory went; its note says so before the
    /// rename is forgotten.
    async fn follow(&self, left: &mut [FoundFile], from: &str, to: &str) -> Result<()> {
        for left in left.iter_mut().filter(|left| left.note.mark != Mark::Sent) {
            let Some(rest) = left.note.key.strip_prefix(from) else { continue };
            if self.context.remote.head(&left.note.key).await?.is_some() {
                continue;
            }
            let mut note = Note { key: format!("{to}{rest}"), upload: None, ..left.note.clone() };
            if let Some(upload) = &left.note.upload {
                self.context.remote.abort(&left.note.key, upload).await;
            }
            let there = self.context.remote.head(&note.key).await?;
            if let (Some(base), Some(head)) = (&mut note.base, there)
                && is_unanswered_send(left, &head)
            {
                *base = Base { etag: head.etag, size: head.size };
            }
            // What may be torn stays known as that.
            left.stage.note(&note, !left.may_be_torn && left.stage.is_durable()).await?;
            left.note = note;
        }
        Ok(())
    }

    /// Deletes what is below `delete_from` once the same is below `present_at`; copies it there first, unless
    /// `only_same`. What is in `exempted` stays.
    pub(super) async fn finish_rename(
        &self,
        (delete_from, present_at): (&str, &str),
        marker: Marker,
        only_same: bool,
        exempted: &BTreeSet<String>,
    ) -> Op<()> {
        let mut own = None;
        let mut goes = |object: &Listed| {
            let its = marker != Marker::AsAll && object.key == delete_from;
            if its && marker == Marker::Replaces && !exempted.contains(&object.key) {
                own = Some(object.clone());
            }
            futures::future::ready(!its && !exempted.contains(&object.key))
        };
        let ends = self.all_below(delete_from).try_filter(&mut goes);
        let ends =
            ends.map_ok(|object| self.finish_object(object, delete_from, present_at, only_same).boxed());
        let mut ends =
            ends.try_buffer_unordered(AT_ONCE).try_filter_map(|key| futures::future::ready(Ok(key)));
        let mut done = Vec::new();
        while let Some(key) = ends.next().await {
            done.push(key?);
        }
        drop(ends);
        if let Some(own) = own {
            let fate = self.copy_one(own, delete_from, present_at, &When::Always).await?;
            if let CopyOutcome::Copied(old, _) = fate {
                done.push((old.key, old.etag));
            }
        }
        done.sort_by(inner_first);
        for objects in done.chunks(PAGE) {
            self.context.remote.delete_same(objects).await?;
        }
        if exempted.is_empty() {
            self.remove_empty_folders(delete_from).await?;
        }
        let _nodes = self.inodes.lock();
        self.name_cache.forget_below(delete_from);
        Ok(())
    }

    /// Those that a server with real folders still shows below `prefix`, though no key lies in them. Elsewhere there are none.
    /// Such a server (SeaweedFS) lists an empty folder in itself, with an etag that no object has: none.
    async fn remove_empty_folders(&self, prefix: &str) -> Op<()> {
        let (mut open, mut empty, mut full) = (vec![prefix.to_owned()], Vec::new(), BTreeSet::new());
        while let Some(folder) = open.pop() {
            let (mut after, mut is_there, mut has_objects) = (None, false, false);
            loop {
                let page = self.context.remote.list(&folder, after, true, PAGE).await?;
                is_there |= !page.objects.is_empty() || !page.prefixes.is_empty();
                has_objects |= page.objects.iter().any(|o| o.key != folder || !o.etag.0.is_empty());
                open.extend(page.prefixes);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if has_objects {
                full.insert(folder);
            } else if is_there {
                empty.push(folder);
            }
        }
        // What somebody else has made meanwhile stays, with all that it lies in.
        empty.retain(|folder| !full.range(folder.clone()..).next().is_some_and(|f| f.starts_with(folder)));
        empty.sort_by(|a, b| b.cmp(a));
        for folders in empty.chunks(PAGE) {
            self.context.remote.delete(folders).await?;
        }
        Ok(())
    }

    /// The object, if it may be deleted.
    async fn finish_object(
        &self,
        object: Listed,
        delete_from: &str,
        present_at: &str,
        only_same: bool,
    ) -> Op<Option<(String, Etag)>> {
        let remote = &self.context.remote;
        let there = format!("{present_at}{}", &object.key[delete_from.len()..]);
        let base = Base { etag: object.etag.clone(), size: object.size };
        let head = match remote.head(&there).await? {
            None if only_same => return Ok(None),
            None => match remote.copy(&object.key, &there, &base, &When::Absent).await {
                Ok(_) => return Ok(Some((object.key, object.etag))),
                // By a copy of the mount that was cut off, which came only now, or by somebody else.
                Err(why) if why.is(Kind::Exists) => remote.head(&there).await?,
                Err(why) if why.is(Kind::Refused) => return Ok(None),
                Err(why) => return Err(why.into()),
            },
            there => there,
        };
        let Some(head) = head else { return Ok(None) };
        let same = self.is_copy(&object, &head).await?;
        if !same {
            tracing::warn!(key = object.key, also = there, "two objects want one name: both stay");
        }
        Ok(same.then_some((object.key, object.etag)))
    }

    async fn is_copy(&self, object: &Listed, there: &Head) -> Result<bool> {
        if object.size != there.size {
            return Ok(false);
        }
        // Markers are folders and nothing else: a server that has real ones makes them of itself for what lies in them.
        if object.etag == there.etag || object.size == 0 && object.key.ends_with('/') {
            return Ok(true);
        }
        // Copies in parts have other etags; what we wrote is signed.
        let Some(head) = self.context.remote.head(&object.key).await? else { return Ok(false) };
        let (a, b) = (UploadToken::of(&head.attrs, head.size), UploadToken::of(&there.attrs, there.size));
        Ok(a.is_some() && a == b && head.etag == object.etag)
    }
}
