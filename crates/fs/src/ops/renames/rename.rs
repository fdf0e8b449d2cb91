//! Renaming: copied server-side, and then the old name is deleted, after a look at both names.
//!
//! Not atomic, as the bucket knows no rename: whoever looks in between sees both. Only what was closed or synced is
//! published: a file that is being written goes with its own close, to the name that it has by then.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::rename_dir::move_all;
use super::rename_end::end_before;
use crate::bucket::{ActCopy, Doomed, SeenObject};
use crate::file::{BytesHeld, OpenFile, Purpose};
use crate::object::{ActToken, Attributes, Base, Errno, Fail, Meta as _, Ns, Op, type_of};
use crate::ops::filesystem::{Fs, fail};
use crate::ops::lookup::{NamedKey, Need, ROUNDS, Target};
use crate::tree::Hold;
use windlass_base::Kind;
use windlass_store::{Etag, When};

impl Fs {
    pub async fn rename(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        no_replace: bool,
    ) -> Op<()> {
        self.rename_named((parent, name), (new_parent, new_name), no_replace).await.map_err(conflict_is_told)
    }

    async fn rename_named(
        self: &Arc<Self>,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        no_replace: bool,
    ) -> Op<()> {
        self.writable_in(parent, name)?;
        self.writable_in(new_parent, new_name)?;
        let pass = self.pass_names(&[(parent, name), (new_parent, new_name)]).await?;
        let (_, source) = self.existing(parent, name).await?;
        if !source.dir {
            let to = self.new_place(new_parent, new_name)?;
            let Some(there) = self.replaceable(&source, &to, no_replace).await? else { return Ok(()) };
            return self.rename_file(&source, &to, there, no_replace).await;
        }
        // A directory is held, with all that it contains.
        drop(pass);
        let places = || Op::Ok((self.place(parent, name)?, self.new_place(new_parent, new_name)?));
        for _ in 0..ROUNDS {
            let (from, to) = places()?;
            let hold = self.gate.hold([&from.prefix(), &to.prefix()]).await;
            if places()? != (from.clone(), to.clone()) {
                continue;
            }
            let (_, source) = self.existing(parent, name).await?;
            if !source.dir {
                return Err(Errno::STALE.into());
            }
            return match self.replaceable(&source, &to, no_replace).await? {
                Some(_) => self.rename_dir(&from, &to, no_replace, &hold).await,
                None => Ok(()),
            };
        }
        Err(Errno::STALE.into())
    }

    /// Returns what stands at the new name and may be replaced. The outer `None`: the new name is the old
    /// one.
    async fn replaceable(
        &self,
        source: &Target,
        to: &NamedKey,
        no_replace: bool,
    ) -> Op<Option<Option<Target>>> {
        let (there, _) = self.target(to, Need::Presence).await?;
        if no_replace && there.is_some() {
            return Err(Errno::EXIST.into());
        }
        match (&there, source.dir) {
            (Some(t), _) if t.key == source.key => Ok(None),
            (Some(t), true) if !t.dir => Err(Errno::NOTDIR.into()),
            (Some(t), false) if t.dir => Err(Errno::ISDIR.into()),
            _ => Ok(Some(there)),
        }
    }

    async fn rename_file(
        self: &Arc<Self>,
        source: &Target,
        to: &NamedKey,
        there: Option<Target>,
        no_replace: bool,
    ) -> Op<()> {
        let (old, new) = (&source.key, &to.stem);
        let file = self.open_at(old);
        if let Some((_, ino, file)) = file.as_ref().filter(|(.., file)| file.has_unsent_close()) {
            // What was closed goes first. What is being written goes with its own close, to the name that it has then.
            self.send_passed(*ino, file, Purpose::ClosedVersion).await?;
        }
        let replaced = self.open_at(new).filter(|_| there.is_some());
        if let Some((_, ino, file)) = replaced.as_ref().filter(|(.., file)| file.has_unsent_close()) {
            self.send_passed(*ino, file, Purpose::ClosedVersion).await?;
        }
        let held = self.lock_both(old, new).await?;
        let mut kept = Vec::new();
        if let Some((.., file)) = &file {
            kept.push(BytesHeld::of(file).await?);
            file.recall_unheard(&self.context).await?;
            file.refresh_note(&self.context).await?;
        }
        if let Some((.., replaced)) = &replaced {
            self.detach(replaced).await?;
        }
        match file.as_ref().filter(|(.., file)| file.is_local()) {
            Some((.., file)) => {
                let there = replaced.as_ref().map_or_else(
                    || there.as_ref().and_then(|there| base_of(&there.attributes)),
                    |(.., replaced)| replaced.base(),
                );
                self.rename_local(old, new, there, file).await;
            }
            None => {
                let file = file.as_ref().map(|(.., file)| &**file);
                self.rename_object(source, (new, there.as_ref()), no_replace, file).await?
            }
        }
        if let Some((_, ino, replaced)) = &replaced {
            self.release_unread_fds(*ino, replaced);
        }
        if let Some((.., file)) = &file {
            file.follow_or_warn(&self.context).await;
        }
        drop((held, kept));
        self.keep_parent(old);
        Ok(())
    }

    /// Gives a file that is no object yet another name here. What it replaces stays in the bucket until the
    /// file's close, which then replaces it.
    async fn rename_local(&self, old: &str, new: &str, there: Option<Base>, file: &OpenFile) {
        if let Some(replaced) = self.dropped(new, None) {
            replaced.discard(&self.context).await;
        }
        match there {
            Some(there) => file.replaces(there),
            None => file.follow_removed(&self.context, new),
        }
        let mut inodes = self.inodes.lock();
        let now = self.now();
        self.name_cache.changed(old, now, now + self.options().negative_ttl, |seen| seen.object = None);
        self.name_cache.forget(new);
        inodes.rename(old, new, false);
    }

    /// Copies the object, and deletes it at its old name.
    async fn rename_object(
        &self,
        source: &Target,
        (new, there): (&str, Option<&Target>),
        no_replace: bool,
        file: Option<&OpenFile>,
    ) -> Op<()> {
        let old = &source.key;
        let act = ActToken::new(&self.context.rt);
        let failed = |_: &_| {
            self.doubt(old);
            self.doubt(new);
        };
        // What is open may be newer than what is known of its name.
        let seen = if file.is_none() { seen_of(&source.attributes) } else { None };
        let copied = match no_replace {
            true => self.copy_file(&act, old, new, seen, When::Absent).await,
            false => self.copy_over(&act, (old, new), there, seen).await,
        };
        let copied = copied.inspect_err(failed)?;
        let attributes_of = |(source_now, copy): &(SeenObject, Etag)| {
            let (etag, size, stored) = (Some(copy.clone()), source_now.size, None);
            Attributes { etag, size, stored, ..source.attributes.clone() }
        };
        // Until the old name is gone the rename may fail, and who writes the replaced file is told by a conflict then.
        let copied = self.remove_moved(&act, (old, new), copied, file).await.inspect_err(failed)?;
        if let Some(replaced) = self.dropped(new, Some(&attributes_of(&copied))) {
            replaced.discard(&self.context).await;
        }
        let (attributes, (from, copy)) = (attributes_of(&copied), copied);
        let mut inodes = self.inodes.lock();
        let now = self.now();
        self.name_cache.changed(old, now, now + self.options().negative_ttl, |seen| seen.object = None);
        self.name_cache.changed(new, now, self.until(now), |seen| {
            seen.object = Some(attributes.clone());
        });
        inodes.rename(old, new, false);
        inodes.moved(new, |was| *was == from.etag, &copy, now);
        Ok(())
    }

    /// Locks two names, in an order that everybody keeps: what is on its way to either arrives first.
    async fn lock_both(self: &Arc<Self>, a: &str, b: &str) -> Op<[Option<OwnedMutexGuard<()>>; 2]> {
        let held = self.lock_name(a.min(b)).await;
        Ok([held, self.lock_name(a.max(b)).await])
    }

    /// Deletes the old name as `remove_copied` does, of an object that may be open. What is staged of it is
    /// known by the new name before the old one goes, and by the old one if that stays.
    async fn remove_moved(
        &self,
        act: &ActToken,
        (old, new): (&str, &str),
        copied: (SeenObject, Etag),
        file: Option<&OpenFile>,
    ) -> Op<(SeenObject, Etag)> {
        if let Some(file) = file {
            let (SeenObject { etag, size, .. }, copy) = (&copied.0, copied.1.clone());
            if let Err(why) = file.note_copy(&self.context, etag, new, Base { etag: copy, size: *size }).await
            {
                tracing::warn!(key = old, %why, "after a crash what was written would become a conflict copy");
            }
        }
        let removed = self.remove_copied(act, old, new, copied).await;
        if let Some(file) = file.filter(|_| removed.is_err()) {
            file.follow_or_warn(&self.context).await;
        }
        removed
    }

    /// Deletes the old name, if it and its copy still are what they were. What another client put there meanwhile is copied
    /// too.
    async fn remove_copied(
        &self,
        act: &ActToken,
        old: &str,
        new: &str,
        mut copied: (SeenObject, Etag),
    ) -> Op<(SeenObject, Etag)> {
        let remote = &self.context.remote;
        for _ in 0..ROUNDS {
            let (source, copy) = futures::future::try_join(remote.head(old), remote.head(new)).await?;
            let Some(source) = source else { return Ok(copied) };
            let Some(copy) = copy.filter(|copy| copy.etag == copied.1) else {
                let said = format!("{new} was replaced or taken away by another client: {old} stays");
                return Err(fail(Kind::Refused, said));
            };
            if !copied.0.is_still(&source, &copy) {
                let when = When::Matches(copied.1);
                copied = self.copy_file(act, old, new, Some(SeenObject::of(&source)), when).await?;
            } else if remote.remove(&[Doomed::of(old, &source)]).await?.is_empty() {
                return Ok(copied);
            }
        }
        Err(fail(Kind::Refused, format!("{old} changes all the time: it can't be moved now")))
    }

    /// Copies over what has the new name, and nothing else. A copy that arrives late, when the rename has
    /// failed, finds what was put there since, and does nothing.
    async fn copy_over(
        &self,
        act: &ActToken,
        (old, new): (&str, &str),
        there: Option<&Target>,
        seen: Option<SeenObject>,
    ) -> Op<(SeenObject, Etag)> {
        let known = match there {
            None => Some(When::Absent),
            Some(there) => there.attributes.etag.clone().map(When::Matches),
        };
        let look = async || {
            Op::Ok(
                self.context.remote.head(new).await?.map_or(When::Absent, |there| When::Matches(there.etag)),
            )
        };
        let mut when = match known {
            Some(when) => when,
            None => look().await?,
        };
        for _ in 0..ROUNDS {
            if let Some(copied) = self.try_copy(act, old, new, seen.clone(), when).await? {
                return Ok(copied);
            }
            when = look().await?;
        }
        Err(fail(Kind::Refused, format!("{new} changes all the time: {old} can't be moved there now")))
    }

    /// Copies what the source is now: if it isn't what was last seen, it is looked at again.
    async fn copy_file(
        &self,
        act: &ActToken,
        old: &str,
        new: &str,
        seen: Option<SeenObject>,
        when: When,
    ) -> Op<(SeenObject, Etag)> {
        let absent = when == When::Absent;
        match self.try_copy(act, old, new, seen, when).await? {
            Some(copied) => Ok(copied),
            None if absent => Err(Errno::EXIST.into()),
            None => Err(fail(Kind::Refused, format!("{new} was replaced by another client: {old} stays"))),
        }
    }

    /// Tries to copy; `None`: what has the new name is not what `when` says.
    async fn try_copy(
        &self,
        act: &ActToken,
        old: &str,
        new: &str,
        seen: Option<SeenObject>,
        when: When,
    ) -> Op<Option<(SeenObject, Etag)>> {
        if type_of(old) != type_of(new) {
            return self.copy_retyped(act, old, new, &when).await;
        }
        match self.context.remote.copy_for(act, old, new, seen, when).await? {
            ActCopy::Made { source, copy } => Ok(Some((source, copy))),
            ActCopy::Gone => Err(Errno::NOENT.into()),
            ActCopy::Taken => Ok(None),
        }
    }

    /// Copies the object and gives it the type of its new name: `page.html.tmp` becomes `page.html`. A type
    /// that its old name does not say was somebody's own choice, and stays.
    async fn copy_retyped(
        &self,
        act: &ActToken,
        old: &str,
        new: &str,
        when: &When,
    ) -> Op<Option<(SeenObject, Etag)>> {
        let remote = &self.context.remote;
        let head = remote.head(old).await?.ok_or(Errno::NOENT)?;
        let (seen, base) = (SeenObject::of(&head), Base { etag: head.etag.clone(), size: head.size });
        let mut attrs = act.attrs_of_copy(&head);
        let plain = [None, type_of(old), Some("application/octet-stream"), Some("binary/octet-stream")];
        if plain.contains(&attrs.content_type.as_deref()) && attrs.mode().is_some() {
            attrs.content_type = type_of(new).map(str::to_owned);
            attrs.set_time("ctime", self.context.now());
        }
        match remote.copy_with(old, new, &base, &attrs, when).await {
            Ok(copy) => Ok(Some((seen, copy))),
            Err(why) if why.is(Kind::Refused) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// Renames a directory. The caller holds both names.
    async fn rename_dir(
        self: &Arc<Self>,
        from: &NamedKey,
        to: &NamedKey,
        no_replace: bool,
        hold: &Hold,
    ) -> Op<()> {
        let (old, new) = (from.prefix(), to.prefix());
        if !old.ends_with('/') {
            return Err(Errno::PERM.into());
        }
        if new.starts_with(&old) {
            return Err(Errno::INVAL.into());
        }
        let mut kept = Vec::new();
        for (_, file) in self.open_below(&old) {
            kept.push(BytesHeld::of(&file).await?);
        }
        end_before(self, [&old, &new]).await?;
        // What was removed here and could not be deleted would come along.
        self.context.remote.deletes.retry_below(&old).await?;
        // Whatever is known of the new name: another client may have made a directory there, and two must not become one.
        let (empty, marker) = self.emptiness(&new).await?;
        let over = marker.is_some();
        if !empty || over && no_replace {
            self.doubt(&to.stem);
            return Err(if empty { Errno::EXIST.into() } else { Errno::NOTEMPTY.into() });
        }
        let done = move_all(self, &old, &new, over, hold).await;
        self.doubt(&from.stem);
        self.doubt(&to.stem);
        if done.is_ok() {
            self.keep_parent(&from.stem);
        }
        done
    }
}

/// Turns `ESTALE` of a conflict with another client into `EBUSY`. The kernel does a rename once more where it
/// is told `ESTALE`, and would overwrite that client's object. What was looked up too long ago keeps
/// `ESTALE`: the kernel looks it up anew.
fn conflict_is_told(mut failed: Fail) -> Fail {
    if failed.errno == Errno::STALE && failed.why.is_some() {
        failed.errno = Errno::BUSY;
    }
    failed
}

/// Returns what is known of a name's object, if that is all that a copy has to know.
fn seen_of(attributes: &Attributes) -> Option<SeenObject> {
    let modified_ms = attributes.stored.and_then(Ns::ms)?;
    let (etag, size) = (attributes.etag.clone()?, attributes.size);
    Some(SeenObject { etag, size, modified_ms: Some(modified_ms), upload: attributes.upload })
}

fn base_of(attributes: &Attributes) -> Option<Base> {
    Some(Base { etag: attributes.etag.clone()?, size: attributes.size })
}
