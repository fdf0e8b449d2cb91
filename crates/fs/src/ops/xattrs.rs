//! Extended attributes: what users keep with a file, and what the store says of its object.
//!
//! | name | what |
//! |---|---|
//! | `user.*`, `trusted.*` | kept in the object's metadata as s3fs does; listed, set and removed |
//! | `s3.etag`, `s3.version-id`, `s3.storage-class`, `s3.content-type` | the object as the store has it now; read only, not listed (`cp -a` would try to set them elsewhere) |
//! | `s3.checksum` | the checksums that the store keeps with the object, `ALGORITHM:VALUE`; asked for only by this |
//! | `s3.url` | a link by which anybody can get the object for a day |
//! | `s3.restore` | of an archived object: `archived`, `ongoing`, or until when its copy can be read; set to `DAYS` or `DAYS:TIER` it asks for such a copy |
//!
//! Earlier versions have all of them too, with their own values.

use std::collections::BTreeMap;
use std::time::Duration;

use super::create_remove_setattr::Changes;
use super::filesystem::Fs;
use crate::object::{Attributes, Errno, Fail, Meta as _, Op, Rights};
use crate::tree::{VersionPlace, is_version};
use windlass_base::{Error, Kind, utc};
use windlass_store::{Head, Restore, Restored};

const CHECKSUM: &str = "s3.checksum";
const RESTORE: &str = "s3.restore";
const TOLD: [&str; 7] =
    ["s3.etag", "s3.version-id", "s3.storage-class", "s3.content-type", "s3.url", CHECKSUM, RESTORE];
/// Storage classes whose objects can't be read at once.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
/// Time for which a link is good.
const LINK: Duration = Duration::from_secs(24 * 3600);

impl Fs {
    /// Returns the key of a node's object and, for an earlier version, the version's id. `None`: a directory
    /// that is no object.
    fn object(&self, ino: u64) -> Op<Option<(String, Option<String>)>> {
        if is_version(ino) {
            return Ok(match self.version_place(ino)? {
                VersionPlace::One { key, name } if !name.deleted => Some((key, Some(name.id))),
                _ => None,
            });
        }
        let key = self.inodes.lock().get(ino).map(|n| n.key.clone()).ok_or(Errno::STALE)?;
        Ok((!key.is_empty()).then_some((key, None)))
    }

    /// Returns the value of an attribute by which the store tells of an object.
    async fn of_store(&self, ino: u64, name: &str) -> Op<Vec<u8>> {
        let told = self.inodes.lock().get(ino).and_then(|n| n.last_reply);
        let (key, version) = self.object(ino)?.ok_or(Errno::NODATA)?;
        let (remote, version) = (&self.context.remote, version.as_deref());
        let head = match (version, name == CHECKSUM) {
            (None, false) => remote.head(&key).await?,
            (_, checksums) => remote.head_version(&key, version, checksums).await?,
        };
        let head = head.ok_or(Errno::NODATA)?;
        self.readable_by(ino, told, &key, &head)?;
        let text = match name {
            "s3.etag" => Some(head.etag.0),
            "s3.version-id" => head.version,
            "s3.storage-class" => Some(head.storage_class.unwrap_or_else(|| "STANDARD".to_owned())),
            "s3.content-type" => head.attrs.content_type,
            CHECKSUM => head.checksum,
            RESTORE => restored(&head),
            _ => Some(remote.link(&key, version, LINK).await?),
        };
        Ok(text.ok_or(Errno::NODATA)?.into_bytes())
    }

    /// Has a readable copy made of an archived object.
    async fn restore(&self, ino: u64, value: &[u8]) -> Op<()> {
        let how: Restore = String::from_utf8_lossy(value).trim_matches(['\0', ' ', '\n']).parse()?;
        let Some((key, version)) = self.object(ino)?.filter(|(key, _)| !key.ends_with('/')) else {
            return Err(Errno::ISDIR.into());
        };
        if self.context.remote.restore(&key, version.as_deref(), how).await? {
            tracing::info!(key, version, days = how.days, "a readable copy was asked for");
            return Ok(());
        }
        let why = Error::new(
            Kind::Owned,
            format!("{key} is being restored already: read s3.restore to see when it is"),
        );
        Err(Fail { errno: Errno::ALREADY, why: Some(why) })
    }

    async fn xattrs(&self, ino: u64) -> Op<BTreeMap<String, Vec<u8>>> {
        if is_version(ino) {
            let Some((key, version)) = self.object(ino)? else { return Ok(BTreeMap::new()) };
            let head = self.context.remote.head_version(&key, version.as_deref(), false).await?;
            return Ok(head.map(|h| h.attrs.xattrs()).unwrap_or_default());
        }
        let (key, told, none, file) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            let none = node.attributes.exact && !node.attributes.xattrs && node.until > self.now();
            (
                node.key.clone(),
                node.last_reply,
                none,
                node.file.clone().filter(|f| f.is_dirty() || f.is_local()),
            )
        };
        if let Some(file) = file {
            return Ok(file.attrs().xattrs());
        }
        if none || key.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(head) = self.context.remote.head(&key).await? else { return Ok(BTreeMap::new()) };
        self.readable_by(ino, told, &key, &head)?;
        Ok(head.attrs.xattrs())
    }

    /// Fails with `ESTALE` where the kernel judged by something else than what the object is. `told` is what
    /// the kernel was told before the object was looked at.
    fn readable_by(&self, ino: u64, told: Option<Rights>, key: &str, head: &Head) -> Op<()> {
        if is_version(ino) {
            return Ok(());
        }
        let (dir, ahead) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(ino).ok_or(Errno::STALE)?;
            (node.dir, node.file.as_ref().is_some_and(|f| f.overrides_cache()))
        };
        // Changes of ours are newer than the object; and some stores forget what directories carry.
        if ahead || dir {
            return Ok(());
        }
        self.check_shown_rights(ino, told, key, &Attributes::of_head(self.options(), dir, head))
    }

    pub async fn getxattr(&self, ino: u64, name: &[u8]) -> Op<Vec<u8>> {
        let name = readable(name)?;
        if TOLD.contains(&name) {
            return self.of_store(ino, name).await;
        }
        self.xattrs(ino).await?.remove(name).ok_or_else(|| Errno::NODATA.into())
    }

    pub async fn listxattr(&self, ino: u64) -> Op<Vec<u8>> {
        let mut out = Vec::new();
        for name in self.xattrs(ino).await?.into_keys() {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        }
        Ok(out)
    }

    /// Sets an attribute, or removes it where `value` is `None`. `create` and `replace` are the flags of
    /// setxattr(2).
    pub async fn setxattr(
        &self,
        ino: u64,
        name: &[u8],
        value: Option<&[u8]>,
        create: bool,
        replace: bool,
    ) -> Op<()> {
        self.writable()?;
        if name == RESTORE.as_bytes()
            && let Some(value) = value
        {
            return self.restore(ino, value).await;
        }
        self.writable_at(ino)?;
        let name = writable(name)?;
        let at = self.context.now();
        self.change_attrs(ino, &|attrs, attributes| {
            let mut all = attrs.xattrs();
            match all.contains_key(name) {
                true if create => return Err(Errno::EXIST.into()),
                false if replace || value.is_none() => return Err(Errno::NODATA.into()),
                _ => {}
            }
            match value {
                Some(value) => all.insert(name.to_owned(), value.to_vec()),
                None => all.remove(name),
            };
            Changes::default().apply(attrs, attributes, at);
            attrs.set_xattrs(&all);
            Ok(())
        })
        .await
    }
}

/// Returns the value of `s3.restore`.
fn restored(head: &Head) -> Option<String> {
    let archived = head.storage_class.as_deref().is_some_and(|class| ARCHIVES.contains(&class));
    match head.restored {
        Some(Restored::Underway) => Some("ongoing".into()),
        Some(Restored::Until(ms)) => Some(format!("until {}", utc::show(ms))),
        None => archived.then(|| "archived".into()),
    }
}

/// Checks that a name is one that users set, or one that tells of the object; `EOPNOTSUPP` otherwise. The
/// kernel asks for names of its own at every turn.
pub fn readable(name: &[u8]) -> Op<&str> {
    match std::str::from_utf8(name) {
        Ok(text) if TOLD.contains(&text) => Ok(text),
        _ => writable(name),
    }
}

fn writable(name: &[u8]) -> Op<&str> {
    let text = std::str::from_utf8(name).map_err(|_| Errno::OPNOTSUPP)?;
    if text.starts_with("user.") || text.starts_with("trusted.") {
        Ok(text)
    } else {
        Err(Errno::OPNOTSUPP.into())
    }
}
