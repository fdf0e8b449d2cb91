//! The table of what the kernel knows of us: one node a file or directory, found by number and by key.
//!
//! A node lives while the kernel counts lookups of it or a handle is open; its number is drawn from its key's hash,
//! so that it stays the same over remounts. Names are not kept here: a node is its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::file::OpenFile;
use crate::object::{Attributes, Rights};
use windlass_base::FastMap;
use windlass_base::rt::Instant;
use windlass_store::Etag;

pub const ROOT: u64 = 1;

/// A file or directory that the kernel or a handle refers to.
#[derive(Debug, Default)]
pub struct Node {
    pub ino: u64,
    /// Key of the object, or prefix of the directory (empty, or with a slash at its end unless it is a
    /// piece).
    pub key: String,
    pub dir: bool,
    /// True for an object whose name a directory has: only the object's other name leads to it.
    pub beside: bool,
    /// True once the node was removed here: no name leads to it any more.
    pub gone: bool,
    /// Time until which a directory stays visible here though nothing in the bucket shows it any more.
    pub visible_until: Instant,
    lookups: u64,
    opens: u64,
    pub attributes: Attributes,
    /// Time until which `attributes` are believed.
    pub until: Instant,
    /// Rights that the kernel was told last, and by which it judges.
    pub last_reply: Option<Rights>,
    /// The size by which the kernel goes: it was told this size, or has written so much.
    pub known_size: Option<u64>,
    /// Time at which an open was last sent back so that the kernel asks for the size.
    pub size_doubted: Option<Instant>,
    /// Number of times that the kernel was told of rights which another client had set.
    pub learned: u64,
    /// The open file, shared by all its handles; `None` while there is no handle.
    pub file: Option<Arc<OpenFile>>,
    /// Etag of the object whose pages the kernel may hold.
    pub cached: Option<Etag>,
    /// Target of a symbolic link, and the etag of the object that said so.
    pub leads_to: Option<(Etag, Bytes)>,
    /// Held by whoever changes the object at this name: a send, a rename, a removal, a change of metadata. An
    /// open file holds the same lock as `OpenFile::sending`.
    pub changing: Arc<tokio::sync::Mutex<()>>,
}

type NodeKey = (String, bool);

/// The table of nodes, by number and by key.
#[derive(Debug, Default)]
pub struct Inodes {
    by_ino: FastMap<u64, Node>,
    by_key: BTreeMap<NodeKey, u64>,
}

impl Inodes {
    pub fn new(root: Attributes) -> Inodes {
        let mut table = Inodes::default();
        table.insert(ROOT, String::new(), true, root, Instant::default());
        table
    }

    fn insert(&mut self, ino: u64, key: String, dir: bool, attributes: Attributes, until: Instant) {
        let place = (key.clone(), dir);
        let node = Node { ino, key, dir, attributes, until, ..Node::default() };
        self.by_ino.insert(ino, node);
        self.by_key.insert(place, ino);
    }

    pub fn get(&self, ino: u64) -> Option<&Node> {
        self.by_ino.get(&ino)
    }

    pub fn get_mut(&mut self, ino: u64) -> Option<&mut Node> {
        self.by_ino.get_mut(&ino)
    }

    pub fn at(&self, key: &str, dir: bool) -> Option<&Node> {
        self.by_ino.get(self.by_key.get(&(key.to_owned(), dir))?)
    }

    pub fn at_mut(&mut self, key: &str, dir: bool) -> Option<&mut Node> {
        self.by_ino.get_mut(self.by_key.get(&(key.to_owned(), dir))?)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_ino.len()
    }

    /// Finds the node, or makes one whose attributes are not believed.
    pub fn meet(&mut self, key: &str, dir: bool, attributes: &Attributes) -> &mut Node {
        let place = (key.to_owned(), dir);
        let ino = match self.by_key.get(&place) {
            Some(ino) => *ino,
            None => {
                let ino = self.free_number(key, dir);
                self.insert(ino, place.0, dir, attributes.clone(), Instant::default());
                ino
            }
        };
        self.by_ino.get_mut(&ino).expect("each place's node is in the table")
    }

    /// Finds or makes the node, and gives it these attributes unless later ones are known. The caller knows
    /// that nothing was changed here since they were asked for.
    pub fn learn(&mut self, key: &str, dir: bool, attributes: Attributes, until: Instant) -> &mut Node {
        let node = self.meet(key, dir, &attributes);
        if node.attributes.outlives(&attributes) {
            // A listing says nothing of a directory's metadata: what is known of it grows no younger.
            if !dir {
                node.attributes.stored = attributes.stored;
                node.until = node.until.max(until);
            }
        } else if until >= node.until {
            node.until = until;
            node.attributes = attributes;
        }
        node
    }

    fn free_number(&self, key: &str, dir: bool) -> u64 {
        let mut ino = xxh3_64(key.as_bytes()).rotate_left(u32::from(dir)) & (u64::MAX >> 1);
        while ino <= ROOT || self.by_ino.contains_key(&ino) {
            ino = (ino + 1) & (u64::MAX >> 1);
        }
        ino
    }

    /// Counts that the kernel was told of the node once more.
    pub fn looked_up(&mut self, ino: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    pub fn forget(&mut self, ino: u64, times: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(times);
        }
        self.tidy(ino);
    }

    pub fn opened(&mut self, ino: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.opens += 1;
        }
    }

    pub fn closed(&mut self, ino: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.tidy(ino);
    }

    pub fn opens(&self, ino: u64) -> u64 {
        self.by_ino.get(&ino).map_or(0, |n| n.opens)
    }

    fn tidy(&mut self, ino: u64) {
        if ino == ROOT
            || self.by_ino.get(&ino).is_none_or(|n| n.lookups > 0 || n.opens > 0 || n.file.is_some())
        {
            return;
        }
        if let Some(node) = self.by_ino.remove(&ino)
            && !node.gone
        {
            let had = self.by_key.remove(&(node.key, node.dir));
            debug_assert_eq!(had, Some(ino), "a place is its node's");
        }
    }

    /// Takes the node's name away: no name leads to it any more. Handles go on.
    pub fn remove(&mut self, key: &str, dir: bool) {
        if let Some(ino) = self.by_key.remove(&(key.to_owned(), dir)) {
            let node = self.by_ino.get_mut(&ino).expect("each place's node is in the table");
            node.gone = true;
            node.visible_until = Instant::default();
            self.tidy(ino);
        }
    }

    /// Gives a node another key; of a directory, all nodes below it too. A node that was at the new place is
    /// removed.
    pub fn rename(&mut self, from: &str, to: &str, dir: bool) {
        self.remove(to, dir);
        let moved: Vec<u64> = if dir {
            self.below(from).collect()
        } else {
            self.by_key.get(&(from.to_owned(), false)).copied().into_iter().collect()
        };
        for ino in moved {
            let node = self.by_ino.get_mut(&ino).expect("each place's node is in the table");
            self.by_key.remove(&(node.key.clone(), node.dir));
            node.key = format!("{to}{}", &node.key[from.len()..]);
            if let Some(file) = &node.file {
                file.set_key(&node.key);
            }
            let place = (node.key.clone(), node.dir);
            // What another client removed there may still be known.
            self.remove(&place.0, place.1);
            self.by_key.insert(place, ino);
        }
    }

    /// Records that the object at `key` is the copy of the one whose etag `was` recognizes. What the node
    /// knows of that object holds for the copy, which has the same bytes and this etag.
    pub fn moved(&mut self, key: &str, was: impl Fn(&Etag) -> bool, etag: &Etag, now: Instant) {
        if let Some(node) = self.at_mut(key, false) {
            node.cached = node.cached.take().filter(|cached| was(cached)).map(|_| etag.clone());
            if node.attributes.etag.as_ref().is_some_and(&was) {
                (node.attributes.etag, node.attributes.stored) = (Some(etag.clone()), None);
            }
            if let Some(file) = node.file.as_ref().filter(|f| f.base().is_some_and(|base| was(&base.etag))) {
                file.moved(etag, now);
            }
        }
    }

    /// Returns all nodes whose key begins with `prefix`, the directory itself too.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = u64> + 'a {
        self.by_key
            .range((prefix.to_owned(), false)..)
            .take_while(move |((key, _), _)| key.starts_with(prefix))
            .map(|(_, ino)| *ino)
    }

    /// Returns the directories in `prefix` that only this mount still shows, by their component.
    pub fn kept_in(&self, prefix: &str, now: Instant) -> Vec<String> {
        let visible_until = self
            .below(prefix)
            .filter_map(|ino| self.by_ino.get(&ino))
            .filter(|n| n.visible_until > now && n.dir);
        let names = visible_until.filter_map(|n| n.key[prefix.len()..].strip_suffix('/'));
        names.filter(|c| !c.contains('/')).map(str::to_owned).collect()
    }

    /// Returns the files below `prefix` that exist here only: opened, written, not sent yet.
    pub fn local_below(&self, prefix: &str) -> Vec<(String, Arc<OpenFile>)> {
        let open = self.below(prefix).filter_map(|ino| self.by_ino.get(&ino));
        open.filter_map(|n| n.file.clone().map(|f| (n.key.clone(), f)))
            .filter(|(_, f)| f.is_local())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{MountOptions, Ns};

    #[test]
    fn nodes_live_as_long_as_they_are_known() {
        let options = MountOptions::default();
        let attributes = |dir| Attributes::listed(&options, dir, 1, None, Ns(0));
        let mut table = Inodes::new(attributes(true));
        let a = table.learn("d/a", false, attributes(false), Instant::default()).ino;
        table.looked_up(a);
        table.looked_up(a);
        let d = table.learn("d/", true, attributes(true), Instant::default()).ino;
        table.looked_up(d);
        table.rename("d/", "e/", true);
        assert!(table.at("d/a", false).is_none());
        assert_eq!(table.at("e/a", false).unwrap().ino, a);
        // A new file at the old key gets another number while the old one lives.
        let new = table.learn("d/a", false, attributes(false), Instant::default()).ino;
        assert_ne!(new, a);
        table.forget(new, 0);
        table.remove("e/a", false);
        assert!(table.get(a).unwrap().gone);
        table.forget(a, 2);
        assert!(table.get(a).is_none());
        table.forget(d, 1);
        assert_eq!(table.len(), 1);
    }
}
