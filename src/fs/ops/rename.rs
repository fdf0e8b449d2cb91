//! Renaming: copied server-side, each copy verified, and only then is the old name deleted.
//!
//! Not atomic, as the bucket knows no rename: whoever looks in between sees both. When a copy fails, the old names
//! are all still there and the copies are taken away again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::filesystem::{Fs, fail};
use super::lookup::{NamedKey, Need, Target};
use super::rename_dir::CopiedNode;
use crate::base::Kind;
use crate::fs::object::{Base, Errno, Meta as _, Op, add_upload_token, type_of};
use crate::store::{Etag, When};

impl Fs {
    pub async fn rename(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        no_replace: bool,
    ) -> Op<()> {
        self.writable_in(parent, name)?;
        self.writable_in(new_parent, new_name)?;
        let (from, source) = self.existing(parent, name).await?;
        let to = self.new_place(new_parent, new_name)?;
        let (there, _) = self.target(&to, Need::Presence).await?;
        if no_replace && there.is_some() {
            return Err(Errno::EXIST.into());
        }
        match (&there, source.dir) {
            (Some(t), _) if t.key == source.key => return Ok(()),
            (Some(t), true) if !t.dir => return Err(Errno::NOTDIR.into()),
            (Some(t), false) if t.dir => return Err(Errno::ISDIR.into()),
            _ => {}
        }
        match source.dir {
            true => self.rename_dir(&from, &to, there).await,
            false => self.rename_file(&source, &to, there, no_replace).await,
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
        self.exempt(old).await;
        self.exempt(new).await;
        // What was written goes first; then nothing is sent to the old name until the new one stands.
        let file = self.open_at(old);
        if let Some((_, ino, file)) = &file {
            self.send(*ino, file).await?;
        }
        let held = self.lock_both(old, new).await?;
        if let Some((.., file)) = &file {
            file.refresh_note(&self.context).await?;
        }
        let replaced = self.open_at(new).filter(|_| there.is_some());
        if let Some((.., replaced)) = &replaced {
            self.detach(replaced).await?;
        }
        let last_seen = match &file {
            Some((.., file)) => file.base(),
            None => source.attributes.etag.clone().map(|etag| Base { etag, size: source.attributes.size }),
        };
        let when = if no_replace { When::Absent } else { When::Always };
        let failed = |_: &_| {
            self.doubt(old);
            self.doubt(new);
        };
        let (base, etag) = self.copy_file(old, new, last_seen, &when).await.inspect_err(failed)?;
        let mut attributes = source.attributes.clone();
        (attributes.etag, attributes.size, attributes.stored) = (Some(etag.clone()), base.size, None);
        if let Some(replaced) = self.dropped(new, Some(&attributes)) {
            replaced.discard(&self.context).await;
        }
        if let Some((_, ino, replaced)) = &replaced {
            self.release_unread_fds(*ino, replaced);
        }
        let (base, etag) = self.remove_copied(old, new, (base, etag)).await.inspect_err(failed)?;
        (attributes.etag, attributes.size) = (Some(etag.clone()), base.size);
        {
            let mut inodes = self.inodes.lock();
            let now = self.now();
            self.name_cache.changed(old, now, now + self.options().negative_ttl, |seen| seen.object = None);
            self.name_cache.changed(new, now, self.until(now), |seen| seen.object = Some(attributes.clone()));
            inodes.rename(old, new, false);
            inodes.moved(new, None, &etag, now);
        }
        if let Some((.., file)) = &file {
            self.follows(file).await;
        }
        drop(held);
        self.keep_parent(old);
        Ok(())
    }

    /// Holds two names, in an order that everybody keeps: what is on its way to either arrives first.
    async fn lock_both(self: &Arc<Self>, a: &str, b: &str) -> Op<[Option<OwnedMutexGuard<()>>; 2]> {
        let held = self.lock_name(a.min(b)).await;
        Ok([held, self.lock_name(a.max(b)).await])
    }

    /// Deletes the old name, if it still is what was copied. What another client put there meanwhile is copied too.
    async fn remove_copied(&self, old: &str, new: &str, mut copied: (Base, Etag)) -> Op<(Base, Etag)> {
        const ROUNDS: usize = 5;
        let remote = &self.context.remote;
        for _ in 0..ROUNDS {
            let base = match remote.head(old).await? {
                None => return Ok(copied),
                Some(head) => Base { etag: head.etag, size: head.size },
            };
            if base.etag != copied.0.etag {
                copied = self.copy_file(old, new, Some(base), &When::Matches(copied.1)).await?;
            } else if remote.delete_same(&[(old.to_owned(), base.etag)]).await? {
                return Ok(copied);
            }
        }
        Err(fail(Kind::Refused, format!("{old} changes all the time: it can't be moved now")))
    }

    /// Copies what the source is now: if it isn't what we last saw, it is looked at again.
    async fn copy_file(
        &self,
        old: &str,
        new: &str,
        last_seen: Option<Base>,
        when: &When,
    ) -> Op<(Base, Etag)> {
        let remote = &self.context.remote;
        if type_of(old) != type_of(new) {
            return self.copy_retyped(old, new, when).await;
        }
        if let Some(base) = last_seen {
            match remote.copy(old, new, &base, when).await {
                Ok(etag) => return Ok((base, etag)),
                Err(why) if why.is(Kind::Refused) || why.is(Kind::NotFound) => {}
                Err(why) => return Err(why.into()),
            }
        }
        let head = remote.head(old).await?.ok_or(Errno::NOENT)?;
        let base = Base { etag: head.etag, size: head.size };
        let etag = remote.copy(old, new, &base, when).await?;
        Ok((base, etag))
    }

    /// A name that says another type gives it to the object: `page.html.tmp` becomes `page.html`. A type that its old
    /// name does not say was somebody's own choice, and stays.
    async fn copy_retyped(&self, old: &str, new: &str, when: &When) -> Op<(Base, Etag)> {
        let remote = &self.context.remote;
        let head = remote.head(old).await?.ok_or(Errno::NOENT)?;
        let base = Base { etag: head.etag, size: head.size };
        let mut attrs = head.attrs;
        let plain = [None, type_of(old), Some("application/octet-stream"), Some("binary/octet-stream")];
        if !plain.contains(&attrs.content_type.as_deref()) || attrs.mode().is_none() {
            let etag = remote.copy(old, new, &base, when).await?;
            return Ok((base, etag));
        }
        attrs.content_type = type_of(new).map(str::to_owned);
        attrs.set_time("ctime", self.context.now());
        add_upload_token(&self.context.rt, &mut attrs);
        match remote.copy_with(old, new, &base, &attrs, when).await {
            Ok(etag) => Ok((base, etag)),
            Err(why) if why.is(Kind::Refused) && *when == When::Absent => Err(Errno::EXIST.into()),
            Err(why) => Err(why.into()),
        }
    }

    async fn rename_dir(self: &Arc<Self>, from: &NamedKey, to: &NamedKey, there: Option<Target>) -> Op<()> {
        let (old, new) = (from.prefix(), to.prefix());
        if !old.ends_with('/') {
            return Err(Errno::PERM.into());
        }
        if new.starts_with(&old) {
            return Err(Errno::INVAL.into());
        }
        self.finish_before([&old, &new]).await?;
        let over = match there {
            Some(_) => match self.emptiness(&new).await? {
                (true, marker) => marker,
                (false, _) => return Err(Errno::NOTEMPTY.into()),
            },
            None => false,
        };
        let (mut held, mut names) = (Vec::new(), BTreeSet::new());
        for (ino, file) in self.open_below(&old) {
            let Some(pin) = self.pin(ino, &file) else { continue };
            self.send(ino, &file).await?;
            held.push((file.lock_uploads().await, pin));
            names.insert(file.key());
            file.refresh_note(&self.context).await?;
        }
        let done = self.move_all(&old, &new, names, over).await;
        self.doubt(&from.stem);
        self.doubt(&to.stem);
        {
            let mut inodes = self.inodes.lock();
            self.name_cache.forget_below(&old);
            self.name_cache.forget_below(&new);
            let (nodes, _holds) = done?;
            inodes.rename(&old, &new, true);
            for CopiedNode { key, old: from, new: to } in &nodes {
                inodes.moved(&format!("{new}{}", &key[old.len()..]), Some(from), to, self.now());
            }
        }
        for (_, file) in self.open_below(&new) {
            self.follows(&file).await;
        }
        drop(held);
        self.keep_parent(&from.stem);
        Ok(())
    }

    /// Bytes written during the rename are known by the new name after a crash too.
    async fn follows(&self, file: &crate::fs::file::OpenFile) {
        if let Err(why) = file.refresh_note(&self.context).await {
            tracing::warn!(key = file.key(), %why, "after a crash this would become a conflict copy");
        }
    }
}
