//! Listing: folders are read one by one in the keys' order, and only as far as a page reaches.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::Inner;
use super::key::{DISPLACED, Named, folder_of, is_canonical, read_name};
use super::root::open_dir;
use crate::{Etag, List, Listed, Page};
use windlass_base::Result;

/// Something in a folder that keys go through.
#[derive(Debug)]
struct Entry {
    /// The whole key of a file; of a folder what the keys inside begin with, up to and with the slash.
    key: String,
    /// Path relative to the root.
    path: String,
    is_folder: bool,
}

/// A component that is still being put together from long-name folders.
#[derive(Clone, Default)]
struct Begun {
    text: String,
    names: Vec<String>,
}

struct Lister<'a> {
    inner: &'a Inner,
    root: &'a OwnedFd,
    list: &'a List,
    max: usize,
    page: Page,
}

fn below(folder: &str, name: &str) -> String {
    if folder == "." { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Inner {
    pub(super) fn list(&self, list: &List) -> Result<Page> {
        let root = self.root.open()?;
        let max = list.max.clamp(1, 1000);
        let mut lister = Lister { inner: self, root: &root, list, max, page: Page::default() };
        let start = list.prefix.rfind('/').map_or("", |at| &list.prefix[..=at]);
        lister.folder(&folder_of(start), start)?;
        Ok(lister.page)
    }
}

impl Lister<'_> {
    fn failed(&self, e: Errno) -> windlass_base::Error {
        self.inner.root.failed(&format!("listing {:?}", self.list.prefix), e)
    }

    /// Lists what lies in a folder; false when the page is full.
    fn folder(&mut self, path: &str, key: &str) -> Result<bool> {
        for entry in self.entries(path, key)? {
            let go_on = match entry.is_folder {
                false => self.file(&entry)?,
                true if self.is_group(&entry.key) => self.group(&entry)?,
                true => self.folder(&entry.path, &entry.key)?,
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_group(&self, key: &str) -> bool {
        self.list.delimited && key.len() > self.list.prefix.len()
    }

    /// Tells whether another name fits on the page; if not, notes where the next page begins.
    fn has_room(&mut self) -> bool {
        if self.page.objects.len() + self.page.prefixes.len() < self.max {
            return true;
        }
        let last = self.page.objects.last().map(|o| &o.key).max(self.page.prefixes.last());
        self.page.next = last.cloned();
        false
    }

    fn file(&mut self, entry: &Entry) -> Result<bool> {
        let opened = match self.inner.root.open_path(self.root, &entry.path) {
            // Not ours to read, but there: its name is listed.
            Err(Errno::ACCESS | Errno::PERM) => self.unreadable(entry)?,
            Err(e) => return Err(self.failed(e)),
            Ok(None) => None,
            Ok(Some(object)) => {
                let head = self.inner.root.describe(&object, &entry.key)?;
                let (size, modified_ms) = (head.size, head.modified_ms);
                Some(Listed { key: entry.key.clone(), size, etag: head.etag, modified_ms })
            }
        };
        let Some(listed) = opened else { return Ok(true) };
        if !self.has_room() {
            return Ok(false);
        }
        self.page.objects.push(listed);
        Ok(true)
    }

    fn unreadable(&self, entry: &Entry) -> Result<Option<Listed>> {
        let stat = match statat(self.root, entry.path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.failed(e)),
        };
        let etag = format!("unreadable-{:x}-{:x}-{:x}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec);
        Ok(Some(Listed {
            key: entry.key.clone(),
            size: stat.st_size as u64,
            etag: Etag(etag),
            modified_ms: u64::try_from(stat.st_mtime).ok().map(|s| s * 1000),
        }))
    }

    fn group(&mut self, entry: &Entry) -> Result<bool> {
        if !self.has_any(&entry.path, &entry.key)? {
            return Ok(true);
        }
        if !self.has_room() {
            return Ok(false);
        }
        self.page.prefixes.push(entry.key.clone());
        Ok(true)
    }

    /// Tells whether any object lies below a folder: empty folders are not shown.
    fn has_any(&self, path: &str, key: &str) -> Result<bool> {
        let mut folders = Vec::new();
        let no_file = self.gather(path, key, &Begun::default(), &mut |entry| {
            let go_on = entry.is_folder;
            folders.push(entry);
            go_on
        })?;
        if !no_file {
            return Ok(true);
        }
        for folder in folders {
            if self.has_any(&folder.path, &folder.key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn wants(&self, entry: &Entry) -> bool {
        let (key, prefix) = (&entry.key, &self.list.prefix);
        let in_prefix = key.starts_with(prefix) || entry.is_folder && prefix.starts_with(key);
        let after = self.list.after.as_deref().unwrap_or("");
        // Inside a folder that `after` lies in there may be more, unless it is one name as a whole.
        let inside = entry.is_folder && !self.is_group(key) && after.starts_with(key);
        in_prefix && (after < key.as_str() || inside)
    }

    /// Returns the entries of a folder that may belong on this page, in the keys' order.
    fn entries(&self, path: &str, key: &str) -> Result<Vec<Entry>> {
        let mut folders = Vec::new();
        let mut files = Vec::new();
        let limit = self.max + 1;
        let mut keep = |entry: Entry| {
            if !self.wants(&entry) {
                return true;
            }
            if entry.is_folder {
                folders.push(entry);
                return true;
            }
            files.push(entry);
            // No page has more than these; an object and its stale twin aside count twice.
            if files.len() > 16 * limit {
                files.select_nth_unstable_by(2 * limit, |a, b| a.key.cmp(&b.key));
                files.truncate(2 * limit);
            }
            true
        };
        self.gather(path, key, &Begun::default(), &mut keep)?;
        // The plain path is shorter than the one aside: where both are there, it is the object.
        files.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.path.len().cmp(&b.path.len())));
        files.dedup_by(|b, a| a.key == b.key);
        folders.append(&mut files);
        folders.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(folders)
    }

    /// Reads a folder, into long names and what stands aside too, until `keep` says no; then it is false.
    fn gather(&self, path: &str, key: &str, begun: &Begun, keep: Keep<'_>) -> Result<bool> {
        self.each_name(path, &mut |name, kind| {
            let at = below(path, name);
            let is_folder = kind == FileType::Directory;
            if name == DISPLACED && is_folder {
                return self.each_name(&at, &mut |name, kind| {
                    let is_file = kind == FileType::RegularFile;
                    Ok(!is_file || keep_named(begun, key, name, below(&at, name), false, keep))
                });
            }
            if is_folder && let Some(Named::Start(text)) = read_name(name) {
                let mut longer = begun.clone();
                longer.text.push_str(&text);
                longer.names.push(name.to_owned());
                return self.gather(&at, key, &longer, keep);
            }
            let is_ours = is_folder || kind == FileType::RegularFile;
            Ok(!is_ours || keep_named(begun, key, name, at, is_folder, keep))
        })
    }

    /// Reads a folder's names until `take` says no; then it is false.
    fn each_name(&self, path: &str, take: &mut dyn FnMut(&str, FileType) -> Result<bool>) -> Result<bool> {
        let dir = match open_dir(self.root, path).and_then(Dir::new) {
            Ok(dir) => dir,
            // Removed meanwhile, or never there: nothing to list.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(true),
            Err(e) => return Err(self.failed(e)),
        };
        for entry in dir {
            let entry = entry.map_err(|e| self.failed(e))?;
            // A name that isn't UTF-8 is no key.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let full = below(path, name);
                match statat(self.root, full.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(self.failed(e)),
                }
            }
            if !take(name, kind)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes an entry; false when that was enough.
type Keep<'a> = &'a mut dyn FnMut(Entry) -> bool;

fn keep_named(begun: &Begun, key: &str, name: &str, path: String, is_folder: bool, keep: Keep<'_>) -> bool {
    let Some(Named::Component(text)) = read_name(name) else { return true };
    let whole = format!("{}{text}", begun.text);
    let mut names = begun.names.clone();
    names.push(name.to_owned());
    // A name made by hand that only looks like one of ours: no key leads to it.
    if !is_canonical(&whole, &names) {
        return true;
    }
    let slash = if is_folder { "/" } else { "" };
    keep(Entry { key: format!("{key}{whole}{slash}"), path, is_folder })
}
