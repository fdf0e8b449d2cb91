//! The metadata of objects, as they are changed in the bucket; and what directories can have of their own.
//!
//! A directory's mode, owner, times and xattrs are metadata of an object whose key ends with a slash, and some servers
//! (SeaweedFS) drop these without a word. The first directory that is to have any shows what this store does. Where it
//! keeps none, a directory shows the mount's defaults from its first moment, and what can't be kept is refused.

use bytes::Bytes;

use super::filesystem::{Fs, fail};
use crate::file::OpenFile;
use crate::object::{Attributes, Base, Meta as _, Ns, Op, add_upload_token};
use windlass_base::{Kind, Result};
use windlass_store::{Attrs, Head, When};

/// Content type that s3fs and the S3 console give to a directory's marker.
pub(super) const DIRECTORY_TYPE: &str = "application/x-directory";
/// S3's limit on an object's metadata, in bytes. What goes beyond is refused here, in a message that names
/// the object.
const META_MAX: usize = 2048;

/// A change to an object's metadata, given what the object shows now.
pub(super) type Change<'a> = &'a (dyn Fn(&mut Attrs, Attributes) -> Op<()> + Send + Sync);

impl Fs {
    fn marker(&self, attrs: &Attrs) -> Attributes {
        Attributes::of(self.options(), true, 0, None, Ns(0), attrs)
    }

    /// Tells whether a marker that was just put has kept its metadata; `None`: the marker is gone.
    async fn keeps_marker(&self, key: &str) -> Result<Option<bool>> {
        let remote = &self.context.remote;
        if let Some(keeps) = remote.keeps_markers() {
            return Ok(Some(keeps));
        }
        let Some(head) = remote.head(key).await? else { return Ok(None) };
        let keeps = !head.attrs.user.is_empty();
        remote.learn_markers(keeps);
        if !keeps {
            tracing::warn!(
                url = remote.url(),
                "the store keeps no metadata of directories: all show the mount's dir_mode, uid and gid, and chmod, chown \
                 and setfattr of a directory are refused"
            );
        }
        Ok(Some(keeps))
    }

    /// Returns what a new directory's marker shows of the metadata that it was put with.
    pub(super) async fn kept_of_marker(&self, key: &str, attrs: Attrs) -> Result<Attrs> {
        let is_plain = self.marker(&attrs).rights() == self.default_attributes(true).rights();
        let keeps = match self.context.remote.keeps_markers() {
            None if is_plain => Some(true),
            _ => self.keeps_marker(key).await?,
        };
        Ok(if keeps == Some(false) { Attrs::default() } else { attrs })
    }

    /// Changes what a directory carries. `None`: the store keeps none of it, and nothing changed that
    /// matters, as a time, which is then said to be set.
    pub(super) async fn change_directory(
        &self,
        key: &str,
        head: Option<&Head>,
        change: Change<'_>,
    ) -> Op<Option<(Base, Attrs, Ns)>> {
        let is = match head {
            Some(head) => Attributes::of_head(self.options(), true, head),
            None => self.default_attributes(true),
        };
        let mut new = head.map_or_else(Attrs::default, |head| head.attrs.clone());
        changed(&mut new, is.clone(), change)?;
        if self.is_lost(key, &is, &new, false).await? {
            return Ok(None);
        }
        let changed = match head {
            Some(head) => self.change_object(key, None, true, head, change).await?,
            None => self.change_implied(key, change).await?,
        };
        Ok(if self.is_lost(key, &is, &changed.1, true).await? { None } else { Some(changed) })
    }

    /// Tells whether a directory's metadata, which were or are to be put as `new`, are kept nowhere. Fails
    /// with `Unsupported` for what a program must not take for set.
    async fn is_lost(&self, key: &str, is: &Attributes, new: &Attrs, was_put: bool) -> Op<bool> {
        let keeps = match was_put {
            true => self.keeps_marker(key).await?,
            false => self.context.remote.keeps_markers(),
        };
        if keeps != Some(false) {
            return Ok(false);
        }
        if self.marker(new).rights() == is.rights() && new.xattrs().is_empty() {
            return Ok(true);
        }
        let url = self.context.remote.url();
        let why = format!(
            "{key}: {url} keeps no metadata of directories: they have the mode and owner of the mount's dir_mode, uid and gid"
        );
        Err(fail(Kind::Unsupported, why))
    }

    /// Gives the object the metadata that a change makes of its own.
    pub(super) async fn change_object(
        &self,
        key: &str,
        file: Option<&OpenFile>,
        dir: bool,
        head: &Head,
        change: Change<'_>,
    ) -> Op<(Base, Attrs, Ns)> {
        let base = Base { etag: head.etag.clone(), size: head.size };
        let mut attrs = head.attrs.clone();
        changed(&mut attrs, Attributes::of_head(self.options(), dir, head), change)?;
        add_upload_token(&self.context.rt, &mut attrs);
        check_size(key, &attrs)?;
        if let Some(file) = file {
            // Should the answer be lost, it is known by this.
            file.remember_upload(&attrs, &base);
        }
        let etag = self.context.remote.put_attrs(key, &base, &attrs).await?;
        Ok((Base { etag, size: base.size }, attrs, Ns::of_store(head.modified_ms)))
    }

    /// Gives a directory without a marker one to carry its metadata.
    pub(super) async fn change_implied(&self, key: &str, change: Change<'_>) -> Op<(Base, Attrs, Ns)> {
        let now = self.context.now();
        let mut attrs = Attrs { content_type: Some(DIRECTORY_TYPE.into()), ..Attrs::default() };
        changed(&mut attrs, self.default_attributes(true), change)?;
        attrs.set_time("ctime", now);
        if attrs.time("mtime").is_none() {
            attrs.set_time("mtime", now);
        }
        add_upload_token(&self.context.rt, &mut attrs);
        check_size(key, &attrs)?;
        let etag = self.context.remote.put(key, Bytes::new(), &attrs, &When::Absent).await?;
        Ok((Base { etag, size: 0 }, attrs, now))
    }
}

/// Changes an object's metadata, which say all that the object shows from then on. Others take a lacking mode
/// or owner for 0, and a change gives the object another time.
pub(super) fn changed(attrs: &mut Attrs, is: Attributes, change: Change<'_>) -> Op<()> {
    change(attrs, is.clone())?;
    if attrs.mode().is_none() {
        attrs.set_mode(is.mode);
    }
    for (which, id) in [("uid", is.uid), ("gid", is.gid)] {
        if attrs.id(which).is_none() {
            attrs.set_id(which, id);
        }
    }
    for (which, at) in [("mtime", is.mtime), ("atime", is.atime)] {
        if attrs.time(which).is_none() {
            attrs.set_time(which, at);
        }
    }
    Ok(())
}

pub(super) fn check_size(key: &str, attrs: &Attrs) -> Op<()> {
    let bytes: usize = attrs.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > META_MAX {
        return Err(fail(
            Kind::NoSpace,
            format!("{key} would have {bytes} bytes of metadata: objects hold {META_MAX}"),
        ));
    }
    Ok(())
}
